"""Are J1 to J5 right, in both layouts?"""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from cloudsched.store.db import Database
from cloudsched.testing.factories import AT, make_job

from .conftest import NOW
from .pool import FixedPool
from .test_golden_text import rpc

pytestmark = pytest.mark.usefixtures("pool")


@pytest.fixture
def database(sqlite_database: Database) -> Database:
    return sqlite_database


def rest(client: FlaskClient, path: str) -> Any:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    return one_line(answer.get_data(as_text=True))


def one_line(text: object) -> Any:
    """The value, of a text in the form of contract 3: one line, ASCII, blanks after commas and colons."""
    assert isinstance(text, str)
    value = json.loads(text)
    assert text == json.dumps(value)
    return value


VM = {
    "name": "Scientific", "id": "1001", "vmtype": "canfar", "user": "alice", "uservmtype": "alice:canfar",
    "hostname": "host-1001", "alt_hostname": "h1001", "ipaddress": "206.10.3.4", "clusteraddr": "alpha.example.org",
    "clusterport": "", "cloudtype": "OpenStack", "network": "public", "image": "ami-1", "memory": 1024,
    "flavor": "m1.large", "cpucores": 1, "storage": 10, "status": "Running", "override_status": None, "condorname": None,
    "condoraddr": None, "condormasteraddr": None, "keep_alive": 0, "idle_start": int(AT) + 950, "errorcount": 0,
    "errorconnect": None, "lastpoll": int(AT) + 900, "last_state_change": int(AT) + 62, "initialize_time": int(AT),
    "startup_time": 62, "spot_id": "", "proxy_file": None, "myproxy_creds_name": None, "myproxy_server": None,
    "myproxy_server_port": None, "myproxy_renew_time": "12", "x509userproxy_expiry_time": "None", "job_per_core": False,
    "force_retire": False, "failed_retire": False,
}
CLUSTER = {
    "name": "alpha", "network_address": "alpha.example.org", "cloud_type": "OpenStack", "enabled": True, "vm_slots": 7,
    "max_slots": 10, "storageGB": 470, "max_storageGB": 500, "max_vm_mem": -1, "cpu_cores": 8,
    "network_pools": ["public", "lab"], "boot_timeout": 300, "connection_fail_disable_time": 7200,
    "connection_problem": False, "errorconnect": None,
}
JOB_DEFAULTS = {
    "override_status": None, "high_priority": 0, "req_image": "Default-Image", "req_imageloc": "", "req_image_id": None,
    "location": None, "key_name": None, "req_ami": {}, "instance_type": {}, "req_memory": 512, "req_cpucores": 1,
    "req_storage": 0, "req_network": "", "req_security_group": [""], "keep_alive": 0, "maximum_price": 0.0,
    "job_per_core": False, "proxy_non_boot": False, "target_clouds": [], "usertype_limit": -1, "banned": False,
    "ban_time": None, "block_time": None, "blocked_clouds": [], "remote_host": None, "running_cloud": "",
    "running_vm": None, "machine_reserved": "", "spool_dir": None, "vmimage_proxy_file": None, "myproxy_server": None,
    "myproxy_server_port": None, "myproxy_creds_name": None, "x509userproxysubject": None, "x509userproxy": None,
    "original_x509userproxy": None, "proxy_renew_time": "12", "x509userproxy_expiry_time": None, "priority": 0,
    "servertime": int(NOW),
}


def test_vm(info: FlaskClient) -> None:
    assert rest(info, "/clusters/Alpha/vms/1001.json") == {**VM, "ssh_port": 22, "job_run_times": [10, 20, 31]}
    assert rest(info, "/clusters/alpha/vms/n-1.json")["id"] == "1001"
    assert one_line(rpc(info, "get_json_vm", "alpha", "1001")) == {
        **VM, "mementry": 0, "job_run_times": [None] * 7 + [10, 20, 31]}


def test_spot_request_not_filled_yet(info: FlaskClient) -> None:
    vm = rest(info, "/clusters/beta/vms/sir-77.json")
    assert (vm["id"], vm["spot_id"], vm["ssh_port"], vm["name"]) == ("", "sir-77", 2222, "Default-Image")


def test_cluster_and_pool(info: FlaskClient) -> None:
    alpha = rest(info, "/clusters/alpha.json")
    assert [vm["id"] for vm in alpha.pop("vms")] == ["1001", "1002", "8f9c2b1e-77aa-4f3c-9d0e-2b7f4f1e0c11"]
    assert alpha == {**CLUSTER, "memory": 17408, "max_mem": 20480}
    old = one_line(rpc(info, "get_json_cluster", "ALPHA"))
    assert old.pop("vms")[0]["mementry"] == 0
    assert old == {**CLUSTER, "memory": [17408], "max_mem": [20480], "hypervisor": "xen"}
    beta = rest(info, "/clusters/beta.json")
    assert (beta["tenant"], beta["boot_timeout"], beta["memory"], beta["max_mem"]) == ("physics", -1, -1, -1)
    pool = rest(info, "/clusters.json")
    assert list(pool) == ["resources"]
    assert [cloud["name"] for cloud in pool["resources"]] == ["alpha", "beta"]
    assert pool["resources"][0]["vms"][0] == {**VM, "ssh_port": 22, "job_run_times": [10, 20, 31]}
    assert [cloud["hypervisor"] for cloud in one_line(rpc(info, "get_json_resource"))["resources"]] == ["xen", "xen"]


def test_job_of_the_built_in_queue(info: FlaskClient, pool: FixedPool) -> None:
    running = pool.jobs["running"]
    expected = {
        **JOB_DEFAULTS, "id": running.key, "user": "alice", "uservmtype": "alice:canfar", "req_vmtype": "canfar",
        "cluster_id": 12, "proc_id": 0, "job_status": 2, "status": "Scheduled", "jobstarttime": 1391234567,
        "remote_host": "host-1001", "running_cloud": "alpha"}
    assert rest(info, f"/jobs/{running.key.replace('#', '%23')}.json") == expected
    assert one_line(rpc(info, "get_json_job", running.key)) == {
        **expected, "req_hypervisor": ["xen"], "req_instance_type_ibm": None}


def test_ban_and_block(info: FlaskClient, pool: FixedPool) -> None:
    banned = one_line(rpc(info, "get_json_job", pool.jobs["banned"].key))
    assert (banned["banned"], banned["ban_time"], banned["override_status"]) == (True, AT - 1600, "TempBanned")
    blocked = one_line(rpc(info, "get_json_job", pool.jobs["held"].key))
    assert (blocked["blocked_clouds"], blocked["block_time"]) == (["alpha"], int(AT) + 1000)


def test_job_of_an_external_queue(info: FlaskClient, pool: FixedPool) -> None:
    job = one_line(rpc(info, "get_json_job", pool.jobs["condor"].key))
    given = {
        "proc_id": 2, "job_status": 6, "req_ami": {"alpha": "ami-1", "default": "ami-2"},
        "instance_type": {"default": "m1.large"}, "target_clouds": ["Alpha"], "req_security_group": ["web"],
        "keep_alive": 600, "maximum_price": 2.5, "usertype_limit": 4, "req_network": "lab", "job_per_core": True,
        "req_cpucores": 4, "req_memory": 2048, "req_storage": 7, "req_image": "Scientific", "servertime": 1391239999,
        "jobstarttime": 1391238888, "spool_dir": "/home/frank", "x509userproxy": "/tmp/x509", "proxy_non_boot": True,
        "myproxy_creds_name": "frank-cred", "myproxy_server_port": "7512", "remote_host": "slot1@host-2"}
    assert {key: job[key] for key in given} == given


def test_job_pool_holds_strings(info: FlaskClient) -> None:
    pool = rest(info, "/job-pool.json")
    assert pool == rest(info, "/job_pools.json")
    assert [one_line(text)["cluster_id"] for text in pool["new_jobs"]] == [13, 15, 16]
    assert [one_line(text)["cluster_id"] for text in pool["sched_jobs"]] == [12, 14]
    old = one_line(rpc(info, "get_json_jobpool"))
    assert one_line(old["new_jobs"][0])["req_hypervisor"] == ["xen"]


def test_unknown_things(info: FlaskClient) -> None:
    assert rest(info, "/clusters/no.json") == rest(info, "/clusters/alpha/vms/no.json") == {}
    assert rest(info, "/clusters/no/vms/1001.json") == {}
    assert rest(info, "/jobs/no.json") is None
    assert rpc(info, "get_json_cluster", "no") == rpc(info, "get_json_vm", "no", "x") == "{}"
    assert rpc(info, "get_json_job", "no") == "null"


def test_attributes_of_any_type_break_nothing(info: FlaskClient) -> None:
    job = make_job(attributes={"server_time": "soon", "job_start_time": {"a": 1}, "image_name": ["x"], "spool_dir": 7})
    found = one_line(rpc(info, "get_json_job", job.key))
    assert (found["servertime"], found["jobstarttime"], found["spool_dir"]) == (int(NOW), 0, "7")


def test_other_characters_are_escaped(info: FlaskClient) -> None:
    job = make_job(user="jörg ☃")
    text = info.get(f"/jobs/{job.key.replace('#', '%23')}.json").get_data(as_text=True)
    assert '"user": "j\\u00f6rg \\u2603"' in text
