"""How fast are the books of compute centres? 10,000 hosts, 1,000 instances, 1,000 parts on SQLite, in this process.

Lists are measured through the WSGI application, from request to bytes; beside them an empty Flask route called the same way.
Usage: python bench/centres.py [HOSTS] [INSTANCES]
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from common import ROOT, show

sys.path.insert(0, str(ROOT))
from flask import Flask
from werkzeug.test import Client, EnvironBuilder, run_wsgi_app

from cloudsched import clock, settings
from cloudsched.dialects.kboss import make_app
from cloudsched.domain import fitting
from cloudsched.domain.fitting import NodeFree
from cloudsched.domain.stock import Amount
from cloudsched.services.centre import centre_hosts, centres, metering, parts, quotes
from cloudsched.store import clusters, db, migrations
from cloudsched.store.db import Tx, write

ROUNDS, BUYERS = 7, 50
CLUSTERS = [f"cluster-{number:013d}" for number in range(20)]
MODELS = [f"CARD{number}-24G" for number in range(4)]
HERE = {"REMOTE_ADDR": "127.0.0.1"}
ANN = "bench"


def timed(work: Callable[[], Any], *, rounds: int = ROUNDS) -> list[float]:
    """Milliseconds of each of some rounds, after one that does not count."""
    work()
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        found.append(1000 * (time.perf_counter() - began))
    return found


def asked(app: Any, path: str, **params: Any) -> Callable[[], bytes]:
    """A call of a WSGI application, which checks that it was answered."""

    def ask() -> bytes:
        environ = EnvironBuilder(path=path, query_string=params, environ_base=HERE).get_environ()
        body, status, _ = run_wsgi_app(app, environ, buffered=True)
        raw = b"".join(body)
        if not status.startswith("200") or b'"status":false' in raw[:20]:
            raise SystemExit(f"{path}: {status} {raw[:300]!r}")
        return raw

    return ask


def fill(tx: Tx, centre: centres.Centre, hosts: int, instances: int) -> None:
    """Rows as the services write them, in one transaction."""
    at = clock.now()
    for number, key in enumerate(CLUSTERS):
        clusters.insert(tx, {"key": key, "name": f"c{number}", "kind": "kubernetes", "origin": "kboss", "state": "running",
                             "cloud_id": centre.cloud_id, "created_at": at}, at=at)
    rows = [host(centre, number, at) for number in range(hosts)]
    many(tx, "node", [{"id": row["node_id"], "name": row["name"], "cloud_id": centre.cloud_id, "state": "running",
                       "cores": 1, "memory_mb": 1, "storage_gb": 1, "slots": 1, "ssh_port": 22, "keep_alive_s": 0,
                       "error_count": 0, "lease_until": 0, "version": 1, "created_at": at} for row in rows])
    many(tx, "centre_host", rows)
    for key in CLUSTERS:
        held = [one for row in rows if row["cluster_key"] == key for one in centre_hosts.amounts(row)]
        parts.move_host(tx, centre.key, before=None, after=(key, held), actor=ANN)
    bought = [instance(centre, number, at) for number in range(instances)]
    many(tx, "instance", bought)
    for one in bought:
        parts.consume(tx, centre.key, one["cluster_key"], [Amount(*entry) for entry in json.loads(one["amounts"])], actor=ANN)
    many(tx, "instance_period", [{"instance_key": one["key"], "org": one["org"], "centre_key": centre.key,
                                  "cluster_key": one["cluster_key"], "amounts": one["amounts"], "began_at": at - 7200, "why": ""}
                                 for one in bought])


def host(centre: centres.Centre, number: int, at: float) -> dict[str, Any]:
    return {"key": f"host-{number:016d}", "node_id": 1_000_000 + number, "centre_key": centre.key, "name": f"host-{number}",
            "cluster_key": CLUSTERS[number % len(CLUSTERS)], "node_status": "1", "ip": f"10.{number >> 16}.{number >> 8 & 255}."
            f"{number & 255}", "devicetype": "1", "sshport": 22, "adminuser": "root", "adminpwd": "", "enable_date": "2026-01-01",
            "export_date": "9999-12-31", "external_ip": "", "cpu_model": "XEON", "cpu_stock": 64, "memory_model": "DDR4",
            "memory_stock": 256, "sysdisk_stock": 100, "datadisk_stock": 1000, "gpu_model": MODELS[number % 4], "gpu_stock": 8,
            "role": "worker", "options": "{}", "created_at": at, "updated_at": at}


def instance(centre: centres.Centre, number: int, at: float) -> dict[str, Any]:
    spec = {"source_name": f"i{number}", "source_authuser": "root", "source_podengine": "StatefulSet", "source_replicasetnum": 1,
            "instance_type": "LinuxOS", "pod_imagepath": "docker.io/library/ubuntu:22.04", "source_memrate": "4096Mi",
            "source_cpurate": "2000m", "source_selflabel": "app:x", "source_gpu": 1, "source_portmode": "NodePort",
            "source_restartpolicy": "Always", "source_apiport": 6035, "source_insideport": 22, "source_outsideport": 0,
            "source_mountpath": "/mnt", "source_storagelimits": "20Gi", "source_nodeselector": "", "cpu_model": "XEON",
            "gpu_model": MODELS[0]}
    amounts = [["cpu", "XEON", 2000], ["memory", "DDR4", 4096], ["disk", "DATA", 20], ["gpu", MODELS[0], 1]]
    return {"key": f"inst-{number:016d}", "centre_key": centre.key, "cluster_key": CLUSTERS[0],
            "org": f"org{number % 10}", "user": "u", "name": f"i{number}", "engine": "StatefulSet", "state": "applied",
            "stopped": 0, "reason": "", "spec": json.dumps(spec), "password": "", "amounts": json.dumps(amounts),
            "namespace": "n", "account": "a",
            "controller": f"i{number}-statefulset", "service": f"i{number}-service", "live": "running",
            "live_ready": 1, "not_before": 0.0, "created_at": at, "updated_at": at}


def many(tx: Tx, table: str, rows: list[dict[str, Any]]) -> None:
    names = ", ".join(f'"{name}"' for name in rows[0])
    tx.many(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(rows[0]))})", [tuple(row.values()) for row in rows])


def bare() -> Callable[[], Any]:
    app = Flask("bare")
    app.add_url_rule("/bare", view_func=lambda: "ok")
    client = Client(app)
    return lambda: client.get("/bare")


def fitting_data(seed: int) -> tuple[list[fitting.Product], list[NodeFree]]:
    """100 products of which half fit nowhere, 1,000 nodes."""
    chance = random.Random(seed)
    nodes = [NodeFree(f"n{number}", chance.randrange(64) * 1000, chance.randrange(256) * 1024, chance.randrange(1000),
                      {MODELS[number % 4]: chance.randrange(9)}, {"zone": str(number % 3)}) for number in range(1000)]
    wanted = {f"p{number}": [
        {"type": "cpu", "model": "XEON", "amount": 1 + number % 64}, {"type": "memory", "model": "DDR4", "amount": 1024 * number},
        {"type": "gpu", "model": MODELS[number % 4], "amount": 1 + number // 6}] for number in range(100)}
    return fitting.products(wanted), nodes


def buyers(centre: centres.Centre) -> float:
    """Purchases per second of 50 buyers at once, each given back again."""
    each = 20

    def buy(number: int) -> None:
        key = CLUSTERS[number % len(CLUSTERS)]
        card = Amount("gpu", MODELS[number % len(CLUSTERS) % 4], 1)
        held = [Amount("cpu", "XEON", 1000), Amount("memory", "DDR4", 1024), card]
        for _ in range(each):
            write(lambda tx: parts.consume(tx, centre.key, key, held, actor=ANN))
            write(lambda tx: parts.release(tx, centre.key, key, held, actor=ANN))
        db.current().close_thread()

    threads = [threading.Thread(target=buy, args=(number,)) for number in range(BUYERS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 2 * each * BUYERS / (time.perf_counter() - began)


def meter() -> float:
    """Milliseconds to meter one hour of all instances."""
    write(lambda tx: tx.run("DELETE FROM counter WHERE name IN ('metered_until', 'budgets_looked_at')"))
    write(lambda tx: tx.run("DELETE FROM usage_hour"))
    began = time.perf_counter()
    found = metering.tick()
    took = 1000 * (time.perf_counter() - began)
    if not found.rows:
        raise SystemExit("nothing was metered")
    return took / found.hours if found.hours else took


def lists(app: Any, centre: centres.Centre, hosts: int, instances: int) -> None:
    reference = timed(bare())
    show("an empty Flask route, called the same way", reference, unit="ms")
    middle = sorted(reference)[ROUNDS // 2]
    ask = {"cpcid": centre.key}
    calls = [
        (f"list of all {hosts} hosts", "cpcnode/get_cpcnode", ask),
        ("page 50 of hosts, by name", "cpcnode/get_cpcnode", {**ask, "page": 50, "rows": 100, "sort": "name"}),
        (f"list of all {instances} instances", "cpcpodyaml/get_cpcpodyaml", {"clusterid": CLUSTERS[0], **ask}),
        ("parts with their books", "cpcwidget/get_cpcwidget", ask),
        ("free cards of a centre", "cpcwidget/obtaining_gpuinfo", ask),
    ]
    for name, path, params in calls:
        show(name, timed(asked(app, f"/dev/cpcc/{path}.dspy", **params)), unit="ms", reference=middle)


def main() -> None:
    hosts = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    instances = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000
    with tempfile.TemporaryDirectory() as folder:
        given = settings.load({"state": folder, "cloud_scheduler.config_file": "none"}, environ={})
        migrations.migrate(db.open_database(given.database.url))
        centre = centres.add({"name": "bench"}, org="bench", actor=ANN, settings=given)
        for kind, model in (("cpu", "XEON"), ("memory", "DDR4"), ("disk", "DATA"), *(("gpu", model) for model in MODELS)):
            parts.add(centre.key, kind=kind, model=model, unit_price="0.123", actor=ANN)
        write(lambda tx: fill(tx, centre, hosts, instances))
        lists(make_app(given), centre, hosts, instances)
        products, nodes = fitting_data(1)
        show("100 products on 1,000 nodes", timed(lambda: fitting.unfit_by_nodes(products, nodes, {"zone": "1"})), unit="ms")
        show("100 products that fit nowhere", timed(lambda: fitting.unfit_by_nodes(
            [fitting.Product(one.id, (*one.amounts, Amount("gpu", "NONE-1G", 1))) for one in products], nodes)), unit="ms")
        lines = [{"type": "cpu", "model": "XEON", "amount": 4}, {"type": "memory", "model": "DDR4", "amount": 8192},
                 {"type": "disk", "model": "DATA", "amount": 512}, {"type": "gpu", "model": MODELS[0], "amount": 2}]
        took = timed(lambda: [quotes.quote(centre.key, lines, duration=2, duration_unit="天") for _ in range(100)])
        show("quotes of four lines", [100_000 / one for one in took], unit="1/s")
        show("purchases and returns, 50 buyers at once (durable)", [buyers(centre) for _ in range(3)], unit="1/s")
        show(f"an hour of {instances} instances metered", [meter() for _ in range(3)], unit="ms")
        use = asked(make_app(given), "/dev/cpcc/cpcbill/get_usage.dspy", by="instance")
        show("use of this month by instance", timed(use), unit="ms")
        metering.set_budget("org1", amount=10**6, actor=ANN)
        show("what an organisation has spent so far", timed(lambda: metering.spending("org1")), unit="ms")
        found = timed(lambda: parts.recount(centre.key, actor=ANN), rounds=3)
        show("books counted again", found, unit="ms")
        if parts.recount(centre.key, actor=ANN):
            raise SystemExit("the books differ from what was counted")
        db.current().close()


if __name__ == "__main__":
    main()
