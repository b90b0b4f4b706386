"""What does the server say of itself? Root, health, info, and the description of the API (contract 9.1)."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from cloudsched import clock
from cloudsched.dialects.retire_cluster import API_VERSION, openapi, render, schemas
from cloudsched.dialects.retire_cluster.routing import Answer, Call
from cloudsched.domain.tasks import ALIASES
from cloudsched.services import figures, tasks

if TYPE_CHECKING:
    from cloudsched.dialects.retire_cluster.front import Front

HEALTH_KEPT_S = 1.0
TITLE = "Retire-Cluster API"
GROUPS = ("cluster", "devices", "tasks")


class About:
    """The handlers that need to know the application they stand in."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._lock = threading.Lock()
        self._health: tuple[float, schemas.HealthBody | None] = (0.0, None)

    def root(self, _: Call) -> Answer:
        """Say who this is."""
        ends = schemas.RootEndpoints(cluster="/api/v1/cluster", devices="/api/v1/devices", tasks="/api/v1/tasks",
                                     docs="/api/v1/docs")
        return Answer(schemas.Root(status="success", message=TITLE, version=API_VERSION, endpoints=ends,
                                   server_time=render.now(), uptime=render.uptime(figures.uptime_s())))

    def health(self, _: Call) -> Answer:
        """Say whether all parts work; looked at anew every second."""
        with self._lock:
            until, kept = self._health
            if kept is None or time.monotonic() > until:
                kept = _health()
                self._health = time.monotonic() + HEALTH_KEPT_S, kept
        return Answer(kept)

    def info(self, _: Call) -> Answer:
        """Say what this API can do."""
        listener, uptime_s = self._front.settings.listener("retire_cluster"), figures.uptime_s()
        server = schemas.ApiServerInfo(
            host=listener.host if listener else "", port=listener.port if listener else 0,
            start_time=render.time(clock.now() - uptime_s) or "", uptime=render.uptime(uptime_s), debug_mode=False)
        features = schemas.ApiFeatures(cluster_management=True, device_management=True, task_execution=True,
                                       authentication=self._front.door.on, rate_limiting=self._front.limits.on)
        return Answer(schemas.ApiInfo(status="success", api_version=API_VERSION, server_info=server, features=features,
                                      endpoints={group: self._endpoints(group) for group in GROUPS}))

    def docs(self, _: Call) -> Answer:
        """Describe the routes in words."""
        listener = self._front.settings.listener("retire_cluster")
        described = {group: dict(self._described(group)) for group in (*GROUPS, "other")}
        return Answer(schemas.Docs(status="success", documentation=schemas.Documentation(
            title=TITLE, version=API_VERSION, description="Retired devices as a cluster; the OpenAPI document is at "
            "/api/v1/openapi.json.", base_url=f"http://{listener.host}:{listener.port}/api/v1" if listener else "/api/v1",
            authentication=schemas.Authentication(required=self._front.door.on, method="API key",
                                                  header="X-API-Key, or Authorization: Bearer"),
            endpoints=described)))

    def openapi(self, _: Call) -> Answer:
        """The OpenAPI document."""
        types = [*tasks.types()["supported_types"], *ALIASES]
        return Answer(openapi.document(self._front.routes, title=TITLE, task_types=types))

    def _endpoints(self, group: str) -> list[str]:
        return [line for line, _ in self._described(group)]

    def _described(self, group: str) -> list[tuple[str, str]]:
        found = []
        for route in self._front.routes:
            parts = route.rule.split("/")
            of = parts[3] if route.rule.startswith("/api/v1/") and parts[3] in GROUPS else "other"
            if of == group:
                shown = route.rule.replace("<", "{").replace(">", "}")
                found.append((f"{route.method} {shown}", openapi.summary(route)))
        return found


def _health() -> schemas.HealthBody:
    found = figures.health()
    parts = found["components"]
    shown = {"api_server": "healthy", "cluster_server": parts["cluster_server"], "task_scheduler": parts["task_scheduler"]}
    return schemas.HealthBody(status=found["overall_health"], timestamp=render.now(),
                              uptime_seconds=round(figures.uptime_s(), 2), components=shown)
