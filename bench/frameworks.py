"""How long until a Spark or Flink cluster of this machine is ready, and what does handing it a job cost?

Needs the extras `spark` and `flink` and Java 17 (or CLOUDSCHED_TEST_SPARK_HOME, CLOUDSCHED_TEST_FLINK_HOME). Beside each number
the time that a bare Java machine takes. Run: `python bench/frameworks.py [spark] [flink] [--runs N]`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import show

from cloudsched import samples
from cloudsched.drivers import flink_local, spark_local
from cloudsched.drivers.base import Place
from cloudsched.drivers.frameworks import ENDED, ClusterSeen, ClusterWanted, JobWanted
from cloudsched.drivers.frameworks_local import engines

LIMIT_S = 600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=["spark", "flink"])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    java = str(engines.java({}).home / "bin" / "java")
    bare = [timed(lambda: subprocess.run([java, "-version"], check=True, capture_output=True)) for _ in range(5)]
    show("reference: a bare Java machine", bare, unit="s")
    for kind in options.kinds:
        found: dict[str, list[float]] = {}
        for _ in range(options.runs):
            with tempfile.TemporaryDirectory() as folder:
                Path(folder).chmod(0o755)
                for name, value in measured(kind, Path(folder)).items():
                    found.setdefault(name, []).append(value)
        for name, values in found.items():
            memory = "memory" in name
            show(f"{kind}: {name}", values, unit="MB" if memory else "s", reference=None if memory else min(bare))


def measured(kind: str, folder: Path) -> dict[str, float]:
    """One cluster of two small workers, one trivial job, the end; seconds and MB."""
    home = os.environ.get(f"CLOUDSCHED_TEST_{kind.upper()}_HOME")
    place = Place("local", kind, {f"{kind}_home": home} if home else {}, state_dir=str(folder))
    driver: Any = {"spark": spark_local.make, "flink": flink_local.make}[kind](place)
    wanted = ClusterWanted(f"{kind}-bench", kind, 1, "bench", 2, 1000, 512, 1000, 512)
    try:
        return lived(driver, kind, wanted, folder)
    finally:
        driver.stop(wanted, {})
        driver.forget({"key": "job"})


def lived(driver: Any, kind: str, wanted: ClusterWanted, folder: Path) -> dict[str, float]:
    found = {"launch() returns": timed(lambda: driver.launch(wanted, {}, lambda _: None))}
    found["launch to two workers"] = found["launch() returns"] + until(lambda: driver.look(wanted, {}).workers == 2)
    seen: ClusterSeen = driver.look(wanted, {})
    found["look()"] = timed(lambda: driver.look(wanted, {}))
    found["memory of master and workers"] = memory_mb(seen.facts["pids"].values())
    found |= job(driver, kind, seen, folder)
    os.kill(seen.facts["pids"]["worker-1"], 9)
    until(lambda: driver.look(wanted, {}).workers == 1)
    back_s = timed(lambda: driver.launch(wanted, {}, lambda _: None))
    found["a lost worker is back"] = back_s + until(lambda: driver.look(wanted, {}).workers == 2)
    found["stop()"] = timed(lambda: driver.stop(wanted, {}))
    return found


def job(driver: Any, kind: str, seen: ClusterSeen, folder: Path) -> dict[str, float]:
    text = folder / "text.txt"
    text.write_text("a b c\n")
    if kind == "spark":
        wanted = JobWanted("job", 1, str(samples.SPARK_PI), arguments=("1000", "2"))
    else:
        wanted = JobWanted("job", 1, str(samples.FLINK_WORDCOUNT), samples.FLINK_MAIN_CLASS, (str(text),))
    handle: dict[str, Any] = {}
    submit_s = timed(lambda: handle.update(driver.submit(seen, wanted, {}, lambda _: None)))
    total_s = submit_s + until(lambda: driver.job(seen, handle).state in ENDED)
    end = driver.job(seen, handle)
    if end.state != "succeeded":
        raise SystemExit(f"the job {end.state}: {end.reason}\n{driver.log(seen, handle).decode()}")
    return {"submit() returns": submit_s, "a trivial job, start to end": total_s}


def timed(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def until(ask: Callable[[], bool]) -> float:
    began = time.monotonic()
    while not ask():
        if time.monotonic() > began + LIMIT_S:
            raise SystemExit("it did not come")
        time.sleep(0.05)
    return time.monotonic() - began


def memory_mb(pids: Any) -> float:
    """Proportional memory of processes."""
    from cloudsched.agent import processes

    return processes.proportional_mb(pids)


if __name__ == "__main__":
    main()
