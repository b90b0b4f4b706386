"""Centres, their hosts and what becomes of them by itself, on both databases."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from cloudsched import clock
from cloudsched import settings as settings_module
from cloudsched.clock import ManualClock
from cloudsched.drivers.base import Check
from cloudsched.engine.centres import CentreLoop
from cloudsched.engine.places import Places
from cloudsched.errors import Conflict, Forbidden, Invalid, NotFound
from cloudsched.services import clusters as core
from cloudsched.services import lifecycle, pool_clouds, pool_ops
from cloudsched.services.caller import LOCAL_ADMIN
from cloudsched.services.centre import (
    centre_audit,
    centre_clusters,
    centre_growth,
    centre_hosts,
    centre_labels,
    centre_ops,  # noqa: F401 - has the kinds of operations registered
    centre_upkeep,
    centres,
    parts,
)
from cloudsched.services.centre.centres import Centre
from cloudsched.settings import Settings
from cloudsched.store import centres as store
from cloudsched.store import clouds, clusters, events, nodes
from cloudsched.store import parts as books
from cloudsched.store.db import Database, current, write
from cloudsched.store.moves import move

HOST: dict[str, Any] = {"name": "a", "ip": "10.0.0.1", "adminuser": "root", "adminpwd": "Pa55-w0rd", "cpu_stock": 8,
                        "memory_stock": 32, "gpu_stock": 2, "gpu_model": "A100-80G"}


@pytest.fixture
def settings(tmp_state: Path) -> Settings:
    return settings_module.load({"state": str(tmp_state), "cloud_scheduler.config_file": "none"}, environ={})


@pytest.fixture
def time_passes(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    manual = ManualClock(1_767_341_084.0)
    monkeypatch.setattr(clock, "now", manual.now)
    return manual


@pytest.fixture
def centre(database: Database, settings: Settings) -> Centre:
    return centres.add({"name": "East 1", "api_pwd": "Pa55-w0rd"}, org="acme", actor="ada", settings=settings)


def host(centre: Centre, settings: Settings, **changes: Any) -> centre_hosts.Host:
    return centre_hosts.add(centre, {**HOST, **changes}, actor="ada", settings=settings)


def gpus(centre: Centre, cluster: str = "") -> int:
    return books.free(centre=centre.key, cluster=cluster).get(("gpu", "A100-80G"), 0)


def cluster_of(centre: Centre, first: centre_hosts.Host, settings: Settings) -> centre_clusters.Begun:
    return centre_clusters.new(centre, first, kind="slurm", name="c", actor="ada", settings=settings)


def test_a_centre_is_a_cloud_and_a_host_is_a_node(centre: Centre, settings: Settings) -> None:
    made = host(centre, settings)
    cloud, node = clouds.get(centre.cloud_id), nodes.get(made.node_id)
    assert cloud is not None and (cloud.name, cloud.title, cloud.kind, cloud.max_slots) == ("east-1", "East 1", "Centre", 1)
    assert node is not None and (node.name, node.state, node.cores, node.memory_mb, node.address) == (
        "a", "running", 8, 32768, "10.0.0.1")
    other = centres.add({"name": "East 1"}, org="other", actor="ada", settings=settings)
    assert clouds.get(other.cloud_id).name.startswith("east-1-")  # type: ignore[union-attr]
    assert nodes.get(host(other, settings, ip="10.0.0.2").node_id).name.startswith("a-")  # type: ignore[union-attr]
    assert centre.api_pwd.startswith("sealed:1:") and made.adminpwd.startswith("sealed:1:")
    assert centres.opened(made.adminpwd, settings) == "Pa55-w0rd"


def test_the_books_follow_the_hosts(centre: Centre, settings: Settings) -> None:
    first = host(centre, settings)
    host(centre, settings, ip="10.0.0.2", name="b")
    assert gpus(centre) == 4
    first = centre_hosts.change(first, {"gpu_stock": 5}, actor="ada", settings=settings)
    assert gpus(centre) == 7
    begun = cluster_of(centre, first, settings)
    assert (gpus(centre), gpus(centre, begun.cluster.key)) == (2, 5)
    write(lambda tx: parts.consume(tx, centre.key, begun.cluster.key, [parts.Amount("gpu", "A100-80G", 4)], actor="ada"))
    with pytest.raises(Conflict, match="A100-80G"):
        centre_hosts.change(begun.host, {"gpu_stock": 3}, actor="ada", settings=settings)
    assert store.host(first.key).gpu_stock == 5  # type: ignore[union-attr]
    with pytest.raises(Conflict, match="in a cluster"):
        centre_hosts.remove(begun.host, actor="ada")


def test_one_of_many_gets_the_host(centre: Centre, settings: Settings) -> None:
    first, won, lost = host(centre, settings), [], []

    def take(number: int) -> None:
        try:
            won.append(centre_clusters.new(centre, first, kind="slurm", name=f"c{number}", actor="ada", settings=settings))
        except Conflict as error:
            lost.append(error.details["say"])
        finally:
            current().close_thread()

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and lost == ["host_occupied"] * 7
    assert len(centre_clusters.listed(centre)) == 1


def test_nothing_remains_of_what_was_only_tried(centre: Centre, settings: Settings) -> None:
    before = events.last_id()
    found = centre_hosts.add(centre, HOST, actor="ada", settings=settings, dry_run=True)
    assert found.name == "a" and store.count_hosts(centre.key) == 0 and events.last_id() == before
    first = host(centre, settings)
    centre_clusters.new(centre, first, kind="slurm", name="c", actor="ada", settings=settings, dry_run=True)
    centre_hosts.remove(first, actor="ada", dry_run=True)
    assert store.host(first.key) == first
    with pytest.raises(Conflict):  # a trial finds what would be in the way
        centre_hosts.add(centre, HOST, actor="ada", settings=settings, dry_run=True)


def test_others_do_not_find_it(centre: Centre, settings: Settings) -> None:
    first = host(centre, settings)
    with pytest.raises(NotFound):
        centres.find(centre.key, scope="other")
    with pytest.raises(NotFound):
        centre_hosts.find_host(first.key, scope="other")
    begun = cluster_of(centre, first, settings)
    with pytest.raises(NotFound):
        centre_clusters.find(begun.cluster.key, scope="other")
    assert centre_clusters.find(begun.cluster.key, scope="acme", centre_key=centre.key).id == begun.cluster.id
    with pytest.raises(NotFound):
        centre_clusters.find("nothing")


def test_the_audit_keeps_organisations_apart(database: Database, settings: Settings) -> None:
    for org in ("a_b", "axb", "a%b"):
        centres.add({"name": "x"}, org=org, actor=f"user of {org}", settings=settings)
        assert {row["orgid"] for row in centre_audit.page(scope=org)[1]} == {org}
    assert centre_audit.page(kind="centre.")[0] == 3 and centre_audit.page(actor="user of axb")[0] == 1
    assert centre_audit.page(since="2999-01-01")[0] == 0
    with pytest.raises(Invalid):
        centre_audit.page(since="yesterday")


def test_days_that_are_over_are_noted_once(centre: Centre, settings: Settings, time_passes: ManualClock) -> None:
    centres.change(centre, {"enable_date": "2025-01-01", "expire_date": "2026-01-03"}, actor="ada", settings=settings)
    begun = cluster_of(centre, host(centre, settings), settings)
    centre_clusters.change(begun.cluster, {"enable_date": "2025-01-01", "export_date": "2026-01-02"}, actor="ada")
    assert centre_upkeep.note_expired() == 0
    time_passes.advance(86400)
    assert (centre_upkeep.note_expired(), centre_upkeep.note_expired()) == (1, 0)
    time_passes.advance(86400)
    assert (centre_upkeep.note_expired(), centre_upkeep.note_expired()) == (1, 0)
    kinds = [event.kind for event in events.since(0, limit=1000)]
    assert kinds.count("centre.expire") == 1 and kinds.count("cluster.expire") == 1
    centres.change(centres.find(centre.key), {"expire_date": "2026-01-04"}, actor="ada", settings=settings)
    time_passes.advance(86400)
    assert centre_upkeep.note_expired() == 1


def test_a_host_taken_away_elsewhere_goes_or_comes_back(centre: Centre, settings: Settings) -> None:
    idle, busy = host(centre, settings), host(centre, settings, ip="10.0.0.2", name="b")
    begun = cluster_of(centre, busy, settings)
    for one in (idle, busy):
        write(lambda tx, one=one: lifecycle.stop(tx, one.node_id, at=clock.now(), actor="x", reason="x"))  # type: ignore[misc]
        write(lambda tx, one=one: move(tx, "node", one.node_id, "destroy", at=clock.now()))  # type: ignore[misc]
    assert (centre_upkeep.follow_removed(), centre_upkeep.follow_removed()) == (2, 0)
    assert store.host(idle.key) is None and gpus(centre) == 0
    again = store.host(busy.key)
    assert again is not None and again.node_id != busy.node_id and nodes.get(again.node_id).state == "running"  # type: ignore[union-attr]
    assert [row[0] for row in clusters.members(begun.cluster.id)] == [again.node_id]


def test_a_centre_taken_away_elsewhere_goes_or_comes_back(centre: Centre, settings: Settings) -> None:
    first = host(centre, settings, node_status="1")
    pool_clouds.remove_cloud("east-1", actor="x")
    centre_upkeep.follow_removed()
    assert clouds.get(centre.cloud_id).state == "active"  # type: ignore[union-attr]
    centre_hosts.remove(centre_hosts.change(store.host(first.key), {"node_status": "0"}, actor="x",  # type: ignore[arg-type]
                                            settings=settings), actor="x")
    pool_clouds.remove_cloud("east-1", actor="x")
    centre_upkeep.follow_removed()
    assert store.centre(centre.key) is None


def test_a_tick_does_all_of_it(centre: Centre, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    loop = CentreLoop(settings, Places(settings))
    begun = cluster_of(centre, host(centre, settings), settings)
    write(lambda tx: move(tx, "cluster", begun.cluster.id, "run", at=clock.now()))
    write(lambda tx: tx.run("UPDATE operation SET state = 'succeeded' WHERE id = ?", (begun.operation,)))
    core.terminate(begun.cluster.key, LOCAL_ADMIN)
    loop.tick()
    loop.tick()
    assert clusters.get(begun.cluster.id).state == "terminating"  # type: ignore[union-attr]
    assert centre_clusters.working_on(begun.cluster, centre_clusters.DELETE_CLUSTER)
    assert "failed" not in caplog.text


def test_labels_are_what_kubernetes_takes(database: Database) -> None:
    made = centre_labels.add(name="x", labeltype="1", label_key="example.com/gpu", label_value="a.b", org="acme", actor="ada")
    assert centre_labels.listed(scope="acme") == [made] and centre_labels.listed(scope="other") == []
    for key, value in (("", "x"), ("a b", "x"), ("a", "x" * 64), ("-a", "")):
        with pytest.raises(Invalid):
            centre_labels.add(name="x", labeltype="1", label_key=key, label_value=value, org="acme", actor="ada")
    with pytest.raises(NotFound):
        centre_labels.find(made.key, scope="other")


@pytest.mark.parametrize(("url", "local"), [
    ("", True), ("local", True), ("LOCAL", True), ("http://127.0.0.1:8088", True), ("http://localhost:8088/", True),
    ("http://127.0.0.1:8089", False), ("http://centre.example.com:8088", False), ("https://centre.example.com", False)])
def test_which_centres_are_served_here(sqlite_database: Database, settings: Settings, url: str, local: bool) -> None:
    centre = centres.add({"name": "x", "pcapi_url": url}, org="", actor="", settings=settings)
    assert centres.is_local(centre, settings) is local


@pytest.mark.parametrize(("name", "slug"), [("East 1", "east-1"), ("首都算力中心1", "host-1"), ("__", "host"), ("A" * 99,
                                                                                                                "a" * 40)])
def test_names_for_machines(name: str, slug: str) -> None:
    assert centres.slug(name, "host") == slug


def test_ids_are_21_characters_of_the_alphabet() -> None:
    keys = {centres.new_key() for _ in range(100)}
    assert len(keys) == 100 and all(len(key) == 21 and set(key) <= set(centres.ALPHABET) for key in keys)
    assert all(key[0].isalnum() for key in {centres.new_key() for _ in range(2000)})


# secrets go nowhere they were not given for


@pytest.mark.parametrize("given", [None, "", "  ", "token"])
@pytest.mark.parametrize("changes", [{"pcapi_url": "https://centre.example.com"}, {"api_user": "b"}])
def test_another_address_of_a_centre_needs_its_password_anew(centre: Centre, settings: Settings, changes: dict[str, str],
                                                             given: str | None) -> None:
    centre = centres.change(centre, {"pcapi_url": "https://a.example.com", "api_user": "a", "api_pwd": "one"}, actor="ada",
                            settings=settings)
    password = {} if given is None else {"api_pwd": centre.api_pwd if given == "token" else given}
    with pytest.raises(Invalid, match="api_pwd: must be given anew"):
        centres.change(centre, {**changes, **password}, actor="ada", settings=settings)
    assert centres.find(centre.key) == centre
    changed = centres.change(centre, {**changes, "api_pwd": "two"}, actor="ada", settings=settings)
    assert centres.opened(changed.api_pwd, settings) == "two"


def test_what_is_blank_keeps_the_password(centre: Centre, settings: Settings) -> None:
    changed = centres.change(centre, {"api_pwd": "", "name": "x"}, actor="ada", settings=settings)
    assert changed.name == "x" and changed.api_pwd == centre.api_pwd
    same = centres.change(changed, {"pcapi_url": "LOCAL"}, actor="ada", settings=settings)  # nothing is sent there
    assert same.api_pwd == centre.api_pwd
    first = host(centre, settings)
    assert centre_hosts.change(first, {"adminpwd": ""}, actor="ada", settings=settings).adminpwd == first.adminpwd


def test_only_an_admin_leads_a_centre_with_hosts_elsewhere(centre: Centre, settings: Settings) -> None:
    there = {"pcapi_url": "https://centre.example.com", "api_pwd": "new"}
    centres.change(centre, there, actor="op", settings=settings, admin=False, dry_run=True)
    host(centre, settings)
    for changes in (there, {"api_user": "b"}):
        with pytest.raises(Forbidden, match="role admin"):
            centres.change(centre, changes, actor="op", settings=settings, admin=False)
    centres.change(centre, {"contactname": "x", "api_pwd": "other"}, actor="op", settings=settings, admin=False)
    assert centres.change(centre, there, actor="ada", settings=settings).pcapi_url == there["pcapi_url"]


@pytest.mark.parametrize("changes", [{"ip": "10.0.0.9"}, {"sshport": "2222"}, {"adminuser": "eve"}])
def test_another_address_of_a_host_needs_its_password_anew(centre: Centre, settings: Settings, changes: dict[str, str]) -> None:
    first = host(centre, settings)
    for password in ({}, {"adminpwd": ""}, {"adminpwd": first.adminpwd}):
        with pytest.raises(Invalid, match="adminpwd: must be given anew"):
            centre_hosts.change(first, {**changes, **password}, actor="ada", settings=settings)
    changed = centre_hosts.change(first, {**changes, "adminpwd": "new"}, actor="ada", settings=settings)
    assert centres.opened(changed.adminpwd, settings) == "new"


def test_a_host_in_a_cluster_keeps_its_address_and_role(centre: Centre, settings: Settings) -> None:
    busy = cluster_of(centre, host(centre, settings), settings).host
    for name, value in (("ip", "10.0.0.9"), ("sshport", "2222"), ("role", "worker")):
        with pytest.raises(Conflict, match=f"^{name}: host a is in a cluster"):
            centre_hosts.change(busy, {name: value, "adminpwd": "new"}, actor="ada", settings=settings)
    same = {"ip": busy.ip, "role": busy.role, "name": "b"}
    assert centre_hosts.change(busy, same, actor="ada", settings=settings).name == "b"


def test_options_of_a_host_are_those_of_installations(centre: Centre, settings: Settings) -> None:
    with pytest.raises(Invalid, match=r"options\.prefx: is no option"):
        host(centre, settings, options='{"prefx": "/srv"}')
    first = host(centre, settings, options='{"prefix": "/srv/a", "host_key": "ssh-ed25519 AAAA"}')
    with pytest.raises(Invalid, match=r"options\.cpus"):
        centre_hosts.change(first, {"options": {"cpus": 1}}, actor="ada", settings=settings)
    assert centre_hosts.change(first, {"name": "b"}, actor="ada", settings=settings).options == first.options


@pytest.mark.parametrize(("works", "switched", "enabled"), [
    (True, (), True), (False, (), False), (True, ("disable",), False), (True, ("enable", "disable"), False)])
def test_a_cloud_that_had_no_node_is_enabled_when_one_has_joined(
        centre: Centre, settings: Settings, monkeypatch: pytest.MonkeyPatch, works: bool, switched: tuple[str, ...],
        enabled: bool) -> None:
    begun = cluster_of(centre, host(centre, settings), settings)
    made = pool_clouds.add_cloud({"name": "c", "kind": "Slurm", "slots": 1, "enabled": False}, settings=settings, verify=False)
    write(lambda tx: clusters.update(tx, begun.cluster.id, made_cloud_id=made.cloud.id))  # type: ignore[union-attr]
    for word in switched:
        pool_ops.switch_cloud("c", enabled=word == "enable", actor="ada")
    monkeypatch.setattr(pool_clouds, "verify_cloud", lambda *_, **__: [Check("partition", works, "no node")])
    cluster = clusters.get(begun.cluster.id)
    assert cluster is not None
    centre_growth.resize(cluster, settings, actor="x")
    said = centre_growth.follow_cloud(cluster, settings, actor="x")
    assert bool(clouds.by_name("c").enabled) is enabled  # type: ignore[union-attr]
    assert ("partition: no node" in said) is (not works) and bool(said) is not bool(switched)
    assert centre_growth.follow_cloud(cluster, settings, actor="x") == ("" if works else said)
