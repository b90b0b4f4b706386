"""What can go wrong? One class for each error code of the API, all of them `ClusterError`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ClusterError(Exception):
    """The server refused, or could not be asked.

    `code`: the API's error code (`CONNECTION_FAILED` and `TIMEOUT` are the client's own); `details`: what the server says
    beside the message; `http_status`: 0 when there was no answer; `request_id`: for the server's operator.
    """

    code = "ERROR"

    def __init__(self, message: str, *, code: str = "", details: Mapping[str, Any] | None = None, http_status: int = 0,
                 request_id: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.details = dict(details or {})
        self.http_status = http_status
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class DeviceNotFoundError(ClusterError):
    """No device of that id; `details["available_devices"]` names some that are there."""

    code = "DEVICE_NOT_FOUND"


class TaskNotFoundError(ClusterError):
    """No task of that id."""

    code = "TASK_NOT_FOUND"


class InvalidTaskTypeError(ClusterError):
    """No device runs this type of task."""

    code = "INVALID_TASK_TYPE"


class DeviceOfflineError(ClusterError):
    """The task names a device that is offline."""

    code = "DEVICE_OFFLINE"


class InsufficientResourcesError(ClusterError):
    """No device could ever satisfy the requirements."""

    code = "INSUFFICIENT_RESOURCES"


class AuthenticationRequiredError(ClusterError):
    """No key, or one that the server does not know."""

    code = "AUTHENTICATION_REQUIRED"


class PermissionDeniedError(ClusterError):
    """The key's level is too low."""

    code = "PERMISSION_DENIED"


class RateLimitExceededError(ClusterError):
    """Too many requests; `retry_after_s` tells how long to wait."""

    code = "RATE_LIMIT_EXCEEDED"


class InternalError(ClusterError):
    """The server failed; its log has the `request_id`."""

    code = "INTERNAL_ERROR"


class ConnectionFailedError(ClusterError):
    """The server cannot be reached, or the connection broke before the answer came."""

    code = "CONNECTION_FAILED"


class RequestTimeoutError(ClusterError):
    """No answer in time."""

    code = "TIMEOUT"


class TaskWaitTimeoutError(RequestTimeoutError):
    """The task had not ended when `wait` gave up; it goes on."""


KINDS: dict[str, type[ClusterError]] = {
    kind.code: kind for kind in (
        DeviceNotFoundError, TaskNotFoundError, InvalidTaskTypeError, DeviceOfflineError, InsufficientResourcesError,
        AuthenticationRequiredError, PermissionDeniedError, RateLimitExceededError, InternalError)
}


def of_answer(status: int, body: Any, *, reason: str, request_id: str, retry_after_s: float | None) -> ClusterError:
    """The error that an answer of status 400 or above means, whatever its body looks like."""
    body = body if isinstance(body, Mapping) else {}
    error = body.get("error") if isinstance(body.get("error"), Mapping) else {}
    code = str(error.get("code") or body.get("error_code") or f"HTTP_{status}")
    message = str(error.get("message") or body.get("message") or reason or f"HTTP {status}")
    details = error.get("details") if isinstance(error.get("details"), Mapping) else {}
    kind = KINDS.get(code, ClusterError)
    return kind(message, code=code, details=details, http_status=status, retry_after_s=retry_after_s,
                request_id=str(body.get("request_id") or request_id))
