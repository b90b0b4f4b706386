"""Which commands does a submit description know, and what becomes of each?

`ALIASES`: the commands that say something about a job, with every spelling HTCondor takes. `NO_EFFECT`: those
that are accepted with a warning. `REFUSED`: those that ask for what is not there, so that going on would run
something else than was meant. Everything else is a variable.
"""

ALIASES: dict[str, tuple[str, ...]] = {
    "universe": ("universe", "jobuniverse"),
    "executable": ("executable", "cmd"),
    "transfer_executable": ("transfer_executable", "transferexecutable"),
    "arguments": ("arguments", "arguments2", "args"),
    "environment": ("environment", "environment2", "env"),
    "getenv": ("getenv", "get_env"),
    "input": ("input", "stdin", "in"),
    "output": ("output", "stdout", "out"),
    "error": ("error", "stderr", "err"),
    "log": ("log", "userlog"),
    "initialdir": ("initialdir", "initial_dir", "job_iwd", "iwd"),
    "should_transfer_files": ("should_transfer_files", "shouldtransferfiles"),
    "when_to_transfer_output": ("when_to_transfer_output", "whentotransferoutput"),
    "transfer_input_files": ("transfer_input_files", "transferinputfiles"),
    "transfer_output_files": ("transfer_output_files", "transferoutputfiles"),
    "transfer_output_remaps": ("transfer_output_remaps", "transferoutputremaps"),
    "request_cpus": ("request_cpus", "requestcpus", "request_cpu"),
    "request_memory": ("request_memory", "requestmemory"),
    "request_disk": ("request_disk", "requestdisk"),
    "request_gpus": ("request_gpus", "requestgpus", "request_gpu"),
    "requirements": ("requirements",),
    "priority": ("priority", "prio", "jobprio"),
    "max_retries": ("max_retries", "maxretries"),
    "success_exit_code": ("success_exit_code",),
    "hold": ("hold",),
    "notification": ("notification",),
    "job_batch_name": ("job_batch_name", "batch_name", "jobbatchname"),
    "accounting_group_user": ("accounting_group_user", "acctgroupuser"),
    "allowed_job_duration": ("allowed_job_duration", "allowedjobduration"),
    "allowed_execute_duration": ("allowed_execute_duration", "allowedexecuteduration"),
    "x509userproxy": ("x509userproxy",),
}

NO_EFFECT = frozenset({
    "accounting_group", "allow_startup_script", "append_files", "batch_extra_submit_args", "batch_project",
    "batch_queue", "batch_runtime", "buffer_block_size", "buffer_files", "buffer_size", "compress_files",
    "concurrency_limits", "concurrency_limits_expr", "copy_to_spool", "coresize", "cron_day_of_month",
    "cron_day_of_week", "cron_hour", "cron_minute", "cron_month", "cron_prep_time", "cron_window",
    "dagman_log",
    "deferral_prep_time", "deferral_time", "deferral_window", "description", "email_attributes",
    "encrypt_execute_directory", "encrypt_input_files", "encrypt_output_files", "dont_encrypt_input_files",
    "dont_encrypt_output_files", "erase_output_and_error_on_restart", "hold_kill_sig", "image_size",
    "job_ad_information_attrs", "job_lease_duration", "job_machine_attrs", "job_max_vacate_time",
    "keep_claim_idle", "kill_sig", "kill_sig_timeout", "leave_in_queue", "load_profile", "local_files",
    "log_xml", "match_list_length", "max_idle", "max_job_retirement_time", "max_materialize",
    "max_transfer_input_mb", "max_transfer_output_mb", "next_job_start_delay", "nice_user", "notify_user",
    "on_exit_hold", "on_exit_hold_reason", "on_exit_hold_subcode", "on_exit_remove", "output_destination",
    "periodic_hold", "periodic_hold_reason", "periodic_hold_subcode", "periodic_release", "periodic_remove",
    "periodic_vacate", "preserve_relative_paths", "rank", "preferences", "remove_kill_sig", "rendezvousdir",
    "retry_until", "run_as_owner", "skip_filechecks", "stack_size", "stream_error", "stream_input",
    "stream_output", "submit_event_notes", "tool_daemon_args", "tool_daemon_cmd",
    "transfer_error", "transfer_input", "transfer_output", "use_x509userproxy",
    "want_graceful_removal", "want_remote_io", "fetch_files", "job_max_time", "cuda_version", "batch_id_file",
})  # fmt: skip

REFUSED = frozenset({
    "container_image", "docker_image", "grid_resource", "java_vm_args", "jar_files", "machine_count",
    "noop_job", "remote_initialdir", "transfer_plugins", "vm_type", "vm_disk", "vm_memory",
})  # fmt: skip

KNOWN = frozenset({name for names in ALIASES.values() for name in names}) | NO_EFFECT | REFUSED
