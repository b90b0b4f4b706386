"""How does an answer look? Bare JSON values, or the same as plain text; errors as `{"error", "timestamp", "path"}`."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from flask import Response, request

from cloudsched import clock
from cloudsched.dialects.dcluster.asks import ASKED
from cloudsched.errors import CloudschedError, Invalid, RateLimited

log = logging.getLogger(__name__)

JSON, TEXT = "application/json", "text/plain; charset=utf-8"
MISTAKE = "the server made a mistake; its log has the details"
# Kind of error -> HTTP status (contract "Bodies"). What is not here is a mistake of ours: 500.
STATUS = {"invalid": 400, "not_found": 404, "gone": 404, "conflict": 409, "stale": 409, "unsupported": 409,
          "unauthenticated": 401, "forbidden": 403, "too_large": 413, "rate_limited": 429, "unavailable": 503, "driver": 503}
LINE = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
_OWN = ("error", "timestamp", "path")
_encode = msgspec.json.Encoder(enc_hook=str).encode


class Nothing:
    """No return value: an empty body."""


def value(found: Any) -> Response:
    """An answer; a text without its quotes where the caller wants plain text."""
    headers = {"Cache-Control": "no-store"}
    if found is Nothing:
        return Response(b"", 200, headers=headers, content_type=TEXT if _wants_text() else JSON)
    if isinstance(found, str) and _wants_text():
        return Response(found, 200, headers=headers, content_type=TEXT)
    return Response(_encode(found), 200, headers=headers, content_type=TEXT if _wants_text() else JSON)


def of_error(error: BaseException) -> Response:
    """The answer to an error. What we did not foresee is logged, and told without its text."""
    if isinstance(error, RecursionError):
        error = Invalid("the body is nested too deeply")
    if not isinstance(error, CloudschedError):
        log.error("%s %s failed", request.method, request.environ.get(ASKED, ""), exc_info=error)
        return failed(500, MISTAKE)
    status = STATUS.get(error.kind, 500)
    if status >= 500:
        log.warning("%s %s: %s", request.method, request.environ.get(ASKED, ""), error)
    headers = {}
    if status in (429, 503):
        pause_s = error.retry_after_s if isinstance(error, RateLimited) else 1.0
        headers["Retry-After"] = str(max(1, math.ceil(pause_s)))
    return failed(status, error.message, details=error.details, headers=headers)


def failed(status: int, text: str, *, details: Mapping[str, Any] | None = None,
           headers: Mapping[str, str] | None = None) -> Response:
    """An error's answer."""
    body = error_body(text, request.environ.get(ASKED, request.path), details)
    return Response(body, status, headers={"Cache-Control": "no-store", **(headers or {})}, content_type=JSON)


def error_body(text: str, path: str, details: Mapping[str, Any] | None = None) -> bytes:
    """`details` go beside the contract's three members."""
    own = {"error": text, "timestamp": clock.rfc3339(clock.now()), "path": path[:500]}
    return _encode({**own, **{key: found for key, found in (details or {}).items() if key not in _OWN}})


def _wants_text() -> bool:
    return bool(request.accept_mimetypes.best_match(("application/json", "text/plain")) == "text/plain")
