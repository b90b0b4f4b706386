"""Does `cloud_status` send and print what contract 8.1 says, in both generations?"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import xmlrpc.client
from pathlib import Path

import pytest

from cloudsched import __version__
from cloudsched.cli import cloud_status
from cloudsched.cli.cloud_status import cloud_status_main

from .clients_fixtures import (  # noqa: F401  fixtures
    free_port_fixture,
    home_fixture,
    listening_fixture,
    runner,
    server_fixture,
)

C, V = "alpha", "1001"
# Options in the contract's order -> (REST target, XML-RPC method, its arguments).
TABLE = {
    "-a": ("/clusters", "get_cluster_resources", ()),
    "-m": ("/vms", "get_cluster_vm_resources", ()),
    "-u -c alpha": ("/clusters/alpha/vms?metric=all", "get_vm_stats", (C,)),
    "-u": ("/vms?metric=all", "get_vm_stats", ()),
    "-n 1001 -c alpha": ("/clusters/alpha/vms/1001", "get_vm_info", (C, V)),
    "-c alpha": ("/clusters/alpha", "get_cluster_info", (C,)),
    "-j -a": ("/clusters.json", "get_json_resource", ()),
    "-j -n 1001 -c alpha": ("/clusters/alpha/vms/1001.json", "get_json_vm", (C, V)),
    "-j -c alpha": ("/clusters/alpha.json", "get_json_cluster", (C,)),
    "-d": ("/developer-info", "get_developer_information", ()),
    "-i": ("/ips", "get_ips_munin", ()),
    "-b": ("/vms?metric=startup_time", "get_vm_startup_time", ()),
    "-t": ("/diff-types", "get_diff_types", ()),
    "-g": ("/vms?metric=job_run_times", "get_vm_job_run_times", ()),
    "-l": ("/cloud/config", "get_cloud_config_values", ()),
    "-o -c alpha": ("/clusters/alpha/vms?metric=total", "get_total_vms_cloud", (C,)),
    "-o": ("/vms?metric=total", "get_total_vms", ()),
    "-r": ("/vms?metric=missing", "get_missing_vm_list", ()),
    "-x": ("/thread-heart-beats", "get_thread_heart_beats", ()),
    "-z": ("/failures/boot", "get_job_failure_reasons", ()),
    "-w": ("/failures/image", "get_image_failures", ()),
    "": ("/cloud", "get_cloud_resources", ()),
    # Long names.
    "--all-cluster": ("/clusters", "get_cluster_resources", ()),
    "--virtual-machines": ("/vms", "get_cluster_vm_resources", ()),
    "--vm-status --cluster alpha": ("/clusters/alpha/vms?metric=all", "get_vm_stats", (C,)),
    "--vm-info=1001 --cluster=alpha": ("/clusters/alpha/vms/1001", "get_vm_info", (C, V)),
    "--json --cluster alpha": ("/clusters/alpha.json", "get_json_cluster", (C,)),
    "--developer-information": ("/developer-info", "get_developer_information", ()),
    "--ip-address": ("/ips", "get_ips_munin", ()),
    "--boot-time": ("/vms?metric=startup_time", "get_vm_startup_time", ()),
    "--diff_type": ("/diff-types", "get_diff_types", ()),
    "--avg_job_time": ("/vms?metric=job_run_times", "get_vm_job_run_times", ()),
    "--cloud-conf": ("/cloud/config", "get_cloud_config_values", ()),
    "--total-vms": ("/vms?metric=total", "get_total_vms", ()),
    "--missing-vms": ("/vms?metric=missing", "get_missing_vm_list", ()),
    "--heart-beats": ("/thread-heart-beats", "get_thread_heart_beats", ()),
    "--boot-failures": ("/failures/boot", "get_job_failure_reasons", ()),
    "--image-failures": ("/failures/image", "get_image_failures", ()),
    # The first row that matches acts.
    "-a -m -u -c alpha -q all": ("/clusters", "get_cluster_resources", ()),
    "-j -a -m": ("/vms", "get_cluster_vm_resources", ()),
    "-m -u -c alpha": ("/vms", "get_cluster_vm_resources", ()),
    "-c alpha -d -x": ("/clusters/alpha", "get_cluster_info", (C,)),
    "-j -a -c alpha -n 1001": ("/clusters.json", "get_json_resource", ()),
    "-j -o -c alpha": ("/clusters/alpha.json", "get_json_cluster", (C,)),
    "-o -d -c alpha": ("/developer-info", "get_developer_information", ()),
    "-z -w -i": ("/ips", "get_ips_munin", ()),
    "-l surplus words": ("/cloud/config", "get_cloud_config_values", ()),
}
PRINTED_AS_IT_IS = {key: row for key, row in TABLE.items() if key != "-j -a -m"}
LISTS = {
    "sched": ("Jobs in Scheduled Queue", "get_schedjobs"),
    "new": ("Jobs in New Queue", "get_newjobs"),
    "high": ("Jobs in High Priority Queue", "get_highjobs"),
    "running": ("Jobs in Running state", "get_runningjobs"),
    "idle": ("Jobs in Idle state", "get_idlejobs"),
    "held": ("Jobs in Held state", "get_heldjobs"),
    "complete": ("Jobs in Complete state", "get_completejobs"),
}


@pytest.fixture
def run(server, home, capsys):
    return runner(cloud_status_main, "-p", server=server, capsys=capsys)


@pytest.mark.parametrize("options", PRINTED_AS_IT_IS)
def test_rest(server, run, options):
    target = TABLE[options][0]
    assert run(*options.split()) == (0, f"answer to GET {target}\n\n")
    assert server.seen == [(f"GET {target}", "")]


@pytest.mark.parametrize("options", PRINTED_AS_IT_IS)
def test_xml_rpc(server, run, options):
    _, method, arguments = TABLE[options]
    assert run("--xml-rpc", *options.split()) == (0, f"answer to {method}\n\n")
    assert server.seen == [(method, arguments)]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("option", ["-q", "--job-queue"])
def test_job_lists(server, run, name, option):
    title, method = LISTS[name]
    assert run(option, name) == (0, f"{title}\nanswer to GET /jobs?state={name}\n\n")
    assert run("--xml-rpc", option, name) == (0, f"{title}\nanswer to {method}\n\n")
    assert server.seen == [(f"GET /jobs?state={name}", ""), (method, ())]


def test_all_job_lists(server, run):
    titles = {name: LISTS[name] for name in ("sched", "new", "high")}
    assert run("-q", "all") == (0, "".join(
        f"{title}\nanswer to GET /jobs?state={name}\n\n" for name, (title, _) in titles.items()))
    assert run("--xml-rpc", "-q", "all") == (0, "".join(
        f"{title}\nanswer to {method}\n\n" for title, method in titles.values()))


@pytest.mark.parametrize("option", ["-v", "--version"])
def test_version(server, run, option):
    server.answers["GET /"] = "Cloud Scheduler version: 9"
    server.results["get_version"] = "Cloud Scheduler version: 9"
    expected = (0, f"Cloud Scheduler version: 9\nCloud Status version: {__version__}\n")
    assert run(option) == run("--xml-rpc", option) == expected
    assert server.seen == [("GET /", ""), ("get_version", ())]


@pytest.mark.parametrize("generation", [(), ("--xml-rpc",)])
@pytest.mark.parametrize("options", ["-n 1001", "-n 1001 -j"])
def test_vm_without_cluster(server, run, generation, options):
    status, out = run(*generation, *options.split())
    assert status == 0
    assert "Please provide -c cluster_name with vm ID" in out
    assert server.seen == []


@pytest.mark.parametrize(("name", "raw"), [
    ("a/b", "a%2Fb"), ("a b", "a%20b"), ("a?b#c", "a%3Fb%23c"), ("a%b", "a%25b"), ("a%2Fb", "a%252Fb"),
    ("a.b-c_D", "a.b-c_D"), (".", "."), ("..", ".."), ("~me", "%7Eme"), ("Zürich", "Z%C3%BCrich"),
    ("a:b@c;d=e&f+g", "a%3Ab%40c%3Bd%3De%26f%2Bg"), ("-x", "-x"), ("a\nb", "a%0Ab"), ("\udcff", "%FF"),
    ("x" * 300, "x" * 300)])
def test_names_in_paths(server, run, name, raw):
    run("-c", name, "-n", name)
    run("-c", name, "-j")
    assert [request for request, _ in server.seen] == [f"GET /clusters/{raw}/vms/{raw}",
                                                       f"GET /clusters/{raw}.json"]


def test_answers_are_printed_whatever_their_status(server, run):
    server.answers["GET /cloud"] = "not found"
    for status in (404, 405, 500, 302):
        server.status = status
        assert run() == (0, "not found\n")


def test_utf_8_and_older_encodings(server, run):
    for body in ("Zürich".encode(), "Zürich".encode("latin-1")):
        server.answers["GET /cloud"] = body
        assert run() == (0, "Zürich\n")


@pytest.mark.parametrize("generation", [(), ("--xml-rpc",)])
@pytest.mark.parametrize("options", ["", "-q all", "-j -a", "-v"])
def test_no_connection(run, free_port, generation, options):
    assert run(*generation, *options.split(), port=free_port) == (1, (
        f"/usr/bin/client: couldn't connect to cloud scheduler at 127.0.0.1 on port {free_port}.\n"
        f"Is the cloud scheduler running on port {free_port}?\n"))


def test_faults(server, run):
    server.results["get_cloud_resources"] = xmlrpc.client.Fault(1, "boom")
    assert run("--xml-rpc") == (1, "Unexpected error:  <class 'xmlrpc.client.Fault'> <Fault 1: 'boom'>\n"
                                   f"Is the cloud scheduler running on port {server.port}?\n")


@pytest.mark.parametrize("argv", [["-q", "everything"], ["-p", "x"], ["-p", "70000"], ["--nonsense"], ["-c"],
                                  ["--watch", "-1"], ["--watch", "0"], ["--count", "2"], ["--timeout", "0"],
                                  ["--watch", "--count", "0"]])
def test_option_errors(home, capsys, argv):
    with pytest.raises(SystemExit) as caught:
        cloud_status_main(argv)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: cloud_status [options]\n")
    assert "error: " in err


def test_port_of_the_file_and_of_the_environment(server, home, capsys, monkeypatch, free_port):
    def printed(*argv):
        cloud_status_main(["-s", "127.0.0.1", *argv])
        return capsys.readouterr()

    monkeypatch.setenv("CLOUDSCHED_PORT_OFFSET", str(server.port - 8111))
    assert printed() == ("answer to GET /cloud\n\n", "")
    conf = home / "cloud_scheduler_status.conf"
    conf.write_text(f"[global]\ninfo_server_port: {free_port}\n")
    assert f"on port {free_port}." in printed().out
    other = home / "other.conf"
    other.write_text(f"[global]\ninfo_server_port = {server.port}\n")
    for option in ("-f", "--config-file"):
        assert printed(option, str(other)).out == "answer to GET /cloud\n\n"
    conf.write_text("[global]\n")
    assert printed().out == "answer to GET /cloud\n\n"
    monkeypatch.setenv("CLOUDSCHED_PORT_OFFSET", "many")
    with pytest.raises(SystemExit) as caught:
        printed()
    assert caught.value.code == 2
    assert "CLOUDSCHED_PORT_OFFSET must be a whole number, not 'many'" in capsys.readouterr().err


def test_server_of_the_environment(server, home, capsys, monkeypatch):
    monkeypatch.setenv("CLOUDSCHED_SERVER", "127.0.0.1")
    assert cloud_status_main(["-p", str(server.port), "-o"]) == 0
    assert capsys.readouterr().out == "answer to GET /vms?metric=total\n\n"


def test_no_file_warns_about_the_default_port(home, capsys, monkeypatch):
    monkeypatch.setattr(cloud_status, "_shown", lambda server, options: (f"port {server.port}", 0))
    assert cloud_status_main([]) == 0
    assert capsys.readouterr() == ("port 8111\n", "cloud_status: no cloud_scheduler_status.conf found,"
                                                  " using port 8111.\n")


def test_xml_rpc_generation_reads_the_server_file(home, server, capsys):
    (home / "cloud_scheduler.conf").write_text(f"[global]\ninfo_server_port: {server.port}\n")
    assert cloud_status_main(["-s", "127.0.0.1", "--xml-rpc", "-o"]) == 0
    assert capsys.readouterr() == ("answer to get_total_vms\n\n", "")


def test_unusable_files(home, capsys):
    (home / "cloud_scheduler_status.conf").write_text("[global]\ninfo_server_port: x\n")
    assert cloud_status_main([]) == 1
    sentence = "Configuration file problem: info_server_port must be an integer value.\n"
    assert capsys.readouterr().out == sentence
    assert cloud_status_main(["-f", str(home / "absent")]) == 1
    assert "cannot read" in capsys.readouterr().out


# What the original did not have.

@pytest.mark.parametrize(("options", "answer", "expected"), [
    ("-c alpha", "Cluster Info: alpha\nCluster named alpha not found.", 4),
    ("-c alpha", "Cluster Info: alpha\nCluster: alpha \n", 0),
    ("-c alpha -n 1001",
     "VM Info for VM id: 1001\nCluster alpha not found.\nVM with id: 1001 not found.\n", 4),
    ("-u -c alpha", "Could not find cloud: alpha - check cloud_status for list of available clouds", 4),
    ("-o -c alpha", "Cluster named alpha not found.", 4),
    ("-j -c alpha", "{}", 4),
    ("-j -c alpha", '{"name": "alpha"}', 0),
    ("-l", "{}", 0),
])
def test_exit_code(server, run, options, answer, expected):
    server.answers.update({f"GET {target}": answer for target in (TABLE["-n 1001 -c alpha"][0], *[
        row[0] for key, row in TABLE.items() if key == options])})
    assert run(*options.split()) == (0, f"{answer}\n")
    assert run("--exit-code", *options.split()) == (expected, f"{answer}\n")


def test_exit_code_of_http_errors_and_missing_options(server, run, free_port):
    server.status = 404
    assert run("--exit-code")[0] == 4
    server.status = 500
    assert run("--exit-code")[0] == 1
    assert run("--exit-code", "-n", "1")[0] == 2
    assert run("--exit-code", port=free_port)[0] == 1


JOBS = {"new_jobs": [json.dumps({"id": "1", "job_status": 1, "high_priority": 0}),
                     json.dumps({"id": "2", "job_status": 1, "high_priority": 3})],
        "sched_jobs": [json.dumps({"id": "3", "job_status": 2, "high_priority": 1})]}


@pytest.mark.parametrize("generation", [(), ("--xml-rpc",)])
@pytest.mark.parametrize(("wanted", "ids"), [
    ("new", {"new": ["1", "2"]}), ("sched", {"sched": ["3"]}), ("high", {"high": ["2", "3"]}),
    ("idle", {"idle": ["1", "2"]}), ("running", {"running": ["3"]}),
    ("all", {"sched": ["3"], "new": ["1", "2"], "high": ["2", "3"]})])
def test_job_lists_as_json(server, run, generation, wanted, ids):
    server.answers["GET /job-pool.json"] = server.results["get_json_jobpool"] = json.dumps(JOBS)
    status, out = run(*generation, "-q", wanted, "--json")
    assert status == 0
    assert {name: [job["id"] for job in jobs] for name, jobs in json.loads(out).items()} == ids


def test_held_jobs_as_json_carry_the_text(server, run):
    server.answers["GET /job-pool.json"] = json.dumps(JOBS)
    expected = {"held": [], "text": "answer to GET /jobs?state=held\n"}
    assert json.loads(run("-q", "held", "--json")[1]) == expected


def test_other_json(server, run):
    pool = '{"resources": [{"name": "alpha", "vms": [{"id": "1"}]}, {"name": "beta", "vms": []}]}'
    server.answers["GET /clusters.json"] = pool
    assert run("--json") == run("-j", "-a") == (0, pool + "\n")
    machines = [{"cloud": "alpha", "id": "1"}]
    assert json.loads(run("-m", "-j")[1]) == {"vms": machines, "text": "answer to GET /vms\n"}
    assert json.loads(run("-t", "--json")[1]) == {"text": "answer to GET /diff-types\n"}
    assert json.loads(run("-n", "1", "--json")[1]) == {"text": "Please provide -c cluster_name with vm ID"}
    server.status = 500
    status, out = run("-m", "-j", "--exit-code")
    assert (status, json.loads(out)) == (1, {"status": 500, "text": pool})


def test_timeout(home, capsys):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = str(silent.getsockname()[1])
        for generation in ((), ("--xml-rpc",)):
            assert cloud_status_main(["-s", "127.0.0.1", "-p", port, "--timeout", "0.05", *generation]) == 1
            out = capsys.readouterr().out
            assert out.startswith("Unexpected error:  <class ")
            assert "imed out" in out or "imeout" in out


def test_watch_in_a_pipe(server, run, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    status, out = run("-o", "--watch", "5", "--count", "3")
    first, second, third = out.split("--- ")
    assert (status, len(server.seen), pauses) == (0, 3, [5.0, 5.0])
    assert first == "answer to GET /vms?metric=total\n\n"
    assert second.endswith(" ---\nanswer to GET /vms?metric=total\n\n")
    assert third.endswith(second[19:])


def test_watch_in_a_terminal_clears_and_ends_with_control_c(server, run, monkeypatch):
    def interrupted(pause):
        assert pause == 2
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run("--watch", "-o") == (0, "\x1b[H\x1b[2Janswer to GET /vms?metric=total\n\n")


def test_watch_goes_on_when_the_server_is_away(run, free_port, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda pause: None)
    status, out = run("--watch=1", "--count=2", port=free_port)
    assert (status, out.count("couldn't connect")) == (1, 2)


SCRIPT = Path(__file__).parents[3] / "scripts" / "cloud_status"


def test_the_script(server, tmp_path):
    command = [sys.executable, str(SCRIPT), "-s", "127.0.0.1", "-p", str(server.port), "-o"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "answer to GET /vms?metric=total\n\n", "")


def test_help_loads_no_http_library(home):
    code = ("import sys\nfrom cloudsched.cli.cloud_status import cloud_status_main\n"
            "try:\n    cloud_status_main(['--help'])\nexcept SystemExit:\n    pass\n"
            "assert not {'requests', 'xmlrpc.client', 'flask', 'peewee', 'http.client'} & set(sys.modules)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          cwd=SCRIPT.parents[1])
    assert (done.returncode, done.stderr) == (0, "")
    assert "Examples:\n  cloud_status " in done.stdout


def test_a_closed_pipe_is_no_error(server):
    server.answers["GET /cloud"] = "x\n" * 1_000_000
    command = f"{sys.executable} {SCRIPT} -s 127.0.0.1 -p {server.port} | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("x\n", "")
