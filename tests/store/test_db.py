"""Are writes grouped, durable and apart from each other? Do events keep the order of commits?"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import psycopg
import pytest

from cloudsched.errors import Unavailable
from cloudsched.store import db, events, migrations, system


def test_migrating_twice_changes_nothing(database: db.Database) -> None:
    assert migrations.migrate(database) == []
    assert migrations.version(database) == len(migrations.STEPS)


def test_a_failed_write_leaves_the_others_of_its_group(database: db.Database) -> None:
    results: list[object] = []
    gate = threading.Barrier(8)

    def work(index: int) -> None:
        def fn(tx: db.Tx) -> int:
            system.put_setting(tx, f"k{index}", str(index))
            if index % 2:
                raise KeyError(index)
            return index

        gate.wait()
        try:
            results.append(database.write(fn))
        except KeyError:
            results.append("refused")
        database.close_thread()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=str) == [0, 2, 4, 6, *["refused"] * 4]
    kept = {row[0] for row in database.read().all("SELECT key FROM setting WHERE key LIKE 'k%'")}
    assert kept == {"k0", "k2", "k4", "k6"}


CLOSING = """
import sys, threading
from cloudsched.errors import Unavailable
from cloudsched.store import db

ends = []
for number in range(20):
    base = db.open_database(f"sqlite:///{sys.argv[1]}/{number}.db", synchronous="OFF")
    base.write(lambda tx: tx.run("CREATE TABLE entry (n)"))
    begun = threading.Semaphore(0)

    def work(base=base, begun=begun):
        try:
            while True:
                base.write(lambda tx: tx.run("INSERT INTO entry VALUES (1)"))
                begun.release()
        except Unavailable as error:
            ends.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun.acquire()
    base.close()
    for thread in threads:
        thread.join()
assert ends == ["the database is closed"] * 80, ends
"""


def test_closing_waits_for_writes_under_way_and_refuses_later_ones(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", CLOSING, str(tmp_path)], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_hooks_run_after_the_commit_and_not_after_a_rollback(database: db.Database) -> None:
    seen: list[str] = []

    def good(tx: db.Tx) -> None:
        system.put_setting(tx, "a", "1")
        tx.after.append(lambda: seen.append(system.setting("a")))

    def bad(tx: db.Tx) -> None:
        tx.after.append(lambda: seen.append("never"))
        raise ValueError

    database.write(good)
    with pytest.raises(ValueError):
        database.write(bad)
    assert seen == ["1"]


def test_nested_writes_join(database: db.Database) -> None:
    def outer(tx: db.Tx) -> None:
        db.write(lambda inner: system.put_setting(inner, "in", "1"))
        assert system.setting("in") == "1"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        database.write(outer)
    assert system.setting("in", "none") == "none"


def test_events_of_many_writers_become_visible_without_a_gap(database: db.Database) -> None:
    stop = threading.Event()
    seen: list[int] = []

    def write_some() -> None:
        for _ in range(60):
            database.write(lambda tx: [events.append(tx, "x", ("system", 0), at=1.0) for _ in range(3)])
        database.close_thread()

    def read_all() -> None:
        while not stop.is_set() or (seen and seen[-1] < events.last_id()):
            seen.extend(event.id for event in events.since(seen[-1] if seen else 0, limit=50))
        database.close_thread()

    reader = threading.Thread(target=read_all)
    writers = [threading.Thread(target=write_some) for _ in range(4)]
    reader.start()
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert seen == [row[0] for row in database.read().all("SELECT id FROM event ORDER BY id")]
    assert len(seen) == 4 * 60 * 3


def test_retention_never_removes_the_newest_event(database: db.Database) -> None:
    for at in (1.0, 2.0, 3.0):
        database.write(lambda tx, at=at: events.append(tx, "x", ("system", 0), at=at))
    newest = events.last_id()
    assert database.write(lambda tx: events.forget(tx, 100.0)) == 2
    assert [event.id for event in events.since(0)] == [newest]


def test_acknowledged_writes_survive_kill_9(database_url: str) -> None:
    script = textwrap.dedent("""
        import sys
        from cloudsched.store import db, migrations, system
        database = db.open_database(sys.argv[1])
        migrations.migrate(database)
        for number in range(10**6):
            database.write(lambda tx: system.put_setting(tx, "n", str(number)))
            print(number, flush=True)
    """)
    with subprocess.Popen([sys.executable, "-c", script, database_url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = -1
        for line in process.stdout:
            acknowledged = int(line)
            if acknowledged >= 200:
                process.kill()
                break
    opened = db.open_database(database_url)
    assert int(system.setting("n")) >= acknowledged
    opened.close()


def test_one_leads_and_the_other_takes_over_when_it_is_silent(database: db.Database) -> None:
    def take(holder: str, at: float) -> int | None:
        return database.write(lambda tx: system.take_lease(tx, "scheduler", holder, at=at, lease_s=10))

    assert take("a", 0) == 1
    assert take("b", 5) is None
    assert take("a", 8) == 1
    assert take("b", 17) is None
    assert take("b", 18.5) == 2
    assert take("a", 19) is None


def test_a_database_that_is_away_is_said_so(tmp_path: object) -> None:
    opened = db.open_database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(Unavailable, match="cannot be reached"):
        opened.write(lambda tx: None)
    opened.close()


@pytest.mark.postgres
def test_a_connection_lost_between_two_reads_is_opened_again(pg_url: str) -> None:
    opened = db.open_database(pg_url)
    migrations.migrate(opened)
    tx = opened.read()
    backend = tx.value("SELECT pg_backend_pid()")
    with psycopg.connect(pg_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", (backend,))
    with pytest.raises(Unavailable, match="away"):
        tx.value("SELECT 1")
    assert opened.read().value("SELECT 1") == 1
    opened.close()
