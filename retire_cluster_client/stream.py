"""How are live events read? Unnamed server-sent events, resumed where the connection broke."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import requests

from retire_cluster_client.errors import ClusterError, ConnectionFailedError, RequestTimeoutError
from retire_cluster_client.transport import Transport

# The server says something every 15 s: silence for longer means that the connection is gone.
IDLE_S = 40.0
LONGEST_PAUSE_S = 15.0


def events(transport: Transport, params: Mapping[str, Any], *, last_id: str | None = None,
           reconnect: bool = True) -> Iterator[dict[str, Any]]:
    """Events as they come, each with its `id` where the server gives one. Ends never by itself; raises ClusterError when the
    server refuses (bad type, unknown device, no key), or at the first loss when `reconnect` is False."""
    pause_s = 0.5
    while True:
        try:
            answer = transport.open_stream("/monitor/stream", params=params, last_id=last_id, idle_s=IDLE_S)
        except ClusterError as error:
            busy = error.http_status in (429, 502, 503, 504) or isinstance(error, (ConnectionFailedError, RequestTimeoutError))
            if not (reconnect and busy):
                raise
            time.sleep(error.retry_after_s if error.retry_after_s is not None else pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
            continue
        with answer:
            try:
                for number, event in _read(answer):
                    last_id, pause_s = number or last_id, 0.5
                    yield event
            except requests.exceptions.RequestException:
                pass  # lost on the way: go on below
        if not reconnect:
            raise ConnectionFailedError(f"{transport.root}: the stream has ended")
        time.sleep(pause_s)


def _read(answer: requests.Response) -> Iterator[tuple[str | None, dict[str, Any]]]:
    number: str | None = None
    lines: list[str] = []
    for line in _lines(answer):
        if not line:
            found = _event(lines)
            if found is not None:
                if number is not None:
                    found.setdefault("id", number)
                yield number, found
            number, lines = None, []
        elif line.startswith("data:"):
            lines.append(line[5:].removeprefix(" "))
        elif line.startswith("id:"):
            number = line[3:].strip()


def _lines(answer: requests.Response) -> Iterator[str]:
    """Whole lines, as soon as they are there. (`iter_lines` takes CR LF for two ends when it reads small pieces.)"""
    rest = b""
    for piece in answer.iter_content(chunk_size=1):
        rest += piece
        while b"\n" in rest:
            line, _, rest = rest.partition(b"\n")
            yield line.removesuffix(b"\r").decode("utf-8", "replace")


def _event(lines: list[str]) -> dict[str, Any] | None:
    if not lines:
        return None
    try:
        found = json.loads("\n".join(lines))
    except ValueError:
        return None
    return found if isinstance(found, dict) else {"data": found}
