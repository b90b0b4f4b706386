"""What can go wrong, in kinds that every dialect can say in its own way? No HTTP here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FieldError:
    """One bad field: where it is, what is wrong, and what would be allowed."""

    field: str
    message: str
    allowed: str | None = None


class CloudschedError(Exception):
    """Base of all errors meant for a caller; `str()` is safe to show (no secrets)."""

    kind = "error"

    def __init__(self, message: str, *, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details or {}


class Invalid(CloudschedError):
    """The input is wrong; `errors` names each field."""

    kind = "invalid"

    def __init__(self, message: str, *, errors: Sequence[FieldError] = (), **kw: Any) -> None:
        super().__init__(message, **kw)
        self.errors = tuple(errors)

    @classmethod
    def at(cls, field: str, message: str, allowed: str | None = None) -> Invalid:
        """One bad field."""
        text = f"{field}: {message}" + (f" (allowed: {allowed})" if allowed else "")
        return cls(text, errors=[FieldError(field, message, allowed)])


class NotFound(CloudschedError):
    """No such thing."""

    kind = "not_found"


class Conflict(CloudschedError):
    """The state of the thing does not allow it."""

    kind = "conflict"


class Stale(Conflict):
    """The caller's view (If-Match, lease, attempt) is out of date."""

    kind = "stale"


class Gone(CloudschedError):
    """It existed and has ended for good."""

    kind = "gone"


class Unauthenticated(CloudschedError):
    """Who are you?"""

    kind = "unauthenticated"


class Forbidden(CloudschedError):
    """You may not."""

    kind = "forbidden"


class TooLarge(CloudschedError):
    """The body or field is over its limit."""

    kind = "too_large"


class RateLimited(CloudschedError):
    """Too many requests; `retry_after_s` says when to come back."""

    kind = "rate_limited"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, **kw: Any) -> None:
        super().__init__(message, **kw)
        self.retry_after_s = retry_after_s


class Unavailable(CloudschedError):
    """Something we need is away (database, cloud, command); the same call may work later."""

    kind = "unavailable"


class Unsupported(CloudschedError):
    """This kind of place cannot do that; the message says why."""

    kind = "unsupported"
