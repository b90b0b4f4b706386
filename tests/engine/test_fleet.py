"""When does a machine go? Keep-alive, excess, rebalancing, retiring, shadows, silence, clouds in trouble."""

from __future__ import annotations

import json

import pytest

from cloudsched.services import jobs as job_service
from cloudsched.services import joining, lifecycle, pool_clouds, pool_ops, pool_sync, pool_views
from cloudsched.store import clouds, events, nodes, system

from .conftest import ADA, House, Played


def run_up(house: House, count: int, **fields: object) -> list[Played]:
    """`count` nodes of one user-type, joined, each with one running job."""
    house.submit(count, **fields)
    agents: list[Played] = []
    for _ in range(count + 1):
        house.cycle()
        agents += house.join_all()
    assert len(agents) == count
    for agent in agents:
        assert len(agent.sync(want=1).jobs) == 1
    return agents


def finish(house: House, agent: Played) -> None:
    """The agent's jobs succeed."""
    held = [(row.id, row.attempt) for row in house.jobs_of(agent.node_id)]
    agent.sync(done=[{"id": job, "attempt": attempt, "state": "succeeded", "ran_s": 7.0} for job, attempt in held])


def beat(house: House, *agents: Played) -> None:
    """The agents call and name what they hold."""
    for agent in agents:
        agent.sync(holding=[(row.id, row.attempt) for row in house.jobs_of(agent.node_id)])


def retiring(house: House) -> list[int]:
    return [node.id for node in house.nodes() if node.override == "Retiring"]


def test_an_idle_machine_is_kept_for_its_keep_alive(light: House) -> None:
    light.add_cloud("alpha", keep_alive_s=30)
    (agent,) = run_up(light, 1)
    finish(light, agent)
    light.clock.advance(28)
    beat(light, agent)
    light.cycle(2)
    assert light.node(agent.node_id).state == "running"
    light.cycle(2)
    assert light.node(agent.node_id).state == "gone"
    assert not light.machines()


def test_the_jobs_own_keep_alive_counts_up_to_the_limit(light: House) -> None:
    light.set(max_keepalive_s=60)
    light.add_cloud("alpha", keep_alive_s=30)
    run_up(light, 1, keep_alive_s=1000)
    assert [node.keep_alive_s for node in light.nodes()] == [60]


def test_machines_beyond_the_jobs_go_and_the_busy_ones_stay(light: House) -> None:
    light.add_cloud("alpha", slots=3)
    first, second, third = run_up(light, 3)
    finish(light, first)
    finish(light, second)
    light.cycle(2)
    for agent in (first, second):
        agent.sync()
    light.cycle(2)
    assert [node.id for node in light.nodes()] == [third.node_id]


def test_a_machine_handed_a_job_meanwhile_is_not_retired(light: House) -> None:
    light.add_cloud("alpha")
    (agent,) = run_up(light, 1)
    finish(light, agent)
    light.clock.advance(1)
    carry_out = light.engine.job._carry_out

    def late(*given: object) -> None:
        light.submit()
        assert agent.sync(want=1).jobs
        carry_out(*given)  # type: ignore[arg-type]

    light.engine.job._carry_out = late  # type: ignore[method-assign]
    assert light.engine.job.clean_up().retires
    assert light.node(agent.node_id).state == "running"
    assert light.node(agent.node_id).override is None


def test_rebalancing_lets_busy_machines_finish_and_gives_their_room_away(house: House) -> None:
    house.add_cloud("alpha", slots=4)
    agents = run_up(house, 4, user="ada")
    house.submit(20, user="ada")
    house.submit(20, user="bob")
    house.cycle()
    going = retiring(house)
    assert len(going) == 2
    house.cycle(2)
    assert retiring(house) == going
    chosen = [agent for agent in agents if agent.node_id in going]
    for agent in chosen:
        reply = agent.sync(want=1, holding=[(row.id, row.attempt) for row in house.jobs_of(agent.node_id)])
        assert (reply.goal, reply.jobs) == ("drain", [])
        finish(house, agent)
        assert agent.sync(want=1).goal == "stop"
    house.cycle(4)
    assert sorted(node.user for node in house.nodes()) == ["ada", "ada", "bob", "bob"]
    for number in going:
        assert house.node(number).reason == "retired: VM Finished Retiring."


def test_nothing_is_taken_while_there_is_room(light: House) -> None:
    light.add_cloud("alpha", slots=5)
    run_up(light, 4, user="ada")
    light.submit(20, user="ada")
    light.submit(20, user="bob")
    light.engine.job.clean_up()
    assert not retiring(light)


def test_forced_retire_lets_the_job_finish(house: House) -> None:
    house.add_cloud("alpha")
    (agent,) = run_up(house, 1)
    house.cycle()
    node = house.node(agent.node_id)
    answer = pool_ops.retire_node("alpha", node.external_id, settings=house.settings)
    assert answer.accepted, answer.detail
    beat(house, agent)
    house.cycle(2)
    assert house.node(agent.node_id).state == "running"
    finish(house, agent)
    assert agent.sync().goal == "stop"
    house.cycle()
    assert house.node(agent.node_id).state == "gone"
    assert not house.machines()


def test_a_smaller_allocation_moves_the_newest_to_the_shadow(house: House) -> None:
    house.add_cloud("alpha", slots=3)
    agents = run_up(house, 3)
    house.cycle()
    pool_ops.adjust_allocation("alpha", 1, settings=house.settings)
    kept, *shadow = house.nodes()
    assert [node.retired for node in (kept, *shadow)] == [0, 1, 1]
    assert retiring(house) == [node.id for node in shadow]
    house.submit(5)
    house.cycle()
    assert len(house.nodes()) == 3
    for agent in agents[1:]:
        finish(house, agent)
        agent.sync()
    house.cycle(2)
    assert [node.id for node in house.nodes()] == [kept.id]


def test_a_shadow_node_that_still_takes_jobs_is_retired(light: House) -> None:
    light.add_cloud("alpha")
    (agent,) = run_up(light, 1)
    light.database.write(lambda tx: nodes.update(tx, agent.node_id, retired=1))
    light.cycle()
    assert retiring(light) == [agent.node_id]


@pytest.mark.parametrize("retire", [True, False])
def test_a_restart_charges_the_nodes_again(light: House, retire: bool) -> None:
    light.add_cloud("alpha", slots=2)
    first, second = run_up(light, 2)
    light.set(retire_reallocate=retire)
    light.database.write(lambda tx: clouds.update(tx, 1, at=light.clock.now(), event="cloud.change", max_slots=1))
    pool_sync.start(light.settings)
    assert (light.node(second.node_id).retired, light.node(second.node_id).state) == (
        (1, "running") if retire else (0, "stopping"))
    assert light.node(first.node_id).override is None


def test_a_machine_that_falls_silent_is_forgotten_then_destroyed(light: House) -> None:
    light.add_cloud("alpha")
    (agent,) = run_up(light, 1, image="quiet")
    lease_s = light.settings.agent.lease_s
    light.clock.advance(lease_s + 1)
    light.cycle()
    node = light.node(agent.node_id)
    assert (node.state, node.registered_at) == ("running", None)
    assert light.job(1).state == "queued"
    limit_s = light.settings.cloud_scheduler.general.condor_register_time_limit_s
    light.clock.advance(limit_s - 10)
    light.cycle()
    assert light.node(agent.node_id).state == "running"
    light.clock.advance(10)
    light.cycle()
    assert light.node(agent.node_id).state == "gone"
    assert pool_views.image_failures() == {"alpha": ["quiet"]}


def test_a_machine_that_is_heard_again_is_registered_again(light: House) -> None:
    light.add_cloud("alpha")
    (agent,) = run_up(light, 1)
    light.clock.advance(light.settings.agent.lease_s + 1)
    light.cycle()
    agent.sync()
    light.cycle()
    node = light.node(agent.node_id)
    assert node.registered_at is not None
    assert not pool_ops.is_external(node)
    light.clock.advance(5)
    assert agent.sync(want=1).jobs


def test_a_server_that_was_away_costs_no_registration(light: House) -> None:
    light.add_cloud("alpha")
    (agent,) = run_up(light, 1)
    light.clock.advance(1000)
    light.database.write(lambda tx: system.put_setting(tx, "serving_since", str(light.clock.now() - 5)))
    light.cycle()
    assert light.node(agent.node_id).registered_at is not None
    assert light.job(1).state == "assigned"


def test_a_machine_that_starts_too_long_is_destroyed(light: House) -> None:
    light.add_cloud("alpha", boot_timeout_s=60, options=json.dumps({"boot_s": 1000}))
    (number,) = light.submit()
    light.cycle()
    light.clock.advance(58)
    light.cycle()
    (node,) = light.nodes()
    assert node.status == "Starting"
    light.clock.advance(3)
    light.cycle()
    assert light.node(node.id).state == "gone"
    assert light.job(number).state == "queued"


def test_run_times_of_the_last_ten_jobs_are_kept(house: House) -> None:
    house.add_cloud("alpha")
    ids = house.submit(12)
    house.cycle()
    (agent,) = house.join_all()
    for index in range(12):
        (job,) = agent.sync(want=1).jobs
        agent.sync(done=[{"id": job.id, "attempt": 1, "state": "succeeded", "exit_code": 0, "ran_s": index + 0.9}])
    late = agent.sync(done=[{"id": ids[0], "attempt": 9, "state": "succeeded", "ran_s": 99.0}])
    assert late.refused
    assert json.loads(house.node(agent.node_id).run_times) == list(range(2, 12))


# clouds


def test_a_cloud_out_of_reach_is_switched_off_and_on_again(house: House) -> None:
    house.set(vm_connection_fail_threshold=10, connection_fail_disable_time=20)
    house.add_cloud("alpha")
    run_up(house, 1)
    driver = house.driver("alpha")
    driver.schedule("unreachable", times=-1, call="machines")
    house.cycle(10)
    assert house.cloud("alpha").enabled == 1
    house.cycle(2)
    cloud = house.cloud("alpha")
    assert (cloud.enabled, cloud.disabled_at is not None, cloud.error_text != "") == (0, True, True)
    house.cycle(10)
    driver.clear_faults()
    house.cycle(2)
    cloud = house.cloud("alpha")
    assert (cloud.enabled, cloud.error_text) == (0, "")
    assert cloud.error_since is not None
    house.clock.advance(15)
    house.cycle()
    cloud = house.cloud("alpha")
    assert (cloud.enabled, cloud.disabled_at, cloud.error_since) == (1, None, None)
    kinds = [event.kind for event in events.since(0, subject_kind="cloud")]
    assert kinds == ["cloud.add", "cloud.unreachable", "cloud.disable", "cloud.reachable", "cloud.enable"]


def test_an_administrators_disable_stays(light: House) -> None:
    light.set(vm_connection_fail_threshold=10, connection_fail_disable_time=20)
    light.add_cloud("alpha")
    run_up(light, 1)
    light.driver("alpha").schedule("unreachable", times=-1, call="machines")
    light.cycle(12)
    assert light.cloud("alpha").disabled_at is not None
    pool_ops.switch_cloud("alpha", enabled=False, actor="root")
    light.driver("alpha").clear_faults()
    light.clock.advance(100)
    light.cycle(3)
    cloud = light.cloud("alpha")
    assert (cloud.enabled, cloud.disabled_at, cloud.error_since) == (0, None, None)


def test_a_short_trouble_changes_nothing_but_delays_destroys(light: House) -> None:
    light.add_cloud("alpha")
    (agent,) = run_up(light, 1)
    finish(light, agent)
    light.clock.advance(1)
    light.driver("alpha").schedule("unreachable", times=1, call="machines")
    light.engine.poller.tick()
    light.engine.job.clean_up()
    node = light.node(agent.node_id)
    assert (node.state, node.override) == ("running", "Retiring")
    agent.sync()
    assert not light.engine.job.clean_up().destroys
    light.engine.poller.tick()
    assert [order.node_id for order in light.engine.job.clean_up().destroys] == [agent.node_id]
    assert light.cloud("alpha").enabled == 1


def test_a_cloud_that_hangs_does_not_keep_the_others_from_being_polled(light: House, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from cloudsched.engine import polling

    monkeypatch.setattr(polling, "PATIENCE_S", 0.2)
    light.add_cloud("alpha", slots=1)
    light.add_cloud("beta", slots=1)
    light.submit(2)
    light.engine.job.schedule()
    light.work()
    light.engine.job.schedule()
    light.work()
    go_on = threading.Event()
    ask = light.driver("alpha").machines
    light.driver("alpha").machines = lambda: (go_on.wait(30), ask())[1]  # type: ignore[method-assign]
    light.engine.poller.tick()
    light.engine.poller.tick()
    assert [node.state for node in light.nodes("beta")] == ["running"]
    assert [node.state for node in light.nodes("alpha")] == ["starting"]
    go_on.set()
    light.engine.poller._threads.shutdown(wait=True)
    assert [node.state for node in light.nodes("alpha")] == ["running"]


def test_a_removed_clouds_machines_go_and_its_jobs_find_another(light: House) -> None:
    light.add_cloud("alpha", slots=2, priority=1)
    light.add_cloud("beta", slots=2, priority=2)
    agents = run_up(light, 2)
    pool_clouds.remove_cloud("alpha")
    light.cycle(4)
    assert not light.nodes("alpha") if clouds.by_name("alpha") else True
    assert not light.machines("alpha")
    assert {light.node(agent.node_id).state for agent in agents} == {"gone"}
    assert {clouds.get(node.cloud_id).name for node in light.nodes()} == {"beta"}  # type: ignore[union-attr]


def test_destroys_are_limited_and_a_dead_cloud_keeps_nobody_waiting(light: House) -> None:
    light.set(**{"engine.destroy_threads": 1})
    light.add_cloud("alpha", slots=1, priority=1)
    light.add_cloud("beta", slots=1, priority=2)
    on_alpha, on_beta = run_up(light, 2)
    light.driver("alpha").schedule("unreachable", times=-1, call="destroy")
    light.database.write(lambda tx: lifecycle.stop(tx, on_alpha.node_id, at=light.clock.now(), actor="", reason="test"))
    for _ in range(6):
        light.work()
        light.clock.advance(12)
    finish(light, on_beta)
    light.engine.keep_up()
    (waiting,) = [job for job in light.jobs_of(None) if job.state == "queued"]
    job_service.cancel(waiting.id, ADA)
    light.clock.advance(1)
    light.cycle(2)
    assert light.node(on_beta.node_id).state == "gone"
    assert light.node(on_alpha.node_id).state == "stopping"


def test_jobs_no_cloud_can_take_are_held_unless_a_machine_that_joined_can(light: House) -> None:
    light.add_cloud("alpha", cores=2)
    (number,) = light.submit(cores=64)
    light.cycle()
    assert light.job(number).state == "held"
    assert light.job(number).reason == "Failed to find matching cloud:check targetcloud, memory, etc."
    token = joining.new_pool_token(ADA)["token"]
    body = {"token": token, "name": "big", "instance": "i", "profile": {"cores": 64, "memory_mb": 9999}}
    joining.join(json.dumps(body).encode(), "127.0.0.1")
    (other,) = light.submit(cores=64)
    light.cycle()
    assert light.job(other).state == "queued"


def test_what_has_ended_long_ago_is_forgotten(light: House) -> None:
    light.add_cloud("alpha")
    (agent,) = run_up(light, 1)
    finish(light, agent)
    light.cycle(3)
    assert light.node(agent.node_id).state == "gone"
    light.clock.advance(91 * 86400)
    light.engine.upkeep.forget()
    assert nodes.get(agent.node_id) is None


def test_a_machine_whose_lifetime_ends_before_a_job_would_is_retired(light: House) -> None:
    light.set(retire_before_lifetime=True, retire_before_lifetime_factor=2.0)
    light.add_cloud("alpha")
    first, second = run_up(light, 2)
    ends = light.clock.now() + 150
    for agent, times in ((first, [60, 80]), (second, [60, 91])):
        light.database.write(lambda tx, agent=agent, times=times: nodes.update(  # type: ignore[misc]
            tx, agent.node_id, facts=json.dumps({"expires_at": ends}), run_times=json.dumps(times)))
    light.engine.job.clean_up()
    assert retiring(light) == [second.node_id]


def test_a_machine_whose_proxy_expires_is_destroyed(light: House) -> None:
    light.add_cloud("alpha")
    (agent,) = run_up(light, 1)
    ends = light.clock.now() + light.settings.cloud_scheduler.general.vm_proxy_shutdown_threshold + 1
    light.database.write(lambda tx: nodes.update(tx, agent.node_id, facts=json.dumps({"proxy_expires_at": ends})))
    light.engine.job.clean_up()
    assert light.node(agent.node_id).state == "running"
    light.clock.advance(1)
    light.engine.job.clean_up()
    assert light.node(agent.node_id).state == "stopping"


def test_without_graceful_shutdown_starting_machines_make_room_and_busy_ones_stay(light: House) -> None:
    light.set(graceful_shutdown=False)
    light.add_cloud("alpha", slots=4)
    busy = run_up(light, 2, user="ada")
    light.driver("alpha")._boot_s = 1000.0
    light.submit(20, user="ada")
    light.cycle(2)
    assert [node.status for node in light.nodes()] == ["Running", "Running", "Starting", "Starting"]
    light.submit(20, user="bob")
    light.cycle()
    assert [node.id for node in light.nodes() if node.user == "ada"] == [agent.node_id for agent in busy]
    light.cycle(2)
    assert [node.user for node in light.nodes()] == ["ada", "ada", "bob", "bob"]
