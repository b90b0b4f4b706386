"""How is an app put behind a real socket? In a thread, on a free port of 127.0.0.1."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from cloudsched.store.db import current


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def serve(app: Flask) -> Iterator[int]:
    """The port; every request has a thread and a database connection of its own, both ended with it."""
    app.teardown_request(lambda error: current().close_thread() if threading.current_thread() is not main else None)
    main = threading.main_thread()
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
