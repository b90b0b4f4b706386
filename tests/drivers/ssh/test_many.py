"""Does each host get its own answer, whatever the others do?"""

from __future__ import annotations

import threading
from typing import Any

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.ssh.many import GaveUp, on_all
from cloudsched.drivers.ssh.targets import Target

HOSTS = [Target(f"h{number}") for number in range(40)]


def test_results_come_in_the_order_of_the_hosts() -> None:
    results = on_all(HOSTS, lambda target: target.host.upper(), timeout_s=30)
    assert [(result.host, result.value, result.ok) for result in results] == [(one.host, one.host.upper(), True) for one in HOSTS]
    assert on_all([], lambda target: 1, timeout_s=1) == []


def test_no_more_than_asked_for_at_once() -> None:
    lock, now, most = threading.Lock(), 0, 0
    enough = threading.Barrier(4, timeout=30)

    def work(target: Target) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        enough.wait()
        with lock:
            now -= 1

    assert all(result.ok for result in on_all(HOSTS, work, parallel=4, timeout_s=30))
    assert most == 4


def test_failures_are_results() -> None:
    def work(target: Target) -> Any:
        if target.host == "h1":
            raise DriverError("h1: no", code=base.AUTH)
        if target.host == "h2":
            raise DriverError("h2: away", code=base.ENDPOINT, transient=True)
        if target.host == "h3":
            raise RuntimeError("a secret")
        return 7

    results = on_all(HOSTS[:5], work, timeout_s=30)
    assert [(one.error, one.message, one.transient) for one in results] == [
        ("", "", False), ("auth", "h1: no", False), ("unreachable", "h2: away", True), ("other", "RuntimeError", False),
        ("", "", False)]  # fmt: skip


def test_hosts_that_hang_hold_up_nobody() -> None:
    """More of them than there are threads at once."""
    never = threading.Event()
    hang = {one.host for one in HOSTS[:6]}
    results = on_all(HOSTS, lambda target: never.wait() if target.host in hang else 1, parallel=3, timeout_s=0.2)
    assert [one.host for one in results if one.error == "timeout"] == sorted(hang)
    assert all(one.value == 1 for one in results if one.host not in hang)
    assert isinstance(results[0].failure, GaveUp) and results[0].failure.transient
    never.set()
