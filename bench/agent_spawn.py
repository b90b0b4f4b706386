"""How many jobs a second does an agent run, beside what the machine can do at all?

Against the small protocol server (a process of its own): one and two agents, `noop` and `/bin/true`; before and
after them a bare `posix_spawn` loop in one and in two processes. Run: `python bench/agent_spawn.py [--jobs N]`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from cloudsched.testing.fakeserver import FakeServer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=3000)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: dict[str, float] = {}
    for processes in (1, 2):
        rows[f"reference: bare posix_spawn, {processes} process(es)"] = reference(processes, options.jobs)
    for agents in (1, 2):
        rows[f"agents: {agents}, /bin/true"] = measured(agents, options.slots, options.jobs, kind="command")
        rows[f"agents: {agents}, noop"] = measured(agents, options.slots, options.jobs * 5, kind="noop")
    rows["reference again: bare posix_spawn, 2 process(es)"] = reference(2, options.jobs)
    if options.json:
        print(json.dumps({name: round(value) for name, value in rows.items()}))
        return
    for name, value in rows.items():
        print(f"{name:52s} {value:8.0f} /s")


def reference(processes: int, jobs: int) -> float:
    """Processes started and reaped per second by `processes` loops that do nothing else."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        pool.map(_loop, [10] * processes)
        began = time.monotonic()
        pool.map(_loop, [jobs // processes] * processes)
        return jobs / (time.monotonic() - began)


def _loop(count: int) -> None:
    for _ in range(count):
        os.wait4(os.posix_spawn("/bin/true", ["/bin/true"], {}, setsid=True), 0)


def measured(agents: int, slots: int, jobs: int, *, kind: str) -> float:
    """Jobs per second from the submit to the last result, the median of three."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    url, tokens = ours.recv()
    with tempfile.TemporaryDirectory() as folder:
        running = [_agent(url, tokens[number], Path(folder) / str(number), slots) for number in range(agents)]
        try:
            ours.send((200, kind, agents))
            ours.recv()
            rates = []
            for _ in range(3):
                ours.send((jobs, kind, agents))
                rates.append(jobs / ours.recv())
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()
            ours.send(None)
            server.join()
    return sorted(rates)[1]


def _serve(pipe: Any) -> None:
    # The rule for jobs an agent does not name walks over all jobs: it would be measured instead of the agent.
    with FakeServer(redeliver_after_s=3600) as server:
        pipe.send((server.url, [server.token() for _ in range(8)]))
        while (order := pipe.recv()) is not None:
            count, kind, agents = order
            server.until(lambda wanted=agents: len(server.nodes) == wanted, "agents joined")
            began = time.monotonic()
            server.submit_many(count, "/bin/true", kind=kind)
            server.wait(timeout_s=120)
            pipe.send(time.monotonic() - began)
        assert server.violations == [], server.violations


def _agent(url: str, token: str, folder: Path, slots: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cloudsched.agent", "--server", url, "--work-dir", str(folder)]
    command += ["--slots", str(slots), "--log-level", "warning"]
    env = {**os.environ, "CLOUDSCHED_AGENT_TOKEN": token, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, env=env)


if __name__ == "__main__":
    main()
