"""Which clouds can take a job, in which order, with which image?  (contract 7.7, B32 to B41)"""

from __future__ import annotations

import pytest

from cloudsched.domain.admission import Machine, admits, refusals
from cloudsched.domain.scheduling.board import Board
from cloudsched.domain.scheduling.demand import Waiting
from cloudsched.domain.scheduling.fit import called
from cloudsched.domain.scheduling.model import CloudView, Policy, Shape, Snapshot

from .build import cloud, group, node, nodes, shape


def board(*clouds: CloudView, fleet=(), aliases=None, policy=None) -> Board:
    return Board(Snapshot(clouds=clouds, nodes=fleet, aliases=aliases or {}), policy or Policy())


def names(rooms) -> list[str]:
    return [room.cloud.name for room in rooms]


def first_rule(pool: Board, what: Shape, name: str = "alpha", blocked=frozenset()) -> str:
    refusals = pool.fitting.refusals(what, blocked)[name]
    return refusals[0].rule if refusals else ""


@pytest.mark.parametrize(
    ("limits", "asks", "rule"),
    [
        ({"enabled": False}, {}, "disabled"),
        ({"max_slots": 0}, {}, "slots"),
        ({"requires_image": True}, {}, "image"),
        ({"requires_image": True}, {"images": {"default": "ami-1"}}, ""),
        ({"banned_images": frozenset({"bad"})}, {"images": {"alpha": "bad"}}, "image_ban"),
        ({"banned_images": frozenset({"bad"})}, {"images": {"alpha": "good"}}, ""),
        ({"max_node_memory_mb": 500}, {"memory_mb": 501}, "node_memory"),
        ({"max_node_memory_mb": 500}, {"memory_mb": 500}, ""),
        ({"max_memory_mb": 500}, {"memory_mb": 501}, "memory_total"),
        ({"cpu_cores": 4}, {"cores": 5}, "cores"),
        ({"cpu_cores": 4}, {"cores": 4}, ""),
        ({"cpu_cores": -1}, {"cores": 64}, ""),
        ({"max_storage_gb": 10}, {"storage_gb": 11}, "storage_total"),
        ({"networks": ("private",)}, {"network": "public"}, "network"),
        ({"networks": ("private", "public")}, {"network": "public"}, ""),
        ({"networks": ()}, {"network": "public"}, ""),
        ({"networks": ("private",)}, {}, ""),
        ({}, {"targets": ("beta",)}, "target"),
        ({}, {"targets": ("beta", "alpha")}, ""),
    ],
)
def test_one_rule_refuses(limits: dict, asks: dict, rule: str) -> None:
    pool = board(cloud(**limits))
    what = shape(**asks)
    assert first_rule(pool, what) == rule
    assert pool.fitting.fits_now(what) == (not rule)
    assert bool(pool.fitting.candidates(what)) == (not rule)


def test_remaining_memory_and_storage_are_what_the_active_nodes_leave() -> None:
    fleet = (node(1, memory_mb=600, storage_gb=6), node(2, memory_mb=9000, storage_gb=90, retired=True))
    pool = board(cloud(max_memory_mb=1000, max_storage_gb=10), fleet=fleet)
    assert first_rule(pool, shape(memory_mb=401)) == "memory"
    assert first_rule(pool, shape(memory_mb=400, storage_gb=5)) == "storage"
    assert first_rule(pool, shape(memory_mb=400, storage_gb=4)) == ""


def test_all_refusals_are_named_in_the_order_of_the_contract() -> None:
    pool = board(cloud(enabled=False, max_slots=0, max_node_memory_mb=100, cpu_cores=1, networks=("a",)))
    what = shape(memory_mb=200, cores=2, network="b", targets=("other",))
    refusals = pool.fitting.refusals(what, frozenset({"alpha"}))["alpha"]
    assert [refusal.rule for refusal in refusals] == [
        "target", "disabled", "blocked", "slots", "node_memory", "cores", "network",
    ]  # fmt: skip
    memory = refusals[4]
    assert (memory.have, memory.need) == (100, 200)
    assert memory.text == "alpha allows 100 MB per node; the job asks 200 MB."


def test_blocked_cloud_is_out_for_this_job_only() -> None:
    pool = board(cloud(), cloud("beta"))
    what = shape()
    assert names(pool.fitting.candidates(what, frozenset({"alpha"}))) == ["beta"]
    assert names(pool.fitting.candidates(what)) == ["alpha", "beta"]


def test_b32_targets_and_aliases_ignore_case() -> None:
    pool = board(
        cloud("alpha"), cloud("beta"), cloud("gamma"), aliases={"East": ["ALPHA", "Beta"], "x": ["no"]}
    )
    assert names(pool.fitting.candidates(shape(targets=("GAMMA",)))) == ["gamma"]
    assert names(pool.fitting.candidates(shape(targets=("eAST", "alpha", "unknown")))) == ["alpha", "beta"]
    assert names(pool.fitting.candidates(shape(targets=("unknown",)))) == []
    assert names(pool.fitting.candidates(shape(targets=("x",)))) == []


@pytest.mark.parametrize(
    ("targets", "wanted"),
    [
        ((" Alpha\t", "nope"), ["alpha"]),
        ((" EAST ",), ["alpha", "beta"]),
        (("", "  "), ["alpha", "beta", "gamma"]),
        (("gamma",), ["beta"]),
    ],
)
def test_who_is_booted_for_a_target_may_take_the_job(targets: tuple[str, ...], wanted: list[str]) -> None:
    aliases = {" East": ["alpha ", "Beta"], "gamma": "beta"}
    pool = board(cloud("alpha"), cloud("beta"), cloud("gamma"), aliases=aliases)
    what = shape(targets=targets)
    assert names(pool.fitting.candidates(what)) == wanted
    known = called(aliases, ["alpha", "beta", "gamma"])
    machines = {name: Machine("alice", "x", 1, 512, 0, cloud_names=known[name]) for name in known}
    assert [name for name, one in machines.items() if admits(one, what)] == wanted
    assert [name for name, one in machines.items() if not refusals(one, what)] == wanted


def test_b35_an_alias_that_is_a_plain_string_is_one_name() -> None:
    pool = board(cloud("a"), cloud("alpha"), aliases={"east": "Alpha"})
    assert names(pool.fitting.candidates(shape(targets=("east",)))) == ["alpha"]


def test_order_is_priority_then_fill_then_configuration() -> None:
    fleet = nodes(5, cloud="full")
    pool = board(
        cloud("last", priority=7), cloud("full", 10), cloud("big", 100), cloud("two", 100), fleet=fleet
    )
    assert names(pool.fitting.candidates(shape())) == ["big", "two", "full", "last"]


def test_b37_image_by_name_then_address_then_plain_then_defaults() -> None:
    policy = Policy(default_images={"alpha": "named-default", "default": "default"})
    pool = board(
        cloud("alpha", address="alpha.example.org", cloud_type="AmazonEC2", requires_image=True),
        policy=policy,
    )
    room = pool.capacity.rooms[0]

    def image(**images: str) -> str:
        return pool.fitting.choose(shape(images=images), room).image

    by_address = {"alpha.example.org": "address"}
    assert image(**{"Alpha": "name", "default": "plain", **by_address}) == "name"
    assert image(**{"default": "plain", **by_address}) == "address"
    assert image(default="plain") == "plain"
    assert image() == "named-default"
    assert (
        pool.fitting.choose(shape(), board(cloud("beta"), policy=policy).capacity.rooms[0]).image == "default"
    )


def test_image_list_may_name_an_alias() -> None:
    pool = board(cloud("alpha"), aliases={"east": ["alpha"]})
    what = shape(images={"EAST": "wide", "default": "plain"})
    assert pool.fitting.choose(what, pool.capacity.rooms[0]).image == "wide"


def test_instance_type_falls_back_to_the_configured_default() -> None:
    pool = board(cloud())
    room = pool.capacity.rooms[0]
    assert pool.fitting.choose(shape(), room).instance_type == "m1.small"
    assert pool.fitting.choose(shape(instance_types={"alpha": "c8"}), room).instance_type == "c8"


def test_security_groups_of_the_job_only_if_the_cloud_lists_them() -> None:
    pool = board(cloud(security_groups=("default", "web")))
    room = pool.capacity.rooms[0]
    assert pool.fitting.choose(shape(security_groups=("web", "no")), room).security_groups == ("web",)
    assert pool.fitting.choose(shape(security_groups=("no",)), room).security_groups == ("default", "web")
    assert pool.fitting.choose(shape(), room).security_groups == ("default", "web")


@pytest.mark.parametrize(
    ("of_job", "of_cloud", "expected"),
    [(None, 120, 120), (60, 120, 60), (0, 120, 0), (9000, 0, 3600), (None, 9000, 3600)],
)
def test_keep_alive_is_the_jobs_or_the_clouds_up_to_the_maximum(of_job, of_cloud, expected) -> None:
    pool = board(cloud(keep_alive_s=of_cloud))
    chosen = pool.fitting.choose(shape(keep_alive_s=of_job), pool.capacity.rooms[0])
    assert chosen.keep_alive_s == expected


def test_possible_looks_at_the_maxima_alone() -> None:
    fleet = nodes(10, memory_mb=100)
    pool = board(cloud(enabled=False, max_memory_mb=1000), fleet=fleet)
    assert pool.fitting.possible(shape(memory_mb=1000))
    assert not pool.fitting.possible(shape(memory_mb=1001))


def test_capacity_is_charged_by_a_planned_boot() -> None:
    what = shape()
    jobs = group(what, 1, 2)
    pool = Board(Snapshot(clouds=(cloud(max_slots=1),), groups=(jobs,)), Policy())
    assert pool.capacity.has_room("alpha", what)
    assert pool.boot(Waiting(jobs.heads[0], jobs), "share", reason="") is not None
    assert not pool.capacity.has_room("alpha", what)
    assert not pool.capacity.has_room("nowhere", what)
    assert pool.boot(Waiting(jobs.heads[1], jobs), "share", reason="") is None
