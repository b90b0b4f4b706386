"""How does a fresh machine get our agent? User data for cloud-init that starts it with its join token.

Our part is a cloud-config: the token in a file only root can read, a script that fetches the agent from the server
and keeps it running, and a unit that starts the script after a reboot too. What the user wants to run comes first, as
a part of its own; our lists are appended to those of other cloud-configs, so that neither replaces the other. The
same machine gets the same bytes each time: clouds compare them when a request is repeated.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

from cloudsched.drivers.base import Check, Wanted
from cloudsched.drivers.given import Given, refused

AGENT_PATH = "/agent.pyz"  # below the server's URL
LOG_LEVELS = ("debug", "info", "warning", "error")
METADATA_ADDRESS = "169.254.169.254"

# First line of a part -> its MIME type, as cloud-init knows them; the longest that fits counts.
_STARTS = {
    "#!": "text/x-shellscript",
    "#cloud-config": "text/cloud-config",
    "#cloud-config-archive": "text/cloud-config-archive",
    "#cloud-config-jsonp": "text/cloud-config-jsonp",
    "#cloud-boothook": "text/cloud-boothook",
    "#part-handler": "text/part-handler",
    "#include": "text/x-include-url",
    "#include-once": "text/x-include-once-url",
    "## template: jinja": "text/jinja2",
}
_MIME_START = re.compile(rb"(?i)(?:From |(?:content-type|mime-version):)")
_APPEND = [{"name": "list", "settings": ["append"]}, {"name": "dict", "settings": ["no_replace", "recurse_list"]}]


@dataclass(frozen=True, slots=True)
class AgentSetup:
    """What a cloud says about the agents on its machines."""

    server_url: str = ""
    told: bool = False  # the address was given for the machines of this cloud
    agent_image: bool = False
    run_as: str = "nobody"
    orphan_timeout_s: float = 3600.0
    log_level: str = "info"
    tags: tuple[str, ...] = ()
    power_off: bool = True
    guard_metadata: bool = True
    condor_host: str = ""
    condor_context_file: str = "/etc/condor/central_manager"
    override_vm_type: bool = False

    @classmethod
    def of(cls, given: Given) -> AgentSetup:
        """Taken from the options: `server_url` (the server's own), `agent_image` (false), `run_as` (nobody),
        `orphan_timeout_s` (3600; 0: never), `log_level`, `tags` of the nodes, `power_off` (true: a machine whose agent
        has ended for good turns itself off), `guard_metadata` (true: only root reads the cloud's metadata, where the
        user data with the token is), `condor_host`, `condor_context_file`, `override_vmtype` (contract 6.1, 7.7)."""
        return cls(
            server_url=given.url("server_url", given.place.server_url),
            told=bool(given.place.options.get("server_url")),
            agent_image=given.flag("agent_image"),
            run_as=given.text("run_as", "nobody"),
            orphan_timeout_s=given.number("orphan_timeout_s", 3600, low=0, high=1e8),
            log_level=given.text("log_level", "info", allowed=LOG_LEVELS),
            tags=given.names("tags"),
            power_off=given.flag("power_off", True),
            guard_metadata=given.flag("guard_metadata", True),
            condor_host=given.text("condor_host"),
            condor_context_file=given.text("condor_context_file", "/etc/condor/central_manager"),
            override_vm_type=given.flag("override_vmtype"),
        )

    def check(self) -> Check:
        """Could a machine elsewhere call that address? One that was given on purpose is not doubted."""
        host = (urlsplit(self.server_url).hostname or "").lower()
        if not host:
            return Check("server address", ok=True, detail="the server says it at each boot")
        fine = self.told or not (host == "localhost" or host.startswith("127.") or host == "::1")
        return Check("server address", ok=fine, detail=self.server_url if fine else
                     f"{self.server_url} is a machine's own address there: set listen.public_url, or the option server_url")


def user_data(wanted: Wanted, setup: AgentSetup, *, kind: str, cloud: str, limit_bytes: int) -> bytes:
    """The machine's user data, compressed when it would be too long otherwise.

    Raises DriverError (REQUEST) when `wanted.user_data` is nothing cloud-init reads or does not fit `limit_bytes`.
    """
    url = setup.server_url or wanted.server_url
    if urlsplit(url).scheme not in ("http", "https"):
        raise refused("server_url", f"{url!r} is not a URL the agent can call")
    ours = _cloud_config(wanted, setup, url, kind=kind, cloud=cloud)
    data = ours
    if wanted.user_data.strip():
        data = _multipart([*_parts(wanted.user_data.encode()), ("text/cloud-config", "cloudsched.cfg", ours)])
    if len(data) <= limit_bytes:
        return data
    packed = gzip.compress(data, 9, mtime=0)
    if len(packed) > limit_bytes:
        raise refused("user_data", f"is too long: {len(packed)} bytes compressed with our part, {limit_bytes} are allowed")
    return packed


def combine(parts: Iterable[str]) -> str:
    """Several files of user data (scripts, cloud-configs, MIME) as one text. Raises DriverError (REQUEST) for one that
    cloud-init would not read."""
    given = [part for part in parts if part.strip()]
    if len(given) < 2:
        return "".join(given)
    return _multipart([piece for part in given for piece in _parts(part.encode())]).decode()


# our part


def _cloud_config(wanted: Wanted, setup: AgentSetup, url: str, *, kind: str, cloud: str) -> bytes:
    """JSON is YAML, and needs no library."""
    files = [
        _file("/etc/cloudsched/token", wanted.join_token + "\n", "0600"),
        _file("/opt/cloudsched/agent.sh", agent_script(wanted, setup, url), "0700"),
        _file("/etc/systemd/system/cloudsched-agent.service", _UNIT, "0644"),
        _file("/var/lib/cloud_type", kind + "\n", "0644"),
        _file("/var/lib/cloud_name", cloud + "\n", "0644"),
        *_condor_files(wanted, setup),
    ]
    config = {"write_files": files, "runcmd": [["sh", "-c", _START]], "merge_how": _APPEND}
    return b"#cloud-config\n" + json.dumps(config, indent=0, ensure_ascii=True).encode() + b"\n"


def _file(path: str, content: str, mode: str) -> dict[str, str]:
    return {"path": path, "owner": "root:root", "permissions": mode, "content": content}


def _condor_files(wanted: Wanted, setup: AgentSetup) -> list[dict[str, str]]:
    """What a machine of the external batch system needs (contract 7.7)."""
    if not setup.condor_host:
        return []
    lines = [f'START=(Owner == "{_quoted(wanted.user)}")'] if wanted.user else []
    if setup.override_vm_type and wanted.vm_type:
        lines.append(f'VMType = "{_quoted(wanted.vm_type)}"')
    return [_file(setup.condor_context_file, setup.condor_host + "\n", "0644"),
            _file("/etc/condor/condor_config.local.modifications", "\n".join(lines) + "\n", "0644")]


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


_UNIT = """\
[Unit]
Description=cloudsched agent
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/bin/sh /opt/cloudsched/agent.sh
Restart=on-failure
RestartSec=10
KillMode=mixed
StandardOutput=journal+console
StandardError=journal+console

[Install]
WantedBy=multi-user.target
"""

_START = (
    "if systemctl daemon-reload 2>/dev/null; then systemctl enable --now --no-block cloudsched-agent.service; "
    "else setsid sh /opt/cloudsched/agent.sh </dev/null >/var/log/cloudsched-agent.log 2>&1 & fi"
)

_PYTHON = """\
python=
for one in python3 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8; do
  if "$one" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then python=$one; break; fi
done
if [ -z "$python" ]; then echo "cloudsched: there is no Python 3.8 or later on this machine" >&2; exit 1; fi
"""

_FETCH = """\
pause=1
until [ -s {root}/opt/cloudsched/agent.pyz ] || "$python" - {url} {root}/opt/cloudsched/agent.pyz <<'END'
import os, sys, urllib.request
url, path = sys.argv[1:]
with urllib.request.urlopen(url, timeout=60) as answer, open(path + ".new", "wb") as file:
    file.write(answer.read())
os.replace(path + ".new", path)
END
do
  echo "cloudsched: the agent cannot be fetched yet" >&2
  sleep "$pause"
  [ "$pause" -ge 30 ] || pause=$((pause * 2))
done
"""

_GUARD = f"""\
if command -v iptables >/dev/null; then
  rule="OUTPUT -d {METADATA_ADDRESS}/32 -m owner ! --uid-owner 0 -j REJECT"
  iptables -w 5 -C $rule 2>/dev/null || iptables -w 5 -A $rule || echo "cloudsched: the metadata is not guarded" >&2
fi
"""


def agent_script(wanted: Wanted, setup: AgentSetup, url: str, *, root: str = "") -> str:
    """The script that keeps the agent running; `root` is put before every path (for a rehearsal)."""
    parts = ["#!/bin/sh\n# Written by cloudsched: fetches the agent and keeps it running until the node is taken away.\n",
             "PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH\numask 022\n"]
    parts += [] if setup.agent_image else [_PYTHON, _FETCH.format(root=root, url=shlex.quote(url.rstrip("/") + AGENT_PATH))]
    parts += [_GUARD] if setup.guard_metadata and setup.run_as else []
    start = "cloudsched-agent" if setup.agent_image else f'"$python" {root}/opt/cloudsched/agent.pyz'
    parts += [f"mkdir -p {root}/var/lib/cloudsched\nchmod 711 {root}/var/lib/cloudsched\n",
              f"while :; do\n  {start} {_arguments(wanted, setup, url, root)}\n  status=$?\n",
              '  [ "$status" -ne 0 ] || break\n  echo "cloudsched: the agent ended with $status, and starts again" >&2\n',
              "  sleep 5\ndone\n"]
    # The agent ends well only when its node is gone or told to stop: a machine nobody knows of must not run on.
    parts += [f"rm -f {root}/etc/cloudsched/token\n", "shutdown -h now || poweroff\n"] if setup.power_off else []
    return "".join(parts)


def _arguments(wanted: Wanted, setup: AgentSetup, url: str, root: str) -> str:
    words = ["--server", url, "--token-file", f"{root}/etc/cloudsched/token", "--name", wanted.name,
             "--work-dir", f"{root}/var/lib/cloudsched/agent", "--cores", str(wanted.cores),
             "--slots", str(max(1, wanted.slots)), "--orphan-timeout", f"{setup.orphan_timeout_s:g}",
             "--log-level", setup.log_level]  # fmt: skip
    sizes = (("--memory-mb", wanted.memory_mb), ("--storage-gb", wanted.storage_gb))
    words += [word for option, size in sizes if size for word in (option, str(size))]
    words += ["--run-as", setup.run_as] if setup.run_as else []
    words += ["--tags", ",".join(setup.tags)] if setup.tags else []
    # `--name=-rf` is a value, `--name -rf` is not.
    pairs = zip(words[::2], words[1::2], strict=True)
    return " ".join(shlex.quote(f"{option}={value}") for option, value in pairs)


# the user's part


def _parts(data: bytes) -> list[tuple[str, str, bytes]]:
    """(MIME type, file name, content) of each part of what a user gave."""
    if _MIME_START.match(data.lstrip()):
        return _mime_parts(data.lstrip())
    first = data.lstrip(b"\xef\xbb\xbf").split(b"\n", 1)[0].decode("utf-8", "replace").rstrip().lower()
    fitting = [start for start in _STARTS if first.startswith(start)]
    if not fitting:
        raise refused("user_data", f"its first line is nothing that cloud-init knows (allowed: {', '.join(_STARTS)}, MIME)")
    return [(_STARTS[max(fitting, key=len)], "user-data", data)]


def _mime_parts(data: bytes) -> list[tuple[str, str, bytes]]:
    message: Message[str, str] = message_from_bytes(data)
    found = []
    for number, part in enumerate(message.walk(), 1):
        if part.is_multipart():
            continue
        content = part.get_payload(decode=True)
        if isinstance(content, bytes) and content.strip():
            found.append((part.get_content_type(), part.get_filename() or f"user-data-{number}", content))
    if not found or message.defects:
        raise refused("user_data", "is a MIME message without readable parts")
    return found


def _multipart(parts: Sequence[tuple[str, str, bytes]]) -> bytes:
    """MIME written by hand, so that the same parts are the same bytes."""
    boundary = "cloudsched-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    head = f'Content-Type: multipart/mixed; boundary="{boundary}"\nMIME-Version: 1.0\n\n'.encode()
    pieces = [head]
    for number, (kind, name, content) in enumerate(parts, 1):  # scripts are run by name: the number keeps their order
        encoding, body = ("7bit", content) if _plain(content) else ("base64", base64.encodebytes(content).rstrip(b"\n"))
        facts: Mapping[str, Any] = {
            "Content-Type": f'{kind}; charset="utf-8"', "MIME-Version": "1.0", "Content-Transfer-Encoding": encoding,
            "Content-Disposition": f'attachment; filename="{_file_name(number, name)}"'}
        lines = "".join(f"{key}: {value}\n" for key, value in facts.items())
        pieces.append(f"--{boundary}\n{lines}\n".encode() + body + b"\n")
    return b"".join([*pieces, f"--{boundary}--\n".encode()])


def _file_name(number: int, name: str) -> str:
    return f"{number:02d}-" + re.sub(r"[^A-Za-z0-9._-]", "_", re.sub(r"^\d\d-", "", name))


def _plain(content: bytes) -> bool:
    return content.isascii() and b"\r" not in content
