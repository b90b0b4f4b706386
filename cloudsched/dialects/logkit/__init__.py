"""How is the logkit API served? `make_app` puts together what answers on the port that log agents register with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudsched.settings import Settings


def make_app(settings: Settings) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """The WSGI application of the logkit port. The database must be open when the first request comes."""
    from cloudsched.dialects.logkit.front import Front

    return Front(settings)
