"""What is promised after any crash? Checks of a whole record, beside the server and from outside."""

from __future__ import annotations

from collections import Counter

from cloudsched.domain import moves
from cloudsched.testing.instance import Instance
from cloudsched.testing.load import EventFollower, Load

from ..e2e.rows import live_nodes, rows, value

FINAL_EVENTS = ("job.succeed", "job.fail", "job.time_out", "job.cancel")


def open_jobs(instance: Instance) -> int:
    """Jobs that have not ended."""
    marks = ", ".join("?" * len(moves.JOB_FINAL))
    return int(value(instance, f"SELECT count(*) FROM job WHERE state NOT IN ({marks})", *moves.JOB_FINAL))


def check_record(instance: Instance, load: Load) -> None:
    """Every acknowledged job is there, ended as it must, with exactly one final event; none is there twice."""
    found = {row[0]: row[1:] for row in rows(
        instance, "SELECT id, state, exit_code, attempt, name, reason FROM job")}
    missing = load.acknowledged.keys() - found.keys()
    assert not missing, f"acknowledged, and not in the record: {sorted(missing)[:10]}"
    wrong = {number: (expected, found[number]) for number, expected in load.acknowledged.items()
             if found[number][0] != expected.state
             or (expected.exit_code is not None and found[number][1] != expected.exit_code)}
    assert not wrong, f"{len(wrong)} jobs ended otherwise than they must: {list(wrong.items())[:5]}"
    extra = len(found) - len(load.acknowledged)
    assert 0 <= extra <= load.doubtful, f"{extra} jobs more than acknowledged, at most {load.doubtful} can be"
    names = Counter(row[3] for row in found.values())
    assert max(names.values(), default=1) == 1, f"submitted twice: {[n for n, c in names.items() if c > 1][:5]}"
    _check_final_events(instance, set(found))
    _check_attempts(instance)


def _check_final_events(instance: Instance, jobs: set[int]) -> None:
    marks = ", ".join("?" * len(FINAL_EVENTS))
    finals = Counter(row[0] for row in rows(
        instance, f"SELECT subject_id FROM event WHERE subject_kind = 'job' AND kind IN ({marks})", *FINAL_EVENTS))
    without = jobs - finals.keys()
    twice = {number: count for number, count in finals.items() if count != 1}
    assert not without, f"ended without a final event: {sorted(without)[:10]}"
    assert not twice, f"with more than one final event: {twice}"


def _check_attempts(instance: Instance) -> None:
    """One claim per attempt: as many claims as the job's attempt number says, and never two at once."""
    claims = Counter(row[0] for row in rows(
        instance, "SELECT subject_id FROM event WHERE subject_kind = 'job' AND kind = 'job.claim'"))
    attempts = dict(rows(instance, "SELECT id, attempt FROM job"))
    differ = {number: (claims[number], attempt) for number, attempt in attempts.items() if claims[number] != attempt}
    assert not differ, f"claims and attempts differ: {differ}"


def check_outputs(instance: Instance, load: Load, *, every: int = 1) -> None:
    """The output kept is that of one attempt, whole and once."""
    numbers = sorted(number for number, expected in load.acknowledged.items() if expected.stdout is not None)
    for number in numbers[::every]:
        expected = load.acknowledged[number]
        text = instance.output(number)
        assert text == expected.stdout, f"job {number} ({expected.kind}): {text!r} instead of {expected.stdout!r}"


def check_stream(instance: Instance, follower: EventFollower) -> None:
    """The reader was given every event once and in order."""
    last = int(value(instance, "SELECT max(id) FROM event"))
    assert follower.wait_for(last), f"the stream ended at {follower.ids[-1:]}, the log at {last}: {follower.refusals[-3:]}"
    kept = [row[0] for row in rows(instance, "SELECT id FROM event WHERE id <= ? ORDER BY id", last)]
    seen = [number for number in follower.ids if number <= last]
    assert seen == sorted(set(seen)), "the stream repeated or reordered events"
    assert seen == kept, f"the stream left out {sorted(set(kept) - set(seen))[:10]}"
    assert "gap" not in follower.kinds
    if not instance.database_url:  # Postgres may skip numbers of transactions that were rolled back
        assert kept == list(range(1, last + 1)), "ids have holes"


def check_gone(instance: Instance) -> None:
    """After the stop: no process, no machine, no scratch directory, no live row."""
    instance.check_clean()
    assert live_nodes(instance) == []
    assert instance.scratch_directories() == []
