"""How is mail sent? Letters are written down with what they are about, and sent by a loop, again and again until they are gone.

Only the loop talks to the mail server (`[dcluster] smtp_*`); without one no letter is written at all. STARTTLS is never left
out silently, and a password never goes over a connection in the clear.
"""

from __future__ import annotations

import json
import logging
import re
import smtplib
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr

from cloudsched import clock
from cloudsched.errors import Invalid, Unavailable
from cloudsched.settings import Settings
from cloudsched.settings.dcluster import Dcluster
from cloudsched.store import events, system
from cloudsched.store import mail as store
from cloudsched.store.db import Tx, write
from cloudsched.store.mail import Letter

log = logging.getLogger(__name__)
ATTEMPTS = 10
TIMEOUT_S = 30.0
RECIPIENTS_MOST = 50
_PORTS = {"starttls": 587, "tls": 465, "none": 25}
_LOCAL = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
_DOMAIN = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
_ADDRESS = re.compile(rf"{_LOCAL}@{_DOMAIN}\Z")
_SPLIT = re.compile(r"[,;\s]+")


class Refused(Exception):
    """The mail server does not want this letter, and will not later either."""


def recipients(text: str, field: str = "emailRecipients") -> tuple[str, ...]:
    """Addresses from a text with commas, semicolons or blanks between. Raises Invalid naming the first that is none."""
    found = tuple(dict.fromkeys(part for part in _SPLIT.split(text.strip()) if part))
    for address in found:
        local = address.rpartition("@")[0]
        if not _ADDRESS.match(address) or len(address) > 254 or len(local) > 64:
            raise Invalid.at(field, f"{address[:100]!r} is no mail address", "addresses with commas between: team@example.com")
    if len(found) > RECIPIENTS_MOST:
        raise Invalid.at(field, f"{len(found)} addresses", f"at most {RECIPIENTS_MOST}")
    return found


def queue(tx: Tx, to: Sequence[str], title: str, body: str, *, subject: tuple[str, int], at: float, settings: Settings) -> bool:
    """Write a letter down, in the transaction of what it is about. False when there is no mail server or nobody to write to."""
    if not to or not settings.dcluster.smtp_host:
        return False
    store.insert(tx, to, _one_line(title), body, subject=subject, at=at)
    return True


def due(at: float) -> list[Letter]:
    """Letters whose time has come."""
    return store.due(at)


def send(letter: Letter, settings: Settings) -> None:
    """One attempt for a letter that is due, noted; a failed one comes again later. Never raises for the mail server's sake."""
    at = clock.now()
    if not write(lambda tx: store.claim(tx, letter, until=at + 4 * TIMEOUT_S)):
        return
    try:
        left = _post(letter, settings.dcluster)
    except Refused as error:
        reason = str(error)
        write(lambda tx: _give_up(tx, letter, reason))
    except (OSError, smtplib.SMTPException, Unavailable) as error:
        text = _told(error)
        log.warning("letter %s was not sent (attempt %s): %s", letter.id, letter.attempts + 1, text)
        write(lambda tx: _again(tx, letter, letter.to, text))
    else:
        write(lambda tx: _sent(tx, letter, left))


def forget(before: float) -> int:
    """Remove letters that ended before; returns how many."""
    return write(lambda tx: store.forget(tx, before))


def _sent(tx: Tx, letter: Letter, left: Sequence[str]) -> None:
    if left:
        _again(tx, letter, left, f"the mail server refused {len(left)} of {len(letter.to)} recipients for now")
    elif store.tried(tx, letter, at=clock.now(), state=store.SENT, error=""):
        events.append(tx, "mail.send", _subject(letter), at=clock.now(), letter=letter.id, recipients=len(letter.to))


def _again(tx: Tx, letter: Letter, left: Sequence[str], text: str) -> None:
    if letter.attempts + 1 >= ATTEMPTS:
        _give_up(tx, letter, text)
        return
    at = clock.now()
    store.tried(tx, letter, at=at, state=store.PENDING, error=text[:500], recipients=json.dumps(list(left)),
                not_before=at + pause_s(letter.attempts + 1))


def _give_up(tx: Tx, letter: Letter, text: str) -> None:
    if store.tried(tx, letter, at=clock.now(), state=store.DEAD, error=text[:500]):
        events.append(tx, "mail.dead", _subject(letter), at=clock.now(), letter=letter.id, attempts=letter.attempts + 1,
                      error=text[:200])


def pause_s(attempts: int) -> float:
    """How long after the given number of failed attempts."""
    return float(min(3600.0, 15.0 * 2 ** (attempts - 1)))


def _subject(letter: Letter) -> tuple[str, int]:
    return letter.subject_kind or "system", letter.subject_id


def _post(letter: Letter, conf: Dcluster) -> list[str]:
    """Those recipients that are to be tried again. Raises Refused, SMTPException, OSError."""
    if not conf.smtp_host:
        raise Unavailable("no mail server is set any more: dcluster.smtp_host is empty")
    with _connected(conf) as server:
        try:
            refused = server.send_message(_message(letter, conf), to_addrs=list(letter.to))
        except smtplib.SMTPRecipientsRefused as error:
            refused = error.recipients
        except smtplib.SMTPResponseException as error:
            if error.smtp_code >= 500:
                raise Refused(_told(error)) from None
            raise
    later = [address for address, (code, _) in refused.items() if code < 500]
    if refused and not later and len(refused) == len(letter.to):
        raise Refused(f"the mail server takes none of the {len(refused)} recipients")
    return later


def _connected(conf: Dcluster) -> smtplib.SMTP:
    port = conf.smtp_port or _PORTS[conf.smtp_security]
    if conf.smtp_security == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(conf.smtp_host, port, timeout=TIMEOUT_S, context=_trusted(conf))
    else:
        server = smtplib.SMTP(conf.smtp_host, port, timeout=TIMEOUT_S)
    try:
        if conf.smtp_security == "starttls":
            server.starttls(context=_trusted(conf))
        if conf.smtp_user and conf.smtp_security != "none":
            server.login(conf.smtp_user, conf.smtp_password)
    except BaseException:
        server.close()
        raise
    return server


def _trusted(conf: Dcluster) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=conf.smtp_ca_file or None)


def _message(letter: Letter, conf: Dcluster) -> EmailMessage:
    sender = _one_line(conf.mail_from) or f"cloudsched@{socket.getfqdn() or 'localhost'}"
    host = parseaddr(sender)[1].rpartition("@")[2] or "localhost"
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, ", ".join(letter.to), _one_line(letter.title)
    message["Date"] = format_datetime(datetime.fromtimestamp(letter.created_at, UTC))
    # The same for every attempt, so that a letter that came twice can be told.
    message["Message-ID"] = f"<letter-{letter.id}.{system.setting('instance', 'cloudsched')}@{host}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(letter.body)
    return message


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:300]


def _told(error: BaseException) -> str:
    """The error without anything that we said to the server."""
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error.decode("utf-8", "replace") if isinstance(error.smtp_error, bytes) else str(error.smtp_error)
        return _one_line(f"the mail server says {error.smtp_code} {said}")
    return _one_line(f"{type(error).__name__}: {error}")
