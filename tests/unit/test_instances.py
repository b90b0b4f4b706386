"""What may be asked of a resource instance, what does it hold, and how are its objects called?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given as over
from hypothesis import strategies as st

from cloudsched.domain import instances, moves
from cloudsched.domain.instances import InvalidInstance, Spec

# The example of contract kboss, new_cpcpodyaml.
SEED: dict[str, Any] = {
    "source_name": "kyy-new5090gpu-ubuntu2204", "source_authuser": "root", "source_podengine": "StatefulSet",
    "source_replicasetnum": "1", "instance_type": "LinuxOS", "pod_imagepath": "docker.io/library/ubuntu:22.04",
    "source_memrate": "512Mi", "source_cpurate": "1000m", "source_selflabel": "app:ubuntu3", "source_gpu": "0",
    "source_portmode": "NodePort", "source_restartpolicy": "Always", "source_apiport": "6035", "source_insideport": "3306",
    "source_outsideport": "30063", "source_mountpath": "/mnt/data", "source_storagelimits": "49Gi",
    "source_nodeselector": "kyy-gpu=false", "cpu_model": "STANDARD", "gpu_model": "", "disk_sys_limit": "20Gi",
}


def wrong(**fields: Any) -> dict[str, str]:
    """The fields that are refused, with why."""
    with pytest.raises(InvalidInstance) as caught:
        instances.read({**SEED, **fields})
    assert all(one.field in caught.value.message for one in caught.value.errors)
    return {one.field: one.sort for one in caught.value.faults}


def test_the_example_of_the_contract() -> None:
    spec = instances.read(SEED)
    assert (spec.cpu_m, spec.memory_mi, spec.storage_gi, spec.system_gi, spec.pods) == (1000, 512, 49, 20, 1)
    assert spec.labels == {"app": "ubuntu3"}
    assert spec.node_selector == {"kyy-gpu": "false"}
    assert Spec(**spec.as_fields()) == spec


def test_amounts_are_base_units_times_replicas() -> None:
    spec = instances.read({**SEED, "source_replicasetnum": "3", "source_gpu": "2", "source_cpurate": "0.5", "gpu_model": "V100",
                           "memory_model": "DDR4", "source_memrate": "2Gi"})
    assert spec.amounts() == [("cpu", "STANDARD", 1500), ("memory", "DDR4", 6144), ("disk", "SYS", 60), ("disk", "DATA", 147),
                              ("gpu", "V100", 6)]
    most = instances.read({**SEED, "source_replicasetmax": "4"})
    assert most.amounts()[0] == ("cpu", "STANDARD", 4000)  # what an autoscaler may come to is bought


@pytest.mark.parametrize(("field", "value", "sort"), [
    ("source_name", "", "missing"), ("source_name", "a\nb", "form"), ("source_name", "x" * 101, "form"),
    ("source_authuser", "0root", "form"), ("source_authuser", "a b", "form"), ("source_podengine", "ReplicaSet", "choice"),
    ("source_replicasetnum", "0", "range"), ("source_replicasetnum", "1001", "range"), ("source_replicasetnum", "two", "range"),
    ("source_replicasetnum", "9" * 30, "range"), ("source_replicasetnum", "-1", "range"), ("instance_type", "Windows", "choice"),
    ("pod_imagepath", "UPPER/case:1", "form"), ("pod_imagepath", "a b", "form"), ("pod_imagepath", "ubuntu:", "form"),
    ("pod_imagepath", "https://example/x", "form"), ("source_memrate", "lots", "quantity"), ("source_memrate", "0", "range"),
    ("source_memrate", "-1Gi", "quantity"), ("source_memrate", "1e3", "quantity"), ("source_cpurate", "0m", "range"),
    ("source_cpurate", "2 cores", "quantity"), ("source_selflabel", "app", "form"), ("source_selflabel", "app:-x", "form"),
    ("source_selflabel", "cloudsched.io/x:y", "form"), ("source_selflabel", "a.kubernetes.io/x:y", "form"),
    ("source_gpu", "65", "range"), ("source_gpu", "1.5", "range"), ("source_portmode", "HostPort", "choice"),
    ("source_restartpolicy", "Sometimes", "choice"), ("source_restartpolicy", "Never", "choice"),
    ("source_apiport", "0", "range"), ("source_apiport", "", "missing"),
    ("source_insideport", "65536", "range"), ("source_outsideport", "29999", "range"),
    ("source_outsideport", "32768", "range"), ("source_mountpath", "relative", "form"), ("source_mountpath", "/a/../b", "form"),
    ("source_mountpath", "/etc", "form"), ("source_mountpath", "", "missing"), ("source_storagelimits", "much", "quantity"),
    ("source_storagelimits", "99999999Gi", "range"), ("source_nodeselector", "=x", "form"), ("disk_sys_limit", "x", "quantity"),
    ("source_replicasetmax", "1001", "range"), ("source_schedule", "* * * *", "form"), ("source_schedule", "60 * * * *", "form"),
    ("source_schedule", "*/0 * * * *", "form"), ("source_command", "a\0b", "form"),
])
def test_a_wrong_field_is_named(field: str, value: str, sort: str) -> None:
    assert wrong(**{field: value}) == {field: sort}


def test_all_wrong_fields_are_named_at_once() -> None:
    assert wrong(source_cpurate="x", source_gpu="-", source_portmode="y").keys() == {
        "source_cpurate", "source_gpu", "source_portmode"}


@pytest.mark.parametrize(("engine", "restart", "good"), [
    (engine, restart, restart in allowed) for engine, allowed in instances.ENGINES.items() for restart in instances.RESTARTS])
def test_each_controller_takes_its_restart_policies(engine: str, restart: str, good: bool) -> None:
    fields = {"source_podengine": engine, "source_restartpolicy": restart}
    if good:
        assert instances.read({**SEED, **fields}).source_restartpolicy == restart
    else:
        assert wrong(**fields) == {"source_restartpolicy": "choice"}


def test_replicas_have_limits_that_depend_on_the_engine() -> None:
    assert wrong(source_podengine="Standalone", source_replicasetnum="2") == {"source_replicasetnum": "range"}
    job = {"source_podengine": "Job", "source_restartpolicy": "Never"}
    assert wrong(**job, source_replicasetmax="2") == {"source_replicasetmax": "choice"}
    assert wrong(source_replicasetnum="3", source_replicasetmax="2") == {"source_replicasetmax": "range"}


def test_a_port_outside_of_the_range_is_no_matter_without_node_ports() -> None:
    assert instances.read({**SEED, "source_portmode": "Ingress", "source_outsideport": "80"}).source_outsideport == 80


def test_words_are_taken_in_any_case_and_numbers_from_json() -> None:
    spec = instances.read({**SEED, "source_podengine": "statefulset", "source_portmode": "nodeport", "source_gpu": 1,
                           "source_apiport": 6035, "source_storagelimits": 50})
    assert (spec.source_podengine, spec.source_portmode, spec.source_gpu, spec.storage_gi) == ("StatefulSet", "NodePort", 1, 50)


def test_a_change_keeps_what_is_not_given() -> None:
    was = instances.read(SEED)
    spec = instances.read({"source_cpurate": "2"}, was=was)
    assert (spec.cpu_m, spec.source_name) == (2000, was.source_name)


@pytest.mark.parametrize("password", [None, "", "a\nb", "x" * 129])
def test_a_password_that_cannot_be_is_not_repeated(password: str | None) -> None:
    with pytest.raises(InvalidInstance) as caught:
        instances.check_password(password)
    assert [one.field for one in caught.value.faults] == ["source_authpasswd"]
    assert not password or password not in caught.value.message


@pytest.mark.parametrize(("text", "label"), [
    ("4hBm8atruISOU2bs24t_N", "4hbm8atruisou2bs24t-n"), ("-z2r4CFb-7rcfugNn2wIr", "x-z2r4cfb-7rcfugnn2wir"),
    ("evfldtxjkr3jd8zxnfh__", "evfldtxjkr3jd8zxnfh--x"), ("acme", "acme")])
def test_ids_become_labels(text: str, label: str) -> None:
    assert instances.dns_label(text) == label


@over(st.text(max_size=80), st.text(max_size=80))
def test_any_text_becomes_a_label_of_its_own(one: str, other: str) -> None:
    labels = [instances.dns_label(text) for text in (one, other)]
    assert all(instances.is_label(label, 31) for label in labels)
    assert one == other or labels[0] != labels[1]


def test_the_names_of_the_contract() -> None:
    names = instances.names_of("evfldtxjkr3jd8zxnfhd5", cluster="4hBm8atruISOU2bs24t_N", org="mIWUHBeeDM8mwAFPIQ8pS",
                               engine="StatefulSet")
    assert names.namespace == "4hbm8atruisou2bs24t-n-miwuhbeedm8mwafpiq8ps"
    assert names.account == "4hbm8atruisou2bs24t-n-miwuhbeedm8mwafpiq8ps-serviceaccount"
    assert (names.controller, names.service) == ("evfldtxjkr3jd8zxnfhd5-statefulset", "evfldtxjkr3jd8zxnfhd5-service")


def test_new_keys_are_names_already() -> None:
    keys = {instances.new_key() for _ in range(200)}
    assert len(keys) == 200
    assert all(len(key) == 21 and key[0].isalpha() and instances.dns_label(key) == key for key in keys)


def test_every_event_leads_to_one_state() -> None:
    events = {event for row in instances.STATES.values() for event in row}
    assert {moves.target(instances.STATES, event) for event in events} == set(instances.STATES) - {"failed"} | {"failed"}
    assert set(instances.HOLDING) | {"failed", "deleted"} == set(instances.STATES)
