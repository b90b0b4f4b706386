"""What did a runner really do? Counters, speeds, trends and the last errors (contract 8)."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REFRESH_S = 3.0
LAST_ERRORS = 100


@dataclass
class Rate:
    """A count, and how fast it grew between the last two refreshes."""

    total: int = 0
    speed: int = 0
    trend: str = ""
    _before: int = 0

    def begin_at(self, total: int) -> None:
        """Counted before this start: part of the total, not of the speed."""
        self.total = self._before = total

    def refresh(self, elapsed_s: float) -> None:
        speed = round((self.total - self._before) / elapsed_s)
        self.trend = "up" if speed > self.speed else "down" if speed < self.speed else "stable"
        self.speed, self._before = speed, self.total


class Stage:
    """One reader, parser, transform or sender: successes (with speed), errors, and the last of them."""

    def __init__(self, cap: int = LAST_ERRORS) -> None:
        self.success, self.errors, self.last_error = Rate(), 0, ""
        self._recent: deque[dict[str, Any]] = deque(maxlen=max(1, cap))

    def ok(self, count: int) -> None:
        self.success.total += count
        self.last_error = ""

    def failed(self, text: str, count: int = 1) -> None:
        """The same error again only counts."""
        self.errors += count
        self.last_error = text
        if self._recent and self._recent[-1]["error"] == text:
            self._recent[-1]["count"] += count
            self._recent[-1]["timestamp"] = time.time_ns()
        else:
            self._recent.append({"error": text, "timestamp": time.time_ns(), "count": count})

    def shown(self) -> dict[str, Any]:
        rate = self.success
        return {
            "errors": self.errors, "success": rate.total, "speed": rate.speed, "trend": rate.trend,
            "last_error": self.last_error,
        }  # fmt: skip

    def recent(self) -> list[dict[str, Any]] | None:
        return [dict(item) for item in self._recent] or None


class RunnerStats:
    """Everything counted for one runner. The runner's threads write, anybody reads."""

    def __init__(self, *, transforms: list[str], senders: list[str], errors_cap: int = LAST_ERRORS) -> None:
        self.bytes, self.records = Rate(), Rate()
        self.reader, self.parser = Stage(errors_cap), Stage(errors_cap)
        self.transforms = {name: Stage(errors_cap) for name in transforms}
        self.senders = {name: Stage(errors_cap) for name in senders}
        self._refreshed = time.monotonic()
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Speeds anew, at most every 3 s."""
        with self._lock:
            now = time.monotonic()
            elapsed = now - self._refreshed
            if elapsed < REFRESH_S:
                return
            self._refreshed = now
            stages = [self.reader, self.parser, *self.transforms.values(), *self.senders.values()]
            for rate in [self.bytes, self.records, *(stage.success for stage in stages)]:
                rate.refresh(elapsed)

    def errors(self) -> dict[str, Any]:
        """As `GET errors` shows it (contract 7)."""
        return {
            "read_errors": self.reader.recent(),
            "parse_errors": self.parser.recent(),
            "transform_errors": _recent_of(self.transforms),
            "send_errors": _recent_of(self.senders),
        }


def _recent_of(stages: dict[str, Stage]) -> dict[str, Any] | None:
    found = {name: stage.recent() for name, stage in stages.items()}
    return {name: items for name, items in found.items() if items} or None
