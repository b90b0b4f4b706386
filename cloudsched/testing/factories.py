"""How do tests get rows without telling a whole story? Clouds, nodes, shapes and jobs with sensible defaults.

Each function writes one row (and its event) into the current database and returns the record as the store reads it.
Structured columns may be given as Python values.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

from cloudsched.domain.entities import Cloud, Job, Node
from cloudsched.store import clouds, jobs, nodes, shapes
from cloudsched.store.db import Tx, write

AT = 1_700_000_000.0

_numbers = itertools.count(1)
_CLOUD_JSON = ("networks", "options", "failed_images")
_NODE_JSON = ("facts", "handle", "metrics", "candidates", "run_times")
_PLACEMENT = frozenset(shapes.PLACEMENT)
_STARTED = ("assigned", "running", "succeeded", "failed", "timeout")


def make_cloud(name: str = "alpha", *, at: float = AT, **columns: Any) -> Cloud:
    """A cloud of kind `OpenStack` with 10 slots, 20480 MB, 500 GB, 8 cores, enabled."""
    values: dict[str, Any] = {
        "name": name.lower(), "title": name, "kind": "OpenStack", "address": f"{name.lower()}.example.org",
        "max_slots": 10, "memory_mb": 20480, "storage_gb": 500, "cores": 8, "enabled": 1, "priority": 1,
        **_texts(columns, _CLOUD_JSON)}

    def insert(tx: Tx) -> int:
        return clouds.insert(tx, {"position": tx.value("SELECT count(*) FROM cloud"), **values}, at=at)

    return _found(clouds.get(write(insert)))


def make_node(cloud: Cloud, name: str = "", *, at: float = AT, **columns: Any) -> Node:
    """A running, registered node of alice:canfar with 1 core, 1024 MB and 10 GB."""
    name = name or f"node-{next(_numbers)}"
    values = {
        "name": name, "cloud_id": cloud.id, "state": "running", "status": "Running", "external_id": name,
        "hostname": f"host-{name}", "user": "alice", "vm_type": "canfar", "cores": 1, "memory_mb": 1024,
        "storage_gb": 10, "boot_requested_at": at, "registered_at": at, **_texts(columns, _NODE_JSON)}
    number = write(lambda tx: nodes.insert(tx, values, at=at))
    return _found(nodes.get(number))


def make_shape(user: str = "alice", vm_type: str = "canfar", **asked: Any) -> int:
    """The id of a shape; `asked`: its columns, or members of its placement (`images`, `targets`, ...)."""
    placement = {key: value for key, value in asked.items() if key in _PLACEMENT}
    request = {
        "source": "queue", "user": user, "vm_type": vm_type, "cores": 1, "memory_mb": 512, "storage_gb": 0,
        "network": "", "high_priority": 0,
        **{key: value for key, value in asked.items() if key not in _PLACEMENT}, "placement": placement}
    return write(lambda tx: shapes.ensure(tx, request))


def make_job(shape_id: int | None = None, *, user: str = "alice", vm_type: str = "canfar", at: float = AT,
             asked: dict[str, Any] | None = None, **columns: Any) -> Job:
    """A queued job of the built-in queue with key `host.example.org#BATCH.0#EPOCH`.

    `asked`: what its shape asks for. `source="condor"` with `batch_status` makes a job of an external queue.
    """
    source = columns.get("source", "queue")
    if shape_id is None:
        shape_id = make_shape(user, vm_type, source=source, **(asked or {}))

    def insert(tx: Tx) -> int:
        number = jobs.allocate(tx, "job", 1)
        batch = columns.get("batch_id") or jobs.allocate(tx, "batch", 1)
        proc, state = columns.get("proc", 0), columns.get("state", "queued")
        given = {
            "id": number, "source": source, "key": f"host.example.org#{batch}.{proc}#{int(at)}", "batch_id": batch,
            "proc": proc, "name": "", "label": "", "user": user, "org": "", "kind": "command", "shape_id": shape_id,
            "state": state,
            "priority": 0, "max_retries": 0, "backoff_s": 0.0, "time_limit_s": None, "needs": 0, "depends_fail": "cancel",
            "not_before": None, "submitted_at": at, "queued_at": at, "spec": '{"command": ["true"]}', "attributes": "{}",
            "retry_of": None}
        later = {"started_at": at} if state in _STARTED else {}
        for key, value in _texts(columns, ("attributes", "spec")).items():
            (given if key in given else later)[key] = value
        jobs.insert(tx, [tuple(given.values())], at=at, actor="")
        for key, value in later.items():
            tx.run(f"UPDATE job SET {key} = ? WHERE id = ?", (value, number))  # noqa: S608 - a column name
        return number

    return _found(jobs.get(write(insert)))


def make_jobs(count: int, **columns: Any) -> list[Job]:
    """Several jobs that differ in their ids alone."""
    return [make_job(**columns) for _ in range(count)]


def _texts(columns: dict[str, Any], structured: tuple[str, ...]) -> dict[str, Any]:
    return {key: json.dumps(value) if key in structured and not isinstance(value, str) else value
            for key, value in columns.items()}


def _found(record: Any) -> Any:
    if record is None:
        raise LookupError("the row that was just written is not there")
    return record
