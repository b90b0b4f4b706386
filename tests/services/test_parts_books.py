"""Whatever hosts do and people buy, in any order: books are the sum of both, and what is refused changes nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudsched.domain.stock import Amount, StockInUse, StockShort, merged
from cloudsched.services.centre import parts
from cloudsched.store.db import Database, write

CLUSTERS = ("", "c1", "c2")
SIZES = st.fixed_dictionaries({"cpu_model": st.just("X"), "cpu_stock": st.integers(0, 4), "memory_model": st.just("M"),
                               "memory_stock": st.integers(0, 4), "sysdisk_stock": st.just(0),
                               "datadisk_stock": st.integers(0, 2), "gpu_model": st.sampled_from("AB"),
                               "gpu_stock": st.integers(0, 2)})
WANTED = st.lists(st.builds(Amount, st.just("cpu"), st.just("X"), st.integers(0, 3000))
                  | st.builds(Amount, st.just("gpu"), st.sampled_from("AB"), st.integers(0, 2)), max_size=3)
STEPS = st.lists(st.one_of(
    st.tuples(st.just("host"), st.integers(0, 3), st.none() | st.tuples(st.sampled_from(CLUSTERS), SIZES)),
    st.tuples(st.just("buy"), st.sampled_from(CLUSTERS), WANTED),
    st.tuples(st.just("give back"), st.integers(0, 9), st.none())), max_size=25)


class World:
    """The hosts there are and what was bought, as a plain model beside the books."""

    def __init__(self, centre: str) -> None:
        self.centre = centre
        self.hosts: dict[int, tuple[str, dict[str, Any]]] = {}
        self.bought: list[tuple[str, list[Amount]]] = []

    def free(self, cluster: str) -> Counter[tuple[str, str]]:
        left: Counter[tuple[str, str]] = Counter()
        for where, sizes in self.hosts.values():
            left.update(merged(parts.of_host(sizes)) if where == cluster else {})
        for where, wanted in self.bought:
            left.subtract(merged(wanted) if where == cluster else {})
        return left

    def host(self, number: int, after: tuple[str, dict[str, Any]] | None) -> None:
        before = self.hosts.get(number)
        places = [(place[0], parts.of_host(place[1])) if place else None for place in (before, after)]
        changed = {**self.hosts, number: after} if after else {key: host for key, host in self.hosts.items() if key != number}
        there, self.hosts = self.hosts, changed  # type: ignore[assignment]
        allowed = all(much >= 0 for cluster in CLUSTERS for much in self.free(cluster).values())
        try:
            write(lambda tx: parts.move_host(tx, self.centre, before=places[0], after=places[1], actor="t"))
        except StockInUse:
            assert not allowed
            self.hosts = there
        else:
            assert allowed

    def buy(self, cluster: str, wanted: list[Amount]) -> None:
        free = self.free(cluster)
        allowed = all(much <= free[key] for key, much in merged(wanted).items())
        try:
            write(lambda tx: parts.consume(tx, self.centre, cluster, wanted, actor="t"))
        except StockShort as short:
            assert not allowed and short.stock == max(0, free[short.type, short.model]) < short.asked
        else:
            assert allowed
            self.bought.append((cluster, wanted))

    def give_back(self, number: int) -> None:
        if self.bought:
            cluster, wanted = self.bought.pop(number % len(self.bought))
            write(lambda tx: parts.release(tx, self.centre, cluster, wanted, actor="t"))

    def differences(self) -> list[parts.Difference]:
        hosts = [{**sizes, "cluster_key": cluster} for cluster, sizes in self.hosts.values()]
        bought = [(cluster, [[one.type, one.model, one.amount] for one in wanted]) for cluster, wanted in self.bought]
        return write(lambda tx: parts.rebuild(tx, self.centre, hosts=hosts, instances=bought, actor="t", dry_run=True))


_worlds = iter(range(10**9))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(STEPS)
def test_books_follow_every_sequence(sqlite_database: Database, steps: list[tuple[Any, ...]]) -> None:
    world = World(f"centre-{next(_worlds)}")
    for what, first, second in steps:
        if what == "host":
            world.host(first, second)
        elif what == "buy":
            world.buy(first, second)
        else:
            world.give_back(first)
    assert world.differences() == []
