"""What is there before an example is played? Centres, devices and clusters made through the API itself, far ends that are played.

Ids, days and times are those of the contract: what makes them is told what comes next. Hosts over SSH do every script well and
answer `kubectl` from objects; a Kubernetes API is the stand-in.
"""

from __future__ import annotations

import base64
import json
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from cloudsched.clock import ManualClock
from cloudsched.domain import instances as domain_instances
from cloudsched.drivers.installing.access import Access
from cloudsched.drivers.installing.hosts import Progress, Script, StepFailed
from cloudsched.drivers.ssh.connection import Result
from cloudsched.drivers.ssh.opening import explained
from cloudsched.services import operations
from cloudsched.services.centre import (
    centre_clusters,
    centre_hosts,
    centre_labels,
    centres,
    executor_ops,
    instance_watch,
    parts,
)
from cloudsched.testing.kubeapi import KubeApi
from tests.dialects.kboss.conftest import ORG, Api
from tests.dialects.kboss.seed.form import Entry, texts

CENTRE, CLUSTER, OTHER_CLUSTER = "AROU9udKtPNyh0AZtO_WY", "4hBm8atruISOU2bs24t_N", "4hBm8atruISOU2bs24t_X"
MASTER, WORKER = "RJZ2GMHSWGVG7iRk_AJYm", "1cV3nLWGD_YLqXm9OUWKU"
NODE = "k8s-worker-20250408132243"
CPCLIST, CPCNODE, CPCCLUSTER, CPCWORKER, CPCLABEL, CPCWIDGET, CPCPODYAML = (f"/dev/cpcc/{name}" for name in (
    "cpclist", "cpcnode", "cpccluster", "cpcworker", "cpclabel", "cpcwidget", "cpcpodyaml"))
COMMON = "/pcapi/api/v1/cluster/common"
HASH = "0f" * 32  # the contract has `<sha256>` there
JOIN = f"kubeadm join 192.168.0.3:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash sha256:{HASH}"
KUBECONFIG = """apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: <base64>
    server: https://192.168.0.3:6443
  name: kubernetes
contexts:
- context:
    cluster: kubernetes
    user: kubernetes-admin
  name: kubernetes-admin@kubernetes
current-context: kubernetes-admin@kubernetes
kind: Config
preferences: {}
users:
- name: kubernetes-admin
  user:
    client-certificate-data: <base64>
    client-key-data: <base64>
"""
SSH = {"host": "192.168.0.3", "port": "22", "user": "root", "psssword": "<password>"}
SWAP = "swap is on: kubelet refuses; allow the option swap_off"  # what the script says on such a host
SWAP_ZH = "swap已开启: kubelet无法运行; 请允许选项 swap_off"
PAIR = ("apiuser", "<password>")


class Next:
    """Makes ids: those that are told to come next, then others."""

    def __init__(self, make: Callable[[], str]) -> None:
        self.ids: list[str] = []
        self._make = make

    def __call__(self) -> str:
        return self.ids.pop(0) if self.ids else self._make()


class PlayedHosts:
    """All hosts over SSH. `installed`: what they are of; `nodes`, `pods`: what kubectl there knows; `errors`: how a verb of
    kubectl fails, or a step of an installation; `refuses`: why nobody gets in."""

    def __init__(self) -> None:
        self.installed = "kind=kubernetes\nrole=controller\ncluster=kubernetes\n"
        self.kubeconfig = KUBECONFIG
        self.nodes: list[dict[str, Any]] = []
        self.pods: list[dict[str, Any]] = []
        self.errors: dict[str, str] = {}
        self.refuses: Exception | None = None

    def at(self, access: Access, *, prefix: str = "") -> PlayedHost:
        return PlayedHost(self, access)


class PlayedHost:
    """One of them, as `drivers.installing.hosts.Host` is."""

    def __init__(self, hosts: PlayedHosts, access: Access) -> None:
        self._hosts, self._access, self.label = hosts, access, access.label

    def step(self, run: str, script: Script) -> Progress:
        self._let_in()
        if "step" in self._hosts.errors:
            return Progress(1, self._hosts.errors["step"])
        return Progress(0, "", {"host_name": "k8s-master", "user": "root", "cores": "4", "memory_mb": "16000"})

    def asked(self, script: Script, what: str) -> str:
        self._let_in()
        if what == "the join command":
            return f"{JOIN}\n::kubeconfig\n{self._hosts.kubeconfig}"
        if what == "what is there":
            return f"\n::\n{self._hosts.installed}" if "::" in script.text else self._hosts.installed
        return ""

    def forget(self, run: str) -> None:
        """Nothing is kept."""

    def ask(self, script: Script) -> Result:
        words = shlex.split(script.text.partition("exec kubectl ")[2].removesuffix("< /dev/null"))
        if not words:
            raise StepFailed(f"{self.label}: nothing is known of {script.text[:40]}")
        if words[0] in self._hosts.errors:
            return Result(self.label, 1, "", self._hosts.errors[words[0]], 0.0)
        return Result(self.label, 0, json.dumps(self._object(words)), "", 0.0)

    def _let_in(self) -> None:
        """As the real connection would say why not."""
        if self._hosts.refuses is not None:
            raise explained(self._access.target(pins=""), self._hosts.refuses)

    def _object(self, words: list[str]) -> Any:
        kind = words[1]
        if kind in ("nodes", "pods"):
            found = {"nodes": self._hosts.nodes, "pods": self._hosts.pods}[kind]
            return {"items": found if not any("spec.nodeName" in word for word in words) else []}
        return {"metadata": {"name": words[2] if len(words) > 2 else "", "labels": {}}}


class World:
    """One server with its far ends, for one example."""

    def __init__(self, api: Api, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self.api, self.clock = api, clock
        self.said: set[str] = set()
        self.hosts = PlayedHosts()
        self._stack = stack
        self._kube: KubeApi | None = None
        self.keys, self.instance_keys = Next(centres.new_key), Next(domain_instances.new_key)
        for module in (centres, parts, centre_labels, centre_hosts, centre_clusters):
            monkeypatch.setattr(module, "new_key", self.keys)
        monkeypatch.setattr(domain_instances, "new_key", self.instance_keys)
        monkeypatch.setattr(executor_ops, "host", self.hosts.at)
        # Who waits for an operation lets the engine work meanwhile.
        waits = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: self.work(10))
        monkeypatch.setattr(centre_clusters, "time", waits)
        instance_watch._look_next.clear()

    def play(self, entry: Entry, given: Mapping[str, Any], language: str) -> Any:
        """The answer to an example's request, said as the contract has it, in the query; in English as a form, which must be the
        same."""
        self._hear(given)
        if language == "en":
            self.api.language = "en"
        pair = base64.b64encode(":".join(PAIR).encode()).decode()
        headers = {"Authorization": f"Basic {pair}"} if entry.path.startswith("/pcapi/") else {}
        way = "json" if entry.way == "json" else "data" if language == "en" else "query_string"
        said: dict[str, Any] = {way: dict(given)}
        return self.api(entry.path, method=entry.method, headers=headers, **said)

    def at(self, text: str) -> None:
        """It is this time, as the server shows times."""
        self.clock.advance(datetime.strptime(text, "%Y-%m-%d %H:%M:%S").timestamp() - self.clock.now())  # noqa: DTZ007

    def work(self, seconds: int = 30) -> None:
        for _ in range(seconds):
            operations.work("engine")
            self.clock.advance(1.0)

    @property
    def kube(self) -> KubeApi:
        """A Kubernetes API; clusters that are installed from now on are this one."""
        if self._kube is None:
            self._kube = self._stack.enter_context(KubeApi(metrics=True))
            self.hosts.kubeconfig = yaml.safe_dump(json.loads(self._kube.kubeconfig()))
        return self._kube

    # what there is

    def centre(self, key: str = CENTRE, **facts: Any) -> str:
        given = {"name": "测试pcapi", "pcapi_url": "local", "api_user": "apiuser", "api_pwd": "<password>", "contactname": "kyy",
                 "contactphone": "", "enable_date": "2025-04-13", "expire_date": "2035-04-18", "orgid": ORG}
        return self._made(key, f"{CPCLIST}/add_cpclist.dspy", {**given, **facts})

    def host(self, key: str, **facts: Any) -> str:
        given = {"cpcid": CENTRE, "ip": "192.168.0.8", "name": "gpu设备1", "devicetype": "1", "sshport": "22",
                 "adminuser": "apiuser", "adminpwd": "<password>", "node_status": "0", "enable_date": "2025-05-16",
                 "export_date": "2036-06-17"}
        return self._made(key, f"{CPCNODE}/add_cpcnode.dspy", {**given, **facts})

    def master(self, **facts: Any) -> str:
        return self.host(MASTER, **{"name": "3-虚拟机ubuntu2204", "ip": "192.168.0.3", "devicetype": "0", "adminuser": "root",
                                    "enable_date": "2025-03-28", "export_date": "9999-12-31", "role": "master", **facts})

    def worker(self, **facts: Any) -> str:
        return self.host(WORKER, **{"name": "2-虚拟机ubuntu2204", "ip": "192.168.0.2", "devicetype": "0", "adminuser": "root",
                                    "enable_date": "2025-03-31", "export_date": "2029-10-30", "role": "worker", **facts})

    def cluster(self, key: str = CLUSTER, *, host: str = MASTER, **facts: Any) -> str:
        """A cluster that is installed."""
        given = {"cpcid": CENTRE, "ctl_nodeid": host, "cluster_type": "0", "cluster_name": "测试离线安装控制节点",
                 "enable_date": "2025-04-03", "export_date": "2035-05-10", "async": "1"}
        self.keys.ids.append(key)
        begun = self.ok(f"{CPCCLUSTER}/new_cluster.dspy", {**given, **facts})
        self._until(begun["operation"])
        return key

    def join(self, worker: str = WORKER, cluster: str = CLUSTER) -> None:
        """A worker of a cluster."""
        given = {"cpcid": CENTRE, "clusterid": cluster, "worker_nodeid": worker, "async": "1"}
        self._until(self.ok(f"{CPCWORKER}/new_cpcworker.dspy", given)["operation"])

    def one_cluster(self) -> None:
        """A centre with a cluster of one controller."""
        self.centre()
        self.master()
        self.cluster()

    def part(self, key: str, type: str, model: str, unit_price: str, **facts: Any) -> str:
        given = {"cpcid": CENTRE, "clusterid": CLUSTER, "type": type, "model": model, "unit_price": unit_price, "stock": "0",
                 "charge_unit": "小时", "account_unit": "元", "add_opt": "no"}
        return self._made(key, f"{CPCWIDGET}/add_cpcwidget.dspy", {**given, **facts})

    def ok(self, path: str, given: Mapping[str, Any]) -> Any:
        self._hear(given)
        return self.api.ok(path, **given)

    def _made(self, key: str, path: str, given: Mapping[str, Any]) -> str:
        self.keys.ids[:] = [key]
        found = self.ok(path, given)["id"]
        self.keys.ids.clear()
        return str(found)

    def _hear(self, given: Mapping[str, Any]) -> None:
        """What was said to us may be said again by us."""
        for value in given.values():
            if isinstance(value, str):
                self.said |= {value, *(texts(json.loads(value)) if value.startswith(("[", "{")) else ())} - {""}

    def _until(self, operation: int) -> None:
        for _ in range(100):
            self.work(3)
            found = operations.one(operation)
            if found["state"] == "succeeded":
                return
            assert found["state"] in ("queued", "running"), found
        raise AssertionError(f"operation {operation} does not end")
