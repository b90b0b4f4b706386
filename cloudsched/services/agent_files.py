"""Which bytes go between a node and the server? Output streams and files of the jobs it holds, and the agent itself."""

from __future__ import annotations

from collections.abc import Iterator

from cloudsched.domain.submission import unsafe_name
from cloudsched.drivers import agentfile
from cloudsched.errors import Conflict, Invalid, NotFound, TooLarge
from cloudsched.services.agent_rules import bearer_of, check_secret, rules
from cloudsched.store import inputs, jobs
from cloudsched.store.db import Tx, read, write

PIECE_MAX = 1 << 20
NAME_MAX = 4096


def agent_program() -> tuple[bytes, str]:
    """(the agent as one file that Python runs, its SHA-256 in hex). It holds no secret: anybody may have it."""
    return agentfile.agent_pyz(), agentfile.agent_digest()


def put_output(bearer: str, job_id: int, attempt: int, stream: str, offset: int, data: bytes) -> dict[str, int]:
    """Append to a stream of a running job; what is there already is not written twice. Raises Conflict."""
    number, secret_hash = bearer_of(bearer)
    if stream not in ("stdout", "stderr"):
        raise Invalid.at("stream", f"{stream!r} is no stream", "stdout, stderr")
    return _put(number, secret_hash, job_id, attempt, stream, offset, data)


def put_file(bearer: str, job_id: int, attempt: int, name: str, offset: int, data: bytes) -> dict[str, int]:
    """Append to an output file of a running job."""
    number, secret_hash = bearer_of(bearer)
    if unsafe_name(name) or len(name) > NAME_MAX:
        raise Invalid.at("name", f"{name[:100]!r} is no plain name below a directory",
                         f"a relative path of at most {NAME_MAX} characters without empty parts, '.' and '..'")
    return _put(number, secret_hash, job_id, attempt, f"out/{name}", offset, data)


def _put(number: int, secret_hash: str, job_id: int, attempt: int, name: str, offset: int, data: bytes) -> dict[str, int]:
    if len(data) > PIECE_MAX:
        raise TooLarge(f"a piece may have {PIECE_MAX} bytes")
    return write(lambda tx: _append(tx, number, secret_hash, job_id, attempt, name, offset, data))


def _append(tx: Tx, number: int, secret_hash: str, job_id: int, attempt: int, name: str, offset: int,
            data: bytes) -> dict[str, int]:
    check_secret(tx, number, secret_hash)
    if not jobs.holds(tx, number, job_id, attempt=attempt, lock=True):
        raise Conflict("stale: the job is not this node's any more")
    size = jobs.data_size(tx, job_id, attempt, name)
    if offset > size:
        raise Conflict(f"a gap: {size} bytes are here", details={"size": size})
    fresh = data[size - offset:]
    room = rules.output_limit - size if not name.startswith("out/") else len(fresh)
    # An empty file comes as one empty piece; of streams nobody tells that they are empty.
    empty_file = not data and not size and name.startswith("out/")
    if (fresh and room > 0) or empty_file:
        jobs.append_output(tx, [(job_id, attempt, name, fresh[:room])])
        size += min(len(fresh), room)
    # What lies beyond the limit is dropped, and counted as if it were here: the agent need not send it again. It sends
    # nothing more of a stream once it knows that: that there was more is what can be kept of it.
    dropped = len(fresh) > max(0, room)
    if dropped:
        jobs.mark_cut(tx, job_id, attempt, name)
    return {"size": max(size, offset + len(data)) if dropped else size, "limit": rules.output_limit}


def get_input(bearer: str, job_id: int, name: str) -> tuple[int, Iterator[bytes]]:
    """(size, iterator of bytes) of an input file of a job in this node's hands. Raises NotFound."""
    number, secret_hash = bearer_of(bearer)
    tx = read()
    check_secret(tx, number, secret_hash)
    if not jobs.holds(tx, number, job_id):
        raise NotFound("the job is not this node's")
    size = inputs.size(tx, job_id, name)
    if size is None:
        raise NotFound(f"job {job_id} has no input file {name}")
    return size, inputs.pieces(job_id, name)
