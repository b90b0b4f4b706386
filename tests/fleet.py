"""A small fleet without processes: a stepped clock, devices and workers played by the test, tasks through the services."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloudsched import clock, settings
from cloudsched.clock import ManualClock
from cloudsched.engine.devices import DeviceLoop
from cloudsched.services import (
    agents,
    defaults,
    devices,
    fleet_config,
    fleet_health,
    joining,
    ratelimits,
    registering,
    snapshot,
    tasks,
    waiters,
)
from cloudsched.services.caller import LOCAL_ADMIN
from cloudsched.store.db import Database, open_database

HOME = "127.0.0.1"
PROFILE = {"cores": 4, "memory_mb": 8192, "storage_gb": 64, "kinds": ["echo", "sleep", "command", "noop"], "role": "mobile",
           "platform": "android", "max_concurrent_tasks": 2}
REGISTRATION = {"role": "compute", "platform": "linux", "cpu_count": 8, "memory_total_gb": 16.0, "storage_total_gb": 500.0,
                "max_concurrent_tasks": 2, "platform_details": {"machine": "x86_64", "python_version": "3.11.0"}}


@dataclass
class Agent:
    """Our agent on a device."""

    node_id: int
    secret: str

    def sync(self, **members: Any) -> agents.Reply:
        body = json.dumps({"want": 0, "holding": [], **members}).encode()
        return agents.sync(f"{self.node_id}.{self.secret}", body)

    def claim(self, count: int = 1) -> list[Any]:
        return self.sync(want=count).jobs

    def done(self, job: Any, state: str = "succeeded", **members: Any) -> agents.Reply:
        told = {"id": job.id, "attempt": job.attempt, "state": state, "exit_code": 0 if state == "succeeded" else 1, **members}
        return self.sync(done=[told])


class Fleet:
    """One instance: `set` loads its settings anew, as a restart does."""

    def __init__(self, database: Database, state: Path, time: ManualClock) -> None:
        self.database, self.state, self.clock = database, state, time
        waiters.configure(8)
        ratelimits.reset()
        self.set()

    def set(self, **keys: Any) -> None:
        flags = {"state": str(self.state), "database_url": self.database.url,
                 **{f"retire_cluster.{key}" if "." not in key else key: value for key, value in keys.items()}}
        self.settings = settings.load(flags, environ={"HOME": str(self.state)})
        snapshot.configure(self.settings)
        fleet_config.configure(self.settings)
        registering.configure(self.settings)
        fleet_health.configure(self.settings)
        defaults.set_job_defaults(defaults.from_settings(self.settings))
        self.loop = DeviceLoop(self.settings)
        self.loop._started_at = self.clock.now() - 100_000

    def join(self, device_id: str | None, *, token: str = "", address: str = HOME, name: str | None = None,
             **profile: Any) -> Agent:
        said = {**PROFILE, **({"device_id": device_id} if device_id is not None else {}), **profile}
        body = {"profile": said, "instance": "one", "token": token, "name": name}
        made = joining.join(json.dumps(body).encode(), address)
        return Agent(made["node_id"], made["secret"])

    def register(self, device_id: str, *, token: str = "", address: str = HOME, via: str = "worker", **said: Any) -> Any:
        return devices.register({**REGISTRATION, **said}, device_id=device_id, address=address, token=token, via=via)

    def beat(self, device_id: str, *, token: str = "", address: str = HOME, **metrics: Any) -> Any:
        return devices.heartbeat(device_id, metrics, address=address, token=token)

    def ask(self, device_id: str, *, token: str = "", address: str = HOME, **said: Any) -> Any:
        """Ask for a task and take it; what was claimed."""
        claimed = devices.request_work(device_id, said, address=address, token=token)
        if claimed.task is not None:
            devices.delivered(claimed)
        return claimed

    def report(self, device_id: str, task_id: str, status: str = "success", *, token: str = "", **result: Any) -> Any:
        return devices.report(device_id, {"task_id": task_id, "status": status, **result}, address=HOME, token=token)

    def submit(self, task_type: str = "echo", payload: Mapping[str, Any] | None = None, **members: Any) -> str:
        return tasks.submit({"task_type": task_type, "payload": payload or {}, **members}, caller=LOCAL_ADMIN).task.task_id

    def word(self, task_id: str) -> str:
        return tasks.get(task_id).word


def made(database: Database, state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """A fleet on an open database, at 2023-11-14 22:13:20 UTC. What is durable is not the subject here."""
    time = ManualClock()
    monkeypatch.setattr(clock, "now", time.now)
    quick = open_database(database.url, synchronous="OFF")
    yield Fleet(quick, state, time)
    quick.close()
