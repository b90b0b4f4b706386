"""As whom do the processes of Spark and Flink run? As root only when the operator says so."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cloudsched.agent import privileges
from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError

UNPRIVILEGED = "nobody"


@dataclass(frozen=True)
class User:
    """Whom a process becomes; `uid` None: whoever we are."""

    name: str
    uid: int | None = None
    gid: int | None = None

    def own(self, path: Path) -> None:
        """Give them the file or directory."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def choose(run_as: str, paths: Iterable[Path]) -> User:
    """Whom processes run as: `auto` is nobody when we are root, else ourselves; '' is ourselves; or a user, who must be able to
    reach `paths`. DriverError names `run_as` when it cannot be: nothing is run as root instead.
    """
    if run_as == "auto":
        return _unprivileged(list(paths)) if os.geteuid() == 0 else User(own_name())
    if not run_as or run_as == own_name():
        return User(own_name())
    try:
        entry = pwd.getpwnam(run_as)
    except KeyError:
        raise DriverError(f"run_as: there is no user {run_as!r} on this machine", code=base.REQUEST) from None
    if os.geteuid() != 0:
        raise DriverError(f"run_as: only root can start processes as {run_as}", code=base.REQUEST)
    closed = _closed(entry, paths)
    if closed:
        raise DriverError(f"run_as: {run_as} cannot reach {closed}; mode 711 on what is above it helps", code=base.REQUEST)
    return User(run_as, entry.pw_uid, entry.pw_gid)


def reaches(user: User, path: Path) -> bool:
    """Can they pass to that file?"""
    return user.uid is None or user.gid is None or privileges.reachable(str(path), user.uid, user.gid)


def own_name() -> str:
    """Who are we?"""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _unprivileged(paths: list[Path]) -> User:
    try:
        entry = pwd.getpwnam(UNPRIVILEGED)
    except KeyError:
        raise _no_root(f"there is no user {UNPRIVILEGED}", "") from None
    closed = _closed(entry, paths)
    if closed:
        raise _no_root(f"{UNPRIVILEGED} cannot reach {closed}", "give the directories above it mode 711, ")
    return User(UNPRIVILEGED, entry.pw_uid, entry.pw_gid)


def _no_root(problem: str, advice: str) -> DriverError:
    return DriverError(f"run_as: {problem}, and nothing runs as root unless that is said: {advice}set dcluster.run_as to another "
                       "user, or to root", code=base.REQUEST)  # fmt: skip


def _closed(entry: pwd.struct_passwd, paths: Iterable[Path]) -> str:
    for path in paths:
        if not privileges.reachable(str(path), entry.pw_uid, entry.pw_gid):
            return str(path)
    return ""
