"""How are jobs looked at and steered? `cloudsched jobs ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from cloudsched.cli.commands import EXIT_FAILED, EXIT_OK, EXIT_USAGE, add_action, add_actions
from cloudsched.cli.job_words import ENDED, STATES, cut_text, job_path
from cloudsched.cli.problems import fail
from cloudsched.cli.session import Listing, Session, add_watch, for_each, open_session, show_each, show_list
from cloudsched.cli.table import STATE_COLOURS, Column
from cloudsched.cli.values import duration_s, positive, show_duration, show_mb, show_time, signed, whole

COLUMNS = (
    Column("ID", right=True),
    Column("STATE", colours=STATE_COLOURS),
    Column("USER"),
    Column("TYPE"),
    Column("NAME"),
    Column("NODE"),
    Column("EXIT", right=True),
    Column("RAN", right=True),
    Column("SUBMITTED"),
    Column("COMMAND"),
)


def configure(parser: argparse.ArgumentParser, _: str) -> None:
    actions = add_actions(parser)
    shown = add_action(actions, "list", run_list, "list jobs, newest first")
    _add_filters(shown)
    shown.add_argument(
        "--limit", type=positive, default=100, metavar="N", help="at most N jobs (default 100)"
    )
    shown.add_argument("--all", action="store_true", help="all of them")
    shown.add_argument("--oldest", action="store_true", help="oldest first")
    add_watch(shown)

    count = add_action(actions, "count", run_count, "count jobs by state")
    _add_filters(count)
    add_watch(count)

    show = add_action(actions, "show", run_show, "everything about jobs")
    _add_ids(show)

    logs = add_action(actions, "logs", run_logs, "the output of a job")
    logs.add_argument("id", metavar="ID", help="number or key of the job")
    logs.add_argument("--follow", "-f", action="store_true", help="until the job has ended")
    logs.add_argument("--stderr", action="store_true", help="standard error instead of standard output")
    logs.add_argument("--attempt", type=positive, metavar="N", help="of the N-th attempt (default: the last)")
    logs.add_argument("--offset", type=whole, default=0, metavar="BYTES", help="from this byte on")

    wait = add_action(actions, "wait", run_wait, "wait until jobs have ended")
    _add_ids(wait, optional=True)
    wait.add_argument("--batch", metavar="BATCH", help="all jobs of this batch")

    cancel = add_action(actions, "cancel", run_cancel, "cancel jobs")
    _add_ids(cancel, optional=True)
    cancel.add_argument(
        "--wait", nargs="?", const=60, type=duration_s, metavar="S",
        help="until the process is proved dead, at most S (default 60)",
    )  # fmt: skip
    cancel.add_argument("--batch", metavar="BATCH", help="all jobs of this batch")
    cancel.add_argument("--user", metavar="USER", help="all jobs of this user")
    cancel.add_argument("--of-state", metavar="STATE", choices=STATES, help="all jobs in this state")

    for name, run, text in (
        ("retry", run_retry, "run ended jobs again"),
        ("hold", run_hold, "keep waiting jobs from running"),
        ("release", run_release, "let held jobs run"),
    ):
        steer = add_action(actions, name, run, text)
        _add_ids(steer)
        if name == "hold":
            steer.add_argument("--reason", metavar="TEXT", help="said to who asks why it waits")
        if name == "retry":
            steer.add_argument("--priority", type=signed, metavar="N", help="of the new job (default: as before)")
            steer.add_argument("--ignore-dependencies", action="store_true", help="do not wait for the jobs it needs")

    files = add_action(actions, "files", run_files, "list or fetch a job's output files")
    files.add_argument("id", metavar="ID", help="number or key of the job")
    files.add_argument("names", nargs="*", metavar="NAME", help="fetch these (default: list)")
    files.add_argument("--all", action="store_true", help="fetch all")
    files.add_argument("--to", default=".", metavar="DIR", help="where to (default: here)")

    fetch = add_action(actions, "fetch", run_fetch, "write outputs and files of jobs to local files")
    fetch.add_argument("ids", nargs="+", metavar="BATCH|ID", help="a batch, or jobs")
    fetch.add_argument("--to", metavar="DIR", help="below DIR, not where the submit file says")


def run_list(args: argparse.Namespace) -> int:
    session = open_session(args)
    limit = None if args.all else args.limit
    order = "id" if args.oldest else None
    listing = Listing(COLUMNS, job_row, "no jobs (submit one with: cloudsched submit -- COMMAND)")
    return show_list(
        args, session, listing,
        fetch=lambda: session.client.items("/jobs", limit=limit, order=order, **_filters(args)),
    )  # fmt: skip


def run_count(args: argparse.Namespace) -> int:
    session = open_session(args)
    listing = Listing(
        (Column("STATE", colours=STATE_COLOURS), Column("JOBS", right=True)), _count_row, "no jobs"
    )

    def fetch() -> Iterator[dict[str, Any]]:
        counts = session.client.get("/jobs/count", **_filters(args))
        if args.as_json:
            yield counts
            return
        yield from ({"state": state, "n": counts["by_state"].get(state, 0)} for state in STATES)
        yield {"state": "total", "n": counts["total"]}

    if args.as_json and not args.watch:
        session.screen.json(next(iter(fetch())))
        return EXIT_OK
    return show_list(args, session, listing, fetch=fetch)


def run_show(args: argparse.Namespace) -> int:
    return show_each(args, open_session(args), job_path, _show)


def run_logs(args: argparse.Namespace) -> int:
    session = open_session(args)
    stream = "stderr" if args.stderr else "stdout"
    pieces = session.client.output(
        args.id, stream, offset=args.offset, follow=args.follow, attempt=args.attempt
    )
    if args.as_json:
        text = b"".join(pieces).decode("utf-8", "replace")
        cut = _cut(session, args, stream)
        session.screen.json({"id": args.id, "stream": stream, "text": text, "truncated": cut is not None})
        return EXIT_OK
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    cut = _cut(session, args, stream)
    if cut:
        fail(cut)
    return EXIT_OK


def _cut(session: Session, args: argparse.Namespace, stream: str) -> str | None:
    """What the API tells of the newest attempt; of earlier ones nobody knows."""
    job = session.client.get(job_path(args.id))
    return cut_text(job, stream) if args.attempt in (None, job.get("attempt")) else None


def run_wait(args: argparse.Namespace) -> int:
    from cloudsched.cli.wait import exit_status, wait_for

    if bool(args.ids) == bool(args.batch):
        return fail("name either job ids or --batch BATCH", EXIT_USAGE)
    session = open_session(args)
    ids = args.ids or [job["id"] for job in session.client.items("/jobs", batch=args.batch, order="id")]
    jobs = wait_for(session, ids, batch=args.batch)
    if args.as_json:
        session.screen.json(jobs)
    return exit_status(jobs)


def run_cancel(args: argparse.Namespace) -> int:
    wanted = {"batch": args.batch, "user": args.user, "state": args.of_state}
    wanted = {name: value for name, value in wanted.items() if value}
    if bool(args.ids) == bool(wanted):
        return fail("name either job ids, or a filter: --batch, --user, --of-state", EXIT_USAGE)
    session = open_session(args)
    if not args.ids:
        answer = session.client.post("/jobs/cancel", wanted)
        text = f"{answer['cancelled']} jobs cancelled"
        _said(session, answer, text)
        return EXIT_OK
    return for_each(args.ids, lambda one: _cancel(session, one, args.wait))


def run_retry(args: argparse.Namespace) -> int:
    session = open_session(args)
    body: dict[str, Any] = {} if args.priority is None else {"priority": args.priority}
    if args.ignore_dependencies:
        body["ignore_dependencies"] = True
    return for_each(
        args.ids, lambda one: _told(session, one, session.client.create(f"{job_path(one)}/retry", body))
    )


def run_hold(args: argparse.Namespace) -> int:
    session = open_session(args)
    body = {"reason": args.reason} if args.reason else {}
    return for_each(args.ids, lambda one: _told(session, one, session.client.post(f"{job_path(one)}/hold", body)))


def run_release(args: argparse.Namespace) -> int:
    session = open_session(args)
    return for_each(
        args.ids, lambda one: _told(session, one, session.client.post(f"{job_path(one)}/release"))
    )


def run_files(args: argparse.Namespace) -> int:
    from cloudsched.cli.fetch import fetch_files

    session = open_session(args)
    if args.names or args.all:
        return fetch_files(session, args.id, names=args.names or None, to=args.to)
    found = session.client.get(f"{job_path(args.id)}/files")["items"]
    if args.as_json:
        session.screen.json(found)
        return EXIT_OK
    rows = [[str(one["name"]), str(one.get("size", ""))] for one in found]
    session.screen.table((Column("NAME"), Column("BYTES", right=True)), rows, none="no output files")
    return EXIT_OK


def run_fetch(args: argparse.Namespace) -> int:
    from cloudsched.cli.fetch import fetch_jobs

    session = open_session(args)
    return fetch_jobs(session, args.ids, to=args.to)


def job_row(job: dict[str, Any]) -> list[str]:
    """A job as the cells of COLUMNS."""
    return [
        str(job["id"]), job["state"], str(job.get("user") or ""), str(job.get("vm_type") or ""),
        str(job.get("name") or ""), node_name(job.get("node")), exit_text(job), show_duration(job.get("ran_s")),
        show_time(job.get("submitted_at")), " ".join(map(str, job.get("command") or [])) or str(job.get("kind") or ""),
    ]  # fmt: skip


def node_name(node: Any) -> str:
    """A node's name, whether the API gives a name, a number or an object."""
    return str(node.get("name", "")) if isinstance(node, dict) else str(node or "")


def exit_text(job: dict[str, Any]) -> str:
    """An exit code, SIG9, or nothing."""
    if job.get("signal"):
        return f"SIG{job['signal']}"
    return "" if job.get("exit_code") is None else str(job["exit_code"])


def _add_ids(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    parser.add_argument("ids", nargs="*" if optional else "+", metavar="ID", help="numbers or keys of jobs")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--of-state",
        action="append",
        metavar="STATE",
        choices=STATES,
        help=f"one of {', '.join(STATES)}; repeatable",
    )
    for name, text in (
        ("user", "jobs of this user"),
        ("vm-type", "jobs for this type of machine"),
        ("batch", "jobs of this batch"),
        ("node", "jobs of this node (number or name)"),
        ("source", "jobs from this source"),
        ("name", "jobs of this name"),
    ):
        parser.add_argument(f"--{name}", metavar=name.upper().replace("-", "_"), help=text)


def _filters(args: argparse.Namespace) -> dict[str, Any]:
    found = {name: getattr(args, name) for name in ("user", "vm_type", "batch", "node", "source", "name")}
    return {**found, "state": args.of_state}


def _count_row(one: dict[str, Any]) -> list[str]:
    return [one["state"], str(one["n"])]


def _show(session: Session, job: dict[str, Any]) -> int:
    import shlex

    state = session.screen.paint(job["state"], STATE_COLOURS.get(job["state"]))
    head = [("job", job["id"]), ("state", state), ("reason", job.get("reason")), ("exit", exit_text(job))]
    command = [("command", shlex.join(map(str, job.get("command") or [])))]
    special = {"id", "state", "reason", "exit_code", "signal", "command"}
    rest = [(name, _value(name, value)) for name, value in job.items() if name not in special]
    session.screen.fields([*head, *command, *rest])
    session.screen.line()
    return EXIT_OK


def _value(name: str, value: Any) -> Any:
    if name.endswith("_at") or name == "not_before":
        return show_time(value)
    if name.endswith("_s") and isinstance(value, (int, float)):
        return show_duration(value)
    if name.endswith("_mb") and isinstance(value, (int, float)):
        return show_mb(value)
    if name == "env" and isinstance(value, dict):
        return " ".join(f"{key}={text}" for key, text in value.items())
    return value if value not in ("", 0, False) or name in ("attempt", "index", "priority") else None


def _cancel(session: Session, one: str, wait_s: int | None) -> int:
    job = session.client.call(
        "POST", f"{job_path(one)}/cancel", params={"wait_s": wait_s}, repeatable=True,
        timeout_s=session.client.timeout_s + (wait_s or 0),
    ).data  # fmt: skip
    _told(session, one, job)
    if wait_s and isinstance(job, dict) and job.get("state") not in ENDED:
        return fail(
            f"{one}: not proved dead after {show_duration(wait_s)}, state {job.get('state')}", EXIT_FAILED
        )
    return EXIT_OK


def _told(session: Session, one: str, job: Any) -> int:
    """The state after a wish, in a line."""
    found = job if isinstance(job, dict) else {"id": one}
    wanted = found.get("goal") not in (None, "run") and found.get("state") not in ENDED
    goal = f" (wanted: {found['goal']})" if wanted else ""
    new = str(found.get("id", one))
    retry = f" (a retry of {found['retry_of']})" if found.get("retry_of") and new != one else ""
    _said(session, found, f"{new}\t{found.get('state', 'done')}{goal}{retry}")
    return EXIT_OK


def _said(session: Session, answer: Any, text: str) -> None:
    if session.screen.as_json:
        session.screen.json_line(answer)
    else:
        session.screen.line(text.replace("\t", "  ") if session.screen.terminal else text)
