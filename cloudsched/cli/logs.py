"""How are log agents looked at and steered? `cloudsched logs ...`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cloudsched.cli.commands import EXIT_FAILED, EXIT_OK, EXIT_USAGE, add_action, add_actions
from cloudsched.cli.problems import fail
from cloudsched.cli.session import Listing, Session, add_watch, confirm, for_each, open_session, show_list
from cloudsched.cli.table import Column
from cloudsched.cli.values import duration_s, positive, show_clock, show_duration, show_time, whole

_COLOURS = {
    "ok": "green",
    "bad": "yellow",
    "lost": "red",
    "pending": "cyan",
    "applied": "green",
    "failed": "red",
    "by_hand": "yellow",
    "running": "blue",
    "done": "green",
    "paused": "yellow",
    "rolling_back": "magenta",
    "rolled_back": "magenta",
}
AGENTS = (
    Column("ID", right=True),
    Column("URL"),
    Column("TAG"),
    Column("STATUS", colours=_COLOURS),
    Column("SEEN"),
    Column("BY HAND"),
)
RUNNERS = (
    Column("ID", right=True),
    Column("NAME"),
    Column("TAG"),
    Column("WANTED"),
    Column("VERSION", right=True),
    Column("APPLIED", right=True),
    Column("PENDING", right=True),
    Column("FAILED", right=True),
    Column("BY HAND", right=True),
    Column("ROLLOUT", right=True),
)
TARGETS = (
    Column("AGENT"),
    Column("RUNNER"),
    Column("WANTED"),
    Column("VERSION", right=True),
    Column("STATE", colours=_COLOURS),
    Column("TRIES", right=True),
    Column("APPLIED"),
    Column("REASON"),
)
ROLLOUTS = (
    Column("ID", right=True),
    Column("RUNNER"),
    Column("TAG"),
    Column("STATE", colours=_COLOURS),
    Column("WAVE"),
    Column("FROM", right=True),
    Column("TO", right=True),
    Column("BY"),
    Column("STARTED"),
    Column("REASON"),
)
_MARKS = {"add": "+", "update": "~", "delete": "-", "none": "=", "unknown": "?"}
_ENDED = frozenset({"done", "rolled_back"})
WAIT_S = 300


def configure(parser: argparse.ArgumentParser, _: str) -> None:
    actions = add_actions(parser)
    agents = add_action(actions, "agents", run_agents, "list log agents, in the order in which they registered")
    agents.add_argument("--tag", metavar="TAG", help="those of this tag")
    agents.add_argument("--status", choices=("ok", "bad", "lost"), help="heard from within 31 s, within 1 minute, later")
    add_watch(agents)
    for name, text in (
        ("by-hand", "leave agents to whoever manages them by hand"),
        ("take", "manage such agents again"),
        ("forget", "drop agents from the list; a heartbeat brings them back"),
    ):
        _ids(add_action(actions, name, run_agent_change, text), "AGENT", "numbers of log agents")

    _show(actions)
    runners = add_action(actions, "runners", run_runners, "list runners: what is wanted where, and how far it has come")
    runners.add_argument("--tag", metavar="TAG", help="those of this tag")
    runners.add_argument("--name", metavar="NAME", help="those of this name")
    add_watch(runners)
    status = add_action(actions, "status", run_status, "how far a runner has come on each agent")
    status.add_argument("id", type=whole, metavar="RUNNER", help="number of a runner")
    status.add_argument(
        "--of-state", choices=("pending", "applied", "failed", "by_hand"), dest="of_state", help="those in this state"
    )
    add_watch(status)

    apply = add_action(actions, "apply", run_apply, "want a configuration on all agents of a tag, at once")
    _config(apply)
    apply.add_argument("--stopped", action="store_true", help="want it stored, not running")
    _wait(apply)
    _config(add_action(actions, "diff", run_diff, "what applying would change on each agent; nothing is changed"))
    _rollout(actions)

    for name, text in (
        ("start", "want runners running"),
        ("stop", "want runners stopped"),
        ("retry", "try again now where it failed"),
        ("remove", "want runners nowhere: the agents delete them"),
    ):
        changed = add_action(actions, name, run_change, text)
        _ids(changed, "RUNNER", "numbers of runners")
        if name == "remove":
            changed.add_argument("--yes", "-y", action="store_true", help="do not ask")
            changed.add_argument("--dry-run", action="store_true", help="show what would change on each agent")
    config = add_action(actions, "config", run_config, "a runner's configuration, with the list of earlier ones")
    config.add_argument("id", type=whole, metavar="RUNNER", help="number of a runner")
    config.add_argument("--version", type=positive, dest="generation", metavar="N", help="an earlier one")
    back = add_action(actions, "back", run_back, "want an earlier configuration of a runner again, at once")
    back.add_argument("id", type=whole, metavar="RUNNER", help="number of a runner")
    back.add_argument("generation", type=positive, metavar="N", help="number of the configuration")


def _show(actions: Any) -> None:
    show = add_action(actions, "show", run_show, "what a node or a job has written, also when the machine is gone")
    show.add_argument("subject", nargs="?", metavar="NODE|JOB", help="name of a node; number or key of a job; node:ID, job:ID")
    show.add_argument("--job", metavar="ID", help="of this job alone")
    show.add_argument("--follow", "-f", action="store_true", help="go on with what comes; of a job until it has ended")
    show.add_argument("--since", metavar="TIME", help="what came since then: 10m, 2h, or 2026-01-31T12:00:00Z")
    show.add_argument("--tail", type=whole, metavar="N", help="the last N (at most 1000)")
    show.add_argument("--stream", choices=("stdout", "stderr", "agent"), help="this one alone")
    show.add_argument("--attempt", type=positive, metavar="N", help="of this attempt alone")


def _rollout(actions: Any) -> None:
    rollout = add_action(actions, "rollout", run_rollout, "want a configuration on a tag, in waves with a health gate")
    _config(rollout)
    rollout.add_argument(
        "--steps",
        default="1,10%,50%,100%",
        metavar="LIST",
        help="how many agents have it after each wave (default 1,10%%,50%%,100%%)",
    )
    rollout.add_argument("--soak", type=duration_s, default=30, metavar="TIME", help="how long a wave must be well (default 30s)")
    rollout.add_argument("--limit", type=duration_s, default=300, metavar="TIME", help="how long a wave may take (default 5m)")
    rollout.add_argument("--max-failures", type=whole, default=0, metavar="N", help="agents that may refuse it (default 0)")
    rollout.add_argument("--max-errors", type=whole, default=0, metavar="N", help="new errors on one agent (default 0)")
    rollout.add_argument(
        "--on-failure", choices=("pause", "roll_back"), default="pause", help="what then happens (default pause)"
    )
    rollout.add_argument("--dry-run", action="store_true", help="show what would change on each agent, change nothing")
    _wait(rollout)
    shown = add_action(actions, "rollouts", run_rollouts, "list roll-outs")
    shown.add_argument("--runner", type=whole, metavar="RUNNER", help="those of this runner")
    add_watch(shown)
    for name, text in (
        ("pause", "begin no further wave"),
        ("resume", "go on with a paused roll-out"),
        ("rollback", "give the agents their previous configuration back"),
    ):
        _ids(add_action(actions, name, run_rollout_change, text), "ROLLOUT", "numbers of roll-outs")


def run_agents(args: argparse.Namespace) -> int:
    session = open_session(args)
    params = {"tag": args.tag, "status": args.status}
    listing = Listing(AGENTS, agent_row, "no log agents (they register on the logkit port)")
    return show_list(args, session, listing, fetch=lambda: session.client.items("/log-agents", **params))


def run_agent_change(args: argparse.Namespace) -> int:
    session = open_session(args)

    def change(number: int) -> int:
        if args.action == "forget":
            session.client.delete(f"/log-agents/{number}")
            return _said(session, {"id": number, "forgotten": True}, f"{number}: off the list")
        found = session.client.patch(f"/log-agents/{number}", {"by_hand": args.action == "by-hand"})
        return _said(session, found, f"{found['url']}: {'managed by hand' if found['by_hand'] else 'managed here'}")

    return for_each(args.ids, change)


def run_show(args: argparse.Namespace) -> int:
    path, job = _subject(args)
    if not path:
        return fail("name a node or a job: cloudsched logs show NODE|JOB", EXIT_USAGE)
    since = _since(args.since)
    if since == "":
        return fail(f"--since {args.since}: allowed are 10m, 2h, or 2026-01-31T12:00:00Z", EXIT_USAGE)
    session = open_session(args)
    params = {"since": since, "tail": args.tail, "stream": args.stream, "attempt": args.attempt, "job": job}
    one_job = path.startswith("/jobs/")
    if args.follow:
        # A node's logs have no end; a server that stops ends its answers, too.
        over = partial(session.client.has_ended, unquote(path.split("/")[2])) if one_job else lambda: False
        records = session.client.records(path, over=over, **params)
    else:
        records = session.client.items(path, **params)
    for record in records:
        if session.screen.as_json:
            session.screen.json_line(record)
        else:
            _print_record(session, record, plain=one_job)
    return EXIT_OK


def run_runners(args: argparse.Namespace) -> int:
    session = open_session(args)
    params = {"tag": args.tag, "name": args.name}
    listing = Listing(RUNNERS, runner_row, "no runners (cloudsched logs apply NAME --tag TAG FILE)")
    return show_list(args, session, listing, fetch=lambda: session.client.items("/runners", **params))


def run_status(args: argparse.Namespace) -> int:
    session = open_session(args)
    listing = Listing(TARGETS, target_row, "no agent has the tag of this runner")
    return show_list(
        args, session, listing, fetch=lambda: session.client.items(f"/runners/{args.id}/targets", state=args.of_state)
    )


def run_apply(args: argparse.Namespace) -> int:
    session = open_session(args)
    body = {"name": args.name, "tag": args.tag, "config": _read(args.file), "run": "stopped" if args.stopped else "running"}
    runner = session.client.create("/runners", body)
    if args.wait:
        return _wait_applied(session, runner, args.wait)
    return _said(session, runner, _told(runner))


def run_diff(args: argparse.Namespace) -> int:
    session = open_session(args)
    config = _read(args.file)
    return _show_differences(
        session, session.client.post("/runners/diff", {"name": args.name, "tag": args.tag, "config": config})
    )


def run_rollout(args: argparse.Namespace) -> int:
    session = open_session(args)
    config = _read(args.file)
    if args.dry_run:
        return _show_differences(
            session, session.client.post("/runners/diff", {"name": args.name, "tag": args.tag, "config": config})
        )
    plan = {
        "steps": [step.strip() for step in args.steps.split(",")],
        "soak_s": args.soak,
        "wave_limit_s": args.limit,
        "max_failures": args.max_failures,
        "max_errors": args.max_errors,
        "on_failure": args.on_failure,
    }
    runner = session.client.create("/runners", {"name": args.name, "tag": args.tag, "config": config, "waves": plan})
    if runner["rollout"] is None:
        return _said(session, runner, f"{args.name}: nothing to roll out, it is wanted like this already")
    found = session.client.get(f"/rollouts/{runner['rollout']}")
    if args.wait:
        return _wait_rolled(session, found, args.wait)
    return _said(
        session, found, f"roll-out {found['id']}: {len(found['waves'])} waves of {', '.join(map(str, found['waves']))} agents"
    )


def run_rollouts(args: argparse.Namespace) -> int:
    session = open_session(args)
    listing = Listing(ROLLOUTS, rollout_row, "no roll-outs")
    return show_list(args, session, listing, fetch=lambda: session.client.items("/rollouts", runner=args.runner))


def run_rollout_change(args: argparse.Namespace) -> int:
    session = open_session(args)

    def change(number: int) -> int:
        found = session.client.post(f"/rollouts/{number}/{args.action}")
        return _said(session, found, f"roll-out {number}: {found['state']}")

    return for_each(args.ids, change)


def run_change(args: argparse.Namespace) -> int:
    session = open_session(args)
    if args.action == "remove" and args.dry_run:
        return for_each(args.ids, lambda number: _show_removal(session, number))
    if args.action == "remove" and not confirm(f"Remove {', '.join(map(str, args.ids))} from all agents?", assume_yes=args.yes):
        return fail("nothing was removed")

    def change(number: int) -> int:
        path = f"/runners/{number}"
        found = session.client.delete(path) if args.action == "remove" else session.client.post(f"{path}/{args.action}")
        return _said(session, found, _told(found))

    return for_each(args.ids, change)


def run_config(args: argparse.Namespace) -> int:
    session = open_session(args)
    found = session.client.get(f"/runners/{args.id}/config", generation=args.generation)
    if session.screen.as_json:
        session.screen.json(found)
        return EXIT_OK
    for row in found["versions"]:
        session.screen.line(f"# {row['generation']}  {show_time(row['at'])}  {row['actor']}")
    session.screen.line(json.dumps(found["config"], indent=2, ensure_ascii=False))
    return EXIT_OK


def run_back(args: argparse.Namespace) -> int:
    session = open_session(args)
    found = session.client.post(f"/runners/{args.id}/rollback", {"generation": args.generation})
    return _said(session, found, _told(found))


# rows


def agent_row(one: dict[str, Any]) -> list[str]:
    """A log agent as the cells of AGENTS."""
    return [
        str(one["id"]),
        one["url"],
        one["tag"],
        one["status"],
        show_time(one["last_seen_at"]),
        "yes" if one["by_hand"] else "",
    ]


def runner_row(one: dict[str, Any]) -> list[str]:
    """A runner as the cells of RUNNERS."""
    counts = one["targets"]
    wanted = one["run"] if one["want"] == "present" else "nowhere"
    return [
        str(one["id"]),
        one["name"],
        one["tag"],
        wanted,
        str(one["generation"]),
        *(str(counts[state]) for state in ("applied", "pending", "failed", "by_hand")),
        str(one["rollout"] or ""),
    ]


def target_row(one: dict[str, Any]) -> list[str]:
    """A target as the cells of TARGETS."""
    wanted = one["run"] or "" if one["want"] == "present" else "nowhere"
    reason = (one["reason"] or "") + (" (given up)" if one["gives_up"] else "")
    return [
        one["url"],
        one["runner"],
        wanted,
        str(one["generation"]),
        one["state"],
        str(one["attempts"]),
        show_time(one["applied_at"]),
        reason,
    ]


def rollout_row(one: dict[str, Any]) -> list[str]:
    """A roll-out as the cells of ROLLOUTS."""
    return [
        str(one["id"]),
        one["runner"] or "",
        one["tag"] or "",
        one["state"],
        f"{one['wave']}/{len(one['waves'])}",
        str(one["from_generation"]),
        str(one["to_generation"]),
        one["actor"],
        show_time(one["created_at"]),
        one["reason"] or "",
    ]


# parts


def _subject(args: argparse.Namespace) -> tuple[str, str | None]:
    """(path of the collected logs, job filter). Digits, or a key with its `#`, are a job; everything else is a node."""
    from cloudsched.client.http import segment

    given, job = args.subject, args.job
    if given is None:
        return (f"/jobs/{segment(job)}/logs", None) if job else ("", None)
    kind, sign, rest = given.partition(":")
    if sign and kind in ("node", "job"):
        given = rest
    else:
        kind = "job" if not job and (given.isdigit() or "#" in given) else "node"
    return (f"/jobs/{segment(given)}/logs", None) if kind == "job" else (f"/nodes/{segment(given)}/logs", job)


def _since(text: str | None) -> str | None:
    """As the API takes it; None when nothing was given, empty when it is no time."""
    if text is None:
        return None
    try:
        moment = datetime.now(UTC) - timedelta(seconds=duration_s(text))
    except (argparse.ArgumentTypeError, ValueError):
        try:
            moment = datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            return ""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _print_record(session: Session, record: dict[str, Any], *, plain: bool) -> None:
    """Of one job as it was written; of a node with time and origin."""
    line = record["line"] if isinstance(record.get("line"), str) else json.dumps(record, ensure_ascii=False)
    if plain:
        out = sys.stderr if record.get("stream") == "stderr" else sys.stdout
        print(line, file=out, flush=out is sys.stderr)
        return
    origin = record.get("stream") or "-"
    if record.get("job") is not None:
        origin = f"{record['job']}/{record.get('attempt', 1)} {origin}"
    session.screen.line(f"{show_clock(record.get('time') or record.get('received_at'))}  {origin:<12}  {line}")


def _ids(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    parser.add_argument("ids", nargs="+", type=whole, metavar=name, help=text)


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the runner")
    parser.add_argument("file", metavar="FILE", help="its configuration as JSON; - reads standard input")
    parser.add_argument("--tag", required=True, metavar="TAG", help="the agents that are to have it")


def _wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", nargs="?", const=WAIT_S, type=duration_s, metavar="TIME", help="until it is so (at most 5m)")


def _read(file: str) -> Any:
    from cloudsched.client import ClientError

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"{file} cannot be read: {error}") from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ClientError(f"{file} is not JSON: {error}") from None


def _said(session: Session, found: dict[str, Any], text: str) -> int:
    if session.screen.as_json:
        session.screen.json_line(found)
    else:
        session.screen.line(text)
    return EXIT_OK


def _told(runner: dict[str, Any]) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in runner["targets"].items() if count) or "no agents"
    wanted = runner["run"] if runner["want"] == "present" else "nowhere"
    return (
        f"runner {runner['id']} ({runner['name']} on {runner['tag']}, version {runner['generation']}, wanted {wanted}): {counts}"
    )


def _show_removal(session: Session, number: int) -> int:
    runner = session.client.get(f"/runners/{number}")
    body = {"name": runner["name"], "tag": runner["tag"], "config": None}
    return _show_differences(session, session.client.post("/runners/diff", body))


def _show_differences(session: Session, found: dict[str, Any]) -> int:
    if session.screen.as_json:
        session.screen.json(found)
        return EXIT_OK
    if not found["changes"]:
        session.screen.line(f"no agent has the tag {found['tag']}")
    for one in found["changes"]:
        session.screen.line(f"{_MARKS[one['action']]} {one['url']}: {one['action']}{': ' + one['error'] if one['error'] else ''}")
        for line in one["diff"].splitlines():
            colour = {"+": "green", "-": "red"}.get(line[:1])
            session.screen.line(session.screen.paint(f"    {line}", colour) if colour else f"    {line}")
    return EXIT_OK


def _wait_applied(session: Session, runner: dict[str, Any], wait_s: int) -> int:
    until = time.monotonic() + wait_s
    while runner["targets"]["pending"] and time.monotonic() < until:
        time.sleep(0.5)
        runner = session.client.get(f"/runners/{runner['id']}")
    _said(session, runner, _told(runner))
    counts = runner["targets"]
    if counts["pending"] or counts["failed"]:
        return fail(f"not everywhere: cloudsched logs status {runner['id']}", EXIT_FAILED)
    return EXIT_OK


def _wait_rolled(session: Session, found: dict[str, Any], wait_s: int) -> int:
    until, wave = time.monotonic() + wait_s, 0
    while found["state"] not in _ENDED and found["state"] != "paused" and time.monotonic() < until:
        if found["wave"] != wave and not session.screen.as_json:
            wave = found["wave"]
            session.screen.line(
                f"wave {wave} of {len(found['waves'])}: {found['waves'][wave - 1] if found['waves'] else 0} agents"
            )
        time.sleep(0.5)
        found = session.client.get(f"/rollouts/{found['id']}")
    _said(session, found, f"roll-out {found['id']}: {found['state']}")
    if found["state"] == "done":
        return EXIT_OK
    return fail(found["reason"] or f"not done within {show_duration(wait_s)}; it goes on", EXIT_FAILED)
