"""How is the dCluster API served? `make_app` makes what answers on its port, and below `/cluster` on every other one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudsched.dialects.dcluster.front import Front
    from cloudsched.settings import Settings


def make_app(settings: Settings) -> Front:
    """The WSGI application. The database must be open when the first request comes."""
    from cloudsched.dialects.dcluster.front import Front

    return Front(settings)
