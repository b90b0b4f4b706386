"""What does a device say and hear beside its jobs? Metrics, what it takes now, progress, probes, a newer version of itself."""

from __future__ import annotations

import hashlib
import os
import sys
import time

from cloudsched.agent import log, profile, tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from typing import Any

    from cloudsched.agent import device
    from cloudsched.agent.jobs import Job

METRICS_S = 30.0
PROGRESS_S = 5.0
LOOK_S = 5.0  # between two looks at battery and temperature
MAX_FILE = 32 << 20
FETCH_TIMEOUT_S = 60.0


class Side:
    """One agent's. `facts`: its profile as it joined."""

    def __init__(self, options: argparse.Namespace, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.rules: tasks.Rules = options.rules
        self.upgrade: dict[str, str] | None = None
        self._policies = options.policies
        self._work_dir = options.work_dir
        self._meter: device.Meter | None = None
        if options.device:  # what only a device needs is loaded there alone
            from cloudsched.agent import device

            self._meter = device.Meter(options.work_dir)
        self._interval_s = options.heartbeat_interval
        self._told_interval_s: float | None = None
        self._metrics_at = self._look_at = self._progress_at = 0.0
        self._metrics: dict[str, Any] = {}
        self._why: list[str] = []
        self._told_why: list[str] = []
        self._pongs: list[int] = []
        self._shown: dict[tuple[int, int], Any] = {}

    @property
    def urgent(self) -> bool:
        """Is there something to say that must not wait for the next heartbeat?"""
        return bool(self._pongs) or bool(self._why) != bool(self._told_why)

    def due(self, now: float) -> bool:
        """Is the next heartbeat of a device due?"""
        return self._meter is not None and now >= self._metrics_at

    def look(self, now: float, running: int) -> None:
        """Look at battery and temperature now and then."""
        if self._meter is None or now < self._look_at:
            return
        self._look_at = now + LOOK_S
        self._metrics = self._meter.read(running=running)
        why = self._policies.look(self._metrics)
        if bool(why) != bool(self._why):
            log.say("info", "takes no work now" if why else "takes work again", why="; ".join(why))
        self._why = why

    def extend(self, body: dict[str, Any], now: float, jobs: Iterable[Job]) -> None:
        """Add to a sync request what there is to say."""
        if now >= self._metrics_at:
            self._metrics_at = now + self._heartbeat_s()
            body["metrics"] = self._metrics or profile.metrics(self._work_dir)
        if self._why:
            body["accept"] = []
            body["want"] = 0
        self._told_why = self._why
        if self._pongs:
            body["pong"], self._pongs = self._pongs, []
        if now >= self._progress_at:
            self._progress_at = now + PROGRESS_S
            told = self._progress(jobs)
            if told:
                body["progress"] = told

    def heed(self, answer: dict[str, Any]) -> bool:
        """Take what an answer says; True when it wants an answer at once."""
        asked = answer.get("ping")
        if isinstance(asked, list):
            self._pongs += [one for one in asked if isinstance(one, int)][:1000]
        interval_s = answer.get("heartbeat_s")
        if isinstance(interval_s, (int, float)) and not isinstance(interval_s, bool) and 1 <= interval_s <= 3600:
            self._told_interval_s = float(interval_s)
        offered = answer.get("upgrade")
        if isinstance(offered, dict) and self.upgrade is None:
            self._offered(offered)
        return bool(self._pongs)

    def forget(self, job: Job) -> None:
        """The job has ended."""
        self._shown.pop(job.key, None)

    def _heartbeat_s(self) -> float:
        if self._meter is None:
            return METRICS_S
        return float(self._interval_s or self._told_interval_s or METRICS_S)

    def _progress(self, jobs: Iterable[Job]) -> list[list[Any]]:
        told = []
        for job in jobs:
            if job.payload is None:
                continue
            value = tasks.progress(job)
            if value is not None and value != self._shown.get(job.key):
                self._shown[job.key] = value
                told.append([job.id, job.attempt, value])
        return told

    def _offered(self, offered: dict[str, Any]) -> None:
        version, digest = offered.get("version"), offered.get("sha256")
        if not isinstance(version, str) or not isinstance(digest, str):
            return
        own = own_file()
        if own is None:
            log.say("warning", "an upgrade is offered, but this agent is not the single file", version=version)
            self.upgrade = {}
        elif digest_of(own) != digest:
            log.say("info", "upgrades itself when its jobs are done", version=version)
            self.upgrade = {"version": version, "sha256": digest}
        else:
            self.upgrade = {}


def own_file() -> str | None:
    """The single file that this agent runs from, when it does and may be replaced."""
    path = os.path.abspath(sys.argv[0])
    whole = os.path.isfile(path) and path == os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return path if whole and os.access(os.path.dirname(path), os.W_OK) else None


def digest_of(path: str) -> str:
    """SHA-256 in hex."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def fetch(server: str, digest: str) -> None:
    """Put the server's file in the place of our own, when it is the one that was offered. OSError."""
    import urllib.error
    import urllib.request

    path = own_file()
    if path is None:
        raise OSError("this agent is not the single file")
    request = urllib.request.Request(  # noqa: S310 - options.py let http and https through
        server.rstrip("/") + "/agent.pyz", headers={"User-Agent": "cloudsched-agent"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=FETCH_TIMEOUT_S) as answer:
            content = answer.read(MAX_FILE + 1)
    except (urllib.error.URLError, ValueError) as error:
        raise OSError("the new version cannot be fetched: %s" % error) from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise OSError("the new version is not the one that was offered")
    new = "%s.new.%d" % (path, os.getpid())
    with open(new, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(new, os.stat(path).st_mode & 0o777)
    os.replace(new, path)


def again() -> None:
    """Start this program anew, as it was started."""
    os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606


def shown_profile(options: argparse.Namespace, facts: dict[str, Any]) -> bool:
    """`--test`: can the server be reached? Says so, and returns it."""
    import json
    import urllib.error
    import urllib.request

    print(json.dumps(facts, indent=1))  # noqa: T201
    began = time.monotonic()
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(options.server.rstrip("/") + "/agent.pyz", timeout=10):
            pass
    except (urllib.error.URLError, ValueError, OSError) as error:
        print("%s cannot be joined: %s" % (options.server, error), file=sys.stderr)  # noqa: T201
        return False
    print("%s answers in %d ms" % (options.server, (time.monotonic() - began) * 1000))  # noqa: T201
    return True
