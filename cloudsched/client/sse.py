"""How is a `text/event-stream` read? Lines in, events out; the position to resume from is kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple


class ServerEvent(NamedTuple):
    """One event: `id` its sequence as sent (None when the stream gave none), `kind`, and `data` parsed from
    JSON."""

    id: str | None
    kind: str
    data: Any


class EventReader:
    """Feed it lines; `last_id` is the `Last-Event-ID` to resume with, `retry_s` the server's wish for the
    pause."""

    def __init__(self, last_id: str | None = None) -> None:
        self.last_id = last_id
        self.retry_s: float | None = None

    def read(self, lines: Iterable[bytes]) -> Iterator[ServerEvent]:
        """Events of one connection; an event cut off by its end is dropped (it is sent again on resume)."""
        fields: dict[str, list[str]] = {}
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if text:
                self._take(text, fields)
                continue
            event = self._finish(fields)
            fields = {}
            if event is not None:
                yield event

    def _take(self, text: str, fields: dict[str, list[str]]) -> None:
        name, _, value = text.partition(":")
        if not name:
            return  # a comment: the server's sign of life
        value = value.removeprefix(" ")
        if name == "retry" and value.isdigit():
            self.retry_s = int(value) / 1000
        fields.setdefault(name, []).append(value)

    def _finish(self, fields: dict[str, list[str]]) -> ServerEvent | None:
        if "id" in fields:
            self.last_id = fields["id"][-1]
        if "data" not in fields:
            return None
        raw = "\n".join(fields["data"])
        try:
            data = json.loads(raw)
        except ValueError:
            data = raw
        return ServerEvent(
            fields["id"][-1] if "id" in fields else None, fields.get("event", ["message"])[-1], data
        )
