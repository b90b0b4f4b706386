"""Do webhooks get exactly the events they ask for, signed, in order, again after a failure, and nothing else?"""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched import clock, settings
from cloudsched.clock import ManualClock
from cloudsched.engine import notices
from cloudsched.engine.notices import Notices
from cloudsched.errors import Conflict, Forbidden, Invalid, NotFound
from cloudsched.services.caller import LOCAL_ADMIN, Caller
from cloudsched.services.notices import webhooks, webhooks_post, webhooks_send
from cloudsched.services.notices.webhooks_post import Posted
from cloudsched.settings import Settings
from cloudsched.store import events
from cloudsched.store import webhooks as store
from cloudsched.store.db import Database, read, write
from tests.services.receivers import Got, Receiver, certificate

SECRET = "a secret of this test"


class House:
    """One instance with its clock, a loop that is stepped, and a receiver."""

    def __init__(self, database: Database, state: Path, time: ManualClock) -> None:
        self.database, self.state, self.clock = database, state, time
        self.receiver = Receiver()
        self.loop: Notices | None = None
        self.set()

    def set(self, **keys: Any) -> None:
        flags = {"state": str(self.state), "database_url": self.database.url, **{f"dcluster.{name}": keys[name] for name in keys}}
        self.settings: Settings = settings.load(flags, environ={"HOME": str(self.state)})
        if self.loop is not None:
            self.loop.close()
        self.loop = Notices(self.settings, holder="test")

    def add(self, name: str = "one", **how: Any) -> dict[str, Any]:
        how.setdefault("secret", SECRET)
        return webhooks.add(name, how.pop("url", self.receiver.url()), LOCAL_ADMIN, settings=self.settings, **how)

    def happen(self, kind: str, subject: tuple[str, int] = ("job", 7), **data: Any) -> int:
        write(lambda tx: events.append(tx, kind, subject, at=clock.now(), actor="test", **data))
        return events.last_id()

    def step(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        assert self.loop is not None
        self.loop.tick()
        self.loop.settle()

    def log(self, name: str = "one", **how: Any) -> list[dict[str, Any]]:
        return webhooks.deliveries(name, LOCAL_ADMIN, **how)

    def close(self) -> None:
        assert self.loop is not None
        self.loop.close()
        self.receiver.close()


@pytest.fixture
def house(database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    yield from _house(database, tmp_state, monkeypatch)


@pytest.fixture
def small(sqlite_database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    yield from _house(sqlite_database, tmp_state, monkeypatch)


def _house(database: Database, state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    time = ManualClock()
    monkeypatch.setattr(clock, "now", time.now)
    made = House(database, state, time)
    yield made
    made.close()


def _ids(house: House) -> list[int]:
    return [json.loads(got.body)["id"] for got in house.receiver.got]


def test_a_hook_gets_exactly_its_events_in_order_and_signed(house: House) -> None:
    house.happen("job.fail")
    made = house.add(kinds=["job.", "cluster.run"])
    wanted = [house.happen("job.fail", exit_code=3), house.happen("cluster.run", ("cluster", 2)), house.happen("job.start")]
    house.happen("node.run", ("node", 1))
    house.happen("cluster.degrade", ("cluster", 2))
    house.step()
    assert _ids(house) == wanted
    first = house.receiver.got[0]
    assert json.loads(first.body) == {"id": wanted[0], "at": clock.rfc3339(clock.now()), "kind": "job.fail",
                                      "subject_kind": "job", "subject_id": 7, "actor": "test", "data": {"exit_code": 3}}
    timestamp = first.headers["x-cloudsched-timestamp"]
    digest = hmac.new(SECRET.encode(), timestamp.encode() + b"." + first.body, hashlib.sha256).hexdigest()
    assert first.headers["x-cloudsched-signature"] == f"v1={digest}"
    assert (first.headers["x-cloudsched-event"], first.headers["x-cloudsched-event-id"]) == ("job.fail", str(wanted[0]))
    assert made["secret"] == SECRET and "secret" not in webhooks.one("one")
    house.step()
    assert _ids(house) == wanted, "nothing comes twice"
    assert webhooks.one("one")["delivered"] == 3


def test_a_receiver_that_is_away_gets_all_of_it_later_in_order(house: House) -> None:
    house.add()
    house.receiver.answer = lambda got: (503, {})
    wanted = [house.happen("job.start"), house.happen("job.fail"), house.happen("job.retry")]
    house.step()
    house.step()
    assert _ids(house) == wanted[:1], "the others wait, and so does the next try"
    assert webhooks.one("one")["failures"] == 1
    house.step(3)
    assert _ids(house) == [wanted[0]] * 2
    house.receiver.answer = lambda got: (200, {})
    house.step(5)
    assert _ids(house)[2:] == wanted
    assert [got.headers["x-cloudsched-attempt"] for got in house.receiver.got] == ["1", "2", "3", "1", "1"]
    assert {one["state"] for one in house.log()} == {"delivered"}


def test_an_event_that_is_refused_does_not_keep_the_others(small: House) -> None:
    small.add()
    bad = small.happen("job.fail")
    small.receiver.answer = lambda got: (400, {}) if json.loads(got.body)["id"] == bad else (200, {})
    good = small.happen("job.start")
    small.step()
    assert _ids(small) == [bad, good]
    assert {one["event_id"]: (one["state"], one["status"]) for one in small.log()} == {
        bad: ("pending", 400), good: ("delivered", 200)}


def test_what_fails_too_often_is_given_up_with_an_event_and_can_be_begun_anew(small: House) -> None:
    small.set(webhook_attempts=3)
    small.add()
    lost = small.happen("job.fail")
    small.receiver.answer = lambda got: (500, {})
    for _ in range(5):
        small.step(4000)
    assert [one["state"] for one in small.log()] == ["dead"]
    assert len(small.receiver.got) == 3
    [event] = [one for one in events.since(0) if one.kind == "webhook.dead"]
    assert json.loads(event.data)["event"] == lost
    small.receiver.answer = lambda got: (200, {})
    assert webhooks.retry("one", LOCAL_ADMIN) == 1
    small.step()
    assert [one["state"] for one in small.log()] == ["delivered"]


def test_retry_after_is_respected(small: House) -> None:
    small.add()
    small.happen("job.fail")
    small.receiver.answer = lambda got: (429, {"Retry-After": "600"})
    small.step()
    small.step(599)
    assert len(small.receiver.got) == 1
    small.step(2)
    assert len(small.receiver.got) == 2


def test_redirects_are_not_followed(small: House) -> None:
    elsewhere = Receiver()
    small.receiver.answer = lambda got: (307, {"Location": elsewhere.url()})
    small.add()
    small.happen("job.fail")
    small.step()
    assert (elsewhere.got, [one["status"] for one in small.log()]) == ([], [307])
    elsewhere.close()


def test_a_hook_is_never_told_of_itself(small: House) -> None:
    small.add("all", kinds=["*"])
    small.add("hooks", url=small.receiver.url("/hooks"), kinds=["webhook."])
    webhooks.switch("all", False, LOCAL_ADMIN)
    webhooks.switch("all", True, LOCAL_ADMIN)
    small.step()
    assert {(got.path, json.loads(got.body)["kind"]) for got in small.receiver.got} == {
        ("/hooks", "webhook.disable"), ("/hooks", "webhook.enable")}


def test_another_process_goes_on_where_the_first_one_was(house: House) -> None:
    house.add()
    first = house.happen("job.fail")
    house.step()
    house.set()
    second = house.happen("job.start")
    house.step()
    assert _ids(house) == [first, second]


def test_since_resumes_and_a_gap_is_told(small: House) -> None:
    old = [small.happen("job.fail") for _ in range(4)]
    small.add(since=old[1])
    small.add("all", url=small.receiver.url("/all"), since=0)
    write(lambda tx: tx.run("DELETE FROM event WHERE id < ?", (old[3],)))
    small.step()
    mine = [json.loads(got.body) for got in small.receiver.got if got.path == "/hook"]
    assert mine[0] == {"id": old[3] - 1, "kind": "gap", "data": {"first": old[2], "last": old[2]}}
    assert [one["id"] for one in mine[1:]] == [old[3]]
    with pytest.raises(Invalid, match="since"):
        small.add("late", since=events.last_id() + 1)


def test_rare_kinds_do_not_make_every_look_a_write(small: House, monkeypatch: pytest.MonkeyPatch) -> None:
    small.add(kinds=["cluster.fail"])
    for _ in range(20):
        small.happen("job.start")
    before = read().value("SELECT position FROM webhook")
    small.step()
    assert read().value("SELECT position FROM webhook") == before
    wanted = small.happen("cluster.fail", ("cluster", 1))
    small.step()
    assert _ids(small) == [wanted]
    monkeypatch.setattr(webhooks_send, "LAG_MOST", 3)
    for _ in range(4):
        small.happen("job.start")
    small.step()
    assert read().value("SELECT position FROM webhook") == events.last_id()


def test_a_long_queue_waits_in_the_event_log(small: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks_send, "WAITING_MOST", 3)
    monkeypatch.setattr(webhooks_send, "PAGE", 2)
    small.receiver.answer = lambda got: (503, {})
    small.add()
    wanted = [small.happen("job.start") for _ in range(9)]
    small.step()
    assert read().value("SELECT count(*) FROM webhook_delivery") == 3
    small.receiver.answer = lambda got: (200, {})
    for _ in range(4):
        small.step(10)
    assert _ids(small)[1:] == wanted


def test_switched_off_and_on_it_goes_on_where_it_was(small: House) -> None:
    small.add()
    webhooks.switch("one", False, LOCAL_ADMIN)
    wanted = small.happen("job.fail")
    small.step()
    assert small.receiver.got == []
    with pytest.raises(Conflict):
        webhooks.test("one", LOCAL_ADMIN)
    webhooks.switch("one", True, LOCAL_ADMIN)
    small.step()
    assert _ids(small) == [wanted]


def test_a_test_goes_to_any_filter(small: House) -> None:
    small.add(kinds=["cluster."])
    delivery = webhooks.test("one", LOCAL_ADMIN)
    assert delivery["state"] == "pending"
    small.step()
    assert webhooks.delivery(delivery["id"])["state"] == "delivered"
    assert [json.loads(got.body)["kind"] for got in small.receiver.got] == ["webhook.test"]


def test_a_slow_receiver_keeps_neither_the_loop_nor_others(small: House) -> None:
    let_go = threading.Event()
    slow = Receiver()

    def wait(got: Got) -> tuple[int, dict[str, str]]:
        let_go.wait(30)
        return 200, {}

    slow.answer = wait
    small.add("slow", url=slow.url())
    small.add("quick")
    wanted = small.happen("job.fail")
    assert small.loop is not None
    small.loop.tick()
    deadline = threading.Event()
    for _ in range(3000):
        if small.receiver.got or deadline.wait(0.01):
            break
    assert _ids(small) == [wanted]
    let_go.set()
    small.loop.settle()
    slow.close()


def test_secrets_and_tokens_in_urls_are_sealed_and_never_shown(small: House) -> None:
    token = "T0KEN" * 6
    small.add(url=small.receiver.url(f"/services/{token}/x?key=verysecret"))
    shown = json.dumps(webhooks.listed(LOCAL_ADMIN)) + str(read().all("SELECT * FROM webhook")) + str(events.since(0))
    assert token not in shown and "verysecret" not in shown and SECRET not in shown
    assert webhooks.one("one")["url"].endswith("/services/***/x?key=***")
    small.happen("job.fail")
    small.step()
    assert small.receiver.got[0].path == f"/services/{token}/x?key=verysecret"


@pytest.mark.parametrize(("field", "how"), [
    ("name", {"name": "../x"}), ("name", {"name": ""}), ("name", {"name": "x" * 65}), ("secret", {"secret": "short"}),
    ("kinds", {"kinds": ["Job Fail"]}), ("kinds", {"kinds": ["job.fail"] * 51}), ("url", {"url": "ftp://x/"}),
    ("url", {"url": "http://example.com/"}), ("url", {"url": "https://u:p@example.com/"}), ("url", {"url": "https://"}),
    ("url", {"url": "https://x/\n"}), ("url", {"url": "https://x:0/"}), ("url", {"url": "https://x:99999/"}),
    ("url", {"url": "http://10.0.0.1/"}), ("url", {"url": "https://169.254.169.254/latest"}), ("url", {"url": "https://0.0.0.0/"}),
    ("url", {"url": "https://[::ffff:169.254.169.254]/"}), ("url", {"url": "https://[fe80::1]/"}), ("url", {"url": "https://[zz]/"}),
])
def test_bad_input_is_named(small: House, field: str, how: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        small.add(how.pop("name", "one"), **how)
    assert caught.value.errors[0].field == field


def test_names_are_unique_and_roles_count(small: House) -> None:
    small.add()
    with pytest.raises(Conflict):
        small.add()
    operator = Caller("olga", "operator")
    for act in (lambda: webhooks.add("two", small.receiver.url(), operator, settings=small.settings),
                lambda: webhooks.remove("one", operator), lambda: webhooks.listed(Caller("vera", "viewer"))):
        with pytest.raises(Forbidden):
            act()
    webhooks.remove("one", LOCAL_ADMIN)
    with pytest.raises(NotFound):
        webhooks.one("one")
    assert store.counts() == {}


def test_a_lost_key_is_told_of_in_the_log(small: House) -> None:
    small.add()
    small.happen("job.fail")
    (small.state / "secret.key").unlink()
    small.step()
    assert "cannot be opened" in small.log()[0]["error"]


# what is posted where


@pytest.mark.parametrize(("host", "found", "allowed", "private"), [
    ("plain.example", "93.184.216.34", True, False), ("inside.example", "10.1.2.3", False, False),
    ("inside.example", "10.1.2.3", True, True), ("meta.example", "169.254.169.254", False, True),
    ("mapped.example", "::ffff:10.1.2.3", False, False), ("own.example", "127.0.0.1", True, False),
    ("unique.example", "fd00::1", False, False), ("carrier.example", "100.64.0.1", False, False),
    ("all.example", "0.0.0.0", False, True), ("many.example", "224.0.0.1", False, True),
])
def test_where_a_name_leads_is_checked(monkeypatch: pytest.MonkeyPatch, host: str, found: str, allowed: bool,
                                       private: bool) -> None:
    tried: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        tried.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (found, 443))])
    monkeypatch.setattr(socket, "create_connection", connect)
    posted = webhooks_post.post(f"https://{host}/", b"{}", {}, timeout_s=5, private=private)
    assert posted.status is None and posted.error
    assert bool(tried) is allowed
    if allowed:
        assert tried == [(found, 443)], "to the address that was checked"


def test_https_is_verified_against_the_authority(tmp_path: Path) -> None:
    context, cert = certificate(tmp_path)
    receiver = Receiver(context)
    trusted = webhooks_post.post(receiver.url(), b"{}", {}, timeout_s=30, private=False, ca_file=str(cert))
    doubted = webhooks_post.post(receiver.url(), b"{}", {}, timeout_s=30, private=False)
    receiver.close()
    assert trusted.status == 204
    assert doubted.status is None and "certificate is not trusted" in doubted.error


def test_a_receiver_that_dribbles_is_cut_off() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def dribble() -> None:
        sock, _ = server.accept()
        try:
            while not stop.wait(0.02):
                sock.sendall(b"x")
        except OSError:
            pass
        sock.close()

    thread = threading.Thread(target=dribble, daemon=True)
    thread.start()
    posted = webhooks_post.post(f"http://127.0.0.1:{server.getsockname()[1]}/", b"{}", {}, timeout_s=0.3, private=False)
    stop.set()
    thread.join(10)
    server.close()
    assert posted.status is None


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    posted = webhooks_post.post(f"http://127.0.0.1:{port}/", b"{}", {}, timeout_s=5, private=False)
    assert (posted.status, posted.error) == (None, "no answer: Connection refused")
    assert isinstance(posted, Posted)


def test_pauses_grow_and_end() -> None:
    assert [webhooks_send.pause_s(count) for count in (1, 2, 3, 50)] == [2.0, 4.0, 8.0, 3600.0]
    assert notices.INTERVAL_S <= 1
