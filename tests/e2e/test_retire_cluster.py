"""Three devices, one server: every line of the API's document as written, the example client, and the original's worker.

What is played here is played from the contract alone; the agents, the server and `curl` are real processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import socket
import sys
import time
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched.domain.tasks import job_number
from cloudsched.testing.instance import Instance, Process

pytestmark = pytest.mark.e2e

KEY = "your-secret-key"
TERMINAL = ("success", "failed", "cancelled", "timeout")
NEEDS_CURL = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class House:
    """The instance, its two ports for this API, and devices."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.http, self.tcp = 8081 + instance.offset, 8082 + instance.offset
        self.url = f"http://127.0.0.1:{self.http}"
        self.file = instance.root / "state" / "agent.pyz"

    def device(self, device_id: str, *more: str, port: int = 0, file: Path | None = None) -> Process:
        """A device as its owner starts it: one file, one line."""
        if file is None and not self.file.exists():
            self.file.write_bytes(self.instance.call("GET", "/agent.pyz", port=self.http).body)
        argv = [sys.executable, str(file or self.file), "--join", f"127.0.0.1:{port or self.tcp}", "--device-id", device_id,
                "--data-dir", str(self.instance.state / device_id), *more]
        log = self.instance.logs / f"{device_id}.log"
        made = Process(f"device-{device_id}", argv, env=self.environment(), log=log, cwd=self.instance.root)
        self.instance.processes[made.name] = made
        return made.start()

    def environment(self) -> dict[str, str]:
        """A device has no cloudsched installed, and none of the server's settings."""
        env = self.instance.environment()
        return {name: value for name, value in env.items() if name != "PYTHONPATH" and (
            not name.startswith("CLOUDSCHED_") or name == "CLOUDSCHED_TEST_INSTANCE")}

    def ask(self, method: str, path: str, body: Any = None, *, key: str = KEY, status: int = 0) -> Any:
        """The data of an answer; anything from 400 on fails, unless it is `status`."""
        headers = {"X-API-Key": key, "Content-Type": "application/json", "User-Agent": "retire-cluster-python-client/1.0.0"}
        where = path if path.startswith("/health") else f"/api/v1{path}"
        answer = self.instance.call(method, where, body, headers=headers, port=self.http)
        assert answer.status == status if status else answer.status < 400, answer.text
        return answer.json if path.startswith("/health") or status >= 400 else answer.json["data"]

    def wait(self, task_id: str) -> dict[str, Any]:
        """As the example client does: look, at most for 30 s, then read the result."""
        def ended() -> bool:
            found = self.ask("GET", f"/tasks/{task_id}/status")
            return bool(found["is_terminal"]) or found["status"] in TERMINAL

        self.instance.until(ended, f"the end of {task_id}", limit_s=30)
        return dict(self.ask("GET", f"/tasks/{task_id}/result"))

    def native(self, kind: str, sender: str, data: Any = None) -> dict[str, Any]:
        """One exchange as the original makes it: the request is sent at once, the reply is read at once, 8192 bytes."""
        message = {"message_type": kind, "sender_id": sender, "receiver_id": None, "message_id": str(uuid.uuid4()),
                   "timestamp": "2023-01-01T12:00:00", "data": data or {}}
        with socket.create_connection(("127.0.0.1", self.tcp), timeout=30) as sock:
            sock.sendall(json.dumps(message).encode())
            reply: dict[str, Any] = json.loads(sock.recv(8192))
        return reply

    def online(self) -> set[str]:
        return {one["id"] for one in self.ask("GET", "/devices?status=online&view=document")["devices"]}


CONFIG = {"retire_cluster": {"auth": "yes", "api_keys": [KEY, "your-key", "reader-key:read"], "rate_limit": False,
                             "heartbeat_interval_s": 10}}


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with Instance(config=CONFIG) as instance:
        instance.start_all()
        made = House(instance)
        made.device("android-001", "--role", "compute", "--slots", "4", "--allow", "python_eval", "--tags", "gpu-capable")
        made.device("laptop-002", "--role", "compute", port=made.http)
        made.device("tower-003", "--role", "storage", "--allow", "command", port=instance.native)
        instance.until(lambda: made.online() >= {"android-001", "laptop-002", "tower-003"}, "three devices online")
        yield made
        assert "Traceback" not in instance.log_text()


# the document, as written


CURLS = r"""
curl http://localhost:8081/health
curl http://localhost:8081/api/v1/cluster/status
curl http://localhost:8081/api/v1/devices
curl -X POST http://localhost:8081/api/v1/tasks \
-H "Content-Type: application/json" \
-d '{"task_type": "echo", "payload": {"message": "Hello World"}}'
curl -H "X-API-Key: your-secret-key" http://localhost:8081/api/v1/cluster/config
curl -H "Authorization: Bearer your-secret-key" http://localhost:8081/api/v1/cluster/config
"""
REQUESTS = [
    ("GET", "/cluster/status", None), ("GET", "/cluster/health", None), ("GET", "/cluster/metrics?period=1h&type=all", None),
    ("GET", "/devices?status=all&role=all&sort=name&limit=100", None), ("GET", "/devices/android-001", None),
    ("POST", "/devices/android-001/ping", {"timeout": 5, "count": 3}),
    ("POST", "/tasks", {"task_type": "echo", "payload": {"message": "Hello World", "repeat": 3}, "priority": "normal",
                        "device_id": "android-001", "requirements": {"min_cpu_cores": 1, "min_memory_gb": 1, "platform": "linux"},
                        "timeout": 300}),
    ("GET", "/tasks?status=all&task_type=echo&limit=50", None), ("GET", "/logs?level=info&limit=100", None),
    ("GET", "/config", None), ("PUT", "/config", {"cluster": {"heartbeat_interval": 30, "offline_threshold": 180}}),
    ("GET", "/stats/tasks?period=24h&group_by=device", None), ("GET", "/stats/devices", None),
]


@NEEDS_CURL
def test_every_curl_line_of_the_document(house: House) -> None:
    lines = CURLS.replace("localhost:8081", f"127.0.0.1:{house.http}").replace("\\\n", "").strip().splitlines()
    home = house.instance.root / "state"
    # Keys are asked for here: a line that has none in the document gets it from curl's own settings.
    settings = 'silent\nshow-error\nfail-with-body\nnoproxy = "*"\n'
    for name, more in (("with", ""), ("without", f'header = "X-API-Key: {KEY}"\n')):
        (home / name).mkdir()
        (home / name / ".curlrc").write_text(settings + more)
    for line in lines:
        done = house.instance.run("bash", "-c", line, env={"HOME": str(home / ("with" if KEY in line else "without"))})
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        found = json.loads(done.stdout)
        assert found["status"] in ("success", "healthy", "degraded"), line  # degraded: this machine is busy
        if "tasks" in line:
            assert house.wait(found["data"]["task_id"])["result_data"] == {"echo": {"message": "Hello World"}}


def test_every_request_of_the_document(house: House) -> None:
    for method, path, body in REQUESTS:
        house.ask(method, path, body)
    ping = house.ask("POST", "/devices/android-001/ping", {"timeout": 5, "count": 3})["ping_results"]
    assert ping["reachable"] and [one["seq"] for one in ping["results"]] == [1, 2, 3]
    task = house.ask("POST", "/tasks", REQUESTS[6][2])["task_id"]
    house.wait(task)
    shown = house.ask("GET", f"/tasks/{task}")["task"]
    assert shown["result"]["output"] == "Hello World\nHello World\nHello World" and shown["device_id"] == "android-001"
    assert shown["status"] == "completed" and shown["detailed_log"] and shown["execution_time_seconds"] >= 0
    slow = house.ask("POST", "/tasks", {"task_type": "sleep", "payload": {"duration": 60}})["task_id"]
    house.instance.until(lambda: house.ask("GET", f"/tasks/{slow}/status")["status"] == "running", "the task runs")
    assert house.ask("DELETE", f"/tasks/{slow}")["was_running"] is True
    again = house.ask("POST", f"/tasks/{slow}/retry", {"priority": "high"})
    assert again["original_task_id"] == slow
    assert house.ask("DELETE", f"/tasks/{again['new_task_id']}")["cancelled_task"] == again["new_task_id"]
    config = house.ask("PUT", "/config", {"cluster": {"heartbeat_interval": 10, "offline_threshold": 300}})
    assert config == {"updated_fields": ["cluster.heartbeat_interval", "cluster.offline_threshold"], "restart_required": False}
    for path, status, code in (("/devices/invalid-device", 404, "DEVICE_NOT_FOUND"), ("/tasks/task-0", 404, "TASK_NOT_FOUND")):
        assert house.ask("GET", path, status=status)["error"]["code"] == code
    assert house.ask("GET", "/devices", key="nope", status=401)["error"]["code"] == "AUTHENTICATION_REQUIRED"
    assert house.ask("DELETE", "/devices/laptop-002", key="reader-key", status=403)["error"]["code"] == "PERMISSION_DENIED"


PYTHON = """
from retire_cluster_client import ClusterClient
client = ClusterClient('http://localhost:8081', api_key='your-key')
devices = client.devices.list(status='online')
task_id = client.tasks.submit('echo', {'message': 'Hello'})
for event in client.monitor.stream(['tasks']):
    print(f"task: {event}")
"""
COMMANDS = """
retire-cluster config set api_url http://localhost:8081
retire-cluster config set api_key your-secret-key
retire-cluster devices list
retire-cluster tasks submit echo --payload '{"message": "test"}'
"""


def test_the_python_example_and_the_commands(house: House) -> None:
    home = house.instance.root / "state" / "user"
    home.mkdir()
    script = PYTHON.replace("localhost:8081", f"127.0.0.1:{house.http}") + "    break\nprint(task_id, len(devices))\n"
    # The stream tells of what happens from now on: something has to.
    later = "import threading\nthreading.Timer(1, client.tasks.submit, ('echo', {})).start()\n"
    script = script.replace("for event", later + "for event")
    done = house.instance.run(sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr
    assert "'type': 'task_" in done.stdout and done.stdout.split()[-1] == str(len(house.online()))
    bin_ = home / "retire-cluster"
    bin_.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; from cloudsched.cli.retire_cluster import '
                    'retire_cluster_main as m; sys.exit(m())" "$@"\n')
    bin_.chmod(0o755)
    env = {"HOME": str(home), "PATH": f"{home}:/usr/bin:/bin"}
    lines = COMMANDS.replace("localhost:8081", f"127.0.0.1:{house.http}").strip().splitlines()
    said = [house.instance.run("bash", "-c", line, env=env) for line in lines]
    assert [one.returncode for one in said] == [0, 0, 0, 0], said
    assert "android-001" in said[2].stdout and house.wait(said[3].stdout.strip())["result_data"] == {"echo": {"message": "test"}}


def test_the_example_client(house: House) -> None:
    ask = house.ask
    health = ask("GET", "/health")
    assert health["status"] in ("healthy", "degraded") and health["components"]["task_scheduler"] == "healthy"
    stats = ask("GET", "/cluster/status")["cluster_stats"]
    assert stats["online_devices"] >= 3 and stats["total_resources"]["cpu_cores"] >= 3 and stats["health_percentage"] > 0
    rows = ask("GET", "/devices?status=online&page_size=10")
    assert {"android-001", "laptop-002", "tower-003"} <= {row["device_id"] for row in rows}
    assert all(row["capabilities"]["cpu_count"] and row["capabilities"]["memory_total_gb"] for row in rows
               if row["device_id"].endswith(("001", "002", "003")))
    device = ask("GET", f"/devices/{rows[0]['device_id']}")
    assert all(isinstance(device[name], str) for name in ("device_id", "role", "platform", "status", "last_heartbeat", "uptime"))
    assert {"echo", "sleep", "system_info"} <= set(ask("GET", "/tasks/types")["supported_types"])
    sent = [
        {"task_type": "echo", "payload": {"message": "Hello"}, "priority": "normal", "metadata": {"by": "me"}},
        {"task_type": "system_info", "payload": {}, "priority": "high", "requirements": {"required_role": "compute"}},
        {"task_type": "sleep", "payload": {"duration": 2.0}, "priority": "low"}]
    for task_id in [ask("POST", "/tasks", body)["task_id"] for body in sent]:
        result = house.wait(task_id)
        assert result["status"] == "success" and result["result_data"] and f"{result['execution_time_seconds']:.2f}"
        assert result["worker_device_id"] in {row["device_id"] for row in rows}
    queue = ask("GET", "/tasks/statistics")["queue_stats"]
    assert queue["total_tasks"] >= 3 and queue["by_status"]["success"] >= 3 and queue["by_priority"]
    recent = ask("GET", "/tasks?page=1&page_size=5")
    names = {"task_id", "task_type", "status", "created_at", "assigned_device_id"}
    assert len(recent) >= 3 and all(names <= set(one) for one in recent)
    summary = ask("GET", "/devices/summary")
    assert summary["total_devices"] >= 3 and set(summary["resource_totals"]) >= {"cpu_cores", "memory_gb", "storage_gb"}
    sums = [{"task_type": "python_eval", "payload": {"expression": f"2 ** {i}"}} for i in range(5)]
    powers = [ask("POST", "/tasks", body)["task_id"] for body in sums]
    assert [house.wait(one)["result_data"]["result"] for one in powers] == [1, 2, 4, 8, 16]
    assert len(ask("GET", "/devices?tags=gpu-capable")) == 1
    assert isinstance(ask("GET", "/devices?role=mobile&status=online"), list)


# the original's peers, and other views of the same things


def test_an_original_worker_over_a_restart_of_the_server(house: House) -> None:
    me = "linux-original-x86_64"
    assert house.native("status", me)["data"]["result"]["cluster_stats"]
    profile = {"device_id": me, "role": "worker", "platform": "linux", "cpu_count": 4}
    assert house.native("register", me, profile)["data"]["result"]["success"] is True
    assert house.native("heartbeat", me, {"metrics": {"cpu_usage": 1.0}})["data"]["result"]["success"] is True
    before = house.native("device_info", me, {"device_id": me})["data"]["result"]["device"]
    serve = house.instance.processes["serve"]
    serving = {pid for pid, line in house.instance.marked().items() if " serve " in line}
    serve.restart()
    house.instance.until(lambda: not serving & set(house.instance.marked()), "the old processes have ended")
    house.instance.wait_ready()
    house.instance.until(lambda: _connects(house.tcp), "the native port answers again")
    assert house.native("heartbeat", me, {"metrics": {"cpu_usage": 2.0}})["data"]["result"]["success"] is True
    after = house.native("device_info", me, {"device_id": me})["data"]["result"]["device"]
    assert after["status"] == "online" and after["registration_time"] == before["registration_time"]
    tasks = [house.ask("POST", "/tasks", {"task_type": "echo", "payload": {}})["task_id"] for _ in range(6)]
    assert all(house.wait(one)["worker_device_id"] != me for one in tasks)  # and the agents found the server again
    program = "import sys; from cloudsched.cli.retire_status import retire_status_main as m; sys.exit(m())"
    said = house.instance.run(sys.executable, "-c", program, f"127.0.0.1:{house.tcp}", "--devices")
    assert said.returncode == 0 and me in said.stdout and "android-001" in said.stdout


def _connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def test_bad_bytes_leave_the_port_healthy(house: House) -> None:
    for data in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b'{"a":1}{"b":2}', b"{" * 5000):
        with socket.create_connection(("127.0.0.1", house.tcp), timeout=20) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while sock.recv(65536):
                    pass
    with socket.create_connection(("127.0.0.1", house.tcp), timeout=20) as sock:
        text = json.dumps({"message_type": "register", "sender_id": "big", "data": {"description": "x" * 6000}}).encode()
        for start in range(0, len(text), 1000):
            sock.sendall(text[start:start + 1000])
            time.sleep(0.01)
        assert json.loads(sock.recv(8192))["data"]["result"]["success"] is True


def test_devices_are_machines_and_tasks_are_jobs(house: House) -> None:
    status = Path(__file__).parents[2] / "scripts" / "cloud_status"
    port = ("-p", str(house.instance.info))
    body = {"task_type": "sleep", "payload": {"duration": 120}, "device_id": "laptop-002"}
    task = house.ask("POST", "/tasks", body)["task_id"]
    house.instance.until(lambda: house.ask("GET", f"/tasks/{task}/status")["status"] == "running", "the task runs")
    machines = house.instance.run(sys.executable, str(status), *port, "-m")
    assert machines.returncode == 0 and "android-001" in machines.stdout and "tower-003" in machines.stdout, machines
    queue = house.instance.run(sys.executable, str(status), *port, "-q", "running")
    assert queue.returncode == 0 and house.instance.job(job_number(task) or 0)["key"] in queue.stdout, queue
    assert house.ask("DELETE", f"/tasks/{task}")["was_running"] is True
    # a batch job runs on the one device whose owner allows any program
    number = house.instance.shell("echo from $(basename \"$PWD\") on a device")
    job = house.instance.wait_state(number, "succeeded")
    assert job["node"] == "tower-003" and "on a device" in house.instance.output(number)


# the agent as one file


@NEEDS_CURL
def test_joining_from_an_empty_directory(house: House) -> None:
    folder = house.instance.root / "state" / "empty"
    folder.mkdir()
    env = {"HOME": str(folder), "PYTHONPATH": "", "no_proxy": "*"}
    script = (f"curl -sS -f -O {house.url}/agent.pyz && {sys.executable} agent.pyz --join 127.0.0.1:{house.tcp} "
              "--device-id fresh --test")
    done = house.instance.run("bash", "-c", script, env=env, cwd=folder)
    assert done.returncode == 0 and "answers in" in done.stdout, done
    assert (folder / "agent.pyz").read_bytes() == house.instance.call("GET", "/agent.pyz").body
    wrong = house.instance.run(sys.executable, "agent.pyz", "--join", "127.0.0.1:1", "--test", env=env, cwd=folder)
    assert wrong.returncode == 1 and "cannot be reached" in wrong.stderr


@pytest.mark.engines
def test_an_older_agent_upgrades_itself(house: House) -> None:
    served = house.instance.call("GET", "/agent.pyz", port=house.http).body
    old = house.instance.root / "state" / "old" / "agent.pyz"
    old.parent.mkdir()
    old.write_bytes(_older(served))
    assert old.read_bytes() != served
    house.device("old-phone", file=old)
    house.instance.until(lambda: "old-phone" in house.online(), "the old agent is online")
    node = next(one for one in house.instance.api("GET", "/nodes")["items"] if one["name"] == "old-phone")
    told = house.instance.api("POST", f"/nodes/{node['id']}/upgrade")
    assert told["sha256"] == hashlib.sha256(served).hexdigest()
    house.instance.until(lambda: old.read_bytes() == served, "the file is replaced", limit_s=40)
    task = house.ask("POST", "/tasks", {"task_type": "echo", "payload": {"message": "new"}, "device_id": "old-phone"})["task_id"]
    assert house.wait(task)["status"] == "success"


def _older(content: bytes) -> bytes:
    """The same program, with another comment inside."""
    new = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as target:
        for item in source.infolist():
            text = source.read(item)
            target.writestr(item, text + b"\n# an older one\n" if item.filename.endswith("cloudsched/agent/home.py") else text)
    return new.getvalue()


# the original's commands


@pytest.mark.engines
def test_main_and_api_as_processes(tmp_path: Path, free_ports: Any) -> None:
    tcp, http, native = free_ports(3)
    with Instance() as instance:
        data = instance.root / "state"
        env = {name: value for name, value in instance.environment().items()
               if not name.startswith("CLOUDSCHED_") or "TEST" in name}
        env |= {"CLOUDSCHED_LISTEN_NATIVE": str(native), "CLOUDSCHED_WEB_SHUTDOWN_GRACE_S": "3"}

        def start(name: str, *words: str) -> Process:
            argv = [sys.executable, "-c", f"import sys; from cloudsched.cli.retire_servers import retire_{name}_main as m; "
                                          "sys.exit(m())", "--data-dir", str(data), *words]
            made = Process(name, argv, env=env, log=instance.logs / f"{name}.log", cwd=instance.root)
            instance.processes[name] = made
            return made.start()

        start("main", "--port", str(tcp), "--api-port", str(http))
        instance.until(lambda: _answers(instance, http), "the API answers")
        api = start("api", "--port", str(http))
        instance.until(lambda: "served already" in api.log.read_text(), "the second command has found the first")
        with socket.create_connection(("127.0.0.1", tcp), timeout=20) as sock:
            sock.sendall(b'{"message_type": "register", "sender_id": "box", "data": {"role": "worker"}}')
            assert json.loads(sock.recv(8192))["data"]["result"]["success"] is True
        found = instance.call("GET", "/api/v1/devices", port=http).json["data"]
        assert [one["id"] for one in found["devices"]] == ["box"]
        wrong = start("api", "--port", "1")
        assert wrong.popen is not None and wrong.popen.wait(30) == 1
        instance.processes["main"].stop()
        assert api.popen is not None and api.popen.wait(30) == 1 and re.search("it has ended", api.log.read_text())


def _answers(instance: Instance, port: int) -> bool:
    try:
        return instance.call("GET", "/health", port=port).status == 200
    except OSError:
        return False
