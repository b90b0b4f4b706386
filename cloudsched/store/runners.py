"""How are runners kept? What is wanted on which tag, its configurations by number, and how far each agent has come."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from cloudsched.domain import moves as legal
from cloudsched.domain.rollout import ROLLOUT, ROLLOUT_ACTIVE
from cloudsched.store import events, logagents
from cloudsched.store.db import Row, Tx, read

_TARGET_STATES = ("pending", "applied", "failed", "by_hand")


class Runner(NamedTuple):
    id: int
    name: str
    tag: str
    want: str
    run: str
    generation: int
    version: int
    actor: str
    created_at: float
    updated_at: float


class Target(NamedTuple):
    """One runner on one agent; `url`, `node_id`, `agent_tag`, `by_hand`, `seen_at` are the agent's."""

    id: int
    agent_id: int
    name: str
    runner_id: int | None
    generation: int
    want: str
    run: str
    hash: str
    state: str
    reason: str
    reported: str
    attempts: int
    not_before: float | None
    checked_at: float | None
    applied_at: float | None
    changed_at: float
    url: str
    node_id: int
    agent_tag: str
    by_hand: int
    seen_at: float | None


class Rollout(NamedTuple):
    id: int
    runner_id: int
    state: str
    from_generation: int
    to_generation: int
    plan: str
    waves: str
    wave: int
    wave_at: float | None
    healthy_at: float | None
    baseline: str
    reason: str
    actor: str
    version: int
    created_at: float
    ended_at: float | None


_RUNNER = f"SELECT {', '.join(Runner._fields)} FROM runner"
_TARGET = (f"SELECT {', '.join('t.' + name for name in Target._fields[:16])}, a.url, a.node_id, a.tag, a.by_hand, n.last_seen_at "
           "FROM runner_target t JOIN log_agent a ON a.id = t.agent_id JOIN node n ON n.id = a.node_id")
_ROLLOUT = f"SELECT {', '.join(Rollout._fields)} FROM rollout"

# configurations


def keep_config(tx: Tx, digest: str, body: str) -> None:
    """Keep a configuration under its hash."""
    tx.run("INSERT INTO runner_config (hash, body) VALUES (?, ?) ON CONFLICT (hash) DO NOTHING", (digest, body))


def config(digest: str) -> str | None:
    """The text kept under a hash."""
    value = read().value("SELECT body FROM runner_config WHERE hash = ?", (digest,))
    return None if value is None else str(value)


def forget_configs(tx: Tx) -> int:
    """Drop configurations that nothing refers to any more."""
    return int(tx.run("DELETE FROM runner_config WHERE hash NOT IN (SELECT hash FROM runner_version) "
                      "AND hash NOT IN (SELECT hash FROM runner_target)").rowcount)


# runners


def get(number: int) -> Runner | None:
    """One runner by number."""
    row = read().one(f"{_RUNNER} WHERE id = ?", (number,))
    return Runner(*row) if row else None


def at_place(tx: Tx, tag: str, name: str) -> Runner | None:
    """The runner of a name on a tag."""
    row = tx.one(f"{_RUNNER} WHERE tag = ? AND name = ?", (tag, name))
    return Runner(*row) if row else None


def page(*, tag: str = "", name: str = "", after: int | None = None, limit: int = 100) -> list[Runner]:
    """Runners, newest first, keyset-paged by id."""
    where, args = ["id < ?"], [after if after is not None else 2**62]  # type: tuple[list[str], list[Any]]
    for column, value in (("tag", tag), ("name", name)):
        if value:
            where.append(f"{column} = ?")
            args.append(value)
    return [Runner(*row) for row in read().all(f"{_RUNNER} WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?", (*args, limit))]


def ensure(tx: Tx, name: str, tag: str, *, at: float, actor: str) -> Runner:
    """The runner of a name on a tag, made when it is new."""
    logagents.changed(tx)
    known = at_place(tx, tag, name)
    if known is None:
        number = tx.value("INSERT INTO runner (name, tag, want, run, generation, version, actor, created_at, updated_at) "
                          "VALUES (?, ?, 'present', 'running', 0, 1, ?, ?, ?) RETURNING id", (name, tag, actor, at, at))
        events.append(tx, "runner.add", ("runner", int(number)), at=at, actor=actor, name=name, tag=tag)
        known = at_place(tx, tag, name)
    assert known is not None
    return known


def update(tx: Tx, number: int, *, at: float, actor: str, event: str, note: dict[str, Any] | None = None, **facts: Any) -> None:
    """Set columns of a runner, with an event."""
    logagents.changed(tx)
    sets = "".join(f"{name} = ?, " for name in facts)
    tx.run(f"UPDATE runner SET {sets}actor = ?, updated_at = ?, version = version + 1 WHERE id = ?",
           (*facts.values(), actor, at, number))
    events.append(tx, event, ("runner", number), at=at, actor=actor, **(note or {}))


def add_version(tx: Tx, number: int, digest: str, *, at: float, actor: str) -> int:
    """The number of a runner's new configuration."""
    last = tx.value("SELECT max(generation) FROM runner_version WHERE runner_id = ?", (number,)) or 0
    tx.run("INSERT INTO runner_version (runner_id, generation, hash, actor, at) VALUES (?, ?, ?, ?, ?)",
           (number, last + 1, digest, actor, at))
    return int(last) + 1


def versions(number: int) -> list[Row]:
    """(generation, hash, actor, at), newest first."""
    return read().all("SELECT generation, hash, actor, at FROM runner_version WHERE runner_id = ? ORDER BY generation DESC",
                      (number,))


def version_hash(tx: Tx, number: int, generation: int) -> str:
    """The hash of one of a runner's configurations; empty for generation 0 (nothing)."""
    return str(tx.value("SELECT hash FROM runner_version WHERE runner_id = ? AND generation = ?", (number, generation)) or "")


def delete_gone(tx: Tx, *, at: float) -> int:
    """Runners that are wanted nowhere and are nowhere any more are dropped; returns how many."""
    rows = tx.all("SELECT id, name, tag FROM runner r WHERE want = 'absent' "
                  "AND NOT EXISTS (SELECT 1 FROM runner_target t WHERE t.runner_id = r.id)")
    for number, name, tag in rows:
        tx.run("DELETE FROM runner_version WHERE runner_id = ?", (number,))
        tx.run("DELETE FROM runner WHERE id = ?", (number,))
        events.append(tx, "runner.gone", ("runner", number), at=at, name=name, tag=tag)
    return len(rows)


# targets


def want(tx: Tx, agents: Iterable[int], name: str, *, runner_id: int | None, generation: int, want: str, run: str, digest: str,
         at: float, not_before: float | None = None) -> None:
    """This is what is wanted of a runner on these agents from now on; what was wanted before is forgotten."""
    turn = at if not_before is None else not_before
    tx.many(
        "INSERT INTO runner_target (agent_id, name, runner_id, generation, want, run, hash, state, reason, reported, attempts, "
        "not_before, changed_at) VALUES (?, ?, ?, ?, ?, ?, ?, 'pending', '', '', 0, ?, ?) ON CONFLICT (agent_id, name) DO UPDATE "
        "SET runner_id = excluded.runner_id, generation = excluded.generation, want = excluded.want, run = excluded.run, "
        "hash = excluded.hash, state = 'pending', reason = '', reported = '', attempts = 0, not_before = excluded.not_before, "
        "changed_at = excluded.changed_at",
        [(agent, name, runner_id, generation, want, run, digest, turn, at) for agent in agents])


def targets(*, runner_id: int | None = None, agent_id: int | None = None, state: str = "", after: int | None = None,
            limit: int | None = None) -> list[Target]:
    """Targets of a runner or an agent, in the order of their numbers."""
    where, args = ["t.id > ?"], [after or 0]  # type: tuple[list[str], list[Any]]
    for column, value in (("t.runner_id", runner_id), ("t.agent_id", agent_id), ("t.state", state or None)):
        if value is not None:
            where.append(f"{column} = ?")
            args.append(value)
    sql = f"{_TARGET} WHERE {' AND '.join(where)} ORDER BY t.id" + (f" LIMIT {int(limit)}" if limit else "")
    return [Target(*row) for row in read().all(sql, args)]


def counts(runner_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """runner -> {state: targets}."""
    found: dict[int, dict[str, int]] = {number: dict.fromkeys(_TARGET_STATES, 0) for number in runner_ids}
    if runner_ids:
        marks = ", ".join("?" * len(runner_ids))
        sql = f"SELECT runner_id, state, count(*) FROM runner_target WHERE runner_id IN ({marks}) GROUP BY runner_id, state"
        for number, state, count in read().all(sql, tuple(runner_ids)):
            found[number][state] = int(count)
    return found


def due(*, at: float, checked_before: float, heard_since: float, limit: int) -> list[Target]:
    """Targets to act on now: those whose turn has come, then those to be checked again. Agents that are silent or managed
    by hand are left alone."""
    here = "a.by_hand = 0 AND n.state = 'running' AND n.last_seen_at >= ?"
    first = read().all(f"{_TARGET} WHERE t.state IN ('pending', 'failed') AND t.not_before IS NOT NULL AND t.not_before <= ? "
                       f"AND {here} ORDER BY t.not_before, t.id LIMIT ?", (at, heard_since, limit))
    again = read().all(f"{_TARGET} WHERE t.state = 'applied' AND t.checked_at <= ? AND {here} ORDER BY t.checked_at LIMIT ?",
                       (checked_before, heard_since, limit))
    return [Target(*row) for row in (*first, *again)]


def settle(tx: Tx, target: Target, *, at: float, **facts: Any) -> bool:
    """Write down how it went; False when something else is wanted by now and what is known is old."""
    sets = ", ".join(f"{name} = ?" for name in facts)
    done = tx.run(f"UPDATE runner_target SET {sets} WHERE id = ? AND changed_at = ? AND state <> 'by_hand'",
                  (*facts.values(), target.id, target.changed_at)).rowcount == 1
    new = facts.get("state", target.state)
    if done and (new, facts.get("reason", target.reason)) != (target.state, target.reason) and new != "pending":
        events.append(tx, f"runner.{new}", ("node", target.node_id), at=at, runner=target.name, reason=facts.get("reason", ""),
                      generation=target.generation)
    return done


def settle_gone(tx: Tx, target: Target, *, at: float) -> None:
    """It was wanted gone and is."""
    if tx.run("DELETE FROM runner_target WHERE id = ? AND changed_at = ?", (target.id, target.changed_at)).rowcount == 1:
        events.append(tx, "runner.removed", ("node", target.node_id), at=at, runner=target.name)


def by_hand(tx: Tx, agents: Sequence[int], name: str, *, at: float) -> int:
    """Somebody acted on these pairs by hand: desired state leaves them alone until the runner is applied again."""
    done = 0
    for agent in agents:
        done += tx.run("UPDATE runner_target SET state = 'by_hand', reason = 'changed by hand', not_before = NULL, "
                       "changed_at = ? WHERE agent_id = ? AND name = ? AND state <> 'by_hand'", (at, agent, name)).rowcount
    return done


def retry(tx: Tx, runner_id: int, *, at: float) -> int:
    """Try again now where it failed or waits; returns how many."""
    return int(tx.run("UPDATE runner_target SET state = 'pending', attempts = 0, not_before = ?, changed_at = ? "
                      "WHERE runner_id = ? AND state IN ('failed', 'pending')", (at, at, runner_id)).rowcount)


def joined(tx: Tx) -> list[Row]:
    """(runner id, agent id) of agents that have a runner's tag but nothing wanted of it yet."""
    return tx.all("SELECT r.id, a.id FROM runner r JOIN log_agent a ON a.tag = r.tag AND a.by_hand = 0 "
                  "LEFT JOIN runner_target t ON t.agent_id = a.id AND t.name = r.name AND t.runner_id = r.id "
                  "WHERE r.want = 'present' AND r.generation > 0 AND t.id IS NULL ORDER BY r.id, a.id")


def left(tx: Tx) -> list[Row]:
    """(target id, agent id, name) of agents that no longer have the tag of the runner that is wanted there."""
    return tx.all("SELECT t.id, t.agent_id, t.name FROM runner_target t JOIN log_agent a ON a.id = t.agent_id AND a.by_hand = 0 "
                  "JOIN runner r ON r.id = t.runner_id WHERE r.tag <> a.tag")


def leave(tx: Tx, number: int, agent_id: int, name: str, *, at: float) -> None:
    """The agent left the tag: it is to lose the runner, unless somebody took that pair in hand."""
    if tx.run("DELETE FROM runner_target WHERE id = ? AND state = 'by_hand'", (number,)).rowcount == 0:
        want(tx, [agent_id], name, runner_id=None, generation=0, want="absent", run="", digest="", at=at)


# roll-outs


def add_rollout(tx: Tx, runner_id: int, *, from_generation: int, to_generation: int, plan: str, waves: Sequence[Sequence[int]],
                actor: str, at: float) -> int:
    """A roll-out that begins with its first wave."""
    number = int(tx.value(
        "INSERT INTO rollout (runner_id, state, from_generation, to_generation, plan, waves, wave, wave_at, baseline, reason, "
        "actor, version, created_at) VALUES (?, 'running', ?, ?, ?, ?, 0, ?, '{}', '', ?, 1, ?) RETURNING id",
        (runner_id, from_generation, to_generation, plan, json.dumps(waves), at, actor, at)))
    events.append(tx, "rollout.begin", ("rollout", number), at=at, actor=actor, runner_id=runner_id, to=to_generation)
    return number


def rollout(number: int) -> Rollout | None:
    """One roll-out by number."""
    row = read().one(f"{_ROLLOUT} WHERE id = ?", (number,))
    return Rollout(*row) if row else None


def rollouts(*, runner_id: int | None = None, active: bool = False, after: int | None = None, limit: int = 100) -> list[Rollout]:
    """Roll-outs, newest first."""
    where, args = ["id < ?"], [after if after is not None else 2**62]  # type: tuple[list[str], list[Any]]
    if runner_id is not None:
        where.append("runner_id = ?")
        args.append(runner_id)
    if active:
        where.append(f"state IN ({', '.join('?' * len(ROLLOUT_ACTIVE))})")
        args += ROLLOUT_ACTIVE
    sql = f"{_ROLLOUT} WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?"
    return [Rollout(*row) for row in read().all(sql, (*args, limit))]


def move_rollout(tx: Tx, found: Rollout, event: str, *, at: float, actor: str = "", note: dict[str, Any] | None = None,
                 **facts: Any) -> bool:
    """Move a roll-out by an event; False when it has moved since it was read."""
    states = legal.sources(ROLLOUT, event)
    new = legal.target(ROLLOUT, event)
    if not ROLLOUT[new]:
        facts.setdefault("ended_at", at)
    sets = "".join(f", {name} = ?" for name in facts)
    done = tx.run(f"UPDATE rollout SET state = ?, version = version + 1{sets} WHERE id = ? AND version = ? "
                  f"AND state IN ({', '.join('?' * len(states))})",
                  (new, *facts.values(), found.id, found.version, *states)).rowcount == 1
    if done:
        events.append(tx, f"rollout.{event}", ("rollout", found.id), at=at, actor=actor, **(note or {}))
    return done


def note_rollout(tx: Tx, found: Rollout, **facts: Any) -> bool:
    """Set columns of a roll-out that are no move (no event: waiting is no news)."""
    sets = ", ".join(f"{name} = ?" for name in facts)
    return bool(tx.run(f"UPDATE rollout SET {sets}, version = version + 1 WHERE id = ? AND version = ?",
                       (*facts.values(), found.id, found.version)).rowcount == 1)
