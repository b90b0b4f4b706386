"""Do exactly the bytes written to fifty rotating files arrive, through kills of the agent and an outage of what it sends to?

Two runners follow all files: one posts to a receiver, one appends to a file. For the time of the outage the receiver is away
and the folder of the file is gone. Twice is allowed, and every duplicate is accounted for:

* again: a delivery that the receiver had acknowledged and the agent had not noted (the same X-Batch-Id);
* unnoted: batches that a sender had accepted and no checkpoint named, at most a few for each kill;
* reread: whole generations that were read again, because a chain of rotations left no certain trace.

`CLOUDSCHED_TEST_LOGS=full` runs it at 5,000 lines a second with an outage of 60 s (two minutes and a half).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .harness import ROOT, Process, Receiver, wait_for
from .writer import NUMBERS, line_of

FILES = 50


@dataclass(frozen=True)
class Size:
    """Seconds, and lines a second over all files. A batch is smaller than a generation, so that both can be told apart."""

    before_s: float
    outage_s: float
    after_s: float
    rate: int
    rotate_at: int
    batch: int
    kill_every_s: tuple[float, float]

    @property
    def seconds(self) -> float:
        return self.before_s + self.outage_s + self.after_s

    @property
    def lines(self) -> int:
        return int(self.seconds * self.rate) // FILES * FILES


FULL = Size(before_s=20, outage_s=60, after_s=20, rate=5000, rotate_at=600, batch=500, kill_every_s=(2.0, 5.0))
SHORT = Size(before_s=2, outage_s=6, after_s=2, rate=2500, rotate_at=120, batch=100, kill_every_s=(0.8, 1.6))


@dataclass
class Arrived:
    """Lines that came to one place, counted by file and number; anything else that came is `strange`."""

    each: int
    counts: list[bytearray] = field(default_factory=list)
    missing: int = 0
    total: int = 0
    size: int = 0
    strange: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [bytearray(self.each) for _ in range(FILES)]
        self.missing = self.each * FILES

    def take(self, records: list[dict[str, Any]]) -> int:
        """Count a batch; returns how many of its lines had come before."""
        before = self.total - self.unique
        for record in records:
            found = NUMBERS.match(record["raw"])
            if found is None or record["raw"] != line_of(int(found[1]), int(found[2])):
                self.strange.append(record["raw"])
                continue
            count = self.counts[int(found[1])]
            line = int(found[2])
            self.missing -= not count[line]
            self.size += 0 if count[line] else len(record["raw"].encode())
            count[line] = min(255, count[line] + 1)
            self.total += 1
        return self.total - self.unique - before

    @property
    def unique(self) -> int:
        return self.each * FILES - self.missing

    @property
    def duplicates(self) -> int:
        return self.total - self.unique

    def reread(self, rotate_at: int) -> int:
        """Lines of generations of which every single line came twice or more."""
        found = 0
        for count in self.counts:
            for first in range(0, self.each, rotate_at):
                lines = count[first : first + rotate_at]
                if min(lines) > 1:
                    found += sum(lines) - len(lines)
        return found


class Inbox(Receiver):
    """A receiver that counts and forgets."""

    def __init__(self, each: int) -> None:
        self.arrived = Arrived(each)
        self.seen: Counter[str] = Counter()
        self.again = 0
        super().__init__()

    def take(self, records: list[Any], headers: Any) -> None:
        self.arrived.take(records)
        if self.seen[headers["X-Batch-Id"]]:
            self.again += len(records)
        self.seen[headers["X-Batch-Id"]] += 1
        self.requests.clear()


class Outbox:
    """What a file sender has appended; its folder can be away."""

    def __init__(self, folder: Path, each: int) -> None:
        self.folder, self.arrived, self._offset = folder, Arrived(each), 0
        folder.mkdir()

    @property
    def path(self) -> Path:
        return self.folder / "out.json"

    def away(self) -> None:
        self.folder.rename(f"{self.folder}.away")

    def back(self) -> None:
        Path(f"{self.folder}.away").rename(self.folder)

    def look(self) -> None:
        """Whole lines alone: a torn one is cut off and written again."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.arrived.take(json.loads(line))
                self._offset += len(line)


@pytest.mark.engines
@pytest.mark.crash
@pytest.mark.timeout(600)
def test_exactly_what_was_written_arrives(tmp_path: Path, record_property: Any) -> None:
    size = FULL if os.environ.get("CLOUDSCHED_TEST_LOGS") == "full" else SHORT
    each = size.lines // FILES
    logs = tmp_path / "logs"
    logs.mkdir()
    inbox, outbox = Inbox(each), Outbox(tmp_path / "out", each)
    writer = _writer(logs, size)
    agent = Process(tmp_path)
    reader = {"mode": "tailx", "log_path": f"{logs}/*.log"}
    senders = {"posted": {"sender_type": "http", "http_sender_url": inbox.url},
               "filed": {"sender_type": "file", "file_send_path": str(outbox.path)}}
    for name, sender in senders.items():
        agent.caller.add(name, {"batch_len": size.batch, "batch_interval": 1, "parser": {"type": "raw"}, "reader": reader,
                                "senders": [sender]})
    try:
        kills, memory_kb, waiting = _run(size, agent, inbox, outbox, writer)
        ended = time.monotonic()
        wait_for(lambda: outbox.look() or not (inbox.arrived.missing or outbox.arrived.missing), 300)
        took = time.monotonic() - ended
        assert agent.terminate() == 0
        outbox.look()
    finally:
        writer.kill()
        writer.communicate()
        agent.kill()
        inbox.away()
    written = sum(len(line_of(number, line).encode()) for number in range(FILES) for line in range(each))
    on_disk = sum(path.stat().st_size for path in logs.iterdir())
    print(f"\n{size.lines:,} lines, {written:,} bytes written to {FILES} files in {size.seconds:g} s, rotated every "
          f"{size.rotate_at} lines, {len(list(logs.iterdir())) - FILES} generations; {kills} kills, outage {size.outage_s:g} s; "
          f"at most {waiting:,} records waited, {memory_kb / 1024:.0f} MB resident; all there {took:.1f} s after the last line")
    for name, arrived, again in (("posted", inbox.arrived, inbox.again), ("filed", outbox.arrived, 0)):
        reread = arrived.reread(size.rotate_at)
        rest = arrived.duplicates - again - reread
        print(f"{name}: {arrived.total:,} lines arrived, missing {arrived.missing}, strange {len(arrived.strange)}, duplicates "
              f"{arrived.duplicates:,} ({arrived.duplicates / size.lines:.2%}): again {again:,}, reread {reread:,}, "
              f"unnoted {rest:,} ({rest / size.batch / kills:.2f} batches a kill)")
        record_property(f"duplicates {name}", arrived.duplicates)
        assert (arrived.missing, arrived.strange, arrived.size) == (0, [], written) and written == on_disk


def _writer(logs: Path, size: Size) -> subprocess.Popen[str]:
    asked = [str(logs), str(FILES), str(size.lines), str(size.seconds), str(size.rotate_at)]
    process = subprocess.Popen([sys.executable, "-m", "tests.logagent.writer", *asked], cwd=ROOT, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _run(size: Size, agent: Process, inbox: Inbox, outbox: Outbox, writer: subprocess.Popen[str]) -> tuple[int, int, int]:
    """Write, kill, take away and give back; (kills, most resident kB, most records that waited)."""
    chance = random.Random(7)
    assert writer.stdin is not None
    writer.stdin.write("go\n")
    writer.stdin.flush()
    began, next_kill = time.monotonic(), chance.uniform(*size.kill_every_s)
    kills = memory_kb = waiting = 0
    gone = returned = False
    while writer.poll() is None:
        now = time.monotonic() - began
        if not gone and now >= size.before_s:
            inbox.away()
            outbox.look()
            outbox.away()
            gone = True
        if gone and not returned and now >= size.before_s + size.outage_s:
            inbox.back()
            outbox.back()
            returned = True
        if now >= next_kill:
            memory_kb = max(memory_kb, _resident_kb(agent.process.pid))
            waiting = max(waiting, *(one["lag"]["ftlags"] for one in agent.caller.ok("GET", "/status").values()))
            agent.kill()
            kills += 1
            time.sleep(chance.uniform(0.0, 0.5))
            agent.start()
            next_kill = time.monotonic() - began + chance.uniform(*size.kill_every_s)
        if not gone or returned:
            outbox.look()
        time.sleep(0.05)
    assert writer.returncode == 0
    if not returned:
        inbox.back()
        outbox.back()
    return kills, memory_kb, waiting


def _resident_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0
