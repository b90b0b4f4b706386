"""What happens to a request first? Its style; then heartbeats and lists are answered here, the rest by Flask.

Heartbeats are the hot route: their answer is one of two constant bodies, and a known one is not even parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from cloudsched.dialects.logkit import asks, style
from cloudsched.dialects.logkit.quick import Quick
from cloudsched.dialects.logkit.style import ENVELOPE, Outcome
from cloudsched.incoming import Environ, Once, raw_path, read_body
from cloudsched.services.logagents import Fleet
from cloudsched.services.logagents_calls import Master, make_line
from cloudsched.services.runners import Runners
from cloudsched.settings import Settings

REGISTER, LIST = "/logkit/cluster/register", "/logkit/cluster/slaves"
STYLE, BAD_STYLE = "cloudsched.logkit.style", "cloudsched.logkit.bad_style"
HEARTBEAT_MAX = 64 * 1024
StartResponse = Callable[..., Any]
_DONE = {kind: style.body(Outcome(), kind)[1] for kind in asks.STYLES}


class Front:
    """The WSGI callable of the logkit port."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.fleet = Fleet(agents_max=settings.logkit.agents_max)
        self.line = make_line(settings)
        self.master = Master(settings, self.fleet, self.line)
        self.master.noted = Runners(settings).note
        self._default, self._enabled = settings.logkit.response_style, settings.logkit.enable
        # Answers that need no HTTP server (app/quick.py).
        self.quick = Quick(self.fleet, self._default) if self._enabled else None
        # What the first request to Flask waits for (app/warmup.py makes it earlier).
        self.build: Once[Any] = Once(self._make_flask)

    @property
    def flask(self) -> Any:
        """The Flask application: heartbeats do not wait for its imports."""
        return self.build()

    def _make_flask(self) -> Any:
        from cloudsched.dialects.logkit.routes import make_flask

        return make_flask(self.settings, self.master)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path, kind, bad = asks.styled(environ, raw_path(environ), self._default)
        if self._enabled and bad is None:
            if path == REGISTER and environ["REQUEST_METHOD"] == "POST":
                return self._register(environ, start_response, kind)
            if path == LIST and environ["REQUEST_METHOD"] == "GET":
                return self._list(environ, start_response, kind)
        environ[STYLE], environ["PATH_INFO"], environ["SCRIPT_NAME"] = kind, path, ""
        if bad is not None:
            environ[BAD_STYLE] = bad
        answer: Iterable[bytes] = self.flask(environ, start_response)
        return answer

    def _register(self, environ: Environ, start_response: StartResponse, kind: str) -> Iterable[bytes]:
        try:
            self.fleet.register(read_body(environ, HEARTBEAT_MAX))
        except Exception as error:
            return _answer(start_response, style.of_error(error, "L2004"), kind)
        return _send(start_response, 200, _DONE[kind])

    def _list(self, environ: Environ, start_response: StartResponse, kind: str) -> Iterable[bytes]:
        try:
            tag, url = asks.filters(environ.get("QUERY_STRING", ""))
            found = self.fleet.listed(tag=tag, url=url)
        except Exception as error:
            return _answer(start_response, style.of_error(error, "L2001"), kind)
        if kind == ENVELOPE:
            found = b'{"code":"L200","data":%s}' % found
        return _send(start_response, 200, found)

    def close(self) -> None:
        """Write down the last contacts and close the connections to the agents."""
        self.fleet.close()
        self.line.close()


def _answer(start_response: StartResponse, outcome: Outcome, kind: str) -> Iterable[bytes]:
    status, body = style.body(outcome, kind)
    return _send(start_response, status, body, outcome.headers)


def _send(start_response: StartResponse, status: int, body: bytes,
          more: Iterable[tuple[str, str]] = ()) -> Iterable[bytes]:
    start_response(style.LINE[status], [style.JSON, ("Content-Length", str(len(body))), *more])
    return [body]
