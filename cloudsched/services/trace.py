"""How did it come to this? Everything about a job or a node, in order, with the time between."""

from __future__ import annotations

import json
from typing import Any

from cloudsched import clock
from cloudsched.services import jobs as job_service
from cloudsched.services import listing, why
from cloudsched.services import nodes as node_service
from cloudsched.store import events, listings
from cloudsched.store.events import Event

MOST = 5000
# How an attempt ends, and the state its row then shows.
_ENDS = {"job.succeed": "succeeded", "job.fail": "failed", "job.time_out": "timeout", "job.cancel": "cancelled",
         "job.lose": "lost", "job.give_back": "given back", "job.retry": "failed"}


def of(reference: str) -> dict[str, Any]:
    """A job by number or key, or `node:ID`. Raises NotFound."""
    noun, sign, rest = reference.partition(":")
    if sign and noun == "node":
        return node(rest)
    return job(rest if sign and noun == "job" else reference)


def job(reference: int | str) -> dict[str, Any]:
    """`subject`, `job`, `events` (each with `after_s`, the time since the one before), `attempts`, `nodes`."""
    found = job_service.find(reference)
    history = events.of([("job", found.id)], limit=MOST)
    attempts = _attempts(history)
    numbers = sorted({one["node_id"] for one in attempts if one["node_id"]})
    rows = [node_service.one(number) for number in numbers if _there(number)]
    names = {row["id"]: row["name"] for row in rows}
    for one in attempts:
        one["node"] = names.get(one["node_id"], one["node_id"])
    view = listing.of(found)
    return {
        "subject": {"kind": "job", "id": found.id, "name": found.name, "key": found.key, "state": found.state},
        "job": view, "events": _with_gaps(history), "attempts": attempts, "nodes": rows,
        "boot_failures": [{"cloud": cloud, "code": code, "text": why.told(text), "at": clock.rfc3339(at)}
                          for cloud, code, text, at in listings.boot_failures(found.id)],
    }


def node(reference: int | str) -> dict[str, Any]:
    """`subject`, `node`, `events`, and `jobs` that it was handed, by number."""
    found = node_service.find(reference)
    history = events.of([("node", found.id)], limit=MOST)
    held = listing.page(node=str(found.id), limit=1000)
    return {
        "subject": {"kind": "node", "id": found.id, "name": found.name, "state": found.state},
        "node": node_service.one(found.id), "events": _with_gaps(history), "attempts": [], "nodes": [],
        "jobs": [{"id": one.id, "state": one.state, "attempt": one.attempt, "ran_s": one.ran_s} for one in held],
    }


def _there(number: int) -> bool:
    return bool(listings.node_places([number]))


def _with_gaps(history: list[Event]) -> list[dict[str, Any]]:
    found, before = [], None
    for event in history:
        found.append({
            "id": event.id, "at": clock.rfc3339(event.at), "kind": event.kind, "subject_kind": event.subject_kind,
            "subject_id": event.subject_id, "actor": event.actor, "data": json.loads(event.data),
            "after_s": None if before is None else round(event.at - before, 3)})
        before = event.at
    return found


def _attempts(history: list[Event]) -> list[dict[str, Any]]:
    """One row per claim; what follows is told by the events, which outlive the row's own columns."""
    rows: list[dict[str, Any]] = []
    for event in history:
        data = json.loads(event.data)
        if event.kind == "job.claim":
            rows.append({
                "attempt": data.get("attempt", len(rows) + 1), "node_id": data.get("node"), "state": "assigned",
                "claimed_at": clock.rfc3339(event.at), "started_at": None, "ended_at": None, "waited_s": None,
                "ran_s": None, "exit_code": None, "reason": None, "_from": event.at})
        elif rows and event.kind == "job.start":
            rows[-1] |= {"state": "running", "started_at": clock.rfc3339(event.at), "_from": event.at,
                         "waited_s": round(event.at - rows[-1]["_from"], 3)}
        elif rows and event.kind in _ENDS and rows[-1]["ended_at"] is None:
            rows[-1] |= {
                "state": data.get("state") if event.kind == "job.retry" and data.get("state") else _ENDS[event.kind],
                "ended_at": clock.rfc3339(event.at), "ran_s": round(event.at - rows[-1]["_from"], 3),
                "exit_code": data.get("exit_code"), "reason": data.get("reason") or None}
    for row in rows:
        del row["_from"]
    return rows
