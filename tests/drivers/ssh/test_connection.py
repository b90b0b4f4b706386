"""Does a connection to a real sshd do what it says: commands, limits, files, keys, passwords, jumps, sudo?"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from cloudsched.agent import processes
from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.ssh.connection import Connection, Connections, RunFailed, Target, on_all
from tests.drivers.ssh.sshd import Account, Sshd, Sshds, make_key, silent_listener
from tests.drivers.test_local import until

pytestmark = pytest.mark.engines
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a throw-away user")
LIMIT_S = 60.0
# Seconds of a sleep that is found again in the process list, among those of others.
NAP = {name: f"4711.{os.getpid():07}{number}" for number, name in enumerate(("streams", "hangs", "lost", "sudo", "many"))}


@pytest.fixture(scope="module")
def sshd(sshds: Sshds) -> Sshd:
    return sshds.start()


@pytest.fixture
def open_to() -> Iterator[Callable[..., Connection]]:
    """Connections that are closed after the test."""
    made: list[Connection] = []

    def connect(target: Target) -> Connection:
        made.append(Connection(target))
        return made[-1]

    yield connect
    for connection in made:
        connection.close()


@pytest.fixture
def host(sshd: Sshd, open_to: Callable[..., Connection]) -> Connection:
    return open_to(sshd.target())


@pytest.fixture(scope="module")
def account(sshds: Sshds) -> Iterator[Account]:
    with Account(sshds.folder / "plain-home") as made:
        yield made


def refused(call: Callable[[], Any]) -> DriverError:
    with pytest.raises(DriverError) as caught:
        call()
    return caught.value


def running(text: str) -> list[int]:
    """Processes whose arguments hold `text`."""
    return [pid for pid in processes.every_pid() if text in _arguments(pid) and processes.start_time(pid) is not None]


def _arguments(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


# -- commands --------------------------------------------------------------------------------------------------


def test_a_command_and_its_result(host: Connection, sshd: Sshd) -> None:
    done = host.run("echo to out; echo to err >&2; cat; exit 3", input=b"in\n", timeout_s=LIMIT_S)
    assert (done.host, done.code, done.ok, done.stdout, done.stderr) == (f"127.0.0.1:{sshd.port}", 3, False,
                                                                         "to out\nin\n", "to err\n")  # fmt: skip
    assert done.seconds > 0 and not done.truncated


def test_words_are_not_touched_by_any_shell(host: Connection) -> None:
    words = ["a b", "$HOME", "'", '"', "\\", "*", "ü\n漢", "", "!x"]
    assert host.run(["printf", "%s|", *words], timeout_s=LIMIT_S).stdout == "".join(f"{word}|" for word in words)


def test_a_script_of_several_lines_with_an_environment(host: Connection) -> None:
    done = host.run('for x in 1 2; do\n  echo "$x $A"\ndone\n', env={"A": "it's\ntwo"}, timeout_s=LIMIT_S)
    assert done.stdout == "1 it's\ntwo\n2 it's\ntwo\n"


def test_the_end_by_a_signal_and_the_end_of_output_before_it(host: Connection) -> None:
    assert host.run("kill -9 $$", timeout_s=LIMIT_S).code == 137
    assert host.run("exec >&- 2>&-; sleep 0.2; exit 5", timeout_s=LIMIT_S).code == 5


def test_what_is_left_in_the_background_is_not_waited_for(host: Connection) -> None:
    done = host.run("sleep 30 & echo $!", timeout_s=LIMIT_S)
    assert done.code == 0
    os.kill(int(done.stdout), 9)


def test_output_comes_as_it_is_written(host: Connection) -> None:
    heard: list[tuple[str, str]] = []
    release = threading.Event()

    def hear(stream: str, text: str) -> None:
        heard.append((stream, text))
        release.set()

    sent = threading.Thread(target=host.run, args=(f"echo one; sleep {NAP['streams']}",),
                            kwargs={"timeout_s": LIMIT_S, "on_output": hear}, daemon=True)  # fmt: skip
    sent.start()
    assert release.wait(LIMIT_S)
    assert heard == [("stdout", "one\n")]
    assert sent.is_alive()
    for pid in until(lambda: running(f"sleep {NAP['streams']}"), "it sleeps", LIMIT_S):
        os.kill(pid, 9)
    sent.join(LIMIT_S)


def test_output_is_bounded_and_told_in_full(host: Connection) -> None:
    heard = {"stdout": 0, "stderr": 0}

    def hear(stream: str, text: str) -> None:
        heard[stream] += len(text)

    done = host.run("head -c 300000 /dev/zero | tr '\\0' x; echo e >&2", timeout_s=LIMIT_S, max_output=1000, on_output=hear)
    assert (len(done.stdout), done.stderr, done.truncated) == (1000, "e\n", True)
    assert heard == {"stdout": 300000, "stderr": 2}


def test_much_input_and_much_output_at_once(host: Connection) -> None:
    data = os.urandom(1 << 20).hex().encode()
    done = host.run("cat", input=data, timeout_s=LIMIT_S, max_output=1 << 22)
    assert done.stdout.encode() == data


def test_a_command_that_hangs_is_killed_there_with_all_it_started(host: Connection) -> None:
    nap = f"sleep {NAP['hangs']}"
    script = f"{nap} & setsid {nap} & setsid env -i {nap} & echo begun; {nap}"
    error = refused(lambda: host.run(script, timeout_s=1.0))
    assert isinstance(error, RunFailed) and error.timed_out and error.transient
    assert (error.stdout, error.left) == ("begun\n", "")
    assert "did not end within 1 s" in str(error) and "it was killed" in str(error)
    assert running(nap) == []
    assert host.run("echo still here", timeout_s=LIMIT_S).stdout == "still here\n"


def test_a_command_outlives_no_lost_connection(sshd: Sshd, open_to: Callable[..., Connection]) -> None:
    """The host itself ends it when its time is over; here it must be on its way to be ended."""
    host = open_to(sshd.target())
    failed: list[DriverError] = []
    nap = f"sleep {NAP['lost']}"
    limit_s = LIMIT_S + os.getpid() / 1e3
    sent = threading.Thread(target=lambda: failed.append(refused(lambda: host.run(nap, timeout_s=limit_s))))
    sent.start()
    until(lambda: running(nap), "it runs", LIMIT_S)
    sshd.kill_sessions()
    sent.join(LIMIT_S)
    assert isinstance(failed[0], RunFailed) and failed[0].transient and "the connection broke" in str(failed[0])
    watchers = running(f"timeout -s KILL {ceil(limit_s) + 10} ")
    assert watchers  # the host's own limit
    for pid in [*running(nap), *watchers]:
        os.kill(pid, 9)


def test_nothing_of_a_command_is_in_the_process_list(host: Connection) -> None:
    look = """
        for f in /proc/[0-9]*/cmdline; do
            while IFS= read -r l || [ "$l" ]; do
                case "$l" in *"$S"*) echo leaked ;; *"unset l n"*) echo seen ;; esac
            done < "$f"
        done 2> /dev/null
        echo end"""
    done = host.run(look, env={"S": "secret-471"}, input=b"secret-4714", timeout_s=LIMIT_S)
    assert set(done.stdout.split()) == {"seen", "end"}  # our own shell is seen, and has nothing of it


def test_many_at_once_over_one_connection(host: Connection) -> None:
    """More than a server allows: they wait for each other."""
    found: list[str] = []
    threads = [threading.Thread(target=lambda n=n: found.append(host.run(f"echo {n}", timeout_s=LIMIT_S).stdout))
               for n in range(24)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found, key=int) == [f"{n}\n" for n in range(24)]


def test_as_many_can_hang_as_can_run(host: Connection) -> None:
    nap, found = f"sleep {NAP['many']}", []
    threads = [threading.Thread(target=lambda: found.append(refused(lambda: host.run(nap, timeout_s=2.0)))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hung = [error for error in found if isinstance(error, RunFailed)]
    assert len(hung) >= 8 and all(error.left == "" for error in hung)
    assert len(found) == 10 and all(error.transient for error in found)  # two found no place in time
    assert running(nap) == []


def test_facts_and_ping(host: Connection, sshd: Sshd) -> None:
    assert 0 < host.ping() < LIMIT_S
    facts = host.facts(path=str(sshd.folder / "not-there-yet"))
    assert facts.cores == os.cpu_count() and facts.uid == os.geteuid() and facts.home == str(sshd.home)
    assert facts.memory_mb > 0 and facts.disk_gb >= facts.disk_free_gb > 0 and facts.arch == os.uname().machine
    assert facts.python and facts.python_version
    assert "there is no Python" in host.facts(python="/no/such/python").python_problem


@pytest.mark.parametrize("limit_s", [0, -1])
def test_a_limit_is_needed(host: Connection, limit_s: float) -> None:
    assert refused(lambda: host.run("true", timeout_s=limit_s)).code == base.REQUEST


# -- life ------------------------------------------------------------------------------------------------------


def test_connections_are_reused_reopened_and_closed_when_idle(sshd: Sshd) -> None:
    with Connections(idle_s=0.3) as kept:
        first = kept.get(sshd.target())
        first.run(":", timeout_s=LIMIT_S)
        logins = sshd.log.count("Accepted publickey")
        assert kept.get(sshd.target()) is first
        kept.get(sshd.target()).run(":", timeout_s=LIMIT_S)
        assert sshd.log.count("Accepted publickey") == logins
        sshd.kill_sessions()
        assert kept.get(sshd.target()).run("echo again", timeout_s=LIMIT_S).stdout == "again\n"
        until(lambda: len(kept) == 0 and not first.is_open, "closed when idle", LIMIT_S)
        assert kept.get(sshd.target()).run("echo anew", timeout_s=LIMIT_S).stdout == "anew\n"


def test_hosts_that_are_not_there_do_not_speak_or_are_not_known(open_to: Callable[..., Connection]) -> None:
    nobody = Target("127.0.0.1", port=1, password="p", host_key="SHA256:" + "x" * 43, connect_timeout_s=0.5)
    with silent_listener() as port:
        cases = [(nobody, "connection refused", True), (replace(nobody, port=port), "did not begin to speak SSH", True),
                 (replace(nobody, host="no-such-host.invalid"), "name is not known", False)]  # fmt: skip
        for target, text, transient in cases:
            error = refused(open_to(target).open)
            assert text in str(error) and target.label in str(error)
            assert (error.code, error.transient) == (base.ENDPOINT, transient or "again" in str(error))


def test_a_server_that_stops_speaking(sshd: Sshd, open_to: Callable[..., Connection]) -> None:
    host = open_to(sshd.target(connect_timeout_s=1.0))
    host.run(":", timeout_s=LIMIT_S)
    sshd.freeze()
    try:
        error = refused(lambda: host.run("echo x", timeout_s=1.0))
        assert error.transient
        other = open_to(sshd.target(connect_timeout_s=1.0))
        assert refused(other.open).code == base.ENDPOINT
    finally:
        sshd.thaw()
    assert host.run("echo back", timeout_s=LIMIT_S).stdout == "back\n"


# -- keys and passwords ----------------------------------------------------------------------------------------


def test_a_changed_host_key_is_refused_until_somebody_accepts_it(sshds: Sshds, tmp_path: Path,
                                                                  open_to: Callable[..., Connection]) -> None:  # fmt: skip
    server = sshds.start()
    target = server.target(known_hosts=str(tmp_path / "pins"))
    open_to(target).open()
    old = server.fingerprint()
    server.stop()
    server.make_host_key()
    server.start()
    error = refused(open_to(target).open)
    assert (error.code, error.transient) == (base.AUTH, False)
    assert old in str(error) and server.fingerprint() in str(error)
    forget = str(error).partition("run: ")[2]
    subprocess.run(forget, shell=True, check=True, capture_output=True)
    open_to(target).open()
    assert server.host_key() in (tmp_path / "pins").read_text()


def test_a_key_of_another_type_is_no_way_round(sshds: Sshds, tmp_path: Path, open_to: Callable[..., Connection]) -> None:
    first = sshds.start(key_types=("ed25519",))
    target = first.target(known_hosts=str(tmp_path / "pins"))
    open_to(target).open()
    first.stop()
    second = sshds.start(key_types=("rsa",), port=first.port)
    error = refused(open_to(target).open)
    assert error.code == base.AUTH and "ssh-rsa" in str(error) and first.fingerprint() in str(error)
    second.stop()


def test_of_several_host_keys_the_known_one_is_asked_for(sshds: Sshds, tmp_path: Path,
                                                         open_to: Callable[..., Connection]) -> None:  # fmt: skip
    kinds = ("ed25519", "ecdsa", "rsa")
    server = sshds.start(key_types=kinds)
    for kind in kinds:
        (tmp_path / kind).write_text(f"[127.0.0.1]:{server.port} {server.host_key(kind)}\n")
        open_to(server.target(known_hosts=str(tmp_path / kind), host_key_policy="known_hosts")).open()
        open_to(server.target(host_key=server.host_key(kind))).open()
        open_to(server.target(host_key=server.fingerprint(kind))).open()
    error = refused(open_to(server.target(host_key="SHA256:" + "A" * 43)).open)
    assert error.code == base.AUTH and server.fingerprint() in str(error)


def test_keys_with_a_passphrase_and_keys_as_text(sshds: Sshds, sshd: Sshd, tmp_path: Path,
                                                 open_to: Callable[..., Connection]) -> None:  # fmt: skip
    authorized = sshds.key.with_suffix(".pub")
    before = authorized.read_text()
    try:
        for kind in ("ed25519", "ecdsa", "rsa"):
            path = make_key(tmp_path / kind, kind, passphrase="open-sesame")
            authorized.write_text(before + path.with_suffix(".pub").read_text())
            for key in (str(path), path.read_text()):
                open_to(sshd.target(key=key, key_passphrase="open-sesame")).open()
        for passphrase, text in (("", "needs its passphrase"), ("wrong-sesame", "is wrong")):
            error = refused(open_to(sshd.target(key=key, key_passphrase=passphrase)).open)
            assert text in str(error) and "sesame" not in str(error) and error.code == base.AUTH
    finally:
        authorized.write_text(before)


def test_a_wrong_key_and_no_way_in_at_all(sshd: Sshd, tmp_path: Path, open_to: Callable[..., Connection]) -> None:
    error = refused(open_to(sshd.target(key=str(make_key(tmp_path / "other")))).open)
    assert (error.code, error.transient) == (base.AUTH, False) and "is not let in with the key" in str(error)
    assert "nothing to log in with" in str(refused(open_to(sshd.target(key="")).open))


def test_keys_of_an_agent(sshds: Sshds, sshd: Sshd, tmp_path: Path, open_to: Callable[..., Connection],
                          monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    socket = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        until(socket.exists, "the agent listens", LIMIT_S)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        subprocess.run(["ssh-add", "-q", str(sshds.key)], check=True, capture_output=True)
        open_to(sshd.target(key="", use_agent=True)).open()
    finally:
        agent.kill()
        agent.wait()


@as_root
def test_passwords(sshds: Sshds, account: Account, open_to: Callable[..., Connection]) -> None:
    server = sshds.start(password=True)
    target = server.target(user=account.name, key="", password=account.password)
    assert open_to(target).run("id -un", timeout_s=LIMIT_S).stdout.strip() == account.name
    error = refused(open_to(replace(target, password="wrong-4715")).open)
    assert error.code == base.AUTH and not error.transient
    assert "wrong-4715" not in str(error) and account.password not in repr(target)


@as_root
def test_an_account_without_a_shell(sshd: Sshd, account: Account, open_to: Callable[..., Connection]) -> None:
    subprocess.run(["usermod", "--shell", "/usr/sbin/nologin", account.name], check=True)
    try:
        error = refused(lambda: open_to(sshd.target(user=account.name)).run("true", timeout_s=LIMIT_S))
        assert error.code == base.AUTH and "did not start the command" in str(error) and "not available" in str(error)
    finally:
        subprocess.run(["usermod", "--shell", "/bin/bash", account.name], check=True)


# -- sudo ------------------------------------------------------------------------------------------------------


@as_root
def test_sudo_with_a_password(sshds: Sshds, sshd: Sshd, open_to: Callable[..., Connection], tmp_path: Path) -> None:
    with Account(sshds.folder / "sudo-home", sudo="password") as who:
        target = sshd.target(user=who.name, sudo_password=who.password)
        host = open_to(target)
        assert host.run("id -u; cat", sudo=True, input=b"in", timeout_s=LIMIT_S).stdout == "0\nin"
        assert host.run("id -un", timeout_s=LIMIT_S).stdout.strip() == who.name
        assert host.run("echo e >&2; exit 4", sudo=True, timeout_s=LIMIT_S).stderr == "e\n"
        file = sshds.folder / "of-root"
        host.put(b"content", str(file), mode=0o640, sudo=True)
        assert (file.read_bytes(), file.stat().st_uid, file.stat().st_mode & 0o777) == (b"content", 0, 0o640)
        assert host.get(str(file), sudo=True) == b"content"
        assert "denied" in str(refused(lambda: host.get(str(file)))).lower()
        nap = f"sleep {NAP['sudo']}"
        error = refused(lambda: host.run(f"echo begun; setsid {nap} & {nap}", sudo=True, timeout_s=1.5))
        assert isinstance(error, RunFailed) and error.left == "" and running(nap) == []
        wrong = refused(lambda: open_to(replace(target, sudo_password="wrong-4717")).run("id", sudo=True, timeout_s=LIMIT_S))
        assert wrong.code == base.AUTH and "sudo password is wrong" in str(wrong) and "4717" not in str(wrong)
        none = refused(lambda: open_to(replace(target, sudo_password="")).run("id", sudo=True, timeout_s=LIMIT_S))
        assert none.code == base.AUTH and "sudo is refused" in str(none)


@as_root
def test_sudo_without_a_password(sshds: Sshds, sshd: Sshd, account: Account, open_to: Callable[..., Connection]) -> None:
    with Account(sshds.folder / "free-home", sudo="nopasswd") as who:
        for password in ("", "not-asked-for-4718"):
            host = open_to(sshd.target(user=who.name, sudo=True, sudo_password=password))
            assert host.run("id -u; cat", input=b"in", timeout_s=LIMIT_S).stdout == "0\nin"
    error = refused(lambda: open_to(sshd.target(user=account.name)).run("id", sudo=True, timeout_s=LIMIT_S))
    assert error.code == base.AUTH and "sudo is refused" in str(error)


# -- jump hosts ------------------------------------------------------------------------------------------------


def test_jump_hosts(sshds: Sshds, sshd: Sshd, open_to: Callable[..., Connection]) -> None:
    gate, inner = sshds.start_many(2)
    target = sshd.target(jump=inner.target(jump=gate.target()))
    host = open_to(target)
    assert host.run("echo $CLOUDSCHED_TEST_HOST", timeout_s=LIMIT_S).stdout.strip() == sshd.name
    host.put(b"x" * 100_000, str(sshd.folder / "through"))
    assert host.get(str(sshd.folder / "through")) == b"x" * 100_000
    with Connections() as kept:
        others = [replace(target, port=one.port, host_key=one.host_key()) for one in sshds.start_many(2)]
        before = inner.log.count("Accepted publickey")
        assert all(one.ok for one in on_all(others, lambda one: kept.get(one).run(":", timeout_s=LIMIT_S), timeout_s=LIMIT_S))
        assert inner.log.count("Accepted publickey") == before + 1  # one connection for both
        inner.kill_sessions()
        assert all(one.ok for one in on_all(others, lambda one: kept.get(one).run(":", timeout_s=LIMIT_S), timeout_s=LIMIT_S))
    inner.stop()
    error = refused(open_to(target).open)
    assert error.code == base.ENDPOINT and inner.target().label in str(error)


def test_a_jump_host_that_forwards_nothing(sshds: Sshds, sshd: Sshd, open_to: Callable[..., Connection]) -> None:
    gate = sshds.start(forwarding=False)
    error = refused(open_to(sshd.target(jump=gate.target())).open)
    assert (error.code, error.transient) == (base.ENDPOINT, True)
    assert f"no channel to it through {gate.target().label}" in str(error)


# -- files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sftp", [True, False])
def test_files(sshds: Sshds, open_to: Callable[..., Connection], tmp_path: Path, sftp: bool) -> None:
    server = sshds.start(sftp=sftp)
    host = open_to(server.target())
    content = os.urandom(3_000_000)
    source = tmp_path / "source"
    source.write_bytes(content)
    for given in (content, source, b""):
        host.put(given, str(tmp_path / "odd name $x'"), mode=0o644)
        assert (tmp_path / "odd name $x'").read_bytes() == (given.read_bytes() if isinstance(given, Path) else given)
    assert (tmp_path / "odd name $x'").stat().st_mode & 0o777 == 0o644
    host.put(b"1", f"{tmp_path}/private")
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600
    (tmp_path / "private").unlink()
    relative = os.path.relpath(source, os.path.expanduser("~"))
    assert host.get(f"~/{relative}") == host.get(relative) == content
    assert host.get(str(source)) == content
    for call, text in ((lambda: host.get(str(tmp_path / "missing")), "No such file"),
                       (lambda: host.put(b"", str(tmp_path / "no" / "such")), "No such file|nonexistent"),
                       (lambda: host.get(str(source), max_bytes=100), "larger than 100 bytes"),
                       (lambda: host.put(b"", "dir/"), "not the path of a file")):  # fmt: skip
        with pytest.raises(DriverError, match=text) as caught:
            call()
        assert caught.value.code == base.REQUEST
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd name $x'", "source"]
    assert host._no_sftp is not sftp


# -- many hosts ------------------------------------------------------------------------------------------------


def test_one_result_for_each_of_many_hosts(sshds: Sshds) -> None:
    """Five that answer, one that is silent, one that is not there, one whose key is another, one that is killed meanwhile."""
    good = sshds.start_many(5)
    doomed, changed = sshds.start_many(2)
    with silent_listener() as port, Connections() as kept:
        key = good[0].target(connect_timeout_s=2.0)
        targets = [*(one.target() for one in good), replace(key, port=port), replace(key, port=1),
                   changed.target(host_key=good[0].host_key()), doomed.target()]  # fmt: skip
        begun = threading.Event()

        def work(target: Target) -> str:
            if target.port != doomed.port:
                return kept.get(target).run("echo $CLOUDSCHED_TEST_HOST", timeout_s=LIMIT_S).stdout.strip()
            return kept.get(target).run(f"echo; sleep {NAP['many']}", timeout_s=LIMIT_S, on_output=lambda *_: begun.set()).stdout

        killer = threading.Thread(target=lambda: (begun.wait(LIMIT_S), doomed.stop()))
        killer.start()
        results = on_all(targets, work, timeout_s=LIMIT_S)
        killer.join()
    for pid in running(f"sleep {NAP['many']}"):
        os.kill(pid, 9)
    assert [one.value for one in results[:5]] == [one.name for one in good]
    assert [one.error for one in results[5:]] == ["unreachable", "unreachable", "auth", "unreachable"]
    assert "the connection broke" in results[8].message
    assert all(one.host in one.message for one in results[5:])
