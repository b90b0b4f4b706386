"""What can be switched while the service runs? The log level (contract 4.9) and quick shutdown (4.10).

Both are kept in the database: processes elsewhere read them there (`log_level`, `quick_shutdown`).
"""

from __future__ import annotations

from cloudsched import clock, logs
from cloudsched.store import events, system
from cloudsched.store import pool as store
from cloudsched.store.db import Tx, write

LOG_LEVEL = "log_level"
QUICK_SHUTDOWN = "quick_shutdown"
# Engines announce themselves by leases of this name.
ENGINES = "engine:"


def set_log_level(word: str, *, actor: str = "") -> str:
    """Change the level of the running service; any case. Raises Invalid for an unknown word, with nothing changed."""
    logs.set_level(word)
    level = word.strip().upper()

    def keep(tx: Tx) -> None:
        system.put_setting(tx, LOG_LEVEL, level)
        events.append(tx, "system.log_level", ("system", 0), at=clock.now(), actor=actor, level=level)

    write(keep)
    return level


def kept_log_level() -> str:
    """The level somebody asked for while the service ran, or empty: loops elsewhere apply it."""
    return system.setting(LOG_LEVEL)


def forget_log_level() -> None:
    """At the start of a service its own settings count again (contract 4.9: the running server only)."""
    if kept_log_level():
        write(lambda tx: system.put_setting(tx, LOG_LEVEL, ""))


def forget_quick_shutdown() -> None:
    """At the start of a service the flag is off (contract 4.10: it is a flag of the running server); otherwise the
    second quick restart would switch it off again and destroy every node. While another engine lives, or a killed one
    is followed at once, the service still runs and so does its flag."""
    if quick_shutdown() and not _engine_is_alive():
        write(lambda tx: system.put_setting(tx, QUICK_SHUTDOWN, "0"))


def _engine_is_alive() -> bool:
    now = clock.now()
    return any(name.startswith(ENGINES) and until > now for name, _, until, _ in system.leases())


def toggle_quick_shutdown(*, actor: str = "") -> bool:
    """Flip whether nodes are left running when the service stops; what it is now."""

    def flip(tx: Tx) -> bool:
        now = store.toggle(tx, QUICK_SHUTDOWN)
        events.append(tx, "system.quick_shutdown", ("system", 0), at=clock.now(), actor=actor, on=now)
        return now

    return write(flip)


def quick_shutdown() -> bool:
    """Are nodes left running when the service stops?"""
    return system.setting(QUICK_SHUTDOWN) == "1"
