"""How is the Retire-Cluster API served? `make_app` puts together what answers on its HTTP port (contract 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudsched.settings import Settings

API_VERSION = "1.0.0"  # contract 1: what `version` and `api_version` say


def make_app(settings: Settings) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """The WSGI application of the retire_cluster port. The database must be open when the first request comes."""
    from cloudsched.dialects.retire_cluster.front import Front
    from cloudsched.dialects.retire_cluster.routes import HOT, table

    def make_flask(front: Front) -> Any:
        from cloudsched.dialects.retire_cluster.app import make_flask

        return make_flask(front)

    return Front(settings, table, hot=HOT, make_flask=make_flask)
