"""How are compute centres managed? `cloudsched centre ...`: hosts, clusters, instances, parts, prices, use, budgets.

The commands are rows of centre_table; what is long is begun and then followed. Secrets come from files, never as words.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from cloudsched.cli.centre_api import CentreApi, NoAnswer, NotAllowed, Said, locate
from cloudsched.cli.centre_table import COMMANDS, Command, Take
from cloudsched.cli.commands import EXIT_AWAY, EXIT_FAILED, EXIT_NOT_ALLOWED, EXIT_OK, EXIT_USAGE, Parser, add_action
from cloudsched.cli.problems import fail
from cloudsched.cli.screen import Screen
from cloudsched.cli.session import confirm
from cloudsched.cli.table import Column
from cloudsched.cli.values import pair, whole
from cloudsched.client.errors import ClientError

LOOK_S = 1.0
OPERATION = "/dev/cpcc/cpccluster/get_operation.dspy"
LIST = "/dev/cpcc/cpclist/get_cpclist.dspy"
_ENDED = ("succeeded", "failed", "cancelled")
_DURATION = re.compile(r"(\d+)\s*(h|d|w|mo|小时|天|周|月)\Z")
_ID = re.compile(r"-[A-Za-z0-9_-]{20}\Z")
_SECRETS = ("api_pwd", "adminpwd", "source_authpasswd")  # sealed, and long: --json has them
_DURATIONS = {"h": "小时", "d": "天", "w": "周", "mo": "月"}
_UNITS = {"秒": "second", "分钟": "minute", "小时": "hour", "天": "day", "周": "week", "月": "month",
          "元": "yuan", "角": "jiao", "分": "fen"}
_UNIT_MEMBERS = ("charge_unit", "account_unit", "duration_unit", "currency")
_GROUPS = {"hosts": "machines that clusters are made of", "clusters": "clusters installed on them",
           "labels": "labels of nodes and instances", "instances": "slices of a cluster that are sold",
           "parts": "hardware, its stock and prices",
           "budget": "what organisations may spend"}


class IdParser(Parser):
    """Takes an id for a value also where it begins with `-`, as ids of other systems may."""

    def _parse_optional(self, arg_string: str) -> Any:
        if _ID.match(arg_string) and arg_string not in self._option_string_actions:
            return None
        return super()._parse_optional(arg_string)


def configure(parser: argparse.ArgumentParser, _: str) -> None:
    parser.epilog = "the address is that of the kboss API: --server, CLOUDSCHED_KBOSS_URL, STATE/server.json, 127.0.0.1:8088"
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True, parser_class=IdParser)
    groups: dict[str, Any] = {}
    for command in COMMANDS:
        group, _space, word = command.words.rpartition(" ")
        if group and group not in groups:
            made = actions.add_parser(group, help=_GROUPS[group], description=_GROUPS[group].capitalize() + ".")
            groups[group] = made.add_subparsers(dest="what", metavar="ACTION", title="actions", required=True)
        _add(groups[group] if group else actions, word, command)
    show = add_action(actions, "show", run_show, "everything about a compute centre")
    show.add_argument("id", metavar="CENTRE", help="id of a compute centre")


def _add(actions: Any, word: str, command: Command) -> None:
    parser = add_action(actions, word, _runner(command), command.text)
    for take in command.takes:
        _add_take(parser, take)
    if command.changes:
        parser.add_argument("--dry-run", action="store_true", help="say what would happen; nothing is changed")
    if command.ask:
        parser.add_argument("--yes", "-y", action="store_true", help="do not ask (without a terminal nothing is asked)")
    if command.long:
        parser.add_argument("--no-wait", action="store_true", help="do not follow it to its end")


def _add_take(parser: argparse.ArgumentParser, take: Take) -> None:
    how: dict[str, Any] = {"help": take.help, "dest": _dest(take)}
    if take.kind in ("flag", "not"):
        parser.add_argument(take.flag, action="store_true", **how)
        return
    how |= _KINDS.get(take.kind, {})
    if take.flag.startswith("-"):
        name = "FILE" if take.kind == "file" else take.flag.lstrip("-").upper()
        parser.add_argument(take.flag, metavar=name, required=take.needed, **how)
    else:
        del how["dest"]
        parser.add_argument(_dest(take), metavar=take.flag, **how)


def _dest(take: Take) -> str:
    return f"take_{take.param or 'fields'}{'_' + take.kind if take.kind in ('flag', 'not') else ''}"


def _runner(command: Command) -> Callable[[argparse.Namespace], int]:
    return lambda args: _guarded(args, lambda api, screen: _run(args, command, api, screen))


def run_show(args: argparse.Namespace) -> int:
    """One centre: its facts, how many hosts and clusters it has."""
    return _guarded(args, lambda api, screen: _show(args.id, api, screen))


def _guarded(args: argparse.Namespace, run: Callable[[CentreApi, Screen], int]) -> int:
    try:
        api = locate(args.server, state=args.state, key_file=args.key_file)
        return run(api, Screen(as_json=args.as_json))
    except NoAnswer as error:
        return fail(str(error), EXIT_AWAY)
    except NotAllowed as error:
        return fail(f"{error}\n  {_about_key(args)}", EXIT_NOT_ALLOWED)
    except ClientError as error:
        return fail(str(error), EXIT_USAGE)


def _about_key(args: argparse.Namespace) -> str:
    """Where a key could come from, and that the instance named by --state gave none."""
    if args.state and not args.key_file and not os.environ.get("CLOUDSCHED_KEY"):
        path = os.path.join(args.state, "admin.key")
        why = "is not sent to this address" if os.access(path, os.R_OK) else "is not there, or not ours to read"
        return f"--state {args.state}: its admin.key {why}; give a key by --key-file FILE or CLOUDSCHED_KEY"
    return "a key: --key-file FILE, CLOUDSCHED_KEY, or the instance's own (--state DIR)"


def _run(args: argparse.Namespace, command: Command, api: CentreApi, screen: Screen) -> int:
    params = {**_params(args, command.takes), **dict(command.fixed)}
    if getattr(args, "dry_run", False):
        params["dry_run"] = "1"
    elif command.ask and not confirm(f"{command.ask} {params.get('id') or params.get('worker_nodeid')}?", assume_yes=args.yes):
        return EXIT_FAILED
    if command.long:
        params["async"] = "1"
    said = api.call(command.path, params)
    if not said.yes:
        return _refused(said, screen)
    if command.long and not args.no_wait and isinstance(said.data, dict) and said.data.get("operation"):
        return _follow(api, screen, said.data)
    return _told(said, command, screen)


def _refused(said: Said, screen: Screen) -> int:
    if screen.as_json and said.data is not None:
        screen.json(said.data)
    return fail(said.text)


def _told(said: Said, command: Command, screen: Screen) -> int:
    if isinstance(said.data, str):
        screen.out.write(said.data)
    elif screen.as_json:
        screen.json(said.data if "reason" not in said.body else {"ids": said.data, "reason": said.body["reason"]})
    elif command.columns:
        rows = said.data if isinstance(said.data, list) else said.data["rows"]
        _table(screen, command.columns, rows)
    else:
        if command.changes:
            screen.line(said.text)
        _facts(screen, said.data)
    return EXIT_OK


def _table(screen: Screen, columns: Iterable[tuple[str, str]], rows: list[dict[str, Any]]) -> None:
    shown = [(heading, member) for heading, member in columns if not rows or any(member in row for row in rows)]
    right = {member for _, member in shown if rows and all(isinstance(row.get(member), (int, float)) for row in rows)}
    screen.table([Column(heading, right=member in right) for heading, member in shown],
                 [[_cell(_unit(member, row.get(member))) for _, member in shown] for row in rows])


def _facts(screen: Screen, data: Any) -> None:
    if isinstance(data, Mapping):
        details = data.get("price_details")
        if details:
            _table(screen, (("PART", "resource_name"), ("AMOUNT", "amount"), ("UNIT", "resource_unit"), ("PRICE", "unit_price"),
                            ("COST", "subtotal"), ("ERROR", "error")), details)
        steps = data.get("steps") or []
        done = steps if all(isinstance(step, Mapping) and "state" in step for step in steps) else []
        apart = ("price_details", *_SECRETS, *(("steps",) if done else ()))
        screen.fields([(name, _plain(_unit(name, value))) for name, value in data.items() if name not in apart])
        for step in done:
            screen.line(_step_line(step))
    elif isinstance(data, list):
        for one in data:
            screen.line(str(one))


def _show(key: str, api: CentreApi, screen: Screen) -> int:
    said = api.call(LIST, {})
    row = next((row for row in (said.data or {}).get("rows", ()) if row["id"] == key), None) if said.yes else None
    if row is None:
        return _refused(said, screen) if not said.yes else fail(f"there is no compute centre {key}")
    hosts = api.call("/dev/cpcc/cpcnode/get_cpcnode.dspy", {"cpcid": key, "page": 1, "rows": 1}).data["total"]
    clusters = api.call("/dev/cpcc/cpccluster/get_cpccluster.dspy", {"cpcid": key}).data["rows"]
    found = {**{name: value for name, value in row.items() if name != "row_num_"}, "hosts": hosts,
             "clusters": [cluster["name"] for cluster in clusters]}
    if screen.as_json:
        screen.json(found)
    else:
        screen.fields([(name, ", ".join(value) if isinstance(value, list) else value) for name, value in found.items()
                       if name not in _SECRETS])
    return EXIT_OK


def _follow(api: CentreApi, screen: Screen, data: Mapping[str, Any]) -> int:
    """Look until the operation has ended; each step is told once it is done."""
    told = 0
    while True:
        said = api.call(OPERATION, {"id": data["operation"]})
        if not said.yes:
            return _refused(said, screen)
        steps = said.data["steps"]
        done = [step for step in steps if step["state"] != "waiting"]
        for step in done[told:]:
            if not screen.as_json:
                screen.line(_step_line(step))
        told = len(done)
        if said.data["state"] in _ENDED:
            break
        time.sleep(LOOK_S)
    if screen.as_json:
        screen.json({**data, **said.data, "operation": data["operation"]})
    if said.data["state"] != "succeeded":
        return fail(said.data["error"] or said.data["state"])
    if not screen.as_json:
        screen.fields([(name, value) for name, value in data.items() if name not in ("operation", "ready")])
    return EXIT_OK


def _step_line(step: Mapping[str, Any]) -> str:
    return f"{step['name']}: {step.get('detail') or step['state']}"


# what was typed


def _params(args: argparse.Namespace, takes: Iterable[Take]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for take in takes:
        value = getattr(args, _dest(take))
        if value is None or value is False:
            continue
        if take.kind == "fields":
            found |= dict(value)
        elif take.kind == "days":
            found["duration"], found["duration_unit"] = value
        elif take.kind == "file":
            found[take.param] = _read(value)
        elif take.kind in ("flag", "not"):
            if take.param in found:
                raise ClientError(f"{take.flag}: not together with its opposite")
            found[take.param] = "1" if take.kind == "flag" else "0"
        else:
            found[take.param] = value
    return found


def _read(path: str) -> str:
    text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    return text.strip() if "-----BEGIN" not in text else text


def _part(text: str) -> dict[str, Any]:
    kind, _, rest = text.partition(":")
    model, _, amount = rest.rpartition(":")
    if not (kind and model and amount):
        raise argparse.ArgumentTypeError(f"{text!r} is no part (allowed: TYPE:MODEL:AMOUNT, e.g. cpu:STANDARD:4)")
    return {"type": kind, "model": model, "amount": int(amount) if amount.isdigit() else amount}


def _duration(text: str) -> tuple[str, str]:
    found = _DURATION.match(text.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no time (allowed: 12h, 2d, 1w, 1mo)")
    return found[1], _DURATIONS.get(found[2], found[2])


def _one_of(**words: str) -> Callable[[str], str]:
    """Reads a word, or the API's own number for it."""
    def read(text: str) -> str:
        given = text.strip().lower()
        if given not in words and given not in words.values():
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed (allowed: {', '.join([*words, *words.values()])})")
        return words.get(given, given)

    return read


# How values of a kind are read.
_KINDS: dict[str, dict[str, Any]] = {
    "maybe": {"nargs": "?"},
    "fields": {"nargs": "*", "type": pair}, "parts": {"nargs": "+", "type": _part}, "days": {"type": _duration},
    "whole": {"type": whole}, "device": {"type": _one_of(virtual="0", physical="1")},
    "occupied": {"type": _one_of(no="0", yes="1")}}


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={one}" for name, one in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(_plain(value))


def _unit(member: str, value: Any) -> Any:
    """A unit of the API's as these tables have it."""
    return _UNITS.get(value, value) if member in _UNIT_MEMBERS and isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """Numbers without exponents: 0.0000001, not 1e-07."""
    return format(Decimal(repr(value)), "f") if isinstance(value, float) else value
