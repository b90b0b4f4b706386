"""Is every key of contract 6.1 and 6.2 read, with its type and its default?"""

import dataclasses

import pytest

from cloudsched.classic import server_conf
from cloudsched.classic.problem import ClassicConfigError
from cloudsched.classic.server_conf import parse_server_conf, read_server_conf, read_status_conf

GLOBAL = {  # key: (text in a file, field, value read, default)
    "cloud_resource_config": ("/c", "cloud_resource_config", "/c", None),
    "info_server_port": ("9111", "info_server_port", 9111, 8111),
    "admin_server_port": ("9112", "admin_server_port", 9112, 8112),
    "persistence_file": ("/p", "persistence_file", "/p", "/var/lib/cloudscheduler.persistence"),
    "user_limit_file": ("/u", "user_limit_file", "/u", None),
    "target_cloud_alias_file": ("/a", "target_cloud_alias_file", "/a", None),
    "scheduler_interval": ("7", "scheduler_interval", 7, 5),
    "cleanup_interval": ("7", "cleanup_interval", 7, 5),
    "vm_poller_interval": ("7", "vm_poller_interval", 7, 5),
    "job_poller_interval": ("7", "job_poller_interval", 7, 5),
    "machine_poller_interval": ("7", "machine_poller_interval", 7, 5),
    "scheduling_algorithm": ("FIFO", "scheduling_algorithm", "fifo", "fairshare"),
    "scheduling_metric": ("memory_cpu", "scheduling_metric", "memory_cpu", "slot"),
    "job_distribution_type": ("split", "job_distribution_type", "split", "normal"),
    "cpu_distribution_weight": ("0.5", "cpu_distribution_weight", 0.5, 1.0),
    "memory_distribution_weight": ("0.5", "memory_distribution_weight", 0.5, 1.0),
    "storage_distribution_weight": ("2", "storage_distribution_weight", 2.0, 1.0),
    "high_priority_job_support": ("yes", "high_priority_job_support", True, False),
    "high_priority_job_weight": ("3", "high_priority_job_weight", 3, 1),
    "graceful_shutdown": ("off", "graceful_shutdown", False, True),
    "graceful_shutdown_method": ("hold", "graceful_shutdown_method", "hold", "off"),
    "max_starting_vm": ("4", "max_starting_vm", 4, -1),
    "max_destroy_threads": ("4", "max_destroy_threads", 4, 10),
    "max_keepalive": ("2", "max_keepalive_s", 120, 3600),
    "vm_start_running_timeout": ("60", "vm_start_running_timeout", 60, -1),
    "condor_register_time_limit": ("1", "condor_register_time_limit_s", 60, 900),
    "polling_error_threshold": ("10", "polling_error_threshold", 10, 5),
    "vm_idle_threshold": ("1", "vm_idle_threshold", 1, 300),
    "clean_shutdown_idle": ("1", "clean_shutdown_idle", True, False),
    "cleanup_missing_vms": ("On", "cleanup_missing_vms", True, False),
    "retire_missing_vms": ("true", "retire_missing_vms", True, False),
    "retire_before_lifetime": ("true", "retire_before_lifetime", True, False),
    "retire_before_lifetime_factor": ("2.5", "retire_before_lifetime_factor", 2.5, 1.5),
    "retire_reallocate": ("0", "retire_reallocate", False, True),
    "adjust_insufficient_resources": ("true", "adjust_insufficient_resources", True, False),
    "vm_connection_fail_threshold": ("1800", "vm_connection_fail_threshold", 1800, 3600),
    "connection_fail_disable_time": ("1", "connection_fail_disable_time", 1, 7200),
    "job_ban_timeout": ("5", "job_ban_timeout_s", 300, 3600),
    "ban_tracking": ("true", "ban_tracking", True, False),
    "ban_file": ("/b", "ban_file", "/b", "/var/run/cloudscheduler.banned"),
    "ban_min_track": ("9", "ban_min_track", 9, 5),
    "ban_failrate_threshold": ("0.25", "ban_failrate_threshold", 0.25, 1.0),
    "vm_reqs_from_condor_reqs": ("true", "vm_reqs_from_condor_reqs", True, False),
    "override_vmtype": ("true", "override_vmtype", True, False),
    "job_proxy_refresher_interval": ("60", "job_proxy_refresher_interval", 60, -1),
    "vm_proxy_refresher_interval": ("60", "vm_proxy_refresher_interval", 60, -1),
    "job_proxy_renewal_threshold": ("1", "job_proxy_renewal_threshold", 1, 900),
    "vm_proxy_renewal_threshold": ("1", "vm_proxy_renewal_threshold", 1, 3600),
    "vm_proxy_shutdown_threshold": ("1", "vm_proxy_shutdown_threshold", 1, 1800),
    "myproxy_logon_command": ("m -v", "myproxy_logon_command", "m -v", "myproxy-logon"),
    "proxy_cache_dir": ("/x", "proxy_cache_dir", "/x", None),
    "openssl_path": ("/o", "openssl_path", "/o", "/usr/bin/openssl"),
    "use_pyopenssl": ("true", "use_pyopenssl", True, False),
    "condor_retrieval_method": ("local", "condor_retrieval_method", "local", "local"),
    "condor_q_command": ("q -allusers -l", "condor_q_command", "q -allusers -l", "condor_q -l"),
    "condor_status_command": ("s", "condor_status_command", "s", "condor_status -l"),
    "condor_status_master_command": ("s", "condor_status_master_command", "s", "condor_status -master -l"),
    "condor_hold_command": ("h", "condor_hold_command", "h", "condor_hold"),
    "condor_release_command": ("r", "condor_release_command", "r", "condor_release"),
    "condor_off_command": ("/off", "condor_off_command", "/off", "/usr/sbin/condor_off"),
    "condor_on_command": ("/on", "condor_on_command", "/on", "/usr/sbin/condor_on"),
    "condor_advertise_command": ("/adv", "condor_advertise_command", "/adv", "/usr/sbin/condor_advertise"),
    "condor_webservice_url": ("http://p:8080", "condor_webservice_url", "http://p:8080", "http://localhost:8080"),
    "condor_collector_url": ("http://p:9618", "condor_collector_url", "http://p:9618", "http://localhost:9618"),
    "condor_host_on_vm": ("p", "condor_host_on_vm", "p", ""),
    "condor_context_file": ("/ctx", "condor_context_file", "/ctx", "/etc/condor/central_manager"),
    "cloudscheduler_ssh_key": ("/k", "cloudscheduler_ssh_key", "/k", None),
    "ssh_path": ("/ssh", "ssh_path", "/ssh", "/usr/bin/ssh"),
    "cert_file": ("/a, /b", "cert_file", ("/a", "/b"), ()),
    "key_file": ("/a", "key_file", ("/a",), ()),
    "cert_file_on_vm": ("/a,/b,", "cert_file_on_vm", ("/a", "/b"), ()),
    "key_file_on_vm": ("/a", "key_file_on_vm", ("/a",), ()),
    "ca_root_certs": ("/a", "ca_root_certs", ("/a",), ()),
    "ca_signing_policies": ("/a", "ca_signing_policies", ("/a",), ()),
    "use_cloud_init": ("no", "use_cloud_init", False, True),
    "default_yaml": ("/y", "default_yaml", "/y", "/usr/local/share/cloud-scheduler/default.yaml"),
    "validate_yaml": ("yes", "validate_yaml", True, False),
    "vm_lifetime": ("60", "vm_lifetime_s", 3600, 604800),
    "getclouds": ("yes", "getclouds", True, False),
    "monitor_url": ("http://m/", "monitor_url", "http://m/", None),
}
JOB = {
    "default_VMType": ("canfar", "default_vm_type", "canfar", "default"),
    "default_VMNetwork": ("private", "default_vm_network", "private", ""),
    "default_VMName": ("img", "default_vm_name", "img", "Default-Image"),
    "default_VMAMI": ("ami-1", "default_vm_ami", "ami-1", ""),
    "default_VMMem": ("1024", "default_vm_mem", 1024, 512),
    "default_VMCPUCores": ("2", "default_vm_cpu_cores", 2, 1),
    "default_VMStorage": ("1", "default_vm_storage", 1, 0),
    "default_VMInstanceType": ("m1.big", "default_vm_instance_type", "m1.big", ""),
    "default_VMInstanceTypeList": ("a:b, c:d", "default_vm_instance_type_list", "a:b, c:d", ""),
    "default_VMMaximumPrice": ("0.5", "default_vm_maximum_price", 0.5, 0.0),
    "default_VMProxyNonBoot": ("true", "default_vm_proxy_non_boot", True, False),
    "default_VMUserData": ("/a, /b", "default_vm_user_data", ("/a", "/b"), ()),
    "default_TargetClouds": ("alpha,beta", "default_target_clouds", ("alpha", "beta"), ()),
    "default_VMAMIConfig": ("/cfg", "default_vm_ami_config", "/cfg", ""),
    "default_VMInjectCA": ("false", "default_vm_inject_ca", False, True),
    "default_VMJobPerCore": ("true", "default_vm_job_per_core", True, False),
}
LOGGING = {
    "log_level": ("debug", "log_level", "DEBUG", "INFO"),
    "log_format": ("%(message)s", "log_format", "%(message)s",
                   "%(asctime)s - %(levelname)s - %(threadName)s - %(message)s"),
    "log_location": ("/l", "log_location", "/l", None),
    "log_location_cloud_admin": ("/l2", "log_location_cloud_admin", "/l2", None),
    "admin_log_comments": ("true", "admin_log_comments", True, False),
    "log_stdout": ("true", "log_stdout", True, False),
    "log_syslog": ("true", "log_syslog", True, False),
    "log_max_size": ("1024", "log_max_size", 1024, None),
}
SECTIONS = [("global", "general", GLOBAL), ("job", "job", JOB), ("logging", "logging", LOGGING)]
ROWS = [(section, part, key, row) for section, part, rows in SECTIONS for key, row in rows.items()]


def written(tmp_path, text, name="cloud_scheduler.conf"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(("section", "part", "key", "row"), ROWS)
def test_key(tmp_path, section, part, key, row):
    text, field, value, default = row
    conf = parse_server_conf(written(tmp_path, f"[{section}]\n{key}: {text}\n"))
    assert getattr(getattr(conf, part), field) == value
    assert conf.given == {(section, field)}
    assert conf.notes == ()
    assert getattr(getattr(server_conf.ServerConf(), part), field) == default


def test_the_table_above_is_complete():
    for _, part, rows in SECTIONS:
        fields = {item.name for item in dataclasses.fields(getattr(server_conf.ServerConf(), part))}
        assert fields == {row[1] for row in rows.values()}


@pytest.mark.parametrize(("line", "sentence"), [
    ("info_server_port: eighty", "Configuration file problem: info_server_port must be an integer value."),
    ("info_server_port:", "Configuration file problem: info_server_port must be an integer value."),
    ("max_keepalive: 1.5", "Configuration file problem: max_keepalive must be an integer value."),
    ("info_server_port: 99999",
     "Configuration file problem: info_server_port must be an integer value of at most 65535."),
    ("scheduler_interval: -3",
     "Configuration file problem: scheduler_interval must be an integer value of at least 0."),
    ("cpu_distribution_weight: heavy",
     "Configuration file problem: cpu_distribution_weight must be a floating point value."),
    ("ban_failrate_threshold: nan",
     "Configuration file problem: ban_failrate_threshold must be a floating point value."),
    ("graceful_shutdown: maybe", "Configuration file problem: graceful_shutdown must be a Boolean value"
                                 " (yes, no, true, false, on, off, 1 or 0)."),
])
def test_wrong_types_say_the_sentence_and_the_place(tmp_path, line, sentence):
    path = written(tmp_path, f"[global]\n{line}\n")
    with pytest.raises(ClassicConfigError) as caught:
        parse_server_conf(path)
    error = caught.value
    assert str(error) == sentence
    assert (error.file, error.section, error.line) == (str(path), "global", 2)
    assert error.key == line.partition(":")[0]
    assert error.located() == f"{path}:2 [global]: {sentence}"


@pytest.mark.parametrize(("key", "default"), [
    ("scheduling_algorithm", "fairshare"), ("scheduling_metric", "slot"), ("job_distribution_type", "normal"),
    ("condor_retrieval_method", "local")])
def test_unknown_words_fall_back_and_are_noted(tmp_path, key, default):
    conf = parse_server_conf(written(tmp_path, f"[global]\n{key}: lottery\n"))
    assert getattr(conf.general, key) == default
    assert [(note.key, note.line) for note in conf.notes] == [(key, 2)]
    assert "'lottery', not one of" in str(conf.notes[0])


def test_unknown_keys_and_sections_are_noted(tmp_path):
    conf = parse_server_conf(written(tmp_path, "[global]\ninfo_sever_port: 1\n[extra]\na: b\n"))
    assert {str(note).rpartition(": ")[2] for note in conf.notes} == {
        "unknown key info_sever_port, ignored", "unknown section, ignored"}


def test_an_empty_path_means_the_default(tmp_path):
    conf = parse_server_conf(written(tmp_path, "[global]\npersistence_file:\ncloud_resource_config:\n"))
    assert conf.general.persistence_file == "/var/lib/cloudscheduler.persistence"
    assert conf.general.cloud_resource_config is None


def test_search_order(tmp_path):
    directories = tuple(str(tmp_path / name) for name in "abc")
    for number, name in enumerate("bc"):
        (tmp_path / name).mkdir()
        written(tmp_path / name, f"[global]\ninfo_server_port: {9000 + number}\n")
    assert read_server_conf(directories=directories).general.info_server_port == 9000
    explicit = str(tmp_path / "c" / "cloud_scheduler.conf")
    assert read_server_conf(explicit, directories=directories).general.info_server_port == 9001
    assert read_server_conf(directories=directories[:1]) == server_conf.ServerConf()
    with pytest.raises(ClassicConfigError, match="cannot read"):
        read_server_conf(str(tmp_path / "absent"), directories=directories)


def test_search_directories_of_the_original():
    assert server_conf.search_directories({"HOME": "/home/me"}) == (
        "/home/me/.cloudscheduler", "/etc/cloudscheduler", "/usr/local/share/cloud-scheduler")


def test_status_file(tmp_path):
    directories = (str(tmp_path),)
    assert read_status_conf(directories=directories) == server_conf.StatusConf(None, None)
    path = written(tmp_path, "[global]\n", "cloud_scheduler_status.conf")
    assert read_status_conf(directories=directories) == server_conf.StatusConf(str(path), None)
    path.write_text("[global]\ninfo_server_port = 9111\n")
    assert read_status_conf(directories=directories).info_server_port == 9111
    path.write_text("[global]\ninfo_server_port = x\n")
    with pytest.raises(ClassicConfigError, match="must be an integer value"):
        read_status_conf(directories=directories)
