"""Does every sentence of contract 4 come out, found and not found, and is it done? REST, and XML-RPC beside it."""

from __future__ import annotations

import logging
import stat
import threading
import xmlrpc.client
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from cloudsched import logs
from cloudsched.dialects.cloud_scheduler import admin_app, gate
from cloudsched.domain.entities import Node
from cloudsched.settings import Settings
from cloudsched.store import clouds, events, jobs, nodes, system
from cloudsched.store.db import Database, current, write
from cloudsched.testing.factories import make_cloud, make_job, make_node

from .engine import stand_in
from .pool import FixedPool, add_shadow
from .server import serve
from .test_golden_text import rpc


@pytest.fixture
def database(sqlite_database: Database) -> Database:
    return sqlite_database


@pytest.fixture
def waiting(pool: FixedPool, settings: Settings) -> FlaskClient:
    """An admin listener whose shutdowns wait as long as it takes."""
    return admin_app(settings, wait_limit_s=30.0).test_client()


@pytest.fixture
def levels() -> Iterator[None]:
    before = logging.getLogger("cloudsched").level, logging.getLogger("gunicorn").level
    yield
    logging.getLogger("cloudsched").setLevel(before[0])
    logging.getLogger("gunicorn").setLevel(before[1])


def ask(client: FlaskClient, method: str, path: str, **form: str) -> str:
    answer = client.open(path, method=method, data=form)
    assert answer.status_code == 200, answer.status_code
    assert answer.content_type == "text/plain; charset=utf-8"
    return answer.get_data(as_text=True)


def put(client: FlaskClient, path: str, **form: str) -> str:
    return ask(client, "PUT", path, **form)


def now(node: Node) -> Node:
    found = nodes.get(node.id)
    assert found is not None
    return found


# 4.1


def test_enable_and_disable(admin: FlaskClient, pool: FixedPool) -> None:
    assert put(admin, "/clouds/Beta", action="enable") == "Cloud: Beta enabled."
    assert put(admin, "/clouds/beta", action="enable") == "Cloud: beta enabled."
    beta = clouds.by_name("beta")
    assert beta and beta.enabled
    assert rpc(admin, "disable_cloud", "BETA") == "Cloud: BETA disabled."
    beta = clouds.by_name("beta")
    assert beta and not beta.enabled
    assert put(admin, "/clouds/no", action="disable") == "Could not find cloud no."
    assert rpc(admin, "enable_cloud", "no") == "Could not find cloud no."
    assert [event.kind for event in events.since(0, subject_kind="cloud", subject_id=pool.beta.id)] == [
        "cloud.add", "cloud.enable", "cloud.enable", "cloud.disable"]


# 4.2


@pytest.mark.parametrize("number", ["ten", "", "1.5", "-1", "99999999999", "9" * 40, "١٢"])
def test_adjust_wants_an_integer(admin: FlaskClient, pool: FixedPool, number: str) -> None:
    assert put(admin, "/clouds/no", allocations=number) == "Need to use an integer value for vm_allocation"
    assert rpc(admin, "adjust_cloud_allocation", "alpha", number) == "Need to use an integer value for vm_allocation"


def test_adjust(admin: FlaskClient, pool: FixedPool, files: Path) -> None:
    assert put(admin, "/clouds/no", allocations="3") == "Unable to find cluster with name: no"
    assert put(admin, "/clouds/Alpha", allocations="10") == "VM slots already set at 10. Nothing to do."
    assert put(admin, "/clouds/Alpha", allocations="12") == "Attempt adjustment on cloud Alpha, change to 12 slots"
    assert rpc(admin, "adjust_cloud_allocation", "alpha", 3) == "Attempt adjustment on cloud alpha, change to 3 slots"
    alpha = clouds.by_name("alpha")
    assert alpha and alpha.max_slots == 3
    assert "vm_slots: 10  ; was 20" in (files / "cloud_resources.conf").read_text()  # it came through the API


def test_adjust_below_the_nodes_there_retires_the_newest(admin: FlaskClient, pool: FixedPool, files: Path) -> None:
    write(lambda tx: tx.run("UPDATE cloud SET source = 'file' WHERE name = 'alpha'"))
    assert put(admin, "/clouds/ALPHA", allocations="1") == "Attempt adjustment on cloud ALPHA, change to 1 slots"
    assert [now(node).retired for node in pool.nodes.values()] == [0, 1, 1, 0]
    # One never registered and cannot be told; it waits in the shadow.
    assert [now(node).override for node in pool.nodes.values()] == [None, None, "Retiring", None]
    assert "vm_slots: 1  ; was 20\n" in (files / "cloud_resources.conf").read_text()


def test_adjust_survives_a_file_that_cannot_be_written(
        admin: FlaskClient, pool: FixedPool, files: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(lambda tx: tx.run("UPDATE cloud SET source = 'file' WHERE name = 'alpha'"))
    (files / "cloud_resources.conf").unlink()
    assert put(admin, "/clouds/alpha", allocations="5") == "Attempt adjustment on cloud alpha, change to 5 slots"
    assert "could not be written" in caplog.text


# 4.3


def test_shut_one_down(waiting: FlaskClient, pool: FixedPool) -> None:
    shadow = add_shadow(pool.alpha)
    with stand_in(refuse=("1002",)):
        assert put(waiting, "/clouds/Alpha/vms/1001", action="shutdown") == "VM 1001 has been Destroyed."
        assert put(waiting, "/clouds/alpha/vms/1002", action="shutdown") == (
            "Destroying VM 1002 failed. Leaving it for now.")
        assert rpc(waiting, "shutdown_vm", "alpha", "old-1") == "VM old-1 has been Destroyed."
    assert [now(pool.nodes["running"]).state, now(shadow).state] == ["gone", "gone"]
    assert put(waiting, "/clouds/alpha/vms/1001", action="shutdown") == (
        "Could not find VM with ID: 1001 on Cluster: alpha.")
    assert rpc(waiting, "shutdown_vm", "no", "1") == "Could not find a Cluster with name: no."


def test_shut_several_down(waiting: FlaskClient, pool: FixedPool) -> None:
    assert put(waiting, "/clouds/no/vms", action="shutdown", count="x") == "Unable to shutdown x VMs, use a number."
    assert rpc(waiting, "shutdown_cluster_count", "no", "") == "Unable to shutdown  VMs, use a number."
    assert put(waiting, "/clouds/no/vms", action="shutdown", count="2") == "Could not find cloud named: no"
    assert put(waiting, "/clouds/no/vms", action="shutdown", count="all") == "Could not find a Cluster with name: no."
    assert put(waiting, "/clouds/alpha/vms", action="shutdown", count="0") == ""
    assert put(waiting, "/clouds/alpha/vms", action="shutdown", count="-7") == ""
    with stand_in(refuse=("1002",)):
        assert rpc(waiting, "shutdown_cluster_count", "Alpha", 2) == (
            "VM 1001 has been Destroyed.\nDestroying VM 1002 failed. Leaving it for now.\n")
    with stand_in():
        assert put(waiting, "/clouds/alpha/vms", action="shutdown", count="99") == (
            "VM 1002 has been Destroyed.\nVM 8f9c2b1e-77aa-4f3c-9d0e-2b7f4f1e0c11 has been Destroyed.\n")
        assert rpc(waiting, "shutdown_cluster_all", "beta") == "VM sir-77 has been Destroyed.\n"
    assert put(waiting, "/clouds/beta/vms", action="shutdown", count="all") == ""


def test_a_number_beyond_every_machine_word_is_a_number(waiting: FlaskClient, pool: FixedPool) -> None:
    many = "9" * 30
    assert put(waiting, "/clouds/beta/vms", action="force_retire", count=many).endswith("Retired 0 VM(s) in beta.")
    assert rpc(waiting, "force_retire_count_vm", "beta", f"-{many}") == "Retired 0 VM(s) in beta."
    with stand_in():
        assert put(waiting, "/clouds/beta/vms", action="shutdown", count=many) == "VM sir-77 has been Destroyed.\n"
    assert put(waiting, "/clouds/beta", allocations=many) == "Need to use an integer value for vm_allocation"


def test_the_shown_id_names_a_node_before_a_name_that_is_not_shown(admin: FlaskClient, pool: FixedPool) -> None:
    first = make_node(pool.beta, "twin", external_id="e-1")
    second = make_node(pool.beta, "other", external_id="twin")
    assert put(admin, "/clouds/beta/vms/twin", action="remove") == "Removed beta's VM ID twin from CloudScheduler."
    assert (now(first).state, now(second).state) == ("running", "released")


def test_shutdown_gives_up_waiting_but_not_the_wish(admin: FlaskClient, pool: FixedPool) -> None:
    assert put(admin, "/clouds/alpha/vms/1001", action="shutdown") == "Destroying VM 1001 failed. Leaving it for now."
    assert (now(pool.nodes["running"]).state, now(pool.nodes["running"]).goal) == ("stopping", "gone")


def test_others_are_served_while_somebody_waits(pool: FixedPool, settings: Settings) -> None:
    told: list[str] = []
    with serve(admin_app(settings, wait_limit_s=30.0)) as port:
        url = f"http://127.0.0.1:{port}"

        def wait() -> None:
            with xmlrpc.client.ServerProxy(url) as server:
                told.append(str(server.shutdown_cluster_all("alpha")))

        waiter = threading.Thread(target=wait)
        waiter.start()
        while now(pool.nodes["running"]).state != "stopping":
            pass
        with xmlrpc.client.ServerProxy(url) as server:
            assert server.enable_cloud("beta") == "Cloud: beta enabled."
            assert server.reset_override_state("alpha", "1001") == "Reset state of alpha on 1001"
        assert told == []
        with stand_in():
            waiter.join()
    assert told[0].startswith("VM 1001 has been Destroyed.\n")


def test_slow_calls_leave_threads_for_the_others(pool: FixedPool, settings: Settings) -> None:
    """Contract 0.7: beyond a quarter of the threads they are refused before anything is done."""
    few = replace(settings, web=replace(settings.web, threads=4))
    app, told = admin_app(few, wait_limit_s=30.0), []

    def wait() -> None:
        told.append(put(app.test_client(), "/clouds/alpha/vms/1001", action="shutdown"))
        current().close_thread()

    waiter = threading.Thread(target=wait)
    waiter.start()
    while now(pool.nodes["running"]).state != "stopping":
        pass
    answer = app.test_client().put("/clouds/alpha/vms/1002?action=shutdown")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.text == "too many operations are under way: nothing was done, try again"
    with pytest.raises(xmlrpc.client.Fault, match="nothing was done"):
        rpc(app.test_client(), "force_retire_all_vm", "alpha")
    assert put(app.test_client(), "/clouds/beta", action="enable") == "Cloud: beta enabled."
    assert now(pool.nodes["starting"]).state == "starting"
    with stand_in():
        waiter.join()
        assert put(app.test_client(), "/clouds/alpha/vms/1002", action="shutdown") == "VM 1002 has been Destroyed."
    assert told == ["VM 1001 has been Destroyed."]


def test_default_number_of_slow_calls(settings: Settings) -> None:
    assert gate.places(settings) == 12
    assert gate.places(replace(settings, web=replace(settings.web, threads=4))) == 1


# 4.4


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_retire_one(admin: FlaskClient, pool: FixedPool, method: str) -> None:
    path = "/clouds/Alpha/vms/1001"
    assert ask(admin, method, path, action="force_retire") == "Retired VM 1001 on Alpha."
    node = now(pool.nodes["running"])
    assert (node.override, node.force_retire, node.goal, node.state) == ("Retiring", 1, "drain", "running")
    assert ask(admin, method, "/clouds/alpha/vms/1002", action="force_retire") == "Unable to retire VM."
    assert ask(admin, method, "/clouds/alpha/vms/x", action="force_retire") == "Could not find VM ID x."
    assert rpc(admin, "force_retire_vm", "no", "x") == "Could not find Cloud no."


def test_retire_several(admin: FlaskClient, pool: FixedPool) -> None:
    assert put(admin, "/clouds/no/vms", action="force_retire", count="x") == "Unable to retire x VMs, use a number"
    assert put(admin, "/clouds/no/vms", action="force_retire", count="1") == "Cloud not find Cloud no."
    assert rpc(admin, "force_retire_all_vm", "no") == "Cloud not find Cloud no."
    assert ask(admin, "POST", "/clouds/Alpha/vms", action="force_retire", count="1") == "Retired 1 VM(s) in Alpha."
    assert rpc(admin, "force_retire_count_vm", "alpha", -3) == "Retired 0 VM(s) in alpha."
    assert rpc(admin, "force_retire_count_vm", "alpha", "99") == (
        "Unable to retire VM 1002\nRetired 2 VM(s) in alpha.")
    assert put(admin, "/clouds/alpha/vms", action="force_retire", count="all") == (
        "Unable to retire VM 1002\nRetired 2 VM(s) in alpha.")
    make_node(make_cloud("gamma"))
    assert rpc(admin, "force_retire_all_vm", "Gamma") == "Retired all VMs in Gamma."


def test_retire_through_the_external_batch_system(pool: FixedPool, settings: Settings, tmp_path: Path) -> None:
    said = tmp_path / "said"
    general = replace(settings.cloud_scheduler.general, condor_off_command=script(
        tmp_path, f'echo "$@" >> {said}\ncase "$3" in *bad*) echo No; exit 1;; esac\necho "Sent it"\n'))
    admin = admin_app(with_general(settings, general)).test_client()
    good = make_node(pool.beta, external_id="good", slot_address="<10.0.0.1:9618>", master_address="<10.0.0.1:9619>")
    make_node(pool.beta, external_id="bad", slot_address="<bad>", master_address="<bad>")
    assert put(admin, "/clouds/beta/vms/good", action="force_retire") == "Retired VM good on beta."
    assert put(admin, "/clouds/beta/vms/bad", action="force_retire") == "Unable to retire VM."
    assert said.read_text().splitlines()[:2] == [
        "-peaceful -addr <10.0.0.1:9618> -subsystem startd", "-peaceful -addr <10.0.0.1:9619> -subsystem master"]
    assert now(good).override == "Retiring"
    assert put(admin, "/clouds/beta/vms/good", action="reset_override_state") == "Reset state of beta on good"
    assert now(good).goal == "drain"  # what was sent to the machine is not undone


# 4.5, 4.6


def test_reset(admin: FlaskClient, pool: FixedPool) -> None:
    put(admin, "/clouds/alpha/vms/1001", action="force_retire")
    assert put(admin, "/clouds/Alpha/vms/1001", action="reset_override_state") == "Reset state of Alpha on 1001"
    node = now(pool.nodes["running"])
    assert (node.override, node.force_retire, node.goal) == (None, 0, "run")
    assert put(admin, "/clouds/alpha/vms/x", action="reset_override_state") == "Could not find VM ID x."
    assert rpc(admin, "reset_override_state", "no", "x") == "Could not find Cloud no."


def test_remove(admin: FlaskClient, pool: FixedPool) -> None:
    add_shadow(pool.alpha)
    job = make_job(state="running", node_id=pool.nodes["running"].id)
    assert ask(admin, "DELETE", "/clouds/Alpha/vms/1001") == "Removed Alpha's VM ID 1001 from CloudScheduler."
    assert now(pool.nodes["running"]).state == "released"
    found = jobs.get(job.id)
    assert found and found.state == "queued"
    assert put(admin, "/clouds/alpha/vms/old-1", action="remove") == (
        "Removed alpha's VM ID old-1 from CloudScheduler retired resources.")
    assert put(admin, "/clouds/alpha/vms/1001", action="remove") == "Could not find VM ID: 1001 on Cloud: alpha"
    assert rpc(admin, "delete_vm_entry", "alpha", "x") == "Could not find VM ID: x on Cloud: alpha"
    assert rpc(admin, "delete_vm_entry", "no", "x") == "Could not find Cloud no."


def test_remove_all(admin: FlaskClient, pool: FixedPool) -> None:
    shadow = add_shadow(pool.alpha)
    assert ask(admin, "DELETE", "/clouds/no/vms") == "Could not find Cloud no."
    assert ask(admin, "DELETE", "/clouds/Alpha/vms") == "Removed all VMs from Alpha."
    assert {now(pool.nodes[name]).state for name in ("running", "starting", "retiring")} == {"released"}
    assert now(shadow).state == "running"
    assert put(admin, "/clouds/beta/vms", action="remove", count="all") == "Removed all VMs from beta."
    assert rpc(admin, "delete_all_vm_entry_cloud", "beta") == "Removed all VMs from beta."


# 4.7, 4.8


def test_user_limits(admin: FlaskClient, pool: FixedPool, files: Path) -> None:
    assert ask(admin, "GET", "/user-limits") == "{}"
    assert ask(admin, "POST", "/user-limits") == "True"
    assert ask(admin, "GET", "/user-limits") == "{u'alice': 5, u'bob': 10}" == rpc(admin, "list_user_limits")
    (files / "limits.json").write_text("no json")
    assert rpc(admin, "user_limit_reload") is False
    assert rpc(admin, "list_user_limits") == "{}"
    (files / "limits.json").write_text('{"o\'neil": 99999999999, "a\\u0000b": 1}')
    assert rpc(admin, "user_limit_reload") is True
    assert rpc(admin, "list_user_limits") == '{u"o\'neil": 2147483647}'
    (files / "limits.json").unlink()
    assert ask(admin, "POST", "/user-limits") == "False"


def test_aliases(admin: FlaskClient, pool: FixedPool, settings: Settings, files: Path) -> None:
    assert ask(admin, "POST", "/cloud-aliases") == "True"
    expected = "{u'east': [u'alpha', u'beta'], u'west': [u'gamma']}"
    assert ask(admin, "GET", "/cloud-aliases") == expected == rpc(admin, "list_cloud_alias")
    without = replace(settings.cloud_scheduler.general, target_cloud_alias_file=None)
    other = admin_app(with_general(settings, without)).test_client()
    assert rpc(other, "cloud_alias_reload") is False
    assert rpc(other, "list_cloud_alias") == expected
    (files / "aliases.json").write_text("[]")
    assert rpc(admin, "cloud_alias_reload") is False
    assert rpc(admin, "list_cloud_alias") == "{}"


# 4.9 to 4.12


@pytest.mark.usefixtures("levels")
def test_log_level(admin: FlaskClient, pool: FixedPool) -> None:
    assert put(admin, "/", log_level="debug") == ""
    assert (logs.level(), system.setting("log_level")) == ("DEBUG", "DEBUG")
    assert rpc(admin, "change_log_level", "VERBOSE") == ""
    assert logging.getLogger("cloudsched").level == logs.VERBOSE
    assert admin.put("/", data={"log_level": "loud"}).status_code == 404
    assert logging.getLogger("cloudsched").level == logs.VERBOSE


def test_quick_shutdown_toggles(admin: FlaskClient, pool: FixedPool) -> None:
    found = []
    for _ in range(3):
        assert ask(admin, "POST", "/", action="quick_shutdown") == ""
        found.append(system.setting("quick_shutdown"))
    assert rpc(admin, "perform_quick_shutdown") == ""
    assert [*found, system.setting("quick_shutdown")] == ["1", "0", "1", "0"]


def test_reconfig(admin: FlaskClient, pool: FixedPool, files: Path) -> None:
    assert ask(admin, "POST", "/", action="reconfig") == ""
    assert [cloud.name for cloud in clouds.all_clouds()] == ["alpha", "beta"]
    (files / "cloud_resources.conf").write_text("[alpha\n")
    assert rpc(admin, "cloud_resources_reconfig") == ""
    assert [cloud.name for cloud in clouds.all_clouds()] == ["alpha", "beta"]


def test_refresh_proxies(pool: FixedPool, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    proxy, other = tmp_path / "x509", tmp_path / "other"
    proxy.write_text("old")
    proxy.chmod(0o600)
    other.write_text("old")
    command = script(tmp_path, 'for word; do last="$word"; done\n[ "$6" = bad ] && { echo "wrong" "pass phrase" >&2; exit 3; }\n'
                     'printf "%s" "$*" > "$last"\n')
    general = replace(settings.cloud_scheduler.general, myproxy_logon_command=command, proxy_cache_dir=str(tmp_path))
    admin = admin_app(with_general(settings, general)).test_client()
    good = make_job(user="zoe", attributes={"x509userproxy": str(proxy), "myproxy_creds_name": "zoe-cred"})
    bad = make_job(user="zoe", attributes={"x509userproxy": str(other), "myproxy_creds_name": "bad"})
    out = make_job(user="zoe", attributes={"x509userproxy": "/etc/hostname", "myproxy_creds_name": "c"})
    assert ask(admin, "POST", "/users/zoe", refresh="job_proxy") == ""
    assert proxy.read_text().startswith(f"-s localhost -p 7512 -k zoe-cred -a {proxy} -t 12 -o {tmp_path}/.x509.")
    assert (stat.S_IMODE(proxy.stat().st_mode), other.read_text()) == (0o600, "old")
    told = {job.id: events.since(0, subject_kind="job", subject_id=job.id)[-1] for job in (good, bad, out)}
    assert [told[job.id].kind for job in (good, bad, out)] == ["job.proxy_renew", "job.proxy_fail", "job.proxy_fail"]
    assert "exit code 3: wrong pass phrase" in told[bad.id].data
    assert "exit code 3" in caplog.text
    assert "is not in proxy_cache_dir" in told[out.id].data
    assert rpc(admin, "refresh_job_proxy_user", "nobody") == ""


def test_refresh_proxies_of_nodes(pool: FixedPool, settings: Settings, tmp_path: Path) -> None:
    proxy = tmp_path / "x509"
    proxy.write_text("old")
    general = replace(settings.cloud_scheduler.general, myproxy_logon_command=script(tmp_path, "exit 0\n"))
    admin = admin_app(with_general(settings, general)).test_client()
    node = make_node(pool.alpha, user="zoe", facts={
        "proxy_file": str(proxy), "myproxy_creds_name": "c", "myproxy_server": "keys.example.org"})
    assert rpc(admin, "refresh_vm_proxy_user", "zoe") == ""
    told = events.since(0, subject_kind="node", subject_id=node.id)[-1]
    assert told.kind == "node.proxy_fail"
    assert "wrote no proxy" in told.data
    assert proxy.read_text() == "old"


def script(directory: Path, body: str) -> str:
    file = directory / "command"
    file.write_text(f"#!/bin/sh\n{body}")
    file.chmod(0o755)
    return str(file)


def with_general(settings: Settings, general: object) -> Settings:
    return replace(settings, cloud_scheduler=replace(settings.cloud_scheduler, general=general))
