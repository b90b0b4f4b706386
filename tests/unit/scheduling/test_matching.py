"""Which machine is which node?  (contract 7.3)"""

from __future__ import annotations

import pytest

from cloudsched.domain.scheduling.matching import (
    host_of,
    keep_previous,
    match_machines,
    same_host,
    slot_user,
)

from .build import node, slot


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("slot1@host.example.org", "host.example.org", True),
        ("slot1_3@HOST.example.org", "host.example.org", True),
        ("host", "host.example.org", True),
        ("host.a.org", "host.b.org", True),
        ("host1", "host", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("slot2@10.0.0.1", "10.0.0.1", True),
        ("fe80::1", "fe80::2", False),
        ("", "", False),
    ],
)
def test_host_names(one: str, other: str, same: bool) -> None:
    assert same_host(one, other) == same
    assert same_host(other, one) == same
    fleet = [node(1, hostname=other)]
    assert bool(match_machines(fleet, [slot(9, name=one, machine="")]).by_node) == same


def test_all_names_of_a_node_count() -> None:
    fleet = [node(1, hostname="a", alt_hostname="b", ip_address="10.0.0.1", registered_name="c.example.org")]
    for name in ("a.example.org", "slot1@b", "10.0.0.1", "c"):
        assert match_machines(fleet, [slot(9, name=name, machine="")]).by_node


def test_the_whole_name_wins_over_the_first_label() -> None:
    fleet = [node(1, hostname="host.a.org"), node(2, hostname="host.b.org")]
    matches = match_machines(fleet, [slot(9, name="slot1@host.b.org", machine="")])
    assert list(matches.by_node) == [2]
    assert match_machines(fleet, [slot(9, name="host.c.org", machine="")]).by_node == {}


def test_machine_and_name_are_both_looked_at() -> None:
    fleet = [node(1, hostname="real.example.org")]
    assert match_machines(fleet, [slot(9, name="slot1@odd", machine="real.example.org")]).by_node


def test_partitionable_parents_do_not_count() -> None:
    parent = slot(1, slot_type="Partitionable", total_slots=3)
    alone = slot(2, slot_type="Partitionable", total_slots=1)
    matches = match_machines([node(1), node(2), node(3)], [parent, alone, slot(3, slot_type="Dynamic")])
    assert sorted(matches.by_node) == [2, 3]
    assert matches.unmatched == []


def test_a_given_node_id_needs_no_names() -> None:
    matches = match_machines([node(1)], [slot(9, node_id=1), slot(8, node_id=77)])
    assert list(matches.by_node) == [1]
    assert [stray.name for stray in matches.strays()] == ["node8.example.org"]


def test_idle_and_claimed() -> None:
    machines = [slot(1), slot(2, busy=True), slot(2, number=2), slot(3, activity="Benchmarking")]
    matches = match_machines([node(1), node(2), node(3)], machines)
    assert [matches.idle(number) for number in (1, 2, 3, 4)] == [True, False, False, False]
    assert [matches.claimed(number) for number in (1, 2, 3, 4)] == [False, True, False, False]


def test_user_of_a_slot() -> None:
    assert slot_user("alice@example.org", "") == "alice"
    assert slot_user("", '( Owner == "bob" ) && true') == "bob"
    assert slot_user("", "START = true") == ""


def test_a_suddenly_empty_list_is_believed_after_three_polls() -> None:
    used, count = keep_previous([slot(1)], [], 0)
    for polls in (1, 2, 3):
        assert (len(used), count) == (1, polls)
        used, count = keep_previous(used, [], count)
    assert (list(used), count) == ([], 0)
    assert keep_previous([slot(1)], [slot(2)], 2)[1] == 0


def test_host_part() -> None:
    assert host_of("slot1@sub@Host.Example.org ") == "host.example.org"
