"""Do clusters of both kinds start, heal, get adopted and go without a trace? On played engines."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cloudsched.agent import privileges, processes
from cloudsched.drivers.base import DriverError, Place
from cloudsched.drivers.frameworks_local import engines, ports, users
from cloudsched.drivers.frameworks_local.homes import MARK, ROLE, Homes
from cloudsched.drivers.frameworks_local.place import LocalPlace
from cloudsched.errors import Invalid

from .conftest import Local, script, wait_until


def homes(local: Local) -> Homes:
    return Homes(local.state_dir / "frameworks" / local.kind, instance="test")


def die(pid: int) -> None:
    started = processes.start_time(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: processes.start_time(pid) != started, "death")


def test_verify_says_what_is_there(local: Local) -> None:
    checks = {one.name: one for one in local.framework.verify()}
    assert all(one.ok for one in checks.values()), checks
    assert checks["java"].detail.startswith("17 in ")
    assert checks[local.kind].detail.startswith(("4.9.9 in", "2.9.9 in"))


def test_a_cluster_comes_whole_and_goes_without_a_trace(local: Local) -> None:
    seen = local.whole()
    assert local.saved[0]["mark"] == seen.facts["mark"], "saved before anything was started"
    assert seen.address == local.handle["address"] and seen.address.partition("://")[2].startswith("127.0.0.1:")
    assert seen.web_url.startswith("http://127.0.0.1:") and not seen.busy and seen.reason == ""
    assert set(seen.facts["pids"]) == {"master", "worker-0", "worker-1"}
    assert local.framework.clusters() == [local.wanted.key]
    json.dumps(dict(seen.facts))
    local.framework.stop(local.wanted, local.handle)
    assert local.processes() == [] and local.framework.clusters() == []
    gone = local.look()
    assert (gone.master, gone.workers) == (False, 0) and "no such cluster" in gone.reason
    local.framework.stop(local.wanted, local.handle)
    assert list((local.state_dir / "frameworks" / local.kind).iterdir()) == [], "not even a lock"


@pytest.mark.engines
def test_processes_are_detached_and_know_no_secret(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hush")
    local.whole()
    facts = homes(local).at(local.wanted.key).facts()
    secret = facts.get("secret", "hush").encode()
    for pid, _ in local.processes():
        assert os.getsid(pid) != os.getsid(0)
        shown = processes.environment(pid) + Path(f"/proc/{pid}/cmdline").read_bytes()
        assert b"hush" not in shown and secret not in shown
        targets = {os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd") if int(number) < 3}
        assert all(target == "/dev/null" or target.startswith(str(local.state_dir)) for target in targets)
    assert "secret" not in json.dumps([dict(local.look().facts), local.handle])
    conf = local.state_dir / "frameworks" / local.kind / local.wanted.key / "conf"
    assert {path.stat().st_mode & 0o777 for path in conf.iterdir()} == {0o400}


@pytest.mark.engines
def test_launching_again_starts_nothing_twice(local: Local) -> None:
    before = local.whole().facts["pids"]
    local.launch()
    assert local.await_workers(2).facts["pids"] == before


def test_a_lost_worker_is_seen_and_comes_back(local: Local) -> None:
    local.whole()
    die(local.pid("worker-1"))
    seen = wait_until(lambda: found if (found := local.look()).workers == 1 else None)
    assert seen.master and "worker-1: not running" in seen.reason
    local.launch()
    assert set(local.await_workers(2).facts["pids"]) == {"master", "worker-0", "worker-1"}


@pytest.mark.engines
def test_a_lost_master_comes_back_where_its_workers_look_for_it(local: Local) -> None:
    before = local.whole()
    die(local.pid("master"))
    seen = local.look()
    assert not seen.master and "not running" in seen.reason and seen.workers == 0
    local.launch()
    after = local.await_workers(2)
    assert after.address == before.address
    assert after.facts["pids"]["worker-0"] == before.facts["pids"]["worker-0"]


@pytest.mark.engines
def test_a_master_whose_port_was_taken_moves(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    before = local.whole()
    die(local.pid("master"))
    rpc = homes(local).at(local.wanted.key).facts()["ports"]["rpc"]
    is_free = ports.is_free
    monkeypatch.setattr(ports, "is_free", lambda port: port != rpc and is_free(port))
    local.launch()
    after = local.await_workers(2)
    assert after.address != before.address and local.handle["address"] == after.address
    assert after.facts["pids"]["worker-0"] != before.facts["pids"]["worker-0"]


@pytest.mark.engines
def test_a_cluster_shrinks_and_grows(local: Local) -> None:
    local.whole(workers=3)
    local.launch(workers=1)
    assert set(local.await_workers(1).facts["pids"]) == {"master", "worker-0"}
    assert set(local.whole(workers=2).facts["pids"]) == {"master", "worker-0", "worker-1"}


@pytest.mark.engines
def test_another_process_finds_what_was_started_and_not_written_down(local: Local) -> None:
    before = local.whole().facts["pids"]
    roles = homes(local).at(local.wanted.key).path / "roles"
    for name in ("master.json", "worker-0.json"):
        known = json.loads((roles / name).read_text())
        (roles / name).write_text(json.dumps({**known, "pid": 0, "started": 0}))
    local.framework = local.another()
    assert local.look().facts["pids"] == before
    local.launch()
    assert local.await_workers(2).facts["pids"] == before


@pytest.mark.engines
def test_an_interrupted_launch_is_completed(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after each process in turn: the next one goes on where it was."""
    code = textwrap.dedent("""
        import json, os, sys
        from cloudsched.drivers import flink_local, spark_local
        from cloudsched.drivers.base import Place
        from cloudsched.drivers.frameworks import ClusterWanted
        from cloudsched.drivers.frameworks_local import homes
        kind, options, state, wanted, survive = json.loads(sys.argv[1])
        spawn, count = os.posix_spawn, [survive]
        def dying(*args, **kw):
            pid = spawn(*args, **kw)
            count[0] -= 1
            if not count[0]:
                os.kill(os.getpid(), 9)
            return pid
        os.posix_spawn = dying
        make = {"spark": spark_local.make, "flink": flink_local.make}[kind]
        make(Place("local", kind, options, state_dir=state, instance="test")).launch(ClusterWanted(**wanted), {}, lambda _: None)
    """)
    wanted = {name: getattr(local.wanted, name) for name in type(local.wanted).__slots__}
    for survive in (1, 2):
        given = json.dumps([local.kind, local.options, str(local.state_dir), wanted, survive])
        root = str(Path(__file__).parents[3])
        done = subprocess.run([sys.executable, "-c", code, given], env={**os.environ, "PYTHONPATH": root}, check=False)
        assert done.returncode == -signal.SIGKILL
    facts = homes(local).at(local.wanted.key).facts()
    assert len(processes.marked({MARK: facts["mark"]})) == 3, "master, then worker after worker; none twice"
    local.whole()
    for role in ("master", "worker-0", "worker-1"):
        assert len(processes.marked({MARK: facts["mark"], ROLE: f"{role}.1"})) == 1
    assert len(local.processes()) == 3


@pytest.mark.parametrize(("field", "value", "said"), [
    ("key", "../evil", "DNS label"), ("key", "", "DNS label"), ("key", "UPPER", "DNS label"), ("workers", 0, "1 to 64"),
    ("workers", 65, "1 to 64"), ("workers", True, "1 to 64"), ("worker_memory_mb", 511, "512 to"), ("worker_cores_m", 0, "1 to"),
    ("master_memory_mb", 1, "to"), ("master_cores_m", -1, "0 to"), ("kind", "ray", "is not")])
def test_bad_input_names_the_field(local: Local, field: str, value: object, said: str) -> None:
    with pytest.raises(DriverError, match=f"{field}.*{said}"):
        local.launch(**{field: value})
    assert local.framework.clusters() == []


def test_options_are_checked(local: Local) -> None:
    local.options = {**local.options, "spark_hom": "x"}
    with pytest.raises(Invalid, match="spark_hom"):
        local.another()


@pytest.mark.parametrize(("option", "said"), [("java_home", "openjdk-17-jre-headless"), ("home", r"pip install 'cloudsched\[")])
def test_what_is_missing_is_named_with_what_to_install(local: Local, tmp_path: Path, option: str, said: str) -> None:
    option = f"{local.kind}_home" if option == "home" else option
    local.options = {**local.options, option: str(tmp_path / "nothing")}
    local.framework = local.another()
    assert any(not one.ok for one in local.framework.verify())
    with pytest.raises(DriverError, match=said) as caught:
        local.launch()
    assert not caught.value.transient and local.framework.clusters() == []


@pytest.mark.parametrize(("version", "good"), [
    ("11.0.2", False), ("1.8.0_392", False), ("17", True), ("21.0.1", True), ("?", False)])
def test_java_must_be_new_enough(local: Local, tmp_path: Path, version: str, good: bool) -> None:
    java = tmp_path / "other" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    java.chmod(0o755)
    local.options = {**local.options, "java_home": str(java.parents[1])}
    found = next(one for one in local.another().verify() if one.name == "java")
    assert found.ok is good and (good or "17 or later" in found.detail)


def test_run_as_must_be_possible(local: Local) -> None:
    local.options = {**local.options, "run_as": "no-such-user"}
    local.framework = local.another()
    with pytest.raises(DriverError, match="run_as: there is no user 'no-such-user'"):
        local.launch()


def test_nothing_runs_as_root_unless_that_is_said(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(privileges, "reachable", lambda path, uid, gid: not path.startswith(str(local.state_dir)))
    local.options = {**local.options, "run_as": "auto"}
    local.framework = local.another()
    text = r"run_as: nobody cannot reach .*frameworks.*mode 711.*dcluster\.run_as.*or to root"
    with pytest.raises(DriverError, match=text) as said:
        local.launch()
    assert not said.value.transient
    assert not next(one for one in local.framework.verify() if one.name == "user").ok
    assert users.choose("root", []).uid is None, "said so"
    monkeypatch.setattr(users, "UNPRIVILEGED", "no-such-user")
    with pytest.raises(DriverError, match="run_as: there is no user no-such-user, and nothing runs as root"):
        users.choose("auto", [])


def test_python_of_the_system_runs_jobs_of_who_cannot_reach_ours(local: Local, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    system = tmp_path / "usr" / "python3"
    script(system, "#!/bin/sh\necho 3 12\n")
    old = tmp_path / "old" / "python3"
    script(old, "#!/bin/sh\necho 3 6\n")
    monkeypatch.setattr(privileges, "reachable", lambda path, uid, gid: path.startswith(str(tmp_path)))
    where = LocalPlace(Place("local", "spark", {}, state_dir=str(local.state_dir), instance="test"), kind="spark",
                       engine=engines.spark)
    nobody = users.User("nobody", 65534, 65534)
    monkeypatch.setattr(engines, "SYSTEM_PYTHONS", (str(tmp_path / "none"), str(old), str(system)))
    assert where.python(nobody) == system
    assert where.python(users.User("me")) == Path(sys.executable)
    monkeypatch.setattr(engines, "SYSTEM_PYTHONS", (str(old),))
    with pytest.raises(DriverError, match=r"python: nobody cannot reach .*dcluster\.python"):
        where.python(nobody)
    where.options = {"python": "/elsewhere/python3"}
    with pytest.raises(DriverError, match="python: nobody cannot reach /elsewhere/python3"):
        where.python(nobody)


def test_a_cluster_stays_with_the_user_it_began_with(local: Local) -> None:
    """Also when others can reach its directory only later, or the option has changed."""
    local.options = {**local.options, "run_as": ""}
    local.framework = local.another()
    before = local.whole(workers=1)
    local.options = {**local.options, "run_as": "no-such-user"}
    local.framework = local.another()
    after = local.whole(workers=2)
    assert after.facts["user"] == before.facts["user"] == users.own_name()


@pytest.mark.engines
def test_stop_ends_what_shed_its_mark(local: Local) -> None:
    local.whole()
    home = homes(local).at(local.wanted.key).path
    with subprocess.Popen(["sleep", "1000"], cwd=home / "work", start_new_session=True, env={}) as stray:
        local.framework.stop(local.wanted, local.handle)
        assert stray.wait(10) == -signal.SIGKILL


@pytest.mark.engines
def test_stop_ends_what_lost_its_directory(local: Local) -> None:
    local.whole()
    shutil.rmtree(local.state_dir / "frameworks" / local.kind)
    assert not local.look().master and len(local.processes()) == 3
    local.framework.stop(local.wanted, local.handle)
    assert local.processes() == []


@pytest.mark.engines
def test_a_home_without_its_facts_is_taken_away(local: Local) -> None:
    local.whole()
    home = homes(local).at(local.wanted.key).path
    (home / "facts.json").write_text("{broken")
    assert local.framework.clusters() == [local.wanted.key] and not local.look().master
    local.framework.stop(local.wanted, {})
    assert local.processes() == [] and not home.exists()
