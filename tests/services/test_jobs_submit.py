"""Submitting jobs: one answer for one Idempotency-Key however many ask, dependencies, ownership."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from cloudsched.domain.submission import JobRequest
from cloudsched.errors import Conflict, Forbidden, Invalid
from cloudsched.services import jobs, listing
from cloudsched.services.caller import LOCAL_ADMIN, Caller
from cloudsched.store import db, migrations
from cloudsched.store.db import current


@pytest.fixture(autouse=True)
def database(database_url: str) -> Iterator[None]:
    opened = db.open_database(database_url, synchronous="OFF")
    migrations.migrate(opened)
    yield
    opened.close()


def request(**wanted: object) -> JobRequest:
    return JobRequest(command=["true"], **wanted)  # type: ignore[arg-type]


def test_many_at_once_with_one_key_make_one_job() -> None:
    together, answers = threading.Barrier(4), []

    def ask() -> None:
        together.wait(10)
        try:
            answers.append(tuple(jobs.submit([request()], LOCAL_ADMIN, idempotency=("key", "digest")).ids))
        except Exception as error:
            answers.append(type(error).__name__)
        finally:
            current().close_thread()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [(1,)] * 4 and sum(listing.counts().values()) == 1


def test_the_key_with_another_request_is_refused() -> None:
    jobs.submit([request()], LOCAL_ADMIN, idempotency=("key", "digest"))
    with pytest.raises(Conflict):
        jobs.submit([request()], LOCAL_ADMIN, idempotency=("key", "other"))


@pytest.mark.parametrize(("count", "reference", "message", "allowed"), [
    (1, "#0", "#0 is this job itself", "the number or key of a job"),
    (1, "#1", "#1 is no job of this request", "the number or key of a job"),
    (2, "#x", "#x is no job of this request", "the number or key of a job, or another of #0 to #1")])
def test_places_that_cannot_be_waited_for(count: int, reference: str, message: str, allowed: str) -> None:
    with pytest.raises(Invalid) as caught:
        jobs.submit([request(after_ok=[reference]), *[request()] * (count - 1)], LOCAL_ADMIN)
    (error,) = caught.value.errors
    assert (error.field, error.message, error.allowed) == ("jobs[0].after_ok", message, allowed)


def test_dependencies_within_a_request() -> None:
    made = jobs.submit([request(), request(after_ok=["#0"])], LOCAL_ADMIN)
    assert listing.one(made.ids[1]).state == "pending" and listing.one(made.ids[1]).after_ok == [made.ids[0]]
    jobs.cancel(made.ids[0], LOCAL_ADMIN)
    assert listing.one(made.ids[1]).state == "cancelled"
    with pytest.raises(Invalid):
        jobs.submit([request(after_ok=["#1"]), request(after_ok=["#0"])], LOCAL_ADMIN)


def test_whose_job_it_is() -> None:
    ada = Caller("ada", "submitter")
    number = jobs.submit([request()], ada).ids[0]
    assert listing.one(number).user == "ada"
    with pytest.raises(Forbidden):
        jobs.submit([request(user="bob")], ada)
    with pytest.raises(Forbidden):
        jobs.cancel(number, Caller("bob", "submitter"))
    assert jobs.cancel(number, Caller("eve", "operator")).state == "cancelled"
