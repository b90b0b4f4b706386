"""The `retire-cluster-status` command: what does the native port of a main node say? (contract 13, 12.3)"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from cloudsched import __version__
from cloudsched.cli.cloud_scheduler_client import run_client
from cloudsched.cli.screen import Screen
from cloudsched.cli.table import Column

DEFAULT_PORT = 8080
MAX_BYTES = 1 << 20
_SHOWN = ("device_id", "role", "status", "platform", "ip_address", "last_heartbeat", "registration_time")


class StatusError(Exception):
    """No connection, no answer, or an error reply; the text is for the user."""


def retire_status_main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1: connection, error reply or unknown device; 2: usage."""
    return run_client(lambda: _main(list(sys.argv[1:] if argv is None else argv)))


def _main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="retire-cluster-status", description="The state of a main node.")
    parser.add_argument("address", metavar="HOST[:PORT]", help="the main node (default port: 8080)")
    parser.add_argument("--devices", action="store_true", help="list the devices")
    parser.add_argument("--role", help="with --devices: of this role alone")
    parser.add_argument("--device", metavar="ID", help="one device")
    parser.add_argument("--json", action="store_true", help="the answer as it came")
    parser.add_argument("--timeout", type=_seconds, default=10.0, metavar="S")
    parser.add_argument("--version", action="version", version=f"retire-cluster-status {__version__}")
    args = parser.parse_args(argv)
    try:
        host, port = _address(args.address)
    except ValueError as error:
        parser.error(str(error))
    kind, data, show = _question(args)
    try:
        result = ask(host, port, kind, data, timeout_s=args.timeout)
    except StatusError as error:
        print(f"retire-cluster-status: {error}", file=sys.stderr)
        return 1
    screen = Screen(as_json=args.json)
    if args.json:
        screen.json(result)
    elif kind == "device_info" and result.get("device") is None:
        print(result.get("error") or f"Device {args.device} not found")
    else:
        show(screen, result)
    return 1 if kind == "device_info" and result.get("device") is None else 0


def ask(host: str, port: int, kind: str, data: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
    """One exchange; the `result` of the reply. Raises StatusError."""
    message = {"message_type": kind, "sender_id": "status-client", "message_id": str(uuid.uuid4()), "data": data}
    try:
        reply = json.loads(_exchange(host, port, json.dumps(message).encode(), time.monotonic() + timeout_s))
    except TimeoutError:
        raise StatusError(f"{host}:{port} does not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise StatusError(f"{host}:{port} cannot be reached: {error.strerror or error}") from None
    except ValueError:
        raise StatusError(f"{host}:{port} does not speak the native protocol") from None
    body = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(body, dict) or reply.get("message_type") not in ("ack", "error"):
        raise StatusError(f"{host}:{port} does not speak the native protocol")
    if reply["message_type"] == "error":
        raise StatusError(str(body.get("error")))
    return dict(body.get("result") or {})


def _exchange(host: str, port: int, request: bytes, until: float) -> bytes:
    with socket.create_connection((host, port), timeout=max(0.01, until - time.monotonic())) as sock:
        sock.sendall(request)
        answer = b""
        while len(answer) <= MAX_BYTES:
            sock.settimeout(max(0.01, until - time.monotonic()))
            piece = sock.recv(65_536)
            if not piece:
                break
            answer += piece
    return answer


def _question(args: argparse.Namespace) -> tuple[str, dict[str, Any], Callable[[Screen, dict[str, Any]], None]]:
    if args.device is not None:
        return "device_info", {"device_id": args.device}, _show_device
    if args.devices:
        return "list_devices", {"status": "all", **({"role": args.role} if args.role else {})}, _show_list
    return "status", {}, _show_overview


def _show_overview(screen: Screen, result: dict[str, Any]) -> None:
    stats = result["cluster_stats"]
    resources = stats["total_resources"]
    screen.fields([
        ("health", f"{stats['health_percentage']}%"),
        ("devices", f"{stats['online_devices']} online, {stats['offline_devices']} offline, {stats['total_devices']} in all"),
        ("cores", resources["cpu_cores"]), ("memory", f"{resources['memory_gb']} GB"),
        ("storage", f"{resources['storage_gb']} GB"), ("by role", _counts(stats["by_role"])),
        ("by platform", _counts(stats["by_platform"]))])


def _show_list(screen: Screen, result: dict[str, Any]) -> None:
    columns = (Column("ID"), Column("ROLE"), Column("STATUS", colours={"online": "green", "offline": "red"}), Column("PLATFORM"),
               Column("ADDRESS"), Column("LAST HEARTBEAT"))
    screen.table(columns, [[str(device.get(name) or "") for name in ("device_id", "role", "status", "platform", "ip_address",
                                                                    "last_heartbeat")] for device in result["devices"]],
                 none="no devices")
    if result.get("truncated"):
        print(f"{len(result['devices'])} of {result['count']} devices: the protocol's answer holds no more", file=sys.stderr)


def _show_device(screen: Screen, result: dict[str, Any]) -> None:
    device = result["device"]
    hardware = device.get("hardware") or {}
    screen.fields([*((name.replace("_", " "), device.get(name)) for name in _SHOWN),
                   ("hostname", hardware.get("hostname")), ("cores", hardware.get("cpu_count")),
                   ("memory gb", hardware.get("memory_total_gb")), ("storage gb", hardware.get("storage_total_gb")),
                   ("tags", ", ".join(device.get("tags") or []))])


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in found.items())


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (text.count(":") > 1 and not text.startswith("[")):
        return text.strip("[]"), DEFAULT_PORT
    if not port.isdigit() or not 0 < int(port) < 65_536 or not host:
        raise ValueError(f"{text!r} is not HOST[:PORT]")
    return host.strip("[]"), int(port)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value
