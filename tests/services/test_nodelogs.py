"""Are logs of nodes kept once, in bounds, and for as long as they should be?"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudsched.store import logfiles
from cloudsched.store.logfiles import Folders, Given, Limits, NodeFolder

SMALL = Limits(file_bytes=2000, node_bytes=8000)


def records(*lines: str, job: int = 1, offset: int = 0, stream: str = "stdout") -> list[Given]:
    found = []
    for line in lines:
        text = {"job": job, "attempt": 1, "stream": stream, "offset": offset, "size": len(line) + 1, "line": line}
        raw = json.dumps(text).encode()
        found.append(Given(raw, logfiles.parse(raw)))
        offset += len(line) + 1
    return found


def everything(folder: Path, **filters: Any) -> list[str]:
    wanted: Callable[[bytes], bool] = filters.pop("wanted", lambda raw: True)
    found, _ = logfiles.read(folder, 0, wanted=wanted, limit=100_000, **filters)
    return [json.loads(entry.raw)["line"] for entry in found]


def test_a_batch_is_kept_once(tmp_path: Path) -> None:
    made = NodeFolder(tmp_path / "c" / "n")
    assert made.append("q-1", records("a", "b"), at=1.5, limits=SMALL) == (2, 0, False)
    assert made.append("q-1", records("a", "b"), at=2.5, limits=SMALL) == (0, 2, True)
    # Read again after a kill: another batch, the same lines in part.
    assert made.append("q-2", records("b", "c", offset=2), at=3.5, limits=SMALL) == (1, 1, False)
    assert everything(made.path) == ["a", "b", "c"]
    later = NodeFolder(made.path)  # the process was killed, another goes on
    assert later.append("q-2", records("x"), at=4.5, limits=SMALL).repeated
    assert later.append("q-3", records("a", "b", "c", "d"), at=4.5, limits=SMALL) == (1, 3, False)
    assert everything(made.path) == ["a", "b", "c", "d"]


def test_streams_and_jobs_are_not_mixed_up(tmp_path: Path) -> None:
    made = NodeFolder(tmp_path / "n")
    for index, given in enumerate((records("a"), records("b", stream="stderr"), records("c", job=2))):
        assert made.append(f"q-{index}", given, at=1, limits=SMALL).kept == 1
    plain = Given(b'{"line":"no job"}', logfiles.parse(b'{"line":"no job"}'))
    odd = Given(b'{"job":"x","line":"odd"}', logfiles.parse(b'{"job":"x","line":"odd"}'))
    assert made.append("", [plain, plain, odd], at=1, limits=SMALL).kept == 3
    assert everything(made.path) == ["a", "b", "c", "no job", "no job", "odd"]


def test_out_of_order_pieces_close_the_gap(tmp_path: Path) -> None:
    made = NodeFolder(tmp_path / "n")
    made.append("1", records("cc", offset=6), at=1, limits=SMALL)
    made.append("2", records("aa"), at=1, limits=SMALL)
    assert made.append("3", records("aa", "bb", "cc"), at=1, limits=SMALL) == (1, 2, False)
    assert made._spans[(1, 1, "stdout")] == [[0, 9]]


@pytest.mark.parametrize("torn", [b'#{"id":"q-9","at":1,"bytes":500}\n1000 {"line":"half"}\n1000 {"li', b'#{"id":"q-', b"1000 {"])
def test_a_half_written_batch_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    made = NodeFolder(tmp_path / "n")
    made.append("q-1", records("a"), at=1, limits=SMALL)
    segment = made.path / "00000001.log"
    whole = segment.read_bytes()
    segment.write_bytes(whole + torn)
    again = NodeFolder(made.path)
    assert again.append("q-9", records("b", offset=2), at=1, limits=SMALL) == (1, 0, False)
    assert segment.read_bytes().startswith(whole + b"#") and everything(made.path) == ["a", "b"]


def test_files_follow_each_other_and_the_oldest_go(tmp_path: Path) -> None:
    made = NodeFolder(tmp_path / "n")
    for index in range(200):
        made.append(f"q-{index}", records(f"line {index}", job=index), at=index, limits=SMALL)
    numbers = logfiles.segments(made.path)
    size = sum(path.stat().st_size for path in made.path.glob("*.log"))
    assert numbers == list(range(numbers[0], numbers[-1] + 1)) and numbers[0] > 1 and size <= SMALL.node_bytes
    lines = everything(made.path)
    assert lines == [f"line {index}" for index in range(200 - len(lines), 200)]
    assert NodeFolder(made.path).append("q-199", [], at=1, limits=SMALL).repeated, "ids are carried over"


def test_reading_goes_on_where_it_was(tmp_path: Path) -> None:
    made = NodeFolder(tmp_path / "n")
    for index in range(60):
        made.append(f"q-{index}", records(f"line {index}", job=index), at=index, limits=Limits(2000, 1 << 20))
    after, found = 0, []
    while True:
        some, after = logfiles.read(made.path, after, wanted=lambda raw: True, limit=7)
        if not some:
            break
        found += [json.loads(entry.raw)["line"] for entry in some]
    assert found == [f"line {index}" for index in range(60)]
    made.append("next", records("more", job=99), at=100, limits=Limits(2000, 1 << 20))
    assert [entry.at for entry in logfiles.read(made.path, after, wanted=lambda raw: True, limit=7)[0]] == [100]
    assert everything(made.path, since=58.5)[0] == "line 59"
    assert everything(made.path, wanted=lambda raw: b"line 3" in raw)[0] == "line 3"


def _write_some(path: Path, name: str) -> None:
    # Two files: who begins late reads the last two, and must find there all that the other has written meanwhile.
    made, limits = NodeFolder(path), Limits(8000, 1 << 20)
    for index in range(40):
        made.append(f"{name}-{index}", records(f"{name} {index}", job=ord(name), offset=index * 10), at=index, limits=limits)
        made.append(f"shared-{index}", records(f"shared {index}", job=7, offset=index * 20), at=index, limits=limits)


def test_several_processes_write_one_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_some, args=(tmp_path / "c" / "n", name)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    lines = everything(tmp_path / "c" / "n")
    assert sorted(line for line in lines if line.startswith("shared")) == sorted(f"shared {index}" for index in range(40))
    assert len(lines) == len(set(lines)) == 120


def test_retention_by_age_and_size(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    for node, changed in (("old", 1000.0), ("new", 5000.0), ("newest", 6000.0)):
        made = folders.of("c", node)
        made.append("1", records("x" * 100), at=1, limits=SMALL)
        logfiles.write_note(made.path, "node.json", {"node": node})
        os.utime(made.path / "00000001.log", (changed, changed))
    assert logfiles.forget(tmp_path, before=2000.0, most_bytes=1 << 20) == 1
    assert not (tmp_path / "c" / "old").exists() and not (tmp_path / "c" / "old.lock").exists()
    one = (tmp_path / "c" / "new" / "00000001.log").stat().st_size
    assert logfiles.forget(tmp_path, before=0, most_bytes=one) == 1 and not (tmp_path / "c" / "new").exists()
    assert everything(tmp_path / "c" / "newest") == ["x" * 100]
    # Who wrote there goes on with a number that was not used yet.
    assert folders.of("c", "new").append("2", records("y", offset=500), at=1, limits=SMALL).kept == 1
    assert logfiles.segments(tmp_path / "c" / "new") == [2]


@pytest.mark.parametrize("name", ["n1", "a/b", "..", ".hidden", "x.lock", "ä%20 b", "[x]*", "n" * 255, "10.0.0.7:1222", ""])
def test_any_name_is_a_folder_of_its_own(tmp_path: Path, name: str) -> None:
    found = logfiles.folder_of(tmp_path, name, name)
    assert found.parent.parent == tmp_path and found.name not in (".", "..", "") and len(found.name) <= 180
    logfiles.write_note(found, "node.json", {})
    assert logfiles.find(tmp_path, name) == [found]
    assert not found.name.endswith((".lock", ".new"))
