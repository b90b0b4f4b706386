"""How do agents speak to us? `/api/v2/agent/...`, without a framework: this is the hot path of the whole system.

Specs of claimed jobs are JSON text in the database and go out as they are (docs/design/agent-protocol.md).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cloudsched.dialects.native import peer, wire
from cloudsched.dialects.native.problems import HttpProblem
from cloudsched.dialects.native.wire import JSON, Answer
from cloudsched.errors import Conflict, Gone, Unauthenticated
from cloudsched.incoming import Environ, read_body
from cloudsched.services import agent_files, agents, joining, nodelogs
from cloudsched.services.agent_rules import rules

PREFIX = "/api/v2/agent/"
SYNC = PREFIX + "sync"
PROGRAM = "/agent.pyz"  # the agent as one file, for machines that have nothing but Python
_encode = msgspec.json.Encoder().encode


def answer(environ: Environ, path: str, max_body: int) -> Answer:
    """The answer to one call; `path` is raw. Raises CloudschedError kinds."""
    name = path[len(PREFIX):]
    method = environ["REQUEST_METHOD"]
    if name.startswith("files/"):
        return _files(environ, name[len("files/"):], method)
    route = _POSTS.get(name)
    if route is None:
        raise HttpProblem(404, f"there is nothing at {path[:200]}")
    if method != "POST":
        raise HttpProblem(405, f"{method} is not possible here", headers=[("Allow", "POST")])
    return route(environ, max_body)


def program(environ: Environ) -> Answer:
    """GET /agent.pyz: the bytes, and their digest as ETag (`If-None-Match` answers 304)."""
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        raise HttpProblem(405, f"{environ['REQUEST_METHOD']} is not possible here", headers=[("Allow", "GET, HEAD")])
    content, digest = agent_files.agent_program()
    tag = f'"{digest}"'
    known = environ.get("HTTP_IF_NONE_MATCH", "")
    if known.strip() == "*" or tag in [part.strip().removeprefix("W/") for part in known.split(",")]:
        return 304, [("ETag", tag)], []
    return 200, [("Content-Type", "application/octet-stream"), ("ETag", tag)], [content]


def _join(environ: Environ, max_body: int) -> Answer:
    try:
        made = joining.join(read_body(environ, max_body), environ.get("REMOTE_ADDR", ""))
    except Gone as error:
        raise Conflict(error.message) from None
    return 201, JSON, [_encode(made)]


def _sync(environ: Environ, max_body: int) -> Answer:
    reply = agents.sync(_bearer(environ), read_body(environ, max_body), gone=peer.gone(environ))
    return 200, JSON, [encode_reply(reply, rules.lease_s)]


def encode_reply(reply: agents.Reply, lease_s: float) -> bytes:
    """A reply as JSON; the specs pass through unparsed."""
    lease = b"%g" % lease_s
    jobs = b",".join([
        b'{"id":%d,"attempt":%d,"lease_s":%s,"spec":%s}' % (job.id, job.attempt, lease, job.spec.encode())
        for job in reply.jobs])
    more = b""
    if reply.ping:
        more += b',"ping":' + _encode(reply.ping)
    if reply.heartbeat_s is not None:
        more += b',"heartbeat_s":%d' % reply.heartbeat_s
    upgrade = _encode(reply.upgrade)
    return b'{"jobs":[%s],"refused":%s,"drop":%s,"goal":%s,"wait_s":%s,"upgrade":%s%s}' % (
        jobs, _encode(reply.refused), _encode(reply.drop), _encode(reply.goal), _encode(reply.wait_s), upgrade, more)


def _output(environ: Environ, _: int) -> Answer:
    pairs = wire.query(environ, ("job", "attempt", "stream", "offset"))
    job = wire.integer(pairs, "job", -1)
    attempt = wire.integer(pairs, "attempt", -1)
    offset = wire.integer(pairs, "offset", 0)
    stream = wire.single(pairs, "stream") or "stdout"
    data = read_body(environ, agent_files.PIECE_MAX)
    return 200, JSON, [_encode(agent_files.put_output(_bearer(environ), job, attempt, stream, offset, data))]


def _files(environ: Environ, rest: str, method: str) -> Answer:
    """GET JOB/NAME (an input file), PUT JOB/ATTEMPT/NAME (a piece of an output file)."""
    if method not in ("GET", "PUT"):
        raise HttpProblem(405, f"{method} is not possible here", headers=[("Allow", "GET, PUT")])
    job, _, rest = rest.partition("/")
    bearer = _bearer(environ)
    number = wire.whole("job", job)
    if method == "GET":
        size, pieces = agent_files.get_input(bearer, number, wire.decoded(rest))
        return 200, [("Content-Type", "application/octet-stream"), ("Content-Length", str(size))], pieces
    attempt, _, name = rest.partition("/")
    pairs = wire.query(environ, ("offset", "final"))
    offset = wire.integer(pairs, "offset", 0)
    data = read_body(environ, agent_files.PIECE_MAX)
    made = agent_files.put_file(bearer, number, wire.whole("attempt", attempt), wire.decoded(name), offset, data)
    return 200, JSON, [_encode(made)]


def _logs(environ: Environ, _: int) -> Answer:
    """A batch of records, or (`final=1`) the word that there will be no more."""
    pairs = wire.query(environ, ("final",))
    bearer, get = _bearer(environ), environ.get
    if wire.flag(pairs, "final"):
        return 200, JSON, [_encode(nodelogs.flushed(bearer))]
    body = read_body(environ, nodelogs.BODY_MAX)
    made = nodelogs.accept(bearer, body, batch_id=get("HTTP_X_BATCH_ID", ""), kind=get("CONTENT_TYPE", ""),
                           encoding=get("HTTP_CONTENT_ENCODING", ""))
    return 200, JSON, [_encode(made)]


def _logs_state(environ: Environ, max_body: int) -> Answer:
    return 200, JSON, [_encode(nodelogs.report(_bearer(environ), read_body(environ, max_body)))]


def _bearer(environ: Environ) -> str:
    scheme, _, value = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("the node's secret is missing (Authorization: Bearer ...)")
    return str(value.strip())


_POSTS: dict[str, Callable[[Environ, int], Answer]] = {
    "join": _join, "sync": _sync, "output": _output, "logs": _logs, "logs/state": _logs_state}
