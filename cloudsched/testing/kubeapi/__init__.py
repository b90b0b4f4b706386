"""What would a Kubernetes API server say? A stand-in over HTTP, in memory, for tests without a cluster.

It keeps to what clients rely on: a resource version on every object and list, 404, 409 and 410 where the real one says
them, watches with bookmarks and time limits, server-side apply with field managers, dry runs, pages, selectors, owners
and finalizers with garbage collection, namespaces that take their contents along, evictions against disruption budgets,
quotas, users, and nodes that bring pods to Running. It listens on a free loopback port.

    with KubeApi() as kube:
        kube.add_node("node-1")
        text = kube.kubeconfig()
"""

from __future__ import annotations

import copy
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from cloudsched.testing.kubeapi import answers, kinds
from cloudsched.testing.kubeapi.admission import Rule, User
from cloudsched.testing.kubeapi.answers import Refused
from cloudsched.testing.kubeapi.api import Api
from cloudsched.testing.kubeapi.controllers import Controllers
from cloudsched.testing.kubeapi.kinds import Kind, Object
from cloudsched.testing.kubeapi.kubelet import Habits, Kubelet
from cloudsched.testing.kubeapi.quantities import asked
from cloudsched.testing.kubeapi.server import Server
from cloudsched.testing.kubeapi.store import Store

__all__ = ["Habits", "KubeApi", "Refused", "Rule", "User"]

FAULTS = ("answer_lost", "unreachable", "hangs", "throttled", "expired", "server_error", "conflict")


@dataclass
class _Fault:
    name: str
    method: str
    path: str
    times: int


class KubeApi:
    """One cluster. `metrics`: metrics.k8s.io answers; `gone_as_status`: a watch that is too old gets HTTP 410 instead of an
    ERROR event; `bookmark_s`: how often a quiet watch hears where it is; `processes`: a directory, when pods shall run as
    processes of this machine; `habits`: those of nodes and controllers, from the first moment on."""

    def __init__(self, *, metrics: bool = False, gone_as_status: bool = False, bookmark_s: float = 60.0,
                 processes: Path | None = None, habits: Habits | None = None) -> None:
        self.store = Store()
        self.api = Api(self.store)
        self.habits = habits or Habits(processes=processes)
        self.store.late_accounts = self.habits.account_s > 0
        self.kubelet = Kubelet(self.api, self.habits, write_log=self.write_log)
        self.controllers = Controllers(self.api, self.kubelet)
        self.metrics_on, self.gone_as_status, self.bookmark_s = metrics, gone_as_status, bookmark_s
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.retry_after_s = 0
        self.bookmarked = 0  # the version of the latest bookmark that was given out
        self.released = threading.Event()
        self.token = "tok-" + secrets.token_hex(12)
        self.faults_as_answers: dict[str, Callable[[], Refused]] = {
            "throttled": lambda: answers.throttled(self.retry_after_s), "expired": answers.unauthorized,
            "server_error": lambda: Refused(500, "InternalError", "Internal error occurred: etcdserver: request timed out"),
            "conflict": lambda: answers.conflict(kinds.of("Pod"), "x")}
        self._users: dict[str, User] = {self.token: User("admin")}
        self._extra: list[Kind] = []
        self._faults: list[_Fault] = []
        self._logs: dict[tuple[str, str], list[tuple[float, str, str]]] = {}
        self._by_path: dict[tuple[str, str, str], Kind] = {}
        self._server: Server | None = None
        self._port = 0
        self.serve()
        for name in ("default", "kube-system"):
            self.api.create(kinds.of("Namespace"), "", {"metadata": {"name": name}})

    # -- life --------------------------------------------------------------------------------------------------

    def start(self) -> KubeApi:
        """Listen; the port stays the same over stops."""
        server = self._server = Server(self, self._port)
        self._port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.02,), name="kubeapi", daemon=True).start()
        if self.controllers._thread is None:
            self.controllers.start()
        return self

    def stop(self) -> None:
        """Close every connection and listen no more; what is kept stays, and the controllers go on."""
        if self._server is not None:
            self._server.shut()
            self._server = None

    def restart(self) -> None:
        """As an API server that is replaced: open watches break, the next request finds the new one."""
        self.stop()
        self.start()

    def close(self) -> None:
        """The end."""
        self.released.set()
        self.stop()
        self.controllers.stop()
        self.kubelet.stop()

    def __enter__(self) -> KubeApi:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def kubeconfig(self, *, token: str = "", namespace: str = "") -> str:
        """A kubeconfig with one context, `standin`."""
        context = {"cluster": "standin", "user": "admin"} | ({"namespace": namespace} if namespace else {})
        return json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "standin",
            "clusters": [{"name": "standin", "cluster": {"server": self.url}}],
            "users": [{"name": "admin", "user": {"token": token or self.token}}],
            "contexts": [{"name": "standin", "context": context}]})

    # -- what is there -----------------------------------------------------------------------------------------

    def add_node(self, name: str, *, cores: int = 16, memory_mb: int = 65_536, pods: int = 110, storage_gb: int = 200,
                 gpus: int = 0, labels: Mapping[str, str] | None = None, taints: Iterable[Mapping[str, str]] = ()) -> None:
        """A simulated node that is ready."""
        capacity = {"cpu": str(cores), "memory": f"{memory_mb}Mi", "pods": str(pods), "ephemeral-storage": f"{storage_gb}Gi"}
        capacity |= {"nvidia.com/gpu": str(gpus)} if gpus else {}
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.api.create(kinds.of("Node"), "", {
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **(labels or {})}},
            "spec": {"taints": [dict(one) for one in taints]} if taints else {},
            "status": {"capacity": capacity, "allocatable": dict(capacity),
                       "nodeInfo": {"kubeletVersion": "v1.37.0", "osImage": "stand-in", "containerRuntimeVersion": "none://0",
                                    "architecture": "amd64", "operatingSystem": "linux"},
                       "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": name}],
                       "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready",
                                       "lastTransitionTime": at}]}})

    def lose_node(self, name: str) -> None:
        """Its kubelet is silent: it is not ready, and its pods neither change nor go."""
        node = copy.deepcopy(self.api.get(kinds.of("Node"), "", name))
        node["status"]["conditions"] = [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
                                         "message": "Kubelet stopped posting node status."}]
        self.api.update(kinds.of("Node"), "", name, node, subresource="status", manager="kube-controller-manager")

    def end_pod(self, namespace: str, name: str, *, exit_code: int = 1, reason: str = "", message: str = "",
                of_pod: str = "") -> None:
        """The containers of a pod end (`OOMKilled`), or the node throws it out (`of_pod="Evicted"`)."""
        with self.store.lock:
            self.kubelet.finish(self.api.get(kinds.of("Pod"), namespace, name), exit_code, reason=reason, message=message,
                                of_pod=of_pod)

    def things(self, kind: str, namespace: str = "") -> list[Object]:
        """What is kept of a kind, past the HTTP side."""
        with self.store.lock:
            found = next(one for one in self.served() if one.kind == kind)
            return copy.deepcopy(self.store.all(found, namespace))

    def serve(self, *more: Kind) -> None:
        """Answer for these kinds too (custom resources)."""
        self._extra += [one for one in more if one not in self._extra]
        self._by_path = {(one.group, one.version, one.plural): one for one in self.served()}

    def served(self) -> list[Kind]:
        return [*kinds.BUILT_IN, *(kinds.METRICS if self.metrics_on else ()), *self._extra]

    def kind_at(self, group: str, version: str, plural: str) -> Kind | None:
        return self._by_path.get((group, version, plural))

    def forget_history(self) -> None:
        """Compaction: every watch that begins, and every page that goes on, from a version before now is told 410."""
        self.store.forget()

    # -- users and faults --------------------------------------------------------------------------------------

    def add_user(self, name: str, *rules: Rule, denied: Iterable[Rule] = ()) -> str:
        """A user and what it may do (everything, without rules); returns its token."""
        token = "tok-" + secrets.token_hex(12)
        self._users[token] = User(name, rules or (Rule(("*",), ("*",)),), tuple(denied))
        return token

    def remove_user(self, token: str) -> None:
        """The token is not valid any more."""
        self._users.pop(token, None)

    def user_of(self, header: str) -> User | None:
        return self._users.get(header.removeprefix("Bearer ").strip())

    def fail(self, fault: str, *, method: str = "", path: str = "", times: int = 1) -> None:
        """The next `times` requests with this method whose path contains `path` show the fault. `answer_lost`: it is done,
        and nobody hears; `unreachable`, `hangs`: it is not done; the rest: an answer that says so."""
        if fault not in FAULTS:
            raise ValueError(f"{fault!r} is none of {', '.join(FAULTS)}")
        with self.store.lock:
            self._faults.append(_Fault(fault, method, path, times))

    def take_fault(self, method: str, path: str) -> str | None:
        with self.store.lock:
            for fault in self._faults:
                if fault.method in ("", method) and fault.path in path:
                    fault.times -= 1
                    if fault.times == 0:
                        self._faults.remove(fault)
                    return fault.name
        return None

    def heal(self) -> None:
        """No fault is left."""
        with self.store.lock:
            self._faults.clear()
        self.released.set()

    # -- logs and figures --------------------------------------------------------------------------------------

    def write_log(self, pod: str, container: str, text: str) -> None:
        """Lines of `namespace/name`."""
        with self.store.lock:
            for line in text.splitlines(keepends=True):
                at = time.time()
                stamp = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.time_ns() % 10**9:09d}Z"
                self._logs.setdefault((pod, container), []).append((at, stamp, line if line.endswith("\n") else line + "\n"))
            self.store.changed.notify_all()

    def log_lines(self, pod: str, container: str) -> list[tuple[float, str, str]]:
        return self._logs.get((pod, container), [])

    def runs(self, pod: str) -> bool:
        namespace, _, name = pod.partition("/")
        found = self.store.get(kinds.of("Pod"), namespace, name)
        return found is not None and (found.get("status") or {}).get("phase") == "Running"

    def metrics(self, kind: Kind, namespace: str, name: str) -> Object:
        """Half of what each pod asks for is in use, and so it is on the nodes."""
        with self.store.lock:
            pods = [pod for pod in self.store.all(kinds.of("Pod"), namespace)
                    if (pod.get("status") or {}).get("phase") == "Running"]
            names = [node["metadata"]["name"] for node in self.store.all(kinds.of("Node"))]
            items = [_pod_metrics(pod) for pod in pods] if kind.namespaced else [
                _figures(one, [pod for pod in pods if pod["spec"].get("nodeName") == one]) for one in names]
        if name:
            found = next((one for one in items if one["metadata"]["name"] == name), None)
            if found is None:
                raise answers.not_found(kind, name)
            return {"kind": kind.kind, "apiVersion": kind.api_version, **found}
        return {"kind": kind.kind + "List", "apiVersion": kind.api_version, "metadata": {}, "items": items}


def _pod_metrics(pod: Object) -> Object:
    figures = _figures(pod["metadata"]["name"], [pod])
    figures["metadata"]["namespace"] = pod["metadata"]["namespace"]
    usage = figures.pop("usage")
    return {**figures, "containers": [{"name": pod["spec"]["containers"][0]["name"], "usage": usage}]}


def _figures(name: str, pods: list[Object]) -> dict[str, Any]:
    cores, memory = (sum(asked(pod).get(one, 0.0) for pod in pods) / 2 for one in ("cpu", "memory"))
    return {"metadata": {"name": name}, "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "window": "15s",
            "usage": {"cpu": f"{int(cores * 1e9)}n", "memory": f"{int(memory / 1024)}Ki"}}
