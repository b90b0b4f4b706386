"""How does a host become the controller or a node of a Kubernetes cluster? kubeadm, step by step.

The token of a join command goes to the host in a file that only root reads, and is in no command line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from cloudsched.drivers.installing import kubeadm_scripts as sh
from cloudsched.drivers.installing.hosts import Host, Script, StepFailed
from cloudsched.drivers.installing.job import CONTROLLER, WORKER, Job, Step
from cloudsched.errors import Invalid

SHOWN_FORM = "kubeadm join HOST:PORT --token TOKEN --discovery-token-ca-cert-hash sha256:HASH"
PORTS = {CONTROLLER: "6443 2379 2380 10250 10257 10259", WORKER: "10250"}
SOCKET = "unix:///run/containerd/containerd.sock"
API = "kubeadm.k8s.io/v1beta3"

_SERVER = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):\d{1,5}\Z")
_TOKEN = re.compile(r"[a-z0-9]{6}\.[a-z0-9]{16}\Z")
_HASH = re.compile(r"sha256:[0-9a-fA-F]{64}\Z")


def parse_join(text: str) -> dict[str, str]:
    """`server`, `token`, `hash` of a join command. Raises Invalid at `join_command`, which never repeats the token."""
    words = text.replace("\\\n", " ").split()
    pairs = dict(zip(words[3::2], words[4::2], strict=False))
    found = {"server": words[2] if len(words) > 2 else "", "token": pairs.get("--token", ""),
             "hash": pairs.get("--discovery-token-ca-cert-hash", "")}
    good = (words[:2] == ["kubeadm", "join"] and _SERVER.match(found["server"]) and _TOKEN.match(found["token"])
            and _HASH.match(found["hash"]) and set(pairs) <= {"--token", "--discovery-token-ca-cert-hash"} and len(words) % 2)
    if not good:
        raise Invalid.at("join_command", "is not a Kubernetes cluster's", SHOWN_FORM)
    return found


def steps(job: Job) -> dict[Step, list[Script]]:
    """What each step runs, as far as is known now."""
    return _ACTIONS[job.action](job)


def read_result(where: Host) -> dict[str, str]:
    """`join_command` (a fresh token) and `kubeconfig` of the cluster whose controller this is. Raises StepFailed."""
    said = where.asked(Script(sh.RESULT, limit_s=60, common=sh.COMMON), "the join command")
    command, _, kubeconfig = said.partition("\n::kubeconfig\n")
    try:
        parse_join(command)
    except Invalid:
        raise StepFailed(f"{where.label}: kubeadm gives a join command that is not understood") from None
    if "clusters:" not in kubeconfig:
        raise StepFailed(f"{where.label}: /etc/kubernetes/admin.conf is no kubeconfig")
    return {"join_command": " ".join(command.split()), "kubeconfig": kubeconfig}


def init_yaml(job: Job) -> str:
    """What `kubeadm init` is told. JSON is YAML."""
    options = job.options
    cluster: dict[str, Any] = {
        "apiVersion": API, "kind": "ClusterConfiguration", "kubernetesVersion": f"v{options.version}",
        "clusterName": options.cluster_name, "networking": {"podSubnet": options.pod_network,
                                                            "serviceSubnet": options.service_network},
        "apiServer": {"certSANs": [job.address]}}  # fmt: skip
    if options.images:
        cluster["imageRepository"] = options.images
    init = {"apiVersion": API, "kind": "InitConfiguration", "nodeRegistration": _registration(job),
            **({"localAPIEndpoint": {"advertiseAddress": job.address}} if _is_address(job.address) else {})}
    kubelet = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "cgroupDriver": "systemd"}
    return "---\n".join(json.dumps(part, indent=1) + "\n" for part in (cluster, init, kubelet))


def join_yaml(job: Job) -> str:
    """What `kubeadm join` is told: it holds the token."""
    told = job.cluster
    discovery = {"bootstrapToken": {"apiServerEndpoint": told.get("server", ""), "token": told.get("token", ""),
                                    "caCertHashes": [told.get("hash", "")]}}
    return json.dumps({"apiVersion": API, "kind": "JoinConfiguration", "discovery": discovery,
                       "nodeRegistration": _registration(job)}, indent=1) + "\n"  # fmt: skip


def _new_cluster(job: Job) -> dict[Step, list[Script]]:
    options = job.options
    network = {"node": job.node, "cni_manifest": options.cni_manifest, "bundle": options.bundle}
    return {
        **_first(job, CONTROLLER), Step.CONFIGURE: [_script(sh.CONFIGURE, {"kubeadm_yaml": init_yaml(job), "JOIN_YAML": "",
                                                                         "images": options.images})],
        Step.START: [_script(sh.INIT, {}, limit_s=options.step_limit_s)],
        Step.FINISH: [_script(sh.NETWORK, network, limit_s=300)],
    }  # fmt: skip


def _new_worker(job: Job) -> dict[Step, list[Script]]:
    node = {"node": job.node}
    return {
        **_first(job, WORKER),
        Step.CONFIGURE: [_script(sh.CONFIGURE, {"kubeadm_yaml": "", "images": job.options.images},
                                 secrets={"JOIN_YAML": join_yaml(job)})],
        Step.JOIN: [_script(sh.JOIN, node, limit_s=600)], Step.READY: [_script(sh.READY, node)],
    }  # fmt: skip


def _take_apart(job: Job) -> dict[Step, list[Script]]:
    return {Step.STOP: [_script(sh.RESET, {}, limit_s=600)], Step.ERASE: [_script(sh.ERASE, {})]}


_ACTIONS = {"new_cluster": _new_cluster, "new_worker": _new_worker, "take_apart": _take_apart}


def _first(job: Job, role: str) -> dict[Step, list[Script]]:
    options = job.options
    look = {"role": role, "ports": PORTS[role], "swap_off": "yes" if options.swap_off else "no"}
    packages = {name: str(getattr(options, name)) for name in ("packages", "version", "mirror", "mirror_key", "bundle")}
    prepare = {"role": role, "cluster": options.cluster_name, "node": job.node}
    return {Step.LOOK: [_script(sh.LOOK, look)],
            Step.PACKAGES: [_script(sh.PACKAGES, packages, limit_s=options.step_limit_s)],
            Step.PREPARE: [_script(sh.PREPARE, prepare)]}  # fmt: skip


def _registration(job: Job) -> dict[str, Any]:
    return {"name": job.node, "criSocket": SOCKET,
            "kubeletExtraArgs": {"node-ip": job.address} if _is_address(job.address) else {}}


def _is_address(text: str) -> bool:
    return bool(re.match(r"\d+\.\d+\.\d+\.\d+\Z", text)) or ":" in text


def _script(text: str, values: Mapping[str, str], *, secrets: Mapping[str, str] | None = None, limit_s: float = 300.0) -> Script:
    return Script(text, values, secrets or {}, limit_s, common=sh.COMMON)
