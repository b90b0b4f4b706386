"""How is the kboss API served? `make_app` puts together what answers on the port of compute centres, both halves of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from cloudsched.incoming import Once

if TYPE_CHECKING:
    from cloudsched.domain.entities import Cluster
    from cloudsched.settings import Settings


def make_app(settings: Settings) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """The WSGI application of the kboss port. The database must be open when the first request comes."""
    from cloudsched.services import clusters

    def end(tx: Any, cluster: Cluster, actor: str, _reason: str) -> None:
        from cloudsched.services.centre import centre_clusters, centre_ops

        centre_ops.configure(settings)
        centre_clusters.begin_delete(tx, centre_clusters.find(cluster.key), actor=actor)

    clusters.on_end("kboss", end)
    return _Lazy(settings)


class _Lazy:
    """Made at the first request, so that a server starts without the imports of both halves."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # What the first request waits for (app/warmup.py makes it earlier).
        self.build: Once[Any] = Once(self._make_front)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        found: Iterable[bytes] = self.build()(environ, start_response)
        return found

    def _make_front(self) -> Any:
        from cloudsched.dialects.kboss.routes import Front

        return Front(self._settings)
