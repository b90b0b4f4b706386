"""Are T1 to T20 right, byte for byte, in both layouts? A middle dot stands for a trailing blank."""

from __future__ import annotations

import json
import xmlrpc.client

import pytest
from flask.testing import FlaskClient

from cloudsched import __version__
from cloudsched.settings import Settings
from cloudsched.store import system
from cloudsched.store.db import Database, write

from .pool import FixedPool, add_shadow

pytestmark = pytest.mark.usefixtures("pool")


@pytest.fixture
def database(sqlite_database: Database) -> Database:
    """SQLite for each of the many; `test_databases` runs them all once more on both."""
    return sqlite_database


T1 = """\
Resource pool Resources:
NAME             CLOUD TYPE NETWORK ADDRESS                ENABLED····
alpha            OpenStack  alpha.example.org              True······
beta             OpenStackNative a-very-long-host-name-for-beta.example.org:5000 False·····
"""
HEAD_R = "ADDRESS                      CLOUD TYPE         VMS/MAX         MEMORY        STORAGE       PRIORITY     ENABLED···\n"
HEAD_X = "ADDRESS                      CLOUD TYPE        VM SLOTS         MEMORY        STORAGE       PRIORITY     ENABLED···\n"
ALPHA_R = f"""\
Cluster: alpha·
{HEAD_R}    alpha.example.org         OpenStack         3 / 10           17408           470            1           True····
"""
ALPHA_X = f"""\
Cluster: alpha·
{HEAD_X}    alpha.example.org         OpenStack            7           [17408]          470            1           True····
"""
BETA_R = f"""\
Cluster: beta·
{HEAD_R}a-very-long-host-name-fo   OpenStackNative      1 / 4              -1            -1             0          False····
"""
BETA_X = f"""\
Cluster: beta·
{HEAD_X}a-very-long-host-name-fo   OpenStackNative         3             [-1]           -1             0          False····
"""
T4_HEAD = "ID     HOSTNAME                  VMTYPE               USER       STATUS       CLUSTER················\n"
T4_ALPHA = """\
1001   host-1001                 canfar               alice      Running      alpha··········
1002   10.0.0.5                  canfar               alice      Starting     alpha··········
8f9c2b1e-77aa-4f3c-9d0e-2b7f4f1e0c11 host-2                    atlas                bob        Retiring     alpha··········
"""
T4_BETA_R = "sir-77 spot-host:2222            atlas                carol      Starting     beta···········\n"
T4_BETA_X = "sir-77 spot-host                 atlas                carol      Starting     beta···········\n"
T4_SHADOW = """

Retiring VMs from removing resources:
old-1  host-old                  canfar               alice      Retiring     alpha··········
"""
T7_HEAD = "Global ID            User            VM Type         Job Status Status       Cloud··········\n"
JOBS = {
    "running": ".org#12.0#1391234567 alice           canfar          Running    Scheduled    alpha··········\n",
    "idle": ".org#13.0#1391234567 a-user-name-bey a-vmtype-beyond Idle       Unscheduled·················\n",
    "placed": ".org#14.0#1391234567 alice           canfar          Idle       Scheduled···················\n",
    "banned": ".org#15.0#1391234567 alice           canfar          Idle       TempBanned··················\n",
    "high": ".org#16.0#1391234567 dave            z               Idle       Unscheduled·················\n",
    "held": ".org#17.0#1391234567 erin            x               Held       Unscheduled·················\n",
    "done": ".org#18.0#1391234567 alice           canfar          Complete   Unscheduled·················\n",
}
LISTS = {
    "new": ("idle", "banned", "high"), "sched": ("running", "placed"), "high": ("high",), "running": ("running",),
    "idle": ("idle", "placed", "banned", "high"), "complete": ("done",), "held": ("held",),
}
METHODS = {"new": "get_newjobs", "sched": "get_schedjobs", "high": "get_highjobs", "idle": "get_idlejobs",
           "running": "get_runningjobs", "complete": "get_completejobs", "held": "get_heldjobs"}
T11 = """\
Job Failure Reasons:
   Job ID: host.example.org#17.0#1391234567
      Resource Request Denied
      Insufficient Resources on cloud
"""
T12 = """\
Image Failure List
   Cloud: alpha
      Image: broken.img
      Image: older.img
"""
T13 = """\
Thread Heart beat times:
   Scheduler Thread(5): 2
   Cleanup Thread(5): 0
   VMPoller Thread(5): 1
   JobPoller Thread(5): 3
   MachinePoller Thread(0.5): 3
"""
T16 = """\
[host-1001]
\taddress 206.10.3.4
[host-2]
\taddress 172.32.0.1
[spot-host]
\taddress\x20
"""
T19 = "Cluster: alpha 62, 0, 0,  Avg: 20 Cluster: beta 0,  Avg: 0 "
T20 = """\
Run Times of Jobs on VMs
host-1001 : avg 20.000000
 : avg 0.000000
host-2 : avg 0.000000
spot-host : avg 0.000000
"""


def drawn(text: str) -> str:
    return text.replace("·", " ")


def rest(client: FlaskClient, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.content_type == "text/plain; charset=utf-8"
    return answer.get_data(as_text=True)


def rpc(client: FlaskClient, method: str, *args: object) -> object:
    answer = client.post("/RPC2", data=xmlrpc.client.dumps(args, method), content_type="text/xml")
    assert answer.status_code == 200
    return xmlrpc.client.loads(answer.get_data())[0][0]


BOTH = [
    ("/", "get_version", (), f"Cloud Scheduler version: {__version__}"),
    ("/cloud", "get_cloud_resources", (), T1),
    ("/diff-types", "get_diff_types", (), None),
    ("/failures/boot", "get_job_failure_reasons", (), T11),
    ("/failures?type=boot", "get_job_failure_reasons", (), T11),
    ("/failures/image", "get_image_failures", (), T12),
    ("/failures?type=image", "get_image_failures", (), T12),
    ("/thread-heart-beats", "get_thread_heart_beats", (), T13),
    ("/developer-info", "get_developer_information", (), "You need to have Guppy installed to get developer information"),
    ("/developer_info", "get_developer_information", (), "You need to have Guppy installed to get developer information"),
    ("/ips", "get_ips_munin", (), T16),
    ("/vms?metric=missing", "get_missing_vm_list", (),
     "List of Condor Entries with no match in Cloud Scheduler(host:startd):\n"),
    ("/vms?metric=startup_time", "get_vm_startup_time", (), T19),
    ("/vms?metric=startup-time", "get_vm_startup_time", (), T19),
    ("/clusters/nowhere/vms?metric=startup_time", "get_vm_startup_time", (), T19),
    ("/vms?metric=job_run_times", "get_vm_job_run_times", (), T20),
    ("/vms?metric=job-run-times", "get_vm_job_run_times", (), T20),
    ("/clusters/alpha/vms?metric=job_run_times", "get_vm_job_run_times", (), T20),
    ("/vms?metric=all", "get_vm_stats", (), "1 Retiring,1 Running,2 Starting,"),
    ("/clusters/BETA/vms?metric=all", "get_vm_stats", ("BETA",), "1 Starting,"),
    ("/clusters/No/vms?metric=all", "get_vm_stats", ("No",),
     "Could not find cloud: No - check cloud_status for list of available clouds"),
    ("/vms?metric=total", "get_total_vms", (), "4"),
    ("/clusters/alpha/vms?metric=total", "get_total_vms_cloud", ("alpha",), "3"),
    ("/clusters/No/vms?metric=total", "get_total_vms_cloud", ("No",), "Cluster named No not found."),
    ("/clusters/No", "get_cluster_info", ("No",), "Cluster Info: No\nCluster named No not found."),
    ("/clusters/alpha/vms/x", "get_vm_info", ("alpha", "x"), "VM Info for VM id: x\nVM with id: x not found.\n"),
    ("/clusters/No/vms/x", "get_vm_info", ("No", "x"),
     "VM Info for VM id: x\nCluster No not found.\nVM with id: x not found.\n"),
    ("/jobs/nothing%231.0%231", "get_job", ("nothing#1.0#1",), "Job not found."),
]


@pytest.mark.parametrize(("path", "method", "args", "expected"), BOTH)
def test_the_same_in_both_layouts(
        info: FlaskClient, path: str, method: str, args: tuple[str, ...], expected: str | None) -> None:
    text = rest(info, path)
    assert text == rpc(info, method, *args)
    if expected is not None:
        assert text == drawn(expected)


DIFFERENT = [
    ("/clusters", "get_cluster_resources", (), f"Clusters in resource pool:\n{ALPHA_R}\n{BETA_R}\n",
     f"Clusters in resource pool:\n{ALPHA_X}\n{BETA_X}\n"),
    ("/clusters/Alpha", "get_cluster_info", ("Alpha",), f"Cluster Info: Alpha\n{ALPHA_R}", f"Cluster Info: Alpha\n{ALPHA_X}"),
    ("/vms", "get_cluster_vm_resources", (), f"{T4_HEAD}{T4_ALPHA}{T4_BETA_R}\nTotal VMs: 4. Total Clouds: 2",
     f"{T4_HEAD}{T4_ALPHA}{T4_BETA_X}\nTotal VMs: 4. Total Clouds: 2"),
    ("/clusters/beta/vms/sir-77", "get_vm_info", ("beta", "sir-77"),
     "VM Info for VM id: sir-77\nsir-77 spot-host:2222            atlas                carol      Starting····\n",
     "VM Info for VM id: sir-77\nsir-77 spot-host                 atlas                carol      Starting····\n"),
]


@pytest.mark.parametrize(("path", "method", "args", "r", "x"), DIFFERENT)
def test_each_in_its_layout(
        info: FlaskClient, path: str, method: str, args: tuple[str, ...], r: str, x: str) -> None:
    assert rest(info, path) == drawn(r)
    assert rpc(info, method, *args) == drawn(x)


def test_listing_by_its_other_name_and_of_one_cloud(info: FlaskClient) -> None:
    assert rest(info, "/vms/resources") == rest(info, "/vms")
    assert rest(info, "/clusters/ALPHA/vms") == drawn(f"{T4_HEAD}{T4_ALPHA}\nTotal VMs: 3. Total Clouds: 1")
    assert rest(info, "/clusters/No/vms") == "Cluster named No not found."


def test_the_shadow_is_listed_last_and_counts_nowhere(info: FlaskClient, pool: FixedPool) -> None:
    add_shadow(pool.alpha)
    assert rest(info, "/vms") == drawn(
        f"{T4_HEAD}{T4_ALPHA}{T4_BETA_R}\nTotal VMs: 4. Total Clouds: 2{T4_SHADOW}")
    assert rest(info, "/clusters/alpha/vms?metric=total") == "3"
    assert "3 / 10 " in rest(info, "/clusters/alpha")
    assert rest(info, "/clusters/alpha/vms/old-1").endswith("Retiring    \n")


@pytest.mark.parametrize("which", LISTS)
def test_job_lists(info: FlaskClient, which: str) -> None:
    expected = drawn(T7_HEAD + "".join(JOBS[name] for name in LISTS[which]))
    assert rest(info, f"/jobs?state={which}") == expected
    assert rpc(info, METHODS[which]) == expected


def test_job_in_a_state_nobody_names(info: FlaskClient) -> None:
    assert rest(info, "/jobs?state=lost") == ""
    assert rest(info, "/jobs?state=") == ""


@pytest.mark.parametrize("name", JOBS)
def test_one_job(info: FlaskClient, pool: FixedPool, name: str) -> None:
    key = pool.jobs[name].key
    assert rest(info, f"/jobs/{key.replace('#', '%23')}") == drawn(T7_HEAD + JOBS[name])
    assert rpc(info, "get_job", key) == drawn(T7_HEAD + JOBS[name])


def test_the_cloud_of_a_job_is_the_same_in_list_and_alone(info: FlaskClient, pool: FixedPool) -> None:
    """Also when its node is gone and the batch system has not noticed yet."""
    node = pool.nodes["running"].id
    write(lambda tx: tx.run("UPDATE job SET source = 'condor', batch_status = 2 WHERE node_id = ?", (node,)))
    write(lambda tx: tx.run("UPDATE node SET state = 'gone' WHERE id = ?", (node,)))
    key = pool.jobs["running"].key
    assert rpc(info, "get_job", key) == drawn(T7_HEAD + JOBS["running"])
    assert drawn(JOBS["running"]) in rpc(info, "get_runningjobs")
    assert json.loads(rpc(info, "get_json_job", key))["running_cloud"] == "alpha"


def test_job_of_an_external_queue_shows_its_own_status(info: FlaskClient, pool: FixedPool) -> None:
    assert rpc(info, "get_job", pool.jobs["condor"].key) == drawn(
        T7_HEAD + ".org#19.2#1391234567 frank           canfar          Error      Unscheduled·················\n")


def test_shares(info: FlaskClient) -> None:
    lines = rest(info, "/diff-types").split("\n")
    current, desired = lines.index("Current Types (vms)"), lines.index("Desired Types (jobs)")
    assert lines[0] == "Diff Types dictionary"
    assert lines[current + 1:desired] == [
        "type: alice:canfar, dist: 0.500000", "type: bob:atlas, dist: 0.250000", "type: carol:atlas, dist: 0.250000"]
    assert lines[desired + 1:] == [
        "type: a-user-name-beyond-15:a-vmtype-beyond-15, dist: 0.500000", "type: dave:z, dist: 0.500000", ""]
    assert lines[1:current] == [
        "type: a-user-name-beyond-15:a-vmtype-beyond-15, dist: -0.500000", "type: alice:canfar, dist: 1.000000",
        "type: bob:atlas, dist: 1.000000", "type: carol:atlas, dist: 1.000000", "type: dave:z, dist: -0.500000"]


def test_machines_no_vm_owns(info: FlaskClient) -> None:
    slot = {"machine": "", "state": "Claimed", "activity": "Busy", "entered_current_state": 0, "address": "", "job_id": None,
            "master_address": "", "user": None, "vm_type": "", "slot_type": "Static", "total_slots": 2, "global_job_id": None}
    slots = {f"slot{number}@{host}": {**slot, "machine": host, "address": f"<{host}:9618>"}
             for host in ("host-1001", "stranger.example.org") for number in (1, 2)}
    write(lambda tx: system.set_slots(tx, slots, at=0.0))
    assert rest(info, "/vms?metric=missing") == rpc(info, "get_missing_vm_list") == (
        "List of Condor Entries with no match in Cloud Scheduler(host:startd):\n"
        "stranger.example.org : <stranger.example.org:9618>\n")


def test_shared_objects_has_five_blocks(info: FlaskClient) -> None:
    blocks = rest(info, "/shared-objs").split("\n\n")
    assert [block.split("\n")[0] for block in blocks[:-1]] == [
        "Scheduler Thread:", "Cleanup Thread:", "VMPoller Thread:", "JobPoller Thread:", "MachinePoller Thread:"]
    assert blocks[-1] == ""
    assert blocks[0].split("\n")[1:] == ["Resource Pool: 2 clouds, 4 VMs", "Job Pool: 3 new, 2 scheduled"]
    assert blocks[3].split("\n")[1:] == ["Job Pool: 3 new, 2 scheduled"]
    assert blocks[4].split("\n")[1:] == ["Resource Pool: 2 clouds, 4 VMs"]


def test_cloud_file_is_read_again_each_time(info: FlaskClient, settings: Settings) -> None:
    expected = (
        "alpha [host,alpha.example.org][cloud_type,OpenStack][vm_slots,10][memory,20480][storage,500][regions,one]"
        "[security_group,default]\nBeta [host,beta.example.org][cloud_type,Local][vm_slots,4][enabled,yes][note,50% off]\n")
    assert rest(info, "/cloud/config") == expected == rpc(info, "get_cloud_config_values")
    file = settings.cloud_scheduler.resources_file
    assert file
    with open(file, "w") as stream:
        stream.write("[gamma]\nhost: g\n")
    assert rest(info, "/cloud/config") == "gamma [host,g]\n"
    with open(file, "w") as stream:
        stream.write("no section at all\n")
    assert rest(info, "/cloud/config") == ""


def test_empty_pool(info: FlaskClient) -> None:
    write(lambda tx: tx.run("DELETE FROM cloud"))
    write(lambda tx: tx.run("DELETE FROM node"))
    write(lambda tx: tx.run("INSERT INTO event (at, kind, subject_kind, subject_id, actor, data) "
                            "VALUES (0, 'test', 'system', 0, '', '{}')"))
    head = T1.partition("alpha")[0]
    assert rest(info, "/cloud") == drawn(head) + "Pool is empty..."
    assert rest(info, "/clusters") == "Clusters in resource pool:\n"
    assert rest(info, "/vms") == drawn(T4_HEAD) + "\nTotal VMs: 0. Total Clouds: 0"
    assert rest(info, "/vms?metric=all") == ""
    assert rest(info, "/vms?metric=startup_time") == ""
