"""How are the web interfaces of Spark's master and of Flink's job manager asked? JSON in short calls, errors in one kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError

TIMEOUT_S = 10.0
MAX_SAID = 2000


class Refused(DriverError):
    """The other side answered, with an error: `status` of HTTP, and the `reason` in its own words."""

    def __init__(self, place: str, reason: str, *, status: int) -> None:
        super().__init__(f"{place} answers {status}: {reason}", code=base.REQUEST, transient=status >= 500)
        self.status = status
        self.reason = reason


def get(url: str, *, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """GET a JSON object. DriverError: transient when nobody answers; Refused when the answer is an error."""
    return _call("GET", url, timeout_s=timeout_s)


def send(method: str, url: str, body: Any = None, *, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """Any method with a JSON body or none."""
    return _call(method, url, timeout_s=timeout_s, json=body)


def upload(url: str, field: str, path: Path, *, name: str, timeout_s: float = 120.0) -> dict[str, Any]:
    """POST one file as a form does."""
    with open(path, "rb") as file:
        return _call("POST", url, timeout_s=timeout_s, files={field: (name, file, "application/x-java-archive")})


def _call(method: str, url: str, *, timeout_s: float, **words: Any) -> dict[str, Any]:
    where = urlsplit(url)
    place = f"{where.scheme}://{where.hostname}:{where.port or ''}{where.path}"
    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy stands between us and these
            answer = session.request(method, url, timeout=(5, timeout_s), allow_redirects=False, **words)
            said = answer.content
    except (requests.RequestException, ValueError) as error:
        why = "no answer in time" if isinstance(error, requests.Timeout) else "cannot be reached"
        raise DriverError(f"{place}: {why}", code=base.ENDPOINT, transient=True) from error
    if answer.status_code >= 300:
        raise Refused(place, _reason(said), status=answer.status_code)
    try:
        found = answer.json() if said.strip() else {}
    except ValueError as error:
        raise DriverError(f"{place} does not answer in JSON", code=base.ENDPOINT, transient=True) from error
    return found if isinstance(found, dict) else {"items": found}


def _reason(said: bytes) -> str:
    """The words of an error: Flink gives a list of texts, the last with a stack trace."""
    import json

    text = said.decode("utf-8", "replace")
    try:
        errors = json.loads(text).get("errors", [])
        text = " ".join(str(one) for one in errors) or text
    except (ValueError, AttributeError):
        pass
    causes = [line.partition("Caused by: ")[2] for line in text.splitlines() if line.startswith("Caused by: ")]
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return (causes[-1].strip() if causes else first)[:MAX_SAID]
