"""Do the clouds of the configuration get into the pool, and stay right when it is read again?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cloudsched import clock
from cloudsched.classic import clouds_conf
from cloudsched.domain.entities import Cloud, Node
from cloudsched.drivers import local
from cloudsched.services import pool, pool_clouds, pool_limits, pool_ops, pool_switches, pool_sync, snapshot
from cloudsched.settings import Settings, load
from cloudsched.store import clouds, events, nodes, system
from cloudsched.store.db import Database, write
from cloudsched.testing.factories import make_cloud, make_node

ALPHA = """\
[alpha]
cloud_type: AmazonEC2
host: ec2.example.org
vm_slots: 3
memory: 4096
regions: one, two
security_group: default
access_key_id: AKIA
secret_access_key: %hush
"""
BETA = "[Beta]\ncloud_type: Local\nvm_slots: 2\nenabled: on\nrun_as: nobody\nvm_keep_alive: 2\n"


@pytest.fixture
def database(sqlite_database: Database) -> Database:
    return sqlite_database


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cloud_resources.conf"
    path.write_text(ALPHA + BETA)
    return path


@pytest.fixture
def settings(database: Database, tmp_state: Path, file: Path) -> Settings:
    return make_settings(tmp_state, file)


def make_settings(state: Path, file: Path | None, **flags: object) -> Settings:
    found = load({"state": str(state), "cloud_scheduler.config_file": "none",
                  "cloud_scheduler.cloud_resource_config": str(file) if file else None, **flags},
                 environ={"HOME": str(state)})
    snapshot.configure(found)
    return found


def cloud(name: str) -> Cloud:
    found = clouds.by_name(name)
    assert found is not None
    return found


def now(node: Node) -> Node:
    found = nodes.get(node.id)
    assert found is not None
    return found


def test_first_start(settings: Settings, file: Path) -> None:
    synced = pool_sync.start(settings)
    assert synced == pool_sync.Synced(added=("alpha", "beta"))
    alpha, beta = cloud("alpha"), cloud("BETA")
    assert (alpha.kind, alpha.address, alpha.max_slots, alpha.memory_mb, alpha.storage_gb, alpha.cores) == (
        "AmazonEC2", "ec2.example.org", 3, 4096, -1, -1)
    assert (alpha.enabled, beta.enabled, alpha.source, beta.title, beta.keep_alive_s) == (0, 1, "file", "Beta", 120)
    assert alpha.option == {
        "host": "ec2.example.org", "port": 8773, "regions": ["one", "two"], "security_group": ["default"],
        "secure_connection": False,
        "reverse_dns_lookup": False, "user_domain_name": "Default", "project_domain_name": "Default"}
    assert beta.option == {"run_as": "nobody"}
    assert "hush" not in alpha.credentials
    assert pool_clouds.opened(alpha, settings) == {"access_key_id": "AKIA", "secret_access_key": "%hush"}
    assert not any("hush" in event.data for event in events.since(0))
    assert [found.name for found in clouds.all_clouds()] == ["alpha", "beta"]


def test_second_start_changes_nothing_but_what_the_file_says(settings: Settings, file: Path) -> None:
    pool_sync.start(settings)
    pool_ops.switch_cloud("alpha", enabled=True)
    last = events.last_id()
    assert pool_sync.start(settings) == pool_sync.Synced()
    assert events.last_id() == last
    file.write_text((ALPHA + BETA).replace("vm_slots: 3", "vm_slots: 5").replace("%hush", "new").replace("on\n", "off\n"))
    assert pool_sync.start(settings).changed == ("alpha",)
    assert (cloud("alpha").max_slots, cloud("alpha").enabled, cloud("beta").enabled) == (5, 1, 1)
    assert pool_clouds.opened(cloud("alpha"), settings)["secret_access_key"] == "new"


def test_the_quick_flag_ends_with_the_service(settings: Settings) -> None:
    """Two quick restarts in a row: the second one must not switch the flag off and destroy every node."""
    assert pool_switches.toggle_quick_shutdown() is True
    pool_sync.start(settings)
    assert pool_switches.quick_shutdown() is False
    assert pool_switches.toggle_quick_shutdown() is True


@pytest.mark.parametrize(("lease_s", "kept"), [(15.0, True), (-1.0, False)])
def test_the_quick_flag_holds_while_another_engine_lives(settings: Settings, lease_s: float, kept: bool) -> None:
    pool_switches.toggle_quick_shutdown()
    write(lambda tx: system.take_lease(tx, "engine:other", "other", at=clock.now(), lease_s=lease_s))
    pool_sync.start(settings)
    assert pool_switches.quick_shutdown() is kept


def test_start_charges_every_node_again(settings: Settings, file: Path, tmp_state: Path) -> None:
    pool_sync.start(settings)
    chosen = [make_node(cloud("alpha"), memory_mb=1024) for _ in range(3)]
    unknown = make_node(cloud("alpha"), memory_mb=1024, registered_at=None)
    pool_sync.start(settings)
    # Four nodes for three slots: the last is one to destroy, as it cannot be told to finish.
    assert [now(node).state for node in (*chosen, unknown)] == ["running", "running", "running", "stopping"]
    file.write_text((ALPHA + BETA).replace("memory: 4096", "memory: 1024"))
    pool_sync.start(settings)
    assert [(now(node).retired, now(node).override, now(node).state) for node in chosen] == [
        (0, None, "running"), (1, "Retiring", "running"), (1, "Retiring", "running")]
    harsh = make_settings(tmp_state, file, **{"cloud_scheduler.retire_reallocate": "no"})
    file.write_text((ALPHA + BETA).replace("vm_slots: 3", "vm_slots: 0"))
    pool_sync.start(harsh)
    assert now(chosen[0]).state == "stopping"


def test_reconfigure(settings: Settings, file: Path) -> None:
    pool_sync.start(settings)
    pool_ops.switch_cloud("alpha", enabled=True)
    good = make_node(cloud("alpha"))
    failing = make_node(cloud("alpha"), status="Error")
    newest = make_node(cloud("alpha"))
    lost = make_node(cloud("beta"))
    file.write_text(ALPHA.replace("vm_slots: 3", "vm_slots: 1") + "[gamma]\ncloud_type: Fake\nvm_slots: 1\n")
    synced = pool_sync.reconfigure(settings)
    assert synced == pool_sync.Synced(added=("gamma",), changed=("alpha",), removed=("beta",))
    assert (cloud("alpha").enabled, cloud("alpha").max_slots) == (1, 1)
    assert [now(node).state for node in (good, failing, newest, lost)] == ["running", "stopping", "stopping", "stopping"]
    assert [found.name for found in pool.pool().gone] == ["beta"]
    assert pool.cloud_or_shadow("Beta").retired[0].id == lost.id
    with pytest.raises(pool.UnknownCloud):
        pool.cloud_facts("beta")
    file.write_text(ALPHA + BETA)
    assert pool_sync.reconfigure(settings).added == ("beta",)
    assert cloud("beta").id == lost.cloud_id


def test_errors_give_way_first(settings: Settings, file: Path) -> None:
    pool_sync.start(settings)
    failing = make_node(cloud("alpha"), status="Error")
    good = make_node(cloud("alpha"))
    file.write_text((ALPHA + BETA).replace("vm_slots: 3", "vm_slots: 1"))
    pool_sync.reconfigure(settings)
    assert [now(failing).state, now(good).state] == ["stopping", "running"]


@pytest.mark.parametrize("spoil", [lambda file: file.unlink(), lambda file: file.write_text("[alpha\n"),
                                   lambda file: file.write_bytes(b"\xff\0"), lambda file: file.write_bytes(b""),
                                   lambda file: file.write_text("# all of it will come back\n\n")])
def test_a_file_that_cannot_be_read_changes_nothing(
        settings: Settings, file: Path, spoil: Callable[[Path], object], caplog: pytest.LogCaptureFixture) -> None:
    pool_sync.start(settings)
    node = make_node(cloud("alpha"))
    spoil(file)
    assert pool_sync.reconfigure(settings).problem
    assert [found.name for found in clouds.all_clouds()] == ["alpha", "beta"]
    assert now(node).state == "running"
    assert events.since(0)[-1].kind == "system.reconfig_fail"
    assert "the clouds stay as they are" in caplog.text


def test_a_section_with_a_slip_keeps_its_cloud(settings: Settings, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    pool_sync.start(settings)
    node = make_node(cloud("alpha"))
    file.write_text(ALPHA.replace("vm_slots: 3", "vm_slots: many") + BETA)
    assert pool_sync.reconfigure(settings) == pool_sync.Synced()
    assert (now(node).state, cloud("alpha").max_slots) == ("running", 3)
    assert "vm_slots" in caplog.text


def test_a_first_start_with_an_empty_file_has_no_clouds(settings: Settings, file: Path) -> None:
    file.write_text("")
    assert pool_sync.start(settings) == pool_sync.Synced()
    assert pool_sync.reconfigure(settings) == pool_sync.Synced()


def test_a_start_with_a_file_that_became_empty_keeps_the_clouds(settings: Settings, file: Path) -> None:
    pool_sync.start(settings)
    file.write_text("")
    assert "no section" in pool_sync.start(settings).problem
    assert {found.name for found in clouds.all_clouds()} >= {"alpha", "beta"}


def test_a_key_that_no_local_cloud_has_skips_the_section(
        settings: Settings, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    classic = "networks: a\nhypervisor: xen\nregions: r\n"
    file.write_text("[a]\ncloud_type: Local\nvm_slots: 1\nbogus = 7\n" + BETA + classic + "log_agent: yes\ncluster: k\n")
    assert pool_sync.reconfigure(settings).added == ("beta",)
    assert "section skipped: bogus is not a key of Local clouds" in caplog.text
    file.write_text(BETA.replace("run_as", "runas"))
    assert pool_sync.reconfigure(settings) == pool_sync.Synced()
    assert cloud("beta").option["run_as"] == "nobody" and "did you mean run_as?" in caplog.text


def test_the_reader_knows_what_a_local_cloud_takes() -> None:
    assert clouds_conf.OWN_KEYS["local"] | {"gpus"} == {*local.OPTIONS, *pool_clouds.OF_SERVER}


def test_limits_and_aliases_of_a_file_go_with_it(database: Database, tmp_state: Path, tmp_path: Path) -> None:
    limits, aliases = tmp_path / "limits", tmp_path / "aliases"
    limits.write_text('{"ada": 3}')
    aliases.write_text('{"east": ["alpha"]}')
    both = make_settings(tmp_state, None, **{"cloud_scheduler.user_limit_file": str(limits),
                                             "cloud_scheduler.target_cloud_alias_file": str(aliases)})
    pool_sync.start(both)
    assert (pool_limits.limits(), pool_limits.aliases()) == ({"ada": 3}, {"east": ["alpha"]})
    assert not pool_limits.reload_aliases(make_settings(tmp_state, None))  # contract 4.8: they stay until the next start
    assert pool_limits.aliases()
    pool_sync.start(make_settings(tmp_state, None))
    assert (pool_limits.limits(), pool_limits.aliases()) == ({}, {})
    last = events.last_id()
    pool_limits.load(make_settings(tmp_state, None))
    assert events.last_id() == last


def test_clouds_of_the_api_stay(settings: Settings) -> None:
    make_cloud("own", source="api")
    pool_sync.start(settings)
    assert pool_sync.reconfigure(settings).removed == ()
    assert cloud("own").state == "active"


def test_embedded_clouds(database: Database, tmp_state: Path) -> None:
    alone = make_settings(tmp_state, None)
    pool_sync.start(alone)
    assert [(found.name, found.kind, found.enabled) for found in clouds.all_clouds()] == [
        ("local-a", "Local", 1), ("local-b", "Local", 1)]
    assert pool_sync.sync_local_clouds(alone) == pool_sync.Synced()
    make_cloud("own")
    assert pool_sync.sync_local_clouds(alone).removed == ("local-a", "local-b")
    always = replace(alone, local=replace(alone.local, enabled="yes"))
    assert pool_sync.sync_local_clouds(always).added == ("local-a", "local-b")
    never = replace(alone, local=replace(alone.local, enabled="no"))
    assert pool_sync.sync_local_clouds(never).removed == ("local-a", "local-b")
