"""What may be said about all machines of an SSH cloud?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cloudsched.drivers.base import Place
from cloudsched.drivers.ssh.targets import number
from cloudsched.errors import Invalid

_LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class Options:
    """`run_as`: `auto` (nobody, where we are root and nobody can reach the work directory), '' or a user;
    `orphan_timeout_s`: an agent that does not reach the server for so long kills its jobs and ends (0: never);
    `server_url`: what the hosts call the server by, when that is not what the server calls itself."""

    run_as: str = "auto"
    orphan_timeout_s: float = 600.0
    log_level: str = "info"
    tags: str = ""
    server_url: str = ""

    @classmethod
    def of(cls, place: Place) -> Options:
        """The options of a cloud; Invalid names the wrong one."""
        text = {name: str(place.options.get(name, getattr(cls, name)) or "").strip()
                for name in ("run_as", "log_level", "tags", "server_url")}  # fmt: skip
        if text["log_level"] not in _LOG_LEVELS:
            raise Invalid.at("log_level", f"{text['log_level']!r} is not a level", ", ".join(_LOG_LEVELS))
        if text["server_url"] and urlsplit(text["server_url"]).scheme not in ("http", "https"):
            raise Invalid.at("server_url", f"{text['server_url']!r} is not a URL", "http://host:port or https://host:port")
        return cls(**text, orphan_timeout_s=number(place.options, "orphan_timeout_s", 600.0, low=0, high=1e9))

    def told(self) -> dict[str, Any]:
        """What the host is told about every agent."""
        return {"run_as": self.run_as, "orphan_timeout_s": self.orphan_timeout_s, "log_level": self.log_level, "tags": self.tags}
