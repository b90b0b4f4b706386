"""How does a long stream leave the server's threads? Its socket goes to the shared thread of services/streams.py."""

from __future__ import annotations

from types import FrameType
from typing import Any

from cloudsched.app.quick import QuickWorker
from cloudsched.services import streams


class StreamWorker(QuickWorker):
    """A thread worker whose streams keep no thread."""

    def init_process(self) -> None:
        self._take = streams.share()
        super().init_process()

    def handle_request(self, req: Any, conn: Any) -> Any:
        """As usual, unless the answer is a stream: then the connection is not this worker's any more."""
        try:
            return super().handle_request(req, conn)
        except streams.TakenOver as taken:
            conn.close = _nothing
            self._take(taken.stream, conn.sock)
            return False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        streams.stop()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        streams.stop()
        super().handle_quit(sig, frame)


def _nothing(graceful: bool = False) -> None:
    """The connection goes on elsewhere."""
