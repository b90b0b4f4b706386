"""How does a classic configuration file say what is wrong with it, and keep its secrets?"""

from __future__ import annotations

from dataclasses import dataclass


class ClassicConfigError(ValueError):
    """A configuration file that cannot be used as it is.

    `str()` is the sentence of contract 6.1 (`Configuration file problem: ...`); `file`,
    `section`, `key` and `line` say where, each None when it does not apply.
    """

    def __init__(self, message: str, *, file: str | None = None, section: str | None = None,
                 key: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.section = section
        self.key = key
        self.line = line

    def located(self) -> str:
        """The sentence with file, line and section in front, for logs."""
        place = self.file or "configuration"
        if self.line is not None:
            place += f":{self.line}"
        if self.section is not None:
            place += f" [{self.section}]"
        return f"{place}: {self.message}"


@dataclass(frozen=True)
class Problem:
    """Something in a file that was passed over; the rest of the file still counts."""

    file: str
    message: str
    section: str | None = None
    key: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        where = ClassicConfigError(self.message, file=self.file, section=self.section, line=self.line)
        return where.located()


class Secret:
    """A value that is shown only to who calls `reveal()`; printing it gives asterisks."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(("Secret", self._value))
