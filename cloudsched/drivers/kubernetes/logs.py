"""What did a container write? Its log by lines, also while it goes on, without a line lost or told twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from cloudsched.drivers.base import DriverError
from cloudsched.drivers.kubernetes import kinds
from cloudsched.drivers.kubernetes.client import CONNECT_S, Api, ApiRefused
from cloudsched.drivers.kubernetes.watch import _closed_by, lines_of

_QUIET_S = 300.0
_ENDED = ("Succeeded", "Failed")


def logs(api: Api, pod: str, *, namespace: str, container: str = "", follow: bool = False, tail: int | None = None,
         since_s: float | None = None, previous: bool = False, timestamps: bool = False,
         stop: threading.Event | None = None) -> Iterator[str]:
    """Lines without their ends. `follow`: until the container has ended or `stop` is set; a connection that breaks is
    opened again after the last line. DriverError: REQUEST when the pod is not there or has not started, ENDPOINT when its
    node does not answer."""
    stop = stop or threading.Event()
    path = kinds.POD.path(namespace, pod, "log")
    query = {"container": container, "timestamps": "true", "previous": "true" if previous else "",
             "follow": "true" if follow else ""}
    start = {"tailLines": tail, "sinceSeconds": None if since_s is None else max(1, int(since_s))}
    last = ""
    failures = 0
    while not stop.is_set():
        try:
            response = api.stream(path, read_timeout_s=_QUIET_S if follow else api.timeout_s, **query,
                                  **({"sinceTime": last} if last else start))
            with _closed_by(stop, response):
                for raw in lines_of(response):
                    stamp, _, text = raw.decode("utf-8", "replace").partition(" ")
                    if stamp > last:
                        last, failures = stamp, 0
                        yield f"{stamp} {text}" if timestamps else text
        except DriverError as error:
            failures += 1
            if not follow or not error.transient or not last or failures > 5:
                raise
        if not follow or _has_ended(api, namespace, pod):
            return
        stop.wait(min(CONNECT_S, 0.1 * 2**failures))


def _has_ended(api: Api, namespace: str, pod: str) -> bool:
    """Nothing more will be written: the pod has ended or is gone."""
    try:
        found = api.find(kinds.POD.path(namespace, pod))
    except ApiRefused:
        return True
    except DriverError:
        return False
    return found is None or (found.get("status") or {}).get("phase") in _ENDED
