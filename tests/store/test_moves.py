"""Is every legal change of state possible, and no other? Generated from the MOVES tables."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from cloudsched.domain import moves as legal
from cloudsched.store import clouds, db, events, jobs, nodes, shapes
from cloudsched.store.moves import move

SHAPE: dict[str, Any] = {"source": "queue", "user": "ada", "vm_type": "t", "cores": 1, "memory_mb": 1, "storage_gb": 0,
                         "network": "", "high_priority": 0, "placement": {}}
NUMBERS = itertools.count()


def make(tx: db.Tx, table: str, state: str) -> int:
    if table == "node":
        return nodes.insert(tx, {"name": f"n{next(NUMBERS)}", "cloud_id": 1, "state": state}, at=1.0)
    number = jobs.allocate(tx, "job", 1)
    shape = shapes.ensure(tx, SHAPE)
    jobs.insert(tx, [(number, "queue", "k", 1, 0, "", "", "ada", "", "noop", shape, state, 0, 0, 0.0, None, 0, "cancel", None,
                      1.0, 1.0, "{}", "{}", None)], at=1.0, actor="t")
    return number


@pytest.mark.parametrize("table", ["job", "node"])
def test_a_move_is_taken_exactly_when_the_table_says_so(database: db.Database, table: str) -> None:
    moves = legal.ALL[table]
    for state, event in itertools.product(moves, sorted({event for found in moves.values() for event in found})):
        number = database.write(lambda tx, state=state: make(tx, table, state))
        before = events.last_id()
        done = database.write(lambda tx, n=number, event=event: move(tx, table, n, event, at=2.0, note={"why": "test"}))
        expected = moves[state].get(event)
        assert done is (expected is not None), (state, event)
        assert database.read().value(f"SELECT state FROM {table} WHERE id = ?", (number,)) == (expected or state)
        assert [e.kind for e in events.since(before)] == ([f"{table}.{event}"] if done else [])


def test_every_event_leads_to_one_state() -> None:
    for table, moves in legal.ALL.items():
        for event in {e for m in moves.values() for e in m}:
            assert legal.target(moves, event) in moves, table
    with pytest.raises(ValueError, match="leads to nothing"):
        legal.target(legal.JOB, "explode")


def test_a_lease_that_is_not_held_any_more_moves_nothing(database: db.Database) -> None:
    number = database.write(lambda tx: nodes.insert(tx, {"name": "n", "cloud_id": 1, "state": "requested"}, at=1.0))
    claimed = database.write(lambda tx: nodes.claim(tx, "state = 'requested'", (), holder="a", at=10.0, lease_s=5, limit=9))
    assert [n.id for n in claimed] == [number]
    assert not database.write(lambda tx: nodes.claim(tx, "state = 'requested'", (), holder="b", at=12.0, lease_s=5, limit=9))
    assert not database.write(lambda tx: move(tx, "node", number, "boot", at=12.0, lease="b"))
    assert not database.write(lambda tx: move(tx, "node", number, "boot", at=16.0, lease="a"))
    assert database.write(lambda tx: move(tx, "node", number, "boot", at=12.0, lease="a"))


def test_a_guard_that_does_not_hold_moves_nothing(database: db.Database) -> None:
    number = database.write(lambda tx: make(tx, "job", "held"))
    guard = ("state IN ('pending')", ())
    assert not database.write(lambda tx: move(tx, "job", number, "cancel", at=2.0, guard=guard))


def test_clouds_are_found_in_any_case(database: db.Database) -> None:
    database.write(lambda tx: clouds.insert(tx, {"name": "alpha", "kind": "Fake", "max_slots": 3}, at=1.0))
    found = clouds.by_name("ALPHA")
    assert found is not None
    assert (found.name, found.max_slots, found.memory_mb, found.enabled) == ("alpha", 3, -1, 0)
