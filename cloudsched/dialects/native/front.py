"""What happens to a request first? Its id, who is calling, and which of the three answers it: agents, jobs, the rest.

Agents and the two hot job routes are answered here; everything else goes to the Flask application with the caller in
the WSGI environment. Every answer leaves through `_finish`: counted, with X-Request-Id and the same safety headers.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from cloudsched.dialects.native import agent, beats, hot, problems
from cloudsched.dialects.native.wire import Answer, StartResponse
from cloudsched.errors import CloudschedError
from cloudsched.incoming import Environ, Once, raw_path
from cloudsched.services import health, nodelogs
from cloudsched.services.access import Gate, Request
from cloudsched.services.caller import Caller
from cloudsched.settings import Settings

log = logging.getLogger(__name__)

CALLER, REQUEST_ID, GATE = "cloudsched.caller", "cloudsched.request_id", "cloudsched.gate"
# Answered to anybody the network and Host rules let in: no role is needed.
OPEN = frozenset({"/", "/healthz", "/readyz", "/metrics", "/api/v2", "/api/v2/", "/api/v2/healthz", "/api/v2/readyz",
                  "/api/v2/metrics", "/api/v2/openapi.json", "/api/v2/docs", "/favicon.ico"})
# Alive needs no Flask: a start is over when this answers.
ALIVE = frozenset({"/healthz", "/api/v2/healthz"})
# Where short requests come in, and the word in their bodies that makes them long ones.
_LONG = {hot.PATH: b'"array"', agent.SYNC: b'"wait_s"'}
_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
_SAFETY = [("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store")]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]


class Front:
    """The WSGI callable of the native port."""

    def __init__(self, settings: Settings, make_flask: Callable[[], WsgiApp]) -> None:
        self.settings = settings
        nodelogs.configure(settings)
        self.gate = Gate(settings)
        self.max_body = settings.web.max_body_mb << 20
        # Plain heartbeats need no HTTP server (app/quick.py).
        self.later = beats.Beats(self.gate)
        # What the first request to Flask waits for (app/warmup.py makes it earlier).
        self.build = Once(make_flask)

    @staticmethod
    def short(path: str, body: bytes) -> bool:
        """Is this a POST that takes no longer than a transaction (app/lane.py)? A report of an agent, or a few jobs."""
        word = _LONG.get(path)
        return word is not None and word not in body and b"\\u" not in body

    @property
    def flask(self) -> Any:
        """The Flask application: agents do not wait for its imports."""
        return self.build()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        request_id = environ.get("HTTP_X_REQUEST_ID", "")
        if not _ID.match(request_id):
            request_id = os.urandom(8).hex()
        path = raw_path(environ)
        try:
            if path.startswith(agent.PREFIX):
                self.gate.check_network(Request(environ.get("REMOTE_ADDR", "")))
                status, headers, body = agent.answer(environ, path, self.max_body)
            elif path == agent.PROGRAM:
                self.gate.check_network(Request(environ.get("REMOTE_ADDR", "")))
                status, headers, body = agent.program(environ)
            elif path in ALIVE and environ["REQUEST_METHOD"] == "GET" and not environ.get("QUERY_STRING"):
                self.gate.check_network(who(environ))
                status, headers, body = 200, [("Content-Type", "application/json")], [b'{"status":"ok","checks":[]}']
            elif path == hot.PATH:
                status, headers, body = hot.answer(environ, self.gate.caller(who(environ)), self.max_body)
            else:
                return self._rest(environ, start_response, path, request_id)
        except Exception as error:
            status, headers, body = _problem(error, request_id)
        return _finish(environ, start_response, (status, headers, body), request_id)

    def _rest(self, environ: Environ, start_response: StartResponse, path: str,
              request_id: str) -> Iterable[bytes]:
        try:
            environ[CALLER] = self._caller(environ, path)
        except CloudschedError as error:
            return _finish(environ, start_response, _problem(error, request_id), request_id)
        environ[REQUEST_ID], environ[GATE] = request_id, self.gate
        environ["PATH_INFO"], environ["SCRIPT_NAME"] = path, ""

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            health.count_answer(int(status[:3]))
            return start_response(status, _with_safety(headers, request_id), exc_info)

        return self.flask(environ, start)

    def _caller(self, environ: Environ, path: str) -> Caller | None:
        """The caller; None for routes that need nobody (the page itself holds no data)."""
        request = who(environ)
        if path in OPEN or path.startswith("/static/"):
            self.gate.check_network(request)
            try:
                return self.gate.caller(request)
            except CloudschedError as error:
                if error.kind == "unauthenticated":
                    return None
                raise
        return self.gate.caller(request)


def who(environ: Environ) -> Request:
    """What the request says about its caller."""
    get = environ.get
    return Request(
        get("REMOTE_ADDR", ""), environ["REQUEST_METHOD"], get("HTTP_HOST", ""), get("HTTP_ORIGIN", ""),
        get("HTTP_SEC_FETCH_SITE", ""), get("HTTP_X_API_KEY", ""), get("HTTP_AUTHORIZATION", ""),
        _text(get("HTTP_X_CLOUDSCHED_USER", "")), "HTTP_X_FORWARDED_FOR" in environ or "HTTP_FORWARDED" in environ)




def _text(header: str) -> str:
    """A header as text: servers hand its bytes over as Latin-1, people send UTF-8."""
    try:
        return header.encode("latin-1").decode() if header else ""
    except UnicodeError:
        return header


def _problem(error: BaseException, request_id: str) -> Answer:
    status, headers, body = problems.render(error, request_id=request_id)
    return status, headers, [body]


def _finish(environ: Environ, start_response: StartResponse, answer: Answer, request_id: str) -> Iterable[bytes]:
    status, headers, body = answer
    health.count_answer(status)
    headers = [*headers, ("X-Request-Id", request_id), *_SAFETY]
    if isinstance(body, list):
        headers.append(("Content-Length", str(sum(map(len, body)))))
    start_response(problems.STATUS_LINE[status], headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else body


def _with_safety(headers: list[tuple[str, str]], request_id: str) -> list[tuple[str, str]]:
    given = {name.lower() for name, _ in headers}
    return [*headers, ("X-Request-Id", request_id), *(pair for pair in _SAFETY if pair[0].lower() not in given)]
