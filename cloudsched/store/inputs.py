"""How are the input files of jobs kept? A content once, however many jobs have it; small ones with each job.

A content goes with the last job that has it. Whoever adds or removes a reference locks the content's row first (Postgres),
so that none goes while another job comes to it; rows are locked in the order of their digests, before events are written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from cloudsched.store.db import Tx, read

# Below this a reference takes about as much room as the bytes themselves.
SHARED_FROM_BYTES = 1024
PIECE_BYTES = 1 << 20
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes of a file, and their SHA-256 in hex; '' when they are too few to be shared."""

    data: bytes
    digest: str


def content(data: bytes) -> Content:
    """Bytes as they are kept: hashed here, once, for all jobs that get them."""
    return Content(data, hashlib.sha256(data).hexdigest() if len(data) >= SHARED_FROM_BYTES else "")


def add(tx: Tx, files: Sequence[tuple[int, str, Content]]) -> None:
    """Give (job, name, content) to jobs that have no file of that name yet."""
    small = [(job, f"in/{name}", len(one.data), one.data) for job, name, one in files if not one.digest]
    tx.many('INSERT INTO job_data (job_id, attempt, name, "offset", size, data) VALUES (?, 0, ?, 0, ?, ?)', small)
    shared = {one.digest: one for _, _, one in files if one.digest}
    ids = _keep(tx, shared)
    tx.many("INSERT INTO job_input (job_id, name, content_id) VALUES (?, ?, ?)",
            [(job, name, ids[one.digest]) for job, name, one in files if one.digest])


def _keep(tx: Tx, shared: dict[str, Content]) -> dict[str, int]:
    """digest -> number of contents, made unless they are here. The update that changes nothing locks the row."""
    ids: dict[str, int] = {}
    digests = sorted(shared)
    tx.many("INSERT INTO content (digest, size) VALUES (?, ?) ON CONFLICT (digest) DO UPDATE SET size = excluded.size",
            [(digest, len(shared[digest].data)) for digest in digests])
    for begin in range(0, len(digests), _AT_ONCE):
        part = digests[begin:begin + _AT_ONCE]
        rows = tx.all("SELECT c.id, c.digest, p.content_id FROM content c LEFT JOIN content_piece p ON p.content_id = c.id "
                      f'AND p."offset" = 0 WHERE c.digest IN ({_marks(part)})', part)
        ids.update((digest, number) for number, digest, _ in rows)
        fresh = ((number, shared[digest].data) for number, digest, there in rows if there is None)
        tx.many('INSERT INTO content_piece (content_id, "offset", size, data) VALUES (?, ?, ?, ?)',
                ((number, at, len(piece), piece) for number, data in fresh for at, piece in _cut(data)))
    return ids


def _cut(data: bytes) -> Iterator[tuple[int, bytes]]:
    for at in range(0, len(data), PIECE_BYTES):
        yield at, data[at:at + PIECE_BYTES]


def copy(tx: Tx, source: int, target: int) -> None:
    """The input files of one job, for another."""
    _lock(tx, [digest for _, digest in _contents_of(tx, [source])])
    tx.run('INSERT INTO job_data (job_id, attempt, name, "offset", size, data) SELECT ?, attempt, name, "offset", size, data '
           "FROM job_data WHERE job_id = ? AND attempt = 0", (target, source))
    tx.run("INSERT INTO job_input (job_id, name, content_id) SELECT ?, name, content_id FROM job_input WHERE job_id = ?",
           (target, source))


def names(tx: Tx, job_id: int) -> set[str]:
    """Input files that are here (an empty one, too)."""
    rows = tx.all("SELECT name FROM job_data WHERE job_id = ? AND attempt = 0", (job_id,))
    shared = tx.all("SELECT name FROM job_input WHERE job_id = ?", (job_id,))
    return {row[0].removeprefix("in/") for row in rows} | {row[0] for row in shared}


def size(tx: Tx, job_id: int, name: str) -> int | None:
    """Bytes of an input file; None when the job has none of that name."""
    found = tx.value("SELECT c.size FROM job_input i JOIN content c ON c.id = i.content_id WHERE i.job_id = ? AND i.name = ?",
                     (job_id, name))
    if found is None:
        found = tx.value("SELECT size FROM job_data WHERE job_id = ? AND attempt = 0 AND name = ?", (job_id, f"in/{name}"))
    return None if found is None else int(found)


def pieces(job_id: int, name: str) -> Iterator[bytes]:
    """The bytes of an input file, a part at a time."""
    offset = 0
    while piece := _piece(job_id, name, offset):
        yield piece
        offset += len(piece)


def _piece(job_id: int, name: str, offset: int) -> bytes:
    tx = read()
    found = tx.value('SELECT p.data FROM job_input i JOIN content_piece p ON p.content_id = i.content_id WHERE i.job_id = ? '
                     'AND i.name = ? AND p."offset" = ?', (job_id, name, offset))
    if found is None:
        found = tx.value("SELECT substr(data, ?, ?) FROM job_data WHERE job_id = ? AND attempt = 0 AND name = ?",
                         (offset + 1, PIECE_BYTES, job_id, f"in/{name}"))
    return b"" if found is None else bytes(found)


def drop(tx: Tx, job_id: int, name: str) -> None:
    """Take a file away, so that another can come in its place."""
    tx.run("DELETE FROM job_data WHERE job_id = ? AND attempt = 0 AND name = ?", (job_id, f"in/{name}"))
    sql = "SELECT c.id, c.digest FROM job_input i JOIN content c ON c.id = i.content_id WHERE i.job_id = ? AND i.name = ?"
    found = [(row[0], row[1]) for row in tx.all(sql, (job_id, name))]
    tx.run("DELETE FROM job_input WHERE job_id = ? AND name = ?", (job_id, name))
    _release(tx, found)


def forget(tx: Tx, ids: Sequence[int]) -> None:
    """The shared files of jobs that go, and with them each content that no other job has."""
    found = _contents_of(tx, ids)
    if found:
        tx.many("DELETE FROM job_input WHERE job_id = ?", [(number,) for number in ids])
        _release(tx, found)


def _contents_of(tx: Tx, ids: Sequence[int]) -> list[tuple[int, str]]:
    """(number, digest) of what these jobs have, in the order of the digests."""
    if not ids:
        return []
    sql = ("SELECT DISTINCT c.id, c.digest FROM job_input i JOIN content c ON c.id = i.content_id "
           f"WHERE i.job_id IN ({_marks(ids)}) ORDER BY c.digest")
    return [(row[0], row[1]) for row in tx.all(sql, ids)]


def _release(tx: Tx, found: Sequence[tuple[int, str]]) -> None:
    """Remove those of these contents that no job has. Asked under the lock: what another job took meanwhile stays."""
    for begin in range(0, len(found), _AT_ONCE):
        part = found[begin:begin + _AT_ONCE]
        _lock(tx, [digest for _, digest in part])
        free = tx.all(f"SELECT id FROM content WHERE id IN ({_marks(part)}) "
                      "AND NOT EXISTS (SELECT 1 FROM job_input WHERE content_id = content.id)", [number for number, _ in part])
        tx.many("DELETE FROM content_piece WHERE content_id = ?", free)
        tx.many("DELETE FROM content WHERE id = ?", free)


def _lock(tx: Tx, digests: Sequence[str]) -> None:
    if digests and tx.lock_rows:
        tx.all(f"SELECT id FROM content WHERE digest IN ({_marks(digests)}) ORDER BY digest{tx.lock_rows}", digests)


def _marks(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))
