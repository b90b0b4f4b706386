"""How are the processes of an instance started? `cloudsched up`, `serve`, `engine`, and the agents.

The programs themselves are imported when they are started; this module knows their options alone.
"""

from __future__ import annotations

import argparse
import importlib

from cloudsched.cli.values import whole

LEVELS = ("VERBOSE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_EPILOGS = {
    "up": "examples:\n  cloudsched up --demo\n  cloudsched up --state /srv/second --port-offset 100\n\n"
    "Ctrl-C stops everything that it started.",
}


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    if name in ("agent", "logagent", "simulate"):
        parser.add_help = False
        parser.epilog = f"cloudsched {name} --help tells its own options."
        return
    parser.set_defaults(run=run_server)
    parser.epilog = _EPILOGS.get(name)
    add_instance(parser)
    parser.add_argument(
        "--log-level", metavar="LEVEL", type=str.upper, choices=LEVELS, help=", ".join(LEVELS)
    )
    if name == "up":
        parser.add_argument("--demo", action="store_true", help="then run `cloudsched demo`, and stay up")


def add_instance(parser: argparse.ArgumentParser) -> None:
    """The options that say which instance is meant, for commands that run on its machine."""
    parser.add_argument(
        "--state",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="directory that holds everything of this instance",
    )
    parser.add_argument(
        "--port-offset", type=whole, metavar="N", help="shift every port by N (several instances)"
    )
    parser.add_argument("--config", metavar="FILE", help="the cloudsched.toml to read")


def run_server(args: argparse.Namespace) -> int:
    """`cloudsched.app` starts it; its exit status is the command's."""
    start = getattr(importlib.import_module("cloudsched.app"), f"run_{args.command}")
    return int(start(args) or 0)


def run_agent(name: str, words: list[str]) -> int:
    """An agent reads its own arguments: on a node it is a program of its own; so is a simulated fleet of them."""
    if name == "simulate":
        if words[:1] == ["devices"]:
            words = words[1:]
        return int(importlib.import_module("cloudsched.testing.devicefleet").main(words) or 0)
    start = getattr(importlib.import_module(f"cloudsched.{name}"), f"{name}_main")
    return int(start(words) or 0)


def flags(args: argparse.Namespace) -> dict[str, object]:
    """The options of `add_instance` as `settings.load` takes them."""
    found = {"state": args.state, "port_offset": args.port_offset, "config": args.config}
    return {name: value for name, value in found.items() if value is not None}
