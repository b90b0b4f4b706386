"""Is a kubeconfig read as it should be, and refused where it would run programs or read our files?"""

from __future__ import annotations

import base64
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudsched.drivers import registry
from cloudsched.drivers.base import Place
from cloudsched.drivers.kubernetes import KubernetesDriver, make
from cloudsched.errors import Invalid
from cloudsched.testing.kubeapi import KubeApi
from tests.drivers.kubernetes.conftest import SERVER_URL, place_on


def config(*, user: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None) -> str:
    contexts = [{"name": name, "context": {"cluster": "c", "user": "u", "namespace": name}} for name in ("one", "two")]
    return yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "one", "contexts": contexts,
        "clusters": [{"name": "c", "cluster": {"server": "http://10.0.0.1:6443", **(cluster or {})}}],
        "users": [{"name": "u", "user": user if user is not None else {"token": "very-secret-token"}}]})


def from_text(text: str, **options: Any) -> KubernetesDriver:
    return make(Place("k", "Kubernetes", options, credentials={"kubeconfig": text}, server_url=SERVER_URL))


def test_the_context_and_its_namespace() -> None:
    assert from_text(config()).namespace == "one"
    assert from_text(config(), context="two").namespace == "two"
    assert from_text(config(), namespace="mine").namespace == "mine"
    assert "very-secret-token" not in repr(from_text(config()))


@pytest.mark.parametrize(("text", "options", "says"), [
    ("", {}, "kubeconfig: is missing"),
    ("{]", {}, r"kubeconfig: is not YAML \(line 1\)"),
    ("just text: very-secret", {}, "kubeconfig: is not a kubeconfig"),
    (config(), {"context": "three"}, r"context: there is no context 'three' in the kubeconfig \(allowed: one, two\)"),
    (config(cluster={"server": "file:///x"}), {}, "has no server"),
    (config(user={"exec": {"command": "sh"}}), {}, r"runs a program \(exec\)"),
    (config(user={"auth-provider": {"name": "gcp"}}), {}, "runs a program"),
    (config(user={"tokenFile": "/etc/shadow"}), {}, r"cannot name files of the server \(tokenFile\).*allowed: token, or"),
    (config(user={"client-key": "/etc/shadow"}), {}, "client-key"),
    (config(cluster={"certificate-authority": "/etc/passwd"}), {}, "certificate-authority"),
    (config(cluster={"server": "https://x", "certificate-authority-data": "x"}), {}, "cannot be read|not base64"),
    (config(cluster={"server": "https://x"},
            user={"client-certificate-data": base64.b64encode(b"no pem").decode(), "client-key-data": "eA=="}), {},
     "certificate or key"),
    (config(), {"in_cluster": True}, "in_cluster: cannot be used together"),
    (config(), {"namespace": "No_Such"}, "namespace:"),
    (config(), {"tolerations": "a:Never"}, "tolerations: 'Never' is not an effect"),
    (config(), {"node_selector": "ssd"}, "node_selector:"),
    (config(), {"timeout_s": "soon"}, "timeout_s:"),
    (config(), {"agent": "by post"}, "agent:"),
    (config(), {"run_as_user": -1}, "run_as_user:"),
    (config(), {"pull_secrets": "A B"}, "pull_secrets:"),
    (config(), {"create_namespace": "maybe"}, "create_namespace:"),
])  # fmt: skip
def test_what_cannot_be_used_is_refused_by_name(text: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(Invalid, match=says) as caught:
        from_text(text, **options)
    assert "very-secret" not in repr((caught.value, caught.value.errors, caught.value.__cause__))


@pytest.mark.parametrize("user", [{}, None])
def test_who_has_no_credentials_is_nobody(user: Any) -> None:
    facts = yaml.safe_load(config())
    facts["users"][0]["user"] = user
    assert from_text(yaml.safe_dump(facts)).namespace == "one"


def test_a_file_may_name_files_beside_it(kube: KubeApi, tmp_path: Path) -> None:
    facts = json.loads(kube.kubeconfig())
    facts["users"][0]["user"] = {"tokenFile": "token"}
    (tmp_path / "token").write_text(kube.token + "\n")
    (tmp_path / "config").write_text(yaml.safe_dump(facts))
    driver = make(Place("k", "Kubernetes", {"kubeconfig": str(tmp_path / "config")}, server_url=SERVER_URL))
    assert [one.name for one in driver.nodes()] == ["node-1"]
    token = kube.add_user("later")
    kube.remove_user(kube.token)
    (tmp_path / "token").write_text(token)  # as a service account's is, every hour
    assert [one.name for one in driver.nodes()] == ["node-1"]
    with pytest.raises(Invalid, match=r"kubeconfig: .* cannot be read"):
        make(Place("k", "Kubernetes", {"kubeconfig": str(tmp_path / "none")}))


def test_a_program_runs_only_when_it_may(kube: KubeApi, tmp_path: Path) -> None:
    answer = json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
                         "status": {"token": kube.token}})
    facts = json.loads(kube.kubeconfig())
    facts["users"][0]["user"] = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "echo", "args": [answer],
                                          "interactiveMode": "Never"}}
    place = Place("k", "Kubernetes", {"allow_exec": "true"}, credentials={"kubeconfig": json.dumps(facts)},
                  state_dir=str(tmp_path), server_url=SERVER_URL)
    assert [one.name for one in make(place).nodes()] == ["node-1"]


@pytest.mark.engines
def test_certificates_are_checked_and_keys_never_reach_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudsched.drivers.base import ENDPOINT, DriverError
    from tests.drivers.kubernetes.tls import authority, pair, serving_tls

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ours, other = authority("ours"), authority("other")
    certificate, key = pair(ours, "client")
    with KubeApi() as kube, serving_tls(kube, ours, tmp_path / "server") as url:
        def driver(ca: bytes, **cluster: Any) -> KubernetesDriver:
            given = {"client-certificate-data": base64.b64encode(certificate).decode(),
                     "client-key-data": base64.b64encode(key).decode(), "token": kube.token}
            where = {"server": url, "certificate-authority-data": base64.b64encode(ca).decode(), **cluster}
            return from_text(config(user=given, cluster=where), timeout_s=5)

        assert driver(ours.certificate).nodes() == []
        with pytest.raises(DriverError, match="certificate is not trusted") as caught:
            driver(other.certificate).nodes()
        assert (caught.value.code, caught.value.transient) == (ENDPOINT, False)
        trusting = driver(b"", **{"insecure-skip-tls-verify": True, "certificate-authority-data": ""})
        assert trusting.nodes() == []
        assert "not verified" in next(one.detail for one in trusting.verify() if one.name == "transport")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["server.pem"]


def test_text_options_as_configuration_files_have_them(kube: KubeApi) -> None:
    place = place_on(kube, node_selector="disk=ssd,zone=a", tolerations="spot=yes:NoSchedule,gpu:NoExecute",
                     pull_secrets="a,b", resources="nvidia.com/gpu=1", run_as_user="1000", priority_class="high",
                     service_account="runner", tags="big", instance_type_label="node.kubernetes.io/instance-type")
    from tests.drivers.kubernetes.test_pilots import wanted

    spec = make(place)._pilots.manifest(wanted(instance_type="m1"))["spec"]
    assert spec["nodeSelector"] == {"disk": "ssd", "zone": "a", "node.kubernetes.io/instance-type": "m1"}
    assert spec["tolerations"] == [{"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoSchedule"},
                                   {"key": "gpu", "operator": "Exists", "effect": "NoExecute"}]
    assert spec["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert spec["securityContext"]["runAsUser"] == 1000
    assert (spec["priorityClassName"], spec["serviceAccountName"]) == ("high", "runner")
    assert spec["containers"][0]["command"][-1] == "--tags=big"


def test_the_registry_knows_it() -> None:
    assert registry.canonical("kubernetes") == "Kubernetes"
    assert registry.factory("Kubernetes") is make


@pytest.mark.parametrize("verify", [True, False])
def test_old_protocols_are_not_spoken(verify: bool) -> None:
    from cloudsched.drivers.kubernetes.access import _tls

    assert _tls(b"", b"", b"", verify=verify).minimum_version >= ssl.TLSVersion.TLSv1_2


def test_no_proxy_leads_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://proxy.example:3128")
    urls = ("http://127.0.0.1:6443", "https://localhost:6443", "https://[::1]:6443", "https://10.0.0.1:6443")
    drivers = [from_text(config(cluster={"server": url})) for url in urls]
    assert [bool(one._api.access.client.configuration.proxy) for one in drivers] == [False, False, False, True]


def test_authorities_as_clusters_make_them_are_good_enough() -> None:
    from cloudsched.drivers.kubernetes.access import _tls

    assert not _tls(b"", b"", b"", verify=True).verify_flags & ssl.VERIFY_X509_STRICT
