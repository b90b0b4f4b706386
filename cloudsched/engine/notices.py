"""What is told to people and systems outside, by itself? Alerts of jobs that run too long, mail, webhooks.

The loop only looks and hands over: talking to mail servers and receivers is done by a few threads of its own, so that a slow
one keeps neither the loop nor the others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

from cloudsched import clock
from cloudsched.services.agent_rules import instance_id
from cloudsched.services.notices import alerts, mail, webhooks_send
from cloudsched.settings import Settings
from cloudsched.store.db import current

log = logging.getLogger(__name__)
INTERVAL_S = 0.5
ALERTS_S = 30.0
FORGET_S = 3600.0
KEPT_S = 30 * 86400.0
THREADS = 8
CLOSE_S = 3.0
What = tuple[str, int]


class Notices:
    """The loop of alerts, mail and webhooks."""

    def __init__(self, settings: Settings, *, holder: str = "") -> None:
        self.settings = settings
        self.sender = webhooks_send.Sender(settings, holder=holder or instance_id())
        # Threads of our own, not an executor's: the end of the process does not wait for a mail server that is silent.
        self._queue: SimpleQueue[tuple[What, Callable[[], object]] | None] = SimpleQueue()
        self._threads = 0
        self._busy: set[What] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._next = {"alerts": 0.0, "forget": 0.0}

    def tick(self) -> None:
        """One cycle: what is due is handed to the threads."""
        if self._is_time("alerts", ALERTS_S):
            alerts.check(self.settings, actor="engine")
        if self._is_time("forget", FORGET_S):
            self._forget()
        for letter in mail.due(clock.now()):
            self._hand(("mail", letter.id), partial(mail.send, letter, self.settings))
        for hook in self.sender.collect():
            self._hand(("webhook", hook.id), partial(self.sender.deliver, hook, stopping=self._stopping.is_set))

    def close(self) -> None:
        """Begin nothing more, and give what is under way a moment; the next process does again what was not noted."""
        self._stopping.set()
        self.settle(CLOSE_S)
        for _ in range(self._threads):
            self._queue.put(None)

    def settle(self, limit_s: float = 30.0) -> None:
        """Wait until nothing is under way."""
        until = time.monotonic() + limit_s
        while self._busy and time.monotonic() < until:
            time.sleep(0.01)

    def _is_time(self, what: str, every_s: float) -> bool:
        at = clock.now()
        if at < self._next[what]:
            return False
        self._next[what] = at + every_s
        return True

    def _forget(self) -> None:
        days = self.settings.events.retention_days
        before = clock.now() - (days * 86400.0 if days else KEPT_S)
        while mail.forget(before) or webhooks_send.forget(before):
            pass

    def _hand(self, what: What, work: Callable[[], object]) -> None:
        with self._lock:
            if what in self._busy or self._stopping.is_set():
                return
            self._busy.add(what)
            if self._threads < min(len(self._busy), THREADS):
                self._threads += 1
                threading.Thread(target=self._do, name=f"notices-{self._threads}", daemon=True).start()
        self._queue.put((what, work))

    def _do(self) -> None:
        while (found := self._queue.get()) is not None:
            what, work = found
            try:
                if not self._stopping.is_set():
                    work()
            except Exception:
                log.exception("%s %s: it is tried again", *what)
            finally:
                with self._lock:
                    self._busy.discard(what)
                current().close_thread()
