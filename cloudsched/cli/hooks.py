"""Who else is told what happens? `cloudsched hooks ...`: webhooks and what they were sent."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from cloudsched.cli.commands import EXIT_FAILED, EXIT_OK, add_action, add_actions
from cloudsched.cli.problems import fail
from cloudsched.cli.session import Listing, Session, add_watch, confirm, for_each, open_session, show_list
from cloudsched.cli.table import Column
from cloudsched.cli.values import duration_s, positive, show_duration, show_time, whole

COLOURS = {"delivered": "green", "dead": "red", "pending": "yellow", "on": "green", "off": "dim"}
HOOKS = (Column("NAME"), Column("STATE", colours=COLOURS), Column("URL"), Column("KINDS"), Column("PENDING", right=True),
         Column("DELIVERED", right=True), Column("DEAD", right=True), Column("LAST OK"), Column("LAST ERROR"))
DELIVERIES = (Column("ID", right=True), Column("EVENT", right=True), Column("KIND"), Column("STATE", colours=COLOURS),
              Column("TRIES", right=True), Column("STATUS", right=True), Column("TOOK", right=True), Column("TRIED"),
              Column("ERROR"))
POLL_S = 0.3


def configure(parser: argparse.ArgumentParser, _: str) -> None:
    parser.epilog = ("A delivery is a POST of the event as JSON, signed: X-Cloudsched-Signature is v1= and the hex HMAC-SHA256\n"
                     "of X-Cloudsched-Timestamp, a dot and the body under the secret (docs/howto-dcluster.md).")
    actions = add_actions(parser)
    added = add_action(actions, "add", run_add, "add a webhook; prints its secret, this once")
    added.add_argument("name", metavar="NAME")
    added.add_argument("url", metavar="URL", help="https, or http to the server's own machine")
    added.add_argument("--kind", action="append", metavar="KIND", help="events of this kind, or job. for all of jobs; repeatable")
    added.add_argument("--since", type=whole, metavar="SEQ", help="also the events after this sequence number")
    added.add_argument("--secret-env", metavar="VARIABLE", help="the secret is in the environment")
    added.add_argument("--secret-stdin", action="store_true", help="the secret is a line of standard input")
    add_watch(add_action(actions, "list", run_list, "list webhooks"))
    for name, run, text in (("show", run_show, "everything about webhooks"), ("enable", run_enable, "send again"),
                            ("disable", run_disable, "send no more for now"),
                            ("retry", run_retry, "begin anew with what was given up")):
        add_action(actions, name, run, text).add_argument("names", nargs="+", metavar="NAME")
    removed = add_action(actions, "remove", run_remove, "remove webhooks with their logs")
    removed.add_argument("names", nargs="+", metavar="NAME")
    removed.add_argument("--yes", "-y", action="store_true", help="do not ask")
    sent = add_action(actions, "deliveries", run_deliveries, "what a webhook was sent, newest first")
    sent.add_argument("name", metavar="NAME")
    sent.add_argument("--of-state", choices=("pending", "delivered", "dead"), metavar="STATE", help="pending, delivered or dead")
    sent.add_argument("--limit", type=positive, default=50, metavar="N", help="at most N (default 50)")
    add_watch(sent)
    tried = add_action(actions, "test", run_test, "send a webhook an event made for it, and wait for the answer")
    tried.add_argument("name", metavar="NAME")
    tried.add_argument("--wait", type=duration_s, default=30, metavar="TIME", help="how long (default 30s)")


def run_add(args: argparse.Namespace) -> int:
    body = {"name": args.name, "url": args.url, "kinds": args.kind or [], "secret": _secret(args), "since": args.since}
    session = open_session(args)
    made = session.client.create("/webhooks", {key: value for key, value in body.items() if value not in (None, "")})
    if args.as_json:
        session.screen.json(made)
    else:
        session.screen.line(f"{args.name}: added; its secret is shown this once:")
        session.screen.line(made["secret"])
    return EXIT_OK


def run_list(args: argparse.Namespace) -> int:
    session = open_session(args)
    listing = Listing(HOOKS, hook_row, "no webhooks (add one with: cloudsched hooks add NAME URL)")
    return show_list(args, session, listing, fetch=lambda: session.client.items("/webhooks"))


def run_show(args: argparse.Namespace) -> int:
    session = open_session(args)
    found = [session.client.get(_path(name)) for name in args.names]
    if args.as_json:
        session.screen.json(found if len(found) > 1 else found[0])
        return EXIT_OK
    for one in found:
        session.screen.fields(one.items())
        session.screen.line()
    return EXIT_OK


def run_enable(args: argparse.Namespace) -> int:
    return _post(args, "enable", lambda answer: "enabled")


def run_disable(args: argparse.Namespace) -> int:
    return _post(args, "disable", lambda answer: "disabled")


def run_retry(args: argparse.Namespace) -> int:
    return _post(args, "retry", lambda answer: f"{answer['retried']} deliveries begin anew")


def run_remove(args: argparse.Namespace) -> int:
    if not confirm(f"Remove {', '.join(args.names)}?", assume_yes=args.yes):
        return fail("nothing was removed")
    session = open_session(args)

    def remove(name: str) -> int:
        session.client.delete(_path(name))
        return _said(session, name, {"name": name}, "removed")

    return for_each(args.names, remove)


def run_deliveries(args: argparse.Namespace) -> int:
    session = open_session(args)
    listing = Listing(DELIVERIES, delivery_row, "nothing was sent yet")
    return show_list(args, session, listing, fetch=lambda: session.client.items(
        f"{_path(args.name)}/deliveries", limit=args.limit, state=args.of_state))


def run_test(args: argparse.Namespace) -> int:
    session = open_session(args)
    number = session.client.post(f"{_path(args.name)}/test")["id"]
    until = time.monotonic() + args.wait
    while True:
        found = next(one for one in session.client.items(f"{_path(args.name)}/deliveries") if one["id"] == number)
        if found["attempts"] or found["state"] != "pending" or time.monotonic() > until:
            break
        time.sleep(POLL_S)
    good = found["state"] == "delivered"
    text = (f"delivered (status {found['status']}, {show_duration(found['took_s'])})" if good
            else found["error"] or f"not sent within {args.wait} s: does the engine run?")
    if session.screen.as_json:
        session.screen.json(found)
        return EXIT_OK if good else EXIT_FAILED
    return _said(session, args.name, found, text) if good else fail(f"{args.name}: {text}")


def hook_row(hook: dict[str, Any]) -> list[str]:
    """A webhook as the cells of HOOKS."""
    return [hook["name"], "on" if hook["enabled"] else "off", hook["url"], " ".join(hook["kinds"]) or "*", str(hook["pending"]),
            str(hook["delivered"]), str(hook["dead"]), show_time(hook["last_ok_at"]), hook["last_error"] or ""]


def delivery_row(one: dict[str, Any]) -> list[str]:
    """A delivery as the cells of DELIVERIES."""
    return [str(one["id"]), str(one["event_id"]), one["kind"], one["state"], str(one["attempts"]), str(one["status"] or ""),
            show_duration(one["took_s"]), show_time(one["tried_at"]), one["error"] or ""]


def _path(name: str) -> str:
    from cloudsched.client.http import segment

    return f"/webhooks/{segment(name)}"


def _post(args: argparse.Namespace, verb: str, text: Any) -> int:
    session = open_session(args)

    def act(name: str) -> int:
        answer = session.client.post(f"{_path(name)}/{verb}")
        return _said(session, name, answer, text(answer))

    return for_each(args.names, act)


def _said(session: Session, name: str, answer: Any, text: str) -> int:
    if session.screen.as_json:
        session.screen.json_line(answer)
    else:
        session.screen.line(f"{name}: {text}")
    return EXIT_OK


def _secret(args: argparse.Namespace) -> str:
    """Never an argument: others see those."""
    if args.secret_env:
        if args.secret_env not in os.environ:
            raise argparse.ArgumentTypeError(f"--secret-env {args.secret_env}: no such variable in the environment")
        return os.environ[args.secret_env]
    return sys.stdin.readline().rstrip("\n") if args.secret_stdin else ""
