"""How many nodes may a user have, and which clouds does an alias stand for? Lists and reloads (contract 4.7, 4.8).

The files are read where the reload is asked for; what they say is kept in the database, so that the engine and other
web processes see it wherever they run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from cloudsched import clock
from cloudsched.classic import limits as files
from cloudsched.classic.problem import Problem
from cloudsched.services.pool import storable
from cloudsched.settings import Settings
from cloudsched.store import clouds
from cloudsched.store.db import write

log = logging.getLogger(__name__)

# A limit beyond what the column holds is none.
_MOST = 2**31 - 1


def limits() -> dict[str, int]:
    """user -> largest number of nodes, in file order."""
    return clouds.limits()


def aliases() -> dict[str, list[str]]:
    """alias -> cloud names, in file order."""
    return clouds.aliases()


def reload_limits(settings: Settings, *, actor: str = "") -> bool:
    """Replace the limits by what the file says, with none when it cannot be read; True when one is set then."""
    read = files.read_user_limits(settings.cloud_scheduler.general.user_limit_file)
    _report(read.problems)
    found = {user: min(limit, _MOST) for user, limit in read.limits.items() if storable(user)}
    write(lambda tx: clouds.set_limits(tx, found, at=clock.now(), actor=actor))
    return bool(found)


def reload_aliases(settings: Settings, *, actor: str = "") -> bool:
    """The same for aliases; without a configured file they stay as they are and the answer is False."""
    file = settings.cloud_scheduler.general.target_cloud_alias_file
    if not file:
        log.warning("no target_cloud_alias_file is configured: the aliases stay as they are")
        return False
    read = files.read_aliases(file)
    _report(read.problems)
    found = {alias: list(names) for alias, names in read.aliases.items() if storable(alias)}
    write(lambda tx: clouds.set_aliases(tx, found, at=clock.now(), actor=actor))
    return bool(found)


def load(settings: Settings) -> None:
    """At the start: both files. What was read from a file that is not configured any more is in force no more."""
    general = settings.cloud_scheduler.general
    if general.user_limit_file:
        reload_limits(settings, actor="start")
    elif limits():
        log.warning("no user_limit_file is configured any more: the limits it set are gone")
        write(lambda tx: clouds.set_limits(tx, {}, at=clock.now(), actor="start"))
    if general.target_cloud_alias_file:
        reload_aliases(settings, actor="start")
    elif aliases():
        log.warning("no target_cloud_alias_file is configured any more: the aliases it set are gone")
        write(lambda tx: clouds.set_aliases(tx, {}, at=clock.now(), actor="start"))


def _report(problems: Iterable[Problem]) -> None:
    for problem in problems:
        log.warning("%s", problem)
