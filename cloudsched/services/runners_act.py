"""How does an agent come to have what is wanted? One chain of calls per agent, and what is written down afterwards.

A chain reads the agent's configurations first and acts on differences alone (contract 12): absent and wanted: POST; present
and different: PUT; present and unwanted: DELETE; wrong run state: start or stop; never reset. It runs beside all others:
no chain waits for another, and it touches no database.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudsched.drivers.logagent import Answer, Call
from cloudsched.errors import Invalid
from cloudsched.services import runners_compare
from cloudsched.services.logagents_calls import Unusable, as_map, name_in, runner_path
from cloudsched.store import runners as store
from cloudsched.store.db import Tx
from cloudsched.store.runners import Target

APPLIED, GONE, REFUSED, AWAY = "applied", "gone", "refused", "away"
BACKOFF_FIRST_S, BACKOFF_MOST_S = 2.0, 60.0
Reports = Mapping[str, dict[str, Any]]
Chain = Generator[Call, Answer, "list[Result]"]


@dataclass(frozen=True, slots=True)
class Result:
    """How it went with one target. `reported`: fingerprint of what the agent made of it; `changed`: something was done."""

    target: Target
    word: str
    reason: str = ""
    reported: str = ""
    changed: bool = False


def chain(targets: Sequence[Target], configs: Mapping[str, dict[str, Any]]) -> Chain:
    """All that is due on one agent. `configs`: what is wanted, by hash."""
    url = targets[0].url
    try:
        reports = _reports((yield Call(url, "GET", "/logkit/configs")))
    except Unusable as problem:
        return [Result(target, AWAY, str(problem)) for target in targets]
    results = []
    acted: list[Target] = []
    for target in targets:
        result = yield from _one(url, target, configs.get(target.hash), reports.get(target.name))
        if result is None:
            acted.append(target)
        else:
            results.append(result)
    if acted:
        results += yield from _confirm(url, acted, configs)
    return results


def _one(url: str, target: Target, wanted: dict[str, Any] | None,
         report: dict[str, Any] | None) -> Generator[Call, Answer, Result | None]:
    """What must be done for one target; None when something was done that is to be confirmed."""
    if target.want == "absent":
        if report is None:
            return Result(target, GONE)
        answer = yield Call(url, "DELETE", runner_path(target.name))
        return Result(target, GONE, changed=True) if answer.status == 200 else _failed(target, "delete", answer)
    if target.hash and wanted is None:
        return Result(target, REFUSED, "the configuration that is wanted is not kept any more")
    if report is None and wanted is None:
        return Result(target, REFUSED, "the agent has no such runner to start or stop")
    changed = wanted is not None and not _has(report, wanted, target)
    if changed:
        body = json.dumps({**wanted, "name": target.name} if wanted else {}, ensure_ascii=False).encode()
        answer = yield Call(url, "POST" if report is None else "PUT", runner_path(target.name), body)
        if answer.status != 200:
            return _failed(target, "add" if report is None else "update", answer)
    # Added or updated, it runs, unless the configuration says that it is stopped.
    runs = not (wanted or {}).get("is_stopped") if changed else not (report or {}).get("is_stopped")
    if target.run and runs != (target.run == "running"):
        verb = "start" if target.run == "running" else "stop"
        answer = yield Call(url, "POST", runner_path(target.name, f"/{verb}"))
        if answer.status != 200:
            return _failed(target, verb, answer)
        changed = True
    return None if changed else Result(target, APPLIED, reported=target.reported)


def _has(report: dict[str, Any] | None, wanted: dict[str, Any], target: Target) -> bool:
    """Is what the agent reports what is wanted, or what it made of it when it was applied?"""
    if report is None:
        return False
    found = runners_compare.report_digest(report, wanted)
    return found in (target.hash, target.reported)


def _confirm(url: str, acted: Sequence[Target], configs: Mapping[str, dict[str, Any]]) -> Generator[Call, Answer, list[Result]]:
    """Read back what was done: its fingerprint is what later reports are compared with."""
    try:
        reports = _reports((yield Call(url, "GET", "/logkit/configs")))
    except Unusable as problem:
        return [Result(target, AWAY, f"applied, but not confirmed: {problem}") for target in acted]
    results = []
    for target in acted:
        report, wanted = reports.get(target.name), configs.get(target.hash)
        if report is None:
            results.append(Result(target, REFUSED, "it said that it has the runner, but does not report it"))
        else:
            reported = runners_compare.report_digest(report, wanted) if wanted is not None else ""
            results.append(Result(target, APPLIED, reported=reported, changed=True))
    return results


def _reports(answer: Answer) -> Reports:
    """Name -> configuration as the agent reports it. Raises Unusable."""
    found = {}
    for path, raw in as_map(answer).items():
        try:
            found[name_in(path, raw)] = runners_compare.parse(bytes(raw))
        except Invalid:
            continue  # not one of ours, and nobody's business
    return found


def _failed(target: Target, verb: str, answer: Answer) -> Result:
    if not answer.status:
        return Result(target, AWAY, f"{verb}: {answer.error}")
    return Result(target, REFUSED, f"{verb}: {answer.text[:1000] or f'HTTP {answer.status}, an empty answer'}")


def settle(tx: Tx, result: Result, *, at: float, attempts_max: int) -> None:
    """Write down how it went."""
    target = result.target
    if result.word == GONE:
        store.settle_gone(tx, target, at=at)
        return
    if result.word == APPLIED:
        applied_at = at if result.changed or target.applied_at is None else target.applied_at
        store.settle(tx, target, at=at, state="applied", reason="", attempts=0, reported=result.reported, not_before=None,
                     checked_at=at, applied_at=applied_at)
        return
    attempts = target.attempts + 1
    pause_s = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(target.attempts, 10))
    refused = result.word == REFUSED
    not_before = None if refused and attempts >= attempts_max else at + pause_s
    store.settle(tx, target, at=at, state="failed" if refused else "pending", reason=result.reason, attempts=attempts,
                 not_before=not_before, checked_at=at)
