"""What can be asked of many log agents at once? Status, configurations, and the operations on runners and tags.

Every matching agent is called in parallel, none waits for another, no lock is held; what one of them answers or fails to
answer is its own entry in the result (contract 6).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from cloudsched import clock
from cloudsched.drivers.logagent import Answer, Call, Limits, Line
from cloudsched.errors import CloudschedError, Invalid, NotFound
from cloudsched.services.logagents import LOST, OK, Fleet, LogAgent
from cloudsched.settings import Settings

log = logging.getLogger(__name__)

Raw = msgspec.Raw
Map = dict[str, msgspec.Raw]
_CODE = re.compile(r"L[0-9]+\Z")
_UNFIT_NAME = re.compile("[/\\\\\x00-\x1f\x7f\ud800-\udfff]")
_GOOD = "L200"
NAME_MAX = 200

# Operation -> method and what stands behind the runner's name (contract 6.3).
OPERATIONS = {
    "add": ("POST", ""), "update": ("PUT", ""), "delete": ("DELETE", ""),
    "start": ("POST", "/start"), "stop": ("POST", "/stop"), "reset": ("POST", "/reset"),
}


class NoMatch(NotFound):
    """No agent has this tag and URL. `tag` and `url` as they were given."""

    def __init__(self, tag: str, url: str) -> None:
        super().__init__(f"the agents(tag = '{tag}', url = '{url}') are not found")
        self.tag, self.url = tag, url


class NotAllOk(Invalid):
    """refuse_not_ok: some agents are not ok, nothing was sent. `agents`: (tag, url, status)."""

    def __init__(self, agents: Sequence[tuple[str, str, str]]) -> None:
        super().__init__("; ".join(f"{url} is {status}" for _, url, status in agents))
        self.agents = list(agents)


class NowhereThere(NotFound):
    """No agent has a runner of this name."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One agent that did not do it (contract 5.2). `tag`: before the operation."""

    url: str
    tag: str
    operation: str
    response: str
    transport: str
    status: int

    @property
    def error(self) -> str:
        """What it answered, else why there is no answer. Never empty."""
        return self.response or self.transport or f"HTTP {self.status}: the answer is empty"


class SomeFailed(CloudschedError):
    """At least one agent failed; the others did it."""

    kind = "some_failed"

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__("; ".join(f"{one.url}: {one.error}" for one in failures[:5]))
        self.failures = list(failures)


class _Envelope(msgspec.Struct):
    code: str
    data: msgspec.Raw = msgspec.Raw(b"null")


_envelope = msgspec.json.Decoder(_Envelope).decode
_any_map = msgspec.json.Decoder(dict[str, Raw]).decode
_map_or_none = msgspec.json.Decoder(dict[str, Raw] | None).decode
_names = msgspec.json.Decoder(list[str] | None).decode
_encode = msgspec.json.Encoder().encode
_BAD_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Unusable(Exception):
    """An answer whose payload is not what was asked for; the text says why."""


def payload(answer: Answer) -> bytes:
    """The payload of a read (contract 4.3). Raises Unusable: no answer, another status or code."""
    if not answer.status:
        raise Unusable(answer.error)
    if answer.status != 200:
        raise Unusable(f"HTTP {answer.status}: {answer.text or 'the answer is empty'}")
    try:
        found = _envelope(answer.body)
    except msgspec.ValidationError:
        return answer.body  # JSON, but no envelope
    except _BAD_JSON:
        raise Unusable(f"its answer is not JSON: {answer.text[:200]}") from None
    if not _CODE.match(found.code):
        return answer.body
    if found.code != _GOOD:
        raise Unusable(answer.text)
    return bytes(found.data)


def as_map(answer: Answer) -> Map:
    """A payload that is an object; null counts as empty. Raises Unusable."""
    return _decoded(_map_or_none, answer, "an object") or {}


def as_names(answer: Answer) -> list[str]:
    """A payload that is an array of texts. Raises Unusable."""
    return _decoded(_names, answer, "an array of names") or []


def _decoded(decode: Callable[[bytes], Any], answer: Answer, wanted: str) -> Any:
    body = payload(answer)
    try:
        return decode(body)
    except _BAD_JSON:
        raise Unusable(f"its answer is not {wanted}: {body[:200].decode('utf-8', 'replace')}") from None


def checked_name(name: str) -> str:
    """A runner's name (contract 6.3): it becomes a file name on the agent. Raises Invalid."""
    if not name or name in (".", "..") or _UNFIT_NAME.search(name) or len(name.encode()) > NAME_MAX:
        raise Invalid.at("name", f"{name[:80]!r} cannot be a runner's name",
                         f"1 to {NAME_MAX} bytes without / \\ and control characters, not . or ..")
    return name


def runner_path(name: str, more: str = "") -> str:
    """The path of a runner on an agent."""
    return f"/logkit/configs/{quote(name, safe='')}{more}"


def check_config(body: bytes, limit: int) -> None:
    """Raises Invalid unless the body is a JSON object (contract 6.3) of at most `limit` bytes."""
    if len(body) > limit:
        raise Invalid(f"the configuration has {len(body)} bytes; at most {limit} are taken")
    try:
        _any_map(body)
    except msgspec.ValidationError:
        raise Invalid("the configuration must be a JSON object") from None
    except _BAD_JSON as error:
        raise Invalid(f"the configuration is not JSON: {error}") from None


def make_line(settings: Settings) -> Line:
    """The connections to agents as the settings say."""
    own = settings.logkit
    return Line(Limits(connect_s=own.connect_timeout_s, concurrent=own.fan_out, answer_bytes=own.answer_max_mb << 20,
                       total_bytes=max(256, own.answer_max_mb) << 20))


class Master:
    """What one master does with its fleet. `noted` is told of each operation that was asked for (services.runners)."""

    def __init__(self, settings: Settings, fleet: Fleet, line: Line) -> None:
        self.settings = settings
        self.fleet = fleet
        self.line = line
        self.noted: Callable[[Sequence[LogAgent], str, str, bytes], None] | None = None

    # reading

    def status(self, *, tag: str, url: str) -> dict[str, dict[str, Any]]:
        """Runner states by agent (contract 6.2). An agent's failure is its `error`."""
        found = self._read("status", "/logkit/status", tag=tag, url=url)
        for where, entry in found.items():
            entry["status"] = {name: _with_place(raw, where, entry["tag"]) for name, raw in entry["status"].items()}
        return found

    def configs(self, *, tag: str, url: str) -> dict[str, dict[str, Any]]:
        """Runner configurations by agent and path there (contract 6.2)."""
        return self._read("configs", "/logkit/configs", tag=tag, url=url)

    def _read(self, key: str, path: str, *, tag: str, url: str) -> dict[str, dict[str, Any]]:
        agents = self.fleet.select(tag=tag, url=url)
        asked = [agent for agent in agents if agent.status() != LOST]
        answers = dict(zip(map(id, asked), self._get([(agent, path) for agent in asked]), strict=True))
        found: dict[str, dict[str, Any]] = {}
        for agent in agents:
            content, error = {}, ""
            answer = answers.get(id(agent))
            if answer is None:
                error = f"lost: not heard from since {clock.rfc3339(agent.seen_at)}"
            else:
                try:
                    content = as_map(answer)
                except Unusable as problem:
                    error = str(problem)
            found[agent.url] = {key: content, "tag": agent.tag, "error": error}
        return found

    def runners(self, *, tag: str, url: str) -> list[str]:
        """Names of all runners on the matching agents, sorted (contract 6.6); agents that fail are left out."""
        agents = self.fleet.select(tag=tag, url=url)
        asked = [agent for agent in agents if agent.status() != LOST]
        answers = self._get([(agent, "/logkit/runners") for agent in asked])
        old = [agent for agent, answer in zip(asked, answers, strict=True) if answer.status == 404]
        names: set[str] = set()
        for answer in answers:
            names |= set(_or_empty(as_names, answer))
        for answer in self._get([(agent, "/logkit/configs") for agent in old]):
            names |= {name_in(path, raw) for path, raw in dict(_or_empty(as_map, answer)).items()}
        return sorted(names)

    def config(self, name: str, *, tag: str, url: str) -> Raw:
        """The runner's configuration from the first agent that has it (contract 6.6).

        Raises NoMatch, NowhereThere (all say they do not have it), SomeFailed.
        """
        checked_name(name)
        agents = self.fleet.select(tag=tag, url=url)
        if not agents:
            raise NoMatch(tag, url)
        asked = [agent for agent in agents if agent.status() == OK] or agents
        answers = self._get([(agent, runner_path(name)) for agent in asked])
        failures = []
        for agent, answer in zip(asked, answers, strict=True):
            try:
                body = payload(answer)
                _any_map(body)
                return Raw(body)
            except Unusable as problem:
                failures.append(_failure(agent.url, agent.tag, f"get runner {name}", answer, str(problem)))
            except _BAD_JSON:
                failures.append(_failure(agent.url, agent.tag, f"get runner {name}", answer, "its answer is no runner"))
        if all(failure.status in (400, 404) for failure in failures):
            raise NowhereThere(failures[-1].error)
        raise SomeFailed(failures)

    def _get(self, asked: Sequence[tuple[LogAgent, str]]) -> list[Answer]:
        return self.line.call([Call(agent.url, "GET", path) for agent, path in asked],
                              limit_s=self.settings.logkit.read_timeout_s)

    # changing

    def operate(self, operation: str, name: str, body: bytes, *, tag: str, url: str) -> None:
        """One operation on a runner (contract 6.3). Raises Invalid, NoMatch, NotAllOk, SomeFailed."""
        checked_name(name)
        if operation in ("add", "update"):
            check_config(body, self.settings.logkit.config_max_mb << 20)
        method, more = OPERATIONS[operation]
        agents = self._for_change(tag, url)
        if self.noted is not None:
            self.noted(agents, operation, name, body)
        self._change(agents, method, runner_path(name, more), body, f"{operation} runner {name}")

    def retag(self, body: bytes, *, tag: str, url: str) -> None:
        """Have agents take another tag (contract 6.5): each of them registers with it before it answers."""
        _check_tag_body(body)
        self._change(self._for_change(tag, url), "POST", "/logkit/cluster/tag", body, "change tag")

    def _for_change(self, tag: str, url: str) -> list[LogAgent]:
        agents = self.fleet.select(tag=tag, url=url)
        if not agents:
            raise NoMatch(tag, url)
        not_ok = [(agent.tag, agent.url, status) for agent in agents if (status := agent.status()) != OK]
        if not_ok and self.settings.logkit.refuse_not_ok:
            raise NotAllOk(not_ok)
        return agents

    def _change(self, agents: Sequence[LogAgent], method: str, path: str, body: bytes, operation: str) -> None:
        before = [(agent.url, agent.tag) for agent in agents]
        answers = self.line.call([Call(url, method, path, body) for url, _ in before],
                                 limit_s=self.settings.logkit.change_timeout_s)
        failures = [_failure(url, tag, operation, answer) for (url, tag), answer in zip(before, answers, strict=True)
                    if answer.status != 200]
        log.info("%s: %d of %d agents did it", operation, len(before) - len(failures), len(before))
        if failures:
            raise SomeFailed(failures)


def name_in(path: str, raw: Raw) -> str:
    """The runner's name in a configuration; from its path only when it says none."""
    try:
        name = json.loads(bytes(raw)).get("name")
    except (ValueError, AttributeError):
        name = None
    return name if isinstance(name, str) and name else path.rpartition("/")[2].removesuffix(".conf")


def _or_empty(read: Callable[[Answer], Any], answer: Answer) -> Any:
    try:
        return read(answer)
    except Unusable:
        return []


def _with_place(raw: Raw, url: str, tag: str) -> Raw:
    """A runner's state with `tag` and `url`, unless the agent sent them (contract 6.2)."""
    try:
        found = _any_map(raw)
    except _BAD_JSON:
        return raw
    if "tag" in found and "url" in found:
        return raw
    return Raw(_encode({**found, "tag": found.get("tag", tag), "url": found.get("url", url)}))


def _failure(url: str, tag: str, operation: str, answer: Answer, problem: str = "") -> Failure:
    transport = answer.error if not answer.status else "" if answer.text else problem
    return Failure(url, tag, operation, answer.text, transport, answer.status)


def _check_tag_body(body: bytes) -> None:
    from cloudsched.services.logagents import checked_tag

    try:
        found = msgspec.json.decode(body, type=_Tag)
    except msgspec.ValidationError as error:
        raise Invalid(f"the body must be an object with the text tag: {error}") from None
    except _BAD_JSON as error:
        raise Invalid(f"the body is not JSON: {error}") from None
    checked_tag(found.tag)


class _Tag(msgspec.Struct):
    tag: str = ""
