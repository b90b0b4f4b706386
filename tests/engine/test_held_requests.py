"""What becomes of a request that is held for work when its agent is no more?"""

from __future__ import annotations

import json
import threading
import time

import pytest

from cloudsched.services import agents, waiters

from .conftest import House


@pytest.mark.parametrize("gone", [False, True])
def test_a_request_of_a_killed_agent_claims_nothing(light: House, gone: bool) -> None:
    light.add_cloud("alpha")
    light.submit()
    light.cycle(2)
    (agent,) = light.join_all()
    assert agent.run_all()
    body = json.dumps({"want": 1, "wait_s": 20, "holding": []}).encode()
    got: list[agents.Reply] = []

    def hold() -> None:
        got.append(agents.sync(f"{agent.node_id}.{agent.secret}", body, gone=lambda: gone))
        light.database.close_thread()

    held = threading.Thread(target=hold)
    held.start()
    until = time.monotonic() + 20
    while not waiters.held() and time.monotonic() < until:
        time.sleep(0.01)
    (number,) = light.submit()
    held.join(20)
    assert not held.is_alive()
    assert [job.id for job in got[0].jobs] == ([] if gone else [number])
    assert light.job(number).state == ("queued" if gone else "assigned")
