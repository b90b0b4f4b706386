"""How does an agent started as root become the user that jobs run as?"""

from __future__ import annotations

import importlib
import os
import stat

from cloudsched.agent.scratch import remove_tree

KEPT = "logs"


class CannotBecome(Exception):
    """Why not, and what would help."""


def become(user: str, work_dir: str, *, secure: bool = False) -> None:
    """Give `work_dir` to `user` and become that user for good; raises CannotBecome."""
    import pwd

    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise CannotBecome("run-as: there is no user %r on this machine" % user) from None
    if os.geteuid() == entry.pw_uid:
        return
    if os.geteuid() != 0:
        raise CannotBecome("run-as: only root can become %s; start the agent as %s or as root" % (user, user))
    _load_what_comes_late(secure)
    _hand_over(work_dir, entry.pw_uid, entry.pw_gid)
    _change_to(entry.pw_uid, entry.pw_gid)
    if not os.access(work_dir, os.R_OK | os.W_OK | os.X_OK):
        raise CannotBecome(
            "run-as: %s cannot reach %s; give every directory above it mode 711 or choose another --work-dir"
            % (user, work_dir)
        )


def drop(user: str) -> None:
    """Become `user` for good, if root still runs this; nothing else is touched. Raises CannotBecome."""
    import pwd

    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise CannotBecome("run-as: there is no user %r on this machine" % user) from None
    if os.geteuid() == 0 and entry.pw_uid != 0:
        _change_to(entry.pw_uid, entry.pw_gid)


def reachable(path: str, uid: int, gid: int) -> bool:
    """May that user (without supplementary groups) pass through every directory above `path`?"""
    folder = os.path.dirname(os.path.realpath(path))
    while True:
        try:
            facts = os.stat(folder)
        except OSError:
            return False
        shift = 6 if facts.st_uid == uid else 3 if facts.st_gid == gid else 0
        if not facts.st_mode >> shift & 0o1:
            return False
        if folder == "/":
            return True
        folder = os.path.dirname(folder)


def _change_to(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def _load_what_comes_late(secure: bool) -> None:
    # The new user may not be able to read the library (a Python in somebody's home).
    for module in ("ctypes", "glob", "resource", "subprocess", *(("ssl", "encodings.idna") if secure else ())):
        importlib.import_module(module)


def _is_folder_of(path: str, uid: int) -> bool:
    state = os.lstat(path)
    return stat.S_ISDIR(state.st_mode) and state.st_uid == uid


def _hand_over(work_dir: str, uid: int, gid: int) -> None:
    # Below it only our own few files: leftovers of jobs are removed, not handed over (a link in there could lead out).
    for name in os.listdir(work_dir):
        path = os.path.join(work_dir, name)
        if name == KEPT and _is_folder_of(path, uid):
            continue  # what is to be delivered yet; it was the user's own all the time
        if os.path.isdir(path) and not os.path.islink(path):
            remove_tree(path)
        else:
            os.chown(path, uid, gid, follow_symlinks=False)
    os.chown(work_dir, uid, gid)
    os.chmod(work_dir, 0o700)
