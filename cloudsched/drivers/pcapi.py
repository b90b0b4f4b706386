"""How is the executor of a compute centre elsewhere called? Its pcapi over HTTP, with Basic authorization and time limits.

Nothing is repeated here: whoever calls knows whether that is harmless. Errors name the centre's address and never a secret.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Mapping
from typing import Any

import requests

from cloudsched.drivers.base import DriverError

BASE = "/pcapi/api/v1/cluster/common/"
ANSWER_MOST = 64 << 20
_PIECE = 1 << 16


class PcapiError(DriverError):
    """The centre's pcapi could not be asked, or did not understand. Details hold `say` and `url`, `reason`."""


class PcapiRefused(DriverError):
    """The centre answered no; the message is its own. `data`: what came with it."""

    def __init__(self, message: str, data: Any) -> None:
        super().__init__(message, details={"say": "pcapi_said_no", "reason": message})
        self.data = data


class Pcapi:
    """One centre's pcapi. `language`: that of its messages. Safe for threads: each has a connection of its own."""

    def __init__(self, url: str, *, user: str, password: str, connect_timeout_s: float = 5.0, read_timeout_s: float = 60.0,
                 verify_tls: bool = True, language: str = "en") -> None:
        self.url = url.rstrip("/")
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._authorization = {"Authorization": f"Basic {pair}"}
        self._timeout = (connect_timeout_s, read_timeout_s)
        self._verify, self._language = verify_tls, language
        self._kept = threading.local()

    def call(self, verb: str, params: Mapping[str, Any], *, read_timeout_s: float | None = None) -> Any:
        """The `data` of an answer that says yes. Raises PcapiRefused for a no, PcapiError for no answer at all."""
        status, info, data = self.ask(verb, params, read_timeout_s=read_timeout_s)
        if not status:
            raise PcapiRefused(info or "no reason was given", data)
        return data

    def ask(self, verb: str, params: Mapping[str, Any], *, read_timeout_s: float | None = None) -> tuple[bool, str, Any]:
        """(status, info, data) of an answer. Raises PcapiError."""
        body = self._read(self._post(verb, params, read_timeout_s), verb)
        if isinstance(body, list):  # determine_accommodat answers without an envelope
            return True, "", body
        if not isinstance(body, dict) or not isinstance(body.get("status"), bool):
            raise self._strange("the answer is not one of pcapi")
        return body["status"], str(body.get("info") or ""), body.get("data")

    def close(self) -> None:
        """Close this thread's connection."""
        session: requests.Session | None = getattr(self._kept, "session", None)
        if session is not None:
            session.close()
            del self._kept.session

    def _post(self, verb: str, params: Mapping[str, Any], read_timeout_s: float | None) -> requests.Response:
        # In the body, and not in the URL: passwords must not get into logs of servers between.
        form = {name: _text(value) for name, value in params.items() if value is not None}
        timeout = (self._timeout[0], read_timeout_s or self._timeout[1])
        try:
            return self._session().post(self.url + BASE + verb, data=form, headers=self._authorization, timeout=timeout,
                                        stream=True, allow_redirects=False, verify=self._verify)
        except requests.exceptions.ConnectTimeout:
            raise self._away(f"no connection within {timeout[0]:g} s") from None
        except requests.exceptions.Timeout:
            raise self._away(f"no answer within {timeout[1]:g} s") from None
        except requests.exceptions.SSLError:
            raise self._strange("its certificate cannot be verified") from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
            raise self._strange("its address cannot be used") from None
        except (requests.exceptions.RequestException, OSError) as error:
            raise self._away(_reason(error)) from None

    def _read(self, response: requests.Response, verb: str) -> Any:
        with response:
            if response.status_code in (401, 403):
                raise PcapiError(f"the pcapi at {self.url} refuses the name and password ({response.status_code})",
                                 details={"say": "pcapi_denied", "url": self.url})
            if response.status_code == 404:
                raise self._strange(f"it has no {verb}")
            raw = self._bytes(response)
            if response.status_code in (429, 502, 503, 504):
                raise self._away(f"HTTP {response.status_code}")
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            raise self._strange(f"HTTP {response.status_code} without JSON") from None

    def _bytes(self, response: requests.Response) -> bytes:
        found = bytearray()
        try:
            for piece in response.iter_content(_PIECE):
                found += piece
                if len(found) > ANSWER_MOST:
                    raise self._strange("its answer is too long")
        except requests.exceptions.RequestException as error:
            raise self._away(_reason(error)) from None
        return bytes(found)

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._kept, "session", None)
        if session is None:
            session = self._kept.session = requests.Session()
            session.trust_env = False  # no proxy and no .netrc of whoever started the server
            session.headers.update({"Accept": "application/json", "Accept-Language": self._language,
                                    "User-Agent": "cloudsched"})
        return session

    def _away(self, reason: str) -> PcapiError:
        return PcapiError(f"the pcapi at {self.url} cannot be reached: {reason}", transient=True,
                          details={"say": "pcapi_away", "url": self.url, "reason": reason})

    def _strange(self, reason: str) -> PcapiError:
        return PcapiError(f"what is at {self.url} is no pcapi that we know: {reason}",
                          details={"say": "pcapi_strange", "url": self.url, "reason": reason})


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _reason(error: BaseException) -> str:
    """Why there is no connection, without the address of an object or a URL in it."""
    text = str(error)
    for word, shown in (("refused", "connection refused"), ("resolve", "its name cannot be resolved"),
                        ("unreachable", "network unreachable"), ("reset", "the connection was reset"),
                        ("closed", "the connection was closed"), ("aborted", "the connection was closed"),
                        ("Read timed out", "no answer in time"), ("IncompleteRead", "the answer was cut off")):
        if word.lower() in text.lower():
            return shown
    return type(error).__name__
