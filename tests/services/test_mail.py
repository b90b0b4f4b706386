"""Does mail reach a mail server, once, over TLS where that is asked for, and again after a failure?"""

from __future__ import annotations

import email
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched import clock, settings
from cloudsched.clock import ManualClock
from cloudsched.errors import Invalid
from cloudsched.services.notices import mail
from cloudsched.settings import Settings
from cloudsched.store import events
from cloudsched.store import mail as store
from cloudsched.store.db import Database, write
from cloudsched.store.mail import Letter
from tests.services.receivers import MailServer, certificate

PASSWORD = "pass of this test"


class Post:
    """A mail server and an instance that uses it."""

    def __init__(self, database: Database, state: Path, time: ManualClock) -> None:
        self.database, self.state, self.clock = database, state, time
        self.server = MailServer()
        self.settings: Settings = self.set()

    def set(self, **keys: Any) -> Settings:
        keys = {"smtp_host": "127.0.0.1", "smtp_port": self.server.port, "smtp_security": "none",
                "mail_from": "cs@example.com", **keys}
        flags = {"state": str(self.state), "database_url": self.database.url, **{f"dcluster.{name}": keys[name] for name in keys}}
        self.settings = settings.load(flags, environ={"HOME": str(self.state)})
        return self.settings

    def serve(self, **how: Any) -> None:
        self.server.close()
        self.server = MailServer(**how)

    def queue(self, *to: str, title: str = "a title", body: str = "Hello.\n.\nEnd") -> bool:
        return write(lambda tx: mail.queue(tx, to, title, body, subject=("job", 3), at=clock.now(), settings=self.settings))

    def send(self, seconds: float = 0.0) -> list[Letter]:
        self.clock.advance(seconds)
        for letter in mail.due(clock.now()):
            mail.send(letter, self.settings)
        return store.of("job", 3)

    def events(self) -> list[str]:
        return [event.kind for event in events.since(0, kind="mail.")]


@pytest.fixture
def post(sqlite_database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    yield from _post(sqlite_database, tmp_state, monkeypatch)


@pytest.fixture
def both(database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    yield from _post(database, tmp_state, monkeypatch)


def _post(database: Database, state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    time = ManualClock()
    monkeypatch.setattr(clock, "now", time.now)
    made = Post(database, state, time)
    yield made
    made.server.close()


def test_a_letter_arrives_once_as_it_was_written(both: Post) -> None:
    assert both.queue("a@example.com", "b@example.com", title="Läuft\r\nBcc: evil@example.com")
    assert [letter.state for letter in both.send()] == ["sent"]
    both.send(10_000)
    [letter] = both.server.letters
    assert (letter.sender, letter.to) == ("cs@example.com", ["a@example.com", "b@example.com"])
    message = email.message_from_string(letter.text, policy=email.policy.default)
    assert message["Subject"] == "Läuft Bcc: evil@example.com" and message["Bcc"] is None
    assert message["To"] == "a@example.com, b@example.com" and message["Auto-Submitted"] == "auto-generated"
    assert message["Message-ID"].startswith("<letter-1.") and message["Message-ID"].endswith("@example.com>")
    assert message.get_content().split() == ["Hello.", ".", "End"]
    assert both.events() == ["mail.send"]


def test_without_a_server_or_recipients_nothing_is_written(post: Post) -> None:
    assert not post.queue()
    post.set(smtp_host="")
    assert not post.queue("a@example.com")
    assert store.of("job", 3) == []


def test_login_and_starttls(post: Post, tmp_path: Path) -> None:
    context, cert = certificate(tmp_path)
    post.serve(tls=context, login=("cs", PASSWORD))
    post.set(smtp_security="starttls", smtp_user="cs", smtp_password=PASSWORD, smtp_ca_file=str(cert))
    post.queue("a@example.com")
    post.send()
    assert [(letter.login, letter.tls) for letter in post.server.letters] == [("cs", True)]
    assert PASSWORD not in repr(post.settings)


def test_a_doubtful_certificate_or_no_starttls_sends_nothing(post: Post, tmp_path: Path) -> None:
    post.set(smtp_security="starttls")
    post.queue("a@example.com")
    assert "STARTTLS" in post.send()[0].error
    context, _ = certificate(tmp_path)
    post.serve(tls=context)
    post.set(smtp_security="starttls")
    assert "CERTIFICATE_VERIFY_FAILED" in post.send(60)[0].error
    assert post.server.letters == []


def test_a_wrong_password_is_told_without_it(post: Post, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    context, cert = certificate(tmp_path)
    post.serve(tls=context, login=("cs", "another"))
    post.set(smtp_security="starttls", smtp_user="cs", smtp_password=PASSWORD, smtp_ca_file=str(cert))
    post.queue("a@example.com")
    [letter] = post.send()
    assert (letter.state, letter.error) == ("pending", "the mail server says 535 who are you?")
    assert PASSWORD not in caplog.text + str(events.since(0))


def test_a_server_that_is_away_is_tried_again_until_it_is_too_often(post: Post) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    post.set(smtp_port=port)
    post.queue("a@example.com")
    assert post.send()[0].attempts == 1
    assert post.send(1)[0].attempts == 1, "not before the pause is over"
    for _ in range(mail.ATTEMPTS):
        found = post.send(4000)
    assert (found[0].state, found[0].attempts) == ("dead", mail.ATTEMPTS)
    assert post.events() == ["mail.dead"]


def test_those_that_are_refused_for_now_are_tried_again_alone(post: Post) -> None:
    post.serve(refuse={"b@example.com": "451 later", "c@example.com": "550 never"})
    post.set()
    post.queue("a@example.com", "b@example.com", "c@example.com")
    [letter] = post.send()
    assert (letter.state, letter.to) == ("pending", ("b@example.com",))
    post.server.refuse = {}
    assert post.send(60)[0].state == "sent"
    assert [one.to for one in post.server.letters] == [["a@example.com"], ["b@example.com"]]


def test_what_the_server_never_takes_is_given_up_at_once(post: Post) -> None:
    post.serve(data="554 spam")
    post.set()
    post.queue("a@example.com")
    assert [(one.state, one.error) for one in post.send()] == [("dead", "the mail server says 554 spam")]
    post.serve(refuse={"a@example.com": "550 never"})
    post.set()
    post.queue("a@example.com")
    assert [one.state for one in post.send()] == ["dead", "dead"]


def test_two_processes_send_one_letter_once(both: Post) -> None:
    both.queue("a@example.com")
    [letter] = mail.due(clock.now())
    mail.send(letter, both.settings)
    mail.send(letter, both.settings)
    assert len(both.server.letters) == 1


def test_retention(post: Post) -> None:
    post.queue("a@example.com")
    post.send()
    assert mail.forget(clock.now()) == 0
    assert mail.forget(clock.now() + 1) == 1
    assert json.loads(events.since(0, kind="mail.send")[0].data)["recipients"] == 1


@pytest.mark.parametrize(("text", "found"), [
    ("", ()), ("team@example.com", ("team@example.com",)), (" a@x.org; b@x.org,a@x.org\nc.d+e@x-y.example ",
                                                            ("a@x.org", "b@x.org", "c.d+e@x-y.example"))])
def test_recipients(text: str, found: tuple[str, ...]) -> None:
    assert mail.recipients(text) == found


@pytest.mark.parametrize("text", ["x", "@x.org", "a@", "a@b@c", "a..b@x.org", "<a@x.org>", "a@x.org\0", "a@-x.org", "ä@x.org",
                                  "a" * 65 + "@x.org", "a@" + "x." * 130 + "org", ",".join(f"a{n}@x.org" for n in range(51))])
def test_bad_recipients_are_named(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        mail.recipients(text)
    assert caught.value.errors[0].field == "emailRecipients"
