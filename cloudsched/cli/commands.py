"""Which commands are there, and how is a command line read? Only the typed command's module is imported."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

Action = Callable[[argparse.Namespace], int]
Subparsers = Any  # argparse keeps the type of add_subparsers() to itself

# name -> (module below cloudsched.cli, one line of help); the module's `configure(parser)` adds the options.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("servers", "start everything on this machine: server, engine, local cloud"),
    "demo": ("demo", "count the words of real texts with 100 jobs and more, and watch"),
    "submit": ("submit", "submit a command, an HTCondor submit file, or JSON"),
    "jobs": ("jobs", "list, show, logs, wait, cancel, retry, hold, release, count, files, fetch"),
    "nodes": ("nodes", "list, show, drain, resume, destroy, upgrade, token"),
    "clouds": ("clouds", "list, show, add, set, remove, enable, disable, verify, capabilities, run, hosts, ping, nodes, cordon, "
               "uncordon, drain, resume, types, prices, apply, delete, pod-log, batch"),
    "clusters": ("clusters", "clusters of every kind: list, show, terminate"),
    "centre": ("centre", "compute centres: hosts, clusters, instances, parts, prices"),
    "spark": ("dcluster", "Spark clusters and jobs: launch, status, submit, terminate, logs"),
    "flink": ("dcluster", "Flink clusters and jobs: launch, status, submit, terminate, logs"),
    "logs": ("logs", "log agents and their runners: agents, runners, apply, diff, rollout, status"),
    "hooks": ("hooks", "webhooks: add, list, remove, deliveries, test"),
    "events": ("events", "what happened, and what happens now"),
    "why": ("explain", "why a job waits or a node is what it is"),
    "trace": ("explain", "everything that happened to a job or node, in order"),
    "operations": ("inside", "long pieces of work and their steps"),
    "loops": ("inside", "the engine's loops: who leads, when they last ran, errors"),
    "keys": ("keys", "create, list, revoke"),
    "serve": ("servers", "the server alone"),
    "engine": ("servers", "the engine alone"),
    "agent": ("servers", "the agent that runs jobs on a node"),
    "logagent": ("servers", "the agent that collects logs on a node"),
    "simulate": ("servers", "devices that join, report and run tasks, in one process, to try a server's size"),
    "db": ("db", "migrate, backup, restore, check, rebuild, rekey (on the server's machine)"),
    "config": ("config", "show the settings with their origin; check them"),
    "check": ("config", "check settings and database of this machine's instance"),
    "completion": ("completion", "completion script for bash, zsh or fish"),
    "version": ("inside", "versions of this command and of the server"),
}

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_AWAY, EXIT_NOT_FOUND, EXIT_NOT_ALLOWED = 0, 1, 2, 3, 4, 5

EPILOG = """\
server address:  --server, CLOUDSCHED_SERVER_URL, STATE/server.json, http://127.0.0.1:8100
                 (the last shifted by CLOUDSCHED_PORT_OFFSET)
state directory: --state, CLOUDSCHED_STATE, /var/lib/cloudsched (root) or ~/.local/state/cloudsched
key:             --key-file, CLOUDSCHED_KEY, STATE/admin.key; never on the command line
output:          tables in a terminal, tab-separated text in a pipe, --json everywhere; NO_COLOR is honoured

exit codes:      0 done            1 refused or failed   2 wrong usage
                 3 server away     4 not found           5 not allowed
                 130 stopped by Ctrl-C; `submit --wait` of one job ends with the job's own exit status

try:             cloudsched up --demo
"""

_WITH_VALUE = frozenset({"--server", "--state", "--key-file"})


class Parser(argparse.ArgumentParser):
    """argparse with the exit code of this program for wrong usage, and a pointer to the help."""

    def __init__(self, *args: Any, **kw: Any) -> None:
        kw = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **kw}
        super().__init__(*args, **kw)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n(see {self.prog} --help)\n")


def build_parser(only: str | None = None) -> Parser:
    """The parser; with `only` just that command has its options (the others would have to be imported)."""
    parser = Parser(prog="cloudsched", description="One control plane for mixed fleets.", epilog=EPILOG)
    add_common(parser, top=True)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if only is None or only == name:
            configure = importlib.import_module(f"cloudsched.cli.{module}").configure
            configure(command, name)
    return parser


def command_in(argv: Sequence[str]) -> str | None:
    """The command's name among the arguments, without reading the rest."""
    skip = False
    for word in argv:
        if skip:
            skip = False
        elif word in _WITH_VALUE:
            skip = True
        elif not word.startswith("-"):
            return word
    return None


def add_common(parser: argparse.ArgumentParser, *, top: bool = False, json: bool = True) -> None:
    """The options that every client command has, before and after the command's name."""
    group = parser.add_argument_group("server and output")
    default = None if top else argparse.SUPPRESS
    group.add_argument("--server", metavar="URL", default=default, help="address of the server")
    group.add_argument("--state", metavar="DIR", default=default, help="state directory of the instance")
    group.add_argument("--key-file", metavar="FILE", default=default, help="file that holds the API key")
    if json:
        group.add_argument(
            "--json", action="store_true", dest="as_json", default=False if top else argparse.SUPPRESS,
            help="print the API's own objects",
        )  # fmt: skip
    group.add_argument(
        "--no-color", action="store_true", default=False if top else argparse.SUPPRESS, help="no colours"
    )


def add_action(
    actions: Subparsers, name: str, run: Action, text: str, *, client: bool = True
) -> argparse.ArgumentParser:
    """A command below a command (`jobs list`): its parser, with the common options and the function that runs
    it."""
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + "."
    )
    parser.set_defaults(run=run)
    if client:
        add_common(parser)
    return parser


def add_actions(parser: argparse.ArgumentParser) -> Subparsers:
    """The place for the commands below a command; one of them must be given."""
    return parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
