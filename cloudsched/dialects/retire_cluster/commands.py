"""What does the command endpoint do? Each command is the REST route of the same meaning, under the same level (contract 9.9)."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import msgspec

from cloudsched.dialects.retire_cluster import params, schemas, text
from cloudsched.dialects.retire_cluster.envelope import Refused
from cloudsched.dialects.retire_cluster.routing import Answer, Call, Route, check_kept
from cloudsched.errors import CloudschedError

if TYPE_CHECKING:
    from cloudsched.dialects.retire_cluster.front import Front

FORMATS = ("text", "json", "csv", "tsv", "table")
LONGEST = 64 * 1024
BODY: dict[str, Any] = {
    "type": "object", "required": ["command"],
    "properties": {"command": {"type": "string", "minLength": 1, "maxLength": LONGEST},
                   "format": {"type": "string", "enum": list(FORMATS), "default": "text"}}}
_SHORT = {"f": "format", "s": "status", "r": "role", "l": "limit", "p": "priority", "d": "device"}
# Members of a submission that are JSON when given as an option.
_JSON_OPTIONS, _NUMBERS = ("payload", "requirements", "metadata"), ("timeout", "count")
_DEVICE_COLUMNS = ("id", "status", "cpu_usage", "resources.memory_used_gb", "tasks.active")
_TASK_COLUMNS = ("task_id", "task_type", "status", "priority", "device_id", "created_at")
_LOG_COLUMNS = ("timestamp", "level", "component", "device_id", "message")


class Op(NamedTuple):
    """A command: its route; `argument`: what its first positional is; `rows`: the list in `data` and its columns."""

    method: str
    rule: str
    argument: str = ""
    rows: tuple[str, tuple[str, ...]] | None = None
    query: Mapping[str, str] = {}


_V1 = "/api/v1"
_DEVICE_LIST = Op("GET", f"{_V1}/devices", rows=("devices", _DEVICE_COLUMNS))
_TASK_LIST = Op("GET", f"{_V1}/tasks", rows=("tasks", _TASK_COLUMNS))
_LOG_LIST = Op("GET", f"{_V1}/logs", rows=("logs", _LOG_COLUMNS))
_METRICS = Op("GET", f"{_V1}/cluster/metrics")
_DEVICE = {
    "show": Op("GET", f"{_V1}/devices/<device_id>", "device_id"),
    "ping": Op("POST", f"{_V1}/devices/<device_id>/ping", "device_id"),
    "remove": Op("DELETE", f"{_V1}/devices/<device_id>", "device_id"),
}
_TASK = {
    "show": Op("GET", f"{_V1}/tasks/<task_id>", "task_id"),
    "cancel": Op("DELETE", f"{_V1}/tasks/<task_id>", "task_id"),
    "retry": Op("POST", f"{_V1}/tasks/<task_id>/retry", "task_id"),
}
OPS: Mapping[str, Mapping[str, Op]] = {
    "cluster": {"status": Op("GET", f"{_V1}/cluster/status"), "health": Op("GET", f"{_V1}/cluster/health"),
                "metrics": _METRICS, "config": Op("GET", f"{_V1}/cluster/config")},
    "devices": {"list": _DEVICE_LIST, **_DEVICE, "monitor": _DEVICE_LIST, "stats": Op("GET", f"{_V1}/stats/devices")},
    "device": _DEVICE,
    "tasks": {"submit": Op("POST", f"{_V1}/tasks", "task_type"), "list": _TASK_LIST, **_TASK, "monitor": _TASK_LIST,
              "query": _TASK_LIST, "metrics": Op("GET", f"{_V1}/tasks/statistics")},
    "task": _TASK,
    "monitor": {"devices": _DEVICE_LIST, "tasks": _TASK_LIST, "logs": _LOG_LIST, "metrics": _METRICS, "events": _LOG_LIST,
                "alerts": _LOG_LIST._replace(query={"level": "warning"})},
    "export": {"devices": _DEVICE_LIST._replace(query={"limit": "1000"}), "tasks": _TASK_LIST._replace(query={"limit": "1000"}),
               "logs": _LOG_LIST._replace(query={"limit": "1000"})},
}
HELP = "\n".join([
    "help", "echo TEXT", "clear", "exit",
    *(f"{verb} {noun} {op.argument.upper()}".rstrip() for verb, nouns in OPS.items() for noun, op in nouns.items()),
    "options: --key=value, --flag, -k value; --format=text|json|csv|tsv"])


@dataclass
class Parsed:
    """A command line in its parts."""

    words: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)


class Commands:
    """The command endpoint of one application."""

    def __init__(self, front: Front) -> None:
        self._front = front

    def run(self, call: Call) -> Answer:
        """Do what a command line says."""
        body = call.json()
        command, shape = body.get("command"), body.get("format", "text")
        if command is None or command == "":
            raise Refused("MISSING_COMMAND", "the body names no command", details={"field": ["command"]})
        if not isinstance(command, str) or len(command) > LONGEST:
            raise _invalid(f"a command is a text of at most {LONGEST} characters")
        parsed = parse(command)
        shape = parsed.options.pop("format", shape)
        if shape not in FORMATS:
            raise _invalid(f"there is no format {str(shape)[:40]!r}; there are {', '.join(FORMATS)}")
        output = self._output(call, parsed, shape)
        return Answer(schemas.CommandOutput(status="success", command=command, format=shape, output=output, exit_code=0))

    def _output(self, call: Call, parsed: Parsed, shape: str) -> Any:
        if not parsed.words:
            raise Refused("MISSING_COMMAND", "the command is empty", details={"field": ["command"]})
        verb, rest = parsed.words[0], parsed.words[1:]
        if verb in _PLAIN_VERBS:
            said = _PLAIN_VERBS[verb](rest)
            return {"text": said} if shape == "json" else said
        if verb not in OPS:
            raise _invalid(f"there is no command {verb[:40]!r}; `help` lists them")
        noun = rest[0] if rest else ""
        if noun not in OPS[verb]:
            raise _invalid(f"{verb}: one of {', '.join(OPS[verb])} must follow")
        op = OPS[verb][noun]
        data = self._done(call, op, rest[1:], parsed.options)
        return data if shape == "json" else shown(data, op, shape)

    def _done(self, call: Call, op: Op, rest: list[str], options: dict[str, str]) -> Any:
        route = next(one for one in self._front.routes if (one.method, one.rule) == (op.method, op.rule))
        if not call.who.reaches(route.level):
            raise self._front.door.refusal(call.environ, call.who, route.level)
        if len(rest) != (1 if op.argument else 0):
            raise _invalid(f"{op.argument or 'nothing'} must follow here" + (", once" if op.argument else ""))
        parts = {op.argument: rest[0]} if op.argument.endswith("_id") else {}
        body = _body_of(op, rest, options) if op.method in ("POST", "PUT") else {}
        try:
            return self._called(call, route, parts, {**op.query, **options}, body)
        except Refused as error:
            raise _failed(error, error.code) from None
        except CloudschedError as error:
            if error.kind in ("unavailable", "forbidden"):
                raise
            raise _failed(error, str(error.details.get("code", ""))) from None

    def _called(self, call: Call, route: Route, parts: dict[str, str], options: Mapping[str, str], body: dict[str, Any]) -> Any:
        renamed = {"device_id" if name == "device" else "task_type" if name == "type" else name: value
                   for name, value in options.items()}
        query = params.parse(route.query, urlencode(renamed))
        # The client's own header would choose the list view.
        environ = {name: value for name, value in call.environ.items() if name != "HTTP_USER_AGENT"}
        found = route.handler(replace(call, environ=environ, parts=parts, query=query, given=body))
        return msgspec.to_builtins(found.data, enc_hook=str)


def parse(command: str) -> Parsed:
    """Words and options of a command line, quoted as in a shell. Raises Refused."""
    try:
        tokens = shlex.split(command)
    except ValueError:
        raise _invalid("a quotation mark is not closed") from None
    parsed, left = Parsed(), list(reversed(tokens))
    while left:
        token = left.pop()
        if token.startswith("--") and len(token) > 2:
            name, given, value = token[2:].partition("=")
            parsed.options[name] = value if given else "true"
        elif len(token) == 2 and token[0] == "-" and token[1].isalpha():
            if not left:
                raise _invalid(f"a value must follow {token}")
            parsed.options[_SHORT.get(token[1], token[1])] = left.pop()
        else:
            parsed.words.append(token)
    return parsed


def _body_of(op: Op, rest: list[str], options: Mapping[str, str]) -> dict[str, Any]:
    """The body of the route, from options; those with JSON in them are decoded."""
    made: dict[str, Any] = {"task_type": rest[0], "payload": {}} if op.argument == "task_type" else {}
    for name, value in options.items():
        if name in _JSON_OPTIONS or name in _NUMBERS:
            try:
                made[name] = msgspec.json.decode(value)
            except (msgspec.DecodeError, RecursionError):
                raise _invalid(f"--{name}: not JSON") from None
        else:
            made["device_id" if name == "device" else name] = value
    check_kept(made, [])
    return made


def shown(data: Any, op: Op, shape: str) -> str:
    """The data of a command as text."""
    if op.rows is not None:
        member, columns = op.rows
        if op is _LOG_LIST and shape in ("text", "table"):
            return "\n".join(map(text.log_line, data[member]))
        rows = [[_at(item, column) for column in columns] for item in data[member]]
        if shape in ("csv", "tsv"):
            return text.separated([columns, *rows], "," if shape == "csv" else "\t")
        return text.joined(rows)
    pairs = [(name, value) for name, value in text.flat(data)]
    if shape in ("csv", "tsv"):
        return text.separated([("name", "value"), *pairs], "," if shape == "csv" else "\t")
    return "\n".join(f"{text.plain(name)}: {text.plain(value)}" for name, value in pairs)


def _at(item: Any, path: str) -> Any:
    for name in path.split("."):
        item = item[name]
    return item


def _invalid(message: str) -> Refused:
    return Refused("INVALID_COMMAND", message)


def _failed(error: CloudschedError, code: str) -> Refused:
    details = {name: value for name, value in error.details.items() if name != "code"}
    return Refused("EXECUTION_ERROR", error.message, details={"code": code, **details} if code else details)


_PLAIN_VERBS: Mapping[str, Callable[[list[str]], str]] = {
    "help": lambda _: HELP, "echo": lambda rest: text.plain(" ".join(rest)), "clear": lambda _: "", "exit": lambda _: "bye",
}
