"""How does an answer look on the wire? Two styles of body (contract 4), made here and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec

from cloudsched.errors import CloudschedError, Invalid, TooLarge, Unavailable
from cloudsched.services.logagents_calls import Failure, NoMatch, NotAllOk, NowhereThere, SomeFailed

log = logging.getLogger(__name__)

DOCUMENT, ENVELOPE = "document", "envelope"
JSON = ("Content-Type", "application/json; charset=UTF-8")
LINE = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
GOOD = "L200"
MISTAKE = "the server made a mistake; its log has the details"
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a handler found: a payload (with status 200), or an error's status, code and text."""

    status: int = 200
    code: str = GOOD
    payload: Any = None
    message: str = ""
    enveloped_message: str = ""
    enveloped_status: int = 0
    failures: Sequence[Failure] = ()
    headers: tuple[tuple[str, str], ...] = ()


def body(outcome: Outcome, style: str) -> tuple[int, bytes]:
    """(status, body) in a style."""
    return _enveloped(outcome) if style == ENVELOPE else (outcome.status, _bare(outcome))


def _bare(outcome: Outcome) -> bytes:
    if outcome.status == 200:
        return _encode(outcome.payload)
    if outcome.failures:
        return _encode({one.url: {"url": one.url, "tag": one.tag, "mgrType": one.operation, "error": one.error}
                        for one in outcome.failures})
    return _encode({"error": outcome.message})


def _enveloped(outcome: Outcome) -> tuple[int, bytes]:
    if outcome.status == 200:
        data = {} if outcome.payload is None else {"data": outcome.payload}
        return 200, _encode({"code": GOOD, **data})
    text = "\n".join(map(_line, outcome.failures)) or outcome.enveloped_message or outcome.message
    status = outcome.enveloped_status or outcome.status
    return status, _encode({"code": outcome.code, "message": text} if outcome.code else {"message": text})


def _line(one: Failure) -> str:
    """Contract 5.3."""
    return (f"url {one.url} {one.operation} occurred an error, resp is {one.response}, "
            f"err is {one.transport or ('<nil>' if one.response else one.error)}")


def of_error(error: BaseException, code: str) -> Outcome:
    """The outcome of an error that a handler raised; `code`: of its route (contract 5.1)."""
    if isinstance(error, NoMatch):
        where = f"the slaves(tag = '{error.tag}', url = '{error.url}')"
        return Outcome(404, code, message=f"{where} are not found", enveloped_message=f"{where} is not found",
                       enveloped_status=400)
    if isinstance(error, NowhereThere):
        return Outcome(404, code, message=error.message, enveloped_status=400)
    if isinstance(error, NotAllOk):
        return Outcome(400, code, message="\n".join(
            f"the slaves(tag = '{tag}', url = '{url}') status is {status}, options are terminated"
            for tag, url, status in error.agents))
    if isinstance(error, SomeFailed):
        # A read that failed everywhere is a plain refusal in the envelope (contract 6.6).
        reading = all(one.operation.startswith("get ") for one in error.failures)
        return Outcome(503, code, failures=error.failures, enveloped_status=400 if reading else 503)
    if isinstance(error, RecursionError):
        return Outcome(400, code, message="the body is nested too deeply")
    if isinstance(error, CloudschedError) and not isinstance(error, Unavailable):
        status = 413 if isinstance(error, TooLarge) else 400 if isinstance(error, Invalid) else 500
        return Outcome(status, code, message=error.message)
    if isinstance(error, Unavailable):
        log.warning("%s", error)
        return Outcome(503, code, message=error.message, headers=(("Retry-After", "1"),))
    log.error("a call failed", exc_info=error)
    return Outcome(500, code, message=MISTAKE)
