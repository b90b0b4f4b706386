"""Does every accepted batch reach its receiver, whatever the receiver and the disk do?"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched.logagent import posting
from cloudsched.logagent.agent import LogAgent
from cloudsched.logagent.batches import Batch
from cloudsched.logagent.config import check
from cloudsched.logagent.diskqueue import DiskQueue, waiting
from cloudsched.logagent.posting import HttpSender, Later, Target, pause_s, retry_after_s
from cloudsched.logagent.senders import FileSender
from cloudsched.logagent.stats import Stage

from .harness import Caller, Receiver, append, file_runner, running, sent, texts, wait_for

GO_ON = threading.Event()


def stopping() -> threading.Event:
    stop = threading.Event()
    stop.set()
    return stop


# ---- the queue


def bodies(queue: DiskQueue) -> list[bytes]:
    found = []
    while entry := queue.peek(0.0):
        found.append(entry.body)
        queue.done(entry)
    return found


def test_first_in_first_out_over_segments_and_restarts(tmp_path: Path) -> None:
    queue = DiskQueue(str(tmp_path), limit_bytes=1 << 20)
    expected = [b"%d" % number + b"x" * 40_000 for number in range(20)]
    for body in expected:
        assert queue.put(body, 3, GO_ON)
    assert (queue.entries, queue.records) == (20, 60)
    first = queue.peek(0.0)
    assert first and first.body == expected[0]
    queue.done(first)
    queue.close()
    again = DiskQueue(str(tmp_path), limit_bytes=1 << 20)
    assert (again.entries, again.records, again.id) == (19, 57, queue.id)
    assert bodies(again) == expected[1:]
    assert len(list(tmp_path.glob("*.seg"))) == 1
    assert (again.bytes, again.records) == (0, 0)


def test_a_delivery_that_was_not_noted_comes_again_under_its_number(tmp_path: Path) -> None:
    queue = DiskQueue(str(tmp_path), limit_bytes=1 << 20)
    queue.put(b"a", 1, GO_ON)
    first = queue.peek(0.0)
    queue.close()
    assert DiskQueue(str(tmp_path), limit_bytes=1 << 20).peek(0.0) == first


@pytest.mark.parametrize("cut", [1, 10, 24, 30])
def test_a_torn_end_is_cut_off(tmp_path: Path, cut: int) -> None:
    queue = DiskQueue(str(tmp_path), limit_bytes=1 << 20)
    queue.put(b"whole", 1, GO_ON)
    queue.put(b"torn by a kill", 1, GO_ON)
    queue.close()
    segment = next(tmp_path.glob("*.seg"))
    os.truncate(segment, segment.stat().st_size - cut)
    again = DiskQueue(str(tmp_path), limit_bytes=1 << 20)
    again.put(b"next", 1, GO_ON)
    assert bodies(again) == [b"whole", b"next"]


def test_a_damaged_segment_is_kept_for_a_person(tmp_path: Path) -> None:
    queue = DiskQueue(str(tmp_path), limit_bytes=1 << 20)
    for _ in range(6):
        queue.put(b"x" * 70_000, 1, GO_ON)
    queue.close()
    first = min(tmp_path.glob("*.seg"))
    data = bytearray(first.read_bytes())
    data[-10] ^= 1
    first.write_bytes(data)
    again = DiskQueue(str(tmp_path), limit_bytes=1 << 20)
    assert "damaged" in again.lost and Path(f"{first}.damaged").exists()
    assert len(bodies(again)) == 5 and again.entries == 0


def test_full_means_waiting_and_stopping_means_giving_up(tmp_path: Path) -> None:
    queue = DiskQueue(str(tmp_path), limit_bytes=1000)
    assert queue.put(b"x" * 5000, 1, GO_ON)  # one that is larger than the queue still goes through
    assert not queue.put(b"y", 1, stopping())
    put = threading.Thread(target=queue.put, args=(b"y", 1, GO_ON))
    put.start()
    entry = queue.peek(0.0)
    assert entry
    queue.done(entry)
    put.join(5)
    assert bodies(queue) == [b"y"]


def test_what_waits_in_a_queue_nobody_works_on(tmp_path: Path) -> None:
    queue = DiskQueue(str(tmp_path / "q"), limit_bytes=1000)
    queue.put(b"x", 1, GO_ON)
    queue.close()
    assert waiting(str(tmp_path / "q")) == 1 and waiting(str(tmp_path / "none")) == 0


# ---- files


def test_a_half_written_batch_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b'[{"a":1}]\n[{"a":2},{"a"')
    sender = FileSender("f", str(path))
    sender.open(Stage())
    sender.accept(Batch([{"a": 2}]), GO_ON)
    assert path.read_bytes() == b'[{"a":1}]\n[{"a":2}]\n'


def test_a_foreign_last_line_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"somebody wrote this")
    sender = FileSender("f", str(path))
    sender.open(Stage())
    sender.accept(Batch([{"a": 2}]), GO_ON)
    assert path.read_bytes() == b'somebody wrote this\n[{"a":2}]\n'


def test_a_disk_that_is_full_leaves_no_half_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    sender = FileSender("f", str(path))
    sender.open(Stage())
    sender.accept(Batch([{"a": 1}]), GO_ON)

    def full(fd: int, data: bytes) -> None:
        os.write(fd, data[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cloudsched.logagent.senders.write_all", full)
    with pytest.raises(OSError, match="space"):
        sender.accept(Batch([{"a": 2}]), GO_ON)
    assert path.read_bytes() == b'[{"a":1}]\n'


# ---- HTTP


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.away()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "FIRST_PAUSE_S", 0.02)


def opened(tmp_path: Path, url: str, *, queued: bool = True, **target: object) -> tuple[HttpSender, Stage]:
    sender, stage = HttpSender("h", Target(url, **target), str(tmp_path / "sender"), queued=queued), Stage()  # type: ignore[arg-type]
    sender.open(stage)
    return sender, stage


RECORDS = [{"n": number} for number in range(10)]


@pytest.mark.parametrize("target", [{}, {"protocol": "ndjson"}, {"gzip": True}, {"authorization": "Bearer abc"}])
def test_batches_arrive(tmp_path: Path, receiver: Receiver, target: dict[str, object]) -> None:
    sender, stage = opened(tmp_path, receiver.url, **target)
    sender.accept(Batch(RECORDS), GO_ON)
    wait_for(lambda: sender.backlog() == 0)  # noted as delivered after it was counted
    assert receiver.records == RECORDS and stage.success.total == 10
    assert receiver.requests[0]["headers"].get("Authorization") == target.get("authorization")
    sender.close()


@pytest.mark.parametrize(("status", "headers"), [
    (503, {"Retry-After": "0"}), (429, {"Retry-After": "0.05"}), (500, {}), (404, {}), (302, {"Location": "http://127.0.0.1:1/"}),
])
def test_refused_for_now_is_sent_again(tmp_path: Path, receiver: Receiver, status: int, headers: dict[str, str]) -> None:
    receiver.answers = [(status, headers)] * 2
    sender, stage = opened(tmp_path, receiver.url)
    sender.accept(Batch(RECORDS), GO_ON)
    wait_for(lambda: stage.success.total == 10)
    assert receiver.records == RECORDS and stage.errors == 2
    assert len({request["headers"]["X-Batch-Id"] for request in receiver.requests}) == 1
    sender.close()


def test_too_large_is_halved_and_what_nobody_wants_is_set_aside(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answers = [(413, {}), (413, {}), (200, {}), (422, {})]
    sender, stage = opened(tmp_path, receiver.url)
    sender.accept(Batch(RECORDS), GO_ON)
    wait_for(lambda: sender.backlog() == 0)
    assert [request["count"] for request in receiver.requests] == [10, 5, 2, 3, 5]
    assert receiver.records == RECORDS[:2] + RECORDS[5:]
    aside = [json.loads(path.read_bytes()) for path in (tmp_path / "sender" / "refused").iterdir()]
    assert aside == [RECORDS[2:5]] and stage.errors == 3 and stage.success.total == 7
    sender.close()


def test_without_a_queue_the_receiver_acknowledges(tmp_path: Path, receiver: Receiver) -> None:
    sender, _ = opened(tmp_path, receiver.url, queued=False)
    receiver.answers = [(503, {"Retry-After": "7"})]
    with pytest.raises(Later, match="503") as error:
        sender.accept(Batch(RECORDS), GO_ON)
    assert pause_s(1, error.value) == 7
    assert sender.accept(Batch(RECORDS), GO_ON)
    receiver.away()
    sender._post.close()
    with pytest.raises(OSError, match="refused"):
        sender.accept(Batch(RECORDS), GO_ON)
    sender.close()


def test_pauses_grow_and_end_somewhere() -> None:
    pauses = [pause_s(failures, None) for failures in range(1, 40)]
    assert max(pauses) <= posting.LONGEST_PAUSE_S and pauses[0] <= 0.02
    assert pause_s(1, Later("", 1e9)) == posting.LONGEST_RETRY_AFTER_S
    assert (retry_after_s("5"), retry_after_s("x"), retry_after_s(None)) == (5.0, None, None)
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


# ---- the whole runner


def test_a_full_queue_stops_the_reading_and_nothing_is_lost(tmp_path: Path, receiver: Receiver) -> None:
    source, lines = tmp_path / "a.log", 3000
    source.write_text("".join(f"{number:06} {'x' * 93}\n" for number in range(lines)))
    receiver.away()
    config = file_runner(source, tmp_path / "unused", batch_len=50)
    config["senders"] = [{"sender_type": "http", "http_sender_url": receiver.url, "max_disk_used_bytes": "65536",
                          "http_sender_max_pause": "50ms"}]
    with running(tmp_path) as (_, caller):
        caller.add("r", config)
        status = wait_for(lambda: (found := caller.runner("r"))["lag"]["ftlags"] > 300 and _tried(found) and found)
        (stats,) = status["senderStats"].values()
        assert stats["success"] == 0 and "refused" in stats["last_error"]
        assert status["lag"]["size"] > lines * 101 - 200_000  # most of the file is not read
        assert sum(path.stat().st_size for path in tmp_path.rglob("*.seg")) <= 65536
        receiver.back()
        wait_for(lambda: len(receiver.records) >= lines)
        assert [int(record["raw"][:6]) for record in receiver.records] == list(range(lines))
        wait_for(lambda: caller.runner("r")["lag"] == {"size": 0, "sizeunit": "bytes", "ftlags": 0, "total": lines * 101})


def _tried(status: dict[str, Any]) -> bool:
    return all(stats["errors"] > 0 for stats in status["senderStats"].values())


def test_each_sender_gets_every_record_once_and_the_slow_one_holds_the_position(tmp_path: Path) -> None:
    source, good, bad = tmp_path / "a.log", tmp_path / "good", tmp_path / "away" / "bad"
    source.write_text("")
    bad.parent.mkdir()
    config = file_runner(source, good, batch_len=2)
    config["senders"].append({"sender_type": "file", "file_send_path": str(bad)})
    with running(tmp_path) as (_, caller):
        caller.add("r", config)
        bad.parent.rmdir()
        append(source, "1\n2\n")
        stats = wait_for(lambda: (found := caller.runner("r"))["senderStats"][f"fileSender:{bad}"]["errors"] > 2 and found)
        assert "No such file" in stats["senderStats"][f"fileSender:{bad}"]["last_error"]
        assert (len(sent(good)), stats["lag"]["size"]) == (2, 4)
        bad.parent.mkdir()
        wait_for(lambda: len(sent(bad)) == 2)
        wait_for(lambda: caller.runner("r")["lag"]["size"] == 0)
        assert len(sent(good)) == 2


def test_an_update_does_not_lose_what_a_queue_holds(tmp_path: Path, receiver: Receiver) -> None:
    source = tmp_path / "a.log"
    source.write_text("1\n2\n")
    receiver.away()
    config = file_runner(source, tmp_path / "unused", batch_len=2)
    sender = {"sender_type": "http", "http_sender_url": receiver.url, "http_sender_max_pause": "50ms"}
    with running(tmp_path) as (_, caller):
        caller.add("r", {**config, "senders": [sender]})
        wait_for(lambda: caller.runner("r")["lag"]["ftlags"] == 2)
        caller.ok("PUT", "/configs/r", config)
        assert "1 batches wait" in caller.runner("r")["error"]
        caller.ok("PUT", "/configs/r", {**config, "senders": [sender]})
        receiver.back()
        wait_for(lambda: len(receiver.records) == 2)


def test_tries_that_end_drop_the_batch_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "a.log", tmp_path / "out"
    source.write_text("1\n")
    config = file_runner(source, target, batch_len=1, batch_try_times=2)
    real, left = FileSender.accept, [2]

    def refuse(self: FileSender, batch: Batch, stop: threading.Event) -> bool:
        if left[0]:
            left[0] -= 1
            raise OSError("not today")
        return real(self, batch, stop)

    monkeypatch.setattr(FileSender, "accept", refuse)
    with running(tmp_path) as (_, caller):
        caller.add("r", config)
        (stats,) = wait_for(lambda: _errors_of(caller.runner("r")) == [3] and caller.runner("r")["senderStats"].values())
        assert "dropped" in stats["last_error"]
        wait_for(lambda: caller.runner("r")["lag"]["size"] == 0)
        errors = caller.ok("GET", "/errors/r")["send_errors"]
        assert [item["count"] for item in errors[f"fileSender:{target}"]] == [2, 1]


def _errors_of(status: dict[str, Any]) -> list[int]:
    return [stats["errors"] for stats in status["senderStats"].values()]


def test_nothing_is_left_is_never_said_before_the_first_look(tmp_path: Path, receiver: Receiver) -> None:
    """Files that were found and not read yet count, also while a sender holds up the reading; after a restart too."""
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.log").write_text("12345\n" * 10)
    receiver.away()
    config = file_runner(tmp_path / "*.log", tmp_path / "unused", batch_len=5, reader={"mode": "tailx"})
    config["senders"] = [{"sender_type": "http", "http_sender_url": receiver.url, "fault_tolerant": "false"}]
    with running(tmp_path) as (_, caller):
        caller.add("r", config)
        assert caller.runner("r")["lag"] == {"size": 180, "sizeunit": "bytes", "ftlags": 0, "total": 180}
    with running(tmp_path) as (_, caller):
        assert caller.runner("r")["lag"]["size"] == 180
        receiver.back()
        wait_for(lambda: caller.runner("r")["lag"]["size"] == 0)
    assert len(receiver.records) == 30


def test_a_folder_that_is_away_at_a_restart_is_waited_for(tmp_path: Path) -> None:
    source, target = tmp_path / "a.log", tmp_path / "mount" / "out"
    source.write_text("1\n2\n")
    target.parent.mkdir()
    with running(tmp_path) as (_, caller):
        caller.add("r", file_runner(source, target, batch_len=2))
        wait_for(lambda: len(sent(target)) == 2)
    target.parent.rename(tmp_path / "away")
    append(source, "3\n4\n")
    with running(tmp_path) as (_, caller):
        stats = wait_for(lambda: _errors_of(caller.runner("r")) >= [1] and caller.runner("r"))
        assert (stats["runningStatus"], stats["lag"]["size"]) == ("running", 4)
        (tmp_path / "away").rename(target.parent)
        wait_for(lambda: texts(target) == ["1\n", "2\n", "3\n", "4\n"])
        assert caller.call("POST", "/logkit/configs/s", file_runner(source, tmp_path / "none" / "out"))[0] == 400


def test_a_runner_that_could_not_start_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "a.log", tmp_path / "out"
    source.write_text("1\n2\n")
    with running(tmp_path) as (_, caller):
        caller.add("r", {**file_runner(source, target, batch_len=2)})
        wait_for(lambda: len(sent(target)) == 2)
        caller.add("off", {**file_runner(source, tmp_path / "never"), "is_stopped": True})
    append(source, "3\n4\n")
    monkeypatch.setattr("cloudsched.logagent.agent.REFRESH_S", 0.05)
    with monkeypatch.context() as full:
        full.setattr("cloudsched.logagent.runner.disk.make_folder", _no_space)
        agent = LogAgent(check({"bind_host": "127.0.0.1:0"}, base=str(tmp_path)))
        agent.start()
        caller = Caller(agent.port)
        wait_for(lambda: "No space" in caller.runner("r").get("error", ""))
        assert caller.runner("r")["runningStatus"] == "stopped"
    wait_for(lambda: len(sent(target)) == 4)
    assert "error" not in caller.runner("r") and caller.runner("off")["runningStatus"] == "stopped"
    agent.stop()
    assert not (tmp_path / "never").exists()


def _no_space(path: str) -> None:
    if "runners" in path:
        raise OSError(28, "No space left on device")
