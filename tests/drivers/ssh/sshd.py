"""Real sshd processes on loopback ports, for every test that reaches a host by SSH.

    with Sshds(tmp_path) as hosts:
        one = hosts.start()                      # or hosts.start(5, sftp=False)
        one.target(), one.option(), one.port, hosts.key

Each has a configuration, host keys and a work directory of its own; all log in as the user who runs the tests, with the
client key of the house. What they run knows its host by `CLOUDSCHED_TEST_HOST`. `why_not()` says why none can be started.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cloudsched.agent import processes
from cloudsched.drivers.ssh.targets import Target

SSHD = "/usr/sbin/sshd"
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")
START_S = 30.0


def why_not() -> str:
    """Why no sshd can be started here; empty when one can."""
    missing = [name for name in (SSHD, "ssh-keygen") if shutil.which(name) is None]
    return f"{' and '.join(missing)} is not installed" if missing else ""


class Sshd:
    """One server. `address` may be another than loopback inside a network namespace (`prefix`: words before the command)."""

    def __init__(self, folder: Path, name: str, *, authorized: Path, address: str = "127.0.0.1", port: int = 0,
                 key_types: Sequence[str] = ("ed25519",), sftp: bool = True, password: bool = False, forwarding: bool = True,
                 settings: Sequence[str] = (), prefix: Sequence[str] = ()) -> None:
        self.name, self.address, self.port = name, address, port or free_port()
        self.folder = folder
        self.home = folder / "home"
        self.work_dir = folder / "work"
        self.client_key = authorized.with_suffix("")
        self._prefix = list(prefix)
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        self.home.mkdir()  # of its own: what the user's shell does at home is slow on some machines
        self.home.chmod(0o1777)
        for kind in key_types:
            self.make_host_key(kind)
        lines = [f"Port {self.port}", f"ListenAddress {address}", "UsePAM no", "StrictModes no", "PermitRootLogin yes",
                 f"PidFile {folder}/pid", f"AuthorizedKeysFile {authorized}", "UseDNS no", "LogLevel INFO",
                 f"PasswordAuthentication {'yes' if password else 'no'}", "KbdInteractiveAuthentication no",
                 f"AllowTcpForwarding {'yes' if forwarding else 'no'}",
                 f"SetEnv CLOUDSCHED_TEST_HOST={name} HOME={self.home}", *settings]
        lines += [f"HostKey {self._host_key(kind)}" for kind in key_types]
        if sftp:
            lines.append(f"Subsystem sftp {next(path for path in SFTP_SERVERS if os.path.exists(path))}")
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")

    def start(self) -> Sshd:
        """Listen; returns when it does."""
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", 0o755, exist_ok=True)
        self._log_start = len(self.log)
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen([*self._prefix, SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")],
                                             stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_S
        while not self._listens():
            assert self._process.poll() is None, f"sshd ended: {self.log}"
            assert time.monotonic() < deadline, f"sshd does not listen: {self.log}"
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """No listener and no session is left; what they had started lives on."""
        if self._process is None:
            return
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def kill_sessions(self) -> None:
        """Every connection breaks; the listener goes on."""
        for pid in self.processes():
            if self._process is not None and pid != self._process.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def freeze(self) -> None:
        """It accepts connections (the kernel does), and says nothing."""
        for pid in self.processes():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGCONT)

    def processes(self) -> list[int]:
        """The listener and its sessions, without what they run."""
        if self._process is None:
            return []
        return [pid for pid in processes.descendants([self._process.pid]) if _is_sshd(pid)]

    def make_host_key(self, kind: str = "ed25519") -> str:
        """A new host key of that type, used from the next start on; returns `type base64`."""
        path = self._host_key(kind)
        for old in (path, path.with_suffix(".pub")):
            old.unlink(missing_ok=True)
        make_key(path, kind)
        return self.host_key(kind)

    def host_key(self, kind: str = "ed25519") -> str:
        """Its public host key, `type base64`."""
        return " ".join(self._host_key(kind).with_suffix(".pub").read_text().split()[:2])

    def fingerprint(self, kind: str = "ed25519") -> str:
        """`SHA256:...` as ssh-keygen prints it."""
        told = subprocess.run(["ssh-keygen", "-lf", str(self._host_key(kind))], capture_output=True, text=True, check=True)
        return told.stdout.split()[1]

    def target(self, **facts: Any) -> Target:
        """How to log in here, its host key pinned unless `known_hosts` says otherwise."""
        known = {} if "known_hosts" in facts or "host_key" in facts else {"host_key": self.host_key()}
        basic: dict[str, Any] = {"user": getpass.getuser(), "key": str(self.client_key), **known}
        return Target(self.address, port=self.port, **{**basic, **facts})

    def option(self, **facts: Any) -> dict[str, Any]:
        """An entry of the option `hosts` of an SSH cloud."""
        return {"host": self.address, "port": self.port, "work_dir": str(self.work_dir), **facts}

    @property
    def log(self) -> str:
        """What it has said since it was made."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _host_key(self, kind: str) -> Path:
        return self.folder / f"host_{kind}"

    def _listens(self) -> bool:
        return "Server listening on" in self.log[self._log_start :]


class Sshds:
    """A house of servers with one client key; all are stopped at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "sshd"
        self.folder.mkdir(mode=0o711)
        self.key = self.folder / "client"
        make_key(self.key)
        self.made: list[Sshd] = []

    def start(self, **how: Any) -> Sshd:
        """One more server; see `Sshd`."""
        number = len(self.made) + 1
        made = Sshd(self.folder / f"h{number}", f"h{number}", authorized=self.key.with_suffix(".pub"), **how)
        self.made.append(made)
        return made.start()

    def start_many(self, count: int, **how: Any) -> list[Sshd]:
        return [self.start(**how) for _ in range(count)]

    def stop(self) -> None:
        """No server is left, nor what a failed test has left running on one: its environment names the house."""
        for server in self.made:
            server.stop()
        for pid in processes.every_pid():
            if str(self.folder).encode() in processes.environment(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> Sshds:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Account:
    """A throw-away user of this machine; only root can make one."""

    def __init__(self, home: Path, *, sudo: str = "") -> None:
        self.name = "cst" + secrets.token_hex(4)
        self.password = secrets.token_hex(12)
        self.home = home
        self._sudoers = Path("/etc/sudoers.d") / self.name
        self._sudo = sudo

    def __enter__(self) -> Account:
        self.home.mkdir(mode=0o755)
        subprocess.run(["useradd", "--no-create-home", "--home-dir", str(self.home), "--shell", "/bin/bash", self.name],
                       check=True)  # fmt: skip
        subprocess.run(["chpasswd"], input=f"{self.name}:{self.password}", text=True, check=True)
        os.chown(self.home, *self.ids)
        if self._sudo:
            tag = {"password": "", "nopasswd": "NOPASSWD: "}[self._sudo]
            self._sudoers.write_text(f"Defaults:{self.name} !lecture, timestamp_timeout=0\n{self.name} ALL=(ALL) {tag}ALL\n")
            self._sudoers.chmod(0o440)
        return self

    @property
    def ids(self) -> tuple[int, int]:
        import pwd

        entry = pwd.getpwnam(self.name)
        return entry.pw_uid, entry.pw_gid

    def __exit__(self, *_: object) -> None:
        self._sudoers.unlink(missing_ok=True)
        for pid in processes.every_pid():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{pid}").st_uid == self.ids[0]:
                    os.kill(pid, signal.SIGKILL)
        subprocess.run(["userdel", "--force", self.name], check=False, capture_output=True)


@contextlib.contextmanager
def silent_listener() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


def make_key(path: Path, kind: str = "ed25519", *, passphrase: str = "") -> Path:
    """A new key pair at `path` and `path`.pub."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "", "-f", str(path)], check=True,
                   stdin=subprocess.DEVNULL)  # fmt: skip
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _is_sshd(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() in ("sshd", "sshd-session", "sshd-auth")
    except OSError:
        return False
