"""How does the running demo look? One block that is drawn again and again, and the summary at the end."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections import Counter
from typing import Any

from cloudsched.cli.screen import Screen, bar
from cloudsched.cli.table import STATE_COLOURS, Column
from cloudsched.cli.values import show_duration

INFO_PORT = 8111
_WAITING = ("pending", "held", "queued", "assigned")
_BAD = ("failed", "timeout", "cancelled")
_MARKS = {
    "requested": "·",
    "starting": "◌",
    "running": "●",
    "stopping": "◍",
    "gone": "○",
    "failed": "✗",
    "released": "○",
}


def picture(
    screen: Screen, states: Counter[str], machines: list[dict[str, Any]], *, total: int, seconds: float
) -> tuple[list[str], str]:
    """(the lines of the block, the one line that a pipe gets)."""
    done = states["succeeded"] + sum(states[state] for state in _BAD)
    jobs = _jobs(states)
    head = f"{bar(done, total)} {done}/{total} jobs  {show_duration(round(seconds))}"
    lines = [
        head,
        "  jobs      " + "  ".join(screen.paint(f"{n} {name}", STATE_COLOURS.get(name)) for name, n in jobs),
    ]
    for cloud, nodes in _by_cloud(machines).items():
        marks = "".join(
            screen.paint(_MARKS.get(one["state"], "?"), STATE_COLOURS.get(one["state"])) for one in nodes
        )
        lines.append(f"  {cloud:<9} {marks}  {_counted(nodes)}")
    counted = [f"{cloud}: {_counted(nodes)}" for cloud, nodes in _by_cloud(machines).items()]
    plain = "; ".join([f"{done}/{total} jobs ended", *counted])
    return lines, plain


def summary(screen: Screen, facts: dict[str, Any], *, server: str) -> None:
    """The table at the end, and what to type next."""
    machines = ", ".join(f"{n} on {cloud}" for cloud, n in sorted(facts["machines"].items()))
    rows = [
        ["jobs", str(facts["jobs"]), f"{facts['words']} words of {facts['texts']} texts"],
        [
            "seconds",
            f"{facts['seconds']:g}",
            f"{facts['jobs'] / max(facts['seconds'], 0.1):.0f} jobs a second, boots included",
        ],
        ["machines booted", str(sum(facts["machines"].values())), machines],
        ["machines retired", str(facts["machines_retired"]), ""],
        [
            "results checked",
            f"{facts['results_checked']}/{facts['jobs']}",
            "all right" if facts["ok"] else "see below",
        ],
    ]
    screen.line()
    screen.table((Column("SUMMARY"), Column("N", right=True), Column("")), rows)
    screen.line()
    screen.line(_where())
    offset = os.environ.get("CLOUDSCHED_PORT_OFFSET", "")
    port = f" -p {INFO_PORT + int(offset)}" if offset.isdigit() and int(offset) else ""
    for command, text in (
        (f"cloud_status -m{port}", "the machines, as Cloud Scheduler shows them"),
        (f"cloudsched jobs list --batch {facts['batch']}", "these jobs"),
        ("cloudsched submit --wait -- wc -w /etc/services", "a job of your own"),
        (server + "/", "the dashboard"),
    ):
        screen.line(f"  {command:<50} {screen.paint(text, 'dim')}")


def _where() -> str:
    """The commands below work in a terminal that finds them and knows this instance."""
    if shutil.which("cloudsched"):
        return "next:"
    state = os.environ.get("CLOUDSCHED_STATE", "")
    known = f" CLOUDSCHED_STATE={shlex.quote(state)}" if state else ""
    return f'next, in another terminal after: export PATH="{os.path.dirname(sys.executable)}:$PATH"{known}'


def _jobs(states: Counter[str]) -> list[tuple[str, int]]:
    waiting = sum(states[state] for state in _WAITING)
    shown = [("queued", waiting), ("running", states["running"]), ("succeeded", states["succeeded"])]
    return shown + [(state, states[state]) for state in _BAD if states[state]]


def _by_cloud(machines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for node in sorted(machines, key=lambda one: (str(one.get("cloud") or ""), one["id"])):
        found.setdefault(str(node.get("cloud") or "?"), []).append(node)
    return found


def _counted(nodes: list[dict[str, Any]]) -> str:
    counts = Counter("retired" if one["state"] == "gone" else one["state"] for one in nodes)
    order = ("requested", "starting", "running", "stopping", "failed", "released", "retired")
    return ", ".join(f"{counts[state]} {state}" for state in order if counts[state])
