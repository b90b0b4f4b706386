"""What would the server answer? A strict stand-in for the native API: unknown routes, parameters and fields fail.

It runs in a thread of the test. Jobs really end: `noop` and `command` jobs succeed after `steps` looks at them, a
command `["sh", "-c", "exit N"]` fails with N. `faults` are played once each, before anything else.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

JOB_FIELDS = frozenset(
    [
        "batch_id", "command", "kind", "name", "user", "env", "stdin", "vm_type", "cores", "memory_mb", "storage_gb",
        "gpus", "network", "priority", "time_limit_s", "max_retries", "backoff_s", "hold", "after_ok",
        "after_any", "input_files", "output_files", "targets", "image", "instance_type", "keep_alive_s",
        "high_priority", "vmtype_limit", "job_per_core", "maximum_price", "security_groups", "attributes",
        "array", "batch", "depends_fail",
    ]
)  # fmt: skip
CLOUD_FIELDS = frozenset(
    [
        "title", "address", "max_node_memory_mb",
        "name", "kind", "slots", "memory_mb", "storage_gb", "cores", "networks", "priority", "enabled",
        "keep_alive_s", "boot_timeout_s", "options", "credentials",
    ]
)  # fmt: skip
JOB_FILTERS = {"state", "user", "vm_type", "batch", "node", "source", "name"}
PAGE = {"limit", "cursor"}
STATES = ("pending", "held", "queued", "assigned", "running", "succeeded", "failed", "timeout", "cancelled")
ENDED = {"succeeded", "failed", "timeout", "cancelled"}
T0 = "2026-01-02T03:04:05.000Z"


class Problem(Exception):
    """An RFC 9457 answer."""

    def __init__(self, status: int, title: str, detail: str = "", errors: list[dict[str, str]] | None = None) -> None:
        super().__init__(title)
        self.status = status
        self.body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "errors": errors or []}


class FakeApi:
    """The state behind the routes. `run_jobs`: commands are really run (the demo counts words)."""

    def __init__(self, *, key: str | None = None, run_jobs: bool = False) -> None:
        self.key = key
        self.run_jobs = run_jobs
        self.jobs: dict[int, dict[str, Any]] = {}
        self.output: dict[tuple[int, str], bytes] = {}
        self.attempts: dict[tuple[int, int], bytes] = {}
        self.files: dict[int, dict[str, bytes]] = {}
        self.inputs: dict[int, dict[str, bytes]] = {}
        self.nodes: list[dict[str, Any]] = []
        self.clouds: list[dict[str, Any]] = []
        self.keys: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.answers: dict[str, Any] = {}
        self.faults: list[Any] = []
        self.steps = 0
        self.seen_keys: dict[str, Any] = {}
        self.lock = threading.RLock()

    def add_job(self, **given: Any) -> dict[str, Any]:
        number = len(self.jobs) + 1
        job = {
            "id": number, "key": f"here#{number}.0#1", "batch_id": number, "index": 0, "source": "queue", "state": "queued",
            "goal": "run", "attempt": 1, "node": None, "cloud": None, "command": ["true"], "kind": "command", "name": "",
            "user": "tess", "vm_type": "default", "cores": 1, "memory_mb": 512, "batch": "", "attributes": {},
            "output_files": [], "env": {}, "submitted_at": T0, "queued_at": T0, "started_at": None, "ended_at": None,
            "exit_code": None, "signal": None, "reason": None, "ran_s": None,
        } | given  # fmt: skip
        job["looks"] = 0
        self.jobs[number] = job
        return job

    def add_node(self, name: str, **given: Any) -> dict[str, Any]:
        node = {
            "id": len(self.nodes) + 1, "name": name, "cloud": "local-a", "state": "running", "goal": "run", "user": "tess",
            "vm_type": "default", "cores": 2, "memory_mb": 2048, "storage_gb": 10, "address": "127.0.0.1",
            "last_seen_at": T0, "jobs": 1,
        } | given  # fmt: skip
        self.nodes.append(node)
        return node

    def add_cloud(self, name: str, **given: Any) -> dict[str, Any]:
        cloud = {
            "name": name, "kind": "local", "slots": 4, "memory_mb": 8192, "storage_gb": -1, "cores": -1, "networks": [],
            "priority": 0, "enabled": True, "keep_alive_s": 0, "boot_timeout_s": None, "options": {}, "nodes": 0,
        } | given  # fmt: skip
        self.clouds.append(cloud)
        return cloud

    def look(self, job: dict[str, Any]) -> dict[str, Any]:
        """A look at a job moves it on; what is shown is what the API shows."""
        job["looks"] += 1
        if job["state"] == "queued" and job["looks"] > self.steps:
            self.end(job)
        return {name: value for name, value in job.items() if name != "looks"}

    def end(self, job: dict[str, Any]) -> None:
        code = 0
        if self.run_jobs and job["kind"] == "command":
            code = self._run(job)
        elif job["command"][:2] == ["sh", "-c"] and job["command"][2].startswith("exit "):
            code = int(job["command"][2].split()[1])
        state = "failed" if code else "succeeded"
        job |= {"state": state, "exit_code": code, "ran_s": 0.25, "started_at": T0, "ended_at": T0, "node": "vm-1"}

    def _run(self, job: dict[str, Any]) -> int:
        with tempfile.TemporaryDirectory() as directory:
            for name, data in self.inputs.get(job["id"], {}).items():
                Path(directory, name).write_bytes(data)
            done = subprocess.run(job["command"], cwd=directory, capture_output=True, check=False)
            self.output[job["id"], "stdout"] = done.stdout
            self.output[job["id"], "stderr"] = done.stderr
        return done.returncode


Call = Callable[..., Any]
ROUTES: list[tuple[str, re.Pattern[str], set[str], Call]] = []


def route(method: str, path: str, *params: str) -> Callable[[Call], Call]:
    def add(function: Call) -> Call:
        ROUTES.append((method, re.compile(path + r"\Z"), set(params), function))
        return function

    return add


@route("GET", "/")
def _root(api: FakeApi, call: dict[str, Any]) -> Any:
    return {"name": "cloudsched", "version": api.answers.get("version", "0.1.0")}


@route("POST", "/batches")
def _reserve(api: FakeApi, call: dict[str, Any]) -> Any:
    return 201, {"batch_id": 41}


@route("POST", "/jobs")
def _submit(api: FakeApi, call: dict[str, Any]) -> Any:
    body = call["body"]
    several = set(body) == {"jobs"}
    made = [job for one in (body["jobs"] if several else [body]) for job in _make(api, one)]
    if len(made) == 1 and not several:
        return 201, {"id": made[0]["id"], "key": made[0]["key"]}
    return 201, {"ids": [job["id"] for job in made], "keys": [job["key"] for job in made]}


def _make(api: FakeApi, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    _known(body, JOB_FIELDS)
    if body.get("kind", "command") == "command" and not body.get("command"):
        raise Problem(400, "Bad input", errors=[{"field": "command", "message": "is missing", "allowed": "a list"}])
    array = body.get("array")
    indices: list[int | None] = [None]
    if array:
        indices = list(array["indices"]) if "indices" in array else list(range(array["size"]))
    files = body.get("input_files", [])
    for one in files:
        assert set(one) <= {"name", "content_base64", "size", "mode"}, one
    for _ in indices:
        waits = any("content_base64" not in one for one in files)
        state = "held" if body.get("hold") else "pending" if waits else "queued"
        job = api.add_job(**{k: v for k, v in body.items() if k not in ("hold", "array", "input_files")}, state=state)
        job["input_files"] = [one["name"] for one in files]
        api.inputs[job["id"]] = {
            one["name"]: base64.b64decode(one["content_base64"]) for one in files if "content_base64" in one
        }
        yield job


@route("GET", "/jobs", "order", *JOB_FILTERS, *PAGE)
def _list_jobs(api: FakeApi, call: dict[str, Any]) -> Any:
    jobs = [job for job in api.jobs.values() if _matches(job, call["params"])]
    jobs.sort(key=lambda job: job["id"], reverse=call["params"].get("order", ["-id"]) == ["-id"])
    return _page([api.look(job) for job in jobs], call)


@route("GET", "/jobs/count", *JOB_FILTERS)
def _count(api: FakeApi, call: dict[str, Any]) -> Any:
    states = Counter(api.look(job)["state"] for job in api.jobs.values() if _matches(job, call["params"]))
    return {"by_state": {state: states[state] for state in STATES}, "total": sum(states.values())}


@route("POST", "/jobs/cancel")
def _cancel_many(api: FakeApi, call: dict[str, Any]) -> Any:
    body = call["body"]
    _known(body, frozenset({"ids", "batch", "user", "state"}))
    chosen = [job for job in api.jobs.values() if job["state"] not in ENDED]
    if "ids" in body:
        chosen = [job for job in chosen if job["id"] in body["ids"]]
    chosen = [job for job in chosen if all(job[k] == v for k, v in body.items() if k != "ids")]
    for job in chosen:
        job["state"] = "cancelled"
    return {"cancelled": len(chosen)}


@route("GET", "/jobs/([^/]+)")
def _job(api: FakeApi, call: dict[str, Any], ref: str) -> Any:
    return api.look(_find(api, ref))


@route("GET", "/jobs/([^/]+)/output", "stream", "offset", "follow", "attempt")
def _output(api: FakeApi, call: dict[str, Any], ref: str) -> Any:
    job = _find(api, ref)
    stream = call["params"].get("stream", ["stdout"])[0]
    if stream not in ("stdout", "stderr"):
        raise Problem(400, "Bad input", errors=[{"field": "stream", "message": "?", "allowed": "stdout, stderr"}])
    attempt = int(call["params"].get("attempt", ["0"])[0])
    kept = api.attempts.get((job["id"], attempt)) or api.output.get((job["id"], stream), b"")
    return kept[int(call["params"].get("offset", ["0"])[0]) :]


@route("GET", "/jobs/([^/]+)/files")
def _files(api: FakeApi, call: dict[str, Any], ref: str) -> Any:
    found = api.files.get(_find(api, ref)["id"], {})
    return {"items": [{"name": name, "size": len(data), "attempt": 1} for name, data in found.items()]}


@route("GET", "/jobs/([^/]+)/files/([^/]+)")
def _file(api: FakeApi, call: dict[str, Any], ref: str, name: str) -> Any:
    return api.files[_find(api, ref)["id"]][name]


@route("PUT", "/jobs/([^/]+)/files/([^/]+)")
def _put_file(api: FakeApi, call: dict[str, Any], ref: str, name: str) -> Any:
    job = _find(api, ref)
    if name not in job["input_files"]:
        raise Problem(404, "Not found", f"no input file {name}")
    api.inputs[job["id"]][name] = call["body"]
    if set(job["input_files"]) == set(api.inputs[job["id"]]) and job["state"] == "pending":
        job["state"] = "queued"
    return 204, None


@route("POST", "/jobs/([^/]+)/(cancel|retry|hold|release)", "wait_s")
def _steer(api: FakeApi, call: dict[str, Any], ref: str, verb: str) -> Any:
    job = _find(api, ref)
    _known(call["body"] or {}, frozenset({"hold": {"reason"}, "retry": {"priority", "ignore_dependencies"}}.get(verb, set())))
    if verb == "retry":
        new = api.add_job(**{k: v for k, v in job.items() if k in JOB_FIELDS}, state="queued", retry_of=job["id"])
        return api.look(new) if api.steps == 0 else dict(new)
    if job["state"] in ENDED:
        raise Problem(409, "Conflict", f"job {job['id']} has ended as {job['state']}")
    if verb == "cancel" and job["state"] == "running":
        job["goal"] = "cancel"
        return 202, {k: v for k, v in job.items() if k != "looks"}
    job["state"] = {"cancel": "cancelled", "hold": "held", "release": "queued"}[verb]
    return {k: v for k, v in job.items() if k != "looks"}


@route("GET", "/nodes", "cloud", "state", "user", "vm_type", *PAGE)
def _list_nodes(api: FakeApi, call: dict[str, Any]) -> Any:
    return _page([node for node in api.nodes if _matches(node, call["params"])], call)


@route("POST", "/nodes/tokens")
def _token(api: FakeApi, call: dict[str, Any]) -> Any:
    _known(call["body"], frozenset({"cloud", "user", "vm_type", "ttl_s", "uses"}))
    return 201, {"token": "join-me", "expires_at": T0}


@route("GET", "/nodes/([^/]+)")
def _node(api: FakeApi, call: dict[str, Any], ref: str) -> Any:
    return _find_node(api, ref)


@route("POST", "/nodes/([^/]+)/(drain|resume|destroy)", "wait_s")
def _steer_node(api: FakeApi, call: dict[str, Any], ref: str, verb: str) -> Any:
    node = _find_node(api, ref)
    node["goal"] = {"drain": "drain", "resume": "run", "destroy": "destroy"}[verb]
    if verb == "destroy":
        node["state"] = "gone"
    return (202 if verb == "drain" else 200), node


@route("GET", "/clouds", *PAGE)
def _clouds(api: FakeApi, call: dict[str, Any]) -> Any:
    return _page(api.clouds, call)


@route("POST", "/clouds", "dry_run", "verify")
def _add_cloud(api: FakeApi, call: dict[str, Any]) -> Any:
    _known(call["body"], CLOUD_FIELDS)
    if any(cloud["name"] == call["body"]["name"] for cloud in api.clouds):
        raise Problem(409, "Conflict", f"there is a cloud {call['body']['name']} already")
    checks = [{"name": "reachable", "ok": True, "detail": "in 3 ms"}]
    if "dry_run" in call["params"]:
        return {"checks": checks}
    shown = api.add_cloud(**{k: v for k, v in call["body"].items() if k != "credentials"})
    return 201, {**shown, "checks": checks}


@route("GET", "/clouds/([^/]+)")
def _cloud(api: FakeApi, call: dict[str, Any], name: str) -> Any:
    return _find_cloud(api, name)


@route("PATCH", "/clouds/([^/]+)")
def _change_cloud(api: FakeApi, call: dict[str, Any], name: str) -> Any:
    _known(call["body"], CLOUD_FIELDS - {"name", "kind"})
    if call["headers"].get("if-match", '"1"') != '"1"':
        raise Problem(412, "Precondition failed", "the cloud was changed by somebody else")
    cloud = _find_cloud(api, name)
    cloud |= {k: v for k, v in call["body"].items() if k != "credentials"}
    return cloud


@route("DELETE", "/clouds/([^/]+)")
def _remove_cloud(api: FakeApi, call: dict[str, Any], name: str) -> Any:
    cloud = _find_cloud(api, name)
    api.clouds.remove(cloud)
    answer = {"name": name, "removed": True, "operation": 7 if cloud["nodes"] else None}
    return (202 if cloud["nodes"] else 200), answer


@route("POST", "/clouds/([^/]+)/(verify|enable|disable)")
def _steer_cloud(api: FakeApi, call: dict[str, Any], name: str, verb: str) -> Any:
    cloud = _find_cloud(api, name)
    if verb == "verify":
        good = cloud["kind"] != "bad"
        return {"ok": good, "checks": [{"name": "login", "ok": good, "detail": "" if good else "password refused"}]}
    cloud["enabled"] = verb == "enable"
    return cloud


@route("GET", "/events", "since", "subject_kind", "subject_id", "kind", *PAGE)
def _events(api: FakeApi, call: dict[str, Any]) -> Any:
    after = int(call["params"].get("since", ["0"])[0])
    found = [one for one in api.events if one["id"] > after]
    for name in ("subject_kind", "subject_id", "kind"):
        if name in call["params"]:
            found = [one for one in found if str(one[name]) == call["params"][name][0]]
    return _page(found, call)


@route("GET", "/operations", *PAGE)
def _operations(api: FakeApi, call: dict[str, Any]) -> Any:
    return _page(api.answers["operations"], call)


@route("GET", "/operations/([0-9]+)")
def _operation(api: FakeApi, call: dict[str, Any], number: str) -> Any:
    return next(one for one in api.answers["operations"] if one["id"] == int(number))


@route("GET", "/loops", *PAGE)
def _loops(api: FakeApi, call: dict[str, Any]) -> Any:
    return _page(api.answers["loops"], call)


@route("GET", "/why/(job|node)/([^/]+)")
def _why(api: FakeApi, call: dict[str, Any], noun: str, ref: str) -> Any:
    return _answer(api, f"why {noun} {ref}")


@route("GET", "/trace/([^/]+)")
def _trace(api: FakeApi, call: dict[str, Any], ref: str) -> Any:
    return _answer(api, f"trace {ref}")


@route("GET", "/keys", *PAGE)
def _keys(api: FakeApi, call: dict[str, Any]) -> Any:
    return _page(api.keys, call)


@route("POST", "/keys")
def _make_key(api: FakeApi, call: dict[str, Any]) -> Any:
    _known(call["body"], frozenset({"name", "role", "org", "ttl_s"}))
    key = {"id": len(api.keys) + 1, **call["body"], "created_at": T0, "revoked_at": None, "last_used_at": None}
    api.keys.append(key)
    return 201, {**key, "key": "cs_secret"}


@route("DELETE", "/keys/([0-9]+)")
def _revoke(api: FakeApi, call: dict[str, Any], number: str) -> Any:
    for key in api.keys:
        if key["id"] == int(number):
            key["revoked_at"] = T0
            return 204, None
    raise Problem(404, "Not found", f"there is no key {number}")


def _answer(api: FakeApi, name: str) -> Any:
    if name not in api.answers:
        raise Problem(404, "Not found", f"there is no {name.partition(' ')[2]}")
    return api.answers[name]


def _find(api: FakeApi, ref: str) -> dict[str, Any]:
    for job in api.jobs.values():
        if ref in (str(job["id"]), job["key"]):
            return job
    raise Problem(404, "Not found", f"there is no job {ref}")


def _find_node(api: FakeApi, ref: str) -> dict[str, Any]:
    for node in api.nodes:
        if ref in (str(node["id"]), node["name"]):
            return node
    raise Problem(404, "Not found", f"there is no node {ref}")


def _find_cloud(api: FakeApi, name: str) -> dict[str, Any]:
    for cloud in api.clouds:
        if cloud["name"] == name:
            return cloud
    raise Problem(404, "Not found", f"there is no cloud {name}")


def _known(body: dict[str, Any], fields: frozenset[str]) -> None:
    errors = [
        {"field": name, "message": "unknown field", "allowed": ", ".join(sorted(fields))} for name in sorted(set(body) - fields)
    ]
    if errors:
        raise Problem(400, "Bad input", errors=errors)


def _matches(one: dict[str, Any], params: dict[str, list[str]]) -> bool:
    filters = {name: values for name, values in params.items() if name not in (*PAGE, "order")}
    return all(str(one.get(name)) in ",".join(values).split(",") for name, values in filters.items())


def _page(items: list[Any], call: dict[str, Any]) -> Any:
    start, size = int(call["params"].get("cursor", ["0"])[0]), int(call["params"].get("limit", ["100"])[0])
    assert 1 <= size <= 1000, size
    more = start + size < len(items)
    return {"items": items[start : start + size], "next": str(start + size) if more else None}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    api: FakeApi

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        is_json = headers.get("content-type") == "application/json"
        body = json.loads(raw) if raw and is_json else raw
        with self.api.lock:
            self.api.requests.append((self.command, self.path, headers, body))
            fault = self.api.faults.pop(0) if self.api.faults else None
        if fault is not None and self._fault(fault):
            return
        try:
            if self.api.key and headers.get("authorization") != f"Bearer {self.api.key}":
                raise Problem(401, "Unauthenticated", "a key is needed")
            if "text/event-stream" in headers.get("accept", ""):
                self._stream(headers)
                return
            self._answer(self._routed(headers, body))
        except Problem as problem:
            self._send(problem.status, json.dumps(problem.body).encode(), "application/problem+json")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _routed(self, headers: dict[str, str], body: Any) -> Any:
        parts = urlsplit(self.path)
        assert parts.path.startswith("/api/v2"), self.path
        path = parts.path.removeprefix("/api/v2") or "/"
        params = parse_qs(parts.query, keep_blank_values=True)
        for method, pattern, known, function in ROUTES:
            found = pattern.match(path)
            if method == self.command and found:
                if set(params) - known:
                    raise Problem(400, "Bad input", f"unknown parameters {sorted(set(params) - known)}")
                call = {"params": params, "headers": headers, "body": body if body != b"" else None}
                act = partial(function, self.api, call, *map(unquote, found.groups()))
                with self.api.lock:
                    return self._once(headers, act)
        raise Problem(404, "Not found", f"no route {self.command} {path}")

    def _once(self, headers: dict[str, str], act: Callable[[], Any]) -> Any:
        key = headers.get("idempotency-key")
        if key is None:
            return act()
        if key not in self.api.seen_keys:
            self.api.seen_keys[key] = act()
        return self.api.seen_keys[key]

    def _answer(self, answer: Any) -> None:
        status, body = answer if isinstance(answer, tuple) else (200, answer)
        if isinstance(body, bytes):
            self._send(status, body, "application/octet-stream")
        else:
            self._send(status, b"" if body is None else json.dumps(body).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _fault(self, fault: Any) -> bool:
        """"cut": no answer; "lost": done, but the answer is lost; (status, seconds): busy; "half": half an answer;
        bytes: an answer that ends well with these (so ends what is followed when a server stops);
        "at work": the first try of a repeated call is not done."""
        if fault == "pass":
            return False
        self.close_connection = True
        if fault == "lost":
            raw_headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.api.requests[-1][3]
            self._routed(raw_headers, body)
        elif fault == "half":
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"4\r\nhalf\r\n")
        elif isinstance(fault, bytes):
            self._send(200, fault, "text/plain")
        elif fault == "at work":
            problem = {"title": "Conflict", "status": 409, "detail": "the first request with this key is still at work"}
            self._send(409, json.dumps(problem).encode(), "application/problem+json")
        elif isinstance(fault, tuple):
            problem = {"title": "Busy", "status": fault[0], "detail": "come back"}
            self._send(fault[0], json.dumps(problem).encode(), "application/problem+json", Retry_After=str(fault[1]))
        return True

    def _stream(self, headers: dict[str, str]) -> None:
        """The events after the resume point, two per connection; then it breaks off."""
        params = parse_qs(urlsplit(self.path).query)
        after = int(headers.get("last-event-id") or params.get("since", ["0"])[0])
        found = [one for one in self.api.events if one["id"] > after][:2]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b": hello\nretry: 1\n\n")
        for one in found:
            kind = one["kind"]
            self.wfile.write(f"id: {one['id']}\nevent: {kind}\ndata: {json.dumps(one)}\n\n".encode())
        self.wfile.write(b"id: 999\nevent: cut.off")
        self.close_connection = True


class FakeServer:
    """`with FakeServer(api) as url:`"""

    def __init__(self, api: FakeApi) -> None:
        handler = type("Handler", (_Handler,), {"api": api})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> str:
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        return self.url

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
