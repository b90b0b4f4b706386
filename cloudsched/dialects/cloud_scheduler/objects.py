"""How do clouds, VMs and jobs look as JSON? J1 to J5 of contract 3, in both layouts."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from cloudsched import clock
from cloudsched.dialects.cloud_scheduler.layout import Layout
from cloudsched.domain.entities import Node
from cloudsched.services import pool as pools
from cloudsched.services.pool import CloudFacts, Pool
from cloudsched.services.pool_views import JobFacts, image_name, run_times
from cloudsched.settings import Settings

UNKNOWN = "{}"
UNKNOWN_JOB = "null"
RUN_TIMES_SHOWN = 10
RENEWAL_HOURS = "12"


def vm(cloud: CloudFacts, node: Node, *, layout: Layout, settings: Settings) -> dict[str, Any]:
    """J1."""
    facts = json.loads(node.facts)
    shown = {
        "name": image_name(node) or settings.cloud_scheduler.job.default_vm_name,
        "id": pools.cloud_id(node),
        "vmtype": node.vm_type, "user": node.user, "uservmtype": node.user_type,
        "hostname": node.hostname, "alt_hostname": facts.get("alt_hostname"), "ipaddress": node.address,
        "clusteraddr": cloud.cloud.address, "clusterport": "", "cloudtype": cloud.type_name,
        "network": node.network or "public",
        "image": facts.get("images") or node.image,
        "memory": node.memory_mb, "flavor": node.instance_type, "cpucores": node.cores, "storage": node.storage_gb,
        "status": node.status, "override_status": node.override,
        "condorname": node.slot_name or None, "condoraddr": node.slot_address or None,
        "condormasteraddr": node.master_address or None,
        "keep_alive": node.keep_alive_s, "idle_start": _whole(node.idle_since),
        "errorcount": node.error_count, "errorconnect": node.error_since,
        "lastpoll": _whole(node.last_poll_at), "last_state_change": _whole(node.status_changed_at),
        "initialize_time": _whole(node.boot_requested_at or node.created_at), "startup_time": _whole(node.boot_s),
        "spot_id": pools.spot_id(node),
        "proxy_file": facts.get("proxy_file"), "myproxy_creds_name": facts.get("myproxy_creds_name"),
        "myproxy_server": facts.get("myproxy_server"), "myproxy_server_port": facts.get("myproxy_server_port"),
        "myproxy_renew_time": str(facts.get("myproxy_renew_time") or RENEWAL_HOURS),
        "x509userproxy_expiry_time": _moment(facts.get("proxy_expires_at")),
        "job_per_core": bool(node.job_per_core), "force_retire": bool(node.force_retire), "failed_retire": False,
    }
    times: list[int | None] = list(run_times(node))
    if layout is Layout.X:
        return {**shown, "mementry": 0, "job_run_times": [None] * (RUN_TIMES_SHOWN - len(times)) + times}
    return {**shown, "ssh_port": node.ssh_port, "job_run_times": times}


def cluster(facts: CloudFacts, *, layout: Layout, settings: Settings) -> dict[str, Any]:
    """J2. The X layout writes both memory values as lists of one."""
    cloud, general = facts.cloud, settings.cloud_scheduler.general
    old = layout is Layout.X
    shown: dict[str, Any] = {
        "name": facts.name, "network_address": cloud.address, "cloud_type": facts.type_name,
        "enabled": bool(cloud.enabled),
        "vm_slots": facts.free_slots, "max_slots": cloud.max_slots,
        "memory": [facts.free_memory_mb] if old else facts.free_memory_mb,
        "max_mem": [cloud.memory_mb] if old else cloud.memory_mb,
        "storageGB": facts.free_storage_gb, "max_storageGB": cloud.storage_gb,
        "max_vm_mem": cloud.max_node_memory_mb, "cpu_cores": cloud.cores,
        "network_pools": list(cloud.network_names),
        "boot_timeout": general.vm_start_running_timeout if cloud.boot_timeout_s is None else cloud.boot_timeout_s,
        "connection_fail_disable_time": general.connection_fail_disable_time,
        "connection_problem": cloud.error_since is not None, "errorconnect": cloud.error_since,
        "vms": [vm(facts, node, layout=layout, settings=settings) for node in facts.nodes],
    }
    if facts.type_name == "OpenStackNative":
        shown["tenant"] = str(facts.option("tenant_name") or "")
    if old:
        shown["hypervisor"] = str(facts.option("hypervisor") or "xen")
    return shown


def resource_pool(pool: Pool, *, layout: Layout, settings: Settings) -> dict[str, Any]:
    """J3."""
    return {"resources": [cluster(facts, layout=layout, settings=settings) for facts in pool.clouds]}


def job(facts: JobFacts, *, layout: Layout, settings: Settings) -> dict[str, Any]:
    """J4."""
    shown = {**_identity(facts), **_requirements(facts, settings), **_state(facts, settings),
             **_credentials(facts)}
    if layout is Layout.X:
        shown |= {"req_hypervisor": ["xen"], "req_instance_type_ibm": None}
    return shown


def job_pool(new: list[JobFacts], scheduled: list[JobFacts], *, layout: Layout, settings: Settings) -> dict[str, Any]:
    """J5: the members of the lists are strings that hold JSON (K8)."""
    return {name: [json.dumps(job(facts, layout=layout, settings=settings)) for facts in jobs]
            for name, jobs in (("new_jobs", new), ("sched_jobs", scheduled))}


def _identity(facts: JobFacts) -> dict[str, Any]:
    row, shape = facts.job, facts.shape
    return {
        "id": row.key, "user": row.user, "uservmtype": f"{row.user}:{shape.vm_type}", "req_vmtype": shape.vm_type,
        "cluster_id": row.batch_id, "proc_id": row.proc, "priority": row.priority, "job_status": facts.status,
        "status": "Scheduled" if facts.scheduled else "Unscheduled", "override_status": row.override,
        "high_priority": shape.high_priority,
    }


def _requirements(facts: JobFacts, settings: Settings) -> dict[str, Any]:
    shape = facts.shape
    return {
        "req_network": shape.network,
        "req_image": facts.text("image_name") or settings.cloud_scheduler.job.default_vm_name, "req_imageloc": "",
        "req_image_id": facts.text("image_id"), "location": facts.text("location"),
        "key_name": facts.text("key_name"),
        "req_ami": _by_cloud(shape.images), "instance_type": _by_cloud(shape.instance_types),
        "req_memory": shape.memory_mb, "req_cpucores": shape.cores, "req_storage": shape.storage_gb,
        "req_security_group": list(shape.security_groups) or [""],
        "keep_alive": shape.keep_alive_s or 0, "maximum_price": float(shape.maximum_price),
        "job_per_core": shape.job_per_core, "proxy_non_boot": bool(facts.detail("proxy_non_boot")),
        "target_clouds": list(shape.targets), "usertype_limit": shape.type_limit,
    }


def _state(facts: JobFacts, settings: Settings) -> dict[str, Any]:
    row, now = facts.job, clock.now()
    timeout_s = settings.cloud_scheduler.general.job_ban_timeout_s
    banned = row.ban_until is not None and row.ban_until > now
    blocked_since = [until - timeout_s for _, until in facts.blocked]
    return {
        "banned": banned, "ban_time": row.ban_until - timeout_s if banned and row.ban_until else None,
        "block_time": int(max(blocked_since)) if blocked_since else None,
        "blocked_clouds": [cloud for cloud, _ in facts.blocked],
        "remote_host": facts.host, "running_cloud": facts.cloud, "running_vm": None,
        "servertime": facts.number("server_time", now),
        "jobstarttime": facts.number("job_start_time", row.started_at or 0),
        "machine_reserved": "",
    }


def _credentials(facts: JobFacts) -> dict[str, Any]:
    keys = ("spool_dir", "vmimage_proxy_file", "myproxy_server", "myproxy_server_port", "myproxy_creds_name",
            "x509userproxysubject", "x509userproxy", "original_x509userproxy")
    return {**{key: facts.text(key) for key in keys},
            "proxy_renew_time": facts.text("proxy_renew_time") or RENEWAL_HOURS,
            "x509userproxy_expiry_time": None}


def _by_cloud(values: Any) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in values.items()}


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _moment(epoch_s: float | None) -> str:
    if epoch_s is None:
        return "None"
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
