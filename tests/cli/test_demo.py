"""`cloudsched demo`: the texts and their pieces; a whole run, with commands that really run."""

from __future__ import annotations

import io
from typing import Any

import pytest

from cloudsched.cli import demo_work
from cloudsched.cli.demo import USERS, run_demo
from cloudsched.cli.demo_work import check, demo_texts, pieces, request
from cloudsched.cli.screen import Screen
from cloudsched.client import Client

from .fake_api import FakeApi, FakeServer


class Fleet(FakeApi):
    """A fake whose scheduler boots a machine per (user, type), and retires it when asked often enough."""

    def __init__(self) -> None:
        super().__init__(run_jobs=True)
        self.wrong: set[int] = set()
        self.stay = False

    def look(self, job: dict[str, Any]) -> dict[str, Any]:
        names = {node["name"] for node in self.nodes}
        name = f"{job['user']}-{job['vm_type']}"
        if name not in names:
            self.add_node(name, user=job["user"], vm_type=job["vm_type"], cloud=job["targets"][0], looks=0)
        seen = super().look(job)
        if job["id"] in self.wrong:
            self.output[job["id"], "stdout"] = b"1 2 3\n"
        return seen


def _tick(api: Fleet) -> Any:
    """Time passes: idle machines are retired once all jobs have ended."""

    def sleep(_: float) -> None:
        for node in api.nodes:
            if not api.stay and all(job["state"] in ("succeeded", "failed", "cancelled") for job in api.jobs.values()):
                node["state"] = {"running": "stopping", "stopping": "gone"}.get(node["state"], "gone")

    return sleep


def test_there_are_a_dozen_plain_texts_and_no_word_is_lost() -> None:
    texts = demo_texts()
    assert len(texts) == 12
    assert all(2000 <= len(text) <= 20_000 and text.isascii() for text in texts.values())
    for number in (100, 120, 250):
        cut = pieces(number)
        assert number <= len(cut) <= number + 2 * len(texts)
        assert {name: "".join(p.content for p in cut if p.text == name) for name in texts} == texts
        assert sum(piece.words for piece in cut) == sum(len(text.split()) for text in texts.values())


def test_the_work_is_spread_over_people_types_and_clouds() -> None:
    asked = [request(piece, "b", n, users=USERS, clouds=["a", "b"]) for n, piece in enumerate(pieces(100))]
    assert len({(job["user"], job["vm_type"], job["targets"][0]) for job in asked}) == 4
    assert {job["targets"][0] for job in asked} == {"a", "b"}


def test_a_wrong_answer_is_seen() -> None:
    piece = demo_work._piece("t", 1, "the cat\nthe dog\n")
    good = "2 4 16\n 2 the\n 1 cat\n 1 dog\n"
    assert check(piece, {"state": "succeeded"}, good) is None
    assert "right is" in (check(piece, {"state": "succeeded"}, good.replace("4", "5")) or "")
    assert check(piece, {"state": "failed", "reason": "memory limit"}, "") == "ended as failed (memory limit)"


@pytest.fixture
def fleet() -> Fleet:
    api = Fleet()
    api.add_cloud("local-a")
    api.add_cloud("local-b")
    return api


def _run(api: Fleet, screen: Screen, **kw: Any) -> int:
    now = iter(range(100_000))
    with FakeServer(api) as url, Client(url) as client:
        return run_demo(
            client, screen=screen, jobs=20, sleep=_tick(api), monotonic=lambda: float(next(now)), **kw
        )  # fmt: skip


def test_a_whole_run_in_a_pipe(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    assert _run(fleet, Screen(out)) == 0
    lines = out.getvalue().splitlines()
    n = len(fleet.jobs)
    assert lines[0].startswith(f"{n} jobs submitted: the words of 12 texts, by ada and grace")
    assert f"{n}/{n} jobs ended; local-a: 2 retired; local-b: 2 retired" in lines
    assert f"results checked\t{n}/{n}\tall right" in lines
    assert "machines booted\t4\t2 on local-a, 2 on local-b" in lines
    assert any(line.startswith("  cloud_status -m") for line in lines)
    assert capsys.readouterr().err == ""


def test_a_whole_run_in_a_terminal_draws_one_block(fleet: Fleet) -> None:
    out = io.StringIO()
    assert _run(fleet, Screen(out, width=100)) == 0
    text = out.getvalue()
    assert "\x1b[4A" in text and "█" in text and "local-a" in text


def test_the_summary_as_json(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    assert _run(fleet, Screen(out, as_json=True)) == 0
    import json

    facts = json.loads(out.getvalue())
    assert facts["ok"] is True and facts["machines"] == {"local-a": 2, "local-b": 2}
    assert capsys.readouterr().out == ""


def test_a_wrong_result_is_a_failure(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.wrong = {3}
    out = io.StringIO()
    assert _run(fleet, Screen(out)) == 1
    assert "job 3 (02-machines-for-a-while-01): counted" in capsys.readouterr().err


def test_machines_that_stay_are_a_failure(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.stay = True
    assert _run(fleet, Screen(io.StringIO()), patience_s=30) == 1
    assert "machines are still there after 30 s" in capsys.readouterr().err


def test_clouds_are_made_where_there_are_none_and_removed(capsys: pytest.CaptureFixture[str]) -> None:
    api = Fleet()
    api.add_cloud("only")
    assert _run(api, Screen(io.StringIO())) == 0
    assert [cloud["name"] for cloud in api.clouds] == ["only"]
    made = [body for method, path, _, body in api.requests if (method, path) == ("POST", "/api/v2/clouds")]
    assert len(made) == 1 and made[0]["kind"] == "Local"
