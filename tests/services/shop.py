"""A compute centre with one Kubernetes cluster (a stand-in) and stock in its books, for tests of resource instances."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cloudsched import clock
from cloudsched.services.centre import centres, instance_watch, instances, parts
from cloudsched.settings import Settings
from cloudsched.store import clusters, events
from cloudsched.store import instances as store
from cloudsched.store import parts as books
from cloudsched.store.db import write
from cloudsched.store.moves import move
from cloudsched.testing.kubeapi import KubeApi
from tests.unit.test_instances import SEED

ORG = "mIWUHBeeDM8mwAFPIQ8pS"
PASSWORD = "pa55-of-the-instance"
STOCK = {("cpu", "STANDARD"): 16, ("memory", "STANDARD"): 64, ("disk", "SYS"): 500, ("disk", "DATA"): 1000, ("gpu", "V100"): 4}


class Shop:
    """`add` and the others are the services with everything said that most tests do not care about."""

    def __init__(self, settings: Settings, kube: KubeApi, *, cores: int = 16) -> None:
        self.settings, self.kube = settings, kube
        self.centre = centres.add({"name": "centre", "pcapi_url": "local"}, org="", actor="test", settings=settings)
        self.cluster = self.new_cluster("朝阳区", kube.kubeconfig())
        for (kind, model), amount in STOCK.items():
            parts.add(self.centre.key, kind=kind, model=model, unit_price="1", stock=cores if kind == "cpu" else amount,
                      cluster_key=self.cluster, actor="test")
        instance_watch._look_next.clear()

    def new_cluster(self, name: str, kubeconfig: str, *, kind: str = "kubernetes") -> str:
        key, at = centres.new_key(), clock.now()
        secrets = centres.seal(json.dumps({"kubeconfig": kubeconfig}), self.settings)
        values = {"key": key, "name": name, "kind": kind, "origin": "kboss", "cloud_id": self.centre.cloud_id, "secrets": secrets,
                  "spec": json.dumps({"controllerid": ""})}
        number = write(lambda tx: clusters.insert(tx, values, at=at))
        for event in ("launch", "run"):
            assert write(lambda tx, event=event: move(tx, "cluster", number, event, at=at))  # type: ignore[misc]
        return key

    def add(self, **fields: Any) -> instances.Instance:
        given = {**SEED, "cpu_model": "", "source_authpasswd": PASSWORD, "source_outsideport": "", **fields}
        return instances.add(given, cluster_key=self.cluster, org=ORG, user="kyy", actor="test", settings=self.settings)

    def change(self, key: str, *, force: bool = False, **fields: Any) -> instances.Instance:
        found = instances.change(key, fields, scope=ORG, actor="test", settings=self.settings, force=force)
        assert isinstance(found, instances.Instance)
        return found

    def stop(self, key: str) -> instances.Instance:
        return instances.stop(key, scope=ORG, actor="test", settings=self.settings)

    def remove(self, key: str) -> list[dict[str, str]]:
        return instances.remove(key, scope=ORG, actor="test", settings=self.settings)

    def tick(self) -> instance_watch.Ticked:
        instance_watch._look_next.clear()
        return instance_watch.tick(self.settings)

    def row(self, key: str) -> instances.Instance:
        found = store.by_key(key)
        assert found is not None
        return found

    def free(self) -> dict[tuple[str, str], int]:
        return books.free(centre=self.centre.key, cluster=self.cluster)

    def used(self) -> dict[tuple[str, str], int]:
        """What the books say is in use, without what is not."""
        rows = write(lambda tx: books.book_rows(tx, self.centre.key))
        return {(row[0], row[1]): row[5] for row in rows if row[5]}

    def check_books(self) -> None:
        """The books are what the instances hold."""
        assert parts.recount(self.centre.key, actor="test", dry_run=True) == []

    def kinds(self) -> set[str]:
        """Events of instances so far."""
        return {one.kind for one in events.since(0, kind="instance.", limit=10_000)}

    def left(self) -> list[str]:
        """Everything of ours in the cluster."""
        mark = "cloudsched.io/resource-instance"
        names = ("StatefulSet", "Deployment", "DaemonSet", "CronJob", "Job", "Pod", "Service", "Ingress", "Secret",
                 "PersistentVolumeClaim", "HorizontalPodAutoscaler")
        return [f"{kind} {one['metadata']['name']}" for kind in names for one in self.kube.things(kind)
                if mark in (one["metadata"].get("labels") or {})]


@contextmanager
def opened(settings: Settings, **how: Any) -> Iterator[Shop]:
    with KubeApi(metrics=True) as kube:
        for number in range(2):
            kube.add_node(f"node-{number}", labels={"kyy-gpu": "false"}, gpus=2)
        yield Shop(settings, kube, **how)
