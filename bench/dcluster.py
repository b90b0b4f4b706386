"""How quick are Spark and Flink submissions and lists? 500 jobs in a burst, 1,000 cluster records; launches go on meanwhile.

The clusters are played (`[dcluster] place = "fake"`): what is measured is this server, not Spark. Beside a bare Flask route.

Usage: python bench/dcluster.py
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import threading
import time

from common import Running, bare_server

CLUSTERS, JOBS, CONNECTIONS, LISTS = 1000, 500, 8, 50


def post(connection: http.client.HTTPConnection, path: str, body: dict[str, object], expect: int = 200) -> None:
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != expect:
        raise SystemExit(f"{path}: {answer.status} {text[:500]!r}")


def burst(port: int, path: str, bodies: list[dict[str, object]], expect: int = 200) -> list[float]:
    """Milliseconds of each request, over CONNECTIONS connections at once."""
    left, took, lock = iter(bodies), [], threading.Lock()

    def send() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while True:
            with lock:
                body = next(left, None)
            if body is None:
                return
            began = time.perf_counter()
            post(connection, path, body, expect)
            with lock:
                took.append(1000 * (time.perf_counter() - began))

    threads = [threading.Thread(target=send) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(took)


def lists(port: int, path: str) -> list[float]:
    connection, took = http.client.HTTPConnection("127.0.0.1", port), []
    for _ in range(LISTS):
        began = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status}")
        took.append(1000 * (time.perf_counter() - began))
    return sorted(took)


def tell(name: str, took: list[float]) -> None:
    """Median and the 99th of a hundred."""
    late = took[min(len(took) - 1, len(took) * 99 // 100)]
    print(f"{name:<62} p50 {took[len(took) // 2]:6.1f} ms   p99 {late:6.1f} ms   max {took[-1]:6.1f} ms", flush=True)


def main() -> None:
    os.environ["CLOUDSCHED_DCLUSTER_PLACE"] = "fake"
    house = Running()
    try:
        with bare_server() as bare_port:
            tell(f"POST of the bare Flask route (reference), {CONNECTIONS} connections",
                 burst(bare_port, "/bare", [{"n": index} for index in range(JOBS)], expect=201))
            tenants = itertools.cycle(f"team-{index}" for index in range(50))
            tell(f"launch: {CLUSTERS} clusters, {CONNECTIONS} connections", burst(
                house.port, "/cluster/launch/spark/cluster",
                [{"tenant": next(tenants), "workers": 1, "workerCpu": "100m", "workerMemory": "64Mi", "masterCpu": "100m",
                  "masterMemory": "64Mi"} for _ in range(CLUSTERS)]))
            tell(f"submit: {JOBS} jobs in a burst, {CONNECTIONS} connections", burst(
                house.port, "/cluster/job/submit",
                [{"client": f"client-{index}", "module": "spark-pi", "workerCpu": "100m", "workerMemGb": "0.1",
                  "masterMemory": "64m"} for index in range(JOBS)]))
            for path in ("/cluster/job/list", "/cluster/job/list?status=submitted&limit=1000", "/api/v2/clusters?limit=100",
                         "/api/v2/jobs?limit=100", "/cluster/status/spark/cluster/1"):
                tell(f"GET {path}", lists(house.port, path))
    finally:
        house.stop()


if __name__ == "__main__":
    main()
