"""Does each step of a Kubernetes installation call what it should, once, in order? Real sshd, the system's commands recorded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudsched.errors import Conflict, NotFound
from cloudsched.services import operations
from cloudsched.services.centre import executor
from cloudsched.services.centre import executor_ops as ops
from cloudsched.services.centre.executor import Where
from tests.drivers.installing.conftest import access
from tests.drivers.installing.rehearsal import HASH, TOKEN, Rehearsal
from tests.drivers.ssh.sshd import Sshds

pytestmark = pytest.mark.engines
Done = Callable[[int], dict[str, Any]]
JOIN = f"kubeadm join 10.0.0.1:6443 --token {TOKEN} --discovery-token-ca-cert-hash {HASH}"


def new_cluster(host: Rehearsal, **options: Any) -> int:
    given = {"node_name": "k8s-master", "packages": "bundle", "bundle": str(host.bundle()), **options}
    number: int = executor.new_cluster(access(host.server), kind="kubernetes", role="master", actor="ada", options=given)
    return number


def test_a_cluster_from_a_bundle(house: Sshds, done: Done, tmp_state: Path) -> None:
    host = Rehearsal(house, "a")
    number = new_cluster(host, images="mirror.example/k8s")
    found = done(number)
    assert found["state"] == "succeeded", (found["error"], host.log[-8:])
    order = [next(at for at, line in enumerate(host.log) if line.startswith(start)) for start in (
        "dpkg -i", "ctr -n k8s.io images import", "swapoff -a", "modprobe overlay", "modprobe br_netfilter", "sysctl --system",
        "containerd config default", "systemctl restart containerd", "kubeadm init --config", "kubectl apply",
        "kubeadm token create")]
    assert order == sorted(order) and len(host.called("kubeadm init")) == 1
    assert (host.root / "etc/fstab").read_text().startswith("# /dev/sda2")
    assert "ip_forward = 1" in (host.root / "etc/sysctl.d/99-kubernetes.conf").read_text()
    containerd = (host.root / "etc/containerd/config.toml").read_text()
    assert "SystemdCgroup = true" in containerd and "mirror.example/k8s/pause:3.9" in containerd
    told = json.loads((host.server.home / ".cloudsched-install/kubeadm.yaml").read_text().split("---\n")[0])
    assert told["kubernetesVersion"] == "v1.31.4" and told["imageRepository"] == "mirror.example/k8s"
    result = executor.result(number)
    assert result["join_command"] == JOIN and "clusters:" in result["kubeconfig"] and result["node_name"] == "k8s-master"
    kept = b"".join(path.read_bytes() for path in tmp_state.rglob("*") if path.is_file() and path.name != "secret.key")
    assert TOKEN.encode() not in kept and HASH.encode() not in kept

    # the same again changes nothing
    before = len(host.log)
    again = executor.new_cluster(access(host.server), kind="kubernetes", options={"node_name": "k8s-master", "packages": "found",
                                                                                "bundle": str(host.top / "bundle")})
    assert done(again)["state"] == "succeeded"
    assert not [line for line in host.log[before:] if line.startswith(("kubeadm init", "dpkg", "swapoff"))]

    # and apart
    assert done(executor.take_apart(access(host.server), kind="kubernetes", actor="ada"))["state"] == "succeeded"
    assert len(host.called("kubeadm reset")) == 1 and not (host.root / "etc/kubernetes").exists()
    assert (host.root / "etc/fstab").read_text().startswith("/dev/sda2") and os.listdir(host.server.home) == []


def test_a_worker(house: Sshds, done: Done) -> None:
    host = Rehearsal(house, "w")
    host.set("network")
    number: int = executor.new_worker(access(host.server), kind="kubernetes", join_command=JOIN, actor="ada",
                                      options={"packages": "apt", "mirror": "https://m.example/core", "node_name": "w1"})
    host.set("apt-fails")
    found = done(number)
    assert found["state"] == "succeeded", (found["error"], host.log[-8:])
    assert len(host.called("kubeadm join")) == 1 and TOKEN not in "".join(host.log)
    assert not (host.server.home / ".cloudsched-install/kubeadm.yaml").exists()  # it held the token
    assert len(host.called("apt-get update")) == 2  # the first one failed, and was tried again
    assert "https://m.example/core /" in (host.root / "etc/apt/sources.list.d/kubernetes.list").read_text()
    assert any("kubelet=1.31.4-*" in line for line in host.called("apt-get install"))
    assert TOKEN not in json.dumps(operations.one(number))


def test_an_init_that_was_cut_short_is_cleaned_and_done_again(house: Sshds, done: Done) -> None:
    host = Rehearsal(house, "d", installed=True)
    host.set("init-dies")
    found = done(new_cluster(host))  # the script itself is killed by kubeadm
    assert found["state"] == "succeeded", (found["error"], host.log[-8:])
    assert len(host.called("kubeadm reset")) == 1 and len(host.called("kubeadm init")) == 2


@pytest.mark.parametrize(("prepare", "options", "said"), [
    ({"uid": "1000"}, {}, "is not root"), ({"cores": "1"}, {}, "needs 2 cores"),
    ({"root/proc/meminfo": "MemTotal: 1000000 kB\n"}, {}, "needs 1700 MB"),
    ({"root/proc/net/tcp": "   0: 0100007F:192B 00000000:0000 0A 00000000\n"}, {}, "port 6443 is taken"),
    ({}, {"swap_off": False}, "swap is on"), ({"no-overlay": ""}, {}, "no module overlay"),
    ({"version": "1.30.0"}, {}, "kubeadm is v1.30.0, not v1.31.4"), ({}, {"packages": "found"}, "not installed"),
    ({}, {"bundle": "/nowhere/at/all"}, "no packages (*.deb) in /nowhere/at/all"),
    ({}, {"cni_manifest": "/nowhere/cni.yaml"}, "no network: put the manifest"), ({"init-fails": ""}, {}, "kubeadm init: "),
    ({"root/etc/kubernetes.admin": ""}, {}, "is not ours"),
])
def test_what_stands_in_the_way_is_said(house: Sshds, done: Done, prepare: dict[str, str], options: dict[str, Any],
                                        said: str) -> None:
    host = Rehearsal(house, "x")
    for name, text in prepare.items():
        if name.endswith("kubernetes.admin"):
            (host.root / "etc/kubernetes").mkdir()
            name = "root/etc/kubernetes/admin.conf"  # noqa: PLW2901
        host.set(name, text)
    found = done(new_cluster(host, **options))
    assert found["state"] == "failed" and said in found["error"] and TOKEN not in json.dumps(found), found["error"]
    assert found["error"].startswith(f"127.0.0.1:{host.server.port}: ")


def test_a_cluster_is_looked_at_by_kubectl(house: Sshds, done: Done) -> None:
    host = Rehearsal(house, "k", installed=True)
    assert done(new_cluster(host))["state"] == "succeeded"
    node = {"metadata": {"name": "k8s-master", "labels": {"a": "b"}}, "status": {
        "conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": "4", "memory": "8Gi"}}}
    pod = {"metadata": {"name": "p", "namespace": "default"}, "spec": {"nodeName": "k8s-master", "containers": [
        {"resources": {"requests": {"cpu": "500m"}}}]}, "status": {"phase": "Running"}}  # fmt: skip
    host.set("nodes.json", json.dumps({"items": [node]}))
    host.set("node.json", json.dumps(node))
    host.set("pods.json", json.dumps({"items": [pod]}))
    where = Where(access(host.server))
    assert [row["node_name"] for row in executor.nodes(where)] == ["k8s-master"]
    assert [row["pod_running"] for row in executor.pods(where)] == ["Running"]
    assert executor.free_nodes(where)[0].cpu_m == 3500
    executor.switch(where, "k8s-master", state="cordon")
    executor.switch(where, "k8s-master", state="cordon", drain=True)
    executor.switch(where, "k8s-master", state="uncordon")
    assert executor.label(where, "k8s-master", "zone=a") == {"a": "b"}
    executor.label(where, "k8s-master", "zone-")
    with pytest.raises(Conflict, match="default/p"):
        executor.delete_node(where, "k8s-master")
    executor.delete_node(where, "k8s-master", force=True)
    changes = [line.removeprefix("kubectl ") for line in host.called("kubectl ") if " get " not in line
               and not line.startswith(("kubectl get", "kubectl apply"))]  # fmt: skip
    drain = "drain k8s-master --ignore-daemonsets --delete-emptydir-data"
    assert changes == [
        "cordon k8s-master", f"{drain} --timeout=120s", "uncordon k8s-master", "label node k8s-master zone=a --overwrite",
        "label node k8s-master zone-", f"{drain} --force --grace-period=0 --disable-eviction --timeout=120s",
        "delete node k8s-master"]
    host.set("budget")
    with pytest.raises(Conflict, match="disruption budget"):
        executor.switch(where, "k8s-master", state="cordon", drain=True)
    with pytest.raises(NotFound):
        executor.label(where, "nowhere", "a=b")
    with pytest.raises(Conflict, match="not of a slurm one"):
        executor.nodes(Where(access(host.server), kind="slurm"))


def test_a_host_without_a_cluster(house: Sshds, done: Done) -> None:
    from cloudsched.drivers.base import DriverError

    host = Rehearsal(house, "n")
    with pytest.raises(DriverError, match="no cluster is installed"):
        executor.nodes(Where(access(host.server)))
    assert ops.settings_now().state.dir
