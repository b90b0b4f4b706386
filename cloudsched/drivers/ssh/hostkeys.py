"""Is it the right host that answers? Keys of known_hosts files, pins, and the pin of a first use.

A file is in the format of known_hosts(5): plain, hashed and pattern names, `[host]:port`, `@revoked`. Certificate
authorities are not supported: their lines are passed over. A pin file is of the same format, so that
`ssh -o UserKnownHostsFile=FILE` and `ssh-keygen -R` work on it.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import fnmatch
import hashlib
import hmac
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.ssh.targets import PIN, Target

# Names of signatures that one type of key is offered under.
_OFFERED = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}


class HostKeyRefused(DriverError):
    """The key is not the one that was expected; `key_type` is what came. Only a person can decide about it."""

    def __init__(self, message: str, *, key_type: str) -> None:
        super().__init__(message, code=base.AUTH, transient=False)
        self.key_type = key_type


@dataclass(frozen=True)
class HostKey:
    """A public key: its type and its bytes in base64. A pin by fingerprint has no type and `SHA256:...` instead."""

    type: str
    text: str

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it."""
        if not self.type:
            return self.text
        return "SHA256:" + base64.b64encode(hashlib.sha256(_decoded(self.text)).digest()).decode().rstrip("=")

    def __str__(self) -> str:
        return f"{self.fingerprint} ({self.type})" if self.type else self.fingerprint


def check(target: Target, key: HostKey) -> None:
    """Accept `key` for the target, pin it on first use under that policy, or raise HostKeyRefused (code AUTH)."""
    if target.host_key:
        pinned = pinned_keys(target.host_key)
        if not _is_one_of(key, pinned):
            raise _refused(target, key, pinned, "change the option host_key")
        return
    if not target.known_hosts:
        raise DriverError(f"{target.label}: there is no file to remember its host key in: give known_hosts or host_key",
                          code=base.REQUEST)  # fmt: skip
    path = Path(target.known_hosts)
    known, revoked = known_keys(path, name_of(target))
    if not known and not revoked and target.host_key_policy == PIN:
        known = _pinned_now(path, target, key)
    if _is_one_of(key, revoked):
        raise HostKeyRefused(f"{target.label}: its host key {key} is revoked in {path}", key_type=key.type)
    if not known:
        raise HostKeyRefused(f"{target.label}: no host key is known in {path}; it shows {key}. When that is right, add "
                             f"the line: {name_of(target)} {key.type} {key.text}", key_type=key.type)  # fmt: skip
    if not _is_one_of(key, known):
        raise _refused(target, key, known, f"run: ssh-keygen -R '{name_of(target)}' -f {path}")


def preferred_types(target: Target) -> list[str]:
    """Names under which the keys known for the target are asked for first: a host with several then shows that one."""
    if target.host_key:
        keys = pinned_keys(target.host_key)
    else:
        keys = known_keys(Path(target.known_hosts), name_of(target))[0] if target.known_hosts else []
    types = list(dict.fromkeys(key.type for key in keys if key.type))
    return [name for one in types for name in _OFFERED.get(one, (one,))]


def by_fingerprint_alone(target: Target) -> bool:
    """Nothing tells which type of key is meant: all that the host has must be looked at."""
    return bool(target.host_key) and all(not key.type for key in pinned_keys(target.host_key))


def pinned_keys(text: str) -> list[HostKey]:
    """Keys of the option `host_key`, one a line."""
    keys = []
    for line in text.splitlines():
        words = line.split()
        if words and words[0].startswith("SHA256:"):
            keys.append(HostKey("", words[0].rstrip("=")))
        elif len(words) >= 2:
            keys.append(HostKey(words[0], words[1]))
    return keys


def known_keys(path: Path, name: str) -> tuple[list[HostKey], list[HostKey]]:
    """(keys, revoked keys) of the host called `name` there (`host` or `[host]:port`); a missing file knows none."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise DriverError(f"known_hosts: {path}: {error.strerror}", code=base.REQUEST) from error
    found: tuple[list[HostKey], list[HostKey]] = ([], [])
    for revoked, names, key in _entries(lines):
        if _names_it(names, name):
            found[revoked].append(key)
    return found


def name_of(target: Target) -> str:
    """The host's name in a known_hosts file."""
    return target.host if target.port == 22 else f"[{target.host}]:{target.port}"


def _entries(lines: Iterable[str]) -> Iterator[tuple[bool, str, HostKey]]:
    for line in lines:
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        marker = words.pop(0) if words[0].startswith("@") else ""
        if marker in ("", "@revoked") and len(words) >= 3 and _decoded(words[2]):
            yield marker == "@revoked", words[0], HostKey(words[1], words[2])


def _names_it(names: str, name: str) -> bool:
    """One of the comma-separated patterns fits, and none with `!` does."""
    fits = False
    for one in names.split(","):
        pattern = one[1:] if one.startswith("!") else one
        if _is_hash_of(pattern, name) or fnmatch.fnmatchcase(name.lower(), _literal_brackets(pattern.lower())):
            if one.startswith("!"):
                return False
            fits = True
    return fits


def _is_hash_of(pattern: str, name: str) -> bool:
    parts = pattern.split("|")
    if len(parts) != 4 or parts[1] != "1":
        return False
    return hmac.compare_digest(hmac.new(_decoded(parts[2]), name.encode(), "sha1").digest(), _decoded(parts[3]))


def _literal_brackets(pattern: str) -> str:
    """`[host]:port` has brackets that are no character class."""
    return pattern.replace("[", "[[]")


def _pinned_now(path: Path, target: Target, key: HostKey) -> list[HostKey]:
    """Remember `key`, unless somebody else has remembered one meanwhile; what is remembered is returned."""
    with _locked(path):
        known, revoked = known_keys(path, name_of(target))
        if known or revoked:
            return known
        before = path.read_text() if path.exists() else ""
        if before and not before.endswith("\n"):
            before += "\n"
        draft = path.with_name(f"{path.name}.{os.getpid()}.new")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(handle, "w") as file:
            file.write(f"{before}{name_of(target)} {key.type} {key.text}\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        return [key]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_one_of(key: HostKey, known: Iterable[HostKey]) -> bool:
    return any(key == one if one.type else key.fingerprint == one.text for one in known)


def _refused(target: Target, key: HostKey, known: Iterable[HostKey], accept: str) -> HostKeyRefused:
    expected = ", ".join(str(one) for one in known)
    return HostKeyRefused(f"{target.label}: its host key is {key}, expected was {expected}. Either the host was made anew "
                          f"or somebody stands between. To accept the new key: {accept}", key_type=key.type)  # fmt: skip


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
