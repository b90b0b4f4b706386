"""Who takes nodes away when no engine runs? A thread that destroys what shall be gone, or fails at it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cloudsched.store import nodes
from cloudsched.store.db import current, write
from cloudsched.store.moves import move
from cloudsched.testing.factories import AT


@contextmanager
def stand_in(*, refuse: tuple[str, ...] = ()) -> Iterator[None]:
    """Every `stopping` node becomes `gone`; those whose external id is in `refuse` fail once each round."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.01):
            for node in nodes.live():
                if node.state == "stopping":
                    event = "destroy_fail" if node.external_id in refuse else "destroy"
                    write(lambda tx, number=node.id, event=event: move(tx, "node", number, event, at=AT))
        current().close_thread()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
