"""`retire-cluster-main` and `retire-cluster-api`: how is the server of a Retire-Cluster started with the original's options?

Both start one instance of this system, whose state lies in `--data-dir`: the native port for workers, the HTTP API, the port
where our agents knock, and the engine. When that instance runs already, the second command finds it, says where it answers
and stays as long as it does: one state, whatever was started first.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib
import json
import os
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from cloudsched import __version__

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
LOOK_S = 2.0
NATIVE_PORT = 8080  # of the original
_ENV = "RETIRE_CLUSTER_API_"
_OFF = ("CLOUD_SCHEDULER_INFO", "CLOUD_SCHEDULER_ADMIN", "LOGKIT")
INITIAL = """# Settings of this Retire-Cluster. `cloudsched config show --origin` tells all of them.
[listen]
# retire_cluster = 8081
# retire_cluster_tcp = 8080
# retire_cluster_bind = "127.0.0.1"

[retire_cluster]
# join_token = ""
# heartbeat_interval_s = 60
# offline_threshold_s = 300
"""


def retire_main_main(argv: Sequence[str] | None = None) -> int:
    """The `retire-cluster-main` command (contract 13)."""
    parser = argparse.ArgumentParser(prog="retire-cluster-main", description="The main node: workers join here.")
    _common(parser)
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", "-p", type=_port, help="port of the native protocol (default: 8080)")
    parser.add_argument("--api-port", type=_port, help="port of the HTTP API (default: 8081)")
    parser.add_argument("--config", "-c", metavar="FILE", help="settings: our cloudsched.toml, or the original's JSON")
    parser.add_argument("--init-config", action="store_true", help="write a settings file into the data directory, and end")
    args = parser.parse_args(argv)
    folder = _folder(args.data_dir)
    if args.init_config:
        return _init(folder)
    config, kept = _settings(args.config or _kept(folder))
    given = {key: value for key, value in (("listen.retire_cluster_bind", args.host), ("listen.retire_cluster_tcp", args.port),
                                           ("listen.retire_cluster", args.api_port)) if value is not None}
    return _run(args, folder, given, config=config, kept=kept)


def retire_api_main(argv: Sequence[str] | None = None) -> int:
    """The `retire-cluster-api` command (contract 13, 5)."""
    env = os.environ.get
    parser = argparse.ArgumentParser(prog="retire-cluster-api", description="The HTTP API of a Retire-Cluster.")
    _common(parser)
    parser.add_argument("--host", default=env(_ENV + "HOST"), help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", "-p", type=_port, default=env(_ENV + "PORT"), help="port (default: 8081)")
    parser.add_argument("--cluster-host", default=env("RETIRE_CLUSTER_CLUSTER_HOST", "localhost"),
                        help="accepted; the state is shared through the data directory or the database, not by this address")
    parser.add_argument("--cluster-port", type=_port, default=env("RETIRE_CLUSTER_CLUSTER_PORT"),
                        help="port of the native protocol (default: 8080)")
    parser.add_argument("--auth", action="store_true", help="ask for keys")
    parser.add_argument("--api-key", action="append", default=[], metavar="KEY[:LEVEL]",
                        help="a key (level: read, write, admin); better in RETIRE_CLUSTER_API_KEY or --api-key-file")
    parser.add_argument("--api-key-file", metavar="FILE", help="file with one key a line")
    parser.add_argument("--no-cors", action="store_true")
    parser.add_argument("--no-rate-limit", action="store_true")
    args = parser.parse_args(argv)
    try:
        keys = _keys(args)
    except OSError as error:
        parser.exit(3, f"retire-cluster-api: --api-key-file {args.api_key_file}: {error.strerror}\n")
    if args.auth and not keys:
        parser.exit(2, "retire-cluster-api: --auth needs at least one key: --api-key-file, RETIRE_CLUSTER_API_KEY or --api-key\n")
    if args.cluster_host not in LOOPBACK:
        print(f"retire-cluster-api: {args.cluster_host} is another machine: to share its state set CLOUDSCHED_DATABASE_URL to "
              "the same PostgreSQL database on both", file=sys.stderr)
    given: dict[str, Any] = {
        key: value for key, value in (("listen.retire_cluster_bind", args.host), ("listen.retire_cluster", args.port),
                                      ("listen.retire_cluster_tcp", args.cluster_port)) if value is not None}
    if args.auth:
        given["retire_cluster.auth"] = "yes"
    if keys:
        given["retire_cluster.api_keys"] = ",".join(keys)
    given |= {key: "no" for key, off in (("retire_cluster.cors", args.no_cors), ("retire_cluster.rate_limit", args.no_rate_limit))
              if off}
    folder = _folder(args.data_dir)
    config, kept = _settings(_kept(folder))
    return _run(args, folder, given, config=config, kept=kept)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", "-d", default="~/.retire-cluster", metavar="DIR", help="default: ~/.retire-cluster")
    parser.add_argument("--debug", action="store_true", help="log more")
    parser.add_argument("--version", "-v", action="version", version=f"%(prog)s {__version__}")


def _run(args: argparse.Namespace, folder: Path, given: dict[str, Any], *, config: str | None, kept: dict[str, Any]) -> int:
    """`given`: options, over variables and files; `kept`: values of the original's file, under variables."""
    running = _running(folder)
    if running is not None:
        return _stay(running, given)
    for key, value in given.items():
        os.environ[_variable(key)] = str(value)
    for key, value in kept.items():
        os.environ.setdefault(_variable(key), str(value))
    if not _names(config, "listen", "retire_cluster_tcp"):
        os.environ.setdefault(_variable("listen.retire_cluster_tcp"), str(NATIVE_PORT))
    for name in _OFF:
        os.environ.setdefault(f"CLOUDSCHED_LISTEN_{name}", "0")
    started = argparse.Namespace(state=str(folder), config=config, port_offset=None, log_level="DEBUG" if args.debug else None,
                                 demo=False)
    return int(importlib.import_module("cloudsched.app").run_up(started) or 0)


def _variable(key: str) -> str:
    return "CLOUDSCHED_" + key.upper().replace(".", "_")


def _names(config: str | None, section: str, name: str) -> bool:
    """Does this settings file say so itself? (Whether it can be read is found out by those who use it.)"""
    try:
        found = tomllib.loads(Path(config).read_text(encoding="utf-8")) if config else {}
    except (OSError, ValueError):
        return False
    return isinstance(found.get(section), dict) and name in found[section]


def _stay(running: dict[str, Any], given: dict[str, Any]) -> int:
    """An instance with this data directory answers already: say so, and end when it does. What it does not do as this
    command was told is an error, not a surprise."""
    listeners = running.get("listeners") or {}
    unlike = _unlike(listeners, given)
    if unlike:
        print(f"this data directory is served already, {unlike}: stop that first, or leave the option out", file=sys.stderr)
        return 1
    print(f"this data directory is served already (process {running.get('pid')}):")
    for name, address in listeners.items():
        print(f"  {name:<24}{address}")
    sys.stdout.flush()
    try:
        while _answers(running):
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        return 0
    print("it has ended", file=sys.stderr)
    return 1


def _unlike(listeners: dict[str, str], given: dict[str, Any]) -> str | None:
    """What the running instance does otherwise."""
    for name in ("retire_cluster", "retire_cluster_tcp"):
        wanted, there = given.get(f"listen.{name}"), listeners.get(name, "")
        if wanted is not None and _address(there).port != int(wanted):
            return f"at {there or 'no port of this kind'}"
    host = given.get("listen.retire_cluster_bind")
    there = listeners.get("retire_cluster", "")
    if host is not None and _address(there).hostname not in ((*LOOPBACK, host) if host in LOOPBACK else (host,)):
        return f"at {there}"
    if given.get("retire_cluster.auth") and _asks(there, None) != 401:
        return "without keys"
    for key in filter(None, given.get("retire_cluster.api_keys", "").split(",")):
        if _asks(there, key.rpartition(":")[0] if key.endswith((":read", ":write", ":admin")) else key) == 401:
            return "and does not know this key"
    left = [key.partition(".")[2] for key in ("retire_cluster.cors", "retire_cluster.rate_limit") if key in given]
    if left:
        print(f"retire-cluster-api: {', '.join(left)}: as the running instance has it", file=sys.stderr)
    return None


def _address(text: str) -> SplitResult:
    return urlsplit(text if "://" in text else f"//{text}")


def _asks(api_url: str, key: str | None) -> int:
    """The status of a question that needs a key; 0: no answer."""
    parts = urlsplit(api_url)
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=5)
        connection.request("GET", "/api/v1/cluster/config", headers={"X-API-Key": key} if key else {})
        return connection.getresponse().status
    return 0


def _running(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / "server.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and _answers(found) else None


def _answers(running: dict[str, Any]) -> bool:
    parts = urlsplit(str(running.get("native_url", "")))
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=5)
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    return False


def _folder(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _kept(folder: Path) -> str | None:
    """The settings file in the data directory, ours before the original's."""
    for name in ("cloudsched.toml", "main_config.json"):
        if (folder / name).is_file():
            return str(folder / name)
    return None


def _settings(path: str | None) -> tuple[str | None, dict[str, Any]]:
    """(our settings file, values of the original's): a file is one of the two."""
    return (None, _original(Path(path))) if path and path.endswith(".json") else (path, {})


def _init(folder: Path) -> int:
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    path = folder / "cloudsched.toml"
    if path.exists():
        print(f"{path} is there already", file=sys.stderr)
        return 1
    path.write_text(INITIAL, encoding="utf-8")
    print(f"{path} written")
    return 0


# Members of the original's settings file -> ours. What has no meaning here is named and left out; nothing is dropped silently.
_MEMBERS = {
    "server.host": "listen.retire_cluster_bind", "server.port": "listen.retire_cluster_tcp",
    "server.max_connections": "retire_cluster.max_connections",
    "heartbeat.interval_seconds": "retire_cluster.heartbeat_interval_s",
    "heartbeat.timeout_threshold": "retire_cluster.offline_threshold_s", "logging.level": "log.level",
}


def _original(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(f"{section}.{name}", value) for section, members in found.items() for name, value in members.items()]
    except (OSError, ValueError, AttributeError) as error:
        print(f"retire-cluster-main: {path} cannot be read: {error}", file=sys.stderr)
        raise SystemExit(3) from None
    left = [name for name, _ in pairs if name not in _MEMBERS]
    if left:
        print(f"retire-cluster-main: {path}: without meaning here: {', '.join(left)}", file=sys.stderr)
    return {_MEMBERS[name]: value for name, value in pairs if name in _MEMBERS}


def _keys(args: argparse.Namespace) -> list[str]:
    found = list(args.api_key)
    if os.environ.get("RETIRE_CLUSTER_API_KEY"):
        found.append(os.environ["RETIRE_CLUSTER_API_KEY"])
    if args.api_key_file:
        lines = Path(args.api_key_file).read_text(encoding="utf-8").splitlines()
        found += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return found


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port (1 to 65535)")
    return int(text)
