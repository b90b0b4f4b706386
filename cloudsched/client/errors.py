"""What can a call to the server end in but an answer? Kinds by status, read from RFC 9457 problems."""

from __future__ import annotations

import json
from typing import Any


class ClientError(Exception):
    """Base of everything the client raises; `str()` is safe to show (no key in it)."""


class ServerAway(ClientError):
    """No answer: `url` is what was tried, `reason` why it failed."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"no answer from {url}: {reason}")
        self.url = url
        self.reason = reason


class ApiError(ClientError):
    """The server refused: `status`, `title`, `detail`, and `errors` [{"field", "message", "allowed"}] (native
    API)."""

    def __init__(
        self,
        status: int,
        title: str,
        *,
        detail: str = "",
        errors: list[dict[str, Any]] | None = None,
        body: Any = None,
    ) -> None:
        super().__init__(f"{status} {title}" + (f": {detail}" if detail else ""))
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors or []
        self.body = body


class BadInputError(ApiError):
    """400, 413, 415, 422: the request itself is wrong."""


class NotAllowedError(ApiError):
    """401, 403: no key, or its role is not enough."""


class NotFoundError(ApiError):
    """404, 410: no such thing (any more)."""


class ConflictError(ApiError):
    """409, 412: the state of the thing, or a newer version of it, forbids it."""


class BusyError(ApiError):
    """429, 503: come back later, `retry_after_s` at the earliest."""

    retry_after_s: float = 0.0


_KINDS: dict[int, type[ApiError]] = {
    400: BadInputError,
    401: NotAllowedError,
    403: NotAllowedError,
    404: NotFoundError,
    409: ConflictError,
    410: NotFoundError,
    412: ConflictError,
    413: BadInputError,
    415: BadInputError,
    422: BadInputError,
    429: BusyError,
    503: BusyError,
}


def from_answer(status: int, reason: str, body: bytes) -> ApiError:
    """The typed error of an answer of 400 and above; bodies that are no problem document are quoted shortly."""
    kind = _KINDS.get(status, ApiError)
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return kind(status, reason or "error", detail=_short(body))
    errors = [error for error in document.get("errors") or [] if isinstance(error, dict)]
    title = str(document.get("title") or reason or "error")
    return kind(status, title, detail=str(document.get("detail") or ""), errors=errors, body=document)


def _short(body: bytes, limit: int = 200) -> str:
    text = " ".join(body.decode("utf-8", "replace").split())
    if text.startswith("<"):
        return ""
    return text if len(text) <= limit else text[: limit - 3] + "..."
