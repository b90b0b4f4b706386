"""Does the main job happen? Jobs queue, machines boot to fit them, jobs run, idle machines are retired."""

from __future__ import annotations

import pytest

from cloudsched.services import jobs as job_service
from cloudsched.store import clouds, events, jobs, nodes

from .conftest import ADA, House


def test_jobs_are_fitted_with_machines_and_the_machines_go_away(house: House) -> None:
    house.add_cloud("alpha", slots=2)
    house.add_cloud("beta", slots=1)
    ids = house.submit(6)
    agents = []
    for _ in range(6):
        house.cycle()
        agents += house.join_all()
    assert len(agents) == 3
    done = [number for agent in agents for number in agent.run_all()]
    assert sorted(done) == ids
    assert jobs.count() == {"succeeded": 6}
    assert jobs.read_data(ids[0], 1, "stdout") == b"out\n"
    for _ in range(3):
        house.cycle()
    for agent in agents:
        assert nodes.get(agent.node_id).state in ("stopping", "gone")  # type: ignore[union-attr]
    assert not nodes.live()
    assert not house.driver("alpha").machines() + house.driver("beta").machines()


@pytest.mark.parametrize("targets", [["alpha ", "nope"], ["", " "], [" All"]])
def test_a_node_booted_for_a_target_takes_the_job(house: House, targets: list[str]) -> None:
    house.add_cloud("alpha")
    house.database.write(lambda tx: clouds.set_aliases(tx, {"all ": ["Alpha"]}, at=house.clock.now()))
    (number,) = house.submit(1, targets=targets)
    house.cycle()
    (agent,) = house.join_all()
    assert [job.id for job in agent.sync(want=1).jobs] == [number]


def test_each_step_of_a_job_is_an_event(house: House) -> None:
    house.add_cloud("alpha")
    (number,) = house.submit(1)
    house.cycle()
    (agent,) = house.join_all()
    agent.run_all()
    kinds = [event.kind for event in events.since(0, subject_kind="job", subject_id=number)]
    assert kinds == ["job.submit", "job.claim", "job.succeed"]


def test_a_failed_job_is_tried_again_with_growing_pauses(house: House) -> None:
    house.add_cloud("alpha")
    (number,) = house.submit(1, max_retries=2, backoff_s=10)
    house.cycle()
    (agent,) = house.join_all()
    for attempt, pause in ((1, 10), (2, 20)):
        (job,) = agent.sync(want=1).jobs
        assert job.attempt == attempt
        agent.sync(done=[{"id": job.id, "attempt": attempt, "state": "failed", "exit_code": 3}])
        assert jobs.get(number).state == "pending"  # type: ignore[union-attr]
        house.clock.advance(pause - 1)
        house.engine.keep_up()
        assert not agent.sync(want=1).jobs
        house.clock.advance(1)
        house.engine.keep_up()
    (job,) = agent.sync(want=1).jobs
    agent.sync(done=[{"id": job.id, "attempt": 3, "state": "failed", "exit_code": 3}])
    final = jobs.get(number)
    assert final is not None
    assert (final.state, final.exit_code, final.attempt) == ("failed", 3, 3)


def test_jobs_of_a_silent_node_go_to_another_and_its_late_result_is_refused(house: House) -> None:
    house.add_cloud("alpha")
    (number,) = house.submit(1)
    house.cycle()
    (first,) = house.join_all()
    (job,) = first.sync(want=1).jobs
    house.clock.advance(house.settings.agent.lease_s + 1)
    house.engine.keep_up()
    assert jobs.get(number).state == "queued"  # type: ignore[union-attr]
    house.database.write(lambda tx: nodes.insert(tx, {
        "name": "other", "cloud_id": 1, "state": "running", "token_hash": "", "cores": 4, "memory_mb": 9999}, at=1.0))
    late = first.sync(done=[{"id": job.id, "attempt": 1, "state": "succeeded", "exit_code": 0}])
    assert late.refused == [(number, 1)]
    (again,) = first.sync(want=1).jobs
    assert again.attempt == 2
    first.sync(done=[{"id": number, "attempt": 2, "state": "succeeded", "exit_code": 0}])
    repeated = first.sync(done=[{"id": number, "attempt": 2, "state": "succeeded", "exit_code": 0}])
    assert repeated.refused == []
    assert jobs.count() == {"succeeded": 1}


def test_a_claim_whose_answer_was_lost_is_redelivered(house: House) -> None:
    house.add_cloud("alpha")
    (number,) = house.submit(1)
    house.cycle()
    (agent,) = house.join_all()
    agent.sync(want=1)
    assert not agent.sync(want=1).jobs
    house.clock.advance(6)
    (job,) = agent.sync(want=1).jobs
    assert (job.id, job.attempt) == (number, 2)


def test_cancelling_a_running_job_waits_for_the_proof(house: House) -> None:
    house.add_cloud("alpha")
    (number,) = house.submit(1)
    house.cycle()
    (agent,) = house.join_all()
    (job,) = agent.sync(want=1).jobs
    agent.sync(started=[[job.id, 1, 0.5]], holding=[[job.id, 1]])
    assert job_service.cancel(number, ADA).state == "running"
    reply = agent.sync(holding=[[job.id, 1]])
    assert reply.drop == [(number, 1)]
    agent.sync(done=[{"id": number, "attempt": 1, "state": "cancelled"}])
    assert job_service.find(number).state == "cancelled"


def test_dependencies_release_cancel_and_hold(house: House) -> None:
    house.add_cloud("alpha")
    first, second = house.submit(2)
    (after,) = house.submit(1, after_ok=[first, second])
    (whatever,) = house.submit(1, after_any=[second])
    (kept,) = house.submit(1, after_ok=[second], depends_fail="hold")
    (chain,) = house.submit(1, after_ok=[after])
    house.cycle()
    (agent,) = house.join_all()
    for number, state in ((first, "succeeded"), (second, "failed")):
        (job,) = agent.sync(want=1).jobs
        assert job.id == number
        agent.sync(done=[{"id": number, "attempt": 1, "state": state, "exit_code": 0}])
    states = {number: job_service.find(number).state for number in (after, whatever, kept, chain)}
    assert states == {after: "cancelled", whatever: "queued", kept: "held", chain: "cancelled"}


def test_an_engine_that_stops_destroys_what_it_booted(house: House) -> None:
    house.add_cloud("alpha")
    house.submit(2)
    house.cycle()
    house.cycle()
    assert len(house.driver("alpha").machines()) == 2
    assert house.engine.destroy_all(limit_s=10) == 0
    assert not house.driver("alpha").machines()
