"""How does one runner work? Read, parse, transform, send, and only then write down how far it came.

One thread. A batch is kept until every sender has accepted it; the positions of its last records go into the checkpoint
after that. A sender that does not accept stops the reading: what is not read yet stays in the files.
"""

from __future__ import annotations

import os
import threading
import time
from http.client import HTTPException

from cloudsched.logagent import disk, log
from cloudsched.logagent.batches import Batch, Batcher
from cloudsched.logagent.diskqueue import waiting
from cloudsched.logagent.errors import SendError
from cloudsched.logagent.posting import pause_s
from cloudsched.logagent.reader import FileReader
from cloudsched.logagent.stats import RunnerStats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cloudsched.logagent.plan import Plan
    from cloudsched.logagent.senders import Sender

POLL_S = 0.1
FIRST_LOOK_S = 5.0
STOP_S = 10.0
_RETRIED = (OSError, SendError, HTTPException)


class Run:
    """A runner from its start to its stop. A stopped runner that is started again is a new Run."""

    def __init__(self, name: str, plan: Plan, folder: str) -> None:
        disk.make_folder(folder)
        self.name, self.plan, self._folder = name, plan, folder
        self.stats = RunnerStats(
            transforms=[item.name for item in plan.transforms], senders=plan.sender_names, errors_cap=plan.errors_cap
        )
        self._reader = FileReader(plan.source, checkpoint_in(folder))
        self._senders: list[Sender] = plan.senders(folder)
        self._batcher = Batcher(
            batch_len=plan.batch_len, batch_size=plan.batch_size, batch_interval_s=plan.batch_interval_s
        )
        self._batch: Batch | None = None
        self._waiting: list[Sender] = []
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._empty = threading.Event()
        self._unsaved = 0
        self._began = time.monotonic()
        self.error = ""
        self._thread = threading.Thread(target=self._work, name=f"runner {name}", daemon=True)

    def start(self) -> None:
        self._reader.restore()
        self.stats.records.begin_at(self._reader.records)
        for sender in self._senders:
            sender.open(self.stats.senders[sender.name])
        self._report_orphans()
        self._thread.start()
        # Who asks right after must not read that nothing is left to do. Not for ever: a disk may hang.
        self._reader.looked.wait(FIRST_LOOK_S)

    def stop(self) -> bool:
        """Send what is in hand, if that is possible now, and end. False: it has not ended within its time."""
        self._stop.set()
        self._thread.join(STOP_S + self.plan.close_wait_s)
        return not self._thread.is_alive()

    def hurry(self) -> None:
        """From now on no batch waits for its time: the agent is about to end."""
        self._hurry.set()

    def drained(self) -> bool:
        """After `hurry`: everything that lay in the files was read and delivered."""
        return self._empty.is_set() and not any(sender.backlog() for sender in self._senders)

    def alive(self) -> bool:
        return self._thread.is_alive()

    def status(self) -> dict[str, Any]:
        """The status object of a running runner (contract 8), without tag and url."""
        stats = self.stats
        size, total = self._reader.lag()
        shown: dict[str, Any] = {
            "name": self.name,
            "logpath": self.plan.logpath(),
            "readDataSize": stats.bytes.total,
            "readDataCount": stats.records.total,
            "elaspedtime": round(time.monotonic() - self._began, 3),
            "lag": {"size": size, "sizeunit": "bytes", "ftlags": sum(item.backlog() for item in self._senders), "total": total},
            "readerStats": stats.reader.shown(),
            "parserStats": stats.parser.shown(),
            "senderStats": {name: stage.shown() for name, stage in stats.senders.items()},
            "transformStats": {name: stage.shown() for name, stage in stats.transforms.items()},
            "readspeed_kb": stats.bytes.speed,
            "readspeed": stats.records.speed,
            "readspeedtrend_kb": stats.bytes.trend,
            "readspeedtrend": stats.records.trend,
            "runningStatus": "running",
        }
        if self.error:
            shown["error"] = self.error
        return shown

    # ---- the thread

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                self._pump()
            except Exception as error:  # the runner outlives whatever one record or file did
                self._failed(error)
                self._stop.wait(1.0)
                self._again()
        try:
            self._flush()
            self._reader.save()
        except Exception as error:
            self._failed(error)
        self._reader.close()
        for sender in self._senders:
            sender.close()

    def _pump(self) -> None:
        while not self._stop.is_set():
            busy, hurry = False, self._hurry.is_set()
            if hurry and not self._empty.is_set():
                self._reader.look_again()
            for chunk in self._reader.poll():
                busy = True
                self.stats.bytes.total += chunk.records.size
                self.stats.records.total += len(chunk.records.texts)
                self.stats.reader.ok(len(chunk.records.texts))
                while chunk.taken < len(chunk.records.texts):
                    if self._batcher.take(chunk, time.monotonic()) and not self._flush():
                        return
                if self._stop.is_set():
                    return
            if (hurry or self._batcher.due(time.monotonic())) and not self._flush():
                return
            if not busy:
                self._save()
                if hurry:
                    self._empty.set()
                self._stop.wait(POLL_S)

    def _again(self) -> None:
        """Records may have been read and not batched: go back to what was acknowledged."""
        self._reader.close()
        self._batcher.clear()
        self._batch = None
        self._reader = FileReader(self.plan.source, checkpoint_in(self._folder))
        self._reader.restore()

    def _flush(self) -> bool:
        """Hand the batch to every sender. False: stopping, and not all have it; it will be read again."""
        batcher = self._batcher
        if not batcher.count:
            return True
        if self._batch is None:
            self._batch, self._waiting = Batch(self._records()), list(self._senders)
        while self._waiting and self._batch.records:
            if not self._hand_over(self._batch, self._waiting[0]):
                return False
            del self._waiting[0]
        self._batch = None
        self._reader.acknowledge(batcher.positions, batcher.count)
        batcher.clear()
        self._unsaved += 1
        if self._unsaved >= self.plan.sync_every:
            self._save()
        return True

    def _records(self) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        field = self.plan.tag_field
        for segment in self._batcher.segments:
            extra = {field: segment.generation.path} if field else {}
            records += self.plan.parser.parse(segment.texts, self.stats.parser, extra)
        for transform in self.plan.transforms:
            transform.apply(records, self.stats.transforms[transform.name])
        return records

    def _hand_over(self, batch: Batch, sender: Sender) -> bool:
        failures = 0
        while True:
            try:
                return sender.accept(batch, self._stop)
            except _RETRIED as error:
                failures += 1
                stage = self.stats.senders[sender.name]
                stage.failed(str(error) or type(error).__name__)
                if 0 < self.plan.tries <= failures:
                    count = len(batch.records)
                    stage.failed(f"{count} records dropped after {failures} tries (batch_try_times)", count)
                    return True
                if self._stop.wait(pause_s(failures, error)) or self._stop.is_set():
                    return False

    def _save(self) -> None:
        self._unsaved = 0
        self._reader.save()

    def _failed(self, error: Exception) -> None:
        self.error = f"{type(error).__name__}: {error}"
        self.stats.reader.failed(self.error)
        log.say("error", "runner failed and goes on", runner=self.name, error=self.error)

    def _report_orphans(self) -> None:
        """Queues of senders that an update took away still hold what they accepted."""
        mine = {os.path.basename(getattr(sender, "_folder", "")) for sender in self._senders}
        for entry in sorted(os.listdir(self._folder)):
            queue = os.path.join(self._folder, entry, "queue")
            if entry.startswith("sender-") and entry not in mine and (count := waiting(queue)):
                self.error = f"{count} batches wait in {queue} for a sender that is not configured any more"


def checkpoint_in(folder: str) -> str:
    return os.path.join(folder, "checkpoint.json")


def stopped_status(name: str, error: str = "") -> dict[str, Any]:
    """The status object of a stopped runner (contract 8: zero numbers, empty strings, empty maps)."""
    shown: dict[str, Any] = {
        "name": name, "logpath": "", "readDataSize": 0, "readDataCount": 0, "elaspedtime": 0,
        "lag": {"size": 0, "sizeunit": "", "ftlags": 0, "total": 0},
        "readerStats": _nothing(), "parserStats": _nothing(), "senderStats": {}, "transformStats": {},
        "readspeed_kb": 0, "readspeed": 0, "readspeedtrend_kb": "", "readspeedtrend": "", "runningStatus": "stopped",
    }  # fmt: skip
    if error:
        shown["error"] = error
    return shown


def _nothing() -> dict[str, Any]:
    return {"errors": 0, "success": 0, "speed": 0, "trend": "", "last_error": ""}

