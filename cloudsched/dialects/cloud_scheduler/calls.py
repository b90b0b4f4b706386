"""How is one operation of the dialect described, so that REST and XML-RPC share it?

A `Call` is an XML-RPC method with the REST requests that mean the same; a `Rest` is one such request: method, path
and the conditions on its parameters. The tables are in `info` and `admin`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cloudsched.dialects.cloud_scheduler.layout import Layout
from cloudsched.errors import CloudschedError

Text = str | bool
# (layout, names and numbers as the caller sent them) -> text, or a boolean where XML-RPC has one.
Answer = Callable[..., Text]


class NoSuchValue(CloudschedError):
    """A parameter has a value that is none of the known ones: 404 over REST, a fault over XML-RPC (B7)."""

    kind = "no_such_value"


class Given:
    """Conditions on a parameter besides one exact value."""

    ANY = "(any value)"
    ABSENT = "(absent)"


@dataclass(frozen=True, slots=True)
class Rest:
    """One request. `when`: parameter -> the value it must have, `Given.ANY` or `Given.ABSENT`; a parameter with
    `Given.ANY` is handed over as an argument, after those of the path."""

    method: str
    path: str
    when: Mapping[str, str] = field(default_factory=dict)
    # Over GET, a final `.json` on the last piece of the path asks for this call instead.
    json: str = ""
    content_type: str = "text/plain; charset=utf-8"

    def arguments(self, params: Mapping[str, str]) -> list[str] | None:
        """The arguments from the parameters, or None when a condition does not hold."""
        found = []
        for name, wanted in self.when.items():
            value = params.get(name)
            if wanted is Given.ABSENT:
                if value is not None:
                    return None
            elif value is None or (wanted is not Given.ANY and value != wanted):
                return None
            elif wanted is Given.ANY:
                found.append(value)
        return found


@dataclass(frozen=True, slots=True)
class Call:
    """One operation. `required` and `optional` name its XML-RPC arguments. `kept`: the answer depends on nothing but
    what is written with an event, so that it may be shown again for `kept_s` seconds while no event was written."""

    name: str
    answer: Answer
    rest: tuple[Rest, ...]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    kept_s: float = 0.0
    hidden: bool = False


def get(path: str, **when: str) -> Rest:
    """A GET row."""
    return Rest("GET", path, when)


def get_json(path: str, **when: str) -> Rest:
    """A GET row that answers JSON."""
    return Rest("GET", path, when, content_type="application/json")


__all__ = ["Answer", "Call", "Given", "Layout", "NoSuchValue", "Rest", "Text", "get", "get_json"]
