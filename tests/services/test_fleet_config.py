"""The configuration of the fleet: what may be set, all or nothing, in force at once, kept over a restart."""

from __future__ import annotations

from typing import Any

import pytest

from cloudsched import settings
from cloudsched.errors import Invalid
from cloudsched.services import fleet_config
from cloudsched.store import events
from tests.fleet import Fleet


def test_changes_are_kept_and_in_force_at_once(fleet: Fleet) -> None:
    before = fleet_config.current()
    assert (before.heartbeat_interval_s, before.offline_threshold_s, before.port) == (60, 300, 8082)
    done = fleet_config.change({"cluster": {"offline_threshold": 180, "heartbeat_interval": 30}, "logging": {"max_size": "20mb"}},
                               actor="me")
    assert done.fields == ("cluster.offline_threshold", "cluster.heartbeat_interval", "logging.max_size")
    assert not done.restart_required and fleet_config.recent().offline_threshold_s == 180
    fleet.set()
    after = fleet_config.current()
    assert (after.heartbeat_interval_s, after.offline_threshold_s, after.log_max_size) == (30, 180, "20MB")
    assert fleet.join("phone").sync().heartbeat_s == 30
    (event,) = events.since(0, kind="config.change")
    assert event.actor == "me" and '"cluster.offline_threshold": 180' in event.data


def test_a_restart_only_for_what_is_new(small: Fleet) -> None:
    assert not fleet_config.change({"server": {"port": 8082, "max_connections": 5}}, actor="").restart_required
    assert fleet_config.change({"server": {"port": 9999}}, actor="").restart_required
    assert fleet_config.current().nested()["server"] == {"host": "127.0.0.1", "port": 9999, "max_connections": 5}


@pytest.mark.parametrize(("asked", "field"), [
    ({"cluster": {"heartbeat_interval": 9}}, "cluster.heartbeat_interval"),
    ({"cluster": {"heartbeat_interval": True}}, "cluster.heartbeat_interval"),
    ({"cluster": {"offline_threshold": 29}}, "cluster.offline_threshold"),
    ({"cluster": {"task_timeout": 1.5}}, "cluster.task_timeout"), ({"cluster": {"speed": 1}}, "cluster.speed"),
    ({"server": {"host": ""}}, "server.host"), ({"server": {"port": 0}}, "server.port"), ({"server": 1}, "server"),
    ({"logging": {"level": "loud"}}, "logging.level"), ({"logging": {"max_size": "10"}}, "logging.max_size"),
    ({"access": {"x": 1}}, "access"), ({"cluster": {"offline_threshold": 40}}, "cluster.offline_threshold"),
    ({"cluster": {"heartbeat_interval": 300, "task_timeout": 0}}, "cluster.task_timeout"),
])  # fmt: skip
def test_bad_values_change_nothing(small: Fleet, asked: dict[str, Any], field: str) -> None:
    before = fleet_config.current()
    with pytest.raises(Invalid) as caught:
        fleet_config.change(asked, actor="")
    assert caught.value.details["code"] == "INVALID_PARAMETER" and caught.value.details["field"] == field
    assert fleet_config.current() == before


def test_nothing_named(small: Fleet) -> None:
    for asked in ({}, {"cluster": {}}):
        with pytest.raises(Invalid) as caught:
            fleet_config.change(asked, actor="")
        assert caught.value.details == {"code": "MISSING_REQUEST_BODY"}


@pytest.mark.parametrize(("keys", "named"), [
    ({"retire_cluster.auth": "yes"}, "retire_cluster.api_keys"),
    ({"listen.retire_cluster_bind": "0.0.0.0"}, "listen.retire_cluster_bind"),
    ({"listen.retire_cluster_bind": "0.0.0.0", "retire_cluster.auth": "no", "retire_cluster.join_token": "token"},
     "retire_cluster.auth"),
    ({"retire_cluster.offline_threshold_s": 50}, "retire_cluster.offline_threshold_s"),
    ({"retire_cluster.join_token": "x"}, "retire_cluster.join_token"),
    ({"retire_cluster.api_keys": "secret-key-1:read,z"}, "retire_cluster.api_keys"),
])  # fmt: skip
def test_settings_that_cannot_stand_together(tmp_path: Any, keys: dict[str, str], named: str) -> None:
    with pytest.raises(Invalid) as caught:
        settings.load({"state": str(tmp_path), **keys}, environ={"HOME": str(tmp_path)})
    assert [error.field for error in caught.value.errors] == [named] and "secret" not in str(caught.value)


def test_listeners_and_secrets(tmp_path: Any) -> None:
    found = settings.load({"state": str(tmp_path), "retire_cluster.api_keys": "first-key,second-key:read",
                           "retire_cluster.join_token": "token-x"}, environ={"HOME": str(tmp_path)})
    assert [item.name for item in found.listeners() if item.protocol == "tcp"] == ["retire_cluster_tcp"]
    assert "retire_cluster_tcp" not in [item.name for item in found.http_listeners()]
    shown = {row.key: row.value for row in found.show()}
    assert shown["retire_cluster.api_keys"] == shown["retire_cluster.join_token"] == "***"
    assert "first-key" not in repr(found) and "token-x" not in repr(found) and settings.retire_cluster_keys(found)
