"""How are clusters looked at and taken away? `cloudsched clusters ...`."""

from __future__ import annotations

import argparse
from typing import Any

from cloudsched.cli.commands import EXIT_OK, add_action, add_actions
from cloudsched.cli.problems import fail
from cloudsched.cli.session import Listing, Session, add_watch, confirm, for_each, open_session, show_each, show_list
from cloudsched.cli.table import STATE_COLOURS, Column
from cloudsched.cli.values import show_duration, show_time

STATES = ("pending", "launching", "running", "degraded", "failed", "terminating", "terminated")
KINDS = ("flink", "kubernetes", "slurm", "spark")
_GONE = frozenset({"failed", "terminated"})

COLUMNS = (
    Column("ID", right=True),
    Column("NAME"),
    Column("KIND"),
    Column("STATE", colours=STATE_COLOURS),
    Column("WORKERS", right=True),
    Column("ORG"),
    Column("PLACE"),
    Column("CLOUD"),
    Column("ADDRESS"),
    Column("SINCE"),
)


def configure(parser: argparse.ArgumentParser, _: str) -> None:
    actions = add_actions(parser)
    shown = add_action(actions, "list", run_list, "list clusters, without those that are gone")
    shown.add_argument("--of-state", action="append", choices=STATES, metavar="STATE", help=f"one of {', '.join(STATES)}")
    shown.add_argument("--all", action="store_true", help="also those that are gone")
    shown.add_argument("--kind", choices=KINDS, metavar="KIND", help=f"one of {', '.join(KINDS)}")
    shown.add_argument("--cloud", metavar="CLOUD", help="clusters in this cloud or compute centre")
    shown.add_argument("--org", metavar="ORG", help="clusters of this organisation or tenant")
    add_watch(shown)
    _add_ids(add_action(actions, "show", run_show, "everything about clusters"))
    ended = add_action(actions, "terminate", run_terminate, "take clusters away; their jobs are ended, their nodes are free")
    _add_ids(ended)
    ended.add_argument("--yes", "-y", action="store_true", help="do not ask")


def run_list(args: argparse.Namespace) -> int:
    session = open_session(args)
    states = args.of_state or (None if args.all else [state for state in STATES if state not in _GONE])
    params = {"state": states, "kind": args.kind, "cloud": args.cloud, "org": args.org}
    listing = Listing(COLUMNS, _row, "no clusters (cloudsched spark|flink launch, or cloudsched centre, make one)")
    return show_list(args, session, listing, fetch=lambda: session.client.items("/clusters", **params))


def run_show(args: argparse.Namespace) -> int:
    return show_each(args, open_session(args), _path, _show)


def run_terminate(args: argparse.Namespace) -> int:
    if not confirm(f"Take {', '.join(args.ids)} away?", assume_yes=args.yes):
        return fail("nothing was taken away")
    session = open_session(args)

    def end(one: str) -> int:
        answer = session.client.call("DELETE", _path(one), repeatable=True)
        found = answer.data if isinstance(answer.data, dict) else {"name": one, "state": "terminating"}
        if session.screen.as_json:
            session.screen.json_line(found)
        else:
            session.screen.line(f"{found['name'] or one}{'  ' if session.screen.terminal else chr(9)}{_state(found)}")
        return EXIT_OK

    return for_each(args.ids, end)


def _path(cluster: int | str) -> str:
    from cloudsched.client.http import segment

    return f"/clusters/{segment(cluster)}"


def _row(cluster: dict[str, Any]) -> list[str]:
    return [
        str(cluster["id"]), str(cluster["name"] or cluster["key"]), str(cluster["kind"]), _state(cluster),
        f"{cluster['workers_ready']}/{cluster['workers_wanted']}", str(cluster["org"]), str(cluster["place"]),
        str(cluster["cloud"] or ""), str(cluster["address"]), show_time(cluster["running_at"] or cluster["created_at"]),
    ]  # fmt: skip


def _state(cluster: dict[str, Any]) -> str:
    ending = cluster.get("goal") == "end" and cluster["state"] not in (*_GONE, "terminating")
    return str(cluster["state"]) + (", terminating" if ending else "")


def _add_ids(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="CLUSTER", help="numbers, keys or names of clusters")


def _show(session: Session, cluster: dict[str, Any]) -> int:
    members = cluster.pop("nodes", [])
    pairs: list[tuple[str, Any]] = []
    for name, value in cluster.items():
        if name.endswith("_at") or name == "idle_since":
            pairs.append((name, show_time(value)))
        else:
            pairs.append((name, show_duration(value) if name.endswith("_s") and value is not None else value))
    session.screen.fields(pairs)
    for one in members:
        session.screen.line(f"  {one['role']}  {one['node'] or one['id']}  {one['name']}")
    session.screen.line()
    return EXIT_OK
