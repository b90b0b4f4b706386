"""How do answers look on the wire? One envelope for each half (contract: calls), made here and nowhere else."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from cloudsched.dialects.kboss import words
from cloudsched.dialects.kboss.calls import ABSENT, PCAPI, Answer, Refusal
from cloudsched.dialects.kboss.texts import known, say
from cloudsched.errors import CloudschedError, Forbidden, Invalid, RateLimited, TooLarge, Unauthenticated, Unavailable

log = logging.getLogger(__name__)
encode = msgspec.json.Encoder(enc_hook=str, decimal_format="number").encode
Headers = list[tuple[str, str]]
_HTTP: tuple[tuple[type[CloudschedError], int], ...] = (
    (Unauthenticated, 401), (Forbidden, 403), (TooLarge, 413), (RateLimited, 429), (Unavailable, 503),
)


def body(answer: Answer) -> bytes:
    """`{"status", "info", "data"}` of pcapi, `{"status", "msg", "data"}` of kboss; a bare answer is its data alone."""
    if answer.bare:
        return encode(answer.data)
    found: dict[str, Any] = {"status": answer.status, "info" if answer.half == PCAPI else "msg": answer.text}
    if answer.data is not ABSENT:
        found["data"] = answer.data
    return encode({**found, **answer.more})


def of_error(error: BaseException, language: str, half: str) -> Answer:
    """The answer of an error: what a call decided is HTTP 200, what is wrong with the request itself says so."""
    if isinstance(error, Refusal):
        return Answer(False, say(error.key, language, **error.values), error.data, half, error.http)
    if isinstance(error, RecursionError):
        return Answer(False, say("bad_body", language, reason="nested too deeply"), ABSENT, half, 400)
    if not isinstance(error, CloudschedError):
        log.error("a call failed", exc_info=error)
        return Answer(False, say("mistake", language), ABSENT, half, 500)
    http = next((status for kind, status in _HTTP if isinstance(error, kind)), 200)
    if http == 503:
        log.warning("%s", error)
    return Answer(False, told(error, language), ABSENT, half, http)


def told(error: CloudschedError, language: str) -> str:
    """What an error says in a language: by its own sentence, or by its message."""
    key = error.details.get("say")
    if isinstance(error, Refusal):
        return say(error.key, language, **error.values)
    if isinstance(key, str) and known(key):
        return say(key, language, **{name: value for name, value in error.details.items() if name != "say"})
    if isinstance(error, Invalid):
        return say("bad_parameter", language, reason=error.message)
    if isinstance(error, Unauthenticated):
        return say("bad_authorization" if "not valid" in error.message else "no_authorization", language)
    if isinstance(error, RateLimited):
        return say("too_many", language)
    if isinstance(error, Unavailable):
        return say("away", language, reason=error.message)
    return words.told(error.message, language)
