"""Who may have how many machines, and which clouds does an alias stand for?

Contract 6.4 and 6.5: two small JSON files, read again at every reload. Reading never
raises: what cannot be read is an empty table with the reason beside it (contract 4.7).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .ini import decode
from .problem import Problem

_DIGITS = re.compile(r"\s*\+?[0-9]{1,18}\s*\Z")


@dataclass(frozen=True)
class UserLimits:
    """User name -> largest number of VMs, in file order. 0 means never; not listed: no limit."""

    limits: dict[str, int] = field(default_factory=dict, hash=False)
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Aliases:
    """Alias -> names of clouds, in file order, spelled as in the file."""

    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    problems: tuple[Problem, ...] = ()

    def expand(self, cloud: str) -> tuple[str, ...]:
        """The clouds this name stands for, itself if it is no alias; any case (B32), no nesting."""
        for alias, clouds in self.aliases.items():
            if alias.lower() == cloud.lower():
                return clouds
        return (cloud,)


def read_user_limits(path: str | Path | None) -> UserLimits:
    """Reads the user-limit file (contract 6.4). Entries that are no whole number are left out (B36)."""
    entries, problems = _read_object(path)
    limits: dict[str, int] = {}
    for user, value in entries.items():
        limit = _limit(value)
        if limit is None:
            problems.append(Problem(str(path), f"limit of {user!r} must be a whole number of at least 0,"
                                    f" not {json.dumps(value)}: left out", key=user))
        else:
            limits[user] = limit
    return UserLimits(limits, tuple(problems))


def read_aliases(path: str | Path | None) -> Aliases:
    """Reads the cloud-alias file (contract 6.5). A plain string counts as a list of one (B35)."""
    entries, problems = _read_object(path)
    aliases: dict[str, tuple[str, ...]] = {}
    for alias, value in entries.items():
        clouds = [value] if isinstance(value, str) else value
        if isinstance(clouds, list) and all(isinstance(cloud, str) for cloud in clouds):
            aliases[alias] = tuple(clouds)
        else:
            problems.append(Problem(str(path), f"alias {alias!r} must be a list of cloud names,"
                                    f" not {json.dumps(value)}: left out", key=alias))
    return Aliases(aliases, tuple(problems))


def _read_object(path: str | Path | None) -> tuple[dict[str, Any], list[Problem]]:
    if path is None:
        return {}, [Problem("configuration", "no file is configured")]
    try:
        content = json.loads(decode(Path(path).read_bytes())[0].removeprefix("\ufeff"))
    except OSError as error:
        return {}, [Problem(str(path), f"cannot be read: {error.strerror or type(error).__name__}")]
    except (ValueError, RecursionError) as error:
        return {}, [Problem(str(path), f"is not JSON: {error}")]
    if not isinstance(content, dict):
        return {}, [Problem(str(path), "must hold one JSON object")]
    return content, []


def _limit(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return int(value) if _DIGITS.match(value) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and 0 <= value < 10**18 else None
