"""How does the agent speak HTTP? Raw paths, body limits, both answer styles in one place (contract 4.1, 4.2)."""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from urllib.parse import unquote_to_bytes, urlsplit

from cloudsched.logagent import VERSION, log
from cloudsched.logagent.config import ANY_PORT, FIRST_PORT, PORTS, STYLES
from cloudsched.logagent.errors import Refused
from cloudsched.logagent.routes import NOTHING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cloudsched.logagent.config import Settings
    from cloudsched.logagent.routes import Api

MOST_CONNECTIONS, IDLE_S = 128, 75.0


class AgentServer(ThreadingMixIn, HTTPServer):
    """A thread per connection, at most MOST_CONNECTIONS of them."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, settings: Settings, address: tuple[str, int]) -> None:
        if ":" in settings.host:
            self.address_family = socket.AF_INET6
        self.settings = settings
        self.api: Api
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Without the reverse look-up of the name that http.server makes. An agent that was killed leaves connections behind,
        # which must not keep the next one from its port.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        socket.socket.bind(self.socket, self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def verify_request(self, request: Any, client_address: Any) -> bool:
        networks = self.settings.allow_networks
        address = ipaddress.ip_address(str(client_address[0]).partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        return mapped.is_loopback or any(mapped in network for network in networks)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        import sys

        log.say("debug", "a connection ended early", error=repr(sys.exc_info()[1]))


def listen(settings: Settings) -> AgentServer:
    """Bound and listening; OSError when the port is taken, or none of the default range is free."""
    if settings.port != ANY_PORT:
        return AgentServer(settings, (settings.host, settings.port))
    for port in range(FIRST_PORT, FIRST_PORT + PORTS):
        try:
            return AgentServer(settings, (settings.host, port))
        except OSError:
            continue
    raise OSError(f"no free port between {FIRST_PORT} and {FIRST_PORT + PORTS}")


def render(style: str, outcome: Any) -> tuple[int, bytes]:
    """Status and body of a payload, of NOTHING, or of a Refused."""
    if isinstance(outcome, Refused):
        value: Any = {"error": outcome.text}
        if style == "envelope":
            value = {"code": outcome.code, "message": outcome.text} if outcome.code else {"message": outcome.text}
        return outcome.status, _dump(value)
    if style == "envelope":
        value = {"code": "L200"} if outcome is NOTHING else {"code": "L200", "data": outcome}
        return 200, _dump(value)
    return 200, _dump(None if outcome is NOTHING else outcome)


def split_path(target: str) -> tuple[str, list[str]]:
    """(style prefix or "", decoded segments behind /logkit) of a raw request target; Refused when it is none of ours.

    The path is cut at its slashes before it is decoded, so an encoded slash stays inside its segment.
    """
    parts = urlsplit(target) if "://" in target else None
    raw = parts.path if parts else target.partition("?")[0]
    segments = raw.split("/")[1:]
    style = segments.pop(0) if segments and segments[0] in STYLES else ""
    if not segments or segments[0] != "logkit":
        raise Refused("Not Found", status=404)
    try:
        return style, [unquote_to_bytes(segment).decode("utf-8") for segment in segments[1:]]
    except UnicodeDecodeError:
        raise Refused("the path is not UTF-8") from None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = f"cloudsched-logagent/{VERSION}", ""
    timeout = IDLE_S
    disable_nagle_algorithm = True
    server: AgentServer

    def answer(self) -> None:
        style = self.server.settings.response_style
        try:
            body = self._body()
            prefix, segments = split_path(self.path)
            style = self._style(prefix) or style
            self._check_origin()
            outcome = self.server.api.call(self.command, segments, body)
        except Refused as refused:
            outcome = refused
        except Exception as error:  # an answer is owed whatever happened
            log.say("error", "request failed", path=self.path, error=repr(error))
            outcome = Refused(f"internal error: {type(error).__name__}: {error}", status=500)
        self._send(*render(style, outcome))

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_OPTIONS = answer

    def _body(self) -> bytes:
        # Whatever is refused before the body was read must close the connection: the rest is not a request.
        was, self.close_connection = self.close_connection, True
        if self.headers.get("Transfer-Encoding"):
            raise Refused("send a Content-Length; chunked bodies are not taken", status=411)
        text = self.headers.get("Content-Length") or "0"
        if not text.isdecimal() or not text.isascii():
            raise Refused("Content-Length must be a whole number")
        limit = self.server.settings.max_body_bytes
        if int(text) > limit:
            raise Refused(f"the body has more than {limit} bytes", status=413)
        body = self.rfile.read(int(text))
        if len(body) < int(text):
            raise Refused("the body ended early")
        self.close_connection = was
        return body

    def _style(self, prefix: str) -> str:
        style = prefix or str(self.headers.get("X-Logkit-Style") or "")
        if style and style not in STYLES:
            raise Refused(f"X-Logkit-Style is {style!r}; allowed: {', '.join(STYLES)}")
        return style

    def _check_origin(self) -> None:
        """A page of another site, in a browser on this machine, must not drive the agent."""
        origin = self.headers.get("Origin")
        if origin and urlsplit(origin).netloc != self.headers.get("Host"):
            raise Refused("requests of other origins are refused", status=403)

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self._headers_buffer.append(b"\r\n")  # type: ignore[attr-defined]
        if self.command != "HEAD":
            self._headers_buffer.append(body)  # type: ignore[attr-defined]
        self.flush_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server refuses by itself (a request line that is none), as JSON."""
        self.close_connection = True
        self.command = getattr(self, "command", None) or "GET"
        self.request_version = self.request_version if hasattr(self, "request_version") else "HTTP/1.1"
        self._send(*render(self.server.settings.response_style, Refused(message or "bad request", status=code)))

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged one by one."""


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


