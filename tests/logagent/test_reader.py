"""Does a reader follow its files through every rotation, and know where it was?"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from pathlib import Path

import pytest

from cloudsched.logagent import generation, reader
from cloudsched.logagent.lines import Framing
from cloudsched.logagent.reader import FileReader, Source


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "QUIET_S", 0.0)
    monkeypatch.setattr(reader, "QUIET_S", 0.0)
    monkeypatch.setattr(reader, "FINISHED_S", 0.0)


class Reading:
    """A reader whose records are acknowledged at once, or not at all."""

    def __init__(self, folder: Path, pattern: str, **options: object) -> None:
        self.folder = folder
        literal = not re.search(r"[*?\[]", pattern)
        self.source = Source(str(folder / pattern), literal=literal, scan_s=0.0, **options)  # type: ignore[arg-type]
        self.again()

    def again(self) -> None:
        """As after a kill: only the checkpoint is left."""
        if hasattr(self, "reader"):
            self.reader.close()
        self.reader = FileReader(self.source, str(self.folder / ".checkpoint"))
        self.reader.restore()

    def read(self, *, acknowledge: bool = True) -> list[str]:
        found: list[str] = []
        for _ in range(4):
            for chunk in self.reader.poll():
                found += [text.rstrip("\n") for text in chunk.records.texts]
                count = len(chunk.records.texts)
                if acknowledge:
                    self.reader.acknowledge({chunk.generation: chunk.position(count)}, count)
        if acknowledge:
            self.reader.save()
        return found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "app.log"


def put(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.write("".join(line + "\n" for line in lines))


def test_a_growing_file(tmp_path: Path, log: Path) -> None:
    put(log, "1", "2")
    reading = Reading(tmp_path, "app.log")
    assert reading.read() == ["1", "2"]
    assert reading.read() == []
    put(log, "3")
    assert reading.read() == ["3"]


def test_what_was_acknowledged_is_not_read_again_and_the_rest_is(tmp_path: Path, log: Path) -> None:
    put(log, "1")
    reading = Reading(tmp_path, "app.log")
    assert reading.read() == ["1"]
    put(log, "2")
    assert reading.read(acknowledge=False) == ["2"]
    reading.again()
    assert reading.read() == ["2"]
    assert reading.reader.records == 2


def test_newest_begins_at_the_end_once(tmp_path: Path, log: Path) -> None:
    put(log, "old")
    reading = Reading(tmp_path, "app.log", newest=True)
    assert reading.read() == []
    put(log, "new")
    reading.again()
    assert reading.read() == ["new"]
    log.rename(tmp_path / "app.log.1")
    put(log, "first of the next file")
    assert reading.read() == ["first of the next file"]


def test_newest_of_a_file_that_appears_while_the_agent_is_down(tmp_path: Path, log: Path) -> None:
    reading = Reading(tmp_path, "app.log", newest=True)
    assert reading.read() == []
    put(log, "1")
    reading.again()
    assert reading.read() == ["1"]


def test_renamed_with_unread_lines(tmp_path: Path, log: Path) -> None:
    put(log, "1")
    reading = Reading(tmp_path, "app.log")
    reading.read()
    put(log, "2")
    log.rename(tmp_path / "app.log.1")
    put(log, "3")
    assert reading.read() == ["2", "3"]


def test_a_writer_that_goes_on_in_the_renamed_file(tmp_path: Path, log: Path) -> None:
    with log.open("a", buffering=1) as writer:
        writer.write("1\n")
        reading = Reading(tmp_path, "app.log")
        reading.read()
        log.rename(tmp_path / "app.log.1")
        writer.write("2\n")
        assert reading.read() == ["2"]


def test_renamed_while_the_agent_was_down(tmp_path: Path, log: Path) -> None:
    put(log, "1")
    reading = Reading(tmp_path, "app.log")
    reading.read()
    put(log, "2")
    log.rename(tmp_path / "app.log.1")
    put(log, "3")
    reading.again()
    assert reading.read() == ["2", "3"]
    reading.again()
    assert reading.read() == []


@pytest.mark.parametrize("down", [True, False])
def test_rotated_several_times_unseen(tmp_path: Path, log: Path, down: bool) -> None:
    put(log, "1")
    reading = Reading(tmp_path, "app.log")
    reading.read()
    put(log, "2")
    for line in ("3", "4", "5"):
        for number in (3, 2, 1):
            if (old := tmp_path / f"app.log.{number}").exists():
                old.rename(tmp_path / f"app.log.{number + 1}")
        log.rename(tmp_path / "app.log.1")
        put(log, line)
        os.utime(log)
    if down:
        reading.again()
    assert sorted(reading.read()) == ["2", "3", "4", "5"]
    assert reading.read() == []


def test_deleted_after_it_was_rotated_and_read(tmp_path: Path, log: Path) -> None:
    put(log, "1")
    reading = Reading(tmp_path, "app.log")
    reading.read()
    log.rename(tmp_path / "app.log.1")
    put(log, "2")
    assert reading.read() == ["2"]
    (tmp_path / "app.log.1").unlink()
    put(log, "3")
    assert reading.read() == ["3"]
    assert len(reading.reader._live) == 1


def test_deleted_with_unread_lines_is_read_to_its_end(tmp_path: Path, log: Path) -> None:
    put(log, "1")
    reading = Reading(tmp_path, "app.log")
    reading.read()
    put(log, "2")
    log.unlink()
    assert reading.read() == ["2"]
    assert reading.read() == []
    assert reading.reader.opened() == 0
    put(log, "3")
    assert reading.read() == ["3"]


def test_copied_and_truncated(tmp_path: Path, log: Path) -> None:
    put(log, "1", "22")
    reading = Reading(tmp_path, "app.log")
    reading.read()
    put(log, "3")
    shutil.copyfile(log, tmp_path / "app.log.1")
    os.truncate(log, 0)
    put(log, "4")
    assert sorted(reading.read()) == ["3", "4"]


def test_truncated_and_grown_past_the_old_position(tmp_path: Path, log: Path) -> None:
    put(log, "1")
    reading = Reading(tmp_path, "app.log")
    reading.read()
    shutil.copyfile(log, tmp_path / "app.log.1")
    os.truncate(log, 0)
    put(log, "a longer line than before")
    assert reading.read() == ["a longer line than before"]


def test_truncated_behind_an_identical_beginning(tmp_path: Path, log: Path) -> None:
    """The first bytes are the same header in each file; the bytes before the position are not."""
    header = "#" * 300
    put(log, header, "1")
    reading = Reading(tmp_path, "app.log")
    reading.read()
    os.truncate(log, 0)
    put(log, header, "2", "3")
    assert reading.read() == [header, "2", "3"]


def test_copied_and_truncated_while_the_agent_was_down(tmp_path: Path, log: Path) -> None:
    put(log, "1")
    reading = Reading(tmp_path, "app.log")
    reading.read()
    put(log, "2")
    shutil.copyfile(log, tmp_path / "app.log.1")
    os.truncate(log, 0)
    put(log, "3", "4")
    reading.again()
    assert sorted(reading.read()) == ["2", "3", "4"]
    reading.again()
    assert reading.read() == []


@pytest.mark.parametrize("down", [True, False])
def test_copied_and_truncated_several_times_unseen(tmp_path: Path, log: Path, down: bool) -> None:
    """The position is 0 and the file is empty again: only the copies tell that something was written."""
    put(log, "1")
    reading = Reading(tmp_path, "app.log")
    reading.read()
    os.truncate(log, 0)
    assert reading.read() == []
    for line in ("2", "3", "4"):
        for number in (2, 1):
            if (old := tmp_path / f"app.log.{number}").exists():
                old.rename(tmp_path / f"app.log.{number + 1}")
        put(log, line)
        shutil.copyfile(log, tmp_path / "app.log.1")
        os.truncate(log, 0)
    if down:
        reading.again()
    assert sorted(reading.read()) == ["2", "3", "4"]
    reading.again()
    assert reading.read() == []


def test_a_copy_that_is_never_followed_by_a_truncation(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(log, "1")
    reading = Reading(tmp_path, "app.log")
    reading.read()
    shutil.copyfile(log, tmp_path / "app.log.1")
    put(log, "2")
    assert reading.read() == ["2"]
    monkeypatch.setattr(reader, "COPYING_S", 0.0)
    # Then it may as well be a generation of its own: twice is better than never.
    assert reading.read() == ["1"]


def test_a_rotated_file_that_got_the_inode_of_a_deleted_one(tmp_path: Path, log: Path) -> None:
    put(log, "1")
    reading = Reading(tmp_path, "app.log")
    reading.read()
    log.rename(tmp_path / "app.log.1")
    put(log, "2")
    assert reading.read() == ["2"]
    (old,) = reading.reader._finished.values()
    (tmp_path / "app.log.1").unlink()
    os.truncate(log, 0)
    put(log, "3333")
    shutil.copyfile(log, tmp_path / "app.log.1")
    os.truncate(log, 0)
    # What the file system does at times, done by hand.
    reading.reader._finished = {generation.key_of((tmp_path / "app.log.1").stat()): old}
    assert reading.read() == ["3333"]


def test_a_file_that_one_listing_does_not_show(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renamed while the folder was listed, it is in no listing; the next scan finds it."""
    put(log, "1")
    reading = Reading(tmp_path, "app.log")
    reading.read()
    for line in ("2", "3"):
        if (tmp_path / "app.log.1").exists():
            (tmp_path / "app.log.1").rename(tmp_path / "app.log.2")
        log.rename(tmp_path / "app.log.1")
        put(log, line)
    looks, real = [], reader.Folders.neighbours

    def blind_at_first(self: reader.Folders, path: str) -> object:
        looks.append(path)
        return [] if len(looks) == 1 else real(self, path)

    monkeypatch.setattr(reader.Folders, "neighbours", blind_at_first)
    assert sorted(reading.read()) == ["2", "3"]


def test_names_that_move_during_a_restart(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(log, "1")
    reading = Reading(tmp_path, "app.log")
    reading.read()
    log.rename(tmp_path / "app.log.1")
    put(log, "2")
    reading.read()
    listing, real = [], reader.Folders.neighbours

    def rotated_after_the_listing(self: reader.Folders, path: str) -> object:
        found = real(self, path)
        if not listing:
            listing.append(found)
            (tmp_path / "app.log.1").rename(tmp_path / "app.log.2")
            log.rename(tmp_path / "app.log.1")
            put(log, "3")
        return found

    monkeypatch.setattr(reader.Folders, "neighbours", rotated_after_the_listing)
    reading.again()
    assert reading.read() == ["3"]


def test_the_copy_matches_the_pattern_too_and_is_not_read_twice(tmp_path: Path, log: Path) -> None:
    put(log, "1")
    reading = Reading(tmp_path, "app.log*")
    assert reading.read() == ["1"]
    put(log, "2")
    shutil.copyfile(log, tmp_path / "app.log.1")
    assert reading.read() == ["2"]  # the copy is seen before the truncation
    os.truncate(log, 0)
    put(log, "3")
    assert reading.read() == ["3"]
    assert reading.read() == []


def test_renamed_within_the_pattern_goes_on(tmp_path: Path, log: Path) -> None:
    put(log, "1")
    reading = Reading(tmp_path, "app.log*")
    reading.read()
    put(log, "2")
    log.rename(tmp_path / "app.log.1")
    put(log, "3")
    assert sorted(reading.read()) == ["2", "3"]
    reading.again()
    assert reading.read() == []


def test_an_inode_used_again_is_a_new_file(tmp_path: Path, log: Path) -> None:
    put(log, "1")
    reading = Reading(tmp_path, "app.log")
    reading.read()
    checkpoint = (tmp_path / ".checkpoint").read_text()
    inode = log.stat().st_ino
    other = tmp_path / "other"
    put(other, "zz", "yy")
    log.unlink()
    other.rename(log)
    (tmp_path / ".checkpoint").write_text(checkpoint.replace(str(inode), str(log.stat().st_ino)))
    reading.again()
    assert reading.read() == ["zz", "yy"]


@pytest.mark.parametrize("down", [True, False])
def test_a_new_name_that_was_rotated_before_it_was_seen(tmp_path: Path, log: Path, down: bool) -> None:
    reading = Reading(tmp_path, "app.log")
    assert reading.read() == []
    put(log, "1")
    log.rename(tmp_path / "app.log.1")
    put(log, "2")
    if down:
        reading.again()
    assert sorted(reading.read()) == ["1", "2"]


def test_other_logs_beside_it_are_not_taken_for_rotations(tmp_path: Path, log: Path) -> None:
    put(log, "1")
    reading = Reading(tmp_path, "app.log")
    reading.read()
    for name in ("app.log.wf", "app.log.1.gz", "app.log.swp", "app.log2"):
        put(tmp_path / name, "not this")
    log.rename(tmp_path / "app.log.2026-11-22")
    put(log, "2")
    assert reading.read() == ["2"]


def test_old_rotations_are_not_read_at_the_first_start(tmp_path: Path, log: Path) -> None:
    put(tmp_path / "app.log.1", "long ago")
    os.utime(tmp_path / "app.log.1", (1, 1))
    put(log, "1")
    reading = Reading(tmp_path, "app.log")
    assert reading.read() == ["1"]
    (tmp_path / "app.log.1").rename(tmp_path / "app.log.2")
    log.rename(tmp_path / "app.log.1")
    put(log, "2")
    assert reading.read() == ["2"]


def test_a_link_that_moves_to_the_next_file(tmp_path: Path, log: Path) -> None:
    put(tmp_path / "app-1", "1")
    log.symlink_to("app-1")
    reading = Reading(tmp_path, "app.log")
    assert reading.read() == ["1"]
    put(tmp_path / "app-1", "2")
    put(tmp_path / "app-2", "3")
    log.unlink()
    log.symlink_to("app-2")
    assert reading.read() == ["2", "3"]


def test_new_files_hidden_files_and_suffixes(tmp_path: Path) -> None:
    put(tmp_path / "a.log", "a")
    reading = Reading(tmp_path, "*", ignored_suffixes=(".tmp",))
    assert reading.read() == ["a"]
    put(tmp_path / "b.log", "b")
    put(tmp_path / ".c.log", "c")
    put(tmp_path / "d.tmp", "d")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert reading.read() == ["b"]


def test_open_files_are_bounded(tmp_path: Path) -> None:
    for number in range(20):
        put(tmp_path / f"{number:02}.log", str(number))
    reading = Reading(tmp_path, "*.log", max_open_files=5)
    assert len(reading.read()) == 20
    for number in range(20):
        put(tmp_path / f"{number:02}.log", f"again {number}")
    assert len(reading.read()) == 20
    assert 0 < reading.reader.opened() <= 5


def test_a_broken_checkpoint_means_reading_again(tmp_path: Path, log: Path) -> None:
    put(log, "1")
    reading = Reading(tmp_path, "app.log")
    reading.read()
    for broken in ("{", "[]", '{"files":[{}]}', '{"files":[{"path":1}]}'):
        (tmp_path / ".checkpoint").write_text(broken)
        reading.again()
        assert reading.read() == ["1"]


def test_the_checkpoint_holds_no_line_of_the_log(tmp_path: Path, log: Path) -> None:
    put(log, "password=hunter2")
    Reading(tmp_path, "app.log").read()
    assert "hunter2" not in (tmp_path / ".checkpoint").read_text()
    assert (tmp_path / ".checkpoint").stat().st_mode & 0o077 == 0


def test_a_position_inside_a_chunk(tmp_path: Path, log: Path) -> None:
    put(log, "1", "2", "3")
    reading = Reading(tmp_path, "app.log")
    chunk = next(reading.reader.poll())
    reading.reader.acknowledge({chunk.generation: chunk.position(2)}, 2)
    reading.reader.save()
    reading.again()
    assert reading.read() == ["3"]


def test_multi_line_records_keep_their_position_at_the_head(tmp_path: Path, log: Path, monkeypatch) -> None:
    monkeypatch.setattr(generation, "QUIET_S", 1000.0)
    reading = Reading(tmp_path, "app.log", framing=Framing(head=re.compile("^H")))
    put(log, "H1", " a", "H2")
    assert reading.read() == ["H1\n a"]
    reading.again()
    put(log, " b", "H3")
    assert reading.read() == ["H2\n b"]


def test_lag_is_what_is_not_acknowledged(tmp_path: Path, log: Path) -> None:
    put(log, "12345", "789")
    reading = Reading(tmp_path, "app.log")
    reading.read(acknowledge=False)
    assert reading.reader.lag() == (10, 10)
    reading.again()
    reading.read()
    assert reading.reader.lag() == (0, 10)


def test_a_source_is_a_plain_value() -> None:
    assert dataclasses.replace(Source("/x"), newest=True).newest
