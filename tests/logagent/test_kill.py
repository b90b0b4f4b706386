"""Is nothing lost when the agent is killed at any moment, files rotate and the receiver goes away?

Duplicates are allowed and counted: what was accepted after the last checkpoint before a kill is read and sent again.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from .harness import Process, Receiver, duplicates, file_runner, sent, wait_for
from .writer import Writer

FILES, LINES, ROTATE_AT = 10, 20_000, 200
EXPECTED = {f"{number}:{line}" for number in range(FILES) for line in range(LINES // FILES)}


def _keys(records: list[dict[str, int]]) -> list[str]:
    return [f"{record['file']}:{record['line']}" for record in records]


@pytest.mark.crash
def test_every_line_arrives_through_kills_rotation_and_an_outage(tmp_path: Path, record_property) -> None:
    receiver, chance = Receiver(), random.Random(4)
    logs = tmp_path / "logs"
    logs.mkdir()
    writer = Writer(logs, files=FILES, lines=LINES, seconds=8.0, rotate_at=ROTATE_AT)
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
    # The first look is written down: from here on rotated files are looked for.
    wait_for(lambda: len(list(tmp_path.rglob("checkpoint.json"))) == 2)
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
    wait_for(lambda: all(set(_keys(records)) >= EXPECTED for records in (receiver.records, sent(tmp_path / "out.json"))), 60)
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
