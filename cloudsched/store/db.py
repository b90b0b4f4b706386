"""How is the database reached? Connections per thread, write transactions (grouped on SQLite), hooks after commit.

SQLite: one writer at a time. Writers of one process queue up and whoever holds the lock commits for all of them
(group commit), so many small writes cost one fsync; between processes an advisory file lock replaces SQLite's sleeping
busy handler. Postgres: one transaction per write, retried when it lost a deadlock.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import IO, Any, TypeVar

from peewee import PostgresqlDatabase, SqliteDatabase

from cloudsched.errors import Unavailable
from cloudsched.store.tables import proxy

try:
    import psycopg

    _LOST: tuple[type[Exception], ...] = (sqlite3.OperationalError, psycopg.OperationalError, psycopg.InterfaceError)
    _RETRY: tuple[type[Exception], ...] = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
except ImportError:  # Postgres is an optional extra
    _LOST = (sqlite3.OperationalError,)
    _RETRY = ()

log = logging.getLogger(__name__)
T = TypeVar("T")
Row = tuple[Any, ...]

GROUP_LIMIT = 512
WRITER_CACHE_KB = -32 * 1024
PG_ATTEMPTS = 5
# One key for the whole installation: the order of event ids is the order of commits (see store/events.py).
EVENT_LOCK_KEY = 0x636C6F75


@lru_cache(maxsize=4096)
def _pg_sql(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")


class Tx:
    """SQL on one connection. `?` marks parameters on both databases."""

    __slots__ = ("_conn", "_on_lost", "after", "pg")

    def __init__(self, conn: Any, *, pg: bool, on_lost: Callable[[Exception], Exception] | None = None) -> None:
        self._conn = conn
        self._on_lost = on_lost
        self.pg = pg
        self.after: list[Callable[[], None]] = []

    def run(self, sql: str, args: Sequence[Any] = ()) -> Any:
        """Execute one statement; returns the cursor (iterate for rows; `.rowcount`)."""
        if not self.pg:
            return self._conn.execute(sql, args)
        try:
            return self._conn.execute(_pg_sql(sql), args)
        except _LOST as error:
            if self._on_lost is None:
                raise
            raise self._on_lost(error) from error

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute one statement for each row of arguments."""
        if self.pg:
            with self._conn.cursor() as cursor:
                cursor.executemany(_pg_sql(sql), list(rows))
        else:
            self._conn.executemany(sql, rows)

    def one(self, sql: str, args: Sequence[Any] = ()) -> Row | None:
        """The first row, or None."""
        row: Row | None = self.run(sql, args).fetchone()
        return row

    def all(self, sql: str, args: Sequence[Any] = ()) -> list[Row]:
        """All rows."""
        rows: list[Row] = self.run(sql, args).fetchall()
        return rows

    def value(self, sql: str, args: Sequence[Any] = ()) -> Any:
        """The first column of the first row, or None."""
        row = self.one(sql, args)
        return row[0] if row else None

    def using(self, index: str) -> str:
        """Name the index of a hot statement: SQLite has no statistics that tell it (Postgres finds it by itself)."""
        return "" if self.pg else f" INDEXED BY {index}"

    @property
    def for_update(self) -> str:
        """Row lock for claims: other claimers skip what is taken (SQLite needs none: it has one writer)."""
        return " FOR UPDATE SKIP LOCKED" if self.pg else ""

    @property
    def lock_rows(self) -> str:
        """Row lock that waits."""
        return " FOR UPDATE" if self.pg else ""


class _Pending:
    __slots__ = ("done", "error", "fn", "hooks", "result")

    def __init__(self, fn: Callable[[Tx], Any]) -> None:
        self.fn = fn
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.hooks: list[Callable[[], None]] = []


class Database:
    """One open database of this process."""

    def __init__(self, url: str, *, synchronous: str = "FULL") -> None:
        self.url = url
        self.pg = url.startswith(("postgresql://", "postgres://"))
        self._lock = threading.Lock()
        self._queue: deque[_Pending] = deque()
        self._local = threading.local()
        self._file_lock: IO[bytes] | None = None
        self._writer: Any = None
        self._peewee = self._open_pg(url) if self.pg else self._open_sqlite(url, synchronous)
        proxy.initialize(self._peewee)

    def _open_pg(self, url: str) -> Any:
        normal = "postgresql://" + url.split("://", 1)[1]
        return PostgresqlDatabase(normal, prefer_psycopg3=True, autoconnect=True)

    def _open_sqlite(self, url: str, synchronous: str) -> Any:
        path = url.removeprefix("sqlite:///").removeprefix("sqlite://")
        os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o700, exist_ok=True)
        new = not os.path.exists(path)
        self._file_lock = open(path + ".lock", "ab")  # noqa: SIM115 - kept open for the life of the process
        pragmas = {
            "journal_mode": "wal", "synchronous": synchronous, "busy_timeout": 30_000, "cache_size": -1024,
            "temp_store": "memory", "wal_autocheckpoint": 4000, "journal_size_limit": 64 * 1024 * 1024,
        }
        database = SqliteDatabase(path, pragmas=pragmas, timeout=30, autoconnect=True, check_same_thread=False)
        # One connection does all the writing: its page cache stays warm, and the readers' caches can be small.
        self._writer = database._connect()  # type: ignore[attr-defined]
        self._writer.execute(f"PRAGMA cache_size = {WRITER_CACHE_KB}")
        if new:
            os.chmod(path, 0o600)
        return database

    # reading

    def read(self) -> Tx:
        """SQL outside a transaction on this thread's connection (inside `write`: that transaction)."""
        current: Tx | None = getattr(self._local, "tx", None)
        return current or Tx(self._connection(), pg=self.pg, on_lost=self._lost)

    def _lost(self, error: Exception) -> Exception:
        """A read failed because the connection did: the next one opens a new one."""
        self.close_thread()
        return Unavailable(f"the database is away: {_first_line(error)}")

    @contextmanager
    def snapshot(self) -> Iterator[Tx]:
        """Several reads that see one state of the database."""
        tx = self.read()
        if getattr(self._local, "tx", None) is not None:
            yield tx
            return
        tx.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if self.pg else "BEGIN DEFERRED")
        try:
            yield tx
        finally:
            tx.run("ROLLBACK")

    # writing

    def write(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn(tx)` in a write transaction and return what it returns, committed and durable.

        `fn` must touch nothing but the database: it may run on another thread, and on Postgres more than once.
        Hooks in `tx.after` run after the commit. Nested calls join the transaction. Raises what `fn` raises (rolled
        back), or Unavailable when the database is away.
        """
        current: Tx | None = getattr(self._local, "tx", None)
        if current is not None:
            return fn(current)
        return self._write_pg(fn) if self.pg else self._write_sqlite(fn)

    def _write_pg(self, fn: Callable[[Tx], T]) -> T:
        for attempt in range(PG_ATTEMPTS):
            tx = Tx(self._connection(), pg=True)
            try:
                tx.run("BEGIN")
                self._local.tx = tx
                result = fn(tx)
                tx.run("COMMIT")
            except BaseException as error:
                self._local.tx = None
                self._abandon(tx)
                if isinstance(error, _RETRY) and attempt < PG_ATTEMPTS - 1:
                    continue
                if isinstance(error, _LOST):
                    raise Unavailable(f"the database is away: {_first_line(error)}") from error
                raise
            finally:
                self._local.tx = None
            _run_hooks(tx.after)
            return result
        raise Unavailable("the database kept refusing the transaction")  # pragma: no cover - loop always ends above

    def _write_sqlite(self, fn: Callable[[Tx], T]) -> T:
        item = _Pending(fn)
        self._queue.append(item)
        with self._lock:
            if not item.done:
                self._commit_group()
        if item.error is not None:
            raise item.error
        _run_hooks(item.hooks)
        result: T = item.result
        return result

    def _commit_group(self) -> None:
        group = [self._queue.popleft() for _ in range(min(len(self._queue), GROUP_LIMIT))]
        try:
            if self._file_lock is None:
                raise Unavailable("the database is closed")
            fcntl.flock(self._file_lock, fcntl.LOCK_EX)
            try:
                self._run_group(group)
            finally:
                fcntl.flock(self._file_lock, fcntl.LOCK_UN)
        except BaseException as error:
            self._fail_group(group, error)
        for item in group:
            item.done = True

    def _run_group(self, group: list[_Pending]) -> None:
        conn, state = self._writer, self._peewee._state
        reader = None if state.closed else state.conn
        conn.execute("BEGIN IMMEDIATE")
        state.set_connection(conn)
        try:
            for item in group:
                self._run_one(conn, item, alone=len(group) == 1)
            conn.execute("COMMIT")
        except BaseException:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            raise
        finally:
            state.reset()
            if reader is not None:
                state.set_connection(reader)

    def _run_one(self, conn: Any, item: _Pending, *, alone: bool) -> None:
        tx = Tx(conn, pg=False)
        self._local.tx = tx
        try:
            if not alone:
                conn.execute("SAVEPOINT one")
            item.result = item.fn(tx)
            item.hooks = tx.after
            if not alone:
                conn.execute("RELEASE one")
        except BaseException as error:
            if alone or isinstance(error, sqlite3.OperationalError):
                raise
            conn.execute("ROLLBACK TO one")
            conn.execute("RELEASE one")
            item.error = error
        finally:
            self._local.tx = None

    def _fail_group(self, group: list[_Pending], error: BaseException) -> None:
        shown = error
        if isinstance(error, sqlite3.OperationalError):
            shown = Unavailable(f"the database is away: {_first_line(error)}")
            shown.__cause__ = error
        for item in group:
            item.error = item.error or shown

    # connections

    def _connection(self) -> Any:
        try:
            return self._peewee.connection()
        except Exception as error:
            raise Unavailable(f"the database cannot be reached: {_first_line(error)}") from error

    def _abandon(self, tx: Tx) -> None:
        try:
            tx.run("ROLLBACK")
        except Exception:
            self.close_thread()

    def close_thread(self) -> None:
        """Close this thread's connection; the next use opens a new one."""
        try:
            self._peewee.close()
        except Exception as error:
            log.debug("closing a lost connection: %s", _first_line(error))
            self._peewee._state.reset()

    def close(self) -> None:
        """Close what is open once writes under way have ended; later ones raise Unavailable. Other threads keep their readers."""
        self.close_thread()
        with self._lock:  # closing a connection that another thread is using crashes the process
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            if self._file_lock is not None:
                self._file_lock.close()
                self._file_lock = None

    @property
    def orm(self) -> Any:
        """The peewee database (schema work only)."""
        return self._peewee


def _run_hooks(hooks: list[Callable[[], None]]) -> None:
    for hook in hooks:
        hook()


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__


_current: Database | None = None


def open_database(url: str, *, synchronous: str = "FULL") -> Database:
    """Open the database of this process (`sqlite:///path` or `postgresql://...`) and make it the current one."""
    global _current
    if _current is not None:
        _current.close()
    _current = Database(url, synchronous=synchronous)
    return _current


def current() -> Database:
    """The database opened by `open_database`."""
    if _current is None:
        raise RuntimeError("no database is open")
    return _current


def write(fn: Callable[[Tx], T]) -> T:
    """`Database.write` on the current database."""
    return current().write(fn)


def read() -> Tx:
    """`Database.read` on the current database."""
    return current().read()
