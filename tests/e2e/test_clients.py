"""Do the scripts people have, and `xmlrpc.client`, get sense from a running server? Every option and method once."""

from __future__ import annotations

import json
import subprocess
import sys
import xmlrpc.client
from collections.abc import Callable, Iterator

import pytest

from cloudsched.cli.cloud_admin import cloud_admin_main
from cloudsched.cli.cloud_status import cloud_status_main
from cloudsched.testing.instance import SOURCE, Instance

from .rows import value

pytestmark = pytest.mark.e2e

Client = Callable[..., tuple[int, str, str]]
CLOUDS = [{"name": "desk", "slots": 3, "cores": 2, "memory_mb": 4096, "keep_alive_s": 600},
          {"name": "attic", "slots": 2, "cores": 2, "memory_mb": 2048, "keep_alive_s": 600}]


@pytest.fixture(scope="module")
def pool() -> Iterator[Instance]:
    """A server with two clouds, two machines that run jobs, and a job for which there is no machine."""
    with Instance(clouds=CLOUDS) as instance:
        instance.start_all()
        numbers = [instance.shell("sleep 3600", user=user, vm_type="canfar") for user in ("alice", "bob")]
        instance.shell("true", memory_mb=1_000_000)
        for number in numbers:
            instance.wait_state(number, "running")
        yield instance
        instance.stop()


@pytest.fixture
def client(pool: Instance, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Client:
    """`client(name, *options)`: a client in this process, with the environment of the instance's user: status, out, err."""
    for name, text in pool.environment().items():
        if name.startswith("CLOUDSCHED_") or name in ("HOME", "NO_COLOR"):
            monkeypatch.setenv(name, text)
    mains = {"cloud_status": cloud_status_main, "cloud_admin": cloud_admin_main}

    def run(name: str, *options: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [name, *options])
        try:
            status = mains[name](list(options))
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        out, err = capsys.readouterr()
        return status, out, err

    return run


def _script(pool: Instance, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The script itself, as people call it."""
    return pool.run(sys.executable, str(SOURCE / "scripts" / name), *options)


def _machine(pool: Instance, cloud: str = "") -> tuple[str, str]:
    """(cloud, id as the dialect shows it) of one machine that runs."""
    resources = json.loads(pool.call("GET", "/clusters.json", port=pool.info).text)
    for cluster in resources["resources"]:
        for vm in cluster["vms"]:
            if vm["status"] == "Running" and cloud in ("", cluster["name"]):
                return cluster["name"], str(vm["id"])
    raise AssertionError(f"no machine runs: {resources}")


# Options of cloud_status -> what must be in its answer; {cloud} and {vm} stand for a machine that is there.
STATUS = {
    "": ["desk", "attic"],
    "-a": ["desk", "attic"],
    "-c desk": ["desk"],
    "-m": ["Running"],
    "-c {cloud} -n {vm}": ["{vm}"],
    "-j -a": ["desk", "attic"],
    "-j -c desk": ["desk"],
    "-j -c {cloud} -n {vm}": ["{vm}"],
    "-j -m": ["vms"],
    "-d": [],
    "-q all": ["Jobs in New Queue"],
    "-q new": ["Jobs in New Queue"],
    "-q sched": ["Jobs in Scheduled Queue"],
    "-q high": ["Jobs in High Priority Queue"],
    "-q running": ["alice", "bob"],
    "-q idle": ["Jobs in Idle state"],
    "-q held": ["Jobs in Held state"],
    "-q complete": ["Jobs in Complete state"],
    "-q running --json": ["alice"],
    "-i": [],
    "-b": [],
    "-t": [],
    "-g": [],
    "-l": [],
    "-o": ["2"],
    "-o -c {cloud}": [],
    "-u": ["Running"],
    "-u -c {cloud}": ["Running"],
    "-r": [],
    "-x": ["cheduler"],
    "-z": [],
    "-w": [],
    "-v": ["Cloud Status version"],
    "--watch=1 --count=1": ["desk"],
    "--timeout=5 -a": ["desk"],
}


@pytest.mark.parametrize("options", STATUS)
@pytest.mark.parametrize("way", ["", "--xml-rpc"])
def test_cloud_status(pool: Instance, client: Client, options: str, way: str) -> None:
    cloud, vm = _machine(pool)
    status, out, err = client("cloud_status", "--exit-code", *way.split(), *options.format(cloud=cloud, vm=vm).split())
    assert (status, err) == (0, ""), out
    assert out.strip()
    for word in STATUS[options]:
        assert word.format(cloud=cloud, vm=vm) in out
    if "-j" in options.split() or "--json" in options:
        assert json.loads(out) is not None


def test_the_script_is_the_same_client(pool: Instance, client: Client) -> None:
    for options in ("-a", "-q running"):
        done = _script(pool, "cloud_status", *options.split())
        assert (done.returncode, done.stdout, done.stderr) == client("cloud_status", *options.split())


def test_cloud_status_of_what_is_not_there(pool: Instance) -> None:
    done = _script(pool, "cloud_status", "--exit-code", "-c", "no such cloud/%2F#?")
    assert done.returncode == 4
    assert "Traceback" not in done.stderr


def test_a_server_that_is_away_is_said_plainly(pool: Instance) -> None:
    for name, option in (("cloud_status", "-p"), ("cloud_admin", "-P")):
        done = _script(pool, name, "--exit-code", option, "1", "-j" if name == "cloud_admin" else "-a")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert (done.stdout + done.stderr).strip()


ADMIN = {
    "-d attic": "disabled",
    "-e attic": "enabled",
    "-c desk -v 3": "Adjusting vm_slots on desk to 3",
    "-j": "",
    "-i": "",
    "-y": "",
    "-t": "",
    "-l DEBUG": "",
    "-l INFO": "",
    "-r": "",
    "-p vm -u alice": "Refreshing VM proxies for user alice.",
    "-p job -u alice": "Refreshing Job proxies for user alice.",
    "-q": "Toggled Quick shutdown flag.",
    "-d desk --json": '"ok": true',
    "-e desk --json": '"ok": true',
    "-j -C because": "",
}


@pytest.mark.parametrize("way", ["", "--xml-rpc"])
@pytest.mark.parametrize("options", ADMIN)
def test_cloud_admin(pool: Instance, client: Client, options: str, way: str) -> None:
    status, out, err = client("cloud_admin", *way.split(), *options.split())
    assert status == 0, (out, err)
    assert not err or "-C" in options  # a comment is kept in a log file that is not configured here
    assert ADMIN[options] in out, out
    assert out.strip() or options.startswith("-l")  # the log level is set without a word


def test_the_quick_shutdown_was_toggled_back(pool: Instance) -> None:
    """Once per way, above: the flag stands where it stood."""
    assert value(pool, "SELECT count(*) FROM setting WHERE key = 'quick_shutdown' AND value = '1'") == 0


def test_xml_rpc_info_methods(pool: Instance) -> None:
    cloud, vm = _machine(pool)
    with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{pool.info}") as server:
        names = [name for name in server.system.listMethods() if not name.startswith("system.")]
        assert len(names) >= 30
        job = next(one["key"] for one in pool.api("GET", "/jobs", state="running")["items"])
        arguments = {"get_cluster_info": (cloud,), "get_json_cluster": (cloud,), "get_total_vms_cloud": (cloud,),
                     "get_vm_info": (cloud, vm), "get_json_vm": (cloud, vm), "get_job": (job,), "get_json_job": (job,)}
        answers = {name: getattr(server, name)(*arguments.get(name, ())) for name in names}
        assert all(isinstance(answer, str) for answer in answers.values())
        for name in ("get_json_resource", "get_json_cluster", "get_json_vm", "get_json_job", "get_json_jobpool"):
            assert json.loads(answers[name])
        assert answers["get_total_vms"].strip() == "2"
        assert vm in answers["get_vm_info"]
        assert server.system.methodHelp("get_version") == ""
        assert server.system.methodSignature("get_version") == "signatures not supported"
        with pytest.raises(xmlrpc.client.Fault, match="is not supported"):
            server.no_such_method()
        with pytest.raises(xmlrpc.client.Fault):
            server.get_vm_info(cloud)
        many = xmlrpc.client.MultiCall(server)
        many.get_version()
        many.get_total_vms()
        assert list(many()) == [answers["get_version"], answers["get_total_vms"]]


def test_xml_rpc_admin_methods(pool: Instance) -> None:
    with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{pool.admin}") as server:
        for call in (lambda: server.disable_cloud("attic"), lambda: server.enable_cloud("attic"),
                     lambda: server.adjust_cloud_allocation("desk", "3"), lambda: server.adjust_cloud_allocation("desk", 3),
                     server.list_user_limits, server.list_cloud_alias, server.user_limit_reload, server.cloud_alias_reload,
                     lambda: server.change_log_level("INFO")):
            assert isinstance(call(), str | bool)
        with pytest.raises(xmlrpc.client.Fault):
            server.change_log_level("LOUD")


def test_machines_are_retired_shut_down_and_forgotten(pool: Instance) -> None:
    """The verbs of `cloud_admin` that act on machines, and what they do to real ones."""
    jobs = {}
    for user in ("carol", "dave"):
        jobs[user] = pool.shell("while [ ! -e stop ]; do sleep 0.05; done", user=user, vm_type="verbs", targets=["desk"])
    pool.api("POST", "/jobs/cancel", {"user": "alice"})
    pool.api("POST", "/jobs/cancel", {"user": "bob"})
    done = _script(pool, "cloud_admin", "-k", "-c", "desk", "-a")
    assert "Traceback" not in done.stdout + done.stderr and done.stdout.strip()
    for number in jobs.values():
        pool.wait_state(number, "running")
    node = pool.job(jobs["carol"])["node"]
    vm = _vm_id(pool, "desk", node)
    told = _script(pool, "cloud_admin", "-x", "-c", "desk", "-n", vm)
    assert told.stdout.strip() and "Traceback" not in told.stdout + told.stderr
    # Shut down under its job: the machine goes, the job is run again elsewhere.
    attempt = pool.job(jobs["carol"])["attempt"]
    told = _script(pool, "cloud_admin", "-k", "-c", "desk", "-n", vm)
    assert told.returncode == 0 and told.stdout.strip()
    pool.until(lambda: pool.api("GET", f"/nodes/{node}")["state"] == "gone", "the machine is gone")
    pool.until(lambda: pool.job(jobs["carol"])["attempt"] > attempt, "its job is run again")
    # Forget one: the row ends, the cloud is not asked; the agent hears of it and ends, the sweep takes what it leaves.
    other = pool.wait_state(jobs["dave"], "running")["node"]
    told = _script(pool, "cloud_admin", "-m", "-c", "desk", "-n", _vm_id(pool, "desk", other))
    assert told.returncode == 0 and told.stdout.strip()
    assert pool.api("GET", f"/nodes/{other}")["state"] == "released"
    pool.until(lambda: pool.job(jobs["dave"])["attempt"] > 1, "its job is run again")
    pool.until(lambda: other not in {path.name for path in pool.machine_directories()}, "nothing is left of the machine")
    for number in jobs.values():
        assert pool.api("POST", f"/jobs/{number}/cancel", wait_s=20)["state"] == "cancelled"


def _vm_id(pool: Instance, cloud: str, name: str) -> str:
    def look() -> str:
        found = json.loads(pool.call("GET", f"/clusters/{cloud}.json", port=pool.info).text)
        return next((str(vm["id"]) for vm in found["vms"] if name in json.dumps(vm)), "")

    return pool.until(look, f"machine {name} in the cloud's list")
