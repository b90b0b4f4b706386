"""Is this instance well? Liveness, readiness with everything really checked, and figures as Prometheus text."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from typing import Any

from cloudsched import __version__, clock
from cloudsched.domain import moves
from cloudsched.errors import CloudschedError
from cloudsched.services import waiters
from cloudsched.settings import Settings
from cloudsched.store import events, listings, system
from cloudsched.store import jobs as store_jobs
from cloudsched.store.db import write

MISSED_BEATS = 3
DISK_FREE_MIN_MB = 100
_lock = threading.Lock()
_answers: Counter[int] = Counter()
_streams: Counter[str] = Counter()


def count_answer(status: int) -> None:
    """One more request was answered with this status."""
    with _lock:
        _answers[status] += 1


def ready(settings: Settings, *, engine: bool | None = None) -> tuple[bool, list[dict[str, Any]]]:
    """(all good, [{name, ok, detail}]). `engine`: are loops expected? None: when any has ever run here."""
    checks = [_database(), *_loops(engine), _disk(settings.state.dir)]
    return all(check["ok"] for check in checks), checks


def _database() -> dict[str, Any]:
    mark = clock.new_suffix(12)
    try:
        write(lambda tx: system.put_setting(tx, "ready_mark", mark))
        found = system.setting("ready_mark")
    except CloudschedError as error:
        return _check("database", False, error.message)
    except Exception as error:
        return _check("database", False, f"{type(error).__name__}")
    return _check("database", bool(found), "" if found else "what was written could not be read")


def _loops(expected: bool | None) -> list[dict[str, Any]]:
    try:
        pulses, at = system.pulses(), clock.now()
    except Exception:
        return []  # the database check says it
    if not pulses:
        return [_check("engine", False, "no loop has ever run: start an engine")] if expected else []
    if expected is False:
        return []
    found = []
    for name, pulse in pulses.items():
        if ":" in name:
            continue  # a loop of one process alone: its row outlives the process
        age_s = at - (pulse.last_cycle_at or pulse.created_at)
        late = age_s > MISSED_BEATS * pulse.interval_s + (pulse.took_s or 0.0) + 1.0
        text = f"last cycle {age_s:.0f} s ago, every {pulse.interval_s:g} s" if late else ""
        found.append(_check(f"loop {name}", not late, text))
    return found


def _disk(directory: str) -> dict[str, Any]:
    try:
        free_mb = shutil.disk_usage(directory).free >> 20
    except OSError as error:
        return _check("disk", False, f"the state directory: {error.strerror}")
    return _check("disk", free_mb >= DISK_FREE_MIN_MB, "" if free_mb >= DISK_FREE_MIN_MB else
                  f"{free_mb} MB free in the state directory, at least {DISK_FREE_MIN_MB} are needed")


def _check(name: str, ok: bool, detail: str = "") -> dict[str, Any]:
    return {"name": name, "ok": ok, "detail": detail}


def loops() -> list[dict[str, Any]]:
    """Every loop: leader, interval, last cycle, error."""
    at, leaders = clock.now(), {name: (holder, until) for name, holder, until, _ in system.leases()}
    found = []
    for name, pulse in system.pulses().items():
        holder, until = leaders.get(name, (name.partition(":")[2], at + 1))
        found.append({
            "name": name, "leader": holder if until > at else None, "interval_s": pulse.interval_s,
            "created_at": clock.rfc3339(pulse.created_at), "last_cycle_at": clock.rfc3339(pulse.last_cycle_at),
            "took_s": pulse.took_s, "last_error": pulse.last_error or None,
            "last_error_at": clock.rfc3339(pulse.last_error_at),
            "late": at - (pulse.last_cycle_at or pulse.created_at) > MISSED_BEATS * pulse.interval_s + 1.0,
        })
    return found


# figures


def stream_opened(kind: str) -> None:
    """A stream (`events`, `output`) began."""
    with _lock:
        _streams[kind] += 1


def stream_closed(kind: str) -> None:
    """A stream ended."""
    with _lock:
        _streams[kind] -= 1


def metrics() -> str:
    """Prometheus text format 0.0.4."""
    jobs = store_jobs.count()
    nodes: Counter[tuple[str, str]] = Counter()
    for cloud, state, count in listings.node_counts():
        nodes[cloud, state] += count
    at = clock.now()
    lines = [
        *_family("cloudsched_info", "gauge", "The version that runs.", [(f'version="{__version__}"', 1)]),
        *_family("cloudsched_jobs", "gauge", "Jobs by state.",
                 [(f'state="{state}"', jobs.get(state, 0)) for state in moves.JOB_STATES]),
        *_family("cloudsched_nodes", "gauge", "Nodes by cloud and state.",
                 [(f'cloud="{_escape(cloud)}",state="{state}"', count) for (cloud, state), count in nodes.items()]),
        *_family("cloudsched_events_last_id", "counter", "The newest number of the event sequence.",
                 [("", events.last_id())]),
        *_family("cloudsched_loop_age_seconds", "gauge", "Time since a loop last completed a cycle.",
                 [(f'loop="{_escape(name)}"', round(at - (p.last_cycle_at or p.created_at), 3))
                  for name, p in system.pulses().items()]),
        *_family("cloudsched_loop_interval_seconds", "gauge", "The pause of a loop.",
                 [(f'loop="{_escape(name)}"', p.interval_s) for name, p in system.pulses().items()]),
        *_family("cloudsched_http_answers_total", "counter", "Requests answered by this process, by status.",
                 [(f'status="{status}"', count) for status, count in sorted(_answers.copy().items())]),
        *_family("cloudsched_http_held", "gauge", "Requests of agents held by this process.", [("", waiters.held())]),
        *_family("cloudsched_http_streams", "gauge", "Streams open in this process.",
                 [(f'kind="{kind}"', _streams[kind]) for kind in ("events", "output")]),
    ]
    return "\n".join(lines) + "\n"


def _family(name: str, kind: str, text: str, samples: list[tuple[str, float]]) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}",
            *(f"{name}{{{labels}}} {value}" if labels else f"{name} {value}" for labels, value in samples)]


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
