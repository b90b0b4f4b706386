"""Does each cloud type of `cloud_resources.conf` become a cloud that its driver can be made from?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cloudsched.classic import clouds_conf
from cloudsched.drivers import registry
from cloudsched.drivers.ec2 import Ec2Driver
from cloudsched.drivers.openstack import StackDriver
from cloudsched.engine.places import Places
from cloudsched.services import pool_sync, snapshot
from cloudsched.settings import Settings, load
from cloudsched.store import clouds
from cloudsched.store.db import Database

EC2 = {"host": "cloud.example.org", "vm_slots": "3", "memory": "4096", "regions": "one, two", "security_group": "default, ssh",
       "access_key_id": "AKIA", "secret_access_key": "very-secret-%value", "key_name": "ada", "placement_zone": "one-a",
       "secure_connection": "true", "port": "8788", "networks": "private"}
KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: prod, context: {cluster: c, user: u}}]
"""
SECTIONS: dict[str, tuple[str, dict[str, str]]] = {
    "amazon": ("AmazonEC2", EC2 | {"host": "ec2.amazonaws.com"}),
    "stack": ("OpenStack", EC2),
    "euca": ("Eucalyptus", EC2 | {"port": "", "secure_connection": "false", "contextualization": "x"}),
    "native": ("OpenStackNative", {
        "auth_url": "https://cloud.example.org:5000/v3", "username": "ada", "password": "very-secret-value",
        "tenant_name": "physics", "regions": "One", "security_group": "", "vm_slots": "5", "cacert": "/etc/ca.pem",
        "user_domain_name": "People"}),
    "hpc": ("Slurm", {"vm_slots": "7", "partition": "short", "host": "login.example.org", "username": "ada",
                      "key_passphrase": "very-secret-value"}),
    "lab": ("SSH", {"vm_slots": "8", "hosts": "lab1, lab2:2222", "user": "ada", "password@lab1:22": "very-secret-value"}),
    "cluster": ("Kubernetes", {"vm_slots": "9", "kubeconfig": "FOLDER/kube", "context": "prod", "namespace": "batch"}),
    "desk": ("Local", {"vm_slots": "2", "run_as": "nobody"}),
}


@pytest.fixture
def settings(sqlite_database: Database, tmp_state: Path, tmp_path: Path) -> Settings:
    return synced(tmp_state, tmp_path)


def synced(state: Path, folder: Path, **flags: Any) -> Settings:
    lines = []
    for name, (kind, keys) in SECTIONS.items():
        lines += [f"[{name}]", f"cloud_type: {kind}"]
        lines += [f"{key}: {value}" for key, value in keys.items() if value or key == "security_group"]
    (folder / "cloud_resources.conf").write_text("\n".join(lines).replace("FOLDER", str(folder)) + "\n")
    (folder / "kube").write_text(KUBECONFIG)
    found = load({"state": str(state), "cloud_scheduler.config_file": "none",
                  "cloud_scheduler.cloud_resource_config": str(folder / "cloud_resources.conf"), **flags},
                 environ={"HOME": str(state)})
    snapshot.configure(found)
    assert pool_sync.sync_clouds_from_file(found).added == tuple(SECTIONS)
    return found


@pytest.mark.parametrize("name", SECTIONS)
def test_a_driver_can_be_made(settings: Settings, name: str) -> None:
    cloud = clouds.by_name(name)
    assert cloud is not None
    assert "very-secret" not in cloud.options + cloud.credentials
    made = registry.make(Places(settings).place(cloud))
    assert made.kind == SECTIONS[name][0]
    assert Places(settings).problem(cloud) == ""


def test_ec2_clouds(settings: Settings) -> None:
    made = {name: driver_of(settings, name) for name in ("amazon", "stack", "euca")}
    assert all(isinstance(one, Ec2Driver) for one in made.values())
    setups = {name: one._setup for name, one in made.items()}
    assert {name: setup.endpoint.url for name, setup in setups.items()} == {
        "amazon": "https://ec2.one.amazonaws.com", "stack": "https://cloud.example.org:8788/services/Cloud",
        "euca": "http://cloud.example.org:8773/services/Eucalyptus"}
    setup = setups["stack"]
    assert (setup.endpoint.region, setup.security_groups, setup.key_name, setup.zone) == (
        "one", ("default", "ssh"), "ada", "one-a")
    assert setup.endpoint.secret_access_key == "very-secret-%value"
    assert (setups["amazon"].tags_at_creation, setups["stack"].tags_at_creation) == (True, False)


def test_openstack_clouds(settings: Settings) -> None:
    made = driver_of(settings, "native")
    assert isinstance(made, StackDriver)
    endpoint = made._setup.endpoint
    assert (endpoint.auth_url, endpoint.project, endpoint.region) == ("https://cloud.example.org:5000", "physics", "One")
    assert (endpoint.username, endpoint.password, endpoint.user_domain, endpoint.project_domain, endpoint.cacert) == (
        "ada", "very-secret-value", "People", "Default", "/etc/ca.pem")


def test_a_user_name_is_the_account_of_hosts_that_are_logged_in_to(settings: Settings) -> None:
    cloud = clouds.by_name("hpc")
    assert cloud is not None and cloud.option["user"] == "ada"


def test_the_password_of_one_host_is_shown_nowhere(settings: Settings, tmp_path: Path) -> None:
    sections = dict(clouds_conf.raw_sections(tmp_path / "cloud_resources.conf"))
    assert "very-secret" not in json.dumps(sections)
    assert [key for key, _ in sections["lab"]] == ["cloud_type", "vm_slots", "hosts", "user"]


def test_machines_hear_of_the_batch_system(sqlite_database: Database, tmp_state: Path, tmp_path: Path) -> None:
    told = {"cloud_scheduler.condor_q_command": "condor_q -l -allusers",
            "cloud_scheduler.condor_webservice_url": "http://head.example.org:8080", "cloud_scheduler.override_vmtype": "true"}
    settings = synced(tmp_state, tmp_path, **told)
    for name in ("amazon", "native"):
        agent = driver_of(settings, name)._setup.agent
        assert (agent.condor_host, agent.condor_context_file, agent.override_vm_type) == (
            "head.example.org", "/etc/condor/central_manager", True)


def driver_of(settings: Settings, name: str) -> Any:
    cloud = clouds.by_name(name)
    assert cloud is not None
    return Places(settings).driver(cloud)
