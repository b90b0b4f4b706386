"""Is nothing lost when the agent is killed at any moment, files rotate and the receiver goes away?

Duplicates are allowed and counted: what was accepted after the last checkpoint before a kill is read and sent again.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import threading
import time
from pathlib import Path

import pytest

from .harness import Process, Receiver, duplicates, file_runner, sent, wait_for

FILES, LINES, ROTATE_AT = 10, 20_000, 200


class Writer(threading.Thread):
    """Writes numbered lines to rotating files, and keeps writing while nobody reads."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(daemon=True)
        self.folder, self.seconds = folder, seconds
        self.files = [io.FileIO(self.path(number), "ab") for number in range(FILES)]
        self.lines = [0] * FILES

    def path(self, number: int) -> Path:
        return self.folder / f"app{number}.log"

    def run(self) -> None:
        began, step = time.monotonic(), 50
        for written in range(0, LINES, step * FILES):
            for number in range(FILES):
                first = written // FILES
                block = b"".join(b'{"file":%d,"line":%d,"text":"some words of a log"}\n' % (number, line)
                                 for line in range(first, first + step))
                self.files[number].write(block)
                self.lines[number] += step
                if self.lines[number] % ROTATE_AT == 0:
                    self.rotate(number)
            time.sleep(max(0.0, began + self.seconds * written / LINES - time.monotonic()))
        for file in self.files:
            file.close()

    def rotate(self, number: int) -> None:
        """Even files are renamed, odd ones copied and truncated; as many are kept as are written."""
        path = self.path(number)
        for old in range(9, 0, -1):
            if (source := Path(f"{path}.{old}")).exists():
                source.rename(f"{path}.{old + 1}")
        if number % 2:
            shutil.copyfile(path, f"{path}.1")
            os.truncate(path, 0)
        else:
            path.rename(f"{path}.1")
            self.files[number].close()
            self.files[number] = io.FileIO(path, "ab")


EXPECTED = {f"{number}:{line}" for number in range(FILES) for line in range(LINES // FILES)}


def _keys(records: list[dict[str, int]]) -> list[str]:
    return [f"{record['file']}:{record['line']}" for record in records]


@pytest.mark.crash
def test_every_line_arrives_through_kills_rotation_and_an_outage(tmp_path: Path, record_property) -> None:
    receiver, chance = Receiver(), random.Random(4)
    logs = tmp_path / "logs"
    logs.mkdir()
    writer = Writer(logs, seconds=8.0)
    agent = Process(tmp_path)
    for mode, pattern in (("tailx", "app[0-4].log"), ("tailx", "app[5-9].log")):
        agent.caller.add(f"r{pattern[4]}", {
            "batch_len": 300, "batch_interval": 1, "parser": {"type": "json"},
            "reader": {"mode": mode, "log_path": str(logs / pattern), "stat_interval": "100ms"},
            "senders": [
                {"sender_type": "http", "http_sender_url": receiver.url, "http_sender_max_pause": "300ms"},
                {"sender_type": "file", "file_send_path": str(tmp_path / "out.json")},
            ],
        })
    wait_for(lambda: all((tmp_path / ".logkitconfs" / f"r{number}.conf").exists() for number in (0, 5)))
    time.sleep(0.5)
    writer.start()
    for kill in range(5):
        time.sleep(chance.uniform(0.7, 1.4))
        if kill == 1:
            receiver.away()
        agent.kill()
        time.sleep(chance.uniform(0.0, 0.4))
        agent.start()
        if kill == 3:
            receiver.back()
    writer.join()
    wait_for(lambda: all(set(_keys(records)) >= EXPECTED for records in (receiver.records, sent(tmp_path / "out.json"))), 20)
    by_http, by_file = _keys(receiver.records), _keys(sent(tmp_path / "out.json"))
    assert set(by_http) == set(by_file) == EXPECTED
    record_property("duplicates over http", duplicates(by_http))
    record_property("duplicates in the file", duplicates(by_file))
    print(f"duplicates: {duplicates(by_http)} over HTTP, {duplicates(by_file)} in the file")
    # Bounded by what lies between two checkpoints, not by the size of the files.
    assert duplicates(by_http) < len(EXPECTED) and duplicates(by_file) < len(EXPECTED)
    assert agent.terminate() == 0
    receiver.away()


def test_a_clean_stop_duplicates_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "a.log", tmp_path / "out.json"
    source.write_text("".join(f"{n}\n" for n in range(1000)))
    agent = Process(tmp_path)
    agent.caller.add("r", file_runner(source, target, batch_len=300))
    wait_for(lambda: len(sent(target)) >= 900)
    assert agent.terminate() == 0
    with source.open("a") as file:
        file.write("".join(f"{n}\n" for n in range(1000, 1200)))
    agent.start()
    wait_for(lambda: len(sent(target)) == 1200)
    assert [int(record["raw"]) for record in sent(target)] == list(range(1200))
    agent.terminate()
