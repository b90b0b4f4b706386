"""Why a job waits and why a node is kept: each state with the rules that speak in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cloudsched import clock
from cloudsched.domain.submission import JobRequest
from cloudsched.errors import NotFound
from cloudsched.services import jobs, why
from cloudsched.services.agent_rules import rules
from cloudsched.services.caller import LOCAL_ADMIN
from cloudsched.store import clouds, db, migrations, nodes, system
from cloudsched.store.db import write


@pytest.fixture(autouse=True)
def database(database_url: str) -> Iterator[None]:
    opened = db.open_database(database_url, synchronous="OFF")
    migrations.migrate(opened)
    yield
    opened.close()


def submit(**wanted: Any) -> int:
    return jobs.submit([JobRequest(command=["true"], **wanted)], LOCAL_ADMIN).ids[0]


def beat(age_s: float = 0.0) -> None:
    at = clock.now() - age_s
    write(lambda tx: system.start_loop(tx, "scheduler", interval_s=5, at=at))
    write(lambda tx: system.beat(tx, "scheduler", at=at, took_s=0.1))


def add_cloud(name: str, **facts: Any) -> int:
    values = {"name": name, "kind": "Local", "max_slots": 2, "enabled": 1, **facts}
    return write(lambda tx: clouds.insert(tx, values, at=clock.now()))


def add_node(name: str, cloud_id: int, **facts: Any) -> int:
    at = clock.now()
    values = {"name": name, "cloud_id": cloud_id, "state": "running", "status": "Running", "cores": 2, "memory_mb": 1024,
              "storage_gb": 10, "slots": 2, "last_seen_at": at, "registered_at": at, "running_at": at, "instance": "i",
              "user": "local", "vm_type": "default", **facts}
    return write(lambda tx: nodes.insert(tx, values, at=at))


def rules_of(answer: dict[str, Any], **where: str) -> list[str]:
    return [one["rule"] for one in answer["reasons"] if all(one.get(k) == v for k, v in where.items())]


def test_no_engine_is_said_first() -> None:
    answer = why.job(submit())
    assert "engine" in answer["verdict"] and rules_of(answer)[0] == "engine"
    beat(age_s=100)
    assert "100 s" in why.job(submit())["verdict"]


def test_each_cloud_says_its_rule() -> None:
    beat()
    add_cloud("small", memory_mb=100)
    add_cloud("off", enabled=0)
    add_cloud("lan", networks='["lan"]')
    answer = why.job(submit(memory_mb=2000, network="wan"))
    assert rules_of(answer, cloud="small") and rules_of(answer, cloud="off") and rules_of(answer, cloud="lan")
    assert all(one["text"] for one in answer["reasons"])


def test_each_node_says_its_rule() -> None:
    beat()
    cloud = add_cloud("c")
    add_node("little", cloud, cores=1)
    add_node("other", cloud, user="ada")
    add_node("drains", cloud, goal="drain")
    add_node("quiet", cloud, last_seen_at=clock.now() - 2 * rules.lease_s)
    add_node("boots", cloud, state="starting", status="Starting")
    answer = why.job(submit(cores=2))
    found = {one["node"]: one["rule"] for one in answer["reasons"] if "node" in one}
    assert found == {"little": "cores", "other": "owner", "drains": "goal", "quiet": "silent", "boots": "state"}
    add_node("good", cloud)
    assert "good" in why.job(submit(cores=2))["verdict"]


def test_many_nodes_are_counted() -> None:
    beat()
    cloud = add_cloud("c", max_slots=200)
    for number in range(why.NODES_SHOWN + 5):
        add_node(f"n{number}", cloud, cores=1)
    answer = why.job(submit(cores=2))
    assert any(one["rule"] == "cores" and one["have"] == 5 and "more nodes" in one["text"] for one in answer["reasons"])


def test_limits_and_bans() -> None:
    beat()
    cloud = add_cloud("c", max_slots=5)
    add_node("n", cloud, cores=1)
    write(lambda tx: clouds.set_limits(tx, {"local": 1}, at=clock.now()))
    number = submit(cores=2)
    assert "user_limit" in rules_of(why.job(number))
    write(lambda tx: tx.run("UPDATE job SET ban_until = ? WHERE id = ?", (clock.now() + 60, number)))
    write(lambda tx: tx.run("INSERT INTO job_boot_failure (job_id, cloud, code, text, at) VALUES (?, 'c', -2, 'no quota', ?)",
                            (number, clock.now())))
    write(lambda tx: tx.run("INSERT INTO job_block (job_id, cloud_id, until) VALUES (?, ?, ?)", (number, cloud, clock.now() + 9)))
    answer = why.job(number)
    assert {"banned", "blocked", "boot_failed"} <= set(rules_of(answer))


def test_waiting_for_others() -> None:
    first = submit()
    second = submit(after_ok=[first])
    assert rules_of(why.job(second)) == ["after_ok"] and str(first) in why.job(second)["verdict"]
    held = submit(hold=True)
    assert rules_of(why.job(held)) == ["held"]
    from cloudsched.domain.submission import InputFile

    files = submit(input_files=[InputFile(name="a.txt", size=1)])
    assert "a.txt" in why.job(files)["verdict"]
    write(lambda tx: tx.run("UPDATE job SET state = 'pending', not_before = ?, retries = 1 WHERE id = ?",
                            (clock.now() + 30, first)))
    assert rules_of(why.job(first)) == ["pause"]


def test_in_hand_and_ended() -> None:
    number = submit()
    node = add_node("n", add_cloud("c"))
    write(lambda tx: tx.run("UPDATE job SET state = 'running', node_id = ?, attempt = 1 WHERE id = ?", (node, number)))
    assert "on n" in why.job(number)["verdict"]
    jobs.cancel(number, LOCAL_ADMIN)
    assert rules_of(why.job(number)) == ["cancel"]
    ended = submit()
    jobs.cancel(ended, LOCAL_ADMIN)
    assert "cancelled" in why.job(ended)["verdict"]
    with pytest.raises(NotFound):
        why.job(99)


def test_nodes() -> None:
    beat()
    cloud = add_cloud("c")
    idle = add_node("idle", cloud)
    assert why.node(idle)["subject"]["name"] == "idle" and why.node("idle")["verdict"]
    add_node("ended", cloud, state="gone", reason="asked for")
    assert "gone" in why.node("ended")["verdict"] and why.node("ended")["reasons"][0]["text"] == "asked for"
    own = write(lambda tx: clouds.insert(tx, {"name": "agents", "kind": "Agent", "max_slots": -1, "enabled": 1}, at=1.0))
    add_node("laptop", own)
    assert "by itself" in why.node("laptop")["verdict"]
    with pytest.raises(NotFound):
        why.node("none")


def test_a_cloud_that_is_out_of_reach_is_named() -> None:
    beat()
    add_cloud("away", error_since=clock.now(), error_text="no host answers")
    number = submit()
    answer = why.job(number)
    assert rules_of(answer, cloud="away")[0] == "unreachable"
    assert "away cannot be reached since" in answer["verdict"] and answer["verdict"].endswith("no host answers")
    add_cloud("near")
    assert "near" not in why.job(number)["verdict"]
    assert "cannot be reached" not in why.job(number)["verdict"]  # another may take it
