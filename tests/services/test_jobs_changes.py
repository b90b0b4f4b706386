"""Changing jobs that wait for others or pause: retry, release, hold and cancel keep what they wait for, and say what became
of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cloudsched import clock
from cloudsched.domain.submission import JobRequest
from cloudsched.errors import Conflict
from cloudsched.services import jobs, settling, trace
from cloudsched.services.caller import LOCAL_ADMIN
from cloudsched.store import clouds, db, events, migrations, nodes
from cloudsched.store import jobs as store
from cloudsched.store.db import write


@pytest.fixture(autouse=True)
def database(database_url: str) -> Iterator[None]:
    opened = db.open_database(database_url, synchronous="OFF")
    migrations.migrate(opened)
    yield
    opened.close()


def submit(**wanted: Any) -> int:
    return jobs.submit([JobRequest(command=["true"], **wanted)], LOCAL_ADMIN).ids[0]


def state(number: int) -> str:
    return jobs.find(number).state


def end(number: int, event: str = "fail", word: str = "failed") -> None:
    """Handed to a node, which reports how it ended."""
    at = clock.now()
    node = write(lambda tx: nodes.insert(tx, {
        "name": f"n{number}", "cloud_id": _cloud(tx, at), "state": "running", "status": "Running", "cores": 1,
        "memory_mb": 512, "storage_gb": 1, "slots": 1, "user": "local", "vm_type": "default"}, at=at))
    job = jobs.find(number)
    (claimed,) = write(lambda tx: store.claim(tx, node, [job.shape_id], limit=1, at=at))
    assert claimed.id == number
    code = 0 if event == "succeed" else 1
    result = store.Result(number, claimed.attempt, event, word, code, None, None if code == 0 else "exit code 1", 0.1, at,
                          0.0, 0, "", "", None)
    assert write(lambda tx: settling.settle(tx, [result], node_id=node, at=at)) == []


def _cloud(tx: Any, at: float) -> int:
    known = clouds.by_name("c")
    return known.id if known else clouds.insert(tx, {"name": "c", "kind": "Local", "max_slots": 9, "enabled": 1}, at=at)


def told(number: int, kind: str) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in events.of([("job", number)]) if event.kind == kind]


# retry


def test_a_retry_waits_for_the_retry_of_what_it_needs() -> None:
    first = submit()
    after = submit(after_ok=[first])
    jobs.cancel(first, LOCAL_ADMIN)
    again = jobs.retry(first, LOCAL_ADMIN)
    waiting = jobs.retry(after, LOCAL_ADMIN)
    assert waiting.state == "pending" and waiting.queued_at is None
    jobs.hold(waiting.id, LOCAL_ADMIN)
    jobs.release(waiting.id, LOCAL_ADMIN)
    assert state(waiting.id) == "pending"
    end(again.id, "succeed", "succeeded")
    assert state(waiting.id) == "queued"


def test_the_newest_retry_counts() -> None:
    first = submit()
    after = submit(after_ok=[first])
    jobs.cancel(first, LOCAL_ADMIN)
    second = jobs.retry(first, LOCAL_ADMIN).id
    end(second)
    third = jobs.retry(second, LOCAL_ADMIN).id
    waiting = jobs.retry(after, LOCAL_ADMIN).id
    end(third, "succeed", "succeeded")
    assert state(waiting) == "queued"


def test_what_a_retry_of_it_has_met_is_met() -> None:
    first = submit()
    after = submit(after_ok=[first])
    jobs.cancel(first, LOCAL_ADMIN)
    end(jobs.retry(first, LOCAL_ADMIN).id, "succeed", "succeeded")
    assert jobs.retry(after, LOCAL_ADMIN).state == "queued"


def test_a_need_that_can_never_be_met_is_refused_unless_said() -> None:
    first = submit()
    after = submit(after_ok=[first])
    jobs.cancel(first, LOCAL_ADMIN)
    second = jobs.retry(first, LOCAL_ADMIN).id
    end(second)
    with pytest.raises(Conflict, match=rf"job {second}, which has ended as failed"):
        jobs.retry(after, LOCAL_ADMIN)
    assert jobs.retry(after, LOCAL_ADMIN, ignore_dependencies=True).state == "queued"
    assert told(after, "job.retried")[-1]["ignored_needs"] == [first]


def test_what_only_has_to_end_and_has_ended_is_met() -> None:
    first = submit()
    after = submit(after_any=[first])
    jobs.cancel(after, LOCAL_ADMIN)
    assert jobs.retry(after, LOCAL_ADMIN).state == "pending"
    jobs.cancel(first, LOCAL_ADMIN)
    assert jobs.retry(after, LOCAL_ADMIN).state == "queued"


# release


def test_release_runs_a_job_whose_needs_can_never_be_met() -> None:
    first, other = submit(), submit()
    after = submit(after_ok=[first], depends_fail="hold")
    both = submit(after_ok=[first, other], depends_fail="hold")
    jobs.cancel(first, LOCAL_ADMIN)
    assert state(after) == state(both) == "held"
    assert jobs.release(after, LOCAL_ADMIN).state == "queued"
    assert told(after, "job.release") == [{"dropped_needs": [first]}]
    assert jobs.release(both, LOCAL_ADMIN).state == "pending"
    assert told(both, "job.wait") == [{"dropped_needs": [first]}]
    end(other, "succeed", "succeeded")
    assert state(both) == "queued"


def test_release_runs_a_job_whose_need_was_forgotten() -> None:
    first = submit()
    after = submit(after_ok=[first], depends_fail="hold")
    jobs.cancel(first, LOCAL_ADMIN)
    assert write(lambda tx: store.forget(tx, clock.now() + 1)) == 1
    assert jobs.release(after, LOCAL_ADMIN).state == "queued"


# pauses


def test_hold_and_release_keep_the_pause() -> None:
    number = submit(max_retries=1, backoff_s=600)
    end(number)
    until = jobs.find(number).not_before
    assert state(number) == "pending" and until is not None
    jobs.hold(number, LOCAL_ADMIN)
    released = jobs.release(number, LOCAL_ADMIN)
    assert released.state == "pending" and released.not_before == until
    assert write(lambda tx: settling.release_due(tx, until)) == [number]


def test_a_pause_that_ended_while_held_is_over() -> None:
    number = submit(max_retries=1, backoff_s=600)
    end(number)
    jobs.hold(number, LOCAL_ADMIN)
    write(lambda tx: tx.run("UPDATE job SET not_before = ? WHERE id = ?", (clock.now() - 1, number)))
    released = jobs.release(number, LOCAL_ADMIN)
    assert released.state == "queued" and released.not_before is None


# cancel


def test_a_cancel_says_why() -> None:
    first = submit()
    after = submit(after_ok=[first])
    jobs.cancel(first, LOCAL_ADMIN)
    (event,) = [one for one in trace.job(after)["events"] if one["kind"] == "job.cancel"]
    assert event["data"]["reason"] == jobs.find(after).reason == f"job {first} ended as cancelled"


def test_a_job_cancelled_in_its_pause_did_not_end_by_its_exit_code() -> None:
    number = submit(max_retries=1, backoff_s=600)
    end(number)
    assert jobs.find(number).reason == "exit code 1"
    job = jobs.cancel(number, LOCAL_ADMIN)
    assert (job.state, job.reason, job.exit_code) == ("cancelled", None, None)
