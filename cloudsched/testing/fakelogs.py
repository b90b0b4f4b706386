"""What did nodes deliver of their logs? The part of the fake server that collects them."""

from __future__ import annotations

import json
import threading
from typing import Any


class LogCollector:
    """Off until `collecting`; with `logs_away` deliveries are refused with 503."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.logs: dict[str, Any] | None = None  # what nodes are told when they join
        self.logs_away = False
        self.batches: list[tuple[str, list[dict[str, Any]]]] = []  # as they came
        self.goodbyes = 0

    def collecting(self, **facts: Any) -> None:
        """Have nodes that join from now on collect logs; `facts` go over what they are told."""
        runner = {
            "batch_interval": 1, "reader": {"mode": "tailx", "log_path": "${CLOUDSCHED_LOGS}/spool/*.log",
                                            "stat_interval": "100ms"},
            "parser": {"type": "json"},
            "senders": [{"sender_type": "http", "name": "cloudsched", "http_sender_url": "${CLOUDSCHED_COLLECT}",
                         "http_sender_protocol": "ndjson", "http_sender_max_pause": "200ms",
                         "http_sender_authorization_file": "${CLOUDSCHED_AUTHORIZATION}"}]}  # fmt: skip
        self.logs = {"masters": [], "tag": "nodes", "address": "", "labels": {}, "networks": [],
                     "members": {"node": "n", "cloud": "c"}, "reader": "jobs", "leave": [], "spool_bytes": 1 << 26,
                     "runners": {"jobs": {"config": runner, "run": "running", "hash": ""}}, "flush_s": 10,
                     "refresh_s": 3600, **facts}  # fmt: skip

    def collected(self, job: int | None = None, stream: str = "stdout") -> list[dict[str, Any]]:
        """Records of a stream, in the order of their offsets, each once."""
        with self.lock:
            found = [one for _, batch in self.batches for one in batch if (one.get("job"), one["stream"]) == (job, stream)]
        return sorted({one.get("offset", index): one for index, one in enumerate(found)}.values(),
                      key=lambda one: one.get("offset", 0))  # fmt: skip

    def take_logs(self, query: dict[str, str], batch_id: str, body: bytes) -> dict[str, Any]:
        with self.lock:
            if query.get("final"):
                self.goodbyes += 1
            else:
                self.batches.append((batch_id, [json.loads(line) for line in body.splitlines()]))
            self.lock.notify_all()
            return {}
