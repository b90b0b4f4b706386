"""Is a content kept once, for as long as a job has it, and no longer?"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from cloudsched.store import db, inputs, jobs, migrations

BIG = bytes(range(256)) * 10_000
SMALL = b"x" * 100


def give(database: db.Database, job: int, **files: bytes) -> None:
    database.write(lambda tx: inputs.add(tx, [(job, name, inputs.content(data)) for name, data in files.items()]))


def ended(tx: db.Tx, numbers: Sequence[int]) -> None:
    jobs.insert(tx, [(n, "queue", "k", 1, 0, "", "", "ada", "", "noop", 1, "cancelled", 0, 0, 0.0, None, 0, "cancel", None,
                      1.0, 1.0, "{}", "{}", None) for n in numbers], at=1.0, actor="t")
    tx.many("UPDATE job SET ended_at = ? WHERE id = ?", [(float(n), n) for n in numbers])


def contents(database: db.Database) -> int:
    pieces = int(database.read().value("SELECT count(DISTINCT content_id) FROM content_piece"))
    rows = int(database.read().value("SELECT count(*) FROM content"))
    assert pieces == rows
    return rows


def whole(job: int, name: str) -> bytes:
    return b"".join(inputs.pieces(job, name))


def test_many_jobs_share_a_content(database: db.Database) -> None:
    give(database, 1, a=BIG, b=BIG, c=SMALL, d=b"")
    give(database, 2, a=BIG, e=BIG[1:])
    assert contents(database) == 2
    assert whole(1, "a") == whole(1, "b") == whole(2, "a") == BIG and whole(2, "e") == BIG[1:]
    assert (whole(1, "c"), whole(1, "d"), whole(2, "c")) == (SMALL, b"", b"")
    tx = database.read()
    assert inputs.names(tx, 1) == {"a", "b", "c", "d"} and inputs.names(tx, 2) == {"a", "e"}
    assert [inputs.size(tx, 1, name) for name in "abcde"] == [len(BIG), len(BIG), 100, 0, None]
    digest = tx.value("SELECT digest FROM content ORDER BY size DESC")
    assert digest == hashlib.sha256(BIG).hexdigest()


def test_a_content_goes_with_the_last_job_that_has_it(database: db.Database) -> None:
    database.write(lambda tx: ended(tx, [1, 2, 3]))
    give(database, 1, a=BIG, own=SMALL, only=BIG[1:])
    give(database, 2, a=BIG)
    database.write(lambda tx: inputs.copy(tx, 1, 3))
    assert whole(3, "a") == BIG and whole(3, "own") == SMALL and contents(database) == 2
    for before, left in ((2.0, 2), (3.0, 2), (4.0, 0)):
        assert database.write(lambda tx, before=before: jobs.forget(tx, before)) == 1
        assert contents(database) == left
    assert database.read().value("SELECT count(*) FROM job_input") == 0
    assert database.read().value("SELECT count(*) FROM job_data") == 0


def test_another_file_in_the_place_of_the_first(database: db.Database) -> None:
    give(database, 1, a=BIG)
    for data in (BIG[2:], SMALL, BIG, BIG):
        database.write(lambda tx: inputs.drop(tx, 1, "a"))
        give(database, 1, a=data)
        assert whole(1, "a") == data
    assert contents(database) == 1


def test_what_is_rolled_back_leaves_nothing(database: db.Database) -> None:
    def fail(tx: db.Tx) -> None:
        inputs.add(tx, [(1, "a", inputs.content(BIG))])
        raise RuntimeError

    with pytest.raises(RuntimeError):
        database.write(fail)
    assert contents(database) == 0 and inputs.names(database.read(), 1) == set()


def test_old_jobs_go_while_new_ones_come_for_the_same_content(database: db.Database) -> None:
    """Whoever is first: what a job has is there."""
    content = inputs.content(BIG)
    database.write(lambda tx: ended(tx, range(1, 41)))
    database.write(lambda tx: inputs.add(tx, [(1, "a", content)]))
    failures: list[BaseException] = []

    def come() -> None:
        try:
            for number in range(1, 41):
                if number > 1:
                    database.write(lambda tx, n=number: inputs.add(tx, [(n, "a", content)]))
                assert whole(number, "a") == BIG
                turn.wait(60)
        except BaseException as error:
            failures.append(error)
            turn.abort()
        finally:
            database.close_thread()

    turn = threading.Barrier(2)
    thread = threading.Thread(target=come)
    thread.start()
    try:
        for number in range(1, 41):
            turn.wait(60)
            database.write(lambda tx, n=number: jobs.forget(tx, n + 0.5))
    except threading.BrokenBarrierError:
        pass
    thread.join(60)
    assert not failures and contents(database) == 0


@pytest.mark.postgres
def test_a_content_stays_for_one_who_has_not_committed(pg_url: str) -> None:
    opened = db.open_database(pg_url, synchronous="OFF")
    migrations.migrate(opened)
    content = inputs.content(BIG)
    opened.write(lambda tx: inputs.add(tx, [(1, "a", content)]))
    referred, go_on = threading.Event(), threading.Event()

    def come(tx: db.Tx) -> None:
        inputs.add(tx, [(2, "a", content)])
        referred.set()
        go_on.wait(60)

    thread = threading.Thread(target=lambda: (opened.write(come), opened.close_thread()))
    thread.start()
    assert referred.wait(60)
    threading.Timer(0.2, go_on.set).start()
    opened.write(lambda tx: inputs.forget(tx, [1]))
    thread.join(60)
    assert whole(2, "a") == BIG and contents(opened) == 1
    opened.close()


def test_files_of_an_older_database_stay_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = db.open_database(f"sqlite:///{tmp_path / 'old.db'}", synchronous="OFF")
    with monkeypatch.context() as older:
        older.setattr(migrations, "STEPS", migrations.STEPS[:4])
        migrations.migrate(opened)
    opened.write(lambda tx: ended(tx, [1]))
    opened.write(lambda tx: jobs.append_output(tx, [(1, 0, "in/a", BIG)]))
    assert 5 in migrations.migrate(opened)
    assert inputs.size(opened.read(), 1, "a") == len(BIG) and whole(1, "a") == BIG
    opened.write(lambda tx: inputs.copy(tx, 1, 2))
    assert whole(2, "a") == BIG and inputs.names(opened.read(), 2) == {"a"}
    assert opened.write(lambda tx: jobs.forget(tx, 9.0)) == 1
    assert whole(1, "a") == b""
    opened.close()


def test_an_empty_stream_is_there_and_can_be_filled(database: db.Database) -> None:
    for _ in range(2):
        database.write(lambda tx: jobs.append_output(tx, [(1, 1, "out/a", b"")]))
    assert jobs.data_names(1) == [(1, "out/a", 0)]
    for piece in (b"x", b"y"):
        database.write(lambda tx, piece=piece: jobs.append_output(tx, [(1, 1, "out/a", piece)]))
    assert jobs.read_data(1, 1, "out/a") == b"xy" and jobs.data_names(1) == [(1, "out/a", 2)]
