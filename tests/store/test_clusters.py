"""How are clusters kept: made, leased, moved, listed; and a node in one of them at a time."""

from __future__ import annotations

from typing import Any

import pytest

from cloudsched.store import clusters
from cloudsched.store.db import Database
from cloudsched.store.moves import move

AT = 1000.0


def made(database: Database, key: str, **values: Any) -> int:
    facts = {"key": key, "name": key, "kind": "spark", "origin": "dcluster", "org": "ads", **values}
    return database.write(lambda tx: clusters.insert(tx, facts, at=AT))


def test_a_key_is_one_cluster(database: Database) -> None:
    number = made(database, "spark-dev-ads-1", workers_wanted=2)
    found = clusters.by_key("spark-dev-ads-1")
    assert found is not None and (found.id, found.state, found.goal, found.workers_wanted) == (number, "pending", "run", 2)
    with pytest.raises(Exception, match=r"(?i)unique"):
        made(database, "spark-dev-ads-1")


def test_a_lease_is_one_holders(database: Database) -> None:
    numbers = [made(database, f"c{index}") for index in range(3)]
    made(database, "other", origin="kboss")

    def take(holder: str, at: float) -> list[int]:
        return [one.id for one in database.write(
            lambda tx: clusters.claim(tx, "dcluster", holder=holder, at=at, lease_s=30, limit=2))]

    assert (take("a", AT), take("b", AT), take("b", AT)) == (numbers[:2], numbers[2:], [])
    assert not database.write(lambda tx: clusters.update(tx, numbers[0], at=AT + 1, lease="b", workers_ready=1))
    assert database.write(lambda tx: clusters.update(tx, numbers[0], at=AT + 1, lease="a", workers_ready=1))
    assert not database.write(lambda tx: clusters.update(tx, numbers[0], at=AT + 31, lease="a", workers_ready=2))
    assert take("c", AT + 31) == numbers[:2]
    assert database.write(lambda tx: clusters.unlease(tx, numbers[0], holder="c", not_before=AT + 100))
    assert take("d", AT + 62) == numbers[1:]
    assert sorted(take("e", AT + 100) + take("e", AT + 100)) == numbers


def test_what_is_wanted_gone_is_due_at_once(database: Database) -> None:
    number = made(database, "c", not_before=AT + 500)
    ask = lambda: database.write(lambda tx: clusters.want_end(tx, number, at=AT, actor="ada", reason="asked for"))  # noqa: E731
    assert (ask(), ask()) == (True, False)
    (found,) = database.write(lambda tx: clusters.claim(tx, "dcluster", holder="a", at=AT, lease_s=30, limit=5))
    assert (found.goal, found.not_before) == ("end", 0.0)
    for event in ("terminate", "end"):
        assert database.write(lambda tx, event=event: move(tx, "cluster", number, event, at=AT + 1))
    gone = clusters.get(number)
    assert gone is not None and (gone.state, gone.ended_at) == ("terminated", AT + 1)
    assert not ask()
    assert database.write(lambda tx: clusters.claim(tx, "dcluster", holder="a", at=AT + 90, lease_s=30, limit=5)) == []


def test_pages_and_filters(database: Database) -> None:
    numbers = [made(database, f"c{index}", kind="flink" if index % 2 else "spark") for index in range(5)]
    assert [one.id for one in clusters.find(limit=3)] == numbers[:1:-1]
    assert [one.id for one in clusters.find(limit=3, after=numbers[2])] == numbers[1::-1]
    assert [one.id for one in clusters.find(kind="flink", org="ads")] == [numbers[3], numbers[1]]
    assert clusters.find(states=("running",)) == []


def test_a_node_is_in_one_cluster_at_a_time(database: Database) -> None:
    one, two = made(database, "one"), made(database, "two")
    add = lambda number: database.write(  # noqa: E731
        lambda tx: clusters.add_node(tx, number, 7, role="worker", name="w1", at=AT))
    assert (add(one), add(one), add(two)) == (True, False, False)
    assert clusters.members(one) == [(7, "worker", "w1", AT)]
    assert clusters.of_nodes([7, 8]) == {7: (one, "one", "worker")}
    assert database.write(lambda tx: clusters.remove_node(tx, one, 7, at=AT))
    assert add(two)
    assert clusters.of_nodes(range(2000)) == {7: (two, "two", "worker")}
