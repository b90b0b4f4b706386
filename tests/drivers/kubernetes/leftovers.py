"""What does a run on a real cluster leave behind, and who takes it away? Names tell the run, and our nodes tell whether it lives.

A run makes nodes `cs-SUFFIX-*`, namespaces `cs-SUFFIX-*` and `tSUFFIX-*`, and definitions of `test-SUFFIX.cloudsched.io`. Its
nodes say which process made them, and go last: whoever finds nodes of a process that has ended takes the rest along.
"""

from __future__ import annotations

import os
import socket
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from cloudsched.drivers.base import DriverError
from cloudsched.drivers.kubernetes import KubernetesDriver

RUN = "cloudsched-test/run"
HELD = "example.com/wait"  # the finalizer that tests use
NODES = "cs-"
_OLD_S = 6 * 3600.0  # of a run on another machine, of which we cannot see whether it lives
_WAIT_S = 300.0


def this_run() -> str:
    """Machine, process and its start: nobody else's."""
    return f"{_machine()}/{os.getpid()}/{_started(os.getpid())}"


def sweep(driver: KubernetesDriver) -> None:
    """Take away what runs have left that are over."""
    for suffix in sorted({_suffix(node) for node in _nodes(driver) if _is_over(node)}):
        take_away(driver, suffix)


def take_away(driver: KubernetesDriver, suffix: str) -> None:
    """Everything of one run. Nodes last, as they end the pods in the namespaces."""
    names = [one["metadata"]["name"] for one in driver.objects("Namespace")
             if one["metadata"]["name"].startswith((f"cs-{suffix}-", f"t{suffix}-"))]
    for name in names:
        end_namespace(driver, name)
    for one in driver.objects("CustomResourceDefinition"):
        if one["spec"]["group"] == f"test-{suffix}.cloudsched.io":
            driver.delete([_bare("apiextensions.k8s.io/v1", one)], wait=False)
    deadline = time.monotonic() + _WAIT_S
    while any(driver.get("Namespace", name) for name in names) and time.monotonic() < deadline:
        time.sleep(0.25)
    for one in _nodes(driver):
        if _suffix(one) == suffix:
            name = one["metadata"]["name"]
            driver.delete_node(name)
            try:
                driver._api.send("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}")
            except DriverError as error:
                if getattr(error, "status", 0) != 404:
                    raise


def end_namespace(driver: KubernetesDriver, name: str) -> None:
    """Ask it to go, and let go what a test holds in it; not waited for."""
    for one in driver.objects("ConfigMap", namespace=name):
        if HELD in (one["metadata"].get("finalizers") or ()):
            path = f"/api/v1/namespaces/{name}/configmaps/{one['metadata']['name']}"
            try:
                driver._api.send("PATCH", path, {"metadata": {"finalizers": None}}, content_type="application/merge-patch+json")
            except DriverError as error:
                if getattr(error, "status", 0) != 404:
                    raise
    driver.delete([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}], wait=False)


def _nodes(driver: KubernetesDriver) -> list[dict[str, Any]]:
    return [one for one in driver.objects("Node") if RUN in (one["metadata"].get("annotations") or {})
            and one["metadata"]["name"].startswith(NODES)]


def _suffix(node: dict[str, Any]) -> str:
    return str(node["metadata"]["name"]).split("-")[1]


def _is_over(node: dict[str, Any]) -> bool:
    machine, pid, started = node["metadata"]["annotations"][RUN].rsplit("/", 2)
    if machine == _machine():
        return _started(int(pid)) != started
    made = datetime.fromisoformat(node["metadata"]["creationTimestamp"].replace("Z", "+00:00")).timestamp()
    return time.time() - made > _OLD_S


def _machine() -> str:
    """The host, and the processes that can be seen from here."""
    space = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}/{space.stat().st_ino if space.exists() else 0}"


def _started(pid: int) -> str:
    """When a process was started, in the system's own count; empty when there is none of that number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _bare(version: str, thing: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": thing["kind"], "metadata": {"name": thing["metadata"]["name"]}}
