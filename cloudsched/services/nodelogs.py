"""How do logs outlive a machine? What a node's log agent is told, what is taken from it, and for how long a machine is left
to deliver its last words (docs/design/logagent.md).

Off by default. Of a node's own word only its records count: whose they are is known from its secret.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from cloudsched import clock
from cloudsched.domain.entities import UNDRIVEN, Cloud, Node
from cloudsched.domain.submission import invalid
from cloudsched.errors import Forbidden, Invalid, NotFound, RateLimited, TooLarge, Unavailable
from cloudsched.services.agent_rules import bearer_of, check_secret, rules
from cloudsched.settings import Settings
from cloudsched.store import clouds, clusters, logagents, logfiles, nodes
from cloudsched.store import runners as runner_rows
from cloudsched.store.db import Tx, read, write

if TYPE_CHECKING:
    from cloudsched.services.runners import Configs
    from cloudsched.services.runners_act import Result

FOLDER = "logs"
RUNNER = "cloudsched-jobs"
OPTION, CLUSTER = "log_agent", "cluster"
BODY_MAX, UNPACKED_MAX, RECORD_MAX, RECORDS_MAX = 4 << 20, 32 << 20, 1 << 20, 100_000
ID_MAX = 200
BATCH_BYTES, BATCH_S, REFRESH_S = 1 << 20, 1, 60.0
BURST_S = 8.0
DAY_S = 86400.0
# A name that is never resolved: such an agent is told what is wanted through its node.
UNREACHABLE = "invalid"
_UNREACHABLE = re.compile(rf"http://node-[0-9]+\.{UNREACHABLE}")


@dataclass
class _Conf:
    """Told once when a process starts."""

    settings: Settings
    folders: logfiles.Folders
    configs: Configs | None = None


class Report(msgspec.Struct):
    """How it went with a runner on a node's log agent."""

    state: str = "applied"
    hash: str = ""
    reason: str = ""


class State(msgspec.Struct):
    runners: dict[str, Report] = {}


_conf: _Conf | None = None
_state = msgspec.json.Decoder(State)
_array = msgspec.json.Decoder(list[msgspec.Raw])


def configure(settings: Settings) -> None:
    """Called when a process starts."""
    global _conf
    _conf = _Conf(settings, logfiles.Folders(Path(settings.state.dir) / FOLDER))
    _buckets.clear()


def root() -> Path:
    """Where collected logs are. Raises NotFound before `configure`."""
    if _conf is None:
        raise NotFound("logs of nodes are not collected here")
    return _conf.folders.root


# what a node is told


def told(number: int) -> dict[str, Any] | None:
    """What a node's log agent is to do, as `logs` of the protocol; None when its logs are not collected."""
    node = nodes.get(number)
    cloud = clouds.get(node.cloud_id) if node is not None else None
    tag = tag_of(cloud)
    if node is None or _conf is None or not tag:
        return None
    logkit = _conf.settings.logkit
    near = _is_loopback(node.address)
    reachable = near or bool(logkit.node_networks)
    members = {"node": node.name, "cloud": cloud.name if cloud else "", "cluster": cluster_of(node, cloud)}
    runners, leave = _wanted(tag, "" if reachable else address_of(node.id))
    return {
        "masters": _masters(_conf.settings, near=near), "tag": tag, "address": "" if reachable else address_of(node.id),
        "labels": {name: text for name, text in {**members, "node_id": str(node.id)}.items() if text},
        "networks": list(logkit.node_networks), "members": {name: text for name, text in members.items() if text},
        "reader": RUNNER, "runners": runners, "leave": leave, "spool_bytes": logkit.node_spool_mb << 20,
        "flush_s": logkit.node_flush_s, "refresh_s": REFRESH_S,
    }


def tag_of(cloud: Cloud | None) -> str:
    """The tag of log agents on a cloud's nodes; empty when they have none."""
    if _conf is None:
        return ""
    logkit = _conf.settings.logkit
    given = cloud.option.get(OPTION) if cloud is not None else None
    if isinstance(given, str) and given:
        return given
    return logkit.node_tag if (logkit.on_nodes if given is None else bool(given)) else ""


def cluster_of(node: Node, cloud: Cloud | None) -> str:
    """The cluster that a node belongs to: the one it is in, else its own tag `cluster=NAME`, else its cloud's option."""
    if found := clusters.of_nodes([node.id]):
        return found[node.id][1]
    with contextlib.suppress(msgspec.DecodeError, msgspec.ValidationError):
        facts = msgspec.json.decode(node.facts, type=dict[str, Any])
        for tag in facts.get("tags") or ():
            if isinstance(tag, str) and tag.startswith(CLUSTER + "="):
                return tag.partition("=")[2]
    given = cloud.option.get(CLUSTER) if cloud is not None else None
    return given if isinstance(given, str) else ""


def address_of(number: int) -> str:
    """The URL that stands for a log agent which nobody can call."""
    return f"http://node-{number}.{UNREACHABLE}"


def is_unreachable(url: str) -> bool:
    """Is it the URL of a log agent that is told everything through its node?"""
    return _UNREACHABLE.fullmatch(url) is not None


def _wanted(tag: str, url: str) -> tuple[dict[str, Any], list[str]]:
    """(runners that the node's agent sees to, names that are the master's business).

    An agent that can be called gets from the master what is wanted on its tag; another gets it here, as far as it has come
    to it (waves, agents managed by hand), or as it is wanted now while the agent is not on the list yet.
    """
    ours: dict[str, Any] = {RUNNER: {"config": collector(), "run": "running", "hash": ""}}
    named = [one for one in runner_rows.page(tag=tag, limit=1000) if one.want == "present"]
    if not url:
        leave = sorted(one.name for one in named)
        return {name: one for name, one in ours.items() if name not in leave}, leave
    agent = logagents.by_url(read(), url)
    for name, digest, run in _targets(agent.id) if agent is not None else _of_tag(named):
        config = _config(digest)
        if config is not None:
            ours[name] = {"config": config, "run": run, "hash": digest}
    return ours, []


def _targets(agent_id: int) -> list[tuple[str, str, str]]:
    return [(one.name, one.hash, one.run) for one in runner_rows.targets(agent_id=agent_id)
            if one.want == "present" and one.state != "by_hand"]


def _of_tag(named: list[runner_rows.Runner]) -> list[tuple[str, str, str]]:
    tx = read()
    return [(one.name, runner_rows.version_hash(tx, one.id, one.generation), one.run) for one in named if one.generation]


def _config(digest: str) -> dict[str, Any] | None:
    from cloudsched.services.runners import Configs  # with the client that calls agents: not for those who have no runners

    assert _conf is not None
    _conf.configs = _conf.configs or Configs(_conf.settings.state.dir)
    try:
        return _conf.configs.get(digest) if digest else None
    except NotFound:
        return None


def collector() -> dict[str, Any]:
    """The runner that brings what a node has to us. The node's log agent knows the variables."""
    assert _conf is not None
    return {
        "batch_interval": BATCH_S, "batch_size": BATCH_BYTES,
        "reader": {"mode": "tailx", "log_path": "${CLOUDSCHED_LOGS}/spool/*.log", "stat_interval": "200ms"},
        "parser": {"type": "json"},
        "senders": [{
            "sender_type": "http", "name": "cloudsched", "http_sender_url": "${CLOUDSCHED_COLLECT}",
            "http_sender_protocol": "ndjson", "http_sender_gzip": "true", "http_sender_max_pause": "10s",
            "http_sender_authorization_file": "${CLOUDSCHED_AUTHORIZATION}",
            "max_disk_used_bytes": str(_conf.settings.logkit.node_queue_mb << 20)}],
    }


def _masters(settings: Settings, *, near: bool) -> list[str]:
    """Where a node's log agent registers. Not on loopback of a machine that is not its own."""
    given = [url.strip() for url in settings.logkit.node_masters.split(",") if url.strip()]
    listener = settings.listener("logkit")
    if given or listener is None or not settings.logkit.enable:
        return given
    if near:
        return [f"http://127.0.0.1:{listener.port}"]
    host = urlsplit(settings.native_url).hostname or ""
    if not host or _is_loopback(host) or _is_loopback(listener.host):
        return []
    return [f"http://{f'[{host}]' if ':' in host else host}:{listener.port}"]


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# what a node reports of its runners


def report(bearer: str, body: bytes) -> dict[str, Any]:
    """How far a node's log agent has come; answers what is wanted of it now: {"logs": object or null}. Raises Invalid."""
    number = _admitted(bearer)
    try:
        said = _state.decode(body or b"{}")
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"the body is not JSON: {error}") from None
    agent = logagents.by_url(read(), address_of(number))
    if agent is not None:
        results = [result for target in runner_rows.targets(agent_id=agent.id)
                   if (result := _outcome(target, said.runners)) is not None]
        if results and _conf is not None:
            most = _conf.settings.logkit.attempts_max
            write(lambda tx: _settle(tx, results, most=most))
    return {"logs": told(number)}


def _outcome(target: runner_rows.Target, said: dict[str, Report]) -> Result | None:
    """What is new about a target; None when nothing is."""
    from cloudsched.services import runners_act
    from cloudsched.services.runners_act import Result

    if target.state == "by_hand":
        return None
    one = said.get(target.name)
    if target.want == "absent":
        return Result(target, runners_act.GONE) if one is None else None
    if one is None or one.hash != target.hash:
        return None
    if one.state == "applied":
        return Result(target, runners_act.APPLIED, changed=True) if target.state != "applied" else None
    reason = one.reason[:1000] or "it was refused"
    return Result(target, runners_act.REFUSED, reason) if (target.state, target.reason) != ("failed", reason) else None


def _settle(tx: Tx, results: list[Result], *, most: int) -> None:
    from cloudsched.services import runners_act

    for result in results:
        runners_act.settle(tx, result, at=clock.now(), attempts_max=most)


# what a node delivers


def accept(bearer: str, body: bytes, *, batch_id: str = "", kind: str = "", encoding: str = "") -> dict[str, Any]:
    """Keep a batch of records: {"kept", "dropped", "repeated"}. A batch that is here already is acknowledged again.

    `kind`: content type, NDJSON or a JSON array. Raises Unauthenticated, Forbidden (logs of this node are not collected),
    Invalid, TooLarge, RateLimited, Unavailable (the disk will not have it).
    """
    number = _admitted(bearer)
    node = nodes.get(number)
    cloud = clouds.get(node.cloud_id) if node is not None else None
    if node is None or _conf is None or not tag_of(cloud):
        raise Forbidden("logs of this node are not collected")
    if len(batch_id) > ID_MAX or not batch_id.isascii() or (batch_id and not batch_id.isprintable()):
        raise Invalid.at("X-Batch-Id", "cannot be used", f"at most {ID_MAX} printable ASCII characters")
    data = _unpacked(body, encoding)
    _spend(number, len(data))
    given = _records(data, kind)
    logkit = _conf.settings.logkit
    folder = _conf.folders.of(cloud.name if cloud else "", node.name)
    limits = logfiles.Limits(logkit.node_file_mb << 20, max(logkit.node_keep_mb, logkit.node_file_mb) << 20)
    try:
        made = folder.append(batch_id, given, at=clock.now(), limits=limits)
        _name_folder(folder.path, node, cloud)
    except OSError as error:
        raise Unavailable(f"logs cannot be kept: {error.strerror}") from None
    return {"kept": made.kept, "dropped": made.dropped, "repeated": made.repeated}


def _admitted(bearer: str) -> int:
    """The node of a bearer, whatever its state: last words are taken from one that is gone too."""
    number, secret_hash = bearer_of(bearer)
    check_secret(read(), number, secret_hash)
    return number


def _name_folder(folder: Path, node: Node, cloud: Cloud | None) -> None:
    facts = {"id": node.id, "node": node.name, "cloud": cloud.name if cloud else ""}
    if logfiles.read_note(folder, "node.json") != facts:
        logfiles.write_note(folder, "node.json", facts)


def _unpacked(body: bytes, encoding: str) -> bytes:
    if len(body) > BODY_MAX:
        raise TooLarge(f"a batch may have {BODY_MAX} bytes")
    if encoding.lower() not in ("", "identity", "gzip"):
        raise Invalid.at("Content-Encoding", f"{encoding[:40]!r} is not taken", "gzip, identity")
    if encoding.lower() != "gzip":
        return body
    stream = zlib.decompressobj(31)
    try:
        data = stream.decompress(body, UNPACKED_MAX + 1)
    except zlib.error as error:
        raise Invalid(f"the body is not gzip: {error}") from None
    if len(data) > UNPACKED_MAX:
        raise TooLarge(f"a batch may have {UNPACKED_MAX} bytes when it is unpacked")
    if not stream.eof:
        raise Invalid("the body is not gzip: it ends too early")
    return data


def _records(data: bytes, kind: str) -> list[logfiles.Given]:
    try:
        data.decode()
        if kind.partition(";")[0].strip().lower() == "application/json":
            raws = [bytes(one).replace(b"\n", b" ").replace(b"\r", b" ") for one in _array.decode(data)] if data else []
        else:
            raws = [line for line in data.replace(b"\r\n", b"\n").split(b"\n") if line.strip()]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"the body is not JSON records: {error}") from None
    if len(raws) > RECORDS_MAX:
        raise TooLarge(f"a batch may have {RECORDS_MAX} records")
    found = []
    for index, raw in enumerate(raws):
        if len(raw) > RECORD_MAX:
            raise TooLarge(f"record {index} has {len(raw)} bytes; at most {RECORD_MAX} are allowed")
        try:
            found.append(logfiles.Given(raw, logfiles.parse(raw)))
        except (ValueError, RecursionError) as error:
            raise Invalid.at(f"[{index}]", f"is no record: {error}", "a JSON object") from None
    return found


# node -> (bytes that it may send at once, when that was)
_buckets: dict[int, tuple[float, float]] = {}
_bucket_turn = threading.Lock()


def _spend(number: int, size: int) -> None:
    """Raises RateLimited when a node sends more than its rate for long. A batch is taken when the bucket is not empty."""
    assert _conf is not None
    rate = _conf.settings.logkit.node_rate_mb * (1 << 20)
    now = time.monotonic()
    with _bucket_turn:
        if len(_buckets) > 100_000:
            _buckets.clear()
        left, since = _buckets.get(number, (rate * BURST_S, now))
        left = min(rate * BURST_S, left + (now - since) * rate)
        if left < 0:
            raise RateLimited("too many bytes of logs in too short a time", retry_after_s=-left / rate)
        _buckets[number] = (left - size, now)


# the end of a machine


def flushed(bearer: str) -> dict[str, Any]:
    """The node has delivered everything: a machine that is to be destroyed need not be waited for any longer."""
    number = _admitted(bearer)
    node = nodes.get(number)
    if node is not None and _conf is not None:
        cloud = clouds.get(node.cloud_id)
        folder = logfiles.folder_of(root(), cloud.name if cloud else "", node.name)
        if folder.is_dir():
            with contextlib.suppress(OSError):
                logfiles.write_note(folder, "flushed.json", clock.now())
        write(lambda tx: nodes.update(tx, number, where="state = 'stopping' AND lease_holder = ''", lease_until=0.0))
    return {"flushed": True}


def wait_until(tx: Tx, number: int, at: float) -> float:
    """Until when a machine that is to be destroyed is left to deliver its logs; 0: there is nothing to wait for."""
    if _conf is None:
        return 0.0
    row = nodes.contact(tx, number)
    if row is None or row[10] is None or row[11] is None or at - row[11] > max(5.0, 3 * rules.heartbeat_s):
        return 0.0
    cloud = clouds.get(row[9])
    if cloud is None or cloud.kind in UNDRIVEN or not tag_of(cloud):
        return 0.0
    node = nodes.get(number)
    done = logfiles.read_note(logfiles.folder_of(root(), cloud.name, node.name), "flushed.json") if node else None
    return 0.0 if isinstance(done, (int, float)) and done > row[10] else at + _conf.settings.logkit.node_flush_s


def forget(settings: Settings) -> int:
    """Retention by age and size, of all nodes; returns how many files went."""
    logkit = settings.logkit
    before = clock.now() - logkit.node_keep_days * DAY_S if logkit.node_keep_days else 0.0
    return logfiles.forget(Path(settings.state.dir) / FOLDER, before=before, most_bytes=logkit.nodes_keep_mb << 20)
