"""What follows from what a device reports, and what a task asks: pure rules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudsched.domain import devices, tasks
from cloudsched.domain.admission import Machine, admits, refusals
from cloudsched.domain.scheduling.model import Require, Shape

WORDS = st.text(max_size=20)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=6)
few = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize(("value", "digits", "expected"), [
    (0.25, 1, 0.3), (-0.25, 1, -0.3), (1.005, 2, 1.01), (42.55, 1, 42.6), (0.04, 1, 0.0), (-0.04, 1, 0.0), (99.95, 1, 100.0),
])  # fmt: skip
def test_halves_go_away_from_zero(value: float, digits: int, expected: float) -> None:
    assert devices.rounded(value, digits) == expected


@few
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=6), st.integers(0, 100), st.integers(0, 100))
def test_the_length_of_a_union(intervals: list[tuple[int, int]], begin: int, end: int) -> None:
    expected = sum(1 for unit in range(begin, end) if any(first <= unit < last for first, last in intervals))
    assert devices.covered(intervals, begin, end) == expected


@few
@given(st.dictionaries(st.sampled_from(
    ["platform", "platform_details", "cpu_count", "memory_total_gb", "capabilities", "tags", "kinds", "supported_task_types",
     "role", "max_concurrent_tasks", "gpus", "internet", "sensors", "storage_gb"]), JSON, max_size=4))
def test_no_profile_is_too_odd(profile: dict[str, Any]) -> None:
    facts = devices.facts_of(devices.cleaned(profile))
    assert facts.cores >= 0 and facts.memory_mb >= 0 and 0 <= facts.capacity <= 100_000
    devices.facts_of(profile)
    devices.sample_of(profile)


@few
@given(JSON)
def test_what_is_kept_is_json(value: Any) -> None:
    import json

    text = json.dumps(devices.cleaned(value), allow_nan=False)
    assert "\\u0000" not in text


@given(st.integers(1, 2**53 - 1))
def test_ids_lead_back_to_their_jobs(number: int) -> None:
    assert tasks.job_number(tasks.task_id(number)) == number and len(tasks.task_id(number)) == 21


def test_ids_that_are_none() -> None:
    for text in ("task-", "task-0000000000000000", "task-ZZZZZZZZZZZZZZZZ", "1", "task-" + "f" * 17):
        assert tasks.job_number(text) is None


@pytest.mark.parametrize(("kind", "payload", "data", "output"), [
    ("echo", {"message": "a", "repeat": 3}, {"echo": {}}, "a\na\na"), ("echo", {"x": 1}, {"echo": {"x": 1}}, '{"x": 1}'),
    ("sleep", {"duration": 1}, {"slept_for": 1}, ""), ("python_eval", {}, {"result": 4, "expression": "2+2"}, "4"),
    ("http_request", {}, {"status_code": 200, "content": "page"}, "page"), ("program", {}, {"stdout": "out"}, "out"),
    ("system_info", {}, {"cores": 4}, '{"cores": 4}'), ("other", {}, [1, 2], "[1, 2]"),
    ("echo", {"message": "a", "repeat": "x"}, {}, "a"),
])  # fmt: skip
def test_output_by_type(kind: str, payload: dict[str, Any], data: Any, output: str) -> None:
    assert tasks.result_of(kind, payload, data, exit_code=None, error=None)["output"] == output


def test_results_of_programs_and_failures() -> None:
    done = tasks.result_of("program", {}, {"return_code": 3, "stdout": "x"}, exit_code=0, error=None)
    assert done["exit_code"] == 3 and done["output"] == "x"
    assert tasks.result_of("echo", {}, None, exit_code=None, error="no") == {"output": "", "exit_code": 1, "error": "no"}


def test_priorities_and_words() -> None:
    assert [tasks.job_priority(name) for name in tasks.PRIORITIES] == [-1, 0, 1, 2]
    assert [tasks.level(priority) for priority in (-50, -1, 0, 1, 2, 1000)] == [1, 1, 2, 3, 4, 4]
    assert tasks.kind_of("shell_command") == tasks.kind_of("command") == "program" and tasks.type_of("program") == "command"
    assert {word for words in tasks.WORDS.values() for word in words} == {*tasks.CODE_WORDS, *tasks.DOCUMENT_WORDS}


@few
@given(JSON)
def test_results_stay_below_their_bound(value: Any) -> None:
    import msgspec

    cut, was_cut = tasks.bounded({"text": "x" * 3000, "value": devices.cleaned(value)}, 2000)
    assert was_cut and len(msgspec.json.encode(cut)) <= 2000


MACHINE = Machine("", "", 4, 4096, 50, kinds=frozenset({"echo", "command"}), node_id=7, os="android", role="mobile",
                  tags=frozenset({"a", "b"}), total_cores=4, total_memory_mb=4096, total_storage_gb=64.0)


@pytest.mark.parametrize(("require", "rule"), [
    (None, None), (Require("echo"), None), (Require("sleep"), "kind"), (Require("echo", os="linux"), "os"),
    (Require("echo", role="nas"), "role"), (Require("echo", tags=frozenset({"a", "z"})), "tags"),
    (Require("echo", gpu=True), "gpu"), (Require("echo", node=8), "node"), (Require("echo", node=7), None),
    (Require("echo", min_cores=5), "min_cores"),
    (Require("echo", min_memory_mb=5000), "min_memory_mb"), (Require("echo", min_storage_gb=64.5), "min_storage_gb"),
    (Require("echo", internet=True), None),
])  # fmt: skip
def test_the_quick_answer_and_the_reasons_agree(require: Require | None, rule: str | None) -> None:
    shape = Shape(1, "u", "t", source="task", require=require)
    assert admits(MACHINE, shape) is (rule is None)
    assert [one.rule for one in refusals(MACHINE, shape)] == ([rule] if rule else [])


def test_a_machine_without_commands_takes_no_batch_job() -> None:
    machine = Machine("", "", 4, 4096, 50, kinds=frozenset({"echo"}))
    assert not admits(machine, Shape(1, "u", "t")) and refusals(machine, Shape(1, "u", "t"))[0].rule == "kind"
