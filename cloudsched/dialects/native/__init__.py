"""How is the native API served? `make_app` puts together what answers on the native port."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudsched.settings import Settings


def make_app(settings: Settings) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """The WSGI application of the native port. The database must be open when the first request comes."""
    from cloudsched.dialects.native.front import Front

    def make_flask() -> Any:
        from cloudsched.dialects.native.app import make_flask

        return make_flask(settings)

    return Front(settings, make_flask)
