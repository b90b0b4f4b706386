"""What is asked of log agents over HTTP: is it as it is described, and is a bad configuration refused in words?"""

from __future__ import annotations

from typing import Any

import pytest

from cloudsched.services.logagents import Fleet
from cloudsched.testing.logagents import FakeAgent

from .test_native_shapes import is_problem

CONFIG = {"reader": {"mode": "file", "log_path": "/var/log/x"}, "senders": [{"sender_type": "discard"}]}


@pytest.fixture
def agent(api: Any) -> Any:
    """A log agent that is on the list, with the tag `web`."""
    fleet = Fleet()
    found = FakeAgent(tag="web")
    fleet.register(f'{{"url":"{found.url}","tag":"web"}}'.encode())
    yield found
    found.stop()
    fleet.close()


def _described(api: Any, answer: Any, path: str, method: str = "post") -> None:
    """Every member of this answer is in the document, at every depth of lists and objects."""
    document = api.get("/openapi.json").json
    responses = document["paths"][f"/api/v2{path}"][method]["responses"]
    schema = responses[str(answer.status_code)]["content"]["application/json"]["schema"]
    _is_in(document, answer.json, schema)


def _is_in(document: Any, value: Any, schema: Any) -> None:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if isinstance(value, list):
        for item in value:
            _is_in(document, item, schema["items"])
    elif isinstance(value, dict) and "properties" in schema:
        assert set(value) <= set(schema["properties"])
        for name, item in value.items():
            _is_in(document, item, schema["properties"][name])


def test_a_dry_run_is_described_and_changes_nothing(api: Any, agent: FakeAgent) -> None:
    body = {"name": "r1", "tag": "web", "config": CONFIG}
    dry = api.post("/runners?dry_run=1", json=body)
    assert dry.status_code == 200 and set(dry.json) == {"name", "tag", "changes"}
    (change,) = dry.json["changes"]
    assert (change["url"], change["action"], change["error"]) == (agent.url, "add", None)
    _described(api, dry, "/runners")
    diff = api.post("/runners/diff", json=body)
    assert diff.json == dry.json
    _described(api, diff, "/runners/diff")
    assert agent.configs == {} and api.get("/runners").json["items"] == []


def test_what_is_answered_of_runners_is_described(api: Any, agent: FakeAgent) -> None:
    made = api.post("/runners", json={"name": "r1", "tag": "web", "config": CONFIG})
    assert made.status_code == 200 and "changes" not in made.json
    _described(api, made, "/runners")
    number = made.json["id"]
    for path, shown in ((f"/runners/{number}", "/runners/{runner}"), ("/runners", "/runners"), ("/log-agents", "/log-agents"),
                        (f"/runners/{number}/config", "/runners/{runner}/config"), ("/rollouts", "/rollouts"),
                        (f"/runners/{number}/targets", "/runners/{runner}/targets"), ("/log-agents/1", "/log-agents/{agent}")):
        answer = api.get(path)
        assert answer.status_code == 200, (path, answer.text)
        _described(api, answer, shown, "get")
    waves = {"name": "r2", "tag": "web", "config": CONFIG, "waves": {"steps": ["1", "100%"]}}
    _described(api, api.post("/runners", json=waves), "/runners")
    _described(api, api.get("/rollouts/1"), "/rollouts/{number}", "get")


@pytest.mark.parametrize("path", ["/runners", "/runners?dry_run=1", "/runners/diff"])
@pytest.mark.parametrize("name", ["..", ".", "", "../../etc/passwd", "a/b", "a\\b", "a\u0000", "a\n", "x" * 201])
def test_names_that_no_runner_may_have(api: Any, agent: FakeAgent, path: str, name: str) -> None:
    problem = is_problem(api.post(path, json={"name": name, "tag": "web", "config": CONFIG}), 400)
    assert problem["errors"][0]["field"] == "name" and "allowed" in problem["errors"][0]
    assert agent.seen == [] and api.get("/runners").json["items"] == []


@pytest.mark.parametrize("config", [None, [], "text", 5, True])
def test_configurations_that_are_no_objects(api: Any, agent: FakeAgent, config: Any) -> None:
    problem = is_problem(api.post("/runners", json={"name": "r1", "tag": "web", "config": config}), 400)
    assert problem["errors"][0]["field"] == "config" and agent.seen == []


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 10_000])
def test_bodies_that_are_not_json(api: Any, agent: FakeAgent, body: bytes) -> None:
    is_problem(api.post("/runners", data=body, headers={"Content-Type": "application/json"}), 400)
    assert agent.seen == []


def test_a_configuration_that_is_too_large(api: Any, agent: FakeAgent) -> None:
    config = {**CONFIG, "note": "x" * (4 << 20)}
    answer = api.post("/runners", json={"name": "r1", "tag": "web", "config": config})
    assert answer.status_code in (400, 413) and "at most" in answer.text and agent.seen == []


def test_a_tag_that_cannot_be_selected(api: Any, agent: FakeAgent) -> None:
    problem = is_problem(api.post("/runners", json={"name": "r1", "tag": "", "config": CONFIG}), 400)
    assert problem["errors"][0]["field"] == "tag"
