"""What does a Spark cluster cost, where the prices of a centre's parts are known?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudsched.services import clusters
from cloudsched.services.centre import centres, parts
from cloudsched.services.frameworks import framework_jobs
from cloudsched.store.db import Database
from tests.frameworks import Yard, made


@pytest.fixture
def yard(sqlite_database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    yield from made(sqlite_database, tmp_state, monkeypatch)


def priced(yard: Yard) -> str:
    centre = centres.add({"name": "here"}, org="", actor="ada", settings=yard.settings)
    parts.add(centre.key, kind="cpu", model="STANDARD", unit_price="0.5", actor="ada")
    parts.add(centre.key, kind="memory", model="STANDARD", unit_price="0.1", actor="ada")
    return str(centre.key)


def test_without_a_centre_or_a_price_nothing_is_said(yard: Yard) -> None:
    number = yard.launch()
    assert clusters.one(number)["cost"] is None
    yard.set(price_centre=priced(yard), price_cpu_model="XEON")
    assert clusters.one(number)["cost"] is None


def test_cores_and_memory_of_master_and_workers_for_the_time_since_the_launch(yard: Yard) -> None:
    yard.set(price_centre=priced(yard))
    cluster = yard.launched()  # a master and two workers of one core and 1 GiB each
    assert cluster.launched_at is not None
    yard.clock.advance(cluster.launched_at + 1800 - yard.clock.now())
    found = clusters.one(cluster.id)["cost"]
    assert found == {"per_hour": 1.8, "amount": 0.9, "currency": "元"}
    job = yard.submit(clusterName=cluster.key)
    yard.run(3)
    info = framework_jobs.info(job["jobId"])
    assert info["clusterCost"]["per_hour"] == 1.8 and info["clusterCost"]["amount"] > 0.9
