"""How long is something tried again while the server is away? With growing pauses, from its last sign of life on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn


class Tries:
    """The pauses of one call or stream. `most_s()`: how long it may go on without a sign of life; `first_s`, `longest_s`:
    the pauses; `told` is called before a pause."""

    def __init__(self, most_s: Callable[[], float], *, sleep: Callable[[float], None], monotonic: Callable[[], float],
                 first_s: float = 0.2, longest_s: float = 2.0, told: Callable[[Exception], None] | None = None) -> None:
        self._most_s = most_s
        self._sleep = sleep
        self._monotonic = monotonic
        self._first_s = self._pause_s = first_s
        self._longest_s = longest_s
        self._told = told
        self._deadline: float | None = None

    def alive(self) -> None:
        """There was a sign of life: the next break counts from its own moment."""
        self._deadline, self._pause_s = None, self._first_s

    def pause(self, failure: Exception, at_least_s: float = 0.0) -> None:
        """Wait before the next try. Raises `failure` when it would take too long."""
        now = self._monotonic()
        if self._deadline is None:
            self._deadline = now + self._most_s()
        wait_s = max(at_least_s, self._pause_s)
        if now + wait_s > self._deadline:
            self._give_up(failure)
        if self._told is not None:
            self._told(failure)
        self._sleep(wait_s)
        self._pause_s = min(self._pause_s * 2, self._longest_s)

    @staticmethod
    def _give_up(failure: Exception) -> NoReturn:
        raise failure from None
