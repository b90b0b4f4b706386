"""What do `cloud_scheduler.conf` and `cloud_scheduler_status.conf` say?

Contract 6.1 and 6.2. A field is named as its key in snake_case; keys that the file gives
in minutes are kept in seconds and end in `_s`. The module is long because it is the table
of some hundred keys, with their defaults; the code is at its end.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .ini import Section, load
from .keys import (
    Filled,
    boolean,
    decimal,
    fill,
    integer,
    minutes,
    names,
    optional_integer,
    optional_path,
    optional_text,
    path,
    text,
    word,
)
from .problem import ClassicConfigError, Problem

SERVER_FILE = "cloud_scheduler.conf"
STATUS_FILE = "cloud_scheduler_status.conf"
SHARE_DIR = "/usr/local/share/cloud-scheduler"
LOG_LEVELS = ("VERBOSE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True)
class GeneralConf:
    """Section `[global]`. Seconds unless the name of the field or the contract says otherwise."""

    cloud_resource_config: str | None = optional_path()
    info_server_port: int = integer(8111, low=0, high=65535)
    admin_server_port: int = integer(8112, low=0, high=65535)
    persistence_file: str = path("/var/lib/cloudscheduler.persistence")
    user_limit_file: str | None = optional_path()
    target_cloud_alias_file: str | None = optional_path()

    scheduler_interval: int = integer(5, low=0)
    cleanup_interval: int = integer(5, low=0)
    vm_poller_interval: int = integer(5, low=0)
    job_poller_interval: int = integer(5, low=0)
    machine_poller_interval: int = integer(5, low=0)

    scheduling_algorithm: str = word("fairshare", ("fairshare", "fifo"))
    scheduling_metric: str = word("slot", ("slot", "memory", "memory_cpu", "memory_cpu_storage"))
    job_distribution_type: str = word("normal", ("normal", "split"))
    cpu_distribution_weight: float = decimal(1.0)
    memory_distribution_weight: float = decimal(1.0)
    storage_distribution_weight: float = decimal(1.0)
    high_priority_job_support: bool = boolean(False)
    high_priority_job_weight: int = integer(1, low=1)
    graceful_shutdown: bool = boolean(True)
    graceful_shutdown_method: str = text("off")

    max_starting_vm: int = integer(-1, low=-1)
    max_destroy_threads: int = integer(10, low=1)
    max_keepalive_s: int = minutes(60, name="max_keepalive", low=0)
    vm_start_running_timeout: int = integer(-1, low=-1)
    condor_register_time_limit_s: int = minutes(15, name="condor_register_time_limit", low=0)
    polling_error_threshold: int = integer(5, low=0)
    vm_idle_threshold: int = integer(300, low=0)
    clean_shutdown_idle: bool = boolean(False)
    cleanup_missing_vms: bool = boolean(False)
    retire_missing_vms: bool = boolean(False)
    retire_before_lifetime: bool = boolean(False)
    retire_before_lifetime_factor: float = decimal(1.5)
    retire_reallocate: bool = boolean(True)
    adjust_insufficient_resources: bool = boolean(False)
    vm_connection_fail_threshold: int = integer(3600, low=0)
    connection_fail_disable_time: int = integer(7200, low=0)
    job_ban_timeout_s: int = minutes(60, name="job_ban_timeout", low=0)
    ban_tracking: bool = boolean(False)
    ban_file: str = path("/var/run/cloudscheduler.banned")
    ban_min_track: int = integer(5, low=0)
    ban_failrate_threshold: float = decimal(1.0)
    vm_reqs_from_condor_reqs: bool = boolean(False)
    override_vmtype: bool = boolean(False)

    job_proxy_refresher_interval: int = integer(-1, low=-1)
    vm_proxy_refresher_interval: int = integer(-1, low=-1)
    job_proxy_renewal_threshold: int = integer(900, low=0)
    vm_proxy_renewal_threshold: int = integer(3600, low=0)
    vm_proxy_shutdown_threshold: int = integer(1800, low=0)
    myproxy_logon_command: str = text("myproxy-logon")
    proxy_cache_dir: str | None = optional_path()
    openssl_path: str = path("/usr/bin/openssl")
    use_pyopenssl: bool = boolean(False)

    condor_retrieval_method: str = word("local", ("local",))
    condor_q_command: str = text("condor_q -l")
    condor_status_command: str = text("condor_status -l")
    condor_status_master_command: str = text("condor_status -master -l")
    condor_hold_command: str = text("condor_hold")
    condor_release_command: str = text("condor_release")
    condor_off_command: str = path("/usr/sbin/condor_off")
    condor_on_command: str = path("/usr/sbin/condor_on")
    condor_advertise_command: str = path("/usr/sbin/condor_advertise")
    condor_webservice_url: str = text("http://localhost:8080")
    condor_collector_url: str = text("http://localhost:9618")
    condor_host_on_vm: str = text()
    condor_context_file: str = path("/etc/condor/central_manager")
    cloudscheduler_ssh_key: str | None = optional_path()
    ssh_path: str = path("/usr/bin/ssh")

    cert_file: tuple[str, ...] = names()
    key_file: tuple[str, ...] = names()
    cert_file_on_vm: tuple[str, ...] = names()
    key_file_on_vm: tuple[str, ...] = names()
    ca_root_certs: tuple[str, ...] = names()
    ca_signing_policies: tuple[str, ...] = names()
    use_cloud_init: bool = boolean(True)
    default_yaml: str = path(f"{SHARE_DIR}/default.yaml")
    validate_yaml: bool = boolean(False)
    vm_lifetime_s: int = minutes(10080, name="vm_lifetime", low=0)
    getclouds: bool = boolean(False)
    monitor_url: str | None = optional_text()


@dataclass(frozen=True)
class JobDefaults:
    """Section `[job]`: what a job gets that does not say. Memory in MB, storage in GB."""

    default_vm_type: str = text("default", name="default_VMType")
    default_vm_network: str = text(name="default_VMNetwork")
    default_vm_name: str = text("Default-Image", name="default_VMName")
    default_vm_ami: str = text(name="default_VMAMI")
    default_vm_mem: int = integer(512, low=0, name="default_VMMem")
    default_vm_cpu_cores: int = integer(1, low=1, name="default_VMCPUCores")
    default_vm_storage: int = integer(0, low=0, name="default_VMStorage")
    default_vm_instance_type: str = text(name="default_VMInstanceType")
    default_vm_instance_type_list: str = text(name="default_VMInstanceTypeList")
    default_vm_maximum_price: float = decimal(0.0, low=0, name="default_VMMaximumPrice")
    default_vm_proxy_non_boot: bool = boolean(False, name="default_VMProxyNonBoot")
    default_vm_user_data: tuple[str, ...] = names(name="default_VMUserData")
    default_target_clouds: tuple[str, ...] = names(name="default_TargetClouds")
    default_vm_ami_config: str = text(name="default_VMAMIConfig")
    default_vm_inject_ca: bool = boolean(True, name="default_VMInjectCA")
    default_vm_job_per_core: bool = boolean(False, name="default_VMJobPerCore")


@dataclass(frozen=True)
class LoggingConf:
    """Section `[logging]`. `log_max_size` in bytes, None: the file never rotates."""

    log_level: str = word("INFO", LOG_LEVELS)
    log_format: str = text("%(asctime)s - %(levelname)s - %(threadName)s - %(message)s")
    log_location: str | None = optional_path()
    log_location_cloud_admin: str | None = optional_path()
    admin_log_comments: bool = boolean(False)
    log_stdout: bool = boolean(False)
    log_syslog: bool = boolean(False)
    log_max_size: int | None = optional_integer(low=0)


@dataclass(frozen=True)
class ServerConf:
    """`cloud_scheduler.conf`. `path` is None when no file was found and all is default.

    `given` holds the keys the file sets, as (section, field name); `notes` what was passed
    over (unknown keys and sections, unknown words), for the log.
    """

    path: str | None = None
    general: GeneralConf = GeneralConf()
    job: JobDefaults = JobDefaults()
    logging: LoggingConf = LoggingConf()
    given: frozenset[tuple[str, str]] = frozenset()
    notes: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class StatusConf:
    """`cloud_scheduler_status.conf`. `info_server_port` is None when the file does not set it."""

    path: str | None = None
    info_server_port: int | None = None


def read_server_conf(explicit: str | None = None, *, environ: Mapping[str, str] | None = None,
                     directories: tuple[str, ...] | None = None) -> ServerConf:
    """Finds and reads `cloud_scheduler.conf` (contract 6.1).

    `explicit` (`--config-file`) must be readable; otherwise the first file of
    `search_directories` counts, and without any the defaults. Raises ClassicConfigError,
    whose text is the sentence to print before exit status 1.
    """
    found = explicit or find_file(SERVER_FILE, environ=environ, directories=directories)
    return ServerConf() if found is None else parse_server_conf(found)


def parse_server_conf(file: str | Path) -> ServerConf:
    """Reads this `cloud_scheduler.conf`. Raises ClassicConfigError for the first bad value."""
    sections = {section.name.lower(): section for section in load(file)}
    notes = [Problem(str(file), "unknown section, ignored", section=section.name, line=section.line + 1)
             for name, section in sections.items() if name not in ("global", "job", "logging")]
    given: set[tuple[str, str]] = set()
    parts = {name: _fill_or_raise(cls, sections.get(name), file=str(file), notes=notes)
             for name, cls in (("global", GeneralConf), ("job", JobDefaults), ("logging", LoggingConf))}
    for name, part in parts.items():
        given.update((name, field_name) for field_name in part.values)
    return ServerConf(str(file), GeneralConf(**parts["global"].values), JobDefaults(**parts["job"].values),
                      LoggingConf(**parts["logging"].values), frozenset(given), tuple(notes))


def read_status_conf(explicit: str | None = None, *, environ: Mapping[str, str] | None = None,
                     directories: tuple[str, ...] | None = None) -> StatusConf:
    """Finds and reads `cloud_scheduler_status.conf` (contract 6.2); same rules as `read_server_conf`."""
    found = explicit or find_file(STATUS_FILE, environ=environ, directories=directories)
    if found is None:
        return StatusConf()
    conf = parse_server_conf(found)
    port = conf.general.info_server_port if ("global", "info_server_port") in conf.given else None
    return StatusConf(found, port)


def search_directories(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Where the original looks for its files, first match wins."""
    home = (os.environ if environ is None else environ).get("HOME") or str(Path.home())
    return (f"{home}/.cloudscheduler", "/etc/cloudscheduler", SHARE_DIR)


def find_file(name: str, *, environ: Mapping[str, str] | None = None,
              directories: tuple[str, ...] | None = None) -> str | None:
    """The first existing `name` in the search directories, or None."""
    for directory in search_directories(environ) if directories is None else directories:
        candidate = Path(directory, name)
        if candidate.is_file():
            return str(candidate)
    return None


def _fill_or_raise(cls: type, section: Section | None, *, file: str, notes: list[Problem]) -> Filled:
    if section is None:
        return Filled({}, [], [], [])
    filled = fill(cls, section, file)
    if filled.errors:
        raise filled.errors[0]
    notes.extend(filled.notes)
    notes.extend(Problem(file, f"unknown key {entry.key}, ignored", section=section.name, key=entry.key,
                         line=entry.line + 1) for entry in filled.unknown)
    return filled


__all__ = ["ClassicConfigError", "GeneralConf", "JobDefaults", "LoggingConf", "ServerConf", "StatusConf",
           "find_file", "parse_server_conf", "read_server_conf", "read_status_conf", "search_directories"]
