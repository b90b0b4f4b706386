"""How does the stand-in speak HTTP? Paths, users, watches, logs, and the faults that a test wants to see."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from cloudsched.testing.kubeapi import admission, answers, kinds, selectors
from cloudsched.testing.kubeapi.answers import Refused
from cloudsched.testing.kubeapi.kinds import Kind, Object

if TYPE_CHECKING:
    from cloudsched.testing.kubeapi import KubeApi

_PATCHES = {"application/merge-patch+json": "merge", "application/json-patch+json": "json",
            "application/strategic-merge-patch+json": "strategic", "application/apply-patch+yaml": "apply"}
_PARTIAL = ("PartialObjectMetadata", "PartialObjectMetadataList")
_LOST, _UNREACHABLE, _HANGS = "answer_lost", "unreachable", "hangs"
WATCH_S = 300.0


class Server(ThreadingHTTPServer):
    """Closes what is open when it stops, so that a restart looks like one."""

    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, kube: KubeApi, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.kube = kube
        self.stopping = False
        self.open: set[socket.socket] = set()
        self.threads: set[threading.Thread] = set()

    def shut(self) -> None:
        self.stopping = True
        self.shutdown()
        self.server_close()
        with self.kube.store.lock:
            self.kube.store.changed.notify_all()
        for sock in list(self.open):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in list(self.threads):
            thread.join(5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        import sys

        if not isinstance(sys.exception(), OSError | ValueError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self.connection)
        self.server.threads.add(threading.current_thread())

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.server.open.discard(self.connection)
            self.server.threads.discard(threading.current_thread())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the test's own output is what counts."""

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    # -- one request -------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        kube = self.server.kube
        parts = urlsplit(self.path)
        self._query = dict(parse_qsl(parts.query, keep_blank_values=True))
        path = [unquote(one) for one in parts.path.strip("/").split("/")]
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kube.seen.append((self.command, parts.path, self._query))
        if kube.habits.latency_s:
            time.sleep(kube.habits.latency_s)
        fault = kube.take_fault(self.command, parts.path)
        if fault in (_UNREACHABLE, _HANGS):
            if fault == _HANGS:
                self.server.kube.released.wait(30)
            self.close_connection = True
            return
        try:
            if fault is not None and fault != _LOST:
                raise kube.faults_as_answers[fault]()
            code, body = self._answer(path, raw)
        except Refused as refused:
            code, body = refused.code, refused.status
            if refused.retry_after_s is not None:
                self._retry_after = refused.retry_after_s
        if fault == _LOST:
            self.close_connection = True
            return
        if body is not None:
            self._send(code, body)

    def _answer(self, path: list[str], raw: bytes) -> tuple[int, Any]:
        """The status and body of an answer; no body when it has been written already."""
        kube = self.server.kube
        if path in (["healthz"], ["readyz"], ["livez"]):
            return 200, "ok"
        user = kube.user_of(self.headers.get("Authorization", ""))
        if user is None:
            raise answers.unauthorized()
        if path == ["version"]:
            return 200, {"major": "1", "minor": "37", "gitVersion": "v1.37.0-standin", "platform": "linux/amd64"}
        if path in (["api"], ["apis"]) or (path[0] == "api" and len(path) == 2) or (path[0] == "apis" and len(path) in (2, 3)):
            return 200, self._discovery(path)
        if "proxy" in path and not kube.habits.answers:
            raise Refused(503, "ServiceUnavailable", "error trying to reach service: dial tcp 10.0.0.1:8080: i/o timeout")
        found = self._resolve(path)
        if found is None:
            return 404, "404 page not found\n"
        kind, namespace, name, subresource = found
        verb = self._verb(name)
        admission.authorize(user, verb, kind, namespace, name, subresource)
        body = self._body(raw)
        if kind.virtual:
            return self._virtual(user, kind, namespace, name, body)
        return self._kept(verb, kind, namespace, name, subresource, body)

    def _kept(self, verb: str, kind: Kind, namespace: str, name: str, subresource: str, body: Any) -> tuple[int, Any]:
        api, query = self.server.kube.api, self._query
        how: dict[str, Any] = {"dry_run": query.get("dryRun") == "All"}
        manager = query.get("fieldManager") or self.headers.get("User-Agent", "unknown").split("/")[0]
        if subresource == "eviction" and verb == "create":
            return 201, api.evict(kind, namespace, name, body, **how)
        if subresource == "log" and verb == "get":
            self._log(kind, namespace, name)
            return 200, None
        if subresource not in ("", "status") or (subresource == "status" and not kind.status):
            return 404, "404 page not found\n"
        if verb == "watch":
            self._watch(kind, namespace, name)
            return 200, None
        if verb == "list":
            return 200, self._shaped(api.list(kind, namespace, query))
        if verb == "get":
            return 200, self._shaped(api.get(kind, namespace, name))
        if verb == "create":
            made = api.create(kind, namespace, body, manager=manager, **how)
            self._declared(kind, made)
            return 201, made
        if verb == "update":
            return 200, api.update(kind, namespace, name, body, subresource=subresource, manager=manager, **how)
        if verb == "patch":
            return self._patch(kind, namespace, name, subresource, body, manager, how)
        options = {**(body or {}), **{key: query[key] for key in ("propagationPolicy",) if key in query}}
        if "gracePeriodSeconds" in query:
            options["gracePeriodSeconds"] = int(query["gracePeriodSeconds"])
        if verb == "deletecollection":
            return 200, api.delete_all(kind, namespace, query, options, **how)
        return 200, api.delete(kind, namespace, name, options, **how)

    def _patch(self, kind: Kind, namespace: str, name: str, subresource: str, body: Any, manager: str,
               how: dict[str, Any]) -> tuple[int, Any]:
        sort = _PATCHES.get(self.headers.get("Content-Type", "").split(";")[0].strip())
        if sort is None:
            raise Refused(415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media "
                          f"types include: {', '.join(_PATCHES)}")
        api = self.server.kube.api
        if sort != "apply":
            return 200, api.patch(kind, namespace, name, body, sort=sort, subresource=subresource, manager=manager, **how)
        if not self._query.get("fieldManager"):
            raise Refused(422, "Invalid", "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required "
                          "for apply patch")
        for key in ("apiVersion", "kind"):
            if not isinstance(body, dict) or not body.get(key):
                raise answers.bad_request(f"invalid object type: /, Kind=: {key} must be set")
        thing, new = api.apply(kind, namespace, name, body, manager=manager, force=self._query.get("force") == "true", **how)
        if new and not how["dry_run"]:
            self._declared(kind, thing)
        return 201 if new else 200, thing

    def _declared(self, kind: Kind, thing: Object) -> None:
        if kind.kind == "CustomResourceDefinition":
            self.server.kube.serve(*kinds.from_definition(thing))

    # -- what is where -----------------------------------------------------------------------------------------

    def _resolve(self, path: list[str]) -> tuple[Kind, str, str, str] | None:
        group, version, rest = ("", path[1], path[2:]) if path[0] == "api" and len(path) > 2 else (
            (path[1], path[2], path[3:]) if path[0] == "apis" and len(path) > 3 else ("", "", []))
        namespace = ""
        if rest[:1] == ["namespaces"] and len(rest) > 2 and rest[2] not in ("status", "finalize"):
            namespace, rest = rest[1], rest[2:]
        if not rest:
            return None
        kind = self.server.kube.kind_at(group, version, rest[0])
        if kind is None or len(rest) > 3 or (namespace and not kind.namespaced):
            return None
        if kind.namespaced and not namespace and len(rest) > 1:
            return None
        return kind, namespace, rest[1] if len(rest) > 1 else "", rest[2] if len(rest) > 2 else ""

    def _verb(self, name: str) -> str:
        if self.command == "GET":
            watches = self._query.get("watch") in ("true", "1")
            return "watch" if watches else "get" if name else "list"
        if self.command == "DELETE":
            return "delete" if name else "deletecollection"
        verb = {"POST": "create", "PUT": "update", "PATCH": "patch"}[self.command]
        if not name and verb != "create":
            raise Refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        return verb

    def _body(self, raw: bytes) -> Any:
        if not raw:
            return None
        try:
            return json.loads(raw)
        except ValueError:
            raise answers.bad_request("error decoding the body of the request: it is not JSON") from None

    def _discovery(self, path: list[str]) -> Object:
        served = self.server.kube.served()
        if path == ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == ["apis"]:
            groups = sorted({(one.group, one.version) for one in served if one.group})
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [
                {"name": group, "versions": [{"groupVersion": f"{group}/{version}", "version": version}],
                 "preferredVersion": {"groupVersion": f"{group}/{version}", "version": version}} for group, version in groups]}
        group, version = ("", path[1]) if path[0] == "api" else (path[1], path[2] if len(path) > 2 else "")
        listed = [one for one in served if one.group == group and one.version == version]
        if not listed:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": listed[0].api_version, "resources": [
            {"name": one.plural, "singularName": one.kind.lower(), "namespaced": one.namespaced, "kind": one.kind,
             "verbs": ["create"] if one.virtual else kinds.VERBS} for one in listed]}

    def _virtual(self, user: admission.User, kind: Kind, namespace: str, name: str, body: Any) -> tuple[int, Any]:
        if kind.group == "metrics.k8s.io":
            return 200, self.server.kube.metrics(kind, namespace, name)
        if kind.kind == "SelfSubjectReview":
            return 201, {**body, "status": {"userInfo": {"username": user.name}}}
        asked = body["spec"]["resourceAttributes"]
        resource = asked["resource"] + (f"/{asked['subresource']}" if asked.get("subresource") else "")
        allowed = user.may(asked["verb"], resource, asked.get("namespace", ""))
        return 201, {**body, "status": {"allowed": allowed} | ({} if allowed else {"reason": "no rule allows it"})}

    def _shaped(self, body: Object) -> Object:
        """Only the metadata, when the first that the caller accepts says so; 406 for a list where one object is said, and the
        other way round, even when the caller would take more."""
        first = self.headers.get("Accept", "").split(",")[0]
        wanted = next((one for one in _PARTIAL if f"as={one};" in first + ";"), "")
        if not wanted:
            return body
        if (wanted == _PARTIAL[1]) != ("items" in body):
            is_list = "is a list" if "items" in body else "is not a list"
            raise Refused(406, "NotAcceptable", f"you requested {wanted}, but the requested object {is_list} (*{body['kind']})")
        if "items" in body:
            return {**body, "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                    "items": [_partial(one) for one in body["items"]]}
        return _partial(body)

    # -- answers -----------------------------------------------------------------------------------------------

    def _send(self, code: int, body: Any) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        if hasattr(self, "_retry_after"):
            self.send_header("Retry-After", str(self._retry_after))
            del self._retry_after
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, pieces: Iterator[bytes], content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in pieces:
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True

    def _log(self, kind: Kind, namespace: str, name: str) -> None:
        kube, query = self.server.kube, self._query
        pod = kube.api.get(kind, namespace, name)
        containers = [one["name"] for one in pod["spec"]["containers"]]
        container = query.get("container") or containers[0]
        if container not in containers:
            raise answers.bad_request(f"container {container} is not valid for pod {name}")
        if not pod["spec"].get("nodeName") or (pod.get("status") or {}).get("phase") == "Pending":
            raise answers.bad_request(f'container "{container}" in pod "{name}" is waiting to start: ContainerCreating')
        if not kube.habits.answers:
            where = f"https://10.0.0.1:10250/containerLogs/{namespace}/{name}/{container}"
            raise Refused(500, "InternalError", f'Get "{where}": dial tcp 10.0.0.1:10250: connect: connection refused')
        self._stream(self._lines(f"{namespace}/{name}", container), "text/plain")

    def _lines(self, pod: str, container: str) -> Iterator[bytes]:
        kube, query = self.server.kube, self._query
        store = kube.store
        place = 0
        if "tailLines" in query:
            place = max(0, len(kube.log_lines(pod, container)) - int(query["tailLines"]))
        since = float(query["sinceSeconds"]) if "sinceSeconds" in query else None
        while True:
            with store.lock:
                lines = kube.log_lines(pod, container)[place:]
                place += len(lines)
                running = kube.runs(pod)
                if not lines and query.get("follow") == "true" and running and not self.server.stopping:
                    store.changed.wait(0.5)
                    continue
            for at, stamp, text in lines:
                if "sinceTime" in query and stamp < query["sinceTime"]:
                    continue
                if since is None or at >= time.time() - since:
                    yield (f"{stamp} {text}" if query.get("timestamps") == "true" else text).encode()
            if query.get("follow") != "true" or not running or self.server.stopping:
                return

    def _watch(self, kind: Kind, namespace: str, name: str) -> None:
        query = dict(self._query)
        if name:
            query["fieldSelector"] = f"metadata.name={name}"
        store = self.server.kube.store
        wanted = _wanted(query)
        given = query.get("resourceVersion", "")
        first: list[Object] = []
        with store.lock:
            if given in ("", "0"):
                first = [{"type": "ADDED", "object": one} for one in store.all(kind, namespace) if wanted(one)]
                version = store.version
            else:
                version = int(given)
                if version > store.version:
                    raise answers.too_large(version, store.version)
                try:
                    store.since(kind, version)
                except LookupError as oldest:
                    error = answers.expired(version, int(oldest.args[0]))
                    if self.server.kube.gone_as_status:
                        raise error from None
                    first = [{"type": "ERROR", "object": error.status}]
                    version = -1
        self._stream(self._changes(kind, namespace, version, wanted, first), "application/json")

    def _changes(self, kind: Kind, namespace: str, version: int, wanted: selectors.Test, first: list[Object]) -> Iterator[bytes]:
        kube = self.server.kube
        for event in first:
            yield _line(event)
        if version < 0:
            return
        ends = time.monotonic() + float(self._query.get("timeoutSeconds") or WATCH_S)
        bookmarks = self._query.get("allowWatchBookmarks") in ("true", "1")
        marked = time.monotonic()
        while not self.server.stopping:
            with kube.store.lock:
                changes, current = kube.store.since(kind, version, going_on=True), kube.store.version
                if not changes:
                    if time.monotonic() >= ends:
                        break
                    kube.store.changed.wait(max(0.001, min(0.2, ends - time.monotonic())))
            for change in changes:
                version = change.version
                told = _seen(change.type, change.thing, change.before, namespace, wanted)
                if told is not None:
                    yield _line(told)
            if bookmarks and not changes and time.monotonic() - marked > kube.bookmark_s:
                marked, version = time.monotonic(), max(version, current)
                yield self._bookmark(kind, version)
                kube.bookmarked = version
        if bookmarks and not self.server.stopping:
            yield self._bookmark(kind, version)

    def _bookmark(self, kind: Kind, version: int) -> bytes:
        return _line({"type": "BOOKMARK", "object": {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": {
            "resourceVersion": str(version), "creationTimestamp": None}}})


def _wanted(query: Mapping[str, str]) -> Callable[[Object], bool]:
    by_labels = selectors.by_labels(query.get("labelSelector", ""))
    by_fields = selectors.by_fields(query.get("fieldSelector", ""))
    return lambda thing: by_labels(thing) and by_fields(thing)


def _seen(sort: str, thing: Object, before: Object | None, namespace: str, wanted: selectors.Test) -> Object | None:
    """How a change looks through a selector."""
    if namespace and thing["metadata"].get("namespace") != namespace:
        return None
    now, then = sort != "DELETED" and wanted(thing), before is not None and wanted(before)
    if not now and not then:
        return None
    return {"type": "MODIFIED" if now and then else "ADDED" if now else "DELETED", "object": thing}


def _partial(thing: Object) -> Object:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": thing["metadata"]}


def _line(event: Object) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"
