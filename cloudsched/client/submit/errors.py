"""How does a mistake in a submit description say where it is?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file; `file` is what the user called it, or where else the text came from."""

    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class SubmitError(ValueError):
    """The description cannot be turned into jobs. `str()` begins with file and line where there is one.

    `place`: where; `reason`: the message without it.
    """

    def __init__(self, reason: str, place: Place | None = None) -> None:
        self.reason = reason
        self.place = place or Place()
        super().__init__(f"{self.place}: {reason}" if str(self.place) else reason)
