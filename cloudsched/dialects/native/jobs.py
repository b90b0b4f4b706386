"""What can be asked of jobs over HTTP? Submit, list, look, follow, files, cancel, hold, release, retry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from flask import Response, current_app, request
from werkzeug.wsgi import ClosingIterator

from cloudsched.dialects.native import hot, schemas, wire
from cloudsched.dialects.native.peer import gone
from cloudsched.dialects.native.problems import HttpProblem
from cloudsched.dialects.native.routing import Blueprint, caller, check_match, reply, route, single, tag_of
from cloudsched.domain import moves
from cloudsched.domain.entities import Job
from cloudsched.errors import Invalid, NotFound
from cloudsched.incoming import read_body
from cloudsched.services import jobs, listing, watch

blueprint = Blueprint("jobs", __name__, url_prefix="/api/v2", description="Work to be done")
PIECE = 1 << 20
_FILTERS = ("batch", "user", "name", "vm_type", "node")
BYTES = "application/octet-stream"


@route(blueprint, "/jobs", "POST", role="submitter", answer=schemas.Submitted, status=201,
       also=[(400, "A field is wrong"), (409, "The Idempotency-Key was used for another request"),
             (413, "The body is too large")])
def submit_jobs() -> Any:
    """Submit one job, many, or an array.

    One job, or `{"jobs": [...]}` (at most 10,000), or a job with `array`; all or nothing, durable when answered.
    """
    raise HttpProblem(405, "this is answered before it comes here")  # hot.py; declared for the document


@route(blueprint, "/batches", "POST", role="submitter", answer=schemas.Batch, status=201)
def reserve_batch() -> Response:
    """Reserve the batch number of a submission to come."""
    return reply({"batch_id": jobs.reserve_batch(caller())}, 201)


@route(blueprint, "/jobs", role="viewer", answer=schemas.page_of(schemas.Job))
def list_jobs() -> Any:
    """List jobs, newest first."""
    raise HttpProblem(405, "this is answered before it comes here")  # hot.py


@route(blueprint, "/jobs/count", role="viewer", query=schemas.JobFilter, answer=schemas.Counts)
def count_jobs(_: dict[str, Any]) -> Response:
    """Count jobs by state."""
    chosen = hot.filters(wire.query(request.environ, request.args))
    found = listing.counts(**chosen)
    return reply({"by_state": found, "total": sum(found.values())})


@route(blueprint, "/jobs/cancel", "POST", role="submitter", body=schemas.CancelManyBody, answer=schemas.Cancelled)
def cancel_jobs(body: dict[str, Any]) -> Response:
    """Cancel many jobs, by ids or by a filter."""
    chosen = {name: body[name] for name in _FILTERS if body[name]}
    states = _states(body["state"])
    if body["ids"] and (chosen or states):
        raise Invalid.at("ids", "cannot stand beside a filter", "ids, or a filter")
    for index, one in enumerate(body["ids"]):
        if isinstance(one, bool) or not isinstance(one, (int, str)):
            raise Invalid.at(f"ids[{index}]", "is no id", "a number or a key")
    if body["ids"]:
        return reply({"cancelled": jobs.cancel_many(caller(), ids=body["ids"])})
    if not chosen and not states:
        raise Invalid.at("ids", "name jobs or a filter", "ids, or batch, user, name, vm_type, node, state")
    return reply({"cancelled": _cancel_matching(chosen, states)})


def _states(given: Any) -> list[str]:
    states = given.split(",") if isinstance(given, str) and given else given or []
    if not isinstance(states, list) or not all(isinstance(state, str) for state in states):
        raise Invalid.at("state", "is no state", ", ".join(moves.JOB_STATES))
    listing.check_states(states)
    return states


def _cancel_matching(chosen: dict[str, Any], states: list[str]) -> int:
    """Page by page over what matches and is not ended."""
    wanted = [state for state in (states or moves.JOB_STATES) if state not in moves.JOB_FINAL]
    done, after = 0, None
    while wanted:
        page = listing.page(states=wanted, after=after, limit=1000, **chosen)
        if not page:
            break
        done += jobs.cancel_many(caller(), ids=[one.id for one in page])
        after = page[-1].id
    return done


@route(blueprint, "/jobs/<raw:job>", role="viewer", answer=schemas.Job, also=[(404, "No such job")])
def show_job(job: str) -> Response:
    """One job, by number or key."""
    found = listing.one(job)
    return single(found, tag_of(found))


@route(blueprint, "/jobs/<raw:job>/output", role="viewer", query=schemas.OutputQuery, media="text/plain")
def job_output(query: dict[str, Any], job: str) -> Response:
    """The output of a job as it is; with `follow` until the job has ended.

    Without `attempt`: of the newest one.
    """
    found = jobs.find(job)
    stream, offset, attempt = query["stream"], query["offset"], query["attempt"]
    if query["follow"]:
        leave = current_app.extensions["streams"].enter("output")
        pieces = watch.follow_output(found.id, stream, offset=offset, attempt=attempt, gone=gone(request.environ))
        return _streamed(pieces, leave)
    return Response(_stored(found, stream, offset, attempt), content_type="text/plain; charset=utf-8")


def _stored(found: Job, stream: str, offset: int, attempt: int | None) -> Iterator[bytes]:
    while piece := jobs.output(found, stream, offset=offset, attempt=attempt, limit=PIECE):
        yield piece
        offset += len(piece)


def _streamed(pieces: Iterator[bytes], leave: Callable[[], None]) -> Response:
    # The empty piece makes the server send the headers now: the first bytes may come late.
    return Response(ClosingIterator(chain((b"",), pieces), leave), content_type="text/plain; charset=utf-8",
                    headers={"X-Accel-Buffering": "no"})


@route(blueprint, "/jobs/<raw:job>/files", role="viewer", query=schemas.FilesQuery, answer=schemas.page_of(schemas.FileView))
def list_files(query: dict[str, Any], job: str) -> Response:
    """The output files of a job.

    Without `attempt`: of the newest one.
    """
    return reply({"items": listing.output_files(jobs.find(job), query["attempt"]), "next": None})


@route(blueprint, "/jobs/<raw:job>/files/<rest:name>", role="viewer", query=schemas.FileQuery, media=BYTES,
       also=[(404, "No such job or file")])
def get_file(query: dict[str, Any], job: str, name: str) -> Response:
    """An output file of a job.

    Without `attempt`: of the newest one.
    """
    found = jobs.find(job)
    attempt = found.attempt if query["attempt"] is None else query["attempt"]
    kept = next((one for one in listing.output_files(found, attempt) if one["name"] == name), None)
    if kept is None:
        raise NotFound(f"attempt {attempt} of job {found.id} has no output file {name}")
    headers = {"Content-Disposition": wire.attachment(name), "Content-Length": str(kept["size"])}
    return Response(_stored(found, f"out/{name}", 0, attempt), content_type=BYTES, headers=headers)


@route(blueprint, "/jobs/<raw:job>/files/<rest:name>", "PUT", role="submitter", answer=schemas.Uploaded,
       also=[(409, "The job does not wait for its files any more"), (413, "The file is too large")])
def put_file(job: str, name: str) -> Response:
    """Upload an input file that the job was submitted to wait for."""
    _match(job)
    data = read_body(request.environ, current_app.config["MAX_CONTENT_LENGTH"])
    jobs.put_input(job, name, data, caller())
    return reply({"name": name, "size": len(data)})


@route(blueprint, "/jobs/<raw:job>/cancel", "POST", role="submitter", query=schemas.WaitQuery, answer=schemas.Job,
       also=[(202, "Not proved dead yet"), (409, "The job has ended otherwise")])
def cancel_job(query: dict[str, Any], job: str) -> Response:
    """Cancel a job; with `wait_s` the answer is the proof that its process is dead."""
    _match(job)
    found = jobs.cancel(job, caller(), wait_s=query["wait_s"])
    return reply(listing.of(found), 200 if found.state in moves.JOB_FINAL else 202)


@route(blueprint, "/jobs/<raw:job>/hold", "POST", role="submitter", body=schemas.HoldBody, answer=schemas.Job)
def hold_job(body: dict[str, Any], job: str) -> Response:
    """Keep a waiting job from being handed out."""
    _match(job)
    return reply(listing.of(jobs.hold(job, caller(), reason=body["reason"])))


@route(blueprint, "/jobs/<raw:job>/release", "POST", role="submitter", answer=schemas.Job)
def release_job(job: str) -> Response:
    """Let a held job go on.

    It waits on for what can still come: jobs, input files, the end of a pause. Jobs that it needs and that ended badly do not
    stop it any more.
    """
    _match(job)
    return reply(listing.of(jobs.release(job, caller())))


@route(blueprint, "/jobs/<raw:job>/retry", "POST", role="submitter", body=schemas.RetryBody, answer=schemas.Job, status=201,
       also=[(409, "The job did not end badly, or a job that it needs did and has no retry under way")])
def retry_job(body: dict[str, Any], job: str) -> Response:
    """Queue a job that ended badly again, as a new one.

    It waits for the jobs that the old one still waited for, or for the retries of these; with `ignore_dependencies` for none.
    """
    _match(job)
    made = jobs.retry(job, caller(), priority=body["priority"], ignore_dependencies=body["ignore_dependencies"])
    return reply(listing.of(made), 201)


def _match(job: str) -> None:
    if request.headers.get("If-Match"):
        check_match(tag_of(listing.one(job)))
