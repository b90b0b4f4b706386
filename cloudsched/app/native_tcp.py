"""How is a one-request-one-reply TCP protocol served? One thread watches all connections, a few answer (contract 12.1).

Nothing a peer does can hold up another: bytes are collected without waiting, a connection has a time limit and a size
limit, there is a limit of connections, and an answer that cannot be made becomes a closed connection and a line in the
log. The listening socket is opened before the web workers fork; each of them takes connections from it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cloudsched.dialects.retire_cluster.frames import Frame, FrameError
from cloudsched.dialects.retire_cluster.native import Reply, answer, configure
from cloudsched.errors import CloudschedError
from cloudsched.settings import Settings

log = logging.getLogger(__name__)

BACKLOG = 1024
BIND_LIMIT_S = 10.0
CHUNK = 64 * 1024
REQUEST_LIMIT_S = 10.0
REPLY_LIMIT_S = 10.0
LINGER_LIMIT_S = 2.0
THREADS = 4
_TICK_S = 0.25

# (one request as bytes or what is wrong with it, the peer's address) -> the reply
Answer = Callable[[bytes | FrameError, str], Reply]

_bound: socket.socket | None = None
_running: NativeServer | None = None


def bind(settings: Settings) -> bool:
    """Open the port before the web workers fork; False, with a line in the log, when that is not possible."""
    global _bound
    listener = settings.listener("retire_cluster_tcp")
    if listener is None:
        return True
    try:
        _context(settings)
        _bound = _listen_patiently(listener.host, listener.port)
    except OSError as error:
        log.error("native protocol: cannot listen on %s:%s: %s", listener.host, listener.port, error.strerror or error)
        return False
    return True


def _listen_patiently(host: str, port: int) -> socket.socket:
    """Workers of a server that was killed hold its ports for a moment more (serve.Worker.is_parent_alive)."""
    until = time.monotonic() + BIND_LIMIT_S
    while True:
        try:
            return listen(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                raise
        time.sleep(0.1)


def start(settings: Settings) -> None:
    """Serve the port in this worker, which shares the connections that may be open with the others."""
    global _running
    if _bound is None:
        return
    from cloudsched.services import fleet_config

    configure(settings)

    def most() -> int:
        try:
            allowed = fleet_config.recent().max_connections
        except CloudschedError:  # the database is away; peers are told so one by one
            allowed = settings.retire_cluster.max_connections
        return -(-allowed // settings.web.workers)

    _running = NativeServer(_bound, answer, most=most, tls=_context(settings))
    _running.start()


def stop() -> None:
    """Take no more connections here; may be called twice, and by a signal handler."""
    if _running is not None:
        _running.stop_soon()


def _context(settings: Settings) -> ssl.SSLContext | None:
    section = settings.retire_cluster
    if not section.tls_certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(section.tls_certificate, section.tls_key or None)
    return context


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that the children of this process may share."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host.strip("[]"), port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


class NativeServer:
    """Serves `sock` until `stop()`. `most()` is the limit of connections, asked anew for each."""

    def __init__(self, sock: socket.socket, answer: Answer, *, most: Callable[[], int],
                 tls: ssl.SSLContext | None = None, request_limit_s: float = REQUEST_LIMIT_S) -> None:
        self._listener = sock
        self._answer = answer
        self._most = most
        self._tls = tls
        self._limit_s = request_limit_s
        self._selector = selectors.DefaultSelector()
        self._open: set[_Peer] = set()
        self._done: list[tuple[_Peer, Reply | None]] = []
        self._lock = threading.Lock()
        self._wake_r, self._wake_w = socket.socketpair()
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="native-tcp")
        self._thread = threading.Thread(target=self._run, name="native-tcp", daemon=True)

    def start(self) -> None:
        """Begin to take connections."""
        for sock in (self._wake_r, self._wake_w):
            sock.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_r, selectors.EVENT_READ)
        self._thread.start()

    def stop_soon(self) -> None:
        """Take no more connections; replies under way may leave. Does not wait."""
        self._stopping.set()
        self._wake()

    def stop(self, grace_s: float = 2.0) -> None:
        """The same, and returns when all is closed."""
        self.stop_soon()
        self._thread.join(grace_s + 1.0)
        self._pool.shutdown(wait=True)
        self._selector.close()
        self._wake_r.close()
        self._wake_w.close()

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._open)

    # -- the watching thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._turn(_TICK_S)
            self._selector.unregister(self._listener)
            self._listener.close()  # ours of the shared ones: who comes now must not wait in our queue
            until = time.monotonic() + 2.0
            while any(peer.busy for peer in self._open) and time.monotonic() < until:
                self._turn(0.05)
        finally:
            for peer in list(self._open):
                self._close(peer)

    def _turn(self, wait_s: float) -> None:
        for key, _ in self._selector.select(wait_s):
            try:
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._wake_r:
                    with contextlib.suppress(BlockingIOError):
                        self._wake_r.recv(4096)
                else:
                    self._serve(key.data)
            except Exception:
                log.exception("native protocol: a connection failed")
                if isinstance(key.data, _Peer):
                    self._close(key.data)
        self._send_answers()
        self._close_late()

    def _accept(self) -> None:
        for _ in range(64):
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return  # another worker took it, or it has gone
            except OSError as error:
                log.warning("native protocol: cannot accept: %s", error.strerror)
                self._stopping.wait(0.1)
                return
            if len(self._open) >= max(1, self._most()):
                sock.close()
                continue
            sock.setblocking(False)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            peer = _Peer(sock, str(address[0]), time.monotonic() + self._limit_s)
            self._open.add(peer)
            self._selector.register(sock, selectors.EVENT_READ, peer)

    def _serve(self, peer: _Peer) -> None:
        if peer.reply is not None:
            self._write(peer)
        elif peer.lingering:
            self._drain(peer)
        elif not peer.busy:
            self._read(peer)

    def _read(self, peer: _Peer) -> None:
        while True:
            try:
                data = peer.sock.recv(CHUNK)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLWantWriteError:
                self._selector.modify(peer.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, peer)
                return
            except BlockingIOError:
                return
            except OSError:  # reset, or no TLS
                self._close(peer)
                return
            if not data:
                self._ended(peer)
                return
            if self._complete(peer, data):
                return

    def _complete(self, peer: _Peer, data: bytes) -> bool:
        try:
            request: bytes | FrameError | None = peer.frame.feed(data)
        except FrameError as error:
            request = error
        if request is None:
            return False
        self._hand_over(peer, request)
        return True

    def _ended(self, peer: _Peer) -> None:
        """The peer has closed its side: silently when it said nothing, else what it said is not complete."""
        if peer.frame.empty:
            self._close(peer)
        else:
            self._hand_over(peer, FrameError("the request ends before its JSON object does"))

    def _hand_over(self, peer: _Peer, request: bytes | FrameError) -> None:
        peer.busy = True
        peer.until = time.monotonic() + REQUEST_LIMIT_S
        self._selector.unregister(peer.sock)
        self._pool.submit(self._work, peer, request)

    def _work(self, peer: _Peer, request: bytes | FrameError) -> None:
        try:
            reply: Reply | None = self._answer(request, peer.address)
        except Exception:
            log.exception("native protocol: a request could not be answered")
            reply = None
        with self._lock:
            self._done.append((peer, reply))
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_w.send(b"x")

    def _send_answers(self) -> None:
        with self._lock:
            done, self._done = self._done, []
        for peer, reply in done:
            if reply is None:
                self._close(peer)
                continue
            peer.settle = reply.settle
            if peer not in self._open:
                self._settle(peer, sent=False)
                continue
            peer.reply, peer.until = memoryview(reply.data), time.monotonic() + REPLY_LIMIT_S
            self._selector.register(peer.sock, selectors.EVENT_WRITE, peer)
            self._write(peer)

    def _write(self, peer: _Peer) -> None:
        assert peer.reply is not None
        try:
            while peer.reply:
                sent = peer.sock.send(peer.reply)
                peer.reply = peer.reply[sent:]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return
        except OSError:
            self._close(peer)
            return
        self._settle(peer, sent=True)
        self._linger(peer)

    def _settle(self, peer: _Peer, *, sent: bool) -> None:
        """Tell the one who made the reply whether it has left, once."""
        settle, peer.settle = peer.settle, None
        if settle is not None:
            self._pool.submit(_told, settle, sent)

    def _linger(self, peer: _Peer) -> None:
        """Close our side, then read what still comes: closing with unread bytes would tear the reply away."""
        peer.reply, peer.busy, peer.lingering = None, False, True
        peer.until = time.monotonic() + LINGER_LIMIT_S
        try:
            peer.sock.shutdown(socket.SHUT_WR)
            self._selector.modify(peer.sock, selectors.EVENT_READ, peer)
        except OSError:
            self._close(peer)

    def _drain(self, peer: _Peer) -> None:
        try:
            for _ in range(16):
                if not peer.sock.recv(CHUNK):
                    break
            else:
                return
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            pass
        self._close(peer)

    def _close_late(self) -> None:
        now = time.monotonic()
        for peer in [one for one in self._open if now > one.until]:
            self._close(peer)

    def _close(self, peer: _Peer) -> None:
        self._open.discard(peer)
        self._settle(peer, sent=False)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(peer.sock)
        with contextlib.suppress(OSError):
            peer.sock.close()


class _Peer:
    """One connection. `busy`: its request is complete and its reply not yet gone."""

    __slots__ = ("address", "busy", "frame", "lingering", "reply", "settle", "sock", "until")

    def __init__(self, sock: socket.socket, address: str, until: float) -> None:
        self.sock = sock
        self.address = address
        self.until = until
        self.frame = Frame()
        self.busy = False
        self.lingering = False
        self.reply: memoryview | None = None
        self.settle: Callable[[bool], None] | None = None


def _told(settle: Callable[[bool], None], sent: bool) -> None:
    try:
        settle(sent)
    except Exception:
        log.exception("native protocol: the fate of a reply could not be recorded")
