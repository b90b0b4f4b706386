"""Does `cloud_admin` send and print what contract 8.2 says, in both generations?"""

from __future__ import annotations

import json
import subprocess
import sys
import xmlrpc.client
from pathlib import Path

import pytest

from cloudsched.cli.cloud_admin import cloud_admin_main

from .clients_fixtures import (  # noqa: F401  fixtures
    free_port_fixture,
    home_fixture,
    listening_fixture,
    runner,
    server_fixture,
)

C, V = "alpha", "1001"
VMS, VM, CLOUD = "PUT /clouds/alpha/vms", "PUT /clouds/alpha/vms/1001", "PUT /clouds/alpha"
ANSWER = object()  # stands for the answer in the lists of printed lines

# Options -> (REST request, its form, XML-RPC method, its arguments, lines printed in REST, in XML-RPC).
PLAIN = ([ANSWER], [ANSWER])
QUICK = (["", "Toggled Quick shutdown flag."], ["Toggled Quick shutdown flag."])
TABLE = {
    "-k -c alpha -n 1001": (VM, "action=shutdown", "shutdown_vm", (C, V), *PLAIN),
    "-k -c alpha -a": (VMS, "action=shutdown&count=all", "shutdown_cluster_all", (C,), *PLAIN),
    "-k -c alpha -b 3": (VMS, "action=shutdown&count=3", "shutdown_cluster_count", (C, "3"), *PLAIN),
    "-k -c alpha -b x": (VMS, "action=shutdown&count=x", "shutdown_cluster_count", (C, "x"), *PLAIN),
    "-k -c alpha -b -1": (VMS, "action=shutdown&count=-1", "shutdown_cluster_count", (C, "-1"), *PLAIN),
    "-o -c alpha -n 1001": (VM, "action=force_retire", "force_retire_vm", (C, V), *PLAIN),
    "-o -c alpha -a": (VMS, "action=force_retire&count=all", "force_retire_all_vm", (C,), *PLAIN),
    "-o -c alpha -b 3": (VMS, "action=force_retire&count=3", "force_retire_count_vm", (C, "3"), *PLAIN),
    "-x -c alpha -n 1001": (VM, "action=reset_override_state", "reset_override_state", (C, V), *PLAIN),
    "-m -c alpha -n 1001": (VM, "action=remove", "delete_vm_entry", (C, V), *PLAIN),
    "-m -c alpha -a": (VMS, "action=remove&count=all", "delete_all_vm_entry_cloud", (C,),
                       ["http://127.0.0.1:PORT/clouds/alpha/vms", ANSWER], [ANSWER]),
    "-e alpha": (CLOUD, "action=enable", "enable_cloud", (C,), *PLAIN),
    "-d alpha": (CLOUD, "action=disable", "disable_cloud", (C,), *PLAIN),
    "-j": ("GET /user-limits", "", "list_user_limits", (), *PLAIN),
    "-y": ("GET /cloud-aliases", "", "list_cloud_alias", (), *PLAIN),
    "-l DEBUG": ("PUT /", "log_level=DEBUG", "change_log_level", ("DEBUG",), *PLAIN),
    "-l verbose": ("PUT /", "log_level=VERBOSE", "change_log_level", ("VERBOSE",), *PLAIN),
    "-l Warning": ("PUT /", "log_level=WARNING", "change_log_level", ("WARNING",), *PLAIN),
    "-p vm -u bob": ("POST /users/bob", "refresh=vm_proxy", "refresh_vm_proxy_user", ("bob",),
                     ["Refreshing VM proxies for user bob."], ["Refreshing VM proxies for user bob."]),
    "-p job -u bob": ("POST /users/bob", "refresh=job_proxy", "refresh_job_proxy_user", ("bob",),
                      ["Refreshing Job proxies for user bob."], ["Refreshing Job proxies for user bob."]),
    "-q": ("POST /", "action=quick_shutdown", "perform_quick_shutdown", (), *QUICK),
    "-c alpha -v 12": (CLOUD, "allocations=12", "adjust_cloud_allocation", (C, "12"),
                       *[["Adjusting vm_slots on alpha to 12", ANSWER]] * 2),
    "-c alpha -v -2": (CLOUD, "allocations=-2", "adjust_cloud_allocation", (C, "-2"),
                       *[["Adjusting vm_slots on alpha to -2", ANSWER]] * 2),
}
SAME_AS = {  # long names, and which option wins
    "--kill-vm --cloud alpha --vm-id 1001": "-k -c alpha -n 1001",
    "--kill-vm --cloud=alpha --all": "-k -c alpha -a",
    "--kill-vm --cloud=alpha --number=3": "-k -c alpha -b 3",
    "-k -c alpha -n 1001 -a -b 3": "-k -c alpha -n 1001",
    "-k -c alpha -a -b 3": "-k -c alpha -a",
    "--force-retire --cloud alpha --vm-id 1001": "-o -c alpha -n 1001",
    "-o -c alpha -n 1001 -a -b 3": "-o -c alpha -n 1001",
    "-o -c alpha -a -b 3": "-o -c alpha -a",
    "--reset-vm-state -c alpha -n 1001 -a": "-x -c alpha -n 1001",
    "--remove -c alpha --all": "-m -c alpha -a",
    "-m -c alpha -n 1001 -a -b 3": "-m -c alpha -n 1001",
    "--enable alpha": "-e alpha",
    "--disable=alpha": "-d alpha",
    "--list-limits": "-j",
    "--list-alias": "-y",
    "--log-level debug": "-l DEBUG",
    "--refresh-proxy vm --user bob": "-p vm -u bob",
    "--quick-exit": "-q",
    "--cloud alpha --vm-allocation 12": "-c alpha -v 12",
    # Order of evaluation: each option beats all that follow in the contract's list.
    "-k -c alpha -a -m -o -x -e b -d b -r -i -j -t -y -l INFO -p vm -q -v 1": "-k -c alpha -a",
    "-m -c alpha -a -o -x -e b -d b -r -i -j -t -y -l INFO -p vm -q -v 1": "-m -c alpha -a",
    "-o -c alpha -a -x -e b -d b -r -i -j -t -y -l INFO -p vm -q -v 1": "-o -c alpha -a",
    "-x -c alpha -n 1001 -e b -d b -r -i -j -t -y -l INFO -p vm -q -v 1": "-x -c alpha -n 1001",
    "-e alpha -d b -r -i -j -t -y -l INFO -p vm -q -v 1": "-e alpha",
    "-d alpha -r -i -j -t -y -l INFO -p vm -q -v 1": "-d alpha",
    "-j -t -y -l INFO -p vm -q -v 1": "-j",
    "-y -l INFO -p vm -q -v 1": "-y",
    "-l DEBUG -p vm -u b -q -v 1": "-l DEBUG",
    "-p vm -u bob -q -v 1": "-p vm -u bob",
    "-q -v 1 -c alpha": "-q",
}
ROWS = {**TABLE, **{options: TABLE[same] for options, same in SAME_AS.items()}}
REFUSED = {
    "-k": "Must Provide the cloud name to kill VMs on and the VM ID, count, or all flag.",
    "-k -n 1001 -a": "Must Provide the cloud name to kill VMs on and the VM ID, count, or all flag.",
    "-k -c alpha": "Must provide a -n [VM ID], -a to kill all VMs, or -b [count] to kill a set number"
                   " on cloud.",
    "-m": "Must Provide the cloud name to remove VMs on and the VM ID or all flag.",
    "-m -c alpha": "Must provide a -n [VM ID] or -a to remove all VMs on this cloud.",
    "-m -c alpha -b 3": "Must provide a -n [VM ID] or -a to remove all VMs on this cloud.",
    "-o": "Must Provide the cloud name to force retire VMs on and the VM ID, all or count flag.",
    "-o -c alpha": "Must provide a -n [VM ID], -a (all), or -b [count] to force retire all or some VMs"
                   " on this cloud.",
    "-x": "Must provide the cloud name and VM ID to reset override state on.",
    "-x -c alpha": "Must provide -n [VM ID] to reset state of VM.",
    "-x -c alpha -a": "Must provide -n [VM ID] to reset state of VM.",
    "-p vm": "Must Specify a user with -u or --user.",
    "-p job": "Must Specify a user with -u or --user.",
    "-v 3": "Change vm slot of cloud need '-c cloudname' for cloud to change allocation of",
    "-r": "Reconfig Disabled - use 'quickrestart'",
    "--reconfig -i -j": "Reconfig Disabled - use 'quickrestart'",
    "": "Run cloud_admin -h for help.",
    "-c alpha -n 1001 -a": "Run cloud_admin -h for help.",
}
LIMITS = ("User-Limit file reloaded.", "No Limits set - list empty or problem parsing file.")
ALIASES = ("Target Cloud Alias file reloaded.",
           "Failed to load alias file - check json format, path, or permissions.")
RELOADS = {"-i": ("/user-limits", "user_limit_reload", LIMITS),
           "--reload-limits -j -t": ("/user-limits", "user_limit_reload", LIMITS),
           "-t": ("/cloud-aliases", "cloud_alias_reload", ALIASES),
           "--reload-target-alias -y": ("/cloud-aliases", "cloud_alias_reload", ALIASES)}


@pytest.fixture
def run(server, home, capsys):
    return runner(cloud_admin_main, "-P", server=server, capsys=capsys)


def printed(lines, answer, port):
    shown = [answer if line is ANSWER else line.replace("PORT", str(port)) for line in lines]
    return "".join(f"{line}\n" for line in shown)


@pytest.mark.parametrize("options", ROWS)
def test_rest(server, run, options):
    request, form, _, _, lines, _ = ROWS[options]
    if lines is QUICK[0]:
        server.answers[request] = ""
    answer = f"answer to {request}\n"
    assert run(*options.split()) == (0, printed(lines, answer, server.port))
    assert server.seen == [(request, form)]
    assert server.content_types == ["application/x-www-form-urlencoded" if form else None]


@pytest.mark.parametrize("options", ROWS)
def test_xml_rpc(server, run, options):
    _, _, method, arguments, _, lines = ROWS[options]
    assert run("--xml-rpc", *options.split()) == (0, printed(lines, f"answer to {method}\n", server.port))
    assert server.seen == [(method, arguments)]


@pytest.mark.parametrize("options", RELOADS)
def test_reloads(server, run, options):
    path, method, (done, failed) = RELOADS[options]
    for value, sentence in ((True, done), (False, failed)):
        server.answers[f"POST {path}"] = str(value)
        server.results[method] = value
        assert run(*options.split()) == run("--xml-rpc", *options.split()) == (0, f"{sentence}\n")
    assert server.seen == [(f"POST {path}", ""), (method, ())] * 2


@pytest.mark.parametrize("generation", [(), ("--xml-rpc",)])
@pytest.mark.parametrize("options", REFUSED)
def test_refusals_send_nothing(server, run, generation, options):
    assert run(*generation, *options.split()) == (0, f"{REFUSED[options]}\n")
    assert server.seen == []
    assert run("--exit-code", *options.split())[0] == (5 if "-r" in options else 2)


@pytest.mark.parametrize(("name", "raw"), [
    ("a/b", "a%2Fb"), ("a b", "a%20b"), ("a?b#c", "a%3Fb%23c"), ("a%2Fb", "a%252Fb"), ("a.b-c_D", "a.b-c_D"),
    (".", "."), ("..", ".."), ("~me", "%7Eme"), ("Zürich", "Z%C3%BCrich"), ("-x", "-x"), ("\udcff", "%FF")])
def test_names_in_paths(server, run, name, raw):
    run("-k", "-c", name, "-n", name)
    run("-p", "vm", "-u", name)
    run("-e", name)
    _, out = run("-m", "-c", name, "-a")
    assert out.startswith(f"http://127.0.0.1:{server.port}/clouds/{raw}/vms\n")
    assert [request for request, _ in server.seen] == [
        f"PUT /clouds/{raw}/vms/{raw}", f"POST /users/{raw}", f"PUT /clouds/{raw}", f"PUT /clouds/{raw}/vms"]


def test_form_values_are_encoded(server, run):
    run("-k", "-c", "alpha", "-b", "3&action=enable")
    assert server.seen == [(VMS, "action=shutdown&count=3%26action%3Denable")]


@pytest.mark.parametrize("generation", [(), ("--xml-rpc",)])
def test_no_connection(run, free_port, generation):
    assert run(*generation, "-j", port=free_port) == (0, (
        f"/usr/bin/client: couldn't connect to cloud scheduler at 127.0.0.1 on port {free_port}.\n"
        f"Is the cloud scheduler running on port {free_port}?\n"))
    assert run(*generation, "-j", "--exit-code", port=free_port)[0] == 1


def test_faults(server, run):
    server.results["enable_cloud"] = xmlrpc.client.Fault(1, "boom")
    lines = ("Unexpected error:  <class 'xmlrpc.client.Fault'> <Fault 1: 'boom'>\n"
             f"Is the cloud scheduler running on port {server.port}?\n")
    assert run("--xml-rpc", "-e", "alpha") == (0, lines)
    assert run("--xml-rpc", "-e", "alpha", "--exit-code") == (1, lines)


def test_a_broken_connection_is_not_tried_again(home, capsys):
    import socket
    import threading

    def accept_and_hang_up(listener, calls):
        for _ in range(2):
            connection, _address = listener.accept()
            calls.append(connection.recv(1000)[:14])
            connection.close()

    calls: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept_and_hang_up, args=(listener, calls))
        thread.start()
        for generation in ((), ("--xml-rpc",)):
            port = listener.getsockname()[1]
            cloud_admin_main(["-s", "127.0.0.1", "-P", str(port), "-q", *generation])
        thread.join()
    assert calls == [b"POST / HTTP/1.", b"POST /RPC2 HTT"]
    assert capsys.readouterr().out.count("couldn't connect") == 2


@pytest.mark.parametrize("argv", [["-l", "loud"], ["-p", "all"], ["-P", "x"], ["-P", "0"], ["--nonsense"],
                                  ["-e"]])
def test_option_errors(home, capsys, argv):
    with pytest.raises(SystemExit) as caught:
        cloud_admin_main(argv)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: cloud_admin [options]\n")


def test_port_of_the_file_and_of_the_environment(server, home, capsys, monkeypatch, free_port):
    def shown(*argv):
        cloud_admin_main(["-s", "127.0.0.1", "-j", *argv])
        return capsys.readouterr()

    monkeypatch.setenv("CLOUDSCHED_PORT_OFFSET", str(server.port - 8112))
    answer = ("answer to GET /user-limits\n\n", "")
    assert shown() == answer
    conf = home / "cloud_scheduler.conf"
    conf.write_text(f"[global]\ninfo_server_port: {free_port}\n")  # B3: that is the other port
    assert shown() == answer
    conf.write_text(f"[global]\nadmin_server_port: {free_port}\n")
    assert f"on port {free_port}." in shown().out
    other = home / "other.conf"
    other.write_text(f"[global]\nadmin_server_port = {server.port}\n")
    assert shown("-f", str(other)) == shown("-P", str(server.port)) == answer
    monkeypatch.delenv("CLOUDSCHED_PORT_OFFSET")
    monkeypatch.setenv("CLOUDSCHED_SERVER", "127.0.0.1")
    assert cloud_admin_main(["-y", "--port", str(server.port)]) == 0
    assert capsys.readouterr().out == "answer to GET /cloud-aliases\n\n"


def test_unusable_files(home, capsys):
    (home / "cloud_scheduler.conf").write_text("[global]\nadmin_server_port: x\n")
    assert cloud_admin_main(["-j"]) == 1
    sentence = "Configuration file problem: admin_server_port must be an integer value."
    assert capsys.readouterr().out == f"{sentence}\n"
    assert cloud_admin_main(["-j", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"ok": False, "text": sentence}


# Comments.

COMMENTED = [options for options in (*TABLE, *RELOADS) if options.split()[-2:][0] not in ("-e", "-d")
             and options not in ("-j", "-y")]


@pytest.fixture
def enforced(home):
    log = home / "admin.log"
    (home / "cloud_scheduler.conf").write_text(
        f"[logging]\nadmin_log_comments: true\nlog_location_cloud_admin: {log}\n"
        "log_format: %(levelname)s - %(message)s\n")
    return log


@pytest.mark.parametrize("options", [*COMMENTED, "-k -e alpha", "-k"])
def test_enforced_comments(server, run, enforced, options):
    assert run(*options.split()) == (0, (
        "Admin comments being enforced. Please use -C 'reason for command' when performing this option.\n"
        "Run cloud_admin -h for help.\n"))
    assert server.seen == []
    assert not enforced.exists()


@pytest.mark.parametrize("options", ["-e alpha", "-d alpha", "-j", "-y"])
def test_options_without_enforced_comment(server, run, enforced, options):
    assert run(*options.split())[1] == f"answer to {TABLE[options][0]}\n\n"


def test_reconfig_needs_no_comment(run, enforced):
    assert run("-r") == (0, "Reconfig Disabled - use 'quickrestart'\n")


@pytest.mark.parametrize("option", ["-C", "--comment"])
def test_comments_are_logged(server, run, enforced, option, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "alice")
    assert run("-k", "-c", C, "-n", V, option, "disk is\nfull %d")[1] == f"answer to {VM}\n\n"
    assert run("-e", C, option, "repaired")[1] == f"answer to {CLOUD}\n\n"
    assert enforced.read_text().splitlines() == [
        "INFO - alice: kill_vm cloud='alpha' vm_id='1001': disk is full %d",
        "INFO - alice: enable='alpha': repaired"]


def test_a_full_log_is_turned_over(server, run, enforced, home):
    with (home / "cloud_scheduler.conf").open("a") as conf:
        conf.write("log_max_size: 60\n")
    for number in range(3):
        run("-q", "-C", f"a rather long reason number {number}")
    assert "number 2" in enforced.read_text()
    assert "number 1" in Path(f"{enforced}.1").read_text()


def test_a_comment_that_cannot_be_kept(server, run, home, capsys):
    conf = home / "cloud_scheduler.conf"
    conf.write_text("[logging]\n")
    assert cloud_admin_main(["-s", "127.0.0.1", "-P", str(server.port), "-j", "-C", "why"]) == 0
    assert capsys.readouterr() == (
        "answer to GET /user-limits\n\n",
        "cloud_admin: the comment is not kept: log_location_cloud_admin is not set\n")
    conf.write_text(f"[logging]\nadmin_log_comments: on\nlog_location_cloud_admin: {home}/absent/log\n")
    server.reset()
    status, out = run("-q", "-C", "why")
    assert status == 1
    assert out.startswith("Configuration file problem: the comment cannot be written to its log: ")
    assert server.seen == []


# What the original did not have.

@pytest.mark.parametrize(("options", "text", "expected"), [
    ("-e alpha", "Cloud: alpha enabled.", 0),
    ("-e alpha", "Could not find cloud alpha.", 4),
    ("-c alpha -v 12", "Attempt adjustment on cloud alpha, change to 12 slots", 0),
    ("-c alpha -v 12", "VM slots already set at 12. Nothing to do.", 0),
    ("-c alpha -v 12", "Need to use an integer value for vm_allocation", 5),
    ("-c alpha -v 12", "Unable to find cluster with name: alpha", 4),
    ("-k -c alpha -n 1001", "VM 1001 has been Destroyed.", 0),
    ("-k -c alpha -n 1001", "Destroying VM 1001 failed. Leaving it for now.", 5),
    ("-k -c alpha -n 1001", "Could not find VM with ID: 1001 on Cluster: alpha.", 4),
    ("-k -c alpha -a", "VM 1 has been Destroyed.\nDestroying VM 2 failed. Leaving it for now.\n", 5),
    ("-k -c alpha -a", "Could not find a Cluster with name: alpha.", 4),
    ("-k -c alpha -a", "", 0),
    ("-k -c alpha -b 3", "Unable to shutdown 3 VMs, use a number.", 5),
    ("-o -c alpha -n 1001", "Unable to retire VM.", 5),
    ("-o -c alpha -a", "Unable to retire VM 7\nRetired 2 VM(s) in alpha.", 5),
    ("-o -c alpha -a", "Cloud not find Cloud alpha.", 4),
    ("-x -c alpha -n 1001", "Reset state of alpha on 1001", 0),
    ("-m -c alpha -n 1001", "Could not find VM ID: 1001 on Cloud: alpha", 4),
    ("-m -c alpha -n 1001", "Removed alpha's VM 1001 from CloudScheduler.", 0),
])
def test_exit_code_and_json(server, run, options, text, expected):
    request, _, method, *_ = TABLE[options]
    server.answers[request] = server.results[method] = text
    assert run(*options.split())[0] == 0
    for generation in ((), ("--xml-rpc",)):
        assert run(*generation, "--exit-code", *options.split())[0] == expected
        status, out = run(*generation, "--json", *options.split())
        document = json.loads(out)
        assert (status, document["ok"]) == (0, expected == 0)
        assert document["text"].endswith(text)


def test_exit_code_of_http_errors_and_reloads(server, run):
    for status, expected in ((404, 4), (405, 4), (500, 1)):
        server.status = status
        assert run("--exit-code", "-e", "alpha")[0] == expected
    server.status = 200
    server.answers["POST /user-limits"] = "False"
    assert run("--exit-code", "-i")[0] == 5


def test_json_of_tables_refusals_and_failures(server, run, free_port):
    server.answers["GET /user-limits"] = "{u'alice': 5, u'b\\'ob': 10}"
    assert json.loads(run("-j", "--json")[1]) == {
        "ok": True, "text": "{u'alice': 5, u'b\\'ob': 10}", "value": {"alice": 5, "b'ob": 10}}
    server.answers["GET /cloud-aliases"] = "{u'east': [u'alpha', u'beta']}"
    assert json.loads(run("-y", "--json")[1])["value"] == {"east": ["alpha", "beta"]}
    server.answers["GET /cloud-aliases"] = "strange"
    assert json.loads(run("-y", "--json")[1]) == {"ok": True, "text": "strange"}
    assert json.loads(run("-k", "--json")[1]) == {"ok": False, "text": REFUSED["-k"]}
    document = json.loads(run("-j", "--json", port=free_port)[1])
    assert document["ok"] is False
    assert "couldn't connect" in document["text"]


SCRIPT = Path(__file__).parents[3] / "scripts" / "cloud_admin"


def test_the_script(server, tmp_path):
    command = [sys.executable, str(SCRIPT), "-s", "127.0.0.1", "-P", str(server.port), "-e", "alpha"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"answer to {CLOUD}\n\n", "")


def test_help_loads_no_http_library():
    code = ("import sys\nfrom cloudsched.cli.cloud_admin import cloud_admin_main\n"
            "try:\n    cloud_admin_main(['--help'])\nexcept SystemExit:\n    pass\n"
            "assert not {'requests', 'xmlrpc.client', 'flask', 'peewee', 'http.client'} & set(sys.modules)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          cwd=SCRIPT.parents[1])
    assert (done.returncode, done.stderr) == (0, "")
    assert "Examples:\n  cloud_admin " in done.stdout
