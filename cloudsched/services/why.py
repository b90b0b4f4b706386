"""Why does this job wait, why is this node kept or taken? Every rule that refuses, with its figures.

The rules are those that act: the scheduler's own over its own picture, and the admission of each live node.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cloudsched import clock
from cloudsched.domain import admission, moves
from cloudsched.domain.entities import Job, Node
from cloudsched.domain.scheduling import why as rules
from cloudsched.domain.scheduling.model import Shape
from cloudsched.services import agent_rules, fleet_config, machines, snapshot
from cloudsched.services import jobs as job_service
from cloudsched.services import nodes as node_service
from cloudsched.services.frameworks import framework_jobs
from cloudsched.store import clouds, inputs, jobs, listings, nodes, shapes, system
from cloudsched.store import devices as device_rows
from cloudsched.store.db import read

NODES_SHOWN = 50
MISSED_BEATS = 3
Reason = dict[str, Any]


def job(reference: int | str) -> dict[str, Any]:
    """{"subject", "verdict", "reasons": [{"rule", "cloud"|"node", "text", "have", "need"}]}. Raises NotFound."""
    found = job_service.find(reference)
    on_cluster = found.source == framework_jobs.SOURCE and found.state not in ("held", *moves.JOB_FINAL)
    verdict, reasons = (framework_jobs.explain if on_cluster else _BY_STATE.get(found.state, _ended))(found)
    subject = {"kind": "job", "id": found.id, "name": found.name, "state": found.state,
               "submitted_at": clock.rfc3339(found.submitted_at)}
    return {"subject": subject, "verdict": verdict, "reasons": reasons}


def _reason(rule: str, text: str, *, have: Any = None, need: Any = None, **where: str) -> Reason:
    return {"rule": rule, **where, "text": text, "have": have, "need": need}


def _ended(found: Job) -> tuple[str, list[Reason]]:
    reasons = [_reason("result", found.reason, have=found.exit_code)] if found.reason else []
    return f"It has ended as {found.state}.", reasons


# Rules that pass by themselves say nothing about why a job was held.
_PASSING = frozenset({"slots", "memory", "storage", "blocked"})


def _held(found: Job) -> tuple[str, list[Reason]]:
    text = (found.reason or "it was submitted held").rstrip(".")
    asks_no_cloud = shapes.get(found.shape_id).source == "task"
    refused = [] if asks_no_cloud else [reason for reason in _cloud_refusals(found) if reason["rule"] not in _PASSING]
    return "It is held: release it to let it go on.", [_reason("held", f"Held: {text}."), *_open_needs(found), *refused]


def _cloud_refusals(found: Job) -> list[Reason]:
    """What each cloud would say if the job were waiting now."""
    shape, at = shapes.get(found.shape_id), clock.now()
    picture = snapshot.with_job(snapshot.build(at), shape, found.id, found.priority)
    answer = rules.why_job(picture, snapshot.policy(), at, shape_id=shape.id, job_id=found.id)
    return [_of_rule(one, cloud) for cloud, refused in answer.clouds.items() for one in refused]


def _in_hand(found: Job) -> tuple[str, list[Reason]]:
    places = listings.node_places([found.node_id] if found.node_id else [])
    name, cloud = places.get(found.node_id or 0, ("a node", ""))
    where = {"node": name, **({"cloud": cloud} if cloud else {})}
    if found.goal == "cancel":
        text = "It is being cancelled: the node was told to kill it and has not proved it dead yet."
        return text, [_reason("cancel", text, **where)]
    word = "is running" if found.state == "running" else "was handed out and has not begun"
    return f"It {word} on {name}.", [_reason(found.state, f"Attempt {found.attempt} is on {name}.", **where)]


def _pending(found: Job) -> tuple[str, list[Reason]]:
    reasons = _open_needs(found)
    at = clock.now()
    if found.not_before is not None:
        left_s = round(max(0.0, found.not_before - at), 1)
        reasons.append(_reason("pause", f"It pauses {left_s} s before retry {found.retries} of {found.max_retries}.",
                               have=0, need=left_s))
    first = reasons[0]["text"] if reasons else "It is released with the next cycle."
    return f"It is pending. {first}", reasons


def _open_needs(found: Job) -> list[Reason]:
    reasons = []
    for _, on, kind in listings.open_needs([found.id]):
        if kind == "files":
            reasons.append(_missing_files(found))
            continue
        other = jobs.get(on)
        state = other.state if other else "removed"
        need = "succeeded" if kind == "ok" else "ended"
        reasons.append(_reason(f"after_{kind}", f"It waits for job {on}, which is {state}.", have=state, need=need))
    return reasons


def _missing_files(found: Job) -> Reason:
    wanted = [item["name"] for item in json.loads(found.spec).get("input_files", [])]
    there = inputs.names(read(), found.id)
    missing = [name for name in wanted if name not in there]
    shown = ", ".join(missing[:10]) + (" ..." if len(missing) > 10 else "")
    return _reason("input_files", f"Input files are missing: {shown}.", have=len(wanted) - len(missing), need=len(wanted))


# queued


def _queued(found: Job) -> tuple[str, list[Reason]]:
    shape, at = shapes.get(found.shape_id), clock.now()
    reasons: list[Reason] = []
    admitting: list[str] = []
    for node, refused in _refusing_nodes(found):
        admitting += [] if refused else [node.name]
        reasons += refused[:1]
    if shape.source == "task":
        text = "It is queued; it waits for a machine that is here, nothing is booted for it."
        return (_taken_by(admitting) if admitting else text), _shortened(reasons)
    banned = found.ban_until is not None and found.ban_until > at
    picture = snapshot.with_job(snapshot.build(at), shape, found.id, found.priority)
    try:
        answer = rules.why_job(picture, snapshot.policy(), at, shape_id=shape.id, job_id=found.id, banned=banned)
    except KeyError:
        return "It is queued; the scheduler has not read it yet.", [*_late_loops(), *_shortened(reasons)]
    general = [_of_rule(one) for one in answer.general]
    by_cloud = [_of_rule(one, cloud) for cloud, refused in answer.clouds.items() for one in refused]
    blocked = [_reason("blocked", f"{cloud} is not tried for it until {clock.rfc3339(until)}, after a failed boot.",
                       cloud=cloud) for cloud, until in listings.blocks(found.id, at)]
    late, away = _late_loops(), _out_of_reach(answer)
    verdict = _verdict(answer, admitting, late, away)
    return verdict, [*late, *general, *away, *by_cloud, *blocked, *_shortened(reasons), *_failed_boots(found)]


def _verdict(answer: rules.JobAnswer, admitting: list[str], late: list[Reason], away: list[Reason]) -> str:
    if admitting:
        return _taken_by(admitting)
    if late:
        return f"It is queued. {late[0]['text']}"
    fits = {cloud for cloud, refused in answer.clouds.items() if all(one.rule in _PASSING for one in refused)}
    if away and fits <= {one["cloud"] for one in away}:
        return "It is queued. " + " ".join(one["text"] for one in away)
    return f"It is queued. {answer.text}"


def _out_of_reach(answer: rules.JobAnswer) -> list[Reason]:
    """The clouds that would do but for not answering."""
    found = []
    for cloud in clouds.all_clouds():
        refused = answer.clouds.get(cloud.name)
        if refused is None or cloud.error_since is None or not cloud.error_text:
            continue
        if all(one.rule in _PASSING for one in refused):
            text = f"{cloud.name} cannot be reached since {clock.rfc3339(cloud.error_since)}: {cloud.error_text}"
            found.append(_reason("unreachable", text, have="unreachable", need="reachable", cloud=cloud.name))
    return found


def _taken_by(admitting: list[str]) -> str:
    more = f" and {len(admitting) - 1} more" if len(admitting) > 1 else ""
    return f"It is queued; {admitting[0]}{more} can take it, when it is its turn."


def _of_rule(one: Any, cloud: str = "") -> Reason:
    name = one.cloud or cloud
    return _reason(one.rule, one.text, have=_plain(one.have), need=_plain(one.need), **({"cloud": name} if name else {}))


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool, list, dict)) or value is None else str(value)


def _late_loops() -> list[Reason]:
    """The loops a waiting job needs, when they do not beat."""
    at, found, pulses = clock.now(), [], system.pulses()
    pulse = pulses.get("scheduler")
    if pulse is None:
        return [_reason("engine", "No engine has ever run: nothing is booted. Start one with `cloudsched engine`.")]
    age_s = at - (pulse.last_cycle_at or pulse.created_at)
    if age_s > MISSED_BEATS * pulse.interval_s + 1:
        text = f"The scheduler has not completed a cycle for {age_s:.0f} s: is an engine running?"
        found.append(_reason("engine", text, have=round(age_s, 1), need=pulse.interval_s))
    if pulse.last_error and (pulse.last_cycle_at or 0) < (pulse.last_error_at or 0):
        found.append(_reason("engine", f"The scheduler's last cycle failed: {pulse.last_error}"))
    return found


def _failed_boots(found: Job) -> list[Reason]:
    return [_reason("boot_failed", f"{clock.rfc3339(at)}: {told(text)}", have=code, cloud=cloud)
            for cloud, code, text, at in listings.boot_failures(found.id, limit=5)]


def told(text: str) -> str:
    """What is kept of a failed boot as one line: the contract's sentence, then what the place said."""
    sentence, _, rest = text.partition("\n")
    return f"{sentence}: {rest}" if rest and rest != sentence else sentence


def _refusing_nodes(found: Job) -> Iterator[tuple[Node, list[Reason]]]:
    """Each live node with what refuses the job there, first rule first; nothing when it may take it."""
    shape, names, busy, at = shapes.get(found.shape_id), machines.cloud_names(), nodes.counts_in_hand(), clock.now()
    rows = {row.node_id: row for row in device_rows.listed()}
    for node in nodes.live():
        row = rows.get(node.id)
        machine = machines.machine(
            machines.facts(node.id, node.version), node.id, user=node.user, vm_type=node.vm_type, cores=node.cores,
            memory_mb=node.memory_mb, storage_gb=node.storage_gb, cloud_names=names.get(node.cloud_id, frozenset()),
            takes=machines.takes_of(row.takes) if row is not None else None)
        refused = [_reason(one.rule, one.text, have=_plain(one.have), need=_plain(one.need), node=node.name)
                   for one in admission.refusals(machine, shape)]
        yield node, refused or [*_no_gpu_free(node, machine, shape), *_unable(node, busy.get(node.id, 0), at)]


def _no_gpu_free(node: Node, machine: admission.Machine, shape: Shape) -> Iterator[Reason]:
    free = machines.free_gpus(read(), machine) if shape.gpus else 0
    if shape.gpus > free:
        yield _reason("gpus", f"Of the node's {machine.gpus} GPUs {free} are free; the job needs {shape.gpus}.", have=free,
                      need=shape.gpus, node=node.name)


def _unable(node: Node, jobs_now: int, at: float) -> Iterator[Reason]:
    """Why a node that would admit the job does not ask for it."""
    if node.state != "running":
        yield _reason("state", f"The node is {node.state}.", have=node.state, need="running", node=node.name)
    elif node.goal != "run":
        yield _reason("goal", f"The node takes nothing new: its goal is {node.goal}.", have=node.goal, need="run",
                      node=node.name)
    elif node.last_seen_at is None or at - node.last_seen_at > _patience_s(node):
        age = "never" if node.last_seen_at is None else f"{at - node.last_seen_at:.0f} s ago"
        yield _reason("silent", f"The node was heard from {age}.", have=age, need=_patience_s(node), node=node.name)
    elif jobs_now >= max(1, node.slots):
        yield _reason("busy", f"The node has {jobs_now} jobs in hand and room for {node.slots}.", have=jobs_now,
                      need=node.slots, node=node.name)


def _patience_s(node: Node) -> float:
    """How long a machine may be silent: a lease, or, of a device, the fleet's threshold."""
    row = device_rows.of_node(read(), node.id)
    if row is None or row.via == device_rows.MACHINE:
        return agent_rules.rules.lease_s
    return fleet_config.current().offline_threshold_s


def _shortened(reasons: list[Reason]) -> list[Reason]:
    """The first of many; the rest as one line per rule."""
    if len(reasons) <= NODES_SHOWN:
        return reasons
    rest: dict[str, int] = {}
    for one in reasons[NODES_SHOWN:]:
        rest[one["rule"]] = rest.get(one["rule"], 0) + 1
    return [*reasons[:NODES_SHOWN],
            *(_reason(rule, f"{count} more nodes refuse by this rule.", have=count) for rule, count in rest.items())]


# nodes


def node(reference: int | str) -> dict[str, Any]:
    """The same shape for a node: why it is kept, or what takes it."""
    found = node_service.find(reference)
    verdict, reasons = _why_node(found)
    subject = {"kind": "node", "id": found.id, "name": found.name, "state": found.state}
    return {"subject": subject, "verdict": verdict, "reasons": reasons}


def _why_node(found: Node) -> tuple[str, list[Reason]]:
    if found.state in moves.NODE_FINAL:
        reasons = [_reason("ended", found.reason)] if found.reason else []
        return f"It is {found.state}.", reasons
    own = [_of_node(one, found) for one in _unable(found, nodes.counts_in_hand().get(found.id, 0), clock.now())]
    if found.error_count:
        own.append(_reason("errors", f"Its place failed {found.error_count} times in a row.", have=found.error_count,
                           node=found.name))
    at = clock.now()
    try:
        answer = rules.why_node(snapshot.build(at), snapshot.policy(), at, node_id=found.id)
    except KeyError:
        text = "It came by itself with a join token: no rule takes it; it stays until it is drained or destroyed."
        return text, own
    reasons = [_of_rule(one) | {"node": found.name} for one in answer.reasons]
    if answer.rule:
        reasons.insert(0, _reason(answer.rule, answer.text, node=found.name))
    return f"{_VERDICTS[answer.verdict]} {answer.text}", [*own, *reasons]


def _of_node(one: Reason, found: Node) -> Reason:
    return {**one, "node": found.name}


_VERDICTS = {"kept": "It is kept.", "retiring": "It is retiring.", "retire": "The next cycle retires it.",
             "destroy": "The next cycle destroys it."}
_BY_STATE = {"pending": _pending, "held": _held, "queued": _queued, "assigned": _in_hand, "running": _in_hand}
