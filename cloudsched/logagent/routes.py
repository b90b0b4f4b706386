"""What does each route of the agent answer? Status, code and payload; nobody here builds a body (contract 4, 7, 15)."""

from __future__ import annotations

import json

from cloudsched.logagent import VERSION
from cloudsched.logagent.errors import CODES, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cloudsched.logagent.config import Settings
    from cloudsched.logagent.masters import Masters
    from cloudsched.logagent.runners import Runners

    Answer = Callable[["Api", str, bytes], Any]


class Api:
    """The routes. `call` returns the payload, NOTHING for success without data, or raises Refused."""

    def __init__(self, settings: Settings, runners: Runners, masters: Masters) -> None:
        self.settings, self.runners, self.masters = settings, runners, masters

    def call(self, method: str, segments: list[str], body: bytes) -> Any:
        """`segments`: the decoded parts of the path behind /logkit."""
        methods, name = find(segments)
        if methods is None:
            raise Refused("Not Found", status=404)
        answer = methods.get(method)
        if answer is None:
            raise Refused("Method Not Allowed", status=405)
        return answer(self, name, body)

    def status(self) -> dict[str, Any]:
        found = self.runners.status()
        if self.settings.cluster_enabled:
            for status in found.values():
                status.update(tag=self.masters.tag, url=self.masters.url)
        return found

    def set_tag(self, body: bytes) -> Any:
        self.check_cluster("L2005")
        tag = parse_object(body, "L2005").get("tag", "")
        if not isinstance(tag, str):
            raise Refused("tag must be a string", code="L2005")
        self.masters.change_tag(tag)
        return NOTHING

    def register(self) -> Any:
        raise Refused("this is not master", code="L2004")

    def check_cluster(self, code: str) -> None:
        if not self.settings.cluster_enabled:
            raise Refused("cluster function not configed", code=code)


class _Nothing:
    """Success without data, which is not the same as null."""


NOTHING = _Nothing()


def find(segments: list[str]) -> tuple[dict[str, Answer] | None, str]:
    """The methods of a path, and the runner name in it."""
    for pattern, methods in _ROUTES:
        if len(pattern) == len(segments) and all(part in ("*", segment) for part, segment in zip(pattern, segments)):  # noqa: B905
            return methods, next((segment for part, segment in zip(pattern, segments) if part == "*"), "")  # noqa: B905
    return None, ""


def parse_object(body: bytes, code: str) -> dict[str, Any]:
    """The JSON object in a body; Refused otherwise."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the body is not JSON: {error}", code=code) from None
    if not isinstance(value, dict):
        raise Refused("the body must be a JSON object", code=code)
    return value


def _done(operation: Callable[[Api, str], None]) -> Answer:
    def answer(api: Api, name: str, body: bytes) -> Any:
        operation(api, name)
        return NOTHING

    return answer


def _add(api: Api, name: str, body: bytes) -> Any:
    api.runners.add(name, parse_object(body, "L1002"))
    return NOTHING


def _update(api: Api, name: str, body: bytes) -> Any:
    api.runners.update(name, parse_object(body, "L1007"))
    return NOTHING


_ONE: dict[str, Answer] = {
    "GET": lambda api, name, body: api.runners.config(name),
    "POST": _add,
    "PUT": _update,
    "DELETE": _done(lambda api, name: api.runners.delete(name)),
}
_ROUTES: list[tuple[tuple[str, ...], dict[str, Answer]]] = [
    (("status",), {"GET": lambda api, name, body: api.status()}),
    (("configs",), {"GET": lambda api, name, body: api.runners.configs()}),
    (("runners",), {"GET": lambda api, name, body: api.runners.names()}),
    (("configs", "*"), _ONE),
    (("configs", "*", "start"), {"POST": _done(lambda api, name: api.runners.start(name))}),
    (("configs", "*", "stop"), {"POST": _done(lambda api, name: api.runners.stop(name))}),
    (("configs", "*", "reset"), {"POST": _done(lambda api, name: api.runners.reset(name))}),
    (("errors",), {"GET": lambda api, name, body: api.runners.all_errors()}),
    (("errors", "*"), {"GET": lambda api, name, body: api.runners.errors(name)}),
    (("version",), {"GET": lambda api, name, body: {"version": VERSION}}),
    (("errorcode",), {"GET": lambda api, name, body: CODES}),
    (("cluster", "ping"), {"GET": lambda api, name, body: NOTHING}),
    (("cluster", "ismaster"), {"GET": lambda api, name, body: False}),
    (("cluster", "register"), {"POST": lambda api, name, body: api.register()}),
    (("cluster", "tag"), {"POST": lambda api, name, body: api.set_tag(body)}),
]
