"""How are machines looked at and steered? `cloudsched nodes ...`."""

from __future__ import annotations

import argparse
from typing import Any

from cloudsched.cli.commands import EXIT_FAILED, EXIT_OK, add_action, add_actions
from cloudsched.cli.problems import fail
from cloudsched.cli.session import Listing, Session, add_watch, confirm, for_each, open_session, show_each, show_list
from cloudsched.cli.table import STATE_COLOURS, Column
from cloudsched.cli.values import duration_s, positive, show_duration, show_mb, show_time

STATES = ("requested", "starting", "running", "stopping", "gone", "failed", "released")
_GONE = frozenset({"gone", "failed", "released"})
ALIVE = [state for state in STATES if state not in _GONE]

COLUMNS = (
    Column("ID", right=True),
    Column("NAME"),
    Column("CLOUD"),
    Column("STATE", colours=STATE_COLOURS),
    Column("USER"),
    Column("TYPE"),
    Column("JOBS", right=True),
    Column("CORES", right=True),
    Column("MEMORY", right=True),
    Column("STORAGE", right=True),
    Column("ADDRESS"),
    Column("SEEN"),
)


def configure(parser: argparse.ArgumentParser, _: str) -> None:
    actions = add_actions(parser)
    shown = add_action(actions, "list", run_list, "list nodes, without those that are gone")
    shown.add_argument(
        "--of-state", action="append", choices=STATES, metavar="STATE", help=f"one of {', '.join(STATES)}"
    )
    shown.add_argument("--all", action="store_true", help="also those that are gone")
    for name, text in (
        ("cloud", "nodes of this cloud"),
        ("user", "nodes for this user"),
        ("vm-type", "of this type"),
    ):
        shown.add_argument(f"--{name}", metavar=name.upper().replace("-", "_"), help=text)
    add_watch(shown)

    _add_ids(add_action(actions, "show", run_show, "everything about nodes"))
    _add_ids(add_action(actions, "upgrade", run_upgrade, "have agents replace themselves by the one the server has"))
    for name, run, text in (
        ("drain", run_drain, "let nodes finish what runs and take no more"),
        ("resume", run_resume, "let drained nodes take jobs again"),
        ("destroy", run_destroy, "take nodes away; their jobs go back to the queue"),
    ):
        parser_of = add_action(actions, name, run, text)
        _add_ids(parser_of)
        parser_of.add_argument(
            "--wait",
            nargs="?",
            const=60,
            type=duration_s,
            metavar="S",
            help="until it is so, at most S (default 60)",
        )
        if name == "destroy":
            parser_of.add_argument("--yes", "-y", action="store_true", help="do not ask")

    token = add_action(actions, "token", run_token, "a token with which machines of yours can join")
    token.add_argument("--cloud", metavar="CLOUD", help="the cloud they belong to")
    token.add_argument("--user", metavar="USER", help="for jobs of this user alone")
    token.add_argument("--vm-type", metavar="TYPE", help="for jobs of this type alone")
    token.add_argument("--ttl", type=duration_s, metavar="TIME", help="how long it can be used")
    token.add_argument("--uses", type=positive, metavar="N", help="how many machines may join with it")


def run_list(args: argparse.Namespace) -> int:
    session = open_session(args)
    states = args.of_state or (None if args.all else ALIVE)
    params = {"state": states, "cloud": args.cloud, "user": args.user, "vm_type": args.vm_type}
    listing = Listing(COLUMNS, node_row, "no nodes (machines are booted when jobs need them)")
    return show_list(args, session, listing, fetch=lambda: session.client.items("/nodes", **params))


def run_show(args: argparse.Namespace) -> int:
    return show_each(args, open_session(args), node_path, _show)


def run_drain(args: argparse.Namespace) -> int:
    return _wish(args, "drain")


def run_upgrade(args: argparse.Namespace) -> int:
    session = open_session(args)

    def ask(node: str) -> int:
        answer = session.client.create(f"{node_path(node)}/upgrade", {})
        if args.as_json:
            session.screen.json_line({"node": node, **answer})
        else:
            session.screen.line(f"{node}: goes to version {answer['version']} when its jobs are done")
        return EXIT_OK

    return for_each(args.ids, ask)


def run_resume(args: argparse.Namespace) -> int:
    return _wish(args, "resume")


def run_destroy(args: argparse.Namespace) -> int:
    if not confirm(f"Destroy {', '.join(args.ids)}?", assume_yes=args.yes):
        return fail("nothing was destroyed")
    return _wish(args, "destroy")


def run_token(args: argparse.Namespace) -> int:
    session = open_session(args)
    wanted = {
        "cloud": args.cloud,
        "user": args.user,
        "vm_type": args.vm_type,
        "ttl_s": args.ttl,
        "uses": args.uses,
    }
    answer = session.client.create(
        "/nodes/tokens", {name: value for name, value in wanted.items() if value is not None}
    )
    if args.as_json:
        session.screen.json(answer)
        return EXIT_OK
    session.screen.line(answer["token"])
    if session.screen.terminal:
        until = show_time(answer.get("expires_at")) or "revoked"
        session.screen.line(
            session.screen.paint(f"shown once; good until {until}; on the machine, put it in a file:", "dim")
        )
        session.screen.line(session.screen.paint(
            f"  cloudsched agent --server {session.client.base_url} --token-file FILE", "dim"
        ))  # fmt: skip
    return EXIT_OK


def node_path(node: int | str) -> str:
    """The path of a node by number or name."""
    from cloudsched.client.http import segment

    return f"/nodes/{segment(node)}"


def node_row(node: dict[str, Any]) -> list[str]:
    """A node as the cells of COLUMNS."""
    storage = node.get("storage_gb")
    return [
        str(node["id"]), str(node["name"]), str(node.get("cloud") or ""), node_state(node), str(node.get("user") or ""),
        str(node.get("vm_type") or ""), str(node.get("jobs", "")), str(node.get("cores", "")), show_mb(node.get("memory_mb")),
        "" if storage is None else f"{storage}G", str(node.get("address") or node.get("hostname") or ""),
        show_time(node.get("last_seen_at") or node.get("last_seen")),
    ]  # fmt: skip


def node_state(node: dict[str, Any]) -> str:
    """The state, and the goal where it differs from running on: `running, drain`."""
    goal = node.get("goal")
    return str(node["state"]) + (
        f", {goal}" if goal not in (None, "run") and node["state"] not in _GONE else ""
    )


def _add_ids(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="NODE", help="numbers or names of nodes")


def _show(session: Session, node: dict[str, Any]) -> int:
    pairs: list[tuple[str, Any]] = []
    for name, value in node.items():
        if name.endswith("_at") or name == "last_seen":
            pairs.append((name, show_time(value)))
        elif name.endswith("_s") and isinstance(value, (int, float)):
            pairs.append((name, show_duration(value)))
        elif name.endswith("_mb") and isinstance(value, (int, float)):
            pairs.append((name, show_mb(value)))
        else:
            pairs.append((name, value))
    session.screen.fields(pairs)
    session.screen.line()
    return EXIT_OK


def _wish(args: argparse.Namespace, verb: str) -> int:
    session = open_session(args)
    return for_each(args.ids, lambda one: _wish_one(session, one, verb, args.wait))


def _wish_one(session: Session, one: str, verb: str, wait_s: int | None) -> int:
    answer = session.client.call(
        "POST", f"{node_path(one)}/{verb}", params={"wait_s": wait_s}, repeatable=True,
        timeout_s=session.client.timeout_s + (wait_s or 0),
    )  # fmt: skip
    node = answer.data if isinstance(answer.data, dict) else {"name": one, "state": "done"}
    if session.screen.as_json:
        session.screen.json_line(node)
    else:
        gap = "  " if session.screen.terminal else "\t"
        session.screen.line(f"{node.get('name', one)}{gap}{node_state({'state': 'done', **node})}")
    if wait_s and answer.status == 202:
        return fail(f"{one}: not done after {show_duration(wait_s)}; it goes on", EXIT_FAILED)
    return EXIT_OK
