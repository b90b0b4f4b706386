"""Who may call the server? `cloudsched keys`."""

from __future__ import annotations

import argparse
import errno
import os
import tempfile
from pathlib import Path
from typing import Any

from cloudsched.cli.commands import EXIT_OK, add_action, add_actions
from cloudsched.cli.session import Listing, add_watch, for_each, open_session, show_list
from cloudsched.cli.table import STATE_COLOURS, Column
from cloudsched.cli.values import duration_s, show_time, whole

ROLES = ("viewer", "submitter", "operator", "admin")
COLUMNS = (
    Column("ID", right=True),
    Column("NAME"),
    Column("ROLE"),
    Column("ORG"),
    Column("STATE", colours=STATE_COLOURS),
    Column("CREATED"),
    Column("EXPIRES"),
    Column("LAST USED"),
)


def configure(parser: argparse.ArgumentParser, _: str) -> None:
    actions = add_actions(parser)
    made = add_action(actions, "create", run_create, "make a key; it is shown this once")
    made.add_argument("name", metavar="NAME", help="whose key (jobs submitted with it belong to this name)")
    made.add_argument(
        "--role", choices=ROLES, default="submitter", help="viewer < submitter (default) < operator < admin"
    )
    made.add_argument("--org", metavar="ORG", help="the organisation it belongs to")
    made.add_argument("--ttl", type=duration_s, metavar="TIME", help="how long it can be used (default: for ever)")
    made.add_argument("--to", metavar="FILE", help="write it to FILE (mode 0600), do not show it")
    add_watch(add_action(actions, "list", run_list, "list keys (without the keys themselves)"))
    revoked = add_action(actions, "revoke", run_revoke, "make keys worthless")
    revoked.add_argument("ids", nargs="+", type=whole, metavar="ID", help="numbers of keys")


def run_create(args: argparse.Namespace) -> int:
    session = open_session(args)
    draft = _draft(Path(args.to)) if args.to else None  # refused here, before a key exists that nobody has
    wanted = {"name": args.name, "role": args.role, "org": args.org, "ttl_s": args.ttl}
    body = {name: value for name, value in wanted.items() if value is not None}
    try:
        answer = session.client.create("/keys", body)
    except BaseException:
        if draft is not None:
            draft.unlink(missing_ok=True)
        raise
    if draft is not None:
        _write(draft, Path(args.to), str(answer.pop("key")))
    if args.as_json:
        session.screen.json(answer)
        return EXIT_OK
    session.screen.line(f"key {answer.get('id', '')} written to {args.to}" if args.to else str(answer["key"]))
    if session.screen.terminal and not args.to:
        session.screen.line(
            session.screen.paint("shown once; use it with --key-file FILE or CLOUDSCHED_KEY", "dim")
        )
    return EXIT_OK


def run_list(args: argparse.Namespace) -> int:
    session = open_session(args)
    listing = Listing(COLUMNS, key_row, "no keys: callers on this machine are admin")
    return show_list(args, session, listing, fetch=lambda: session.client.items("/keys"))


def run_revoke(args: argparse.Namespace) -> int:
    session = open_session(args)

    def revoke(number: int) -> int:
        session.client.delete(f"/keys/{number}")
        if args.as_json:
            session.screen.json_line({"id": number, "revoked": True})
        else:
            session.screen.line(f"key {number}: revoked")
        return EXIT_OK

    return for_each(args.ids, revoke)


def key_row(key: dict[str, Any]) -> list[str]:
    """A key as the cells of COLUMNS."""
    return [
        str(key["id"]), str(key.get("name", "")), str(key.get("role", "")), str(key.get("org") or ""),
        "revoked" if key.get("revoked_at") else "ok", show_time(key.get("created_at")), show_time(key.get("expires_at")),
        show_time(key.get("last_used_at")),
    ]  # fmt: skip


def _draft(path: Path) -> Path:
    """An empty file (mode 0600) beside the one that is asked for. Raises OSError, also when that one is there already."""
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    return Path(name)


def _write(draft: Path, path: Path, key: str) -> None:
    """The key is in its file at once and whole. A file that came there meanwhile stays: the key is then in the draft."""
    with draft.open("w", encoding="utf-8") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, f"{os.strerror(errno.EEXIST)}; the key is in {draft}", str(path)) from None
    except OSError:  # a file system without links
        draft.replace(path)
    else:
        draft.unlink()
