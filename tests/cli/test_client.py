"""The HTTP client: what is repeated and what never, how refusals are typed, where server and key are found."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudsched.client import (
    BadInputError,
    BusyError,
    Client,
    ClientError,
    ConflictError,
    NotAllowedError,
    NotFoundError,
    ServerAway,
    locate,
)
from cloudsched.client.http import segment
from cloudsched.client.sse import EventReader
from cloudsched.client.where import find_key, find_server, state_dir

from .fake_api import FakeApi, FakeServer


class Pauses:
    """A clock that moves only by sleeping."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def monotonic(self) -> float:
        return sum(self.slept)


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
def client(api: FakeApi, pauses: Pauses) -> Iterator[Client]:
    with FakeServer(api) as url, Client(url, sleep=pauses.sleep, monotonic=pauses.monotonic) as client:
        yield client


def test_connections_are_kept(client: Client) -> None:
    client.get("/")
    first = client._connection
    client.get("/")
    assert client._connection is first


def test_repeatable_calls_survive_a_cut_connection(client: Client, api: FakeApi, pauses: Pauses) -> None:
    api.faults = ["cut", "cut"]
    assert client.get("/")["name"] == "cloudsched"
    assert pauses.slept == [0.1, 0.2]


def test_a_restarting_server_is_waited_for_and_then_given_up(client: Client, api: FakeApi, pauses: Pauses) -> None:
    client.get("/")
    api.faults = ["cut"] * 100
    with pytest.raises(ServerAway):
        client.get("/")
    assert 20 < sum(pauses.slept) <= 30
    assert max(pauses.slept) == 5.0


def test_retry_after_is_kept(client: Client, api: FakeApi, pauses: Pauses) -> None:
    api.faults = [(429, 3), (503, 2)]
    client.get("/")
    assert pauses.slept == [3.0, 2.0]


def test_busy_without_a_time_to_come_back_is_an_answer(client: Client, api: FakeApi, pauses: Pauses) -> None:
    api.faults = [(503, 0)]
    with pytest.raises(BusyError) as caught:
        client.get("/")
    assert (caught.value.status, caught.value.detail, pauses.slept) == (503, "come back", [])


def test_a_patch_is_never_repeated(client: Client, api: FakeApi) -> None:
    api.add_cloud("c")
    for fault in ("cut", (503, 1)):
        api.requests.clear()
        api.faults = [fault]
        with pytest.raises((ServerAway, BusyError)):
            client.patch("/clouds/c", {"slots": 1})
        assert len(api.requests) == 1


def test_creating_is_repeated_under_one_key(client: Client, api: FakeApi) -> None:
    api.faults = ["lost", "cut"]
    assert client.create("/jobs", {"command": ["x"]})["id"] == 1
    assert len(api.jobs) == 1
    api.faults = ["cut", "at work", "at work"]
    assert client.create("/jobs", {"command": ["x"]})["id"] == 2
    assert len({headers["idempotency-key"] for _, _, headers, _ in api.requests}) == 2


def test_refusals_are_typed(client: Client, api: FakeApi) -> None:
    with pytest.raises(NotFoundError, match="there is no job 9"):
        client.get("/jobs/9")
    with pytest.raises(BadInputError) as caught:
        client.create("/jobs", {"colour": 1})
    assert caught.value.errors[0]["field"] == "colour"
    job = api.add_job(state="failed")
    with pytest.raises(ConflictError):
        client.post(f"/jobs/{job['id']}/hold")
    with pytest.raises(ConflictError):
        api.add_cloud("c")
        client.patch("/clouds/c", {"slots": 1}, if_match='"0"')
    api.key = "right"
    with pytest.raises(NotAllowedError):
        client.get("/")


def test_the_key_and_the_user_are_sent(api: FakeApi) -> None:
    api.key = "right"
    with FakeServer(api) as url, Client(url, "right", user="ann") as client:
        client.get("/")
    assert api.requests[0][2]["x-cloudsched-user"] == "ann"


def test_an_answer_that_is_no_problem_document_is_quoted(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudsched.client.errors import from_answer

    assert str(from_answer(502, "Bad Gateway", b"upstream is away")) == "502 Bad Gateway: upstream is away"
    assert str(from_answer(502, "Bad Gateway", b"<html>long page</html>")) == "502 Bad Gateway"
    assert isinstance(from_answer(404, "Not Found", b""), NotFoundError)


def test_pages_are_read_to_the_end_or_the_limit(client: Client, api: FakeApi) -> None:
    for _ in range(2500):
        api.add_job(state="held")
    assert [job["id"] for job in client.items("/jobs", order="id")] == list(range(1, 2501))
    assert len(list(client.items("/jobs", limit=1001))) == 1001
    assert len(list(client.items("/jobs", limit=7))) == 7


def test_up_and_down(client: Client, api: FakeApi) -> None:
    made = client.create("/jobs", {"command": ["x"], "input_files": [{"name": "a/b #1", "size": 3}]})
    client.upload(f"/jobs/{made['id']}/files/{segment('a/b #1')}", b"123")
    assert api.inputs[1] == {"a/b #1": b"123"}
    api.files[1] = {"out": b"x" * 200_000}
    file = io.BytesIO()
    assert client.download("/jobs/1/files/out", file) == 200_000
    assert file.getvalue() == b"x" * 200_000


def test_a_cut_download_is_an_error(client: Client, api: FakeApi) -> None:
    api.add_job()
    api.files[1] = {"out": b"x"}
    api.faults = ["half"]
    with pytest.raises(ServerAway):
        client.download("/jobs/1/files/out", io.BytesIO())


def test_a_server_that_closed_an_idle_connection_is_asked_again(pauses: Pauses) -> None:
    """Also a call that must not be repeated works then: it uses a fresh connection from the start."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[bytes] = []

    def serve() -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}")

    thread = threading.Thread(target=serve)
    thread.start()
    with listener, Client(f"http://127.0.0.1:{listener.getsockname()[1]}", sleep=pauses.sleep) as client:
        assert client.get("/") == {}
        assert client.patch("/clouds/c", {"slots": 1}) == {}
        thread.join()
    assert [request.split()[0] for request in seen] == [b"GET", b"PATCH"]
    assert pauses.slept == []


def test_nobody_there(free_port: int, pauses: Pauses) -> None:
    client = Client(f"http://127.0.0.1:{free_port}", sleep=pauses.sleep, monotonic=pauses.monotonic)
    with pytest.raises(ServerAway, match="connection refused"):
        client.get("/")
    assert sum(pauses.slept) <= 1.0


def test_nobody_there_for_what_is_read_piece_by_piece(free_port: int, pauses: Pauses) -> None:
    client = Client(f"http://127.0.0.1:{free_port}", sleep=pauses.sleep, monotonic=pauses.monotonic)
    for reading in (client.output(1), client.output(1, follow=True), client.events(), client.records("/jobs/1/logs")):
        pauses.slept.clear()
        with pytest.raises(ServerAway, match="connection refused"):
            next(iter(reading))
        assert sum(pauses.slept) <= 1.0
    with pytest.raises(ServerAway, match="connection refused"):
        client.download("/jobs/1/files/x", io.BytesIO())


def test_each_attempt_of_a_followed_job_is_read_whole(client: Client, api: FakeApi) -> None:
    job = api.add_job(state="running")
    api.attempts = {(1, 1): b"longer than the next", (1, 2): b"short", (1, 3): b"last"}
    api.faults = ["pass", b"longer "]
    pieces = client.output(1, follow=True)
    found = [next(pieces)]
    job.update(attempt=3, state="succeeded")
    assert b"|".join([*found, *pieces]) == b"longer |than the next|short|last"
    assert b"".join(client.output(1, follow=True, attempt=2)) == b"short"


def test_what_is_followed_is_given_up_when_the_server_stays_away(client: Client, api: FakeApi, pauses: Pauses) -> None:
    told: list[ServerAway] = []
    client.on_away = told.append
    api.add_job(state="running")
    for reading in (client.output(1, follow=True), client.records("/nodes/1/logs", over=lambda: False), client.events()):
        told.clear()
        pauses.slept.clear()
        client.get("/")
        api.faults = ["cut"] * 1000
        with pytest.raises(ServerAway):
            next(iter(reading))
        assert len(told) == 1
        assert 110 < sum(pauses.slept) <= 120 and max(pauses.slept) <= 2
        api.faults.clear()


def test_a_busy_server_is_asked_again_for_a_stream(client: Client, api: FakeApi, pauses: Pauses) -> None:
    api.add_job(state="succeeded")
    api.output[1, "stdout"] = b"text"
    api.faults = [(503, 2)]
    assert b"".join(client.output(1)) == b"text"
    assert pauses.slept == [2.0]


def test_event_lines_are_read_as_the_standard_says() -> None:
    reader = EventReader()
    lines = [b": comment\n", b"retry: 1500\n", b"\n", b"id: 7\r\n", b"event: x\r\n", b"data: [1,\r\n", b"data: 2]\r\n", b"\r\n"]
    lines += [b"data:plain\n", b"\n", b"id: 8\n", b"data: cut"]
    events = list(reader.read(lines))
    assert [tuple(event) for event in events] == [("7", "x", [1, 2]), (None, "message", "plain")]
    assert (reader.last_id, reader.retry_s) == ("7", 1.5)


def test_the_server_is_found_in_order(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    env = {"CLOUDSCHED_STATE": str(state), "CLOUDSCHED_PORT_OFFSET": "100"}
    assert find_server(None, env=env).url == "http://127.0.0.1:8200"
    (state / "server.json").write_text(json.dumps({"native_url": "http://127.0.0.1:9000/"}))
    assert find_server(None, env=env) == ("http://127.0.0.1:9000", str(state / "server.json"))
    env["CLOUDSCHED_SERVER_URL"] = "https://there"
    assert find_server(None, env=env).url == "https://there"
    assert find_server("here:1", env=env).url == "http://here:1"
    assert find_server(None, str(state), env=env).url == "http://127.0.0.1:9000", "--state names an instance"


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:notaport", "http://x:99999"])
def test_an_unusable_address_is_refused(url: str) -> None:
    with pytest.raises(ClientError, match="allowed: http://HOST:PORT"):
        find_server(url, env={})
    with pytest.raises(ClientError, match="CLOUDSCHED_PORT_OFFSET"):
        find_server(None, env={"CLOUDSCHED_PORT_OFFSET": "many", "CLOUDSCHED_STATE": "/nowhere"})


def test_the_key_is_found_in_order_and_the_instances_own_stays_with_it(tmp_path: Path) -> None:
    (tmp_path / "admin.key").write_text("own\n")
    (tmp_path / "file.key").write_text("file\n")
    env = {"CLOUDSCHED_STATE": str(tmp_path)}
    here, there = find_server("http://127.0.0.1:1", env=env), find_server("http://example.org", env=env)
    assert find_key(None, address=here, env=env) == "own"
    assert find_key(None, address=there, env=env) is None
    (tmp_path / "server.json").write_text('{"native_url": "http://example.org"}')
    assert find_key(None, address=there, env=env) == "own"
    env["CLOUDSCHED_KEY"] = "variable"
    assert find_key(None, address=there, env=env) == "variable"
    assert find_key(str(tmp_path / "file.key"), address=there, env=env) == "file"
    with pytest.raises(ClientError, match="No such file"):
        find_key(str(tmp_path / "missing"), address=here, env=env)
    (tmp_path / "file.key").write_text("\n")
    with pytest.raises(ClientError, match="no key in it"):
        find_key(str(tmp_path / "file.key"), address=here, env=env)


def test_the_state_directory_is_found_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_dir("x", env={}).endswith("/x")
    assert state_dir(env={"CLOUDSCHED_STATE": "/s"}) == "/s"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert state_dir(env={}) == "/var/lib/cloudsched"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert state_dir(env={"XDG_STATE_HOME": "/x"}) == "/x/cloudsched"


def test_locate_makes_a_client(tmp_path: Path) -> None:
    env = {"CLOUDSCHED_STATE": str(tmp_path), "CLOUDSCHED_KEY": "k", "USER": "ann"}
    client = locate("http://127.0.0.1:5", env=env)
    assert client.base_url == "http://127.0.0.1:5"
    assert "k" not in repr(client)
