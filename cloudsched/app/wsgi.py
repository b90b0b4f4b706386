"""Which application answers on which port? One WSGI callable in front of the dialects."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from cloudsched.app.lane import Lane, Later
from cloudsched.errors import Unavailable
from cloudsched.services.access import Networks, is_inside, networks_of
from cloudsched.settings import Settings

log = logging.getLogger(__name__)
Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]
Build = Callable[[], object]
Fence = frozenset[Any]
NATIVE: Fence = frozenset({"checks by itself"})
# Their own code looks at address and size, so that refusals have their own shape.
CHECK_THEMSELVES = ("native", "retire_cluster", "kboss")
# The dcluster dialect answers below this path on every port (contract "Where it answers").
EVERYWHERE = "/cluster"
# Agents may knock at any port of HTTP that they were given: these paths are the native application's there too.
AGENT_PATHS = ("/api/v2/agent/", "/agent.pyz")


def make(settings: Settings) -> Front:
    """All listeners of this process: the port tells the dialect, the address whether it may speak to us."""
    from cloudsched.dialects import cloud_scheduler, dcluster, kboss, logkit, native, retire_cluster

    @cache
    def native_app() -> Application:
        return native.make_app(settings)

    @cache
    def dcluster_app() -> Application:
        return dcluster.make_app(settings)

    makers: dict[str, Callable[[Settings], Application]] = {
        "cloud_scheduler_info": cloud_scheduler.info_app,
        "cloud_scheduler_admin": lambda found: cloud_scheduler.admin_app(found, wait_limit_s=found.web.operation_wait_s),
        "native": lambda _: native_app(),
        "logkit": logkit.make_app,
        "kboss": kboss.make_app,
        "dcluster": lambda _: dcluster_app(),
        "retire_cluster": lambda found: _with_agents(retire_cluster.make_app(found), native_app()),
    }
    answers: dict[str, tuple[Application, Fence]] = {}
    builds: dict[str, Build] = {}
    for listener in settings.http_listeners():
        networks = getattr(settings.access, f"{listener.dialect}_networks")
        fenced = NATIVE if listener.dialect in CHECK_THEMSELVES else networks_of(networks)
        made = makers[listener.name](settings)
        answers[str(listener.port)] = (made, fenced)
        if hasattr(made, "build"):
            builds[listener.name] = made.build
    everywhere = dcluster_app(), networks_of(settings.access.dcluster_networks)
    return Front(answers, everywhere=everywhere, max_body=settings.web.max_body_mb << 20, builds=builds)


def _with_agents(application: Application, agents: Application) -> Application:
    """The application, where agents are answered as well."""

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        chosen = agents if environ.get("PATH_INFO", "").startswith(AGENT_PATHS) else application
        return chosen(environ, start_response)

    def short(path: str, body: bytes) -> bool:
        chosen = agents if path.startswith(AGENT_PATHS) else application
        return bool(chosen.short(path, body))  # type: ignore[attr-defined]

    answer.build = application.build  # type: ignore[attr-defined]
    answer.later = agents.later  # type: ignore[attr-defined]
    answer.short = short  # type: ignore[attr-defined]
    return answer


class Front:
    """The door: address, size, port; then the dialect's own application."""

    def __init__(self, answers: dict[str, tuple[Application, Fence]], *, everywhere: tuple[Application, Fence],
                 max_body: int, builds: Mapping[str, Build]) -> None:
        self._answers = answers
        self._everywhere = everywhere
        self._max_body = max_body
        # What each dialect makes at its first request. The native API is first: the page and the commands use it.
        self.builds = dict(sorted(builds.items(), key=lambda item: item[0] != "native"))
        self._allowed: dict[tuple[str, str], bool] = {}
        self._lanes = {port: Lane(self, port, found[0].short, before=getattr(found[0], "later", None))
                       for port, found in answers.items() if hasattr(found[0], "short")}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        port = environ["SERVER_PORT"]
        found = self._answers.get(port)
        if found is None:
            return _plain(start_response, "404 Not Found", "no dialect answers on this port")
        if _is_below(environ.get("PATH_INFO", ""), EVERYWHERE):
            found, port = self._everywhere, EVERYWHERE
        application, networks = found
        refuse = getattr(application, "refuse", None) or _refuse
        if networks is NATIVE:  # it checks address and size itself, and says what is wrong as a problem
            return application(environ, start_response)
        if not self._may_call(environ.get("REMOTE_ADDR", ""), port, networks):
            return refuse(environ, start_response, "403 Forbidden", "this address may not call this port")
        length = environ.get("CONTENT_LENGTH") or "0"
        if not length.isdigit():
            return refuse(environ, start_response, "400 Bad Request", "Content-Length is not a number")
        if int(length) > self._max_body:
            return refuse(environ, start_response, "413 Content Too Large", f"the body may have {self._max_body} bytes")
        try:
            return application(environ, start_response)
        except Unavailable as error:
            log.warning("%s", error)
            return refuse(environ, start_response, "503 Service Unavailable", str(error))

    def has_quick(self, port: str) -> bool:
        """Does the application on this port have quick answers (see app/quick.py)?"""
        found = self._answers.get(port)
        return found is not None and getattr(found[0], "quick", None) is not None

    def later_for(self, port: str) -> Later | None:
        """Who takes requests on this port that are answered later; it looks at the caller's address itself."""
        return self._lanes.get(port)

    def quick_for(self, port: str, address: str) -> Callable[[bytes], tuple[int, bytes, bool] | None] | None:
        """Who gives quick answers on this port, to a caller that may have them."""
        found = self._answers.get(port)
        if found is None or (found[1] is not None and not self._may_call(address, port, found[1])):
            return None
        return getattr(found[0], "quick", None)

    def _may_call(self, address: str, port: str, networks: Networks) -> bool:
        known = self._allowed.get((address, port))
        if known is None:
            if len(self._allowed) > 10_000:
                self._allowed.clear()
            known = self._allowed[address, port] = not address or is_inside(address, networks)
        return known


def _is_below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + "/")


def _refuse(_: Environ, start_response: StartResponse, status: str, text: str) -> Iterable[bytes]:
    return _plain(start_response, status, text)


def _plain(start_response: StartResponse, status: str, text: str) -> Iterable[bytes]:
    body = text.encode()
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
