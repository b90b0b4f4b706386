"""How quick are lists? `GET /jobs?state=...`, `/clusters` and the native list, beside a bare Flask route.

Usage: python bench/reads.py
"""

from __future__ import annotations

import http.client
import threading
import time

from common import Running, bare_server, get, show
from throughput import submit

RUNS, REQUESTS, CONNECTIONS = 5, 3000, 4


def rate(port: int, path: str) -> float:
    def ask(count: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for _ in range(count):
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise SystemExit(f"{path}: {answer.status}")

    threads = [threading.Thread(target=ask, args=(REQUESTS // CONNECTIONS,)) for _ in range(CONNECTIONS)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return REQUESTS / (time.monotonic() - began)


def main() -> None:
    house = Running(slots=2)
    try:
        submit(house.port, {"kind": "noop", "hold": True}, 1000)
        with bare_server() as bare_port:
            rows = {"bare Flask route (reference)": (bare_port, "/bare"),
                    "GET /jobs?state=held (1,000 jobs, text)": (house.info_port, "/jobs?state=held"),
                    "GET /jobs?state=running (none)": (house.info_port, "/jobs?state=running"),
                    "GET /clusters": (house.info_port, "/clusters"),
                    "GET /clusters.json": (house.info_port, "/clusters.json"),
                    "GET /api/v2/jobs?state=held&limit=10": (house.port, "/api/v2/jobs?state=held&limit=10")}
            found: dict[str, list[float]] = {name: [] for name in rows}
            for _ in range(RUNS):
                for name, (port, path) in rows.items():
                    found[name].append(rate(port, path))
        reference = sorted(next(iter(found.values())))[RUNS // 2]
        for name, values in found.items():
            show(name, values, unit="req/s", reference=reference)
        began = time.monotonic()
        get(house.port, "/api/v2/jobs?state=held&limit=1000")
        print(f"one page of 1,000 jobs: {(time.monotonic() - began) * 1000:.1f} ms")
    finally:
        house.stop()


if __name__ == "__main__":
    main()
