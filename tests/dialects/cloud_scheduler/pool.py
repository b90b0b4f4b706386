"""Which pool do the golden tests look at? The one of the samples in contract 3, and a little more."""

from __future__ import annotations

from dataclasses import dataclass

from cloudsched.domain.entities import Cloud, Job, Node
from cloudsched.store import system
from cloudsched.store.db import Tx, write
from cloudsched.testing.factories import AT, make_cloud, make_job, make_node


@dataclass(frozen=True)
class FixedPool:
    """The rows, by what the tests call them."""

    alpha: Cloud
    beta: Cloud
    nodes: dict[str, Node]
    jobs: dict[str, Job]


def build() -> FixedPool:
    """Two clouds, five nodes (one in a shadow), jobs in every state, failures and pulses."""
    alpha = make_cloud(
        "alpha", failed_images=["broken.img", "older.img"], networks=["public", "lab"], boot_timeout_s=300)
    beta = make_cloud(
        "beta", kind="OpenStackNative", address="a-very-long-host-name-for-beta.example.org:5000", enabled=0, memory_mb=-1,
        storage_gb=-1, cores=-1, max_slots=4, priority=0, options={"tenant_name": "physics"})
    nodes = _nodes(alpha, beta)
    jobs = _jobs(nodes)
    write(lambda tx: _facts(tx, alpha, jobs["held"]))
    return FixedPool(alpha, beta, nodes, jobs)


def _nodes(alpha: Cloud, beta: Cloud) -> dict[str, Node]:
    return {
        "running": make_node(
            alpha, "n-1", external_id="1001", hostname="host-1001", address="206.10.3.4", boot_s=62.4,
            run_times=[10, 20, 31], instance_type="m1.large", image="ami-1", running_at=AT + 62, status_changed_at=AT + 62,
            last_poll_at=AT + 900.7, idle_since=AT + 950, facts={"image_name": "Scientific", "alt_hostname": "h1001"}),
        "starting": make_node(
            alpha, "n-2", external_id="1002", hostname="", address="10.0.0.5", state="starting", status="Starting",
            registered_at=None),
        "retiring": make_node(
            alpha, "n-3", external_id="8f9c2b1e-77aa-4f3c-9d0e-2b7f4f1e0c11", hostname="host-2", address="172.32.0.1",
            user="bob", vm_type="atlas", override="Retiring", force_retire=1, memory_mb=1024),
        "spot": make_node(
            beta, "n-4", external_id="", hostname="spot-host", ssh_port=2222, state="starting", status="Starting",
            user="carol", vm_type="atlas", registered_at=None, facts={"spot_id": "sir-77"}),
    }


def _jobs(nodes: dict[str, Node]) -> dict[str, Job]:
    at = 1391234567.0
    return {
        "running": make_job(at=at, batch_id=12, state="running", node_id=nodes["running"].id),
        "idle": make_job(at=at, batch_id=13, user="a-user-name-beyond-15", vm_type="a-vmtype-beyond-15"),
        "placed": make_job(at=at, batch_id=14, placed=1),
        "banned": make_job(at=at, batch_id=15, override="TempBanned", ban_until=AT + 2000),
        "high": make_job(at=at, batch_id=16, user="dave", vm_type="z", asked={"high_priority": 3}),
        "held": make_job(at=at, batch_id=17, user="erin", vm_type="x", state="held"),
        "done": make_job(at=at, batch_id=18, state="succeeded"),
        "condor": make_job(
            at=at, batch_id=19, source="condor", key="pool.example.org#19.2#1391234567", proc=2, state="running",
            batch_status=6, user="frank", remote_host="slot1@host-2", asked={
                "images": {"Alpha": "ami-1", "default": "ami-2"}, "instance_types": {"default": "m1.large"},
                "targets": ["Alpha"], "security_groups": ["web"], "keep_alive_s": 600, "maximum_price": 2.5,
                "type_limit": 4, "network": "lab", "job_per_core": True, "cores": 4, "memory_mb": 2048, "storage_gb": 7},
            attributes={"image_name": "Scientific", "server_time": 1391239999, "job_start_time": 1391238888,
                        "spool_dir": "/home/frank", "x509userproxy": "/tmp/x509", "myproxy_creds_name": "frank-cred",
                        "myproxy_server_port": 7512, "proxy_non_boot": True}),
    }


def _facts(tx: Tx, alpha: Cloud, held: Job) -> None:
    for text in ("Resource Request Denied", "Insufficient Resources on cloud"):
        tx.run("INSERT INTO job_boot_failure (job_id, cloud, code, text, at) VALUES (?, 'alpha', -2, ?, ?)",
               (held.id, text, AT))
    tx.run("INSERT INTO job_block (job_id, cloud_id, until) VALUES (?, ?, ?)", (held.id, alpha.id, AT + 4600))
    for loop, since_s in (("scheduler", 2.9), ("cleanup", 0.0), ("node_poller", 1.0), ("job_poller", 3.0)):
        system.start_loop(tx, loop, interval_s=5.0, at=AT)
        system.beat(tx, loop, at=AT + 1000.0 - since_s, took_s=0.1)
    system.start_loop(tx, "machine_poller", interval_s=0.5, at=AT + 997.0)


def add_shadow(cloud: Cloud) -> Node:
    """A node in the cloud's retired shadow."""
    return make_node(cloud, "n-9", external_id="old-1", hostname="host-old", retired=1, override="Retiring")
