"""How are requests answered that need neither a thread nor a parser? In the server's own loop, from what is in memory.

An application may have a `quick`: bytes of a request in, its answer out, or None, and then nothing has been read yet and the
request takes the usual way. It must not wait for anything. Connections to such a listener wait in the loop from the start,
so that thousands of short ones do not pass through threads either.

Or there is a `later` for it: that takes a request, or None, and calls back with the answer from a thread of its own; meanwhile
the connection rests. It may ask for more bytes first: clients send head and body apart.
"""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

log = logging.getLogger(__name__)

PEEK = 16 * 1024
SEND_BUFFER = 512 * 1024
SEND_LIMIT_S = 30.0
ACCEPTED_AT_ONCE = 64
_AGAIN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR)
Quick = Callable[[bytes], "tuple[int, bytes, bool] | None"]
Later = Callable[[bytes, str, Callable[[bytes, bool], None]], "int | None"]


class QuickWorker(ThreadWorker):  # type: ignore[misc]
    """A thread worker that answers what it can in its loop. `wsgi.quick_for(port, address)` tells who answers."""

    def init_process(self) -> None:
        self._awaited: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # of a connection: bytes, head and body
        super().init_process()

    def accept(self, listener: Any) -> None:
        """Connections to a listener with quick answers wait in the loop, those to others in a thread as usual."""
        if not self.wsgi.has_quick(str(listener.getsockname()[1])):
            super().accept(listener)
            return
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                client, address = listener.accept()
            except OSError as error:
                if error.errno not in (*_AGAIN, errno.ECONNABORTED):
                    raise
                return
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            self.nr_conns += 1
            conn = TConn(self.cfg, client, address, listener.getsockname())
            conn.set_timeout()
            self.pending_conns.append(conn)
            self.poller.register(client, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def on_pending_socket_readable(self, conn: Any, client: Any) -> None:
        if not self._answered(conn, client, self.pending_conns):
            super().on_pending_socket_readable(conn, client)

    def on_client_socket_readable(self, conn: Any, client: Any) -> None:
        if not self._answered(conn, client, self.keepalived_conns):
            super().on_client_socket_readable(conn, client)

    def _answered(self, conn: Any, client: Any, waiting: Any) -> bool:
        """Was the request on this connection answered (or the connection closed by its other side)?"""
        awaited = self._awaited.pop(conn, 0)
        if awaited:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        if not self.alive or (conn.parser is not None and conn.parser.unreader.buf.getbuffer().nbytes):
            return False
        port = str(conn.server[1])
        later = self.wsgi.later_for(port)
        quick: Quick | None = None if later else self.wsgi.quick_for(port, conn.client[0])
        if quick is None and later is None:
            return False
        try:
            raw = client.recv(PEEK, socket.MSG_PEEK)
            if later is not None:
                return bool(raw) and self._taken(later, raw, conn, client, waiting, awaited=awaited)
            found = quick(raw) if raw and quick else None
            if found is None:
                return False
            taken, answer, keep = found
            client.recv(taken)
            sent = client.send(answer)
        except OSError as error:
            if error.errno in _AGAIN:
                return True
            self._drop(conn, client, waiting)
            return True
        except Exception:  # nothing that one request brings may end the loop of all: the usual way answers it
            log.exception("a request was left to the usual way")
            return False
        if sent < len(answer):
            self._leave(conn, client, waiting)
            self._send_rest(conn, answer[sent:], keep)
        elif keep:
            self._stay(conn, client, waiting)
        else:
            self._drop(conn, client, waiting)
        return True

    def _taken(self, later: Later, raw: bytes, conn: Any, client: Any, waiting: Any, *, awaited: int) -> bool:
        """Is the request answered later? Then its connection is not looked at until it is. `awaited`: the bytes that were
        waited for already."""
        taken = later(raw, conn.client[0], partial(self._answer_later, conn))
        if taken is None or (taken < 0 and (awaited == -taken or len(raw) >= PEEK)):
            return False  # not one of these; or no more has come; or it is more than is ever looked at
        if taken < 0:  # nothing is told of the connection until so many bytes are there, or none will be
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, -taken)
            self._awaited[conn] = -taken
            self._stay(conn, client, waiting)
            return True
        client.recv(taken)
        self._leave(conn, client, waiting)
        return True

    def _answer_later(self, conn: Any, answer: bytes, keep: bool) -> None:
        """From another thread: send, and let the loop have the connection again."""
        try:
            sent = conn.sock.send(answer)
        except OSError as error:
            sent = 0 if error.errno in _AGAIN else -1
        self.method_queue.defer(self._after, conn, answer[sent:] if sent >= 0 else None, keep)

    def _after(self, conn: Any, rest: bytes | None, keep: bool) -> None:
        if rest:
            self._send_rest(conn, rest, keep)
        else:
            self._back(conn, rest is not None and keep)

    def _send_rest(self, conn: Any, rest: bytes, keep: bool) -> None:
        future = self.tpool.submit(_send_rest, conn.sock, rest)
        future.add_done_callback(lambda done: self.method_queue.defer(self._sent, conn, keep, done))

    def _stay(self, conn: Any, client: Any, waiting: Any) -> None:
        """The connection waits for its next request. The list is in the order of time limits: it is put behind others only
        when half of its time is over, because taking it out of its place costs a walk."""
        if waiting is self.pending_conns:
            waiting.remove(conn)
            self._keep(conn)
            self.poller.modify(client, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))
        elif conn.timeout - time.monotonic() < self.cfg.keepalive / 2:
            waiting.remove(conn)
            self._keep(conn)

    def _keep(self, conn: Any) -> None:
        conn.set_timeout()
        self.keepalived_conns.append(conn)

    def _leave(self, conn: Any, client: Any, waiting: Any) -> None:
        self.poller.unregister(client)
        waiting.remove(conn)

    def _drop(self, conn: Any, client: Any, waiting: Any) -> None:
        self._leave(conn, client, waiting)
        self.nr_conns -= 1
        conn.close()

    def _sent(self, conn: Any, keep: bool, done: Any) -> None:
        """A long answer has gone out on a thread: back into the loop."""
        conn.sock.setblocking(False)
        self._back(conn, keep and done.exception() is None)

    def _back(self, conn: Any, keep: bool) -> None:
        """The connection waits for its next request, or is closed. While the worker stops it waits a moment only: what comes is
        answered with "Connection: close"."""
        if not keep:
            self.nr_conns -= 1
            conn.close(graceful=True)
            return
        self._keep(conn)
        if not self.alive:
            conn.timeout = min(conn.timeout, time.monotonic() + STOP_KEEPALIVE_LINGER)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))


def _send_rest(client: Any, rest: bytes) -> None:
    client.settimeout(SEND_LIMIT_S)
    client.sendall(rest)
