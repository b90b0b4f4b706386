"""What happens to a request first? Its id, the network, who asks, limits; then its route; then the same headers for all.

Submitting a task is the hot route: it does not pass through Flask. Both ways end in `answered`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterable
from typing import Any

from cloudsched.dialects.retire_cluster import params
from cloudsched.dialects.retire_cluster.access import OPEN, Door, Who
from cloudsched.dialects.retire_cluster.envelope import JSON, LINE, Headers, Refused, encode, failure, success
from cloudsched.dialects.retire_cluster.limits import Limits
from cloudsched.dialects.retire_cluster.routing import Answer, Call, Route, raw_path
from cloudsched.incoming import Environ, Once
from cloudsched.services import figures, health
from cloudsched.settings import Settings

REQUEST_ID = "cloudsched.retire_cluster.request_id"
GUARDED = ("/api/v1/", "/text/", "/stream/")
SINGLE = "/api/v1/tasks"
METHODS, HEADERS = "GET, POST, PUT, DELETE, OPTIONS", "Content-Type, Authorization, X-API-Key"
EXPOSED = "X-Request-ID, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After"
_SAFETY = [("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store")]
StartResponse = Callable[..., Any]
Found = tuple[int, Headers, Iterable[bytes]]


class Front:
    """The WSGI callable of the retire_cluster port."""

    def __init__(self, settings: Settings, table: Callable[[Front], list[Route]], *, hot: Collection[tuple[str, str]],
                 make_flask: Callable[[Front], Any]) -> None:
        self.settings = settings
        self.door = Door(settings)
        self.limits = Limits(settings)
        self.max_body = settings.web.max_body_mb << 20
        self.routes = table(self)
        self._hot = {(route.method, route.rule): route for route in self.routes if (route.method, route.rule) in hot}
        self._origins = settings.retire_cluster.cors_origins if settings.retire_cluster.cors else ()
        # What the first request to Flask waits for (app/warmup.py makes it earlier).
        self.build: Once[Any] = Once(lambda: make_flask(self))

    def short(self, path: str, body: bytes) -> bool:
        """Is this a POST that takes no longer than a transaction (app/lane.py)? The submission of one task."""
        return path == SINGLE

    @property
    def flask(self) -> Any:
        """The Flask application behind the other routes."""
        return self.build()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        began, request_id, method = time.perf_counter(), str(uuid.uuid4()), environ["REQUEST_METHOD"]
        path, origin = raw_path(environ), environ.get("HTTP_ORIGIN", "")

        def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
            number = int(status[:3])
            health.count_answer(number)
            figures.count_request((time.perf_counter() - began) * 1000, number)
            return start_response(status, self._with_common(headers, request_id, origin), exc_info)

        try:
            self.door.check_network(environ.get("REMOTE_ADDR", ""))
        except Exception as error:
            return _sent(start, failure_found(error, request_id), method)
        if method == "OPTIONS":
            return _sent(start, (200, self._preflight(), []), method)
        hot = self._hot.get((method, path))
        if hot is not None:
            return _sent(start, self.answered(hot, environ, {}, request_id), method)
        environ[REQUEST_ID], environ["PATH_INFO"], environ["SCRIPT_NAME"] = request_id, path, ""
        answer: Iterable[bytes] = self.flask(environ, start)
        return answer

    def answered(self, route: Route, environ: Environ, parts: dict[str, str], request_id: str) -> Found:
        """The answer of a route, or the refusal."""
        headers: Headers = []
        try:
            who = self.admitted(environ, route.level, headers, counted=route.counted, anyway=route.anyway)
            query = params.parse(route.query, environ.get("QUERY_STRING", ""))
            found = route.handler(Call(environ, who, parts, query, request_id, self.max_body))
            return found_of(found, route, headers, request_id)
        except Exception as error:
            return failure_found(error, request_id, headers)

    def admitted(self, environ: Environ, level: str, headers: Headers, *, counted: bool = True, anyway: bool = False) -> Who:
        """The caller, whose request is counted; the headers of the count are added. Raises Refused."""
        if level == OPEN and not counted:
            return self.door.who(environ)
        who = self.door.who(environ)
        if counted:
            headers += self.limits.count(who.identity, environ["REQUEST_METHOD"])
        if not who.reaches(level) or (anyway and not who.keyed):
            raise self.door.refusal(environ, who, level)
        return who

    def refused(self, environ: Environ, path: str, error: Refused, request_id: str) -> Found:
        """The answer where there is no such route or method: counted, and below `/api/v1/` only for those with a key."""
        headers: Headers = []
        try:
            self.admitted(environ, "read" if path.startswith(GUARDED) else OPEN, headers)
        except Exception as first:
            return failure_found(first, request_id, headers)
        return failure_found(error, request_id, headers)

    def _with_common(self, headers: Headers, request_id: str, origin: str) -> Headers:
        given = {name.lower() for name, _ in headers}
        common = [("X-Request-ID", request_id), *(pair for pair in _SAFETY if pair[0].lower() not in given)]
        return [*headers, *common, *self._cors(origin)]

    def _cors(self, origin: str) -> Headers:
        """Contract 7: any origin, or one of a list; never with credentials."""
        if not self._origins:
            return []
        if "*" in self._origins:
            return [("Access-Control-Allow-Origin", "*"), ("Access-Control-Expose-Headers", EXPOSED)]
        allowed = [("Access-Control-Allow-Origin", origin), ("Access-Control-Expose-Headers", EXPOSED)]
        return [("Vary", "Origin"), *(allowed if origin in self._origins else [])]

    def _preflight(self) -> Headers:
        if not self._origins:
            return []
        return [("Access-Control-Allow-Methods", METHODS), ("Access-Control-Allow-Headers", HEADERS),
                ("Access-Control-Max-Age", "600")]


def found_of(found: Answer, route: Route, headers: Headers, request_id: str) -> Found:
    """A handler's answer as it goes out; a header that it brings itself counts."""
    headers = _merged(headers, found.headers)
    if found.body is not None:
        return found.status, headers, found.body
    status = found.status if found.status != 200 else route.status
    raw = encode(found.data) if route.bare else success(found.data, request_id, message=found.message, **found.more)
    return status, [JSON, *headers], [raw]


def failure_found(error: BaseException, request_id: str, headers: Headers | None = None) -> Found:
    """An error as it goes out; a header that it brings itself counts."""
    status, own, raw = failure(error, request_id)
    return status, _merged(headers or [], own), [raw]


def _merged(headers: Headers, own: Headers) -> Headers:
    given = {name for name, _ in own}
    return [*(pair for pair in headers if pair[0] not in given), *own]


def _sent(start: StartResponse, found: Found, method: str) -> Iterable[bytes]:
    status, headers, body = found
    if isinstance(body, list):
        headers = [*headers, ("Content-Length", str(sum(map(len, body))))]
    start(LINE[status], headers)
    return [] if method == "HEAD" else body
