"""How does a pod really run, when it should? Its first container as a process, its volumes as directories."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cloudsched.agent import processes
from cloudsched.testing.kubeapi import kinds
from cloudsched.testing.kubeapi.kinds import Object
from cloudsched.testing.kubeapi.store import Store

_SOURCES = (("secret", "Secret", "secretName"), ("configMap", "ConfigMap", "name"))


def missing_source(store: Store, pod: Object) -> str:
    """The secret or configuration map that a volume needs and that is not there (yet)."""
    for volume in pod["spec"].get("volumes") or ():
        for sort, kind, key in _SOURCES:
            source = volume.get(sort)
            if source and not source.get("optional") and store.get(
                    kinds.of(kind), pod["metadata"]["namespace"], source[key]) is None:
                return f'MountVolume.SetUp failed for volume "{volume["name"]}" : {sort.lower()} "{source[key]}" not found'
    return ""


class PodProcess:
    """One pod's process and its directory."""

    def __init__(self, store: Store, pod: Object, root: Path, write_log: Callable[[str, str, str], None]) -> None:
        self.namespace, self.name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        self.directory = root / str(pod["metadata"]["uid"])
        self._asked_at = 0.0
        container = pod["spec"]["containers"][0]
        mounts = self._volumes(store, pod, container)
        argv = [_there(one, mounts) for one in [*(container.get("command") or ()), *(container.get("args") or ())]]
        env = {one["name"]: _there(str(one.get("value", "")), mounts) for one in container.get("env") or ()}
        argv[0] = sys.executable if argv[0] == "python3" else argv[0]
        self._popen = subprocess.Popen(
            argv, env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.directory), **env}, cwd=self.directory,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        self._reader = threading.Thread(target=self._read, args=(container["name"], write_log), daemon=True)
        self._reader.start()

    def poll(self) -> int | None:
        """The exit status, once it has ended and its output is read."""
        code = self._popen.poll()
        if code is None or self._reader.is_alive():
            return None
        return code if code >= 0 else 128 - code

    def stopped(self, grace_s: float) -> bool:
        """Ask it to end, insist after the grace period; True when nothing of it is left."""
        if not self._asked_at:
            self._asked_at = time.monotonic()
            with contextlib.suppress(ProcessLookupError):
                self._popen.send_signal(signal.SIGTERM)
        if self._popen.poll() is None and time.monotonic() - self._asked_at < grace_s:
            return False
        self.kill()
        return True

    def kill(self) -> None:
        """As the end of a container kills all that is in it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        for pid, _ in processes.standing_in(str(self.directory)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._popen.wait()
        self._reader.join(5)
        if self._popen.stdout is not None:
            self._popen.stdout.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _read(self, container: str, write_log: Callable[[str, str, str], None]) -> None:
        assert self._popen.stdout is not None
        with contextlib.suppress(ValueError):
            for line in self._popen.stdout:
                write_log(f"{self.namespace}/{self.name}", container, line)

    def _volumes(self, store: Store, pod: Object, container: Object) -> dict[str, str]:
        """Where each mount path of the container really is."""
        self.directory.mkdir(parents=True)
        made = {}
        for volume in pod["spec"].get("volumes") or ():
            place = self.directory / "volumes" / str(volume["name"])
            place.mkdir(parents=True)
            made[volume["name"]] = place
            for sort, kind, key in _SOURCES:
                if sort in volume:
                    _fill(place, store.get(kinds.of(kind), self.namespace, volume[sort][key]) or {}, volume[sort])
        return {one["mountPath"]: str(made[one["name"]]) for one in container.get("volumeMounts") or ()}


def _fill(place: Path, source: Object, volume: Object) -> None:
    contents = {name: base64.b64decode(value) for name, value in (source.get("binaryData") or {}).items()}
    for name, value in (source.get("data") or {}).items():
        contents[name] = base64.b64decode(value) if source["kind"] == "Secret" else value.encode()
    chosen = {one["key"]: one["path"] for one in volume.get("items") or ()} or {name: name for name in contents}
    for name, path in chosen.items():
        (place / path).write_bytes(contents[name])


def _there(text: str, mounts: dict[str, str]) -> str:
    for path in sorted(mounts, key=len, reverse=True):
        text = text.replace(path, mounts[path])
    return text
