"""What is wanted of log agents? Runners: configurations applied to a tag, started, stopped, taken back, compared.

A runner applied to a tag is wanted on every agent of that tag, also on one that was away or comes later; an agent that
leaves the tag loses it. The engine does the work (engine/runners.py), one target (a runner on an agent) at a time.
Configurations may hold service tokens: they are sealed where they are kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cloudsched import clock
from cloudsched.domain import rollout as domain
from cloudsched.domain.rollout import Plan
from cloudsched.drivers.logagent import Answer, Call, Line
from cloudsched.errors import Conflict, Invalid, NotFound
from cloudsched.sealed import Sealer
from cloudsched.services import logagents, runners_compare
from cloudsched.services.caller import Caller
from cloudsched.services.logagents_calls import Unusable, as_map, checked_name, make_line, name_in
from cloudsched.settings import Settings
from cloudsched.store import logagents as agent_rows
from cloudsched.store import runners as store
from cloudsched.store.db import Tx, write
from cloudsched.store.listings import jobs_on

STATES = ("pending", "applied", "failed", "by_hand")
# After an operation over the dialect the agent is being called anyway: the engine looks a little later.
REQUEST_GRACE_S = 10.0


class Configs:
    """Configurations by their hash, sealed in the database and remembered in clear by this process."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir
        self._sealer: Sealer | None = None
        self._known: dict[str, dict[str, Any]] = {}

    def keep(self, tx: Tx, config: Mapping[str, Any]) -> str:
        """Keep a configuration; returns its hash."""
        found = runners_compare.digest(dict(config))
        store.keep_config(tx, found, self._seal().seal(json.dumps(config, ensure_ascii=False)))
        return found

    def get(self, digest: str) -> dict[str, Any]:
        """The configuration of a hash. Raises NotFound."""
        if digest not in self._known:
            sealed = store.config(digest)
            if sealed is None:
                raise NotFound(f"no configuration {digest} is kept")
            if len(self._known) > 1000:
                self._known.clear()
            self._known[digest] = runners_compare.parse(self._seal().open(sealed))
        return self._known[digest]

    def _seal(self) -> Sealer:
        if self._sealer is None:
            self._sealer = Sealer.load(self._state_dir)
        return self._sealer


class Runners:
    """What callers ask of runners."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.configs = Configs(settings.state.dir)
        self._line: Line | None = None

    # wanting

    def apply(self, name: str, tag: str, config: dict[str, Any], caller: Caller, *, plan: Plan | None = None,
              run: str = "running") -> dict[str, Any]:
        """Want this configuration on a tag; with a plan in waves. Returns the runner, with `rollout` when one began.

        Raises Invalid, Conflict (a roll-out of it is under way).
        """
        caller.require("operator")
        _check_place(name, tag)
        if len(json.dumps(config)) > self.settings.logkit.config_max_mb << 20:
            raise Invalid.at("config", "is too large", f"at most {self.settings.logkit.config_max_mb} MiB")
        steps = domain.check_steps(plan.steps) if plan is not None else ()
        number, rollout = write(lambda tx: self._apply(tx, name, tag, config, caller.name, plan=plan, steps=steps, run=run))
        return {**self.one(number), "rollout": rollout}

    def _apply(self, tx: Tx, name: str, tag: str, config: dict[str, Any], actor: str, *, plan: Plan | None,
               steps: Sequence[str], run: str) -> tuple[int, int | None]:
        at = clock.now()
        found = store.ensure(tx, name, tag, at=at, actor=actor)
        _no_rollout(found)
        digest = self.configs.keep(tx, config)
        before = found.generation
        same = store.version_hash(tx, found.id, before) == digest
        generation = before if same else store.add_version(tx, found.id, digest, at=at, actor=actor)
        facts: dict[str, Any] = {"want": "present", "run": run}
        if plan is None or same:
            facts["generation"] = generation
        store.update(tx, found.id, at=at, actor=actor, event="runner.apply", note={"generation": generation, "tag": tag}, **facts)
        agents = [row.id for row in agent_rows.rows(tag=tag, tx=tx) if not row.by_hand]
        if plan is None or same:
            store.want(tx, agents, name, runner_id=found.id, generation=generation, want="present", run=run, digest=digest, at=at)
            return found.id, None
        waves = domain.split(agents, steps)
        number = store.add_rollout(tx, found.id, from_generation=before, to_generation=generation, plan=json.dumps(asdict(plan)),
                                   waves=waves, actor=actor, at=at)
        store.want(tx, waves[0] if waves else (), name, runner_id=found.id, generation=generation, want="present", run=run,
                   digest=digest, at=at)
        return found.id, number

    def switch(self, number: int, run: str, caller: Caller) -> dict[str, Any]:
        """Want it `running` or `stopped` everywhere. Raises NotFound, Conflict."""
        caller.require("operator")
        runner = self._runner(number)

        def change(tx: Tx) -> None:
            at = clock.now()
            _no_rollout(runner)
            store.update(tx, number, at=at, actor=caller.name, event=f"runner.{'start' if run == 'running' else 'stop'}", run=run)
            self._want_everywhere(tx, runner, run=run, at=at)

        write(change)
        return self.one(number)

    def go_back(self, number: int, generation: int, caller: Caller) -> dict[str, Any]:
        """Want an earlier configuration again, everywhere at once. Raises NotFound, Conflict."""
        caller.require("operator")
        runner = self._runner(number)
        digest = next((row[1] for row in store.versions(number) if row[0] == generation), None)
        if digest is None:
            raise NotFound(f"runner {runner.name} has no configuration {generation}")
        return self.apply(runner.name, runner.tag, self.configs.get(digest), caller, run=runner.run)

    def remove(self, number: int, caller: Caller) -> dict[str, Any]:
        """Want it nowhere: the agents delete it. Raises NotFound, Conflict."""
        caller.require("operator")
        runner = self._runner(number)

        def change(tx: Tx) -> None:
            at = clock.now()
            _no_rollout(runner)
            store.update(tx, number, at=at, actor=caller.name, event="runner.remove", want="absent")
            agents = [target.agent_id for target in store.targets(runner_id=number)]
            store.want(tx, agents, runner.name, runner_id=number, generation=runner.generation, want="absent", run="",
                       digest="", at=at)

        write(change)
        return self.one(number)

    def retry(self, number: int, caller: Caller) -> dict[str, Any]:
        """Try again now on the agents that failed. Raises NotFound."""
        caller.require("operator")
        self._runner(number)
        write(lambda tx: store.retry(tx, number, at=clock.now()))
        return self.one(number)

    def _want_everywhere(self, tx: Tx, runner: store.Runner, *, run: str, at: float) -> None:
        digest = store.version_hash(tx, runner.id, runner.generation)
        agents = [row.id for row in agent_rows.rows(tag=runner.tag, tx=tx) if not row.by_hand]
        store.want(tx, agents, runner.name, runner_id=runner.id, generation=runner.generation, want=runner.want, run=run,
                   digest=digest, at=at)

    # operations that came over the dialect

    def note(self, agents: Sequence[logagents.LogAgent], operation: str, name: str, body: bytes) -> None:
        """An operation was asked for over the dialect: what desired state makes of it (contract 12).

        Off: these pairs are by hand from now on. On: the last operation on a pair is what is wanted there.
        """
        ids, at = [agent.id for agent in agents], clock.now()
        if not self.settings.logkit.desired_state:
            write(lambda tx: store.by_hand(tx, ids, name, at=at))
        elif operation != "reset":
            config = runners_compare.parse(body) if operation in ("add", "update") else None
            write(lambda tx: self._request(tx, [agent.id for agent in agents if not agent.by_hand], operation, name, config, at))

    def _request(self, tx: Tx, ids: Sequence[int], operation: str, name: str, config: dict[str, Any] | None,
                 at: float) -> None:
        digest = self.configs.keep(tx, config) if config is not None else ""
        for agent in ids:
            known = next((one for one in store.targets(agent_id=agent) if one.name == name), None)
            stays = "stopped" if (config or {}).get("is_stopped") else "running"
            run = {"start": "running", "stop": "stopped"}.get(operation, stays)
            store.want(tx, [agent], name, runner_id=known.runner_id if known else None,
                       generation=known.generation if known else 0,
                       want="absent" if operation == "delete" else "present", run=run if operation != "delete" else "",
                       digest=digest or (known.hash if known and operation != "delete" else ""), at=at,
                       not_before=at + REQUEST_GRACE_S)

    # looking

    def page(self, *, tag: str = "", name: str = "", after: int | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Runners, newest first."""
        return self._views(store.page(tag=tag, name=name, after=after, limit=limit))

    def one(self, number: int) -> dict[str, Any]:
        """One runner. Raises NotFound."""
        return self._views([self._runner(number)])[0]

    def with_config(self, number: int, generation: int | None = None) -> dict[str, Any]:
        """One runner with its configuration, or an earlier one. Raises NotFound."""
        runner = self._runner(number)
        wanted = runner.generation if generation is None else generation
        rows = store.versions(number)
        digest = next((row[1] for row in rows if row[0] == wanted), None)
        if digest is None and (generation is not None or runner.generation):
            raise NotFound(f"runner {runner.name} has no configuration {wanted}")
        return {**self.one(number), "config": self.configs.get(digest) if digest else None,
                "versions": [{"generation": row[0], "hash": row[1], "actor": row[2], "at": clock.rfc3339(row[3])}
                             for row in rows]}

    def targets(self, number: int, *, state: str = "", after: int | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """How far it has come on each agent. Raises NotFound, Invalid."""
        self._runner(number)
        if state and state not in STATES:
            raise Invalid.at("state", f"{state!r} is no state of a target", ", ".join(STATES))
        return [_target(one) for one in store.targets(runner_id=number, state=state, after=after, limit=limit)]

    def agents(self, *, tag: str = "", status: str = "", after: int | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Log agents in the order of their numbers. Raises Invalid."""
        words = (logagents.OK, logagents.BAD, logagents.LOST)
        if status and status not in words:
            raise Invalid.at("status", f"{status!r} is no status of a log agent", ", ".join(words))
        now = clock.now()
        found = [_agent(row, now) for row in agent_rows.rows(tag=tag) if row.id > (after or 0)]
        return _labelled([view for view in found if not status or view["status"] == status][:limit])

    def agent(self, number: int) -> dict[str, Any]:
        """One log agent with its targets. Raises NotFound."""
        row = agent_rows.get(number)
        if row is None:
            raise NotFound(f"there is no log agent {number}")
        return {**_labelled([_agent(row, clock.now())])[0], "runners": [_target(one) for one in store.targets(agent_id=number)]}

    def set_by_hand(self, number: int, by_hand: bool, caller: Caller) -> dict[str, Any]:
        """Switch desired state off or on for an agent. Raises NotFound."""
        caller.require("operator")
        if not write(lambda tx: agent_rows.set_by_hand(tx, number, by_hand, at=clock.now(), actor=caller.name)):
            raise NotFound(f"there is no log agent {number}")
        return self.agent(number)

    def forget_agent(self, number: int, caller: Caller) -> None:
        """Drop an agent from the list; its next heartbeat brings it back. Raises NotFound."""
        caller.require("operator")
        if not write(lambda tx: agent_rows.remove(tx, number=number, at=clock.now(), actor=caller.name)):
            raise NotFound(f"there is no log agent {number}")

    def diff(self, name: str, tag: str, config: dict[str, Any] | None, caller: Caller) -> list[dict[str, Any]]:
        """What applying would change on each agent of the tag; nothing is changed. `config` None: what removing would.

        [{url, action: add|update|none|delete|unknown, diff, error}]
        """
        caller.require("operator")
        _check_place(name, tag)
        now = clock.now()
        rows = agent_rows.rows(tag=tag)
        here = [row for row in rows if _agent(row, now)["status"] != logagents.LOST]
        answers = self.line.call([Call(row.url, "GET", "/logkit/configs") for row in here],
                                 limit_s=self.settings.logkit.read_timeout_s)
        found = dict(zip((row.id for row in here), answers, strict=True))
        return [_difference(row, found.get(row.id), name, config) for row in rows]

    @property
    def line(self) -> Line:
        """The connections to agents, made when first needed."""
        if self._line is None:
            self._line = make_line(self.settings)
        return self._line

    def close(self) -> None:
        """Close the connections."""
        if self._line is not None:
            self._line.close()

    def _runner(self, number: int) -> store.Runner:
        found = store.get(number)
        if found is None:
            raise NotFound(f"there is no runner {number}")
        return found

    def _views(self, found: Sequence[store.Runner]) -> list[dict[str, Any]]:
        counts = store.counts([one.id for one in found])
        return [{
            "id": one.id, "name": one.name, "tag": one.tag, "want": one.want, "run": one.run, "generation": one.generation,
            "targets": counts[one.id], "actor": one.actor, "version": one.version,
            "rollout": next((r.id for r in store.rollouts(runner_id=one.id, active=True, limit=1)), None),
            "created_at": clock.rfc3339(one.created_at), "updated_at": clock.rfc3339(one.updated_at),
        } for one in found]


def _check_place(name: str, tag: str) -> None:
    checked_name(name)
    if not tag:
        raise Invalid.at("tag", "must not be empty: an empty tag cannot be selected", "a tag that agents have")
    logagents.checked_tag(tag)


def _no_rollout(runner: store.Runner) -> None:
    active = store.rollouts(runner_id=runner.id, active=True, limit=1)
    if active:
        raise Conflict(f"roll-out {active[0].id} of runner {runner.name} is {active[0].state}: let it end, or roll it back")


def _agent(row: agent_rows.Row, now: float) -> dict[str, Any]:
    age_s = max(0.0, now - row.seen_at)
    return {"id": row.id, "node_id": row.node_id, "url": row.url, "tag": row.tag, "status": logagents.status_of(age_s),
            "by_hand": bool(row.by_hand), "last_seen_at": clock.rfc3339(row.seen_at), "silent_s": round(age_s, 3),
            "registered_at": clock.rfc3339(row.registered_at)}


def _labelled(views: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With what our own agents say of themselves, and the jobs on their nodes now."""
    said = agent_rows.labels([view["node_id"] for view in views])
    hosts = {number: int(labels["node_id"]) for number, labels in said.items() if labels.get("node_id", "").isdigit()}
    held = jobs_on(sorted(set(hosts.values())))
    for view in views:
        number = view["node_id"]
        view["labels"] = said.get(number, {})
        view["jobs"] = held.get(hosts.get(number, 0), [])
    return views


def _target(one: store.Target) -> dict[str, Any]:
    return {"id": one.id, "agent_id": one.agent_id, "url": one.url, "runner": one.name, "runner_id": one.runner_id,
            "generation": one.generation, "want": one.want, "run": one.run or None, "state": one.state,
            "reason": one.reason or None, "attempts": one.attempts,
            "gives_up": one.state == "failed" and one.not_before is None, "applied_at": clock.rfc3339(one.applied_at),
            "checked_at": clock.rfc3339(one.checked_at)}


def _difference(row: agent_rows.Row, answer: Answer | None, name: str, config: dict[str, Any] | None) -> dict[str, Any]:
    said = {"url": row.url, "agent_id": row.id, "action": "unknown", "diff": "", "error": None}
    if row.by_hand:
        return {**said, "action": "none", "error": "it is managed by hand"}
    if answer is None:
        return {**said, "error": "it is not heard from"}
    try:
        reports = {name_in(path, raw): runners_compare.parse(bytes(raw)) for path, raw in as_map(answer).items()}
    except (Unusable, Invalid) as problem:
        return {**said, "error": str(problem)}
    report = reports.get(name)
    text = runners_compare.difference(report, config, name=name)
    action = "none" if not text else "add" if report is None else "delete" if config is None else "update"
    return {**said, "action": action, "diff": text}
