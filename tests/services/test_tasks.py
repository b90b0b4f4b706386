"""Tasks through the services: the order of checks, placement by what machines are, both worlds, losses, cancel, retry."""

from __future__ import annotations

from typing import Any

import pytest

from cloudsched.domain import tasks as domain
from cloudsched.domain.submission import JobRequest, Wants
from cloudsched.errors import CloudschedError, Forbidden, Invalid
from cloudsched.services import jobs, listing, tasks, why
from cloudsched.services.caller import LOCAL_ADMIN, Caller
from cloudsched.services.tasks import TaskFilter
from tests.fleet import Fleet


def refused(request: dict[str, Any]) -> dict[str, Any]:
    with pytest.raises(CloudschedError) as caught:
        tasks.submit(request, caller=LOCAL_ADMIN)
    return caught.value.details


def test_a_task_from_submission_to_result(fleet: Fleet) -> None:
    phone = fleet.join("phone")
    made = tasks.submit({"task_type": "echo", "payload": {"message": "Hello World", "repeat": 3}, "priority": "high",
                         "metadata": {"for": "me"}, "timeout": 60}, caller=LOCAL_ADMIN)
    assert made.task.word == "queued" and made.task.document_word == "pending" and made.task.priority_name == "high"
    assert made.task.device_id is None and made.estimated_at == fleet.clock.now() + 60
    (job,) = phone.claim(5)
    assert '"payload":{"message":"Hello World","repeat":3}' in job.spec and '"time_limit_s":60.0' in job.spec
    assert fleet.word(made.task.task_id) == "assigned"
    phone.sync(started=[[job.id, job.attempt, 0.0]], holding=[[job.id, job.attempt]])
    assert fleet.word(made.task.task_id) == "running"
    fleet.clock.advance(5)
    phone.done(job, ran_s=4.5, result={"data": {"echo": {"message": "Hello World"}}, "log": ["one line"],
                                       "usage": {"peak_memory_mb": 12.0}})
    view = tasks.get(made.task.task_id)
    assert (view.word, view.document_word, view.execution_s, view.is_terminal) == ("success", "completed", 4.5, True)
    assert view.result == {"echo": {"message": "Hello World"}, "output": "Hello World\nHello World\nHello World", "exit_code": 0}
    assert view.result_data == {"echo": {"message": "Hello World"}} and view.metadata == {"for": "me"}
    assert view.device_id == "phone" and view.usage["peak_memory_mb"] == 12.0 and "one line" in view.log
    fleet.clock.advance(60)  # what is on record is looked up now and then
    phone.sync()
    later = tasks.submit({"task_type": "echo", "payload": {}}, caller=LOCAL_ADMIN)
    assert later.estimated_at == fleet.clock.now() + 4.5


def test_the_order_of_checks(small: Fleet) -> None:
    small.join("phone")
    small.join("old")
    bad = {"task_type": "nope", "device_id": "gone", "requirements": {"min_cpu_cores": 99}}
    assert refused({**bad, "payload": 1})["code"] == "VALIDATION_ERROR"
    assert refused({**bad, "payload": {}})["code"] == "INVALID_TASK_TYPE"
    known = refused({**bad, "payload": {}, "task_type": "echo"})
    assert known["code"] == "DEVICE_NOT_FOUND" and known["available_devices"] == ["old", "phone"]
    small.clock.advance(301)
    assert refused({**bad, "payload": {}, "task_type": "echo", "device_id": "old"})["code"] == "DEVICE_OFFLINE"
    phone = small.join("phone")
    short = refused({**bad, "payload": {}, "task_type": "echo", "device_id": "phone"})
    assert (short["code"], short["reason"], short["requirements"]) == (
        "INSUFFICIENT_RESOURCES", "requirements", {"min_cpu_cores": 99})
    assert refused({"task_type": "python_eval", "payload": {}, "device_id": "phone"})["reason"] == "task_type_not_enabled"
    assert refused({"task_type": "echo", "payload": {}, "requirements": {"platform": "Windows"}})["reason"] == "requirements"
    assert phone.claim() == []


@pytest.mark.parametrize(("request_", "field"), [
    ({"payload": {}}, "task_type"), ({"task_type": "echo"}, "payload"), ({"task_type": "", "payload": {}}, "task_type"),
    ({"task_type": "echo", "payload": {}, "timeout": 0}, "timeout"),
    ({"task_type": "echo", "payload": {}, "priority": "asap"}, "priority"),
    ({"task_type": "echo", "payload": {}, "requirements": {"min_memory_gb": 0}}, "requirements.min_memory_gb"),
    ({"task_type": "echo", "payload": {"x": "y" * 300_000}}, "payload"),
])  # fmt: skip
def test_what_is_wrong_is_named(small: Fleet, request_: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        tasks.submit(request_, caller=LOCAL_ADMIN)
    assert caught.value.errors[0].field == field and caught.value.details["code"] == "VALIDATION_ERROR"


def test_without_any_device_a_task_waits(small: Fleet) -> None:
    task = small.submit("echo", requirements={"min_cpu_cores": 64})
    small.register("reports-only", via="legacy")
    assert small.word(task) == "queued" and small.word(small.submit("python_eval")) == "queued"
    assert "nothing is booted" in why.job(domain.job_number(task) or 0)["verdict"]


@pytest.mark.parametrize(("needs", "who"), [
    ({"platform": "Android"}, "phone"), ({"role": "mobile"}, "phone"), ({"required_role": "compute"}, "laptop"),
    ({"tags": ["gpu-capable", "x"]}, "laptop"), ({"gpu_required": True}, "laptop"), ({"min_cpu_cores": 8}, "laptop"),
    ({"min_memory_gb": 8.1}, "laptop"), ({"min_storage_gb": 100}, "laptop"), ({"internet_required": True}, "phone"),
])  # fmt: skip
def test_requirements_choose_the_machine(small: Fleet, needs: dict[str, Any], who: str) -> None:
    machines = {
        "phone": small.join("phone"),
        "laptop": small.join("laptop", platform="linux", role="compute", cores=8, memory_mb=16384, storage_total_gb=500,
                             tags=["gpu-capable", "x", "y"], has_gpu=True, internet=False)}
    task = small.submit("echo", requirements=needs)
    other = machines["laptop" if who == "phone" else "phone"]
    assert other.claim(5) == [] and len(machines[who].claim(5)) == 1
    assert tasks.get(task).device_id == who


def test_batch_jobs_and_tasks_share_machines(small: Fleet) -> None:
    phone, laptop = small.join("phone", kinds=["echo"]), small.join("laptop", kinds=["command", "noop"])
    batch = jobs.submit([JobRequest(command=["true"]), JobRequest(kind="echo", payload={"a": 1}),
                         JobRequest(command=["true"], require=Wants(os="android", node="phone"))], LOCAL_ADMIN).ids
    assert [job.id for job in phone.claim(5)] == [batch[1]]
    assert [job.id for job in laptop.claim(5)] == [batch[0]]
    plain = tasks.get(domain.task_id(batch[0]))
    assert plain.type == "command" and plain.payload == {"command": ["true"]}
    shown = listing.one(batch[1])
    assert shown.kind == "echo" and bytes(shown.payload) == b'{"a":1}' and bytes(shown.require) == b"{}"
    assert {one["rule"] for one in why.job(batch[2])["reasons"] if one["node"] == "phone"} == {"kind"}
    with pytest.raises(Invalid, match="no machine here runs"):
        jobs.submit([JobRequest(kind="fold_proteins")], LOCAL_ADMIN)
    small.join("folder", kinds=["fold_proteins"])
    jobs.submit([JobRequest(kind="fold_proteins")], LOCAL_ADMIN)
    found = tasks.types()
    assert found["custom_types"] == ["fold_proteins"] and "fold_proteins" in found["supported_types"]
    assert found["available_types"] == ["echo", "fold_proteins"] and found["online_devices"] == 3


def test_what_a_device_takes_now(small: Fleet) -> None:
    phone = small.join("phone")
    small.submit("echo")
    assert phone.sync(want=5, accept=[]).jobs == [] and tasks.types()["available_types"] == []
    assert phone.sync(want=5, accept=["sleep"]).jobs == [] and tasks.types()["available_types"] == ["sleep"]
    assert len(phone.sync(want=5, accept=["echo"]).jobs) == 1
    phone.sync(profile={"kinds": ["sleep"], "tags": ["slow"]})
    assert tasks.types()["available_types"] == ["sleep"]
    assert refused({"task_type": "echo", "payload": {}})["reason"] == "task_type_not_enabled"
    small.submit("sleep", requirements={"tags": ["slow"]})
    assert len(phone.claim(5)) == 1


def test_priorities_and_a_task_that_fits_nowhere_blocks_nobody(small: Fleet) -> None:
    laptop = small.join("laptop", kinds=["echo", "sleep"], cores=1)
    small.join("large", cores=64)
    stuck = small.submit("echo", priority="urgent", requirements={"min_cpu_cores": 32})
    order = [small.submit("echo", priority=name) for name in ("low", "normal", "urgent", "high", "normal")]
    taken = [domain.task_id(job.id) for job in laptop.claim(10)]
    assert taken == [order[2], order[3], order[1], order[4], order[0]] and small.word(stuck) == "queued"


def test_many_at_once_all_or_none(fleet: Fleet) -> None:
    fleet.join("phone")
    ids = tasks.submit_many([{"task_type": "echo", "payload": {"n": n}} for n in range(200)], caller=LOCAL_ADMIN)
    assert len(set(ids)) == 200 and tasks.get(ids[7]).payload == {"n": 7}
    with pytest.raises(Invalid) as caught:
        tasks.submit_many([{"task_type": "echo", "payload": {}}, {"task_type": "echo"}], caller=LOCAL_ADMIN)
    assert caught.value.errors[0].field == "tasks[1].payload"
    with pytest.raises(Invalid):
        tasks.submit_many([], caller=LOCAL_ADMIN)
    assert tasks.listed(TaskFilter(), limit=1).total == 200


def test_lists_filters_and_counters(fleet: Fleet) -> None:
    phone = fleet.join("phone")
    first = fleet.submit("echo", priority="low")
    fleet.clock.advance(100)
    since = fleet.clock.now()
    second, third = fleet.submit("sleep", priority="urgent"), fleet.submit("echo", device_id="phone")
    job = next(job for job in phone.claim(5) if domain.task_id(job.id) == second)
    phone.sync(started=[[job.id, job.attempt, 0]], holding=[[job.id, job.attempt]])

    def ids(**wanted: Any) -> list[str]:
        return [one.task_id for one in tasks.listed(TaskFilter(**wanted), limit=10).items]

    assert ids() == [third, second, first] and ids(words=("running",)) == [second]
    assert ids(type="sleep") == [second] and ids(since=since) == [third, second] and ids(priority=1) == [first]
    assert ids(words=("assigned", "queued")) == [third, first] and ids(priority=4) == [second]
    assert ids(device_id="phone") == [third, second, first] and ids(device_id="none") == []
    found = tasks.listed(TaskFilter(words=("pending",)), limit=1, offset=1)
    assert [one.task_id for one in found.items] == [first] and found.total == 2
    assert found.counts == {"pending": 2, "running": 1, "completed": 0, "failed": 0, "cancelled": 0}
    assert ids(type="command") == []
    labels = tasks.labels([job.id])
    assert labels[job.id] == tasks.Label(second, "sleep", "phone", "running")


def test_cancelling_ends_it_at_once_and_the_late_result_is_refused(fleet: Fleet) -> None:
    phone = fleet.join("phone")
    waiting, held = fleet.submit("echo", priority="low"), fleet.submit("sleep")
    (job,) = phone.claim()
    assert tasks.cancel(waiting, caller=LOCAL_ADMIN) is False and tasks.cancel(held, caller=LOCAL_ADMIN) is True
    assert fleet.word(held) == fleet.word(waiting) == "cancelled"
    reply = phone.sync(holding=[[job.id, job.attempt]])
    assert reply.drop == [(job.id, job.attempt)]
    phone.done(job)
    assert fleet.word(held) == "cancelled" and tasks.get(held).result is None
    for task in (held, waiting):
        with pytest.raises(CloudschedError) as caught:
            tasks.cancel(task, caller=LOCAL_ADMIN)
        assert caught.value.details["code"] == "CANNOT_CANCEL_TASK"
    with pytest.raises(CloudschedError) as caught:
        tasks.cancel("task-0000000000000000", caller=LOCAL_ADMIN)
    assert caught.value.details["code"] == "TASK_NOT_FOUND"


def test_retry_makes_a_new_task(small: Fleet) -> None:
    phone = small.join("phone")
    old = small.submit("echo", {"n": 1}, metadata={"m": 1})
    with pytest.raises(CloudschedError) as caught:
        tasks.retry(old, caller=LOCAL_ADMIN)
    assert caught.value.details["code"] == "CANNOT_RETRY_TASK"
    phone.done(phone.claim()[0], "failed", reason="no luck")
    failed = tasks.get(old)
    assert failed.can_retry and failed.error == "no luck" and failed.error_history[0].endswith("no luck")
    assert failed.result == {"output": "", "exit_code": 1, "error": "no luck"}
    fresh = tasks.retry(old, priority="urgent", caller=LOCAL_ADMIN)
    assert fresh.retry_of == old and fresh.payload == {"n": 1} and fresh.priority == 4 and fresh.metadata == {"m": 1}
    assert len(phone.claim()) == 1
    with pytest.raises(Invalid):
        tasks.retry(old, priority="sometime", caller=LOCAL_ADMIN)


def test_failures_are_tried_again_only_when_asked(small: Fleet) -> None:
    phone = small.join("phone")
    once, twice = small.submit("echo"), small.submit("echo", requirements={"max_retries": 1})
    for _ in range(3):
        for job in phone.claim(5):
            phone.done(job, "failed", reason="broken")
    assert (small.word(once), tasks.get(once).retry_count) == ("failed", 0)
    again = tasks.get(twice)
    assert (again.word, again.retry_count, len(again.error_history)) == ("failed", 1, 2)
    assert again.requirements["max_retries"] == 1 and tasks.get(once).requirements["max_retries"] == 3


def test_whose_tasks(small: Fleet) -> None:
    ada, bob = Caller("ada", "submitter"), Caller("bob", "submitter")
    task = tasks.submit({"task_type": "echo", "payload": {}}, caller=ada).task.task_id
    with pytest.raises(Forbidden):
        tasks.cancel(task, caller=bob)
    with pytest.raises(Forbidden):
        tasks.submit({"task_type": "echo", "payload": {}}, caller=Caller("eve", "viewer"))
    assert tasks.cancel(task, caller=ada) is False


def test_spilling_over_to_booted_machines(small: Fleet) -> None:
    from cloudsched.store import shapes

    def source(task: str) -> str:
        return shapes.get(jobs.find(domain.job_number(task) or 0).shape_id).source

    small.join("phone", platform="linux")
    assert source(small.submit("echo")) == "task"
    small.set(spill_over=True)
    assert source(small.submit("echo")) == "queue" and source(small.submit("echo", device_id="phone")) == "task"
    small.join("tagged", tags=["t"])
    assert source(small.submit("echo", requirements={"tags": ["t"]})) == "task"
