"""Every figure of contract 15 against a history made by hand. The clock starts on 2023-11-14 22:13:20 UTC."""

from __future__ import annotations

import pytest

from cloudsched.errors import Invalid
from cloudsched.services import api_requests, devices, figures, fleet_config, fleet_health, tasks
from cloudsched.services.caller import LOCAL_ADMIN
from cloudsched.store import series, system
from cloudsched.store.db import write
from tests.fleet import Agent, Fleet

MINUTE = 60.0


def run(fleet: Fleet, agent: Agent, state: str = "succeeded", *, took_s: float = 0.0, **task: object) -> str:
    """Submit a task that this agent takes, let the clock run, and report."""
    name = fleet.submit("echo", **task)
    (job,) = agent.claim()
    agent.sync(started=[[job.id, job.attempt, 0]], holding=[[job.id, job.attempt]])
    fleet.clock.advance(took_s)
    agent.done(job, state, ran_s=took_s)
    return name


def cluster(name: str) -> object:
    return figures.cluster()["cluster_stats"][name]


# who is here


def test_counts_and_health_percentage(fleet: Fleet) -> None:
    assert cluster("health_percentage") == 0.0 and cluster("total_devices") == 0
    for name in ("a", "b", "c"):
        fleet.join(name)
    fleet.clock.advance(301)
    fleet.join("a")
    fleet.join("b")
    assert (cluster("online_devices"), cluster("offline_devices"), cluster("total_devices")) == (2, 1, 3)
    assert cluster("health_percentage") == 66.7


def test_total_resources_are_of_those_online(small: Fleet) -> None:
    small.join("gone", cores=64)
    small.clock.advance(301)
    small.join("a", cores=8, memory_mb=6000, storage_total_gb=100.125)
    small.join("b", cores=4, memory_mb=2000, storage_total_gb=27.5)
    assert cluster("total_resources") == {"cpu_cores": 12, "memory_gb": 7.81, "storage_gb": 127.63}
    flat = figures.cluster()
    assert (flat["cpu_cores"], flat["memory_total"], flat["nodes_online"], flat["nodes_total"]) == (12, 7.81, 2, 3)


def test_maps_are_of_all(small: Fleet) -> None:
    small.join("gone", role="storage", platform="linux")
    small.clock.advance(301)
    small.join("a")
    small.join("b")
    assert cluster("by_role") == {"mobile": 2, "storage": 1} and cluster("by_platform") == {"android": 2, "linux": 1}
    assert cluster("by_status") == {"online": 2, "offline": 1}


def test_uptime_of_the_server(small: Fleet) -> None:
    assert figures.uptime_s() == 0.0
    write(lambda tx: system.put_setting(tx, "serving_since", str(small.clock.now())))
    small.clock.advance(3661)
    assert figures.uptime_s() == 3661 and cluster("uptime_s") == 3661


# load


def test_usage_of_the_cluster_is_the_mean_of_latest_samples(small: Fleet) -> None:
    assert figures.cluster()["cpu_usage"] == 0.0
    small.join("gone").sync(metrics={"cpu_usage": 100})
    small.clock.advance(301)
    a, b = small.join("a"), small.join("b")
    small.join("silent")
    a.sync(metrics={"cpu_usage": 90, "memory_usage": 10})
    a.sync(metrics={"cpu_usage": 30, "memory_usage": 20})
    b.sync(metrics={"cpu_usage": 45.5})
    found = figures.cluster()
    assert (found["cpu_usage"], found["memory_usage"]) == (37.8, 20.0)  # 37.75 rounds away from zero
    utilization = figures.metrics()
    assert utilization["resources"]["average_utilization"] == 37.8
    assert utilization["devices"]["resource_utilization"] == {"cpu_usage": 37.8, "memory_usage": 20.0, "disk_usage": 0.0}


def test_average_and_peak_usage_of_a_period(fleet: Fleet) -> None:
    assert figures.metrics("1h", "cpu")["metrics"] == {"cpu": {"average_usage": 0.0, "peak_usage": 0.0, "total_cores": 0}}
    a, b = fleet.join("a"), fleet.join("b")
    a.sync(metrics={"cpu_usage": 99, "memory_usage": 99})
    fleet.clock.advance(2 * 3600)
    for cpu in (10, 20, 60.3):
        a.sync(metrics={"cpu_usage": cpu, "memory_usage": cpu / 2, "storage_usage": 50})
        fleet.clock.advance(MINUTE)
    b.sync(metrics={"cpu_usage": 12, "memory_usage": None})
    found = figures.metrics("1h")["metrics"]
    assert found["cpu"] == {"average_usage": 25.6, "peak_usage": 60.3, "total_cores": 8}  # 25.575
    assert found["memory"] == {"average_usage": 15.1, "peak_usage": 30.2, "total_gb": 16.0}  # 15.05, 30.15
    assert found["disk"] == {"average_usage": 50.0, "peak_usage": 50.0, "total_gb": 128.0}
    assert figures.metrics("24h", "cpu")["metrics"]["cpu"]["peak_usage"] == 99.0
    with pytest.raises(Invalid):
        figures.metrics("2h")
    with pytest.raises(Invalid):
        figures.metrics("1h", "gpu")


def test_network_is_the_sum_of_positive_steps(fleet: Fleet) -> None:
    a, b = fleet.join("a"), fleet.join("b")
    for sent, received in ((1000, 50), (1500, 50), (200, 80), (300, 90)):  # the machine was started anew in between
        a.sync(metrics={"network_bytes_sent": sent, "network_bytes_recv": received})
    b.sync(metrics={"network_bytes_sent": 10_000, "network_bytes_recv": 10_000})
    fleet.clock.advance(10)
    b.sync(metrics={"network_bytes_sent": 10_007, "network_bytes_recv": 10_001})
    assert figures.metrics("1h", "network")["metrics"]["network"] == {"bytes_sent": 607, "bytes_received": 41}


def test_rolling_up_keeps_sums_and_bounds_rows(fleet: Fleet) -> None:
    a = fleet.join("a")
    for hour in range(30):
        a.sync(metrics={"cpu_usage": 10 + hour, "memory_usage": 40})
        fleet.clock.advance(1800)
        a.sync(metrics={"cpu_usage": 20 + hour, "memory_usage": 60})
        fleet.clock.advance(1800)
        before = series.by_node(0)[a.node_id]
        fleet.loop.tidy()
        assert series.by_node(0)[a.node_id] == before
    widths = {row[0]: row[1] for row in fleet.database.read().all("SELECT width_s, count(*) FROM device_series GROUP BY width_s")}
    assert widths[60] <= 5 and widths[600] <= 52 and widths[3600] <= 5
    assert figures.metrics("30d", "memory")["metrics"]["memory"]["average_usage"] == 50.0
    fleet.clock.advance(40 * 86400)
    fleet.loop.tidy()
    fleet.loop.tidy()
    fleet.loop.tidy()
    assert fleet.database.read().value("SELECT count(*) FROM device_series") == 0


# health


def test_checks_and_overall_health(small: Fleet) -> None:
    assert figures.health()["checks"]["network"] == {"status": "healthy", "connected_devices": 0}
    names = [f"d{n}" for n in range(10)]
    for name in names:
        small.join(name)
    small.clock.advance(301)
    seen = {}
    for count, name in enumerate(names, start=1):
        small.join(name).sync(metrics={"cpu_usage": 95 if count == 4 else 79.9, "memory_usage": 85 if count < 3 else 10})
        seen[count] = figures.health()["checks"]["network"]["status"]
    assert [seen[n] for n in (4, 5, 7, 8)] == ["unhealthy", "warning", "warning", "healthy"]
    resources = figures.health()["checks"]["resources"]
    assert resources["status"] == "warning" and resources["cpu_usage"] == 81.4  # (9 x 79.9 + 95) / 10
    assert fleet_health.resources(94.9, 0)["status"] == "warning" and fleet_health.resources(0, 95.0)["status"] == "unhealthy"
    assert fleet_health.overall_of({"database": "healthy", "network": "warning"}) == "healthy"
    assert fleet_health.overall_of({"database": "healthy", "network": "unhealthy"}) == "degraded"
    assert fleet_health.overall_of({"database": "unhealthy", "network": "healthy"}) == "unhealthy"
    assert figures.cluster()["cluster_status"] == figures.health()["overall_health"] == "healthy"


def test_health_looks_at_loops_disk_server_and_database(small: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    found = figures.health()
    assert found["checks"]["engine"]["status"] == "warning" and found["checks"]["disk"]["status"] == "healthy"
    assert found["components"]["cluster_server"] == "unhealthy" and found["unhealthy_components"] == ["cluster_server"]
    small.set(**{"listen.retire_cluster_tcp": 0})
    assert figures.health()["components"]["cluster_server"] == "not_configured"
    write(lambda tx: system.start_loop(tx, "devices", interval_s=2, at=small.clock.now()))
    assert figures.health()["checks"]["engine"]["status"] == "healthy"
    small.clock.advance(20)
    late = figures.health()
    assert late["checks"]["engine"] == {"status": "unhealthy", "late": ["devices"]} and late["overall_health"] == "degraded"
    assert late["components"]["task_scheduler"] == "unhealthy"

    def away(*_: object) -> str:
        raise OSError

    monkeypatch.setattr(system, "setting", away)
    assert figures.health()["overall_health"] == "unhealthy"


# tasks


def test_tasks_of_a_period(fleet: Fleet) -> None:
    a = fleet.join("a")
    run(fleet, a, took_s=100)
    fleet.clock.advance(3600)
    for took_s in (40, 45.1):
        run(fleet, a, took_s=took_s)
    run(fleet, a, "failed", took_s=7)
    run(fleet, a, "timeout", took_s=7)
    waits = fleet.submit("echo")
    tasks.cancel(fleet.submit("echo"), caller=LOCAL_ADMIN)
    fleet.clock.advance(1)
    found = figures.metrics("1h")["metrics"]["tasks"]
    assert found == {"completed": 2, "failed": 2, "average_duration_seconds": 42.6}  # 42.55
    stats = figures.task_stats("1h")
    assert stats["total_tasks"] == 6 and stats["average_execution_time"] == 42.6
    assert stats["by_status"] == {"pending": 1, "running": 0, "completed": 2, "failed": 2, "cancelled": 1}
    assert stats["success_rate"] == 40.0 and stats["by_device"] == {"a": {"completed": 2, "failed": 2, "cancelled": 0}}
    assert figures.task_stats("24h")["total_tasks"] == 7 and fleet.word(waits) == "queued"
    assert figures.task_stats("1h", "task_type")["by_task_type"] == {"echo": {"completed": 2, "failed": 2, "cancelled": 1}}
    assert figures.task_stats("24h", "hour")["by_hour"] == {
        "2023-11-14T22:00:00Z": {"completed": 1, "failed": 0, "cancelled": 0},
        "2023-11-14T23:00:00Z": {"completed": 2, "failed": 2, "cancelled": 1}}
    with pytest.raises(Invalid):
        figures.task_stats("1h", "colour")


def test_success_rates_of_both_kinds(small: Fleet) -> None:
    assert figures.task_stats()["success_rate"] == 0.0 == figures.queue_statistics()["performance_metrics"]["success_rate"]
    a = small.join("a")
    for state, count in (("succeeded", 37), ("failed", 1)):
        for _ in range(count):
            run(small, a, state)
    for _ in range(2):
        tasks.cancel(small.submit("echo"), caller=LOCAL_ADMIN)
    assert figures.task_stats()["success_rate"] == 92.5  # 37 / 40
    assert figures.queue_statistics()["performance_metrics"]["success_rate"] == 97.4  # 37 / 38


def test_active_and_completed_today(small: Fleet) -> None:
    a = small.join("a", max_concurrent_tasks=5)
    run(small, a)
    small.clock.advance(2 * 3600)  # past midnight UTC
    run(small, a)
    small.submit("echo")
    small.submit("echo")
    first, _ = a.claim(2)
    a.sync(started=[[first.id, first.attempt, 0]], holding=[[first.id, first.attempt], [first.id + 1, 1]])
    small.submit("echo")
    small.clock.advance(1)
    found = figures.cluster()
    assert (found["tasks_active"], found["tasks_completed"]) == (2, 1)


def test_execution_time_is_measured_or_the_end_minus_the_start(small: Fleet) -> None:
    small.register("w")
    measured, other, running = small.submit("echo"), small.submit("echo"), small.submit("echo")
    small.ask("w")
    small.clock.advance(10)
    small.report("w", measured, execution_time_seconds=2.5)
    small.ask("w")
    small.clock.advance(4)
    small.report("w", other)
    small.ask("w")
    assert [tasks.get(task).execution_s for task in (measured, other, running)] == [2.5, 4.0, None]


def test_statistics_of_the_queue(fleet: Fleet) -> None:
    a, b = fleet.join("a", max_concurrent_tasks=4), fleet.join("b", max_concurrent_tasks=4, kinds=["sleep"])
    run(fleet, a, took_s=10, priority="urgent")
    run(fleet, a, "failed", took_s=1)
    fleet.clock.advance(48 * 3600)
    a, b = fleet.join("a", max_concurrent_tasks=4), fleet.join("b", max_concurrent_tasks=4, kinds=["sleep"])
    for _ in range(12):
        run(fleet, a, took_s=5)
    fleet.submit("echo", priority="low")
    a.claim(1)
    fleet.submit("sleep", device_id="b")
    fleet.submit("sleep", device_id="b")
    fleet.submit("sleep")
    b.claim(1)
    fleet.clock.advance(1)
    found = figures.queue_statistics()
    queue, performance, load = found["queue_stats"], found["performance_metrics"], found["current_load"]
    assert queue["total_tasks"] == 18
    assert queue["by_status"] == {"assigned": 2, "failed": 1, "queued": 2, "success": 13}
    assert queue["by_priority"] == {"1": 1, "2": 16, "3": 0, "4": 1} and queue["by_device"] == {"a": 15, "b": 1}
    assert queue["priority_queue_size"] == 2 and queue["device_queues"] == {"b": 1}
    assert performance["tasks_per_hour"] == 0.5 and performance["average_execution_time"] == 5.4  # (10 + 60) / 13
    assert performance["device_utilization"] == {"a": 25.0, "b": 25.0}
    assert load == {"pending_tasks": 4, "running_tasks": 0, "capacity_utilization": 25.0}


# devices


def test_uptime_percent_is_the_union_of_contacts_and_threshold(fleet: Fleet) -> None:
    fleet_config.change({"cluster": {"offline_threshold": 100, "heartbeat_interval": 60}}, actor="me")
    fleet.register("a")
    for step_s in (60, 60, 60, 400, 60):  # online 0..180 (+100), silent, online from 580..640
        fleet.clock.advance(step_s)
        fleet.loop.notice()
        fleet.beat("a")
    fleet.clock.advance(60)
    assert figures.device_stats("24h")["utilization"]["a"]["uptime_percent"] == 57.1  # (280 + 120) / 700
    fleet.clock.advance(300)
    fleet.loop.notice()
    assert figures.device_stats("24h")["utilization"]["a"]["uptime_percent"] == 44.0  # (280 + 160) / 1000
    fleet_config.change({"cluster": {"offline_threshold": 3600}}, actor="me")
    assert figures.device_stats("24h")["utilization"]["a"]["uptime_percent"] == 100.0
    fleet.clock.advance(7200)
    assert figures.device_stats("1h")["utilization"]["a"]["uptime_percent"] == 0.0


def test_score_and_ranking(small: Fleet) -> None:
    a, b = small.join("a"), small.join("b", kinds=["sleep"])
    small.join("idle", kinds=["sleep"])
    for state in ("succeeded", "succeeded", "succeeded", "failed"):
        run(small, a, state)
    a.sync(metrics={"cpu_usage": 40, "memory_usage": 60})
    b.sync(metrics={"cpu_usage": 50, "memory_usage": 50})
    small.clock.advance(200)
    found = figures.device_stats()
    assert found["utilization"]["a"] == {"cpu_avg": 40.0, "memory_avg": 60.0, "uptime_percent": 100.0}
    # a: 100 x (0.5 x 0.75 + 0.3 + 0.2 x 0.5); b: (0.3 + 0.2 x 0.5) / 0.5; idle: nothing measured
    assert found["performance_ranking"] == [
        {"device_id": "idle", "score": 100.0}, {"device_id": "b", "score": 80.0}, {"device_id": "a", "score": 77.5}]
    assert figures.score({"completed": 95, "failed": 5}, 98.5, 42.5, 38.2) == 89.0  # 0.475 + 0.2955 + 0.2 x 0.5965


def test_hourly_history(fleet: Fleet) -> None:
    a = fleet.join("a")  # registered at 22:13:20
    a.sync(metrics={"cpu_usage": 40, "memory_usage": 10})
    a.sync(metrics={"cpu_usage": 50, "memory_usage": 20})
    run(fleet, a)
    run(fleet, a)
    fleet.clock.advance(2 * 3600)
    a.sync(metrics={"cpu_usage": 9.94})
    run(fleet, a)
    fleet.clock.advance(1)
    assert figures.history(a.node_id) == {
        "cpu_usage_24h": [45.0, 0.0, 9.9], "memory_usage_24h": [15.0, 0.0, 0.0], "task_count_24h": [2, 0, 1]}
    assert figures.samples(a.node_id) == [
        {"at": 1700007180.0, "metrics": {"cpu_usage": 9.9}},
        {"at": 1699999980.0, "metrics": {"cpu_usage": 45.0, "memory_usage": 15.0}}]
    fleet.clock.advance(30 * 3600)
    assert len(figures.history(a.node_id)["cpu_usage_24h"]) == 24


def test_counts_of_a_device_outlive_its_tasks(small: Fleet) -> None:
    a = small.join("a")
    run(small, a)
    run(small, a, "failed")
    small.clock.advance(31 * 86400)
    small.loop.forget()
    assert figures.queue_statistics()["queue_stats"]["total_tasks"] == 0
    view = devices.get("a")
    assert (view.completed, view.failed) == (1, 1)


# requests of the API


def test_requests_of_the_last_quarter_of_an_hour(fleet: Fleet) -> None:
    fleet.clock.advance(20)  # 22:13:40
    assert figures.performance() == {"average_response_time": 0.0, "request_rate": 0.0, "error_rate": 0.0}
    figures.count_request(500.0, 200)
    fleet.clock.advance(15 * MINUTE)
    for took_ms, status in ((10.0, 200), (20.0, 404), (30.15, 500), (19.95, 201)):
        figures.count_request(took_ms, status)
    found = figures.performance()  # this minute and the 14 before: 14 min 40 s
    assert found == {"average_response_time": 20.0, "request_rate": 0.005, "error_rate": 25.0}
    api_requests.flush()
    fleet.loop.tidy()
    assert figures.metrics()["performance"] == found
