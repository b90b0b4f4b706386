"""Which host gets a machine, and what does it mean when a host is away? The host's own program runs here, without SSH."""

from __future__ import annotations

import ast
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched import clock
from cloudsched.agent import processes
from cloudsched.clock import ManualClock
from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError, Place, Wanted
from cloudsched.drivers.ssh import driver as module
from cloudsched.drivers.ssh import remote
from cloudsched.drivers.ssh.driver import SshDriver
from cloudsched.drivers.ssh.hosts import Host
from cloudsched.drivers.ssh.session import RunFailed


class World:
    """Hosts that are directories; each can be away, refuse us, or lose its answer once it has done its work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trouble: dict[str, str] = {}
        self.calls: list[tuple[str, str]] = []

    def driver(self, *hosts: str | dict[str, Any], state: str = "state") -> SshDriver:
        options = {"hosts": [{"cores": 4, "memory_mb": 4000, "storage_gb": 1000,
                              **(one if isinstance(one, dict) else {"host": one})} for one in hosts]}  # fmt: skip
        made = SshDriver(Place("c", "SSH", options, {"password": "p"}, state_dir=str(self.folder / state),
                               server_url="http://127.0.0.1:1"))  # fmt: skip
        made._connections = _Connections()  # type: ignore[assignment]
        made._keeper = lambda host: _Keeper(self, host)  # type: ignore[method-assign,assignment,return-value]
        return made

    def call(self, host: Host, do: str, facts: dict[str, Any]) -> dict[str, Any]:
        self.calls.append((host.label, do))
        trouble = self.trouble.get(host.label, "")
        if trouble == "away":
            raise DriverError(f"{host.label}: connection refused", code=base.ENDPOINT, transient=True)
        if trouble == "auth":
            raise DriverError(f"{host.label}: not let in", code=base.AUTH)
        asked = {"do": do, "root": str(self.folder / host.label), "limits": host.limits, "agent": "agent-x.pyz", **facts}
        said = remote.answer(asked)
        assert "error" not in said, said
        if trouble == "lost":
            raise RunFailed(f"{host.label}: the connection broke", code=base.ENDPOINT, stdout=b"", stderr=b"")
        return said

    def machines_on(self, label: str) -> int:
        return len(list((self.folder / label).glob("*/*/machine.json")))


class _Connections:
    def get(self, target: Any) -> Any:
        return type("Open", (), {"target": target})()


class _Keeper:
    def __init__(self, world: World, host: Host) -> None:
        self._world, self._host = world, host

    def call(self, connection: Any, do: str, *, timeout_s: float, **facts: Any) -> dict[str, Any]:
        return self._world.call(self._host, do, facts)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    def start(home: str, facts: dict[str, Any], asked: dict[str, Any]) -> None:
        facts.update(agent=asked["agent"], pid=os.getpid(), started=processes.start_time(os.getpid()))
        Path(home, "work", "agent.json").touch()
        remote._write(home, facts)

    monkeypatch.setattr(remote, "_start", start)
    monkeypatch.setattr(remote, "_end", lambda home, facts: shutil.rmtree(home))
    return World(tmp_path)


@pytest.fixture
def manual(monkeypatch: pytest.MonkeyPatch) -> Iterator[ManualClock]:
    stepped = ManualClock()
    monkeypatch.setattr(clock, "now", stepped.now)
    return stepped


def wanted(name: str = "n", **facts: Any) -> Wanted:
    return Wanted(**{"name": name, "node_id": 1, "cores": 1, "memory_mb": 100, "storage_gb": 1, "join_token": "t", **facts})


def states(driver: SshDriver) -> dict[str, str]:
    return {machine.name: machine.state for machine in driver.machines()}


def refused(driver: SshDriver, name: str = "n", **facts: Any) -> DriverError:
    with pytest.raises(DriverError) as caught:
        driver.boot(wanted(name, **facts))
    return caught.value


def test_the_host_with_most_room_is_taken_until_none_has_any(world: World) -> None:
    driver = world.driver("a", {"host": "b", "cores": 2})
    places = [driver.boot(wanted(f"n{number}")).handle["host"] for number in range(6)]
    assert places[:2] == ["a", "a"] and sorted(places) == ["a"] * 4 + ["b"] * 2
    error = refused(driver, "n7")
    assert (error.code, error.transient) == (base.QUOTA, False)
    assert "a: cores: 1 wanted, 0 of 4 free" in str(error) and "b: cores" in str(error)
    driver.destroy("n0", {})
    assert driver.boot(wanted("n7")).handle["host"] == places[0]


@pytest.mark.parametrize("size", ["cores", "memory_mb", "storage_gb"])
def test_each_size_counts(world: World, size: str) -> None:
    driver = world.driver({"host": "a", "cores": 10, "memory_mb": 10, "storage_gb": 10})
    share = {"cores": 1, "memory_mb": 1, "storage_gb": 1}
    driver.boot(wanted("n1", **{**share, size: 8}))
    assert f"{size}: 3 wanted, 2 of 10 free" in str(refused(driver, "n2", **{**share, size: 3}))
    driver.boot(wanted("n2", **{**share, size: 2}))


def test_a_host_may_take_so_many_machines_and_no_more(world: World) -> None:
    driver = world.driver({"host": "a", "machines": 1})
    driver.boot(wanted("n1"))
    assert "machines: 1 of 1 are there" in str(refused(driver, "n2"))


def test_clouds_that_share_a_host_share_its_room(world: World) -> None:
    world.driver("a", state="s1").boot(wanted("n1", cores=3))
    other = world.driver("a", state="s2")
    other._place = Place("other", "SSH", {}, state_dir="x", server_url="http://127.0.0.1:1")
    assert "2 wanted, 1 of 4 free" in str(refused(other, "n2", cores=2))
    assert states(other) == {}


def test_a_host_that_is_away_stops_nobody_and_hides_nothing(world: World) -> None:
    driver = world.driver("a", "b")
    first = driver.boot(wanted("n1"))
    away = first.handle["host"]
    world.trouble[away] = "away"
    driver._forget_look()
    second = driver.boot(wanted("n2"))
    assert second.handle["host"] != away
    told = {machine.name: machine for machine in driver.machines()}
    assert (told["n1"].state, told["n2"].state) == ("Unreachable", "Running")
    assert told["n1"].external_id == first.external_id and "connection refused" in told["n1"].reason
    error = refused(driver, "n1")
    assert (error.code, error.transient) == (base.ENDPOINT, True)
    world.trouble.clear()
    assert states(driver) == {"n1": "Running", "n2": "Running"}


def test_a_lost_answer_leads_back_to_the_same_host(world: World) -> None:
    driver = world.driver({"host": "a", "cores": 3}, {"host": "b", "cores": 2})
    driver._look()
    world.trouble["a"] = "lost"
    error = refused(driver)
    assert (error.code, error.transient) == (base.ENDPOINT, True)
    assert (world.machines_on("a"), world.machines_on("b")) == (1, 0)
    world.trouble["a"] = "away"
    assert refused(driver).transient
    assert world.machines_on("b") == 0
    assert states(driver) == {"n": "Starting"}  # asked for; what became of it is not known
    world.trouble.clear()
    assert driver.boot(wanted()).handle["host"] == "a"
    assert (world.machines_on("a"), world.machines_on("b")) == (1, 0)


def test_where_nothing_was_begun_the_next_host_is_asked(world: World) -> None:
    driver = world.driver({"host": "a", "cores": 8}, "b")
    driver._look()
    world.trouble["a"] = "away"
    assert driver.boot(wanted()).handle["host"] == "b"
    world.trouble.clear()
    assert driver.boot(wanted()).handle["host"] == "b"
    assert world.machines_on("a") == 0


@pytest.mark.parametrize(("trouble", "code"), [("away", base.ENDPOINT), ("auth", base.AUTH)])
def test_only_when_no_host_answers_the_cloud_is_away(world: World, trouble: str, code: int) -> None:
    driver = world.driver("a", "b")
    driver.boot(wanted())
    driver._forget_look()
    world.trouble = {"a": trouble, "b": trouble}
    for call in (driver.machines, lambda: driver.boot(wanted("other"))):
        with pytest.raises(DriverError, match="no host") as caught:
            call()
        assert (caught.value.code, caught.value.transient) == (code, trouble == "away")
    world.trouble.clear()
    assert states(driver) == {"n": "Running"}


def test_destroy_says_when_it_cannot_know(world: World) -> None:
    driver = world.driver("a", "b")
    machine = driver.boot(wanted())
    world.trouble[machine.handle["host"]] = "away"
    for handle in (machine.handle, {}):
        with pytest.raises(DriverError, match="refused") as caught:
            driver.destroy("n", handle)
        assert caught.value.transient
    with pytest.raises(DriverError, match="cannot be told whether unknown"):
        driver.destroy("unknown", {})
    assert states(driver) == {"n": "Unreachable"}
    world.trouble.clear()
    driver.destroy("n", {})
    assert states(driver) == {}
    driver.destroy("unknown", {})


def test_hosts_tell_what_a_lost_state_file_knew(world: World) -> None:
    first = world.driver("a", "b").boot(wanted())
    again = world.driver("a", "b", state="another-machine")
    assert again.boot(wanted()).external_id == first.external_id
    assert states(again) == {"n": "Running"}
    again.destroy("n", {})
    assert states(world.driver("a", "b")) == {}


def test_a_host_that_leaves_the_pool(world: World) -> None:
    driver = world.driver("a")
    first = driver.boot(wanted("n1"))
    driver = world.driver("b")
    assert states(driver) == {"n1": "Running"}  # still reached
    assert driver.boot(wanted("n2")).handle["host"] == "b"
    driver.destroy("n1", first.handle)
    assert states(driver) == {"n2": "Running"}
    driver = world.driver("c")
    world.trouble["b"] = "away"  # taken out because it is dead: its machine is given up
    assert states(driver) == {}
    driver.destroy("n2", {"host": "b"})


def test_a_machine_that_a_host_has_lost_is_gone(world: World, manual: ManualClock) -> None:
    driver = world.driver("a")
    driver.boot(wanted())
    manual.advance(1)
    shutil.rmtree(world.folder / "a")
    assert states(driver) == {}
    assert driver._placements.all() == {}


def test_a_listing_that_is_older_than_a_destroy_brings_nothing_back(world: World, manual: ManualClock,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    driver = world.driver("a")
    driver.boot(wanted())
    real = driver._ask

    def overtaken(hosts: Any, do: str, **facts: Any) -> Any:
        listed = real(hosts, do, **facts)
        if do == "list":
            driver.destroy("n", {})
        return listed

    monkeypatch.setattr(driver, "_ask", overtaken)
    manual.advance(1)
    driver.machines()
    assert driver._placements.all() == {}


def test_a_boot_that_goes_on_is_not_forgotten(world: World, manual: ManualClock) -> None:
    driver = world.driver("a")
    driver._placements.intend("n", "a")
    manual.advance(module.INTENT_S - 1)
    assert states(driver) == {} and driver._placements.get("n") is not None
    manual.advance(2)
    assert states(driver) == {} and driver._placements.get("n") is None


def test_two_processes_that_boot_the_same_name_make_one_machine(world: World) -> None:
    drivers = [world.driver("a", "b", "c") for _ in range(6)]
    found: list[str] = []
    threads = [threading.Thread(target=lambda one=one: found.append(one.boot(wanted()).external_id)) for one in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len(set(found)) == 1
    assert sum(world.machines_on(label) for label in "abc") == 1


def test_a_host_that_lets_us_wait_is_left_alone_for_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = world.driver("a", "b")
    driver.boot(wanted())
    monkeypatch.setattr(module, "SLOW_S", -1.0)
    world.trouble["b"] = "away"
    states(driver)
    world.calls.clear()
    states(driver)
    assert ("b", "list") not in world.calls and ("a", "list") in world.calls
    monkeypatch.setattr(module, "AWAY_S", -1.0)
    driver._away.clear()
    states(driver)
    assert ("b", "list") in world.calls


def test_unknown_hosts_are_refused_by_name(world: World) -> None:
    driver = world.driver("a", "b")
    with pytest.raises(DriverError, match="hosts: 'x' is none of a, b") as caught:
        driver.run_all("true", hosts=["a", "x"], timeout_s=1)
    assert caught.value.code == base.REQUEST


def test_what_others_have_in_the_work_directory_stays(world: World) -> None:
    root = world.folder / "a"
    theirs = [root / name for name in (".git/config", "project/.cache/file", "project/machine.json", "agent-x", "lockfile")]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("theirs")
        os.utime(path.parent, (0, 0))
    root.chmod(0o750)
    driver = world.driver("a")
    driver.boot(wanted())
    states(driver)
    driver.destroy("n", {})
    (root / "agent-0123.pyz").touch()
    assert driver.remove_agents()[0].value["removed"]
    assert all(path.read_text() == "theirs" for path in theirs)
    assert sorted(path.name for path in root.iterdir()) == [".git", "agent-x", "lockfile", "project"]
    assert root.stat().st_mode & 0o777 == 0o750


def test_an_interrupted_start_is_cleared_away(world: World) -> None:
    driver = world.driver("a")
    driver.boot(wanted())
    home = next((world.folder / "a").glob("*/*/machine.json")).parent
    old, new = (home.with_name(f".{home.name}.{pid}") for pid in (1, 2))
    for draft in (old, new):
        draft.mkdir()
        (draft / "token").write_text("t")
    os.utime(old, (0, 0))
    assert states(driver) == {"n": "Running"}
    assert (old.exists(), new.exists()) == (False, True)
    driver.destroy("n", {})
    assert not new.exists() and not home.parent.exists()


def test_the_program_for_the_host_is_python_3_8() -> None:
    ast.parse(Path(remote.__file__).read_text(), feature_version=(3, 8))


def test_a_damaged_state_file_is_made_anew(world: World) -> None:
    driver = world.driver("a")
    driver.boot(wanted())
    path = driver._placements._path
    for text in ("", "{", "[]", '{"machines": {"n": {"x": 1}}}'):
        path.write_text(text)
        assert states(driver) == {"n": "Running"}
        assert driver._placements.get("n") is not None
