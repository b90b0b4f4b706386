"""How does the main loop talk without waiting? Threads that own a connection each and post what they heard."""

from __future__ import annotations

import queue
import threading

from cloudsched.agent import log
from cloudsched.agent.wire import Address, Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Post = Callable[..., None]


class Line:
    """One thread with one connection: calls are made in order, each answer is posted to the main loop."""

    def __init__(self, name: str, address: Address, post: Post) -> None:
        self._address = address
        self._post = post
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._connection = Connection(address)
        self._name = name
        self._thread: threading.Thread | None = None
        self.busy = False

    def call(self, work: Callable[[Connection], Any], done: Callable[[Any], None]) -> None:
        """Do `work(connection)` on the thread; `done(result or exception)` is called in the main loop."""
        self.busy = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        self._calls.put((work, done))

    def abandon(self) -> None:
        """Break off what is under way; the next call uses a new connection."""
        self._connection.abort()
        self._connection = Connection(self._address)

    def _serve(self) -> None:
        while True:
            work, done = self._calls.get()
            connection = self._connection
            result: Any
            try:
                result = work(connection)
            except Exception as error:
                result = error
            if connection is not self._connection:
                connection.close()
            self._post(self._finish, done, result)

    def _finish(self, done: Callable[[Any], None], result: Any) -> None:
        self.busy = False
        done(result)


class Pool:
    """A few lines for files and output; more than that wait their turn."""

    def __init__(self, size: int, address: Address, post: Post) -> None:
        self._lines = [Line("transfer-%d" % number, address, post) for number in range(size)]
        self._waiting: list[tuple[Callable[[Connection], Any], Callable[[Any], None]]] = []

    def call(self, work: Callable[[Connection], Any], done: Callable[[Any], None]) -> None:
        """As Line.call, on whichever line is free."""
        self._waiting.append((work, done))
        self._dispatch()

    def abandon(self) -> None:
        self._waiting = []
        for line in self._lines:
            line.abandon()

    def _dispatch(self) -> None:
        for line in self._lines:
            if not self._waiting:
                return
            if not line.busy:
                work, done = self._waiting.pop(0)
                line.call(work, self._then_next(done))

    def _then_next(self, done: Callable[[Any], None]) -> Callable[[Any], None]:
        def finish(result: Any) -> None:
            self._dispatch()
            done(result)

        return finish


def complain(what: str, error: object) -> None:
    """One log line for a failed call."""
    log.say("warning", what, error=str(error) or type(error).__name__)
