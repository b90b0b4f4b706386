"""Where are runner configurations kept? One `<name>.conf` per runner, written atomically (contract 7.1, 15)."""

from __future__ import annotations

import contextlib
import os
import re

from cloudsched.logagent import disk, log
from cloudsched.logagent.errors import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SUFFIX = ".conf"
LONGEST_NAME = 200
_FORBIDDEN = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]")


def check_name(name: str, *, code: str = "") -> str:
    """The name, if it can be a file name of its own; else Refused (contract 6.3)."""
    if name in ("", ".", "..") or _FORBIDDEN.search(name):
        raise Refused(
            f"runner name {name!r}: empty, '.', '..', and names with '/', '\\' or control characters are refused", code=code
        )
    if len(name.encode("utf-8")) > LONGEST_NAME:
        raise Refused(f"runner name is longer than {LONGEST_NAME} bytes", code=code)
    return name


class ConfigStore:
    """The folder `rest_dir`."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(folder)
        disk.make_folder(self.folder)

    def path(self, name: str) -> str:
        return os.path.join(self.folder, check_name(name) + SUFFIX)

    def save(self, name: str, config: dict[str, Any]) -> None:
        disk.write_json(self.path(name), config)
        disk.sync_folder(self.folder)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(name))
        disk.sync_folder(self.folder)

    def load(self) -> dict[str, dict[str, Any]]:
        """All stored configurations by runner name; a file that cannot be read is reported and left alone."""
        found = {}
        for entry in sorted(os.listdir(self.folder)):
            if not entry.endswith(SUFFIX):
                continue
            try:
                config = disk.read_json(os.path.join(self.folder, entry))
                if not isinstance(config, dict):
                    raise ValueError("not a JSON object")
                found[check_name(entry[: -len(SUFFIX)])] = config
            except (OSError, ValueError, Refused) as error:
                log.say("error", "a stored runner configuration cannot be read", file=entry, error=str(error))
        return found
