"""How does a connection come about, and what does it mean when it does not?"""

from __future__ import annotations

import contextlib
import getpass
import io
import logging
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fabric
import paramiko
from cryptography.exceptions import UnsupportedAlgorithm

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.ssh import hostkeys
from cloudsched.drivers.ssh.hostkeys import HostKey, HostKeyRefused
from cloudsched.drivers.ssh.targets import Target, is_key_text

KEEPALIVE_S = 15
GONE_S = 20
# What fails reaches us as an exception; the library would log it as well, with a traceback.
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)
_RSA = ("rsa-sha2-512", "rsa-sha2-256")
_KEY_CLASSES = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)


def connect(target: Target, through: fabric.Connection | None = None) -> fabric.Connection:
    """An open, authenticated connection whose host key was accepted. Raises DriverError."""
    key = load_key(target)
    if not (key or target.password or target.use_agent):
        raise DriverError(f"{target.label}: nothing to log in with: give a key, a password or use_agent", code=base.AUTH)
    first: HostKeyRefused | None = None
    seen: list[str] = []
    while True:
        try:
            return _connect_once(target, through, key, without=seen)
        except HostKeyRefused as error:
            if not hostkeys.by_fingerprint_alone(target):
                raise
            first = first or error  # the host may have the key that is meant, of another type
            seen += _RSA if error.key_type == "ssh-rsa" else [error.key_type]
        except paramiko.SSHException as error:
            raise first or explained(target, error) from error


def is_alive(live: fabric.Connection) -> bool:
    """As far as this end knows."""
    return bool(live.is_connected)


def disconnect(live: fabric.Connection) -> None:
    """End it whatever state it is in."""
    with contextlib.suppress(Exception):
        live.client.close()


def load_key(target: Target) -> paramiko.PKey | None:
    """The private key of a target, None without one. Raises DriverError (AUTH) that says what is wrong with it."""
    if not target.key:
        return None
    what = "the given key"
    try:
        if is_key_text(target.key):
            text = target.key.strip() + "\n"
        else:
            what = f"the key {target.key}"
            text = Path(target.key).expanduser().read_text()
        return _parsed(text, target.key_passphrase or None)
    except paramiko.PasswordRequiredException as error:
        raise DriverError(f"{target.label}: {what} needs its passphrase (key_passphrase)", code=base.AUTH) from error
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "is no text"
        raise DriverError(f"{target.label}: {what} cannot be read: {why}", code=base.AUTH) from error
    except (paramiko.SSHException, ValueError, TypeError, UnsupportedAlgorithm) as error:
        hint = "its passphrase (key_passphrase) is wrong, or it" if target.key_passphrase else "it"
        raise DriverError(f"{target.label}: {what} cannot be used: {hint} is no private key in OpenSSH or PEM form "
                          "(ed25519, ecdsa, rsa)", code=base.AUTH) from error  # fmt: skip


def explained(target: Target, error: BaseException) -> DriverError:
    """What an error of the connection means, with a code; secrets are taken out of whatever it says."""
    if isinstance(error, DriverError):
        return error
    text, code, transient = _meaning(target, error)
    return DriverError(f"{target.label}: {text}", code=code, transient=transient)


def cleaned(target: Target, text: str) -> str:
    """What somebody else said, without our secrets."""
    for secret in target.secrets:
        text = text.replace(secret, "***")
    return text


def _connect_once(target: Target, through: fabric.Connection | None, key: paramiko.PKey | None, *,
                  without: Sequence[str]) -> fabric.Connection:
    limit_s = target.connect_timeout_s
    began = time.monotonic()
    facts: dict[str, Any] = {"password": target.password or None, "pkey": key, "allow_agent": target.use_agent,
                             "look_for_keys": False, "channel_timeout": limit_s,
                             "transport_factory": _transport_factory(target, without)}  # fmt: skip
    live: fabric.Connection | None = None
    try:
        if through is None:
            facts["sock"] = _reached(target)
        left_s = max(1.0, limit_s - (time.monotonic() - began))
        facts |= {"banner_timeout": left_s, "auth_timeout": left_s}
        live = fabric.Connection(target.host, user=target.user or getpass.getuser(), port=target.port, config=_config(),
                                 gateway=through or False, connect_timeout=left_s, connect_kwargs=facts)  # fmt: skip
        live.client.set_missing_host_key_policy(_Policy(target))
        live.open()
        live.transport.set_keepalive(KEEPALIVE_S)
        return live
    except (DriverError, paramiko.IncompatiblePeer):
        _abandon(live, facts)
        raise
    except (paramiko.SSHException, OSError, EOFError) as error:
        _abandon(live, facts)
        raise explained(target, error) from error


def _reached(target: Target) -> socket.socket:
    sock = socket.create_connection((target.host, target.port), timeout=target.connect_timeout_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # with the keep-alive: a host that is gone is noticed while a command is silent
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_S * 1000)
    return sock


def _abandon(live: fabric.Connection | None, facts: dict[str, Any]) -> None:
    if live is not None:
        disconnect(live)
    sock = facts.get("sock")
    if sock is not None:
        sock.close()


def _config() -> fabric.Config:
    """No file of the person who runs the server changes where we connect to."""
    return fabric.Config(ssh_config=paramiko.SSHConfig(), lazy=True)


def _transport_factory(target: Target, without: Sequence[str]) -> Any:
    first = hostkeys.preferred_types(target)

    def make(sock: Any, **how: Any) -> paramiko.Transport:
        transport = paramiko.Transport(sock, **how)
        options = transport.get_security_options()
        types = [name for name in options.key_types if name not in without]
        options.key_types = tuple(sorted(types, key=lambda name: name not in first))
        return transport

    return make


class _Policy:
    """No key is known to the library: each one comes here (it wants an object with this one method)."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        hostkeys.check(self._target, HostKey(key.get_name(), key.get_base64()))


def _parsed(text: str, passphrase: str | None) -> paramiko.PKey:
    error: Exception = paramiko.SSHException("not a private key")
    for kind in _KEY_CLASSES:
        try:
            return kind.from_private_key(io.StringIO(text), password=passphrase)
        except paramiko.PasswordRequiredException:
            raise
        except (paramiko.SSHException, ValueError, TypeError, UnsupportedAlgorithm) as refused:
            error = refused
    raise error


def _meaning(target: Target, error: BaseException) -> tuple[str, int, bool]:
    """(text, code, transient)."""
    if isinstance(error, paramiko.IncompatiblePeer):
        return f"it offers no algorithm that we accept: {cleaned(target, str(error))}", base.ENDPOINT, False
    if isinstance(error, paramiko.AuthenticationException):
        if "timeout" in str(error).lower():
            return f"it did not decide about the login within {target.connect_timeout_s:g} s", base.ENDPOINT, True
        return f"user {target.user or getpass.getuser()} is not let in with {_tried(target)}{_wants(error)}", base.AUTH, False
    if isinstance(error, paramiko.ChannelException):
        where = f" through {target.jump.label}" if target.jump else ""
        return f"no channel to it{where}: {cleaned(target, error.text)}", base.ENDPOINT, True
    if isinstance(error, socket.gaierror):
        return "its name is not known", base.ENDPOINT, error.errno == socket.EAI_AGAIN
    if isinstance(error, TimeoutError):
        return f"no answer within {target.connect_timeout_s:g} s", base.ENDPOINT, True
    if isinstance(error, OSError) and error.strerror:
        return cleaned(target, str(error.strerror)).lower(), base.ENDPOINT, True
    text = str(error)
    if "Timeout opening channel" in text:
        return "it gave no channel in time", base.ENDPOINT, True
    if "banner" in text or "No existing session" in text:
        return f"it did not begin to speak SSH within {target.connect_timeout_s:g} s", base.ENDPOINT, True
    return cleaned(target, text)[:200] or "the connection broke", base.ENDPOINT, True


def _tried(target: Target) -> str:
    ways = [("the key", target.key), ("keys of the agent", target.use_agent), ("the password", target.password)]
    return " or ".join(name for name, there in ways if there) or "nothing"


def _wants(error: BaseException) -> str:
    allowed = getattr(error, "allowed_types", None)
    return f"; it wants {', '.join(allowed)}" if allowed else ""
