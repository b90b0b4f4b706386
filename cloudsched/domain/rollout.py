"""When may a new configuration go to the next agents? Waves, the gate between them, and the legal moves of a roll-out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloudsched.domain.moves import Moves
from cloudsched.errors import Invalid

ROLLOUT: Moves = {
    "running": {"advance": "running", "pause": "paused", "complete": "done", "roll_back": "rolling_back"},
    "paused": {"resume": "running", "roll_back": "rolling_back"},
    "rolling_back": {"finish_back": "rolled_back"},
    "done": {},
    "rolled_back": {},
}
ROLLOUT_STATES = tuple(ROLLOUT)
ROLLOUT_ACTIVE = ("running", "paused", "rolling_back")
DEFAULT_STEPS = ("1", "10%", "50%", "100%")
_STEP = re.compile(r"([1-9][0-9]{0,6})(%?)\Z")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a roll-out goes. `steps`: how many agents have it after each wave, as numbers or percentages.

    `soak_s`: how long a wave must be well before the next; `wave_limit_s`: how long it may take to apply;
    `max_failures`: agents that may refuse it; `max_errors`: new errors of the runner on one agent while it soaks.
    `on_failure`: pause or roll_back.
    """

    steps: tuple[str, ...] = DEFAULT_STEPS
    soak_s: float = 30.0
    wave_limit_s: float = 300.0
    max_failures: int = 0
    max_errors: int = 0
    on_failure: str = "pause"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says: wait, well (all applied and healthy: the soak counts), advance or fail."""

    word: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """An agent of the waves begun so far: its target's state, whether it is heard from, what its runner says."""

    url: str
    state: str
    reason: str = ""
    away: bool = False
    sick: str = ""


def check_steps(steps: Sequence[str]) -> tuple[str, ...]:
    """The steps of a plan. Raises Invalid for anything but numbers and percentages up to 100."""
    if not steps or len(steps) > 100:
        raise Invalid.at("steps", "must name one wave or more", "1 to 100 of 1, 5, 10%, 100%")
    for step in steps:
        found = _STEP.match(step)
        if found is None or (found[2] and int(found[1]) > 100):
            raise Invalid.at("steps", f"{step[:40]!r} is no size of a wave", "a number from 1, or 1% to 100%")
    return tuple(steps)


def split(agents: Sequence[int], steps: Sequence[str]) -> list[list[int]]:
    """The agents of each wave, in order; the last wave takes all that are left, empty ones are left out."""
    waves: list[list[int]] = []
    done = 0
    for step in (*steps, "100%"):
        found = _STEP.match(step)
        assert found is not None
        size = math.ceil(len(agents) * int(found[1]) / 100) if found[2] else int(found[1])
        end = min(len(agents), max(done, size))
        if end > done:
            waves.append(list(agents[done:end]))
            done = end
    return waves


def judge(plan: Plan, members: Sequence[Member], *, wave_at: float, healthy_at: float | None, now: float) -> Verdict:
    """The gate after a wave. Agents that are away are not waited for, unless nobody of the wave is here."""
    failed = [member for member in members if member.state == "failed"]
    if len(failed) > plan.max_failures:
        first = failed[0]
        return Verdict("fail", f"{len(failed)} agents refused it; {first.url}: {first.reason}")
    sick = [member for member in members if member.sick]
    if sick:
        return Verdict("fail", f"the runner is not well on {len(sick)} agents; {sick[0].url}: {sick[0].sick}")
    late = now - wave_at > plan.wave_limit_s
    here = [member for member in members if not member.away]
    pending = [member for member in here if member.state == "pending"]
    if members and not here:
        return Verdict("fail" if late else "wait", "no agent of the wave is heard from")
    if pending:
        why = f"{len(pending)} agents have not applied it; {pending[0].url}: {pending[0].reason or 'its turn has not come'}"
        return Verdict("fail" if late else "wait", why)
    if healthy_at is None or now - healthy_at < plan.soak_s:
        return Verdict("well", "all applied it and are well")
    return Verdict("advance")


def sickness(state: Mapping[str, object] | None, *, run: str, errors_before: int | None, max_errors: int) -> str:
    """Why a runner is not well by its status on an agent (contract 8); empty when it is."""
    if state is None:
        return "it is not there"
    said = state.get("runningStatus")
    if run == "running" and said not in (None, "", "running"):
        return f"it is {said}"
    if state.get("error"):
        return str(state["error"])[:300]
    new = errors_of(state) - (errors_before or 0)
    if errors_before is not None and new > max_errors:
        return f"{new} new errors since it was applied"
    return ""


def errors_of(state: Mapping[str, object]) -> int:
    """All errors that a runner has counted."""
    stats = [state.get("readerStats"), state.get("parserStats")]
    for several in ("senderStats", "transformStats"):
        found = state.get(several)
        if isinstance(found, Mapping):
            stats += list(found.values())
    return sum(count for one in stats if isinstance(one, Mapping) and isinstance(count := one.get("errors"), int))
