"""How is the output of Slurm's commands read? Fields end with the unit separator, records with the record separator, so
that nothing people write in names, reasons and comments is taken for a border."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from cloudsched.drivers.slurm import states
from cloudsched.drivers.slurm.model import ClusterNode, JobRecord, Partition

FIELD, RECORD = "\x1f", "\x1e"
EMPTY = frozenset({"", "(null)", "N/A", "n/a", "None assigned", "none", "Unknown", "NONE"})

JOB_FIELDS = ("JobArrayID", "State", "Reason", "exit_code", "NodeList", "SubmitTime", "StartTime", "EndTime", "Partition",
              "Name", "Comment")  # fmt: skip
NODE_FIELDS = ("NodeList", "StateComplete", "CPUsState", "Memory", "AllocMem", "Gres", "GresUsed", "Features", "PartitionName",
               "Reason")  # fmt: skip
ACCOUNT_FIELDS = ("JobID", "State", "Reason", "ExitCode", "NodeList", "Submit", "Start", "End", "Partition", "JobName",
                  "TotalCPU", "MaxRSS")  # fmt: skip

_ARRAY = re.compile(r"(\d+)_\[?([\d,\-:]+)(?:%\d+)?\]?\Z")
_PAIR = re.compile(r"(?:\A|\s)([A-Za-z][\w/:]*)=")
_UNITS_MB = {"": 1 / 1048576, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1048576.0}


def format_of(fields: Sequence[str]) -> str:
    """The value of `-O` that prints these fields whole."""
    return ",".join(f"{name}:{FIELD}" for name in fields[:-1]) + f",{fields[-1]}:{RECORD}"


def jobs(text: str) -> list[JobRecord]:
    """Records of `squeue -O` with JOB_FIELDS; a pending array that came as one line is told task by task."""
    found = []
    for row in _rows(text, JOB_FIELDS):
        code, number = exit_status(row["exit_code"]) if not states.is_live(row["State"]) else (None, None)
        for one in tasks_of(row["JobArrayID"]):
            found.append(JobRecord(
                one, row["State"], reason=_text(row["Reason"]), name=row["Name"], comment=_text(row["Comment"]),
                partition=row["Partition"], nodes=_text(row["NodeList"]), exit_code=code, signal=number,
                submitted_at=_time(row["SubmitTime"]), started_at=_time(row["StartTime"]),
                ended_at=None if states.is_live(row["State"]) else _time(row["EndTime"])))  # fmt: skip
    return found


def accounts(text: str) -> list[JobRecord]:
    """Records of `sacct` with ACCOUNT_FIELDS: one for each job or task, with the greatest memory of its steps."""
    found: dict[str, JobRecord] = {}
    peak: dict[str, int] = {}
    for line in text.splitlines():
        parts = line.split(FIELD)
        if len(parts) < len(ACCOUNT_FIELDS):
            continue
        row = dict(zip(ACCOUNT_FIELDS, parts, strict=False))
        job, _, step = row["JobID"].partition(".")
        used = megabytes(row["MaxRSS"])
        if used is not None:
            peak[job] = max(peak.get(job, 0), used)
        if not step and row["Partition"]:  # slurmdbd shows jobs of which only the end has come in yet
            found.update((one, _account(one, row)) for one in tasks_of(job))
    return [_with_peak(record, peak.get(record.id)) for record in found.values()]


def completions(text: str) -> list[JobRecord]:
    """Lines of the job completion log; the first line is the offset of its times from UTC, as `date +%z` gives it."""
    offset, _, rest = text.partition("\n")
    found = []
    for line in rest.splitlines():
        row = pairs(line)
        if "JobId" not in row or "JobState" not in row:
            continue
        base, task = row.get("ArrayJobId", ""), row.get("ArrayTaskId", "")
        code, number = exit_status(row.get("ExitCode", ""))
        found.append(JobRecord(
            f"{base}_{task}" if base and task.isdigit() else row["JobId"], row["JobState"], name=row.get("Name", ""),
            partition=row.get("Partition", ""), nodes=_text(row.get("NodeList", "")), exit_code=code, signal=number,
            submitted_at=_time(row.get("SubmitTime", ""), offset), started_at=_time(row.get("StartTime", ""), offset),
            ended_at=_time(row.get("EndTime", ""), offset), source="jobcomp"))  # fmt: skip
    return found


def nodes(text: str) -> list[ClusterNode]:
    """Records of `sinfo -N -O` with NODE_FIELDS: a host stands there once for each of its partitions."""
    found: dict[str, ClusterNode] = {}
    partitions: dict[str, list[str]] = {}
    for row in _rows(text, NODE_FIELDS):
        name = row["NodeList"]
        partitions.setdefault(name, []).append(row["PartitionName"].rstrip("*"))
        allocated, _, rest = row["CPUsState"].partition("/")
        found[name] = ClusterNode(
            name, states.node_state(row["StateComplete"]), row["StateComplete"], reason=_text(row["Reason"]),
            cores=_number(rest.rpartition("/")[2]), cores_allocated=_number(allocated), memory_mb=_number(row["Memory"]),
            memory_allocated_mb=_number(row["AllocMem"]), gres=_text(row["Gres"]), gres_allocated=_text(row["GresUsed"]),
            features=tuple(word for word in _text(row["Features"]).split(",") if word))  # fmt: skip
    return [_in_partitions(node, partitions[node.name]) for node in found.values()]


def partitions(text: str) -> list[Partition]:
    """Lines of `scontrol -o show partition`."""
    rows = [pairs(line) for line in text.splitlines()]
    return [Partition(row["PartitionName"], row.get("State", "").lower(), row.get("Default") == "YES",
                      _number(row.get("TotalNodes", "")), _number(row.get("TotalCPUs", "")),
                      duration_s(row.get("MaxTime", ""))) for row in rows if "PartitionName" in row]  # fmt: skip


def config(text: str) -> dict[str, str]:
    """`Name = value` lines of `scontrol show config`."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.partition(" = ")
        if equals:
            found[name.strip()] = "" if value.strip() == "(null)" else value.strip()
    return found


def pairs(line: str) -> dict[str, str]:
    """`Key=value Key2=value with blanks` of one line."""
    marks = list(_PAIR.finditer(line))
    ends = [mark.start() for mark in marks[1:]] + [len(line)]
    return {mark.group(1): line[mark.end():end].strip() for mark, end in zip(marks, ends, strict=True)}


def tasks_of(job_id: str) -> list[str]:
    """`12`, `12_3`, or each task of `12_[1-3,7%2]`."""
    found = _ARRAY.match(job_id)
    if found is None:
        return [job_id.strip()]
    return [f"{found[1]}_{number}" for number in numbers(found[2])]


def numbers(text: str) -> list[int]:
    """`0-2,7` or `0-6:2` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        span, _, step = part.partition(":")
        first, dash, last = span.partition("-")
        if first.isdigit():
            found += range(int(first), int(last if dash else first) + 1, int(step or 1))
    return found


def spans(tasks: Iterable[int]) -> list[str]:
    """Numbers as Slurm writes them: `0-2`, `7`."""
    found: list[list[int]] = []
    for number in sorted(set(tasks)):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return [str(first) if first == last else f"{first}-{last}" for first, last in found]


def exit_status(text: str) -> tuple[int | None, int | None]:
    """(exit code, signal): of `CODE:SIGNAL`, or of the number that wait() gives."""
    code, colon, number = text.strip().partition(":")
    if not code.isdigit():
        return None, None
    if colon:
        signal = int(number) if number.isdigit() else 0
        return (None, signal) if signal else (int(code), None)
    status = int(code)
    return (None, status & 0x7F) if status & 0x7F else (status >> 8 & 0xFF, None)


def megabytes(text: str) -> int | None:
    """`1234K`, `1.5G` or bytes; None when it is not known."""
    found = re.match(r"([\d.]+)([KMGT]?)", text.strip())
    return round(float(found[1]) * _UNITS_MB[found[2]]) if found else None


def duration_s(text: str) -> int | None:
    """`DAYS-HH:MM:SS`, `HH:MM:SS`, `MM:SS`, with or without fractions; None for UNLIMITED and what is not known."""
    found = re.match(r"(?:(\d+)-)?([\d:]+)(?:\.\d+)?\Z", text.strip())
    if not found or not found[2].replace(":", "").isdigit():
        return None
    parts = [int(part) for part in found[2].split(":")]
    total = 0
    for part in parts:
        total = total * 60 + part
    if len(parts) == 1:
        total *= 60
    return total + int(found[1] or 0) * 86_400


def _rows(text: str, fields: Sequence[str]) -> list[dict[str, str]]:
    rows = []
    for record in text.split(RECORD):
        parts = record.removeprefix("\n").split(FIELD)
        if len(parts) == len(fields):
            rows.append({name: part.strip(" ") for name, part in zip(fields, parts, strict=True)})
    return rows


def _account(job_id: str, row: Mapping[str, str]) -> JobRecord:
    code, number = exit_status(row["ExitCode"]) if not states.is_live(row["State"]) else (None, None)
    cpu_s = _seconds(row["TotalCPU"])
    return JobRecord(
        job_id, row["State"], reason=_text(row["Reason"]), name=row["JobName"], partition=row["Partition"],
        nodes=_text(row["NodeList"]), exit_code=code, signal=number, submitted_at=_time(row["Submit"]),
        started_at=_time(row["Start"]), ended_at=_time(row["End"]), cpu_s=cpu_s, source="slurmdbd")  # fmt: skip


def _with_peak(record: JobRecord, peak_mb: int | None) -> JobRecord:
    from dataclasses import replace

    return record if peak_mb is None else replace(record, max_rss_mb=peak_mb)


def _in_partitions(node: ClusterNode, names: list[str]) -> ClusterNode:
    from dataclasses import replace

    return replace(node, partitions=tuple(sorted({name for name in names if name not in EMPTY})))


def _seconds(text: str) -> float | None:
    whole = duration_s(text)
    fraction = text.partition(".")[2]
    return None if whole is None else whole + (float(f"0.{fraction}") if fraction.isdigit() else 0.0)


def _time(text: str, offset: str = "") -> float | None:
    """Epoch seconds, as we ask for them; the completion log has ISO times of its host, which need `offset`."""
    text = text.strip()
    if text.isdigit():
        return float(text) or None
    if not offset or not text[:4].isdigit():
        return None
    from datetime import datetime

    try:
        return datetime.strptime(text + offset.strip(), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        return None


def _text(value: str) -> str:
    return "" if value in EMPTY else value


def _number(text: str) -> int:
    digits = text.strip().rstrip("+")
    return int(digits) if digits.isdigit() else 0
