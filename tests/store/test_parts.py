"""Books on SQLite and Postgres: fifty buyers at once oversell nothing; checks of the tables hold by themselves."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cloudsched.domain.stock import Amount, StockInUse, StockShort
from cloudsched.services.centre import parts
from cloudsched.store import parts as store
from cloudsched.store.db import Database

CENTRE, BUYERS = "centre-1", 50
CLUSTERS = ("c1", "c2")
HOST = {"cpu_model": "X", "cpu_stock": 8, "memory_model": "M", "memory_stock": 16, "sysdisk_stock": 100, "datadisk_stock": 0,
        "gpu_model": "G", "gpu_stock": 4}
HOSTS = [{**HOST, "cluster_key": cluster} for cluster in CLUSTERS for _ in range(2)]
WANTED = (Amount("cpu", "X", 1500), Amount("memory", "M", 1000), Amount("gpu", "G", 1))


def add_hosts(database: Database) -> None:
    for host in HOSTS:
        after = (host["cluster_key"], parts.of_host(host))
        database.write(lambda tx, after=after: parts.move_host(tx, CENTRE, before=None, after=after, actor="t"))


def at_once(database: Database, count: int, work: Callable[[int], Any]) -> list[Any]:
    together, found = threading.Barrier(count), []

    def run(number: int) -> None:
        together.wait(60)
        try:
            found.append(work(number))
        except BaseException as error:
            found.append(error)
        finally:
            database.close_thread()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def differences(database: Database, held: list[tuple[str, list[Amount]]], *, dry_run: bool = True) -> list[parts.Difference]:
    instances = [(cluster, [[one.type, one.model, one.amount] for one in amounts]) for cluster, amounts in held]
    return database.write(lambda tx: parts.rebuild(tx, CENTRE, hosts=HOSTS, instances=instances, actor="t", dry_run=dry_run))


def test_fifty_buyers_at_once_oversell_nothing(database: Database) -> None:
    """Each buys, gives some back, buys again, in both clusters and with the parts in another order."""
    add_hosts(database)
    held: list[tuple[str, list[Amount]]] = []
    guard = threading.Lock()

    def buy(number: int) -> int:
        chance, refused = random.Random(number), 0
        for _ in range(4):
            cluster = chance.choice(CLUSTERS)
            wanted = chance.sample(WANTED, chance.randint(1, 3))
            try:
                database.write(lambda tx, c=cluster, w=wanted: parts.consume(tx, CENTRE, c, w, actor=str(number)))
            except StockShort as short:
                assert short.asked > short.stock >= 0
                refused += 1
                continue
            with guard:
                held.append((cluster, wanted))
                back = held.pop(chance.randrange(len(held))) if chance.random() < 0.4 else None
            if back:
                database.write(lambda tx, b=back: parts.release(tx, CENTRE, b[0], b[1], actor=str(number)))
        return refused

    found = at_once(database, BUYERS, buy)
    assert all(isinstance(one, int) for one in found), found
    assert sum(found) > 0, "nobody was refused: the test asks for too little"
    for _, _, _, stock, by_hand, consumed in database.write(lambda tx: store.book_rows(tx, CENTRE)):
        assert 0 <= consumed <= stock and 0 <= by_hand <= stock
    assert differences(database, held) == []
    for cluster, amounts in held:
        database.write(lambda tx, c=cluster, a=amounts: parts.release(tx, CENTRE, c, a, actor="t"))
    assert not any(row[5] for row in database.write(lambda tx: store.book_rows(tx, CENTRE)))


def test_the_last_card_is_sold_once(database: Database) -> None:
    add_hosts(database)
    one = [Amount("gpu", "G", 3)]
    found = at_once(database, BUYERS, lambda number: database.write(
        lambda tx: parts.consume(tx, CENTRE, CLUSTERS[number % 2], one, actor="t")))
    sold = [error for error in found if error is None]
    assert len(sold) == 4 and sum(isinstance(error, StockShort) for error in found) == BUYERS - 4
    assert differences(database, [(cluster, one) for cluster in CLUSTERS for _ in range(2)]) == []


def test_hosts_come_and_go_while_others_buy(database: Database) -> None:
    add_hosts(database)
    amounts = parts.of_host(HOST)
    left: list[tuple[str, list[Amount]]] = []

    def act(number: int) -> None:
        cluster = CLUSTERS[number % 2]
        if number % 5:
            wanted = [Amount("gpu", "G", 1), Amount("cpu", "X", 1000)][::1 if number % 3 else -1]
            database.write(lambda tx: parts.consume(tx, CENTRE, cluster, wanted, actor="t"))
            left.append((cluster, wanted))
            return
        database.write(lambda tx: parts.move_host(tx, CENTRE, before=None, after=("", amounts), actor="t"))
        database.write(lambda tx: parts.move_host(tx, CENTRE, before=("", amounts), after=(cluster, amounts), actor="t"))
        database.write(lambda tx: parts.move_host(tx, CENTRE, before=(cluster, amounts), after=None, actor="t"))

    found = at_once(database, BUYERS, act)
    assert all(error is None or isinstance(error, StockShort | StockInUse) for error in found), found
    # A host that could not leave again is still there.
    stays = [number for number, error in enumerate(found) if isinstance(error, StockInUse)]
    rows = database.write(lambda tx: store.book_rows(tx, CENTRE))
    assert all(0 <= row[5] <= row[3] for row in rows)
    if not stays:
        assert differences(database, left) == []


def test_what_is_in_use_cannot_leave(database: Database) -> None:
    add_hosts(database)
    database.write(lambda tx: parts.consume(tx, CENTRE, "c1", [Amount("gpu", "G", 5)], actor="t"))
    amounts = parts.of_host(HOST)
    for after in (None, ("", amounts), ("c2", amounts)):
        with pytest.raises(StockInUse, match="gpu G of cluster c1") as caught:
            database.write(lambda tx, after=after: parts.move_host(tx, CENTRE, before=("c1", amounts), after=after, actor="t"))
        assert (caught.value.stock, caught.value.asked) == (3, 4), after
    assert differences(database, [("c1", [Amount("gpu", "G", 5)])]) == [], "a refused move changes nothing"


@pytest.mark.parametrize("change", ["consumed = -1", "consumed = stock + 1", "stock = -1", "by_hand = stock + 1", "by_hand = -1"])
def test_the_table_itself_refuses(database: Database, change: str) -> None:
    add_hosts(database)
    with pytest.raises(Exception, match=r"(?i)constraint"):
        database.write(lambda tx: tx.run(f"UPDATE part_stock SET {change}"))


def test_books_are_counted_again(database: Database) -> None:
    add_hosts(database)
    held = [("c1", [Amount("gpu", "G", 2)]), ("c2", [Amount("cpu", "X", 500), Amount("disk", "SYS", 10)])]
    for cluster, amounts in held:
        database.write(lambda tx, c=cluster, a=amounts: parts.consume(tx, CENTRE, c, a, actor="t"))
    database.write(lambda tx: tx.run("UPDATE part_stock SET consumed = 0"))
    database.write(lambda tx: tx.run("UPDATE part_stock SET stock = 1 WHERE cluster_key = 'c1' AND stock = 8"))
    database.write(lambda tx: tx.run("DELETE FROM part_stock WHERE part_id IN (SELECT id FROM part WHERE type = 'disk')"))
    found = differences(database, held, dry_run=False)
    assert parts.Difference("gpu", "G", "c1", (1, 8), (0, 2)) in found
    assert parts.Difference("disk", "SYS", "c2", (0, 200), (0, 10)) in found
    assert parts.Difference("cpu", "X", "c2", (16000, 16000), (0, 500)) in found
    assert differences(database, held) == []


def test_more_in_use_than_there_is_is_told_and_not_sold_again(database: Database) -> None:
    add_hosts(database)
    held = [("c1", [Amount("gpu", "G", 9)])]
    for _ in range(2):
        found = differences(database, held, dry_run=False)
        assert [(one.model, one.oversold) for one in found] == [("G", 1)]
    with pytest.raises(StockShort):
        database.write(lambda tx: parts.consume(tx, CENTRE, "c1", [Amount("gpu", "G", 1)], actor="t"))
