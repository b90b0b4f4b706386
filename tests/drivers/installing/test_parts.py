"""What is read before any host is asked: accounts, options, join commands, labels; and what configurations come of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as given_data
from hypothesis import strategies

from cloudsched.domain.labels import parse_label
from cloudsched.drivers.installing import given, kubeadm, slurm
from cloudsched.drivers.installing.access import Access, access_from
from cloudsched.drivers.installing.given import Options
from cloudsched.drivers.installing.hosts import Script, cleaned, parsed
from cloudsched.drivers.installing.job import STEPS, Job, Step
from cloudsched.errors import Invalid

TOKEN, HASH = "abcdef.0123456789abcdef", "sha256:" + "0a" * 32
JOIN = f"kubeadm join 192.168.0.3:6443 --token {TOKEN} --discovery-token-ca-cert-hash {HASH}"
FACTS = {"host_name": "alpha", "cores": "8", "memory_mb": "15900", "user": "root", "gpus": "0"}


def job(action: str, kind: str = "slurm", **more: Any) -> Job:
    facts = more.pop("facts", FACTS)
    cluster = more.pop("cluster", {})
    return Job(action, kind, "", Access("10.0.0.7", password="p"), given.read(more), facts=dict(facts), cluster=cluster)


# accounts


def test_an_account_and_what_is_secret_of_it() -> None:
    access = access_from({"host": "10.0.0.7", "port": "2222", "user": "ops", "password": "geheim"})
    assert access.label == "10.0.0.7:2222" and "geheim" not in repr(access)
    assert access.plain() == {"host": "10.0.0.7", "port": 2222, "user": "ops", "host_key": ""}
    assert access_from(json.loads(access.to_json())) == access
    target = access.target(pins="", sudo=True)
    assert target.sudo and target.sudo_password == "geheim"
    assert not Access("h", password="x").target(pins="", sudo=True).sudo  # root needs none


@pytest.mark.parametrize(("facts", "field"), [
    ({}, "host"), ({"host": "a b", "password": "x"}, "host"), ({"host": "a", "port": "x", "password": "x"}, "port"),
    ({"host": "a", "port": 70000, "password": "x"}, "port"), ({"host": "a"}, "password"),
    ({"host": "a", "password": "x", "user": "a b"}, "user"), ({"host": "a", "colour": "red"}, "colour"),
])
def test_an_account_that_cannot_be(facts: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        access_from(facts)
    assert caught.value.errors[0].field == field


# options


@pytest.mark.parametrize(("options", "field"), [
    ({"colour": 1}, "colour"), ({"prefix": "relative"}, "prefix"), ({"prefix": "/tmp"}, "prefix"),
    ({"prefix": "/srv/../etc"}, "prefix"), ({"prefix": "/srv/a b"}, "prefix"), ({"slurmd_port": 0}, "slurmd_port"),
    ({"node_name": "Ä"}, "node_name"), ({"node_name": "a;b"}, "node_name"), ({"packages": "magic"}, "packages"),
    ({"packages": "bundle"}, "bundle"), ({"isolation": "none"}, "isolation"), ({"version": "1.31"}, "version"),
    ({"mirror": "ftp://x"}, "mirror"), ({"mirror": "https://x/$(id)"}, "mirror"), ({"pod_network": "ten"}, "pod_network"),
    ({"cluster_name": "Ä b"}, "cluster_name"), ({"compute": "perhaps"}, "compute"), ({"cores": -1}, "cores"),
    ({"address": "a b"}, "address"), ({"step_limit_s": 1}, "step_limit_s"),
])
def test_an_option_that_is_wrong_is_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        given.read(options)
    assert caught.value.errors[0].field == f"options.{field}"


def test_options_of_the_host() -> None:
    text = "# of this rack\nprefix=/srv/slurm\n\nslurmd_port = 7000\nnonsense=1\nbroken line\n"
    assert given.parse_host_options(text) == {"prefix": "/srv/slurm", "slurmd_port": "7000"}
    assert given.read(given.parse_host_options(text)).slurmd_port == 7000


@given_data(strategies.dictionaries(strategies.sampled_from(sorted(Options.__dataclass_fields__)),
                                    strategies.one_of(strategies.text(max_size=30), strategies.integers(), strategies.booleans(),
                                                      strategies.none())))
def test_no_option_gets_into_a_script_as_code(options: dict[str, Any]) -> None:
    """Whatever is asked for: a clear no, or values that are quoted."""
    try:
        found = given.read(options)
    except Invalid as error:
        assert error.errors[0].field.startswith("options.")
        return
    for value in (found.prefix, found.bundle, found.node_name, found.mirror, found.cluster_name, found.address):
        assert not set(value) & set("'\"$`;&|\n ")


# join commands


def test_the_join_command_of_slurm() -> None:
    join = slurm.parse_join("  slurm join 10.0.0.1:6817\n --token sealed:1:abc= ")
    assert (join.host, join.port, join.token) == ("10.0.0.1", 6817, "sealed:1:abc=")
    assert slurm.parse_join(join.text) == join
    v6 = slurm.Join("fd00::1", 6817, "t")
    assert v6.text == "slurm join [fd00::1]:6817 --token t" and slurm.parse_join(v6.text) == v6


def test_the_join_command_of_kubernetes() -> None:
    assert kubeadm.parse_join(JOIN) == {"server": "192.168.0.3:6443", "token": TOKEN, "hash": HASH}
    assert kubeadm.parse_join(JOIN.replace(" --disc", " \\\n\t--disc")) == kubeadm.parse_join(JOIN)


@pytest.mark.parametrize("text", ["", "rm -rf /", "slurm join x", f"{JOIN} --ignore-preflight-errors=all", JOIN + "; reboot",
                                  JOIN.replace(TOKEN, "$(id)"), JOIN.replace("192.168.0.3:6443", "$(id):1"),
                                  f"slurm join a:99999 --token {TOKEN}", f"slurm join a;b:1 --token {TOKEN}"])
def test_what_is_no_join_command_is_refused_and_not_repeated(text: str) -> None:
    for parse in (slurm.parse_join, kubeadm.parse_join):
        with pytest.raises(Invalid) as caught:
            parse(text)
        assert caught.value.errors[0].field == "join_command" and TOKEN not in str(caught.value)


# labels


@pytest.mark.parametrize(("text", "opt", "found"), [
    ("gpu=a100", "label", ("gpu", "a100")), ("gpu=", "label", ("gpu", "")),
    ("example.com/gpu=a_b.c", "label", ("example.com/gpu", "a_b.c")),
    ("gpu-", "label", ("gpu", None)), ("gpu", "unlabel", ("gpu", None)), ("gpu=a100", "unlabel", ("gpu", None)),
    ("gpu-", "unlabel", ("gpu", None)), (" gpu=1 ", "label", ("gpu", "1")),
])
def test_labels(text: str, opt: str, found: tuple[str, str | None]) -> None:
    assert parse_label(text, opt) == found


@pytest.mark.parametrize(("text", "opt", "field"), [
    ("gpu", "label", "label"), ("=x", "label", "label"), ("a b=c", "label", "label"), ("a=b c", "label", "label"),
    ("-a=b", "label", "label"), ("a=-b", "label", "label"), ("a" * 64 + "=b", "label", "label"),
    ("a=" + "b" * 64, "label", "label"),
    ("A_b/c=d", "label", "label"), ("/c=d", "label", "label"), ("a/b/c=d", "label", "label"), ("", "unlabel", "label"),
    ("标签=1", "label", "label"), ("a=b", "paint", "opt"), ("a=b\n", "x", "opt"),
])
def test_what_is_no_label(text: str, opt: str, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_label(text, opt)
    assert caught.value.errors[0].field == field and caught.value.errors[0].allowed


# configurations and scripts


def test_the_configuration_of_a_cluster() -> None:
    common = slurm.cluster_conf(given.read({"cluster_name": "demo", "slurmctld_port": 7000}), FACTS, address="10.0.0.7")
    lines = dict(line.split("=", 1) for line in common.splitlines())
    assert lines["ClusterName"] == "demo" and lines["SlurmctldHost"] == "alpha(10.0.0.7)" and lines["SlurmctldPort"] == "7000"
    assert lines["SlurmUser"] == "slurm" and "SlurmdUser" not in lines and "CommunicationParameters" not in lines
    assert lines["ProctrackType"] == "proctrack/linuxproc"
    own = slurm.cluster_conf(given.read({"prefix": "/srv/slurm", "isolation": "cgroup"}), FACTS, address="127.0.0.1")
    assert "SlurmUser=root\nSlurmdUser=root\n" in own and "NoInAddrAny" in own and "proctrack/cgroup" in own


def test_the_line_of_a_node() -> None:
    line = slurm.node_line(given.read({}), FACTS, name="n1", address="10.0.0.8")
    assert line == "NodeName=n1 NodeHostname=alpha NodeAddr=10.0.0.8 Port=6818 CPUs=8 RealMemory=15900 State=UNKNOWN"
    assert " CPUs=2 RealMemory=100 Gres=gpu:4 " in slurm.node_line(
        given.read({"cores": 2, "memory_mb": 100, "gpus": 4}), FACTS, name="n1", address="a")


@pytest.mark.parametrize("kind", ["slurm", "kubernetes"])
@pytest.mark.parametrize("action", ["new_cluster", "new_worker", "take_apart"])
def test_every_script_belongs_to_a_step_and_is_a_shell_script(kind: str, action: str) -> None:
    plan = (slurm.steps if kind == "slurm" else kubeadm.steps)(job(action, kind, compute=True))
    assert plan and set(plan) <= set(STEPS[action])
    for scripts in plan.values():
        for script in scripts:
            done = subprocess.run(["/bin/sh", "-n"], input=script.whole(), capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
            assert script.text.strip() in script.shown()
            assert not any(value in script.shown() for value in script.secrets.values() if value)


def test_the_token_goes_into_a_file_not_into_a_command() -> None:
    plan = kubeadm.steps(job("new_worker", "kubernetes", cluster=kubeadm.parse_join(JOIN), node_name="w1"))
    script = plan[Step.CONFIGURE][0]
    assert TOKEN in script.secrets["JOIN_YAML"] and TOKEN not in script.shown()
    told = json.loads(script.secrets["JOIN_YAML"])
    assert told["discovery"] == {"bootstrapToken": {"apiServerEndpoint": "192.168.0.3:6443", "token": TOKEN,
                                                    "caCertHashes": [HASH]}}
    assert told["nodeRegistration"]["name"] == "w1"
    assert not any(TOKEN in one.text + str(one.values) for scripts in plan.values() for one in scripts)


def test_what_kubeadm_init_is_told() -> None:
    text = kubeadm.init_yaml(job("new_cluster", "kubernetes", version="1.30.2", images="m.example/k8s", cluster_name="demo",
                                 pod_network="10.1.0.0/16"))
    parts = [json.loads(part) for part in text.split("---\n")]
    assert [one["kind"] for one in parts] == ["ClusterConfiguration", "InitConfiguration", "KubeletConfiguration"]
    assert parts[0]["kubernetesVersion"] == "v1.30.2" and parts[0]["imageRepository"] == "m.example/k8s"
    assert parts[0]["networking"]["podSubnet"] == "10.1.0.0/16"
    assert parts[1]["localAPIEndpoint"] == {"advertiseAddress": "10.0.0.7"}


# what hosts say


def test_facts_and_texts_of_an_output() -> None:
    told = parsed(0, "one\n::cores=8\n::nodes=a=b\n\n  two words \n")
    assert told.facts == {"cores": "8", "nodes": "a=b"} and told.short() == "two words" and told.done and not told.again
    assert parsed(75, "").again and not parsed(None, "").done and parsed(None, "").short() == ""


def test_what_looks_like_a_secret_is_not_repeated() -> None:
    said = cleaned(f"{JOIN}; the password is hunter22", ["hunter22", "x"])
    assert TOKEN not in said and HASH not in said and "hunter22" not in said and "192.168.0.3:6443" in said
    script = Script("echo $A", secrets={"A": "geheim"})
    assert "geheim" not in script.shown() + repr(script) and b"geheim" in script.whole()


@pytest.mark.parametrize(("mine", "controllers", "good"), [
    ("22.05.8", "22.05.8", True), ("22.05.9", "22.05.8", True), ("21.08.1", "22.05.8", True), ("24.11.0", "22.05.8", False),
    ("22.05.8", "", True),
])
def test_a_node_is_not_newer_than_its_controller(tmp_path: Path, mine: str, controllers: str, good: bool) -> None:
    for name in slurm.PROGRAMS["worker"].split():
        (tmp_path / name).write_text(f"#!/bin/sh\necho slurm-wlm {mine}\n")
        (tmp_path / name).chmod(0o755)
    script = slurm.packages(given.read({}), "worker", controller_version=controllers)
    done = subprocess.run(["/bin/sh"], input=script.whole(), capture_output=True, check=False,
                          env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)})  # fmt: skip
    told = parsed(done.returncode, done.stdout.decode())
    assert (done.returncode == 0) == good and told.facts.get("version") == (mine if good else None)
    assert good or told.short().startswith(f"Slurm {mine} is newer than the controller's {controllers}")


def test_packages_that_are_not_there_are_named(tmp_path: Path) -> None:
    for name in ("sed", "sort", "tail", "head"):
        (tmp_path / name).symlink_to(Path("/usr/bin") / name)
    text = slurm.packages(given.read({}), "controller").whole().replace(b"PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin;", b"")
    done = subprocess.run(["/bin/sh"], input=text, capture_output=True, check=False,
                          env={"PATH": str(tmp_path), "HOME": str(tmp_path)})  # fmt: skip
    assert done.returncode == 1 and done.stdout.decode().strip() == (
        "not installed: munged munge slurmctld scontrol sinfo squeue scancel; install the Debian packages munge slurmctld "
        "slurm-client, or set the option packages to apt or bundle")
