"""The Python client of the Retire-Cluster API.

    from retire_cluster_client import ClusterClient

    client = ClusterClient("http://localhost:8081", api_key="...")
    task_id = client.tasks.submit("echo", {"message": "Hello"})
    print(client.tasks.wait(task_id)["result"]["output"])
    for event in client.monitor.stream(["tasks"]):
        print(event)

It needs `requests` alone. Every refusal is a `ClusterError` with `code`, `message`, `details`, `http_status`, `request_id`;
each code of the API has a class of its own.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from retire_cluster_client.errors import (
    AuthenticationRequiredError,
    ClusterError,
    ConnectionFailedError,
    DeviceNotFoundError,
    DeviceOfflineError,
    InsufficientResourcesError,
    InternalError,
    InvalidTaskTypeError,
    PermissionDeniedError,
    RateLimitExceededError,
    RequestTimeoutError,
    TaskNotFoundError,
    TaskWaitTimeoutError,
)
from retire_cluster_client.parts import Cluster, Config, Devices, Logs, Monitor, Stats, Tasks
from retire_cluster_client.transport import Transport

__version__ = "0.1.0"


class ClusterClient:
    """One server. `base_url` without or with `/api/v1`; `timeout` in seconds for each answer; `retries` of a request that a
    repeat cannot harm; `patience`: the longest wait, in seconds, that busy answers (429, 503) may ask for."""

    def __init__(self, base_url: str = "http://localhost:8081", api_key: str | None = None, *, timeout: float = 30.0,
                 retries: int = 4, patience: float = 60.0) -> None:
        self._transport = Transport(base_url, api_key=api_key, timeout_s=timeout, retries=retries, patience_s=patience,
                                    product=f"retire-cluster-client {__version__}")
        self.devices = Devices(self._transport)
        self.tasks = Tasks(self._transport)
        self.cluster = Cluster(self._transport)
        self.logs = Logs(self._transport)
        self.config = Config(self._transport)
        self.stats = Stats(self._transport)
        self.monitor = Monitor(self._transport)

    def health(self) -> dict[str, Any]:
        """`GET /health`: is the server there? Needs no key."""
        return dict(self._transport.call("GET", "/health", raw=True))

    def close(self) -> None:
        """Close the connections of this thread."""
        self._transport.close()

    def __enter__(self) -> ClusterClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


__all__ = [
    "AuthenticationRequiredError",
    "ClusterClient",
    "ClusterError",
    "ConnectionFailedError",
    "DeviceNotFoundError",
    "DeviceOfflineError",
    "InsufficientResourcesError",
    "InternalError",
    "InvalidTaskTypeError",
    "PermissionDeniedError",
    "RateLimitExceededError",
    "RequestTimeoutError",
    "TaskNotFoundError",
    "TaskWaitTimeoutError",
]
