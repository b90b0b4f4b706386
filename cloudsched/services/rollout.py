"""How does a new configuration go out in waves? Ask for it, pause, resume, roll back; and the engine's step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from cloudsched import clock
from cloudsched.domain import rollout as domain
from cloudsched.domain.rollout import Member, Plan
from cloudsched.drivers.logagent import Call, Line
from cloudsched.errors import Conflict, NotFound
from cloudsched.services import logagents
from cloudsched.services.caller import Caller
from cloudsched.services.logagents_calls import Unusable, as_map
from cloudsched.store import logagents as agent_rows
from cloudsched.store import runners as store
from cloudsched.store.db import Tx, write
from cloudsched.store.runners import Rollout, Runner, Target

# asking


def page(*, runner: int | None = None, after: int | None = None, limit: int = 100) -> list[dict[str, Any]]:
    """Roll-outs, newest first."""
    return [view(one) for one in store.rollouts(runner_id=runner, after=after, limit=limit)]


def one(number: int) -> dict[str, Any]:
    """One roll-out. Raises NotFound."""
    return view(_found(number))


def pause(number: int, caller: Caller) -> dict[str, Any]:
    """No further wave begins. Raises NotFound, Conflict."""
    return _ask(number, "pause", caller, reason="asked for")


def resume(number: int, caller: Caller) -> dict[str, Any]:
    """Go on; the present wave gets its time limit and its soak anew. Raises NotFound, Conflict."""
    return _ask(number, "resume", caller, reason="", wave_at=clock.now(), healthy_at=None, baseline="{}")


def roll_back(number: int, caller: Caller) -> dict[str, Any]:
    """Give every agent of the waves so far its previous configuration back. Raises NotFound, Conflict."""
    caller.require("operator")
    found = _found(number)
    if not write(lambda tx: _begin_back(tx, found, at=clock.now(), actor=caller.name, reason="asked for")):
        raise Conflict(f"roll-out {number} is {_found(number).state}")
    return one(number)


def view(found: Rollout) -> dict[str, Any]:
    """A roll-out as readers see it."""
    waves = json.loads(found.waves)
    runner = store.get(found.runner_id)
    return {
        "id": found.id, "runner_id": found.runner_id, "runner": runner.name if runner else None,
        "tag": runner.tag if runner else None, "state": found.state, "from_generation": found.from_generation,
        "to_generation": found.to_generation, "plan": json.loads(found.plan), "wave": min(found.wave + 1, len(waves)),
        "waves": [len(wave) for wave in waves], "reason": found.reason or None, "actor": found.actor, "version": found.version,
        "created_at": clock.rfc3339(found.created_at), "wave_at": clock.rfc3339(found.wave_at),
        "ended_at": clock.rfc3339(found.ended_at),
    }


def _found(number: int) -> Rollout:
    found = store.rollout(number)
    if found is None:
        raise NotFound(f"there is no roll-out {number}")
    return found


def _ask(number: int, event: str, caller: Caller, **facts: Any) -> dict[str, Any]:
    caller.require("operator")
    for _ in range(3):  # the engine may have noted something in between
        found = _found(number)
        if write(partial(store.move_rollout, found=found, event=event, at=clock.now(), actor=caller.name, **facts)):
            return one(number)
    raise Conflict(f"roll-out {number} is {found.state}: it cannot be {event}d")


# the engine's step


def step(found: Rollout, line: Line, *, read_timeout_s: float) -> None:
    """Look at one roll-out and take it as far as it goes now. No transaction is open while agents are asked."""
    runner = store.get(found.runner_id)
    if runner is None:
        return
    if found.state == "rolling_back":
        _finish_back(found, runner)
    elif found.state == "running":
        _go_on(found, runner, line, read_timeout_s)


def _go_on(found: Rollout, runner: Runner, line: Line, read_timeout_s: float) -> None:
    plan = msgspec.convert(json.loads(found.plan), Plan)
    waves: list[list[int]] = json.loads(found.waves)
    begun = {number for wave in waves[:found.wave + 1] for number in wave}
    targets = {target.agent_id: target for target in store.targets(runner_id=runner.id)
               if target.agent_id in begun and target.generation == found.to_generation}
    now = clock.now()
    baseline: dict[str, int] = json.loads(found.baseline)
    states = _states(list(targets.values()), line, read_timeout_s, now)
    members = [_member(target, states, baseline, runner, plan, now) for target in targets.values()]
    verdict = domain.judge(plan, members, wave_at=found.wave_at or now, healthy_at=found.healthy_at, now=now)
    if verdict.word == "fail":
        _fail(found, plan, verdict.reason, now)
    elif verdict.word == "well" and found.healthy_at is None:
        counts = {str(number): domain.errors_of(state) for number, state in states.items() if state is not None}
        write(lambda tx: store.note_rollout(tx, found, healthy_at=now, baseline=json.dumps(counts), reason=""))
    elif verdict.word == "advance":
        write(lambda tx: _advance(tx, found, runner, waves, now))
    elif verdict.reason != found.reason:
        write(lambda tx: store.note_rollout(tx, found, reason=verdict.reason))


def _member(target: Target, states: Mapping[int, Mapping[str, Any] | None], baseline: Mapping[str, int], runner: Runner,
            plan: Plan, now: float) -> Member:
    away = now - (target.seen_at or 0.0) > logagents.BAD_UP_TO_S
    state = "applied" if target.state == "by_hand" else target.state
    sick = ""
    if target.agent_id in states:
        sick = domain.sickness(states[target.agent_id], run=runner.run, errors_before=baseline.get(str(target.agent_id)),
                               max_errors=plan.max_errors)
    return Member(target.url, state, target.reason, away, sick)


def _states(targets: Sequence[Target], line: Line, limit_s: float, now: float) -> dict[int, Mapping[str, Any] | None]:
    """Agent -> what its runner says, of those that have applied it and answer. Older agents leave stopped ones out."""
    asked = [target for target in targets if target.state == "applied" and now - (target.seen_at or 0.0) <= logagents.BAD_UP_TO_S]
    answers = line.call([Call(target.url, "GET", "/logkit/status") for target in asked], limit_s=limit_s)
    found: dict[int, Mapping[str, Any] | None] = {}
    for target, answer in zip(asked, answers, strict=True):
        try:
            raw = as_map(answer).get(target.name)
            state = msgspec.json.decode(raw) if raw is not None else None
        except (Unusable, msgspec.DecodeError):
            continue
        if state is None and target.run == "stopped":
            continue
        found[target.agent_id] = state if isinstance(state, dict) else None
    return found


def _advance(tx: Tx, found: Rollout, runner: Runner, waves: Sequence[Sequence[int]], at: float) -> None:
    """The next wave; after the last, it is what the tag wants."""
    number = found.wave + 1
    digest = store.version_hash(tx, runner.id, found.to_generation)
    if number < len(waves):
        note = {"wave": number + 1, "agents": len(waves[number])}
        if store.move_rollout(tx, found, "advance", at=at, note=note, wave=number, wave_at=at, healthy_at=None, baseline="{}",
                              reason=""):
            _want(tx, runner, waves[number], found.to_generation, digest, at)
        return
    if store.move_rollout(tx, found, "complete", at=at, reason=""):
        store.update(tx, runner.id, at=at, actor=found.actor, event="runner.rolled_out", note={"generation": found.to_generation},
                     generation=found.to_generation)
        have = {target.agent_id for target in store.targets(runner_id=runner.id) if target.generation == found.to_generation}
        late = [row.id for row in agent_rows.rows(tag=runner.tag, tx=tx) if not row.by_hand and row.id not in have]
        _want(tx, runner, late, found.to_generation, digest, at)


def _fail(found: Rollout, plan: Plan, reason: str, at: float) -> None:
    if plan.on_failure == "roll_back":
        write(lambda tx: _begin_back(tx, found, at=at, actor="rollout", reason=reason))
    else:
        write(lambda tx: store.move_rollout(tx, found, "pause", at=at, note={"reason": reason}, reason=reason))


def _begin_back(tx: Tx, found: Rollout, *, at: float, actor: str, reason: str) -> bool:
    if not store.move_rollout(tx, found, "roll_back", at=at, actor=actor, note={"reason": reason}, reason=reason):
        return False
    runner = store.get(found.runner_id)
    if runner is not None:
        have = [target.agent_id for target in store.targets(runner_id=runner.id) if target.generation == found.to_generation]
        digest = store.version_hash(tx, runner.id, found.from_generation)
        store.want(tx, have, runner.name, runner_id=runner.id, generation=found.from_generation, digest=digest, at=at,
                   want="present" if digest else "absent", run=runner.run if digest else "")
    return True


def _finish_back(found: Rollout, runner: Runner) -> None:
    """It is back when every agent that is heard from has its previous configuration, or has refused it."""
    now = clock.now()
    left = [target for target in store.targets(runner_id=runner.id, state="pending")
            if now - (target.seen_at or 0.0) <= logagents.BAD_UP_TO_S]
    if not left:
        write(lambda tx: store.move_rollout(tx, found, "finish_back", at=now))


def _want(tx: Tx, runner: Runner, agents: Sequence[int], generation: int, digest: str, at: float) -> None:
    store.want(tx, agents, runner.name, runner_id=runner.id, generation=generation, want="present", run=runner.run,
               digest=digest, at=at)
