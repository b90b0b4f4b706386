"""The live half of fitting: models are those of our hosts, and a centre of another make is asked its own way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cloudsched import clock
from cloudsched import settings as settings_module
from cloudsched.domain.fitting import NodeFree
from cloudsched.drivers.pcapi import PcapiError
from cloudsched.errors import Conflict
from cloudsched.services.centre import centre_clusters, centre_hosts, centres, fitting, fitting_live, parts
from cloudsched.settings import Settings
from cloudsched.store import clusters
from cloudsched.store.db import Database, write

KEY = "c" * 21
# Two hosts of the same make as the cluster tells it, with other cards as our books have them.
NODES = [NodeFree("n1", 8000, 8192, gpus={"NVIDIA-X": 4}), NodeFree("n2", 8000, 8192, gpus={"NVIDIA-X": 1}),
         NodeFree("n3", 9000, 1)]


class Centre:
    """An executor that answers what it is told to."""

    def __init__(self, nodes: list[NodeFree] | PcapiError, ids: list[str] | None = None) -> None:
        self.nodes, self.ids, self.asked = nodes, ids, []

    def free_nodes(self, where: Any) -> list[NodeFree]:
        if isinstance(self.nodes, PcapiError):
            raise self.nodes
        return self.nodes

    def call(self, verb: str, params: dict[str, Any]) -> Any:
        self.asked.append((verb, params))
        return self.ids


@pytest.fixture
def settings(sqlite_database: Database, tmp_state: Path) -> Settings:
    """A cluster of two hosts, with RTX4090 in one and A100 in the other."""
    given = settings_module.load({"state": str(tmp_state), "cloud_scheduler.config_file": "none"}, environ={})
    centre = centres.add({"name": "c"}, org="acme", actor="t", settings=given)
    number = write(lambda tx: clusters.insert(tx, {
        "key": KEY, "name": "one", "kind": "kubernetes", "origin": "kboss", "state": "running", "cloud_id": centre.cloud_id,
        "created_at": clock.now()}, at=clock.now()))
    for name, model in (("n1", "RTX4090-24G"), ("n2", "A100-80G")):
        host = centre_hosts.add(centre, {
            "ip": f"10.0.0.{name[1]}", "name": name, "adminuser": "root", "adminpwd": "secret", "cpu_model": "XEON",
            "cpu_stock": 8, "memory_stock": 8, "gpu_model": model, "gpu_stock": 4}, actor="t", settings=given)
        write(lambda tx, host=host: centre_hosts.reserve(tx, host, cluster_key=KEY, role="worker", actor="t"))
        write(lambda tx, host=host, name=name: clusters.add_node(tx, number, host.node_id, role="worker", name=name, at=1.0))
    return given


def unfit(settings: Settings, asked: Centre, monkeypatch: pytest.MonkeyPatch, labels: str = "", **gpus: int) -> fitting.Unfit:
    monkeypatch.setattr(centre_clusters, "executor_of", lambda cluster, given: asked)
    wanted = fitting.products({
        key: [{"type": "gpu", "model": key.replace("_", "-"), "amount": much}] for key, much in gpus.items()})
    centre = centres.listed()[0]
    return fitting.unfit(centre.key, KEY, wanted, labels=fitting.selector(labels), ask=fitting_live.of_cluster(KEY, settings))


def test_cards_are_those_of_the_host(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    found = unfit(settings, Centre(NODES), monkeypatch, RTX4090_24G=3, A100_80G=2)
    assert (found.ids, found.reason) == (("A100_80G",), "dynamic")
    assert found.why["A100_80G"].facts["gpu A100-80G"] == {"asked": 2, "most": 1}


def test_processors_are_those_of_the_host(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centre_clusters, "executor_of", lambda cluster, given: Centre(NODES))
    ask = fitting_live.of_cluster(KEY, settings)
    needs = (("a", "EPYC", 8), ("b", "XEON", 8), ("c", "EPYC", 9))
    wanted = fitting.products({key: [{"type": "cpu", "model": model, "amount": much}] for key, model, much in needs})
    assert ask(wanted, {}) == {}, "a node that is none of our hosts may have any"
    monkeypatch.setattr(centre_clusters, "executor_of", lambda cluster, given: Centre(NODES[:2]))
    assert ask(wanted, {}).keys() == {"a", "c"}


def test_a_centre_of_another_make_is_asked_its_own_way(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    strange = Centre(PcapiError("it has no free_nodes", details={"say": "pcapi_strange"}), ["A100_80G"])
    found = unfit(settings, strange, monkeypatch, "a=b,c", RTX4090_24G=3, A100_80G=2)
    assert (found.ids, found.reason) == (("A100_80G",), "dynamic")
    verb, given = strange.asked[0]
    assert (verb, given["kyylabels"]) == ("determine_accommodat", "a=b,c")
    assert fitting.products(given["resources"])[0].amounts == (parts.Amount("gpu", "RTX4090-24G", 3),)
    assert json.loads(given["resources"])[1]["productid"] == "A100_80G"


def test_a_centre_that_is_away(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    away = Centre(PcapiError("cannot be reached", details={"say": "pcapi_away"}))
    with pytest.raises(PcapiError, match="reached"):
        unfit(settings, away, monkeypatch, RTX4090_24G=1)
    write(lambda tx: tx.run("UPDATE cluster SET state = 'launching'"))
    with pytest.raises(Conflict, match="launching"):
        unfit(settings, away, monkeypatch, RTX4090_24G=1)
