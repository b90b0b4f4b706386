"""How does what is wanted of log agents come about? Align targets with tags, act on what is due, take roll-outs on.

Each agent is worked on in a chain of its own; a tick waits for chains a moment only, and takes up the rest later, so that an
agent that hangs costs the others nothing.
"""

from __future__ import annotations

import concurrent.futures
import logging
from collections import defaultdict
from typing import Any

from cloudsched import clock
from cloudsched.drivers.logagent import Line
from cloudsched.errors import NotFound
from cloudsched.services import logagents, nodelogs, rollout, runners_act
from cloudsched.services.logagents_calls import make_line
from cloudsched.services.runners import Configs
from cloudsched.services.runners_act import Result
from cloudsched.settings import Settings
from cloudsched.store import logagents as agent_rows
from cloudsched.store import runners as store
from cloudsched.store.db import Tx, write
from cloudsched.store.runners import Target

log = logging.getLogger(__name__)

DUE_MOST = 2000
WAIT_S = 1.0
ALIGN_AGAIN_S = 30.0
Future = concurrent.futures.Future[list[Result]]


class RunnerLoop:
    """The loop of desired state. Its lines to agents are opened when there is something to do."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._configs = Configs(settings.state.dir)
        self._line: Line | None = None
        self._under_way: dict[int, tuple[Future, list[Target]]] = {}
        self._aligned: tuple[int, float] = (-1, 0.0)
        self._looked_at = 0.0

    def tick(self) -> None:
        """One cycle."""
        self._forget()
        self._align()
        self._settle()
        self._begin()
        self._settle(wait_s=WAIT_S)
        for found in store.rollouts(active=True):
            rollout.step(found, self.line, read_timeout_s=self._settings.logkit.read_timeout_s)

    @property
    def line(self) -> Line:
        if self._line is None:
            self._line = make_line(self._settings)
        return self._line

    def close(self) -> None:
        """Close the connections to agents."""
        if self._line is not None:
            self._line.close()
            self._line = None
        self._under_way.clear()

    def _forget(self) -> None:
        """Log agents whose nodes somebody had destroyed are off the list (a heartbeat brings them back), and those that were
        on a node of ours that has ended."""
        ended = []
        if clock.now() - self._looked_at >= ALIGN_AGAIN_S:
            self._looked_at = clock.now()
            ended = agent_rows.of_ended_nodes(self._looked_at - logagents.OK_BELOW_S)
        for number in (*agent_rows.told_to_go(), *ended):
            write(lambda tx, number=number: agent_rows.remove(tx, number=number, at=clock.now(), actor="engine"))  # type: ignore[misc]

    def _align(self) -> None:
        """Agents that got a runner's tag want it, agents that left it do not; only when something has changed."""
        version, now = agent_rows.version(), clock.now()
        if version == self._aligned[0] and now - self._aligned[1] < ALIGN_AGAIN_S:
            return
        write(lambda tx: _align(tx, now))
        self._aligned = (version, now)

    def _begin(self) -> None:
        """A chain for each agent on which something is due."""
        now = clock.now()
        found = store.due(at=now, checked_before=now - self._settings.logkit.check_interval_s,
                          heard_since=now - logagents.BAD_UP_TO_S, limit=DUE_MOST)
        by_agent: dict[int, list[Target]] = defaultdict(list)
        for target in found:
            if target.agent_id not in self._under_way and not nodelogs.is_unreachable(target.url):
                by_agent[target.agent_id].append(target)
        for agent_id, targets in by_agent.items():
            chain = runners_act.chain(targets, self._wanted(targets))
            self._under_way[agent_id] = (self.line.start(chain, limit_s=self._settings.logkit.change_timeout_s), targets)

    def _wanted(self, targets: list[Target]) -> dict[str, dict[str, Any]]:
        found = {}
        for digest in {target.hash for target in targets if target.hash}:
            try:
                found[digest] = self._configs.get(digest)
            except NotFound:
                log.warning("configuration %s is wanted but not kept", digest)
        return found

    def _settle(self, *, wait_s: float = 0.0) -> None:
        """Write down how the chains that have ended went."""
        if not self._under_way:
            return
        concurrent.futures.wait([future for future, _ in self._under_way.values()], timeout=wait_s)
        results: list[Result] = []
        for agent_id, (future, targets) in list(self._under_way.items()):
            if future.done():
                del self._under_way[agent_id]
                results += _results(future, targets)
        if results:
            write(lambda tx: _write_down(tx, results, at=clock.now(), most=self._settings.logkit.attempts_max))


def _results(future: Future, targets: list[Target]) -> list[Result]:
    try:
        return future.result()
    except Exception as error:
        log.exception("a chain of calls to a log agent failed")
        return [Result(target, runners_act.AWAY, f"{type(error).__name__} while acting on it") for target in targets]


def _write_down(tx: Tx, results: list[Result], *, at: float, most: int) -> None:
    for result in results:
        runners_act.settle(tx, result, at=at, attempts_max=most)


def _align(tx: Tx, at: float) -> None:
    for number, agent_id, name in store.left(tx):
        store.leave(tx, number, agent_id, name, at=at)
    runners: dict[int, store.Runner | None] = {}
    for runner_id, agent_id in store.joined(tx):
        runner = runners.setdefault(runner_id, store.get(runner_id))
        if runner is not None:
            digest = store.version_hash(tx, runner.id, runner.generation)
            store.want(tx, [agent_id], runner.name, runner_id=runner.id, generation=runner.generation, want="present",
                       run=runner.run, digest=digest, at=at)
    store.delete_gone(tx, at=at)
    store.forget_configs(tx)
