"""Does an external HTCondor pool get its machines? Its commands are small scripts that answer with recorded text."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudsched.drivers.condor import CondorError
from cloudsched.engine.loops import Loop, run_once
from cloudsched.services import jobs as job_service
from cloudsched.services import pool_ops, pool_views
from cloudsched.store import nodes, system

from .conftest import ADA, House

RECORDED = Path(__file__).parent.parent / "drivers" / "recorded"


class Condor:
    """The commands of a pool in a directory: what they answer is written there, what they were told is noted there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        for name in ("q", "status", "master", "off", "hold", "advertise"):
            script = directory / name
            script.write_text(
                f"#!{sys.executable} -S\nimport json, sys\nhere = {str(directory / name)!r}\n"
                "given = sys.stdin.read()\n"
                "open(here + '.told', 'a').write(json.dumps([sys.argv[1:], given]) + '\\n')\n"
                "try:\n    sys.stdout.write(open(here + '.out').read())\nexcept OSError:\n    pass\n"
                "try:\n    sys.exit(int(open(here + '.code').read()))\nexcept OSError:\n    pass\n")
            script.chmod(0o755)
        self.answers("off", "Sent \"Set-Peaceful-Shutdown\" command\n")
        self.machines()

    def settings(self) -> dict[str, str]:
        return {"condor_q_command": f"{self.directory}/q -l", "condor_status_command": f"{self.directory}/status -l",
                "condor_status_master_command": f"{self.directory}/master -master -l",
                "condor_off_command": f"{self.directory}/off", "condor_hold_command": f"{self.directory}/hold",
                "condor_advertise_command": f"{self.directory}/advertise"}

    def answers(self, name: str, text: str, *, code: int = 0) -> None:
        (self.directory / f"{name}.out").write_text(text)
        (self.directory / f"{name}.code").write_text(str(code))

    def told(self, name: str) -> list[list[str]]:
        file = self.directory / f"{name}.told"
        return [json.loads(line)[0] for line in file.read_text().splitlines()] if file.exists() else []

    def queue(self, *ads: str) -> None:
        self.answers("q", "\n\n".join(ads) + "\n" if ads else "")

    def machines(self, *slots: str) -> None:
        lines = [line for one in slots for line in one.splitlines() if line.startswith("Machine")]
        hosts = sorted({line.partition('"')[2].rstrip('"') for line in lines})
        self.answers("status", "\n\n".join(slots) + "\n" if slots else "")
        self.answers("master", "\n\n".join(f'MyType = "DaemonMaster"\nMachine = "{host}"\nMasterIpAddr = "<m-{host}>"'
                                           for host in hosts) + "\n" if hosts else "")


def ad(number: str, status: int = 1, *, user: str = "ada", **more: object) -> str:
    cluster, _, proc = number.partition(".")
    lines = [f"ClusterId = {cluster}", f"ProcId = {proc}", f'GlobalJobId = "pool#{number}#170"', f'Owner = "{user}"',
             f"JobStatus = {status}", "JobPrio = 0", 'Requirements = (VMType =?= "canfar")', "ServerTime = 1700000000"]
    return "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in more.items())])


def slot(host: str, *, number: int = 1, user: str = "ada", job: str = "") -> str:
    state = ('"Claimed"', '"Busy"') if job else ('"Unclaimed"', '"Idle"')
    lines = [f'Name = "slot{number}@{host}"', f'Machine = "{host}"', f"State = {state[0]}", f"Activity = {state[1]}",
             f'MyAddress = "<s-{host}>"', 'VMType = "canfar"', f'Start = ( Owner == "{user}" )']
    return "\n".join([*lines, *([f'GlobalJobId = "pool#{job}#170"', f'RemoteOwner = "{user}@x"'] if job else [])])


@pytest.fixture
def condor(tmp_path: Path) -> Condor:
    return Condor(tmp_path / "condor")


@pytest.fixture
def pooled(light: House, condor: Condor) -> House:
    light.add_cloud("alpha")
    light.set(**condor.settings())
    light.engine.announce()
    return light


def key(number: str) -> str:
    return f"pool#{number}#170"


def keys(which: str) -> list[str]:
    return [row.key.split("#")[1] for row in pool_views.job_list(which)]


def test_the_recorded_queues_are_read(pooled: House, condor: Condor) -> None:
    condor.answers("q", (RECORDED / "condor_q_old.txt").read_text())
    pooled.engine.poll_jobs()
    assert (keys("new"), keys("sched"), keys("running"), keys("held")) == (["13.2"], ["12.0"], ["12.0"], ["14.0"])
    assert keys("high") == ["12.0"]
    condor.answers("q", (RECORDED / "condor_q_new.txt").read_text())
    pooled.engine.poll_jobs()
    assert keys("new") == ["9000.0"]
    assert [row.status for row in pool_views.job_list("high")] == []


def test_a_job_gets_a_machine_runs_there_and_the_machine_goes(house: House, condor: Condor) -> None:
    house.add_cloud("alpha")
    house.set(**condor.settings())
    house.engine.announce()
    condor.queue(ad("1.0"), ad("2.0", 5), ad("3.0", 4))
    house.cycle()
    assert (keys("held"), keys("complete"), keys("new")) == (["2.0"], ["3.0"], [])
    (node,) = house.nodes()
    host = f"{node.name}.example.org"
    condor.machines(slot(host))
    house.cycle()
    node = house.node(node.id)
    assert (node.slot_name, node.slot_address, node.master_address) == (host, f"<s-{host}>", f"<m-{host}>")
    assert node.idle_since is not None
    condor.queue(ad("1.0", 2, RemoteHost=f"slot1@{host}", JobStartDate=int(house.clock.now())))
    condor.machines(slot(host, job="1.0"))
    house.cycle(2)
    assert house.node(node.id).idle_since is None
    (row,) = pool_views.job_list("running")
    assert (row.cloud, row.scheduled) == ("alpha", True)
    house.clock.advance(100)
    condor.queue()
    condor.machines(slot(host))
    house.cycle()
    assert json.loads(house.node(node.id).run_times) == [102]
    assert pool_views.job_row(key("1.0")) is None
    house.cycle(2)
    told = condor.told("off")
    assert told == [["-peaceful", "-addr", f"<s-{host}>", "-subsystem", "startd"],
                    ["-peaceful", "-addr", f"<m-{host}>", "-subsystem", "master"]]
    assert house.node(node.id).state == "gone"


def registered(house: House, condor: Condor, count: int = 1, **more: object) -> list[str]:
    """`count` nodes, each registered and running a job; their hosts."""
    condor.queue(*(ad(f"{n}.0", **more) for n in range(1, count + 1)))
    house.cycle(count)
    hosts = [node.name for node in house.nodes()]
    condor.queue(*(ad(f"{n}.0", 2, RemoteHost=f"slot1@{host}", JobStartDate=int(house.clock.now()), **more)
                   for n, host in enumerate(hosts, 1)))
    condor.machines(*(slot(host, job=f"{n}.0") for n, host in enumerate(hosts, 1)))
    house.cycle()
    assert len(hosts) == count
    return hosts


def test_a_run_time_is_recorded_when_a_running_job_completes(pooled: House, condor: Condor) -> None:
    (host,) = registered(pooled, condor)
    pooled.clock.advance(50)
    condor.queue(ad("1.0", 4))
    pooled.cycle(2)
    condor.queue()
    pooled.engine.poll_jobs()
    (node,) = nodes.select("name = ?", (host,))
    assert json.loads(node.run_times) == [51]


def test_a_failing_queue_command_keeps_the_old_picture(pooled: House, condor: Condor) -> None:
    condor.queue(ad("1.0"), ad("2.0"))
    pooled.engine.poll_jobs()
    condor.answers("q", "", code=3)
    assert not run_once(Loop("job_poller", 5, pooled.engine.poll_jobs))
    assert keys("new") == ["1.0", "2.0"]
    condor.queue()
    assert run_once(Loop("job_poller", 5, pooled.engine.poll_jobs))
    assert keys("new") == []


def test_three_empty_machine_lists_are_not_believed_even_over_a_restart(pooled: House, condor: Condor) -> None:
    (host,) = registered(pooled, condor)
    condor.machines()
    pooled.engine.poll_machines()
    assert list(system.slots()) == [f"slot1@{host}"]
    pooled.restart()
    for _ in range(3):
        pooled.engine.poll_machines()
        assert list(system.slots()) == [f"slot1@{host}"]
    pooled.engine.poll_machines()
    assert system.slots() == {}
    condor.answers("status", "", code=1)
    with pytest.raises(CondorError):
        pooled.engine.poll_machines()


def test_a_refused_stop_does_not_make_a_machine_retiring(pooled: House, condor: Condor) -> None:
    (host,) = registered(pooled, condor)
    condor.answers("off", "Can't find address of master\n", code=1)
    node = nodes.by_name(host)
    assert node is not None
    assert not pool_ops.retire_node("alpha", node.external_id, settings=pooled.settings).accepted
    condor.queue(ad("9.0", user="bob"))
    condor.machines(slot(host))
    pooled.database.write(lambda tx: nodes.update(tx, node.id, keep_alive_s=0))
    condor.queue(ad("1.0", 5), ad("9.0"))
    pooled.cycle(2)
    assert pooled.node(node.id).override is None
    condor.answers("off", 'Sent "Kill-Daemon" command\n')
    condor.queue(ad("9.0", 5))
    pooled.cycle(2)
    assert pooled.node(node.id).state == "gone"


def test_a_refused_stop_of_a_type_nobody_needs_is_a_destroy(pooled: House, condor: Condor) -> None:
    (host,) = registered(pooled, condor)
    condor.answers("off", "no\n")
    condor.queue()
    condor.machines(slot(host))
    pooled.cycle(3)
    (node,) = nodes.select("name = ?", (host,))
    assert node.state == "gone"
    assert node.reason.endswith("retiring was refused")


def test_a_machine_told_to_stop_is_destroyed_when_it_has_left(pooled: House, condor: Condor) -> None:
    (host,) = registered(pooled, condor)
    node = nodes.by_name(host)
    assert node is not None
    assert pool_ops.retire_node("alpha", node.external_id, settings=pooled.settings).accepted
    pooled.cycle(2)
    assert pooled.node(node.id).state == "running"
    condor.machines(slot("other.example.org"))
    condor.queue(ad("8.0", 5))
    pooled.cycle()
    assert pooled.node(node.id).state == "gone"


def test_a_registered_machine_that_vanishes_is_forgotten_first(pooled: House, condor: Condor) -> None:
    (host,) = registered(pooled, condor)
    condor.machines(slot("other.example.org"))
    pooled.cycle()
    (node,) = pooled.nodes()
    assert (node.slot_name, node.slot_address, node.registered_at) == ("", "", None)
    limit_s = pooled.settings.cloud_scheduler.general.condor_register_time_limit_s
    pooled.clock.advance(limit_s - 2)
    pooled.cycle()
    assert pooled.node(node.id).state == "running"
    pooled.cycle(3)
    assert pooled.node(node.id).state == "gone"
    assert host


def test_strays_are_listed_and_their_ads_invalidated_when_asked(pooled: House, condor: Condor) -> None:
    condor.machines(slot("lost.example.org"), slot("lost.example.org", number=2))
    condor.queue(ad("1.0", 5))
    pooled.cycle()
    assert pool_views.strays() == [("lost.example.org", "<s-lost.example.org>")]
    assert json.loads(system.setting("strays")) == [["lost.example.org", "<s-lost.example.org>"]]
    assert not condor.told("advertise")
    pooled.set(**condor.settings(), cleanup_missing_vms=True)
    pooled.cycle()
    assert condor.told("advertise") == [["INVALIDATE_STARTD_ADS"]]
    assert "lost.example.org" in (condor.directory / "advertise.told").read_text()


def test_impossible_jobs_are_held_once(pooled: House, condor: Condor) -> None:
    condor.queue(ad("1.0", TargetClouds="nowhere"), ad("2.0"))
    pooled.cycle(1)
    reason = "Failed to find matching cloud:check targetcloud, memory, etc."
    assert condor.told("hold") == [["-reason", reason, "1.0"]]
    assert keys("held") == ["1.0"]
    pooled.engine.job.clean_up()
    assert len(condor.told("hold")) == 1
    pooled.cycle()
    assert len(condor.told("hold")) == 2
    condor.queue(ad("1.0", 5, TargetClouds="nowhere"), ad("2.0"))
    pooled.cycle(2)
    assert len(condor.told("hold")) == 2


def test_jobs_that_should_have_run_on_an_idle_machine_are_held(pooled: House, condor: Condor) -> None:
    pooled.set(**condor.settings(), clean_shutdown_idle=True, vm_idle_threshold=60)
    condor.queue(ad("1.0"))
    pooled.cycle()
    (node,) = pooled.nodes()
    condor.machines(slot(node.name))
    pooled.cycle()
    pooled.clock.advance(61)
    pooled.cycle()
    assert condor.told("hold") == [["-reason", "Bad job requirements.", "1.0"]]
    row = pool_views.job_row(key("1.0"))
    assert row is not None
    assert (row.override, row.status) == ("HeldBadReqs", 5)
    condor.queue(ad("1.0", 5))
    pooled.cycle()
    assert pool_views.job_row(key("1.0")).override == "HeldBadReqs"  # type: ignore[union-attr]
    condor.queue(ad("1.0", 1))
    pooled.engine.poll_jobs()
    assert pool_views.job_row(key("1.0")).override is None  # type: ignore[union-attr]


def test_nothing_is_taken_away_or_booted_before_the_queue_is_read_again(pooled: House, condor: Condor) -> None:
    (host,) = registered(pooled, condor)
    condor.queue(ad("1.0", 2, RemoteHost=f"slot1@{host}"), ad("2.0"))
    pooled.engine.poll_jobs()
    condor.answers("q", "", code=1)
    pooled.restart()
    pooled.engine.announce()
    pooled.submit(user="bob")
    pooled.clock.advance(5000)
    pooled.engine.job.schedule()
    pooled.engine.job.clean_up()
    assert [(node.user, node.override, node.goal) for node in pooled.nodes()] == [("ada", None, "run"), ("bob", None, "run")]
    condor.queue(ad("1.0", 2, RemoteHost=f"slot1@{host}"), ad("2.0"))
    pooled.engine.poll_jobs()
    pooled.engine.job.schedule()
    assert [node.user for node in pooled.nodes()] == ["ada", "bob", "ada"]
    assert pooled.node(1).state == "running"


def test_a_lost_machine_does_not_touch_the_state_of_an_external_job(pooled: House, condor: Condor) -> None:
    registered(pooled, condor)
    (node,) = pooled.nodes()
    pool_ops.stop_nodes([node], reason="test")
    pooled.work()
    assert pooled.node(node.id).state == "gone"
    assert keys("running") == ["1.0"]


def test_what_has_not_changed_is_not_written(pooled: House, condor: Condor, monkeypatch: pytest.MonkeyPatch) -> None:
    condor.queue(ad("1.0"), ad("2.0", 5))
    pooled.engine.poll_jobs()
    condor.queue(*(one.replace("ServerTime = 1700000000", "ServerTime = 1700000005") for one in (ad("1.0"), ad("2.0", 5))))
    wrote: list[Callable[..., object]] = []
    monkeypatch.setattr("cloudsched.engine.pool.write", wrote.append)
    pooled.engine.poll_jobs()
    assert not wrote


def test_machines_with_several_slots_are_idle_when_all_are(pooled: House, condor: Condor) -> None:
    condor.queue(ad("1.0", VMCPUCores=2, VMJobPerCore=True), ad("2.0", VMCPUCores=2, VMJobPerCore=True))
    pooled.cycle()
    (node,) = pooled.nodes()
    assert keys("new") == []
    condor.machines(slot(node.name), slot(node.name, number=2, job="1.0"))
    pooled.cycle()
    assert pooled.node(node.id).idle_since is None
    condor.machines(slot(node.name, number=2), slot(node.name))
    pooled.cycle()
    assert pooled.node(node.id).idle_since is not None


def test_built_in_and_external_jobs_of_one_user_do_not_mix(pooled: House, condor: Condor) -> None:
    condor.queue(ad("1.0"))
    (number,) = pooled.submit(vm_type="canfar")
    pooled.cycle(2)
    (agent, *_) = pooled.join_all()
    assert [job.id for job in agent.sync(want=5).jobs] == [number]
    assert keys("idle") == ["1.0"]
    job_service.cancel(number, ADA)
