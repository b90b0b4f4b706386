"""What can be asked of tasks over HTTP? Submit one or many, lists, details, results, cancel, retry (contract 9.4)."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from cloudsched.dialects.retire_cluster import params, render, schemas, views
from cloudsched.dialects.retire_cluster.envelope import Refused
from cloudsched.dialects.retire_cluster.routing import Answer, Call
from cloudsched.domain.tasks import CODE_WORDS, DOCUMENT_WORDS, MAX_BATCH, PRIORITIES, TaskRequest
from cloudsched.errors import Invalid
from cloudsched.services import tasks
from cloudsched.services.tasks import TaskFilter

STATUS_FILTER = tuple(dict.fromkeys((*DOCUMENT_WORDS, *CODE_WORDS, "all")))
LIST_QUERY: tuple[params.Param, ...] = (
    params.Word("status", STATUS_FILTER, "all", fold=True, code="INVALID_STATUS_FILTER"), params.Text("device_id"),
    params.Text("task_type"), params.Since(), params.Whole("limit", 1, 1000, 50), params.Word("priority", PRIORITIES, fold=True),
    *views.VIEW)


class Batch(msgspec.Struct):
    """Many tasks at once."""

    tasks: Annotated[list[TaskRequest], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


RETRY_BODY: dict[str, Any] = {
    "type": "object", "properties": {"priority": {"type": "string", "enum": list(PRIORITIES)}}}


def submit(call: Call) -> Answer:
    """Submit a task."""
    _check_content_type(call)
    made = tasks.submit(call.json(TaskRequest.__struct_fields__), caller=call.caller)
    view = made.task
    return Answer(schemas.Submitted(
        task_id=view.task_id, assigned_device=view.device_id, estimated_completion=render.time(made.estimated_at) or "",
        task=render.task_row(view), submitted_at=render.time(view.created_at) or ""))


def submit_many(call: Call) -> Answer:
    """Submit many tasks: all of them or none."""
    _check_content_type(call)
    given = call.json(("tasks",)).get("tasks")
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_BATCH:
        allowed = f"a list of 1 to {MAX_BATCH} tasks"
        raise Refused("VALIDATION_ERROR", f"tasks: must be {allowed}",
                      details={"field": ["tasks"], "message": f"must be {allowed}", "allowed": allowed})
    for index, one in enumerate(given):
        if not isinstance(one, dict):
            raise Refused("VALIDATION_ERROR", f"tasks[{index}]: must be an object",
                          details={"field": ["tasks", index], "message": "must be an object"})
    made = tasks.submit_many(given, caller=call.caller)
    return Answer(schemas.SubmittedMany(task_ids=made, count=len(made), submitted_at=render.now()))


def _check_content_type(call: Call) -> None:
    kind = call.environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if call.given is None and kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise Refused("INVALID_CONTENT_TYPE", "the body must be sent with Content-Type: application/json",
                      details={"content_type": kind[:100]})


def listed(call: Call) -> Answer:
    """List tasks, newest first."""
    query, page = call.query, views.page_of(call)
    words = () if query["status"] == "all" else (query["status"],)
    priority = PRIORITIES.index(query["priority"]) + 1 if query["priority"] else None
    wanted = TaskFilter(words, query["device_id"], query["task_type"], query["since"], priority)
    if page is not None:
        found = tasks.listed(wanted, limit=page.size, offset=page.offset)
        return Answer([render.task_row(view) for view in found.items], more={"pagination": page.pagination(found.total)})
    found = tasks.listed(wanted, limit=query["limit"], offset=0)
    counts = {word: found.counts.get(word, 0) for word in DOCUMENT_WORDS}
    return Answer(schemas.Tasks(tasks=[render.task(view) for view in found.items], total=found.total, **counts))


def shown(call: Call) -> Answer:
    """Show one task with its log and result."""
    return Answer(render.task_detail(tasks.get(call.parts["task_id"])))


def status(call: Call) -> Answer:
    """Show how far a task is."""
    view = tasks.get(call.parts["task_id"])
    return Answer(schemas.TaskStatus(**render.row_members(view), is_terminal=view.is_terminal, can_retry=view.can_retry,
                                     timestamp=render.now()))


def result(call: Call) -> Answer:
    """Show what a task that has ended found."""
    view = tasks.get(call.parts["task_id"])
    if not view.is_terminal or view.word == "cancelled":
        text = "a cancelled task has no result" if view.is_terminal else "the task has not ended yet"
        raise Refused("NO_TASK_RESULT", text, details={"task_id": view.task_id, "status": view.word})
    return Answer(render.task_result(view))


def cancelled(call: Call) -> Answer:
    """Cancel a task; one that runs is stopped on its device."""
    found = tasks.cancel(call.parts["task_id"], caller=call.caller)
    task_id = call.parts["task_id"]
    return Answer(schemas.Cancelled(cancelled_task=task_id, was_running=found, task_id=task_id, cancelled_at=render.now(),
                                    cancelled_by="api_request"))


def retried(call: Call) -> Answer:
    """Submit a task that did not succeed again, as a new one."""
    priority = call.json().get("priority")
    if priority is not None and not isinstance(priority, str):
        raise Invalid.at("priority", "is no priority", ", ".join(PRIORITIES))
    view = tasks.retry(call.parts["task_id"], priority=priority, caller=call.caller)
    return Answer(schemas.Retried(new_task_id=view.task_id, original_task_id=call.parts["task_id"], task_id=view.task_id,
                                  retried_at=render.now(), retried_by="api_request"))


def types(_: Call) -> Answer:
    """List the task types there are."""
    return Answer(tasks.types())


def statistics(_: Call) -> Answer:
    """Show figures of the queue."""
    return Answer({**tasks.statistics(), "timestamp": render.now()})

