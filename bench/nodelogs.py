"""What do logs that outlive the machine cost? Jobs per second with and without a log agent on the nodes, taken in turns.

No-op jobs, one /bin/true each, and jobs that write ten lines each. Usage: python bench/nodelogs.py [JOBS] [ROUNDS]
"""

from __future__ import annotations

import os
import sys

from common import Running, show, wait_for
from throughput import end_to_end

JOBS = {
    "no-op": ({"kind": "noop"}, 4),
    "/bin/true": ({"command": ["/bin/true"]}, 1),
    "ten lines": ({"command": ["/usr/bin/seq", "10"]}, 1),
}


def running(on: bool) -> Running:
    os.environ["CLOUDSCHED_LOGKIT_ON_NODES"] = "yes" if on else "no"
    return Running(slots=2)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    found: dict[tuple[str, bool], list[float]] = {}
    houses = {on: running(on) for on in (False, True)}
    try:
        for house in houses.values():
            end_to_end(house, {"kind": "noop"}, 1000)
        for _ in range(rounds):
            for name, (job, times) in JOBS.items():
                for on, house in houses.items():
                    found.setdefault((name, on), []).append(end_to_end(house, job, count * times))
        logs = houses[True].dir / "state" / "logs"
        wait_for(lambda: any(logs.rglob("*.log")), 60)
    finally:
        for house in houses.values():
            house.stop()
    for name in JOBS:
        off = found[name, False]
        show(f"{name}, off", off, unit="jobs/s")
        show(f"{name}, on", found[name, True], unit="jobs/s", reference=sorted(off)[rounds // 2])


if __name__ == "__main__":
    main()
