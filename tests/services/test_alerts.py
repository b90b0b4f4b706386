"""Is a job that runs too long told of once, to those that want to know?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched import clock, settings
from cloudsched.clock import ManualClock
from cloudsched.domain.frameworks import ModuleSpec
from cloudsched.engine.notices import Notices
from cloudsched.errors import Forbidden, Invalid
from cloudsched.services.caller import LOCAL_ADMIN, Caller
from cloudsched.services.frameworks import framework_clusters, framework_jobs
from cloudsched.services.notices import alerts, webhooks
from cloudsched.settings import Settings
from cloudsched.store import events
from cloudsched.store import mail as letters
from cloudsched.store.db import Database, write
from tests.services.receivers import MailServer, Receiver

HOUR_S = 3600.0


class House:
    def __init__(self, database: Database, state: Path, time: ManualClock) -> None:
        self.database, self.state, self.clock = database, state, time
        self.settings: Settings = self.set()

    def set(self, **keys: Any) -> Settings:
        keys = {"smtp_host": "127.0.0.1", **keys}
        flags = {"state": str(self.state), "database_url": self.database.url, **{f"dcluster.{name}": keys[name] for name in keys}}
        self.settings = settings.load(flags, environ={"HOME": str(self.state)})
        framework_clusters.configure(self.settings)
        return self.settings

    def running(self, client: str = "my-team", *, alert_after_s: float | None = None, **fields: Any) -> int:
        spec = ModuleSpec("pi", "spark", "/nowhere/pi.py", alert_after_s=alert_after_s)
        number = int(framework_jobs.submit({"client": client, "module": "pi", **fields}, LOCAL_ADMIN, spec)["jobId"])
        write(lambda tx: tx.run("UPDATE job SET state = 'running', started_at = ? WHERE id = ?", (clock.now(), number)))
        return number

    def check(self) -> int:
        return alerts.check(self.settings, actor="test")

    def told(self) -> list[int]:
        return [event.subject_id for event in events.since(0, kind="job.overdue")]


@pytest.fixture
def house(database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    return next(_house(database, tmp_state, monkeypatch))


@pytest.fixture
def small(sqlite_database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    return next(_house(sqlite_database, tmp_state, monkeypatch))


def _house(database: Database, state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    time = ManualClock()
    monkeypatch.setattr(clock, "now", time.now)
    yield House(database, state, time)


def test_a_job_is_told_of_once_after_six_hours(house: House) -> None:
    job = house.running(emailRecipients="team@example.com; boss@example.com")
    house.clock.advance(6 * HOUR_S - 1)
    assert house.check() == 0
    house.clock.advance(61)
    assert (house.check(), house.check()) == (1, 0)
    assert house.told() == [job]
    [letter] = letters.of("job", job)
    assert letter.to == ("team@example.com", "boss@example.com")
    assert letter.title == f"Job {job} of my-team runs for 6 h 01 min: pi"
    assert "limit:       6 h 00 min" in letter.body and f"cloudsched spark kill {job}" in letter.body


def test_mail_and_webhooks_are_told_by_the_loop(small: House) -> None:
    post, receiver = MailServer(), Receiver()
    small.set(smtp_host="127.0.0.1", smtp_port=post.port, smtp_security="none", mail_from="cs@example.com")
    webhooks.add("pager", receiver.url(), LOCAL_ADMIN, settings=small.settings, kinds=["job.overdue"])
    loop = Notices(small.settings, holder="test")
    job = small.running(emailRecipients="team@example.com")
    for seconds in (0, 6 * HOUR_S + 1, 60, 60):
        small.clock.advance(seconds)
        loop.tick()
        loop.settle()
    loop.close()
    post.close()
    receiver.close()
    assert [letter.to for letter in post.letters] == [["team@example.com"]]
    assert f"Subject: Job {job} of my-team runs for 6 h 00 min: pi" in post.letters[0].text
    assert [json.loads(got.body)["data"]["client"] for got in receiver.got] == ["my-team"]


def test_a_module_has_its_own_limit(small: House) -> None:
    quick, _ = small.running("a", alert_after_s=60), small.running("b")
    small.clock.advance(61)
    assert small.check() == 1 and small.told() == [quick]


def test_without_a_mail_server_the_event_is_enough(small: House) -> None:
    small.set(smtp_host="")
    job = small.running(emailRecipients="team@example.com")
    small.clock.advance(7 * HOUR_S)
    assert small.check() == 1 and small.told() == [job] and letters.of("job", job) == []


def test_clients_are_switched_in_the_configuration_or_over_it(small: House) -> None:
    small.set(unmonitored_clients="quiet, other")
    assert not alerts.is_monitored("quiet", small.settings) and alerts.is_monitored("my-team", small.settings)
    job = small.running("quiet")
    small.clock.advance(7 * HOUR_S)
    assert small.check() == 0
    alerts.switch("quiet", True, LOCAL_ADMIN)
    assert small.check() == 1 and small.told() == [job]
    alerts.switch("my-team", False, LOCAL_ADMIN)
    assert not alerts.is_monitored("my-team", small.settings)
    assert [event.data for event in events.since(0, kind="system.monitor")] == [
        '{"client": "quiet", "on": true}', '{"client": "my-team", "on": false}']


def test_who_may_switch_what(small: House) -> None:
    with pytest.raises(Forbidden):
        alerts.switch("a", False, Caller("vera", "viewer"))
    for bad in ("", " ", "a\0", "x" * 254):
        with pytest.raises(Invalid, match="client"):
            alerts.switch(bad, False, LOCAL_ADMIN)


def test_the_answer_is_a_sentence() -> None:
    assert alerts.sentence(1) == "1 long-running job was told of"
    assert alerts.sentence(0) == "0 long-running jobs were told of"
