"""How does an answer look on the wire? The envelope of contract 3, with both styles of error body at once."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from cloudsched import clock
from cloudsched.errors import CloudschedError, Invalid, RateLimited, Unavailable

log = logging.getLogger(__name__)
JSON_TYPE = "application/json"
JSON = ("Content-Type", JSON_TYPE)
TEXT = ("Content-Type", "text/plain; charset=utf-8")
LINE = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
MISTAKE = "the server made a mistake; its log has the details under this request id"
encode = msgspec.json.Encoder(enc_hook=str).encode
Headers = list[tuple[str, str]]

# Contract 4: the code decides the status. The last three have no equivalent there and are ours.
STATUS = {
    "DEVICE_NOT_FOUND": 404, "TASK_NOT_FOUND": 404, "INVALID_TASK_TYPE": 400, "DEVICE_OFFLINE": 400,
    "INSUFFICIENT_RESOURCES": 400, "AUTHENTICATION_REQUIRED": 401, "PERMISSION_DENIED": 403, "RATE_LIMIT_EXCEEDED": 429,
    "INTERNAL_ERROR": 500, "VALIDATION_ERROR": 400, "INVALID_JSON": 400, "INVALID_CONTENT_TYPE": 400,
    "INVALID_PARAMETER": 400, "INVALID_STATUS_FILTER": 400, "NOT_FOUND": 404, "METHOD_NOT_ALLOWED": 405,
    "NO_TASK_RESULT": 404, "CANNOT_CANCEL_TASK": 400, "CANNOT_RETRY_TASK": 400, "MISSING_COMMAND": 400,
    "INVALID_COMMAND": 400, "EXECUTION_ERROR": 400, "MISSING_REQUEST_BODY": 400, "DEVICE_BUSY": 409,
    "CONFLICT": 409, "PAYLOAD_TOO_LARGE": 413, "SERVICE_UNAVAILABLE": 503,
}
# What an error without a code of its own means.
_OF_KIND = {
    "invalid": "VALIDATION_ERROR", "not_found": "NOT_FOUND", "conflict": "CONFLICT", "stale": "CONFLICT", "gone": "CONFLICT",
    "unsupported": "CONFLICT", "unauthenticated": "AUTHENTICATION_REQUIRED", "forbidden": "PERMISSION_DENIED",
    "too_large": "PAYLOAD_TOO_LARGE", "rate_limited": "RATE_LIMIT_EXCEEDED", "unavailable": "SERVICE_UNAVAILABLE",
}


class Refused(CloudschedError):
    """A refusal that only this API knows; `code` of contract 4 decides the status."""

    kind = "refused"

    def __init__(self, code: str, message: str, *, details: dict[str, Any] | None = None,
                 headers: Headers | None = None) -> None:
        super().__init__(message, details=details)
        self.code = code
        self.headers = headers or []


def wrong_parameter(name: str, message: str, allowed: str = "") -> Refused:
    """400 INVALID_PARAMETER that names the query parameter or field."""
    text = f"{name}: {message}" + (f" (allowed: {allowed})" if allowed else "")
    details = {"field": name, "message": message, **({"allowed": allowed} if allowed else {})}
    return Refused("INVALID_PARAMETER", text, details=details)


def success(data: Any, request_id: str, *, message: str = "", **more: Any) -> bytes:
    """A success body; `more`: members beside `data` (pagination)."""
    body = {"status": "success", "data": data, **more}
    if message:
        body["message"] = message
    return encode({**body, "timestamp": clock.rfc3339(clock.now()), "request_id": request_id})


def failure(error: BaseException, request_id: str) -> tuple[int, Headers, bytes]:
    """(status, headers, body) of an error. What we did not foresee is logged, and told without its text."""
    code, message, details, headers = _told(error, request_id)
    body = {"status": "error", "error": {"code": code, "message": message, "details": details}, "error_code": code,
            "message": message, **({"error_details": details} if details else {}), "data": None,
            "timestamp": clock.rfc3339(clock.now()), "request_id": request_id}
    return STATUS[code], [JSON, *headers], encode(body)


def _told(error: BaseException, request_id: str) -> tuple[str, str, Mapping[str, Any], Headers]:
    if isinstance(error, Refused):
        return error.code, error.message, error.details, error.headers
    if isinstance(error, RecursionError):
        return "INVALID_JSON", "the body is nested too deeply", {}, []
    if not isinstance(error, CloudschedError) or error.kind not in _OF_KIND:
        log.error("request %s failed", request_id, exc_info=error)
        return "INTERNAL_ERROR", MISTAKE, {}, []
    if isinstance(error, Unavailable):
        log.warning("request %s: %s", request_id, error)
        return "SERVICE_UNAVAILABLE", "the server cannot answer this now; try again soon", {}, [("Retry-After", "1")]
    details = {name: value for name, value in error.details.items() if name != "code"}
    code = error.details.get("code")
    if code not in STATUS:
        code = _OF_KIND[error.kind]
    if isinstance(error, Invalid) and error.errors and not details:
        details = field_details(error)
    return code, error.message, details, _headers(error)


def field_details(error: Invalid) -> dict[str, Any]:
    """Contract 4, VALIDATION_ERROR: where the first bad field is, as a path."""
    first = error.errors[0]
    path: list[str | int] = [int(part) if part.isdigit() else part
                             for part in first.field.replace("[", ".").replace("]", "").split(".") if part]
    details: dict[str, Any] = {"field": path, "message": first.message}
    if first.allowed:
        details["allowed"] = first.allowed
    return details


def _headers(error: CloudschedError) -> Headers:
    if isinstance(error, RateLimited):
        return [("Retry-After", str(max(1, math.ceil(error.retry_after_s))))]
    return []


