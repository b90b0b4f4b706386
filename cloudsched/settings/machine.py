"""Can an instance with these settings run on this machine? The answers of `cloudsched check`.

Rules between settings are checked when they are loaded (`rules`); here is what only the machine can tell:
directories, ports, files, users, limits. Whether the database answers is not asked here.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import pwd
import resource
import shlex
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cloudsched.classic.clouds_conf import read_clouds
from cloudsched.classic.limits import read_aliases, read_user_limits
from cloudsched.classic.problem import ClassicConfigError

from .sections import Settings, mask_url

_MIN_FREE_MB = 500
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
# Passing through is needed by users that jobs run as; listing and changing is not.
_TOO_OPEN = stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH


class Finding(NamedTuple):
    """One answer. `level` is `ok`, `warning` or `error`; an error keeps the server from starting."""

    level: str
    key: str
    text: str


def check(settings: Settings, *, ports: bool = True) -> list[Finding]:
    """Every finding, in the order of the settings; see `cloudsched.settings.check`."""
    checks = [item for item in _CHECKS if ports or item is not _ports]
    return [finding for one in checks for finding in one(settings)]


def _state(settings: Settings) -> Iterator[Finding]:
    state = Path(settings.state.dir)
    problem = _not_writable(state)
    if problem:
        yield Finding("error", "state.dir", problem)
        return
    if state.exists() and state.stat().st_mode & _TOO_OPEN:
        yield Finding("warning", "state.dir", f"{state} is open to other users: chmod 711 {state}")
    free_mb = shutil.disk_usage(_existing(state)).free // 2**20
    if free_mb < _MIN_FREE_MB:
        yield Finding("warning", "state.dir", f"only {free_mb} MB are free under {state}")
    yield Finding("ok", "state.dir", f"{state} can be written, {free_mb} MB free")
    key = state / "secret.key"
    if key.exists() and key.stat().st_mode & _OTHERS:
        yield Finding("error", "state.dir", f"{key} can be read by others: chmod 600 {key}")


def _ports(settings: Settings) -> Iterator[Finding]:
    for item in settings.listeners():
        key = f"listen.{item.name}"
        problem = _port_problem(item.host, item.port)
        if problem:
            yield Finding("error", key, f"cannot listen on {item.host} port {item.port}: {problem}")
        else:
            yield Finding("ok", key, f"{item.host} port {item.port} is free")


def _database(settings: Settings) -> Iterator[Finding]:
    if settings.database.is_sqlite:
        file = Path(settings.database.url.removeprefix("sqlite:///"))
        problem = _not_writable(file.parent)
        if problem:
            yield Finding("error", "database.url", problem)
            return
    elif importlib.util.find_spec("psycopg") is None:
        yield Finding("error", "database.url", "PostgreSQL needs the psycopg package: pip install "
                                               "'cloudsched[postgres]'")
        return
    yield Finding("ok", "database.url", mask_url(settings.database.url))


def _log(settings: Settings) -> Iterator[Finding]:
    if settings.log.file:
        problem = _not_writable(Path(settings.log.file).parent)
        if problem:
            yield Finding("error", "log.file", problem)
    if settings.log.syslog and not Path("/dev/log").exists():
        yield Finding("warning", "log.syslog", "there is no /dev/log on this machine")


def _agent(settings: Settings) -> Iterator[Finding]:
    user = settings.agent.run_as
    if user == "auto":
        return
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        yield Finding("error", "agent.run_as", f"there is no user {user} on this machine")
        return
    if os.geteuid() not in (0, uid):
        yield Finding("error", "agent.run_as", f"only root can run jobs as {user}; start as root or set auto")


def _classic_files(settings: Settings) -> Iterator[Finding]:
    for note in settings.notes:
        yield Finding("warning", "cloud_scheduler.config_file", note)
    general = settings.cloud_scheduler.general
    if general.cloud_resource_config:
        yield from _clouds_file(general.cloud_resource_config)
    readers = (("user_limit_file", read_user_limits), ("target_cloud_alias_file", read_aliases))
    for name, read in readers:
        file = getattr(general, name)
        problems = read(file).problems if file else ()
        yield from (Finding("warning", f"cloud_scheduler.{name}", str(problem)) for problem in problems)


def _clouds_file(file: str) -> Iterator[Finding]:
    key = "cloud_scheduler.cloud_resource_config"
    try:
        found = read_clouds(file)
    except ClassicConfigError as error:
        yield Finding("error", key, error.located())
        return
    yield from (Finding("warning", key, str(problem)) for problem in found.problems)
    yield Finding("ok", key, f"{file}: {len(found.clouds)} clouds")


def _commands(settings: Settings) -> Iterator[Finding]:
    """External programs count only when somebody asked for them."""
    for name in _COMMANDS:
        key = f"cloud_scheduler.{name}"
        if settings.origin(key) == "default":
            continue
        command = str(settings.value(key))
        program = (shlex.split(command) or [""])[0]
        if shutil.which(program) is None:
            yield Finding("error", key, f"the program {program!r} is not there or cannot be run")


def _limits(settings: Settings) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 256 + settings.web.threads * 4
    if soft != resource.RLIM_INFINITY and soft < wanted:
        how = f"LimitNOFILE={wanted} in the systemd unit" if 0 <= hard < wanted else f"ulimit -n {wanted}"
        yield Finding("warning", "web.threads", f"this process may open {soft} files; "
                      f"{settings.web.threads} threads need about {wanted}: raise it with {how}")


def _not_writable(directory: Path) -> str:
    """Why this directory cannot be made or written; empty when it can."""
    place = _existing(directory)
    if not place.is_dir():
        return f"{place} is not a directory"
    if not os.access(place, os.W_OK | os.X_OK):
        return f"{place} cannot be written by {_user_name()}"
    return ""


def _existing(path: Path) -> Path:
    return next((place for place in (path, *path.parents) if place.exists()), Path("/"))


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"


def _port_problem(host: str, port: int) -> str:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except OSError as error:
        return _PORT_PROBLEMS.get(error.errno or 0, error.strerror or str(error))
    return ""


_PORT_PROBLEMS = {
    errno.EADDRINUSE: "it is taken; another server runs there, or set listen.port_offset",
    errno.EACCES: "ports below 1024 need root; choose another, or set listen.port_offset",
    errno.EADDRNOTAVAIL: "this machine does not have that address",
}

_COMMANDS = ("condor_q_command", "condor_status_command", "condor_status_master_command",
             "condor_hold_command", "condor_release_command", "condor_off_command",
             "condor_advertise_command", "myproxy_logon_command")

_CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _state, _ports, _database, _log, _agent, _classic_files, _commands, _limits)
