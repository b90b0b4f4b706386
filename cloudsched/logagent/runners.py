"""What can be done with runners? add, update, delete, start, stop, reset, and reading them (contract 7.1).

One operation per runner at a time; different runners do not wait for each other.
"""

from __future__ import annotations

import copy
import hashlib
import os
import threading
import time

from cloudsched.logagent import disk, log
from cloudsched.logagent.errors import BadConfig, Refused
from cloudsched.logagent.plan import completed, keep_secrets, plan, shown
from cloudsched.logagent.runner import Run, checkpoint_in, stopped_status
from cloudsched.logagent.store import ConfigStore, check_name
from cloudsched.logagent.times import now_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cloudsched.logagent.config import Settings

    Config = dict[str, Any]

# Stored configurations may be older than this program, or edited by hand.
_CANNOT_START = (BadConfig, OSError, KeyError, TypeError, AttributeError)


class _Entry:
    """A runner that is stored: running (`run`) or stopped."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.run: Run | None = None
        self.error = ""


class Runners:
    """All runners of this agent."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = ConfigStore(settings.rest_dir)
        self._entries: dict[str, _Entry] = {}
        self._locks = [threading.RLock() for _ in range(256)]
        self._lock = threading.Lock()

    def restore(self) -> None:
        """Start what was running when the agent ended; a runner that cannot start is shown with its error, and tried again."""
        for name, config in self._store.load().items():
            entry = self._entries[name] = _Entry(config)
            if not config.get("is_stopped"):
                try:
                    self._start(name, entry, starting=False)
                except _CANNOT_START as error:
                    entry.error = str(error)
                    log.say("error", "a stored runner cannot start", runner=name, error=entry.error)

    def close(self) -> None:
        """Stop all runners; what is stored stays as it is."""
        runs = [entry.run for entry in self._entries.values() if entry.run]
        threads = [threading.Thread(target=run.stop) for run in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def drain(self, limit_s: float) -> bool:
        """Read and deliver what there is, at most so long; False: something is left, and stays on disk."""
        runs = [entry.run for entry in list(self._entries.values()) if entry.run]
        for run in runs:
            run.hurry()
        until = time.monotonic() + limit_s
        while not all(run.drained() for run in runs):
            if time.monotonic() >= until:
                return False
            time.sleep(0.02)
        return True

    def retry(self) -> None:
        """Start what should run and could not: a disk was full or away, and its logs are being rotated meanwhile."""
        for name, entry in list(self._entries.items()):
            lock = self._lock_of(name)
            if entry.run or entry.config.get("is_stopped") or not lock.acquire(blocking=False):
                continue
            try:
                if self._entries.get(name) is entry and not entry.run and not entry.config.get("is_stopped"):
                    self._start(name, entry, starting=False)
                    log.say("info", "a stored runner has started at last", runner=name)
            except _CANNOT_START as error:
                entry.error = str(error)
            finally:
                lock.release()

    def refresh(self) -> None:
        """Speeds of all runners."""
        for entry in list(self._entries.values()):
            if entry.run:
                entry.run.stats.refresh()

    # ---- operations

    def add(self, name: str, config: Config) -> None:
        """Create and start (or only store, with `is_stopped`); a stopped one is replaced and started."""
        with self._held(name, "L1002"):
            old = self._entries.get(name)
            if old and old.run:
                raise Refused(f"file {name} runner is running", code="L1002")
            self._replace(name, config, old, code="L1002")

    def update(self, name: str, config: Config) -> None:
        """Replace and start; the position is kept. On failure the old one runs again."""
        with self._held(name, "L1007"):
            self._replace(name, config, self._known(name, "L1007"), code="L1007")

    def delete(self, name: str) -> None:
        """Stop, and remove configuration, position and what waits in queues."""
        with self._held(name, "L1003"):
            entry = self._known(name, "L1003")
            self._end(name, entry, "L1003")
            self._store.remove(name)
            with self._lock:
                del self._entries[name]
            disk.remove_tree(self._folder(name))

    def start(self, name: str) -> None:
        with self._held(name, "L1004"):
            entry = self._known(name, "L1004")
            if entry.run:
                raise Refused(f"runner {self._store.path(name)} has already started", code="L1004")
            self._try_start(name, entry, "L1004")
            self._keep_state(name, entry, stopped=False)

    def stop(self, name: str) -> None:
        with self._held(name, "L1005"):
            entry = self._known(name, "L1005")
            if not entry.run:
                raise Refused(f"runner {self._store.path(name)} has already stopped", code="L1005")
            self._end(name, entry, "L1005")
            self._keep_state(name, entry, stopped=True)

    def reset(self, name: str) -> None:
        """Forget the position and start: everything is read and sent again. Queues keep what they accepted."""
        with self._held(name, "L1006"):
            entry = self._known(name, "L1006")
            self._end(name, entry, "L1006")
            if os.path.exists(checkpoint_in(self._folder(name))):
                os.unlink(checkpoint_in(self._folder(name)))
            self._try_start(name, entry, "L1006")
            self._keep_state(name, entry, stopped=False)

    # ---- reading

    def names(self) -> list[str]:
        return sorted(self._entries)

    def config(self, name: str) -> Config:
        return shown(self._known(name, "L1001", text=f"config {name} is not found").config)

    def configs(self) -> dict[str, Config]:
        """By absolute path of the stored file."""
        return {self._store.path(name): shown(entry.config) for name, entry in sorted(self._entries.items())}

    def status(self) -> dict[str, dict[str, Any]]:
        found = {}
        for name, entry in sorted(self._entries.items()):
            run = entry.run
            found[name] = run.status() if run else stopped_status(name, entry.error)
        return found

    def errors(self, name: str) -> dict[str, Any]:
        return self._errors(self._known(name, "L1008"))

    def all_errors(self) -> dict[str, dict[str, Any]]:
        return {name: self._errors(entry) for name, entry in sorted(self._entries.items())}

    # ---- inside

    def _held(self, name: str, code: str) -> threading.RLock:
        check_name(name, code=code)
        return self._lock_of(name)

    def _lock_of(self, name: str) -> threading.RLock:
        return self._locks[hash(name) % len(self._locks)]

    def _known(self, name: str, code: str, text: str = "") -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise Refused(text or f"runner {name} not found", code=code)
        return entry

    def _replace(self, name: str, config: Config, old: _Entry | None, *, code: str) -> None:
        try:
            plan(config, self._settings)
        except BadConfig as error:
            raise Refused(str(error), code=code) from None
        new = _Entry(completed(copy.deepcopy(config), name, now_text()))
        if old:
            keep_secrets(new.config, old.config)
        was_running = bool(old and old.run)
        if old:
            self._end(name, old, code)
        try:
            if not new.config.get("is_stopped"):
                self._start(name, new, starting=True)
            self._store.save(name, new.config)
        except (BadConfig, OSError) as error:
            self._undo(name, new, old if was_running else None)
            raise Refused(str(error), code=code) from None
        with self._lock:
            self._entries[name] = new

    def _undo(self, name: str, new: _Entry, old: _Entry | None) -> None:
        if new.run:
            new.run.stop()
        if old:
            self._start(name, old, starting=False)
        elif name not in self._entries:
            disk.remove_tree(self._folder(name))

    def _start(self, name: str, entry: _Entry, *, starting: bool) -> None:
        made = plan(entry.config, self._settings, starting=starting)
        run = Run(name, made, self._folder(name))
        run.start()
        entry.run, entry.error = run, ""

    def _try_start(self, name: str, entry: _Entry, code: str) -> None:
        try:
            self._start(name, entry, starting=True)
        except (BadConfig, OSError) as error:
            entry.error = str(error)
            raise Refused(str(error), code=code) from None

    def _end(self, name: str, entry: _Entry, code: str) -> None:
        if entry.run:
            if not entry.run.stop():
                raise Refused(f"runner {name} has not stopped yet; ask again", code=code)
            entry.run = None

    def _keep_state(self, name: str, entry: _Entry, *, stopped: bool) -> None:
        config = {key: value for key, value in entry.config.items() if key != "is_stopped"}
        if stopped:
            config["is_stopped"] = True
        self._store.save(name, config)
        entry.config = config

    def _errors(self, entry: _Entry) -> dict[str, Any]:
        if entry.run:
            return entry.run.stats.errors()
        return {"read_errors": None, "parse_errors": None, "transform_errors": None, "send_errors": None}

    def _folder(self, name: str) -> str:
        """Position and queues. Named by a digest: a name may be as long as a file name may be."""
        digest = hashlib.blake2b(name.encode("utf-8"), digest_size=10).hexdigest()
        return os.path.join(self._settings.meta_dir, "runners", digest)
