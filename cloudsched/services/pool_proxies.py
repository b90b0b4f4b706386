"""How are a user's proxies renewed? By the configured MyProxy command, one call per credential (contract 4.12).

The command writes the new proxy beside the old file, which it then replaces. What goes wrong is told in the log and
in an event of the job or node; the caller hears nothing of it.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shlex
import stat
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudsched import clock
from cloudsched.errors import Unavailable
from cloudsched.logs import redact
from cloudsched.services.pool import storable
from cloudsched.settings import Settings
from cloudsched.store import events
from cloudsched.store import pool as store
from cloudsched.store.db import write

log = logging.getLogger(__name__)

DEFAULT_SERVER = "localhost"
DEFAULT_PORT = "7512"
DEFAULT_HOURS = "12"
LIMIT_S = 180.0
_SHOWN_CHARS = 500


@dataclass(frozen=True, slots=True)
class Credential:
    """What is renewed, and for whom: `subject` is (noun, id). `inside`: the proxy must lie in this directory."""

    subject: tuple[str, int]
    name: str
    server: str
    port: str
    hours: str
    file: str
    inside: str | None = None


@dataclass(frozen=True, slots=True)
class Refresh:
    """One attempt; `error` is empty when the file was replaced."""

    subject: tuple[str, int]
    error: str = ""


def refresh_jobs(user: str, *, settings: Settings, actor: str = "") -> list[Refresh]:
    """Renew the proxies of the user's jobs that have not ended. Never raises for a credential that cannot be."""
    cache = settings.cloud_scheduler.general.proxy_cache_dir or ""
    jobs = store.jobs_with_credentials(user) if storable(user) else []
    return _refresh(
        (_credential(("job", job.id), json.loads(job.attributes), "x509userproxy", hours="proxy_renew_time",
                     # Whoever submits to the built-in queue writes these attributes: no file of others.
                     inside=cache if job.source == "queue" else None) for job in jobs), settings, actor=actor)


def refresh_nodes(user: str, *, settings: Settings, actor: str = "") -> list[Refresh]:
    """Renew the proxies of the user's live nodes."""
    nodes = store.nodes_with_credentials(user) if storable(user) else []
    return _refresh((_credential(("node", node.id), json.loads(node.facts), "proxy_file", hours="myproxy_renew_time")
                     for node in nodes), settings, actor=actor)


def _credential(subject: tuple[str, int], facts: Mapping[str, Any], file: str, *, hours: str,
                inside: str | None = None) -> Credential:
    def text(key: str, default: str = "") -> str:
        return str(facts.get(key) or default)

    return Credential(subject, text("myproxy_creds_name"), text("myproxy_server", DEFAULT_SERVER),
                      text("myproxy_server_port", DEFAULT_PORT), text(hours, DEFAULT_HOURS), text(file), inside)


def _refresh(credentials: Iterable[Credential], settings: Settings, *, actor: str) -> list[Refresh]:
    command = settings.cloud_scheduler.general.myproxy_logon_command
    done: dict[tuple[str, ...], str] = {}
    found = []
    for each in credentials:
        if not each.name:
            continue
        key = (each.name, each.server, each.port, each.file, str(each.inside))
        if key not in done:
            done[key] = _renew(each, command)
        found.append(Refresh(each.subject, done[key]))
        _record(found[-1], each, actor=actor)
    return found


def _record(refresh: Refresh, credential: Credential, *, actor: str) -> None:
    noun, number = refresh.subject
    facts = {"server": f"{credential.server}:{credential.port}", "file": credential.file}
    if refresh.error:
        log.warning("the proxy of %s %d could not be renewed: %s", noun, number, refresh.error)
        facts["error"] = refresh.error
    word = "proxy_fail" if refresh.error else "proxy_renew"
    write(lambda tx: events.append(tx, f"{noun}.{word}", (noun, number), at=clock.now(), actor=actor, **facts))


def _renew(credential: Credential, command: str) -> str:
    """The error, or empty."""
    fresh: Path | None = None
    try:
        file = _proxy_file(credential)
        fresh = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        _run([*shlex.split(command), "-s", credential.server, "-p", credential.port, "-k", credential.name,
              "-a", str(file), "-t", credential.hours, "-o", str(fresh)])
        _replace(file, fresh)
    except (OSError, ValueError, Unavailable) as error:
        return redact(str(error))
    finally:
        if fresh is not None:
            fresh.unlink(missing_ok=True)
    return ""


def _proxy_file(credential: Credential) -> Path:
    if not credential.file:
        raise ValueError("no proxy file is named")
    file = Path(credential.file)
    if credential.inside is not None:
        inside = Path(credential.inside).resolve() if credential.inside else None
        if inside is None or inside not in file.resolve().parents:
            raise ValueError(f"{file} is not in proxy_cache_dir ({inside or 'none is set'})")
    if not stat.S_ISREG(file.lstat().st_mode):
        raise ValueError(f"{file} is no regular file")
    return file


def _run(argv: list[str]) -> None:
    name = Path(argv[0]).name
    try:
        ended = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False,
                               encoding="utf-8", errors="replace", start_new_session=True)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{name} gave no answer within {LIMIT_S:g} s") from None
    if ended.returncode:
        said = " ".join((ended.stderr or ended.stdout).split())[:_SHOWN_CHARS]
        raise Unavailable(f"{name} failed with exit code {ended.returncode}: {said}")


def _replace(file: Path, fresh: Path) -> None:
    """The new proxy under the old name, with the old owner and for its owner alone."""
    if not fresh.is_file() or not fresh.stat().st_size:
        raise Unavailable("the command succeeded but wrote no proxy")
    old = file.stat()
    fresh.chmod(stat.S_IMODE(old.st_mode) & 0o700)
    if os.geteuid() == 0:
        os.chown(fresh, old.st_uid, old.st_gid)
    fresh.replace(file)
