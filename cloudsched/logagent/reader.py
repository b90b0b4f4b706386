"""What is there to read, in which file, from where? Follows files through rotation, truncation and restarts.

Every scan compares the names that match with the generations known by inode:

* known inode, other name: renamed; reading goes on.
* a known generation's name is gone or has another inode: rotated away or deleted; it is read to its end first.
* shorter than what was read, or other bytes before the position: truncated in place (copy-truncate). The copy, found by
  both fingerprints, is read from the old position; the name starts again at 0.
* files with rotated names that appeared beside a known name since the last scan: generations that came and went unseen.
"""

from __future__ import annotations

import glob
import json
import os
import stat
import threading
import time
from dataclasses import dataclass, field

from cloudsched.logagent import disk, log
from cloudsched.logagent.generation import (
    GUARD_BYTES,
    QUIET_S,
    Generation,
    Position,
    Replaced,
    Saved,
    begins_like,
    key_of,
)
from cloudsched.logagent.lines import Framing
from cloudsched.logagent.rotation import Folders, changed_ns, is_rotated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from cloudsched.logagent.generation import Chunk, Key
    from cloudsched.logagent.rotation import Found

    Positions = dict[Generation, Position]

SCAN_S = 0.5
FINISHED_S = 5.0
COPYING_S = 30.0
# Times of files are as coarse as the kernel's tick.
CLOCK_NS = 20_000_000
LOOKS = 3


@dataclass(frozen=True)
class Source:
    """What a reader was told. `pattern` is one path (`literal`) or a glob."""

    pattern: str
    literal: bool = True
    newest: bool = False
    hidden: bool = False
    ignored_suffixes: tuple[str, ...] = ()
    scan_s: float = SCAN_S
    expire_s: float = 0.0
    max_open_files: int = 256
    framing: Framing = field(default_factory=Framing)


class FileReader:
    """Generations of one source. Used by one thread."""

    def __init__(self, source: Source, checkpoint: str) -> None:
        self.source, self._checkpoint = source, checkpoint
        self.records = 0
        self.looked = threading.Event()  # the files are known: from now on `lag` means something
        self._live: dict[Key, Generation] = {}
        # Read to the end and rotated away; remembered, with what the checkpoint says of them, while the file exists.
        self._finished: dict[Key, tuple[Generation, dict[str, Any]]] = {}
        self._folders = Folders()
        self._waiting: dict[Key, float] = {}
        self._next_scan = 0.0
        self._scanned_ns = self._last_scan_ns = 0
        self._fresh = True
        self._dirty = False

    def restore(self) -> None:
        """Find again what the checkpoint speaks of. Without one, everything is new."""
        value = _load(self._checkpoint)
        if value is None:
            return
        self._fresh = False
        self.records = int(value.get("records", 0))
        self._scanned_ns = self._last_scan_ns = int(value.get("scanned_ns", 0))
        files = [Saved.parse(item) for item in value.get("files", [])]
        self._folders = Folders()
        for saved in files:
            found = self._refind(saved)
            if found is None:
                if not saved.moved:
                    log.say("warning", "a file of the checkpoint is gone or was replaced", path=saved.path, offset=saved.offset)
            elif found.moved and found.ended():
                found.close()
                self._finished[found.key] = found, found.saved()
            elif found.key not in self._live:
                self._live[found.key] = found

    def poll(self) -> Iterator[Chunk]:
        """Chunks that can be had now, in turn from each file with something new."""
        now = time.monotonic()
        if now >= self._next_scan:
            self._next_scan = now + self.source.scan_s
            self._scan(now)
            self.looked.set()
        # What was rotated away comes first: older lines before newer ones.
        for generation in sorted(self._live.values(), key=lambda item: (not item.moved, item.mtime_ns if item.moved else 0)):
            try:
                chunk = self._next(generation, time.monotonic())
            except Replaced:
                self._replaced(generation)
                continue
            if chunk is not None:
                yield chunk

    def look_again(self) -> None:
        """List the files at the next `poll`, whether it is time or not."""
        self._next_scan = 0.0

    def acknowledge(self, positions: Positions, records: int) -> None:
        """All senders have these records: the positions may be written down."""
        self.records += records
        for generation, position in positions.items():
            generation.acked = position
        self._dirty = True

    def save(self) -> None:
        """Write the checkpoint, if anything was acknowledged or discovered since."""
        if not self._dirty:
            return
        files = [saved for _, saved in self._finished.values()] + [item.saved() for item in self._live.values()]
        value = {"version": 1, "records": self.records, "scanned_ns": self._scanned_ns, "files": files}
        disk.write_atomic(self._checkpoint, json.dumps(value).encode())
        self._dirty = False

    def lag(self) -> tuple[int, int]:
        """(bytes not acknowledged, bytes in all files)."""
        found = [item.lag() for item in list(self._live.values())]
        return sum(behind for behind, _ in found), sum(size for _, size in found)

    def opened(self) -> int:
        return sum(item.fd is not None for item in self._live.values())

    def close(self) -> None:
        for generation in self._live.values():
            generation.close()

    # ---- finding files

    def _scan(self, now: float) -> None:
        began_ns = time.time_ns()
        self._folders = Folders()
        found = self._matching()
        fresh, self._fresh = self._fresh, False
        new: list[Found] = []
        for key, (path, state) in found.items():
            generation = self._live.get(key)
            if generation is None:
                new.append((path, state))
            elif generation.location != path or generation.moved:
                generation.path = generation.location = path
                generation.moved, self._dirty = False, True
        for generation in list(self._live.values()):
            if generation.key not in found:
                self._left(generation, now)
        for path, state in sorted(new, key=lambda item: (item[1].st_mtime_ns, item[0])):
            if key_of(state) not in self._live:
                self._discover(path, state, newest=fresh and self.source.newest, now=now)
        if fresh or not self._look_beside(now):
            # One scan behind: a name that moved while the folder was listed may be in no listing; the next one has it.
            self._scanned_ns, self._last_scan_ns = self._last_scan_ns or began_ns, began_ns
        if new or fresh:
            # Written before the first byte is read: a file rotated away while we are down is then looked for.
            self._dirty = True
            self.save()

    def _matching(self) -> dict[Key, Found]:
        pattern = self.source.pattern
        found: dict[Key, Found] = {}
        paths = [pattern] if self.source.literal else glob.glob(pattern, recursive=True)
        for path in sorted(paths):
            if not self.source.literal and self._ignored(path):
                continue
            try:
                state = os.stat(path)
            except OSError:
                continue
            if stat.S_ISREG(state.st_mode):
                found.setdefault(key_of(state), (path, state))
        return found

    def _ignored(self, path: str) -> bool:
        name = os.path.basename(path)
        return (name.startswith(".") and not self.source.hidden) or name.endswith(self.source.ignored_suffixes)

    def _discover(self, path: str, state: os.stat_result, *, newest: bool, now: float) -> None:
        key = key_of(state)
        before = self._finished.pop(key, (None, {}))[0]
        if before is not None and begins_like(path, before.head, before.read):
            self._live[key] = before
            before.path = before.location = path
            return
        if self._may_be_copy(path, key, now):
            return
        self._waiting.pop(key, None)
        self._adopt(path, state, offset=state.st_size if newest else 0)

    def _adopt(self, path: str, state: os.stat_result, *, offset: int = 0, named: str = "") -> Generation:
        generation = Generation(named or path, key=key_of(state))
        generation.location, generation.mtime_ns, generation.found_bytes = path, state.st_mtime_ns, state.st_size
        if offset and generation.open():
            assert generation.fd is not None
            length = min(GUARD_BYTES, offset)
            guard = os.pread(generation.fd, length, offset - length)
            generation.read = generation.acked = Position(offset, guard)
            generation.close()
        self._live[generation.key] = generation
        self._dirty = True
        return generation

    def _may_be_copy(self, path: str, key: Key, now: float) -> bool:
        """Is it perhaps a copy of a file that we read, which copy-truncate will truncate in a moment?"""
        return any(self._copying(path, key, other, now) for other in self._live.values() if is_rotated(path, other.path))

    def _copying(self, path: str, key: Key, other: Generation, now: float) -> bool:
        """Begins like the live file that it is named after: then the truncation decides where to go on. Not for ever."""
        if other.moved or not (other.read.offset or other.size):
            return False
        if begins_like(path, other.head, other.read) is False:
            return False
        return now - self._waiting.setdefault(key, now) < COPYING_S

    def _look_beside(self, now: float) -> bool:
        """Adopt rotated files that appeared since the last scan and are unknown. True: one of them must wait."""
        since, waits = self._scanned_ns - CLOCK_NS, False
        folders: dict[str, list[Generation]] = {}
        for generation in self._live.values():
            folders.setdefault(os.path.dirname(os.path.realpath(generation.path)), []).append(generation)
        for folder, owners in folders.items():
            if changed_ns(folder) < since:
                continue
            for path, state in self._folders.neighbours(os.path.join(folder, "-")):
                if state.st_mtime_ns < since:
                    continue
                owner = next((item for item in owners if is_rotated(path, item.path)), None)
                if owner is not None and not self._knows(path, state):
                    waits = self._adopt_rotated(path, state, owner, now) or waits
        return waits

    def _adopt_rotated(self, path: str, state: os.stat_result, owner: Generation, now: float) -> bool:
        current = next((item for item in self._live.values() if item.path == owner.path and not item.moved), None)
        if current is not None and self._copying(path, key_of(state), current, now):
            return True
        log.say("info", "a generation rotated away unseen is read", path=path)
        self._waiting.pop(key_of(state), None)
        self._adopt(path, state, named=owner.path).moved = True
        return False

    # ---- files that went

    def _left(self, generation: Generation, now: float) -> None:
        """Its name is gone or another's. What we still hold or can find is read to the end."""
        if not generation.moved:
            generation.moved, generation.used_at, self._dirty = True, now, True
            if not generation.nameless():
                generation.location = self._folders.find_inode(generation.path, generation.key[1]) or generation.location
        if not generation.open() and not self._found_again(generation):
            self._forget(generation)
            return
        try:
            done = generation.look(now) == 0
        except Replaced:
            self._forget(generation)
            return
        # A writer may go on in the renamed file until it reopens.
        if done and now - max(generation.grown_at, generation.used_at) > max(FINISHED_S, QUIET_S):
            self._finish(generation)

    def _found_again(self, generation: Generation) -> bool:
        """It was renamed once more before it was opened."""
        for _ in range(LOOKS):
            generation.location = Folders().find_inode(generation.path, generation.key[1]) or generation.location
            if generation.open():
                return True
        return False

    def _finish(self, generation: Generation) -> None:
        if generation.acked != generation.read:
            return
        nameless = generation.nameless()
        self._forget(generation)
        if not nameless:
            self._finished[generation.key] = generation, generation.saved()
            self._prune(generation.path)

    def _forget(self, generation: Generation) -> None:
        generation.close()
        self._live.pop(generation.key, None)
        self._dirty = True

    def _prune(self, path: str) -> None:
        """Finished generations are remembered while their file exists."""
        folder = os.path.dirname(path)
        there = {key_of(state) for _, state in self._folders.neighbours(path)}
        for key, (item, _) in list(self._finished.items()):
            if os.path.dirname(item.path) == folder and key not in there:
                del self._finished[key]

    def _replaced(self, old: Generation) -> None:
        """Truncated in place: the rest of the old bytes is in a copy, if anywhere; the name begins again."""
        log.say("info", "file was truncated", path=old.path, offset=old.read.offset)
        fd, old.fd = old.fd, None
        self._live.pop(old.key, None)
        copy = self._copied(old)
        new = Generation(old.path, key=old.key)
        new.location, new.fd, new.mtime_ns, new.found_bytes = old.location, fd, old.mtime_ns, old.size
        new.moved = old.moved
        if copy is not None:
            self._waiting.pop(key_of(copy[1]), None)
            old.location, old.key, old.moved, old.grown_at = copy[0], key_of(copy[1]), True, 0.0
            old.found_bytes = copy[1].st_size
            self._live[old.key] = old
        self._live[new.key] = new
        self._dirty = True

    def _copied(self, old: Generation) -> Found | None:
        """Where the bytes of a truncated file are now. Names may move while we look: look again."""
        for _ in range(LOOKS):
            copy = Folders().find_copy(old.path, old.head, old.read, self._knows)
            if copy is not None:
                return copy
        return None

    def _knows(self, path: str, state: os.stat_result) -> bool:
        """Is this file read, or being read? The inode of a deleted file may be another file's by now."""
        key = key_of(state)
        if key in self._live or key not in self._finished:
            return key in self._live
        before, _ = self._finished[key]
        if (state.st_size, state.st_mtime_ns) == (before.acked.offset, before.mtime_ns):
            return True
        del self._finished[key]
        if not begins_like(path, before.head, before.acked, key=key):
            return False
        # Somebody still writes to it.
        before.location, before.grown_at = path, 0.0
        self._live[key] = before
        return True

    # ---- reading

    def _next(self, generation: Generation, now: float) -> Chunk | None:
        if not generation.look(now):
            self._close_idle(generation, now)
            return None
        if generation.fd is None and not self._room():
            return None
        if not generation.open():
            return None
        return generation.next(self.source.framing, now)

    def _room(self) -> bool:
        """May one more file be opened? Closes the one at its end that was unused longest."""
        opened = [item for item in self._live.values() if item.fd is not None]
        if len(opened) < self.source.max_open_files:
            return True
        idle = [item for item in opened if not item.moved and item.read.offset >= item.size]
        if not idle:
            return False
        min(idle, key=lambda item: item.used_at).close()
        return True

    def _close_idle(self, generation: Generation, now: float) -> None:
        unused_s = now - max(generation.used_at, generation.grown_at)
        if self.source.expire_s and not generation.moved and unused_s > self.source.expire_s:
            generation.close()

    # ---- restoring

    def _refind(self, saved: Saved) -> Generation | None:
        """At its path, elsewhere in the folder with its inode, or as a copy that has our position."""
        for _ in range(LOOKS):
            if _inode_at(saved.path) == saved.inode:
                found = saved.fits(saved.path)
                if found is not None and found.key[1] == saved.inode:
                    found.moved = False
                    return found
            else:
                place = self._folders.find_inode(saved.path, saved.inode)
                found = saved.fits(place) if place else None
                if found is not None and found.key[1] == saved.inode:
                    found.moved = True
                    return found
            found = self._copy_of(saved)
            if found is not None:
                return found
            # Names may move while we look: look again.
            self._folders = Folders()
        return None

    def _copy_of(self, saved: Saved) -> Generation | None:
        if not saved.offset:
            return None
        for path, state in self._folders.related(saved.path):
            if key_of(state) not in self._live and key_of(state) not in self._finished:
                found = saved.fits(path)
                if found is not None and found.key == key_of(state):
                    found.moved = True
                    return found
        return None


def _load(path: str) -> dict[str, Any] | None:
    try:
        value = disk.read_json(path)
        if value is not None:
            for item in value["files"]:
                Saved.parse(item)
        return value
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        # Reading again from the start duplicates; skipping would lose.
        log.say("error", "the checkpoint cannot be read; starting from the configured start", path=path, error=str(error))
        return None


def _inode_at(path: str) -> int:
    key = _key_at(path)
    return key[1] if key else -1


def _key_at(path: str) -> Key | None:
    try:
        return key_of(os.stat(path))
    except OSError:
        return None
