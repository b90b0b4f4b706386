"""Which masters know this agent, and under which tag? Registration, heartbeat, change of tag (contract 2, 15)."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from cloudsched.logagent import VERSION, disk, log
from cloudsched.logagent.config import MASTER_TIMEOUT_S
from cloudsched.logagent.errors import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cloudsched.logagent.config import Settings


class Masters:
    """Keeps every master told. The tag survives a restart, unless the configuration names another one since."""

    def __init__(self, settings: Settings, url: str, *, timeout_s: float = MASTER_TIMEOUT_S) -> None:
        self.url, self._settings, self._timeout_s = url, settings, timeout_s
        self._path = os.path.join(settings.meta_dir, "tag.json")
        self.tag = self._load_tag()
        # One registration at a time: a heartbeat with the old tag must not arrive after the new one.
        self._sending = threading.Lock()
        self._stop = threading.Event()
        self._told: dict[str, str] = {}
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def change_tag(self, tag: str) -> None:
        """Register the new tag; adopt and keep it when at least one master accepted. Refused (503) otherwise."""
        with self._sending:
            failures = self._register(tag)
            if len(failures) == len(self._settings.masters):
                told = "; ".join(f"{master}: {text}" for master, text in sorted(failures.items())) or "there is no master"
                raise Refused(f"no master accepted the tag: {told}", code="L2005", status=503)
            disk.write_json(self._path, {"tag": tag, "configured": self._settings.tag})
            self.tag = tag

    def _beat(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            with self._sending:
                failures = self._register(self.tag)
            self._report(failures)
            self._stop.wait(max(0.0, self._settings.heartbeat_s - (time.monotonic() - began)))

    def _register(self, tag: str) -> dict[str, str]:
        """Tell all masters at once; returns what went wrong, by master."""
        masters = self._settings.masters
        if not masters:
            return {}
        # Always the same bytes: a master knows a heartbeat by them.
        said: dict[str, Any] = {"url": self.url, "tag": tag}
        if self._settings.labels:
            said["labels"] = self._settings.labels
        body = json.dumps(said).encode()
        with ThreadPoolExecutor(max_workers=min(16, len(masters))) as pool:
            answers = list(pool.map(lambda master: _post(master, body, self._timeout_s), masters))
        return {master: text for master, text in zip(masters, answers) if text}  # noqa: B905

    def _report(self, failures: dict[str, str]) -> None:
        """Say only what changed."""
        for master in self._settings.masters:
            now = failures.get(master, "ok")
            if self._told.get(master) != now:
                self._told[master] = now
                log.say("info" if now == "ok" else "warning", "registered" if now == "ok" else "not registered",
                        master=master, answer=now)  # fmt: skip

    def _load_tag(self) -> str:
        try:
            kept = disk.read_json(self._path) or {}
            if kept.get("configured") == self._settings.tag and isinstance(kept.get("tag"), str):
                return str(kept["tag"])
        except (OSError, ValueError, AttributeError) as error:
            log.say("warning", "the kept tag cannot be read", path=self._path, error=str(error))
        return self._settings.tag


def _post(master: str, body: bytes, timeout_s: float) -> str:
    """Empty when the master answered exactly 200, else what happened."""
    parts = urlsplit(master)
    host, port = parts.hostname or "", parts.port
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    headers = {"Content-Type": "application/json", "User-Agent": f"cloudsched-logagent/{VERSION}", "Connection": "close"}
    try:
        connection.request("POST", parts.path.rstrip("/") + "/logkit/cluster/register", body=body, headers=headers)
        status = connection.getresponse().status
        return "" if status == http.client.OK else f"HTTP {status}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
