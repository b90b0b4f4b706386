"""What does the whole thing do? `cloudsched demo`: real jobs count the words of real texts, and are checked.

The texts (`demo_texts/`) are cut into pieces, a job counts each piece on a machine that the scheduler boots for
it, every answer is compared with a count made here, and then the idle machines are watched being retired.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cloudsched.cli.commands import EXIT_FAILED, EXIT_OK, add_common
from cloudsched.cli.demo_picture import picture, summary
from cloudsched.cli.demo_work import Piece, check, pieces, request
from cloudsched.cli.job_words import ENDED
from cloudsched.cli.problems import fail
from cloudsched.cli.screen import Block, Screen
from cloudsched.cli.session import open_session
from cloudsched.cli.values import duration_s, positive

if TYPE_CHECKING:
    from cloudsched.client import Client

USERS = ("ada", "grace")
GONE = frozenset({"gone", "failed", "released"})
_OWN_CLOUD = {"kind": "Local", "slots": 4, "memory_mb": 4096, "storage_gb": 20, "cores": 1}


def configure(parser: argparse.ArgumentParser, _: str) -> None:
    parser.set_defaults(run=run_demo_command)
    parser.add_argument("--jobs", type=positive, default=120, metavar="N", help="how many jobs (default 120)")
    parser.add_argument(
        "--patience",
        type=duration_s,
        default=180,
        metavar="TIME",
        help="longest wait for jobs or machines (default 3m)",
    )
    add_common(parser)


def run_demo_command(args: argparse.Namespace) -> int:
    session = open_session(args)
    return run_demo(session.client, screen=session.screen, jobs=args.jobs, patience_s=args.patience)


def run_demo(
    client: Client,
    *,
    screen: Screen | None = None,
    jobs: int = 120,
    patience_s: float = 180.0,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> int:
    """The demo against a server that answers; 0 when every result was right and every machine was retired.

    Raises ApiError and ServerAway. Ctrl-C (KeyboardInterrupt) cancels the jobs that are still open.
    """
    screen = screen or Screen()
    run = Run(client, screen, jobs, clocks=(sleep, monotonic), patience_s=patience_s)
    try:
        return run.all()
    except KeyboardInterrupt:
        from cloudsched.client import ClientError

        with contextlib.suppress(ClientError):  # `up` stops the server at the same moment
            client.patience_s = 0.0
            client.post("/jobs/cancel", {"batch": run.batch})
        raise


class Run:
    """One run of the demo: what it submitted, and what it has seen so far."""

    def __init__(
        self,
        client: Client,
        screen: Screen,
        jobs: int,
        *,
        clocks: tuple[Callable[[float], None], Callable[[], float]],
        patience_s: float,
    ) -> None:
        from cloudsched.clock import new_suffix

        self.client, self.screen = client, screen
        self.batch = f"demo-{new_suffix(6)}"
        self.pieces: list[Piece] = pieces(jobs)
        self.ids: list[int] = []
        self.states: Counter[str] = Counter()
        self.before: set[int] = set()
        self.machines: dict[int, dict[str, Any]] = {}
        self.sleep, self.monotonic = clocks
        self.patience_s = patience_s
        self.started = self.monotonic()
        self.block = Block(_Quiet() if screen.as_json else screen)

    def all(self) -> int:
        clouds, own = self._clouds()
        self.before = {node["id"] for node in self.client.items("/nodes")}
        try:
            self._submit(clouds)
            ended = self._watch_jobs()
            took_s = self.monotonic() - self.started
            wrong = self._check() if ended else []
            retired = self._watch_machines()
        finally:
            for name in own:
                self._remove(name)
        return self._finish(ended=ended, took_s=took_s, wrong=wrong, retired=retired)

    def _clouds(self) -> tuple[list[str], list[str]]:
        """Two clouds to use, and those of them that had to be made for the demo."""
        usable = [cloud["name"] for cloud in self.client.items("/clouds") if cloud.get("enabled")]
        own = [f"{self.batch}-{letter}" for letter in "ab"[: max(0, 2 - len(usable))]]
        for name in own:
            self.client.create("/clouds", {"name": name, **_OWN_CLOUD})
        return [*usable[:2], *own][:2], own

    def _submit(self, clouds: list[str]) -> None:
        """Two people and two types of machine: machines are not shared between them, so at least four are
        booted."""
        bodies = [
            request(one, self.batch, number, users=USERS, clouds=clouds)
            for number, one in enumerate(self.pieces)
        ]
        for at in range(0, len(bodies), 1000):
            self.ids += self.client.create("/jobs", {"jobs": bodies[at : at + 1000]})["ids"]
        texts = len({one.text for one in self.pieces})
        self._say(f"{len(self.ids)} jobs submitted: the words of {texts} texts, by {' and '.join(USERS)}")

    def _watch_jobs(self) -> bool:
        deadline = self.monotonic() + self.patience_s
        while True:
            self.states = Counter(self.client.get("/jobs/count", batch=self.batch)["by_state"])
            self._look_at_machines()
            open_jobs = len(self.ids) - sum(self.states[state] for state in ENDED)
            self._draw(final=open_jobs <= 0)
            if open_jobs <= 0:
                return True
            if self.monotonic() > deadline:
                return False
            self.sleep(0.2)

    def _watch_machines(self) -> bool:
        """Until every machine that was booted for the demo is gone."""
        deadline = self.monotonic() + self.patience_s
        while True:
            self._look_at_machines()
            left = [node for node in self.machines.values() if node["state"] not in GONE]
            self._draw(final=not left)
            if not left:
                return True
            if self.monotonic() > deadline:
                return False
            self.sleep(0.2)

    def _look_at_machines(self) -> None:
        """Machines of the demo's users; those seen earlier and missing now are gone."""
        listed = {node["id"]: node for user in USERS for node in self.client.items("/nodes", user=user)}
        for number, node in listed.items():
            if number in self.machines or (number not in self.before and node["state"] not in GONE):
                self.machines[number] = node
        for number in self.machines.keys() - listed.keys():
            self.machines[number] = {**self.machines[number], "state": "gone"}

    def _check(self) -> list[str]:
        """What is wrong with the results, a line each; [] when all are right."""
        found = {job["id"]: job for job in self.client.items("/jobs", batch=self.batch, order="id")}
        problems = []
        for number, piece in zip(self.ids, self.pieces, strict=True):
            output = b"".join(self.client.output(number)).decode("utf-8", "replace")
            problem = check(piece, found.get(number, {"state": "lost"}), output)
            if problem:
                problems.append(f"job {number} ({piece.name}): {problem}")
        return problems

    def _finish(self, *, ended: bool, took_s: float, wrong: list[str], retired: bool) -> int:
        clouds = Counter(str(node.get("cloud") or "") for node in self.machines.values())
        good = ended and retired and not wrong
        facts = {
            "batch": self.batch, "jobs": len(self.ids), "seconds": round(took_s, 1), "states": dict(self.states),
            "machines": dict(clouds), "results_checked": len(self.ids) - len(wrong) if ended else 0,
            "machines_retired": sum(node["state"] in GONE for node in self.machines.values()), "ok": good,
            "words": sum(piece.words for piece in self.pieces), "texts": len({piece.text for piece in self.pieces}),
        }  # fmt: skip
        if self.screen.as_json:
            self.screen.json(facts)
        else:
            self.block.leave()
            summary(self.screen, facts, server=self.client.base_url)
        for problem in wrong[:10]:
            fail(problem)
        if not ended:
            fail(f"the jobs did not end within {self.patience_s:g} s; see: cloudsched why {self.ids[0]}")
        if not retired:
            fail(f"machines are still there after {self.patience_s:g} s; see: cloudsched nodes list")
        return EXIT_OK if good else EXIT_FAILED

    def _remove(self, name: str) -> None:
        from cloudsched.client import ApiError

        try:
            self.client.delete(f"/clouds/{name}")
        except ApiError as error:
            fail(f"cloud {name} of the demo was not removed: {error}")

    def _draw(self, *, final: bool) -> None:
        lines, plain = picture(
            self.block.screen, self.states, list(self.machines.values()), total=len(self.ids),
            seconds=self.monotonic() - self.started,
        )  # fmt: skip
        self.block.show(lines, plain, final=final)

    def _say(self, text: str) -> None:
        if not self.screen.as_json:
            self.screen.line(text)


class _Quiet(Screen):
    """For --json: progress is not shown."""

    def line(self, text: str = "") -> None:
        pass

    def __init__(self) -> None:
        super().__init__()
        self.terminal = self.colour = False
