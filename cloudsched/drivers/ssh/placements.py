"""On which host is which machine? Remembered before a host is touched, so that an unreachable host hides nothing.

One file for each cloud, `<state_dir>/ssh/machines-<cloud>.json`, shared by all processes: read and written under a lock,
replaced in one step. A record is an intent until the machine was seen; then it holds what was last seen of it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cloudsched import clock


@dataclass(frozen=True)
class Record:
    """A machine of that name was asked for on `host` at `at` (epoch seconds); `seen`: what the host last said of it."""

    host: str
    at: float
    seen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_confirmed(self) -> bool:
        return bool(self.seen)


class Placements:
    """The records of one cloud, by machine name."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> dict[str, Record]:
        return self._read()

    def get(self, name: str) -> Record | None:
        return self._read().get(name)

    def intend(self, name: str, host: str) -> Record:
        """Remember that `name` goes to `host`, durably; who was first wins, and that record is returned."""
        with self._changing() as records:
            return records.setdefault(name, Record(host, clock.now()))

    def confirm(self, name: str, host: str, seen: Mapping[str, Any]) -> None:
        """It was seen there."""
        with self._changing() as records:
            records[name] = Record(host, clock.now(), dict(seen))

    def forget(self, name: str, *, host: str = "") -> None:
        """It is not there, as far as we know (with `host`: only when that is where it was)."""
        with self._changing() as records:
            known = records.get(name)
            if known is not None and host in ("", known.host):
                del records[name]

    @contextmanager
    def changing(self) -> Iterator[dict[str, Record]]:
        """Change several at once."""
        with self._changing() as records:
            yield records

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Record]]:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            records = self._read()
            before = dict(records)
            yield records
            if records != before:
                self._write(records)
        finally:
            os.close(handle)

    def _read(self) -> dict[str, Record]:
        try:
            kept = json.loads(self._path.read_text())
            return {name: Record(**facts) for name, facts in kept["machines"].items()}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}  # damaged from outside: the hosts are asked, and tell

    def _write(self, records: Mapping[str, Record]) -> None:
        text = json.dumps({"machines": {name: asdict(record) for name, record in records.items()}})
        draft = self._path.with_suffix(".new")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, self._path)
