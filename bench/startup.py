"""How long until `up` answers, and how much memory does the default stack hold? Beside a bare interpreter and bare Flask.

Usage: python bench/startup.py
"""

from __future__ import annotations

import subprocess
import sys
import time

from common import Running, bare_server, show

RUNS = 5


def timed(*words: str) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return (time.monotonic() - began) * 1000


def main() -> None:
    bare = [timed("-c", "pass") for _ in range(RUNS)]
    show("reference: a bare interpreter", bare, unit="ms")
    show("cloudsched --help", [timed("-m", "cloudsched", "--help") for _ in range(RUNS)], unit="ms",
         reference=sorted(bare)[RUNS // 2])
    starts, memory = [], []
    for _ in range(3):
        with bare_server():
            pass
        house = Running(slots=1)
        time.sleep(8)  # until everything that is made in the background is there
        starts.append(house.start_s)
        held = house.processes()
        memory.append(sum(held.values()) / 1024)
        house.stop()
    show("cloudsched up, until it answers", starts, unit="s")
    show("memory of the default stack, no agents (PSS)", memory, unit="MB")
    for name, kb in held.items():
        print(f"    {kb / 1024:6.1f} MB  {name}")


if __name__ == "__main__":
    main()
