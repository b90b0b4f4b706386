"""How does one HTTP/1.1 request travel, on a connection that stays open?

A client of its own instead of `http.client`, which loads OpenSSL for plain http too and parses headers with the
e-mail package: this one costs a tenth of the memory and time, and can be aborted from another thread.
"""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_HEAD_BYTES = 65_536
MAX_BODY_BYTES = 64 * 1024 * 1024
CONNECT_TIMEOUT_S = 10.0


class Unreachable(Exception):
    """The server could not be reached, or what answered is not it."""


class Answer:
    """One HTTP answer; header names are lower case."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def retry_after_s(self, default: float) -> float:
        """Seconds of `Retry-After` (the date form is not used by our server), within 0 and 300."""
        try:
            return min(300.0, max(0.0, float(self.headers.get("retry-after", ""))))
        except ValueError:
            return default


class Address:
    """A parsed server URL."""

    __slots__ = ("host", "port", "prefix", "secure")

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("server: %r is not a URL (allowed: http://host:port or https://host:port)" % url)
        self.secure = parts.scheme == "https"
        self.host = parts.hostname
        self.port = parts.port or (443 if self.secure else 80)
        self.prefix = parts.path.rstrip("/")


class Connection:
    """One keep-alive connection; used by one thread at a time, except `abort`."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._sock: socket.socket | None = None
        self._buffer = b""
        self._aborted = False
        self.resent = 0  # how often a request had to be sent again

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
        sink: Callable[[bytes], object] | None = None,
    ) -> Answer:
        """Send and wait for the answer; raises Unreachable. A 200 body goes to `sink` piecewise when given.

        A kept connection that the server has closed meanwhile is replaced once, silently: every call of the
        protocol may be repeated.
        """
        payload = self._payload(method, path, body, headers or {})
        fresh = self._sock is None
        try:
            return self._exchange(payload, timeout_s, sink)
        except _Stale:
            if fresh or self._aborted:
                raise Unreachable("the server closed the connection without an answer") from None
        self.resent += 1
        try:
            return self._exchange(payload, timeout_s, sink)
        except _Stale:
            raise Unreachable("the server closed the connection without an answer") from None

    def abort(self) -> None:
        """From another thread: end what is being waited for; the waiting call raises Unreachable."""
        self._aborted = True
        sock = self._sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        sock, self._sock, self._buffer = self._sock, None, b""
        if sock is not None:
            sock.close()

    def _payload(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        where = self._address
        host = "[%s]" % where.host if ":" in where.host else where.host
        lines = ["%s %s%s HTTP/1.1" % (method, where.prefix, path), "Host: %s:%d" % (host, where.port)]
        lines += ["%s: %s" % item for item in headers.items()]
        if body or method != "GET":
            lines.append("Content-Length: %d" % len(body))
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body

    def _exchange(self, payload: bytes, timeout_s: float, sink: Callable[[bytes], object] | None) -> Answer:
        try:
            sock = self._sock or self._connect()
            sock.settimeout(timeout_s)
            try:
                sock.sendall(payload)
            except (BrokenPipeError, ConnectionResetError):
                # The answer may be there already (a 413 sent before the body was read).
                if not self._buffer and not self._peek(sock):
                    raise _Stale() from None
            return self._answer(sock, sink)
        except (OSError, ValueError) as error:
            self.close()
            raise Unreachable(_reason(error)) from None
        except BaseException:
            self.close()
            raise

    def _connect(self) -> socket.socket:
        if self._aborted:
            raise Unreachable("aborted")
        where = self._address
        # As bytes: a host given as text loads the tables of international names first.
        host = where.host.encode("ascii") if where.host.isascii() else where.host.encode("idna")
        sock = socket.create_connection((host, where.port), timeout=CONNECT_TIMEOUT_S)  # type: ignore[arg-type]
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if where.secure:
            import ssl

            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=where.host)
        self._sock, self._buffer = sock, b""
        return sock

    def _peek(self, sock: socket.socket) -> bool:
        try:
            self._buffer += sock.recv(65_536)
        except OSError:
            return False
        return bool(self._buffer)

    def _answer(self, sock: socket.socket, sink: Callable[[bytes], object] | None) -> Answer:
        status, headers = self._head(sock)
        while status in (100, 102, 103):
            status, headers = self._head(sock)
        pieces: list[bytes] = []
        take = sink if sink is not None and status == 200 else _limited(pieces)
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self._read_chunked(sock, take)
            closing = False
        elif "content-length" in headers:
            self._read_exactly(sock, int(headers["content-length"]), take)
            closing = False
        else:
            closing = status not in (204, 304)
            if closing:
                self._read_to_end(sock, take)
        if closing or headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, headers, b"".join(pieces))

    def _head(self, sock: socket.socket) -> tuple[int, dict[str, str]]:
        while b"\r\n\r\n" not in self._buffer:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise Unreachable("the answer's header is too long")
            self._fill(sock, stale=not self._buffer)
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(None, 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
            raise Unreachable("what answers there does not speak HTTP/1.1")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return int(words[1]), headers

    def _fill(self, sock: socket.socket, *, stale: bool = False) -> None:
        try:
            piece = sock.recv(262_144)
        except ConnectionResetError:
            piece = b""
        if not piece:
            if stale:
                raise _Stale()
            raise Unreachable("the server closed the connection in the middle of an answer")
        self._buffer += piece

    def _read_exactly(self, sock: socket.socket, size: int, take: Callable[[bytes], object]) -> None:
        if size < 0:
            raise Unreachable("the answer has a negative length")
        while size:
            if not self._buffer:
                self._fill(sock)
            piece, self._buffer = self._buffer[:size], self._buffer[size:]
            take(piece)
            size -= len(piece)

    def _read_chunked(self, sock: socket.socket, take: Callable[[bytes], object]) -> None:
        while True:
            size = int(self._line(sock).split(b";", 1)[0], 16)
            if size == 0:
                while self._line(sock):
                    pass
                return
            self._read_exactly(sock, size, take)
            self._line(sock)

    def _line(self, sock: socket.socket) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise Unreachable("the answer is not chunked as it says")
            self._fill(sock)
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        return line

    def _read_to_end(self, sock: socket.socket, take: Callable[[bytes], object]) -> None:
        while True:
            if self._buffer:
                take(self._buffer)
                self._buffer = b""
            self._buffer = sock.recv(262_144)
            if not self._buffer:
                return


class _Stale(Exception):
    """A kept connection was closed before one byte of the answer came."""


def _limited(pieces: list[bytes]) -> Callable[[bytes], object]:
    size = 0

    def take(piece: bytes) -> None:
        nonlocal size
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise Unreachable("the answer is longer than %d bytes" % MAX_BODY_BYTES)
        pieces.append(piece)

    return take


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number).lower()
    return str(error) or type(error).__name__
