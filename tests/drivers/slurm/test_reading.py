"""Is what Slurm prints read as it is meant? Outputs recorded from Slurm 22.05, and words from its manual pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudsched.drivers import base
from cloudsched.drivers.slurm import parsing, states
from cloudsched.drivers.slurm.commands import _grouped
from cloudsched.drivers.slurm.refusals import refusal

RECORDED = Path(__file__).parent / "recorded"


def recorded(name: str) -> str:
    return (RECORDED / name).read_text(encoding="utf-8")


def test_squeue() -> None:
    found = {one.id: one for one in parsing.jobs(recorded("squeue.txt"))}
    assert sorted(found) == ["1_0", "1_1", "1_2", "1_3", "1_4", "6_0", "6_1", "6_2", "6_3", "6_4"]
    ended = found["1_3"]
    assert (ended.state, ended.signal, ended.exit_code, ended.nodes, ended.elapsed_s) == ("cancelled", 15, None, "n1", 1.0)
    running = found["1_0"]
    assert (running.state, running.live, running.ended_at, running.exit_code) == ("running", True, None, None)
    assert (found["6_4"].state, found["6_4"].reason, found["6_4"].started_at) == ("queued", "JobArrayTaskLimit", None)
    assert {one.comment for one in found.values()} == {""}


def test_a_comment_and_a_name_may_hold_anything() -> None:
    row = parsing.FIELD.join(["7", "RUNNING", "None", "0", "n1", "1", "2", "NONE", "main", "a|b\nc ", '{"x": "|,\n"}'])
    (found,) = parsing.jobs(f"\n{row}{parsing.RECORD}\ngarbage{parsing.RECORD}\n")
    assert (found.id, found.name, found.comment) == ("7", "a|b\nc", '{"x": "|,\n"}')


def test_sinfo() -> None:
    first, second = parsing.nodes(recorded("sinfo.txt"))
    assert (first.name, first.state, first.cores, first.cores_allocated, first.memory_mb, first.memory_allocated_mb,
            first.features, first.partitions, first.gres_allocated) == (
        "n1", "mixed", 8, 5, 64000, 500, ("fast",), ("main",), "gpu:0")  # fmt: skip
    assert (second.state, second.raw, second.reason) == ("drained", "idle+drain", 'disk | = "b"\nnew')


def test_partitions_and_configuration() -> None:
    (main,) = parsing.partitions(recorded("partition.txt"))
    assert (main.name, main.state, main.default, main.nodes, main.cores, main.time_limit_s) == ("main", "up", True, 2, 16, None)
    found = parsing.config(recorded("config.txt"))
    assert (found["MinJobAge"], found["MaxArraySize"], found["AccountingStorageType"]) == (
        "300 sec", "10001", "accounting_storage/none")  # fmt: skip
    assert found["AccountingStoreFlags"] == ""


def test_sacct() -> None:
    found = {one.id: one for one in parsing.accounts(recorded("sacct.txt"))}
    assert [(key, one.state, one.exit_code, one.signal) for key, one in sorted(found.items())] == [
        ("2_0", "succeeded", 0, None), ("2_1", "failed", 1, None), ("2_2", "failed", 2, None),
        ("3", "failed", None, 9)]  # fmt: skip
    assert (found["3"].cpu_s, found["3"].elapsed_s, found["3"].source) == (0.071, 1.0, "slurmdbd")


def test_the_memory_of_steps_and_jobs_that_are_not_complete() -> None:
    rows = [["9", "COMPLETED", "None", "0:0", "n1", "1", "2", "3", "main", "x", "1-02:03:04", ""],
            ["9.batch", "COMPLETED", "", "0:0", "n1", "1", "2", "3", "", "batch", "00:01", "2048K"],
            ["9.0", "COMPLETED", "", "0:0", "n1", "1", "2", "3", "", "a", "00:01", "1.5G"],
            ["10", "FAILED", "None", "2:0", "n1", "1", "2", "3", "", "allocation", "00:01", ""],
            ["11_[0-1]", "PENDING", "Priority", "0:0", "None assigned", "1", "Unknown", "Unknown", "main", "y", "00:00:00", ""]]
    found = {one.id: one for one in parsing.accounts("\n".join(parsing.FIELD.join(row) for row in rows))}
    assert sorted(found) == ["11_0", "11_1", "9"]
    assert (found["9"].max_rss_mb, found["9"].cpu_s) == (1536, 93784.0)
    assert (found["11_1"].state, found["11_1"].nodes, found["11_1"].started_at) == ("queued", "", None)


def test_the_completion_log() -> None:
    (found,) = parsing.completions(recorded("completions.txt"))
    assert (found.id, found.state, found.nodes, found.ended_at, found.source) == (
        "1_3", "cancelled", "n1", 1795361687.0, "jobcomp")  # fmt: skip
    (east,) = parsing.completions(recorded("completions.txt").replace("+0000", "+0200", 1))
    assert east.ended_at == 1795361687.0 - 7200


@pytest.mark.parametrize(
    ("text", "found"),
    [("5", (None, 5)), ("256", (1, None)), ("0", (0, None)), ("3:0", (3, None)), ("0:9", (None, 9)),
     ("", (None, None)), ("N/A", (None, None)), ("34304", (134, None))],
)  # fmt: skip
def test_exit_codes(text: str, found: tuple[int | None, int | None]) -> None:
    assert parsing.exit_status(text) == found


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("UNLIMITED", None), ("60", 3600), ("01:30", 90), ("1:00:00", 3600), ("2-00:00:01", 172801), ("00:00.071", 0), ("x", None)],
)
def test_durations(text: str, seconds: int | None) -> None:
    assert parsing.duration_s(text) == seconds


def test_array_tasks_are_spread_and_gathered() -> None:
    assert parsing.tasks_of("12") == ["12"]
    assert parsing.tasks_of("12_[1-3,7%2]") == ["12_1", "12_2", "12_3", "12_7"]
    assert parsing.tasks_of("12_[0-6:3]") == ["12_0", "12_3", "12_6"]
    assert parsing.spans([3, 1, 2, 7, 2]) == ["1-3", "7"]
    assert _grouped(["5", "12_1", "12_2", "13_9"]) == ["5", "12_[1-2]", "13_[9]"]
    long = _grouped([f"12_{number}" for number in range(0, 4000, 2)])
    assert all(len(word) < 2100 for word in long)
    assert sum(word.count(",") + 1 for word in long) == 2000


@pytest.mark.parametrize(
    ("raw", "word", "machine"),
    [("PENDING", "queued", "Starting"), ("CF", "queued", "Starting"), ("RUNNING", "running", "Running"),
     ("COMPLETING", "running", "Shutdown"), ("COMPLETED", "succeeded", "Shutdown"),
     ("CANCELLED by 1000", "cancelled", "Shutdown"), ("TIMEOUT", "timeout", "Shutdown"),
     ("PREEMPTED", "failed", "Error"), ("NODE_FAIL", "failed", "Error"),
     ("OUT_OF_MEMORY", "failed", "Error"), ("OOM", "failed", "Error"), ("SUSPENDED", "running", "Error")],
)  # fmt: skip
def test_states_of_jobs(raw: str, word: str, machine: str) -> None:
    assert (states.job_word(raw), states.machine_state(raw, "None")[0]) == (word, machine)


def test_a_word_that_slurm_invents_later_counts_as_live() -> None:
    assert states.is_live("EXPEDITING")
    assert states.job_word("EXPEDITING") == "unknown"


def test_reasons() -> None:
    assert states.machine_state("PENDING", "(Priority)") == ("Starting", "waits in the queue: Priority")
    assert states.machine_state("PENDING", "BadConstraints")[0] == "Error"
    assert states.machine_state("TIMEOUT", "TimeLimit") == (
        "Shutdown", "the time limit of the pilot has passed (TIMEOUT: TimeLimit)")  # fmt: skip
    assert states.machine_state("PREEMPTED", "")[1].startswith("the pilot was preempted")
    assert states.joined(["RUNNING", "COMPLETING"]) == "COMPLETING"
    assert states.joined(["CANCELLED"]) == "CANCELLED"
    assert states.joined([]) == "UNKNOWN"


@pytest.mark.parametrize(
    ("raw", "word"),
    [("idle", "idle"), ("IDLE", "idle"), ("mixed", "mixed"), ("allocated", "allocated"), ("idle+drain", "drained"),
     ("mixed+drain", "draining"), ("drained", "drained"), ("draining", "draining"), ("down*", "down"), ("idle*", "down"),
     ("down+drain", "drained"), ("idle~", "down"), ("alloc-", "allocated"), ("idle+not_responding", "down"), ("future", "down"),
     ("planned", "idle"), ("whatever", "unknown"), ("allocated+completing", "allocated")],
)  # fmt: skip
def test_states_of_hosts(raw: str, word: str) -> None:
    assert states.node_state(raw) == word


@pytest.mark.parametrize(
    ("said", "code", "transient"),
    [
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", base.ENDPOINT, True),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", base.ENDPOINT, True),
        ("squeue: error: fetch_config: DNS SRV lookup failed\nsqueue: fatal: Could not establish a configuration source",
         base.ENDPOINT, False),
        ("sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy"
         " (job submit limit, user's size and/or time limits)", base.QUOTA, True),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", base.QUOTA, True),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", base.QUOTA, True),
        ("Munge encode failed: Failed to access \"/run/munge/munge.socket.2\"", base.AUTH, False),
        ("slurm_load_jobs error: Protocol authentication error", base.AUTH, False),
        ("sbatch: error: Batch job submission failed: Invalid partition name specified", base.REQUEST, False),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
         base.REQUEST, False),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", base.REQUEST, False),
        ("sbatch: error: Batch job submission failed: Invalid feature specification", base.REQUEST, False),
        ("sbatch: error: Memory specification can not be satisfied", base.REQUEST, False),
        ("allocation failure: Requested node configuration is not available", base.REQUEST, False),
        ("sbatch: error: Batch job submission failed: Access/permission denied", base.DENIED, False),
        ("something new", base.OTHER, False),
        ("", base.OTHER, False),
    ],
)  # fmt: skip
def test_refusals(said: str, code: int, transient: bool) -> None:
    error = refusal("sbatch", said)
    assert (error.code, error.transient) == (code, transient)
    assert "\n" not in str(error)


def test_a_long_text_is_cut() -> None:
    assert len(str(refusal("sbatch", "x" * 10_000))) < 400
