"""Which rows does a list show? Conditions of the lists that are filtered by state and equal columns, and paged by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def newest_first(states: Sequence[str], after: int | None, given: Mapping[str, Any],
                 known: Mapping[str, str]) -> tuple[list[str], list[Any]]:
    """(SQL conditions, their arguments). `after`: the id the page before ended with; `given`: filter -> value, where None and
    "" do not filter; `known`: filter -> its condition (KeyError for any other filter)."""
    where: list[str] = []
    args: list[Any] = []
    if states:
        where.append(f"state IN ({', '.join('?' * len(states))})")
        args += states
    for name, value in given.items():
        if value is not None and value != "":
            where.append(known[name])
            args.append(value)
    if after is not None:
        where.append("id < ?")
        args.append(after)
    return where, args
