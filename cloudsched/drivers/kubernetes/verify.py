"""Can this cluster be used as a cloud? One check for each thing that must be right, with what to do when it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from cloudsched.drivers.base import Check, DriverError, Place, Wanted
from cloudsched.drivers.kubernetes import kinds
from cloudsched.drivers.kubernetes.access import is_loopback
from cloudsched.drivers.kubernetes.client import Api, ApiRefused
from cloudsched.drivers.kubernetes.options import CARRIED, Options
from cloudsched.drivers.kubernetes.pods import Pilots

_REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_PROBE = "cloudsched-verify"


@dataclass(frozen=True, slots=True)
class _Right:
    """`needed`: machines cannot be booted without it."""

    verb: str
    resource: str
    group: str = ""
    subresource: str = ""
    needed: bool = False
    everywhere: bool = False

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f"/{self.subresource}" if self.subresource else "")


_RIGHTS = (
    *(_Right(verb, "pods", needed=True) for verb in ("create", "get", "list", "delete")),
    *(_Right(verb, "secrets", needed=True) for verb in ("create", "get", "delete")),
    _Right("watch", "pods"), _Right("get", "pods", subresource="log"), _Right("create", "pods", subresource="eviction"),
    _Right("list", "nodes", everywhere=True), _Right("patch", "nodes", everywhere=True),
    _Right("create", "jobs", "batch"), _Right("delete", "jobs", "batch"), _Right("patch", "deployments", "apps"),
    _Right("patch", "services"), _Right("create", "namespaces", everywhere=True))
_CARRIED_RIGHTS = tuple(_Right(verb, "configmaps", needed=True) for verb in ("create", "get", "list", "delete"))


def verify(api: Api, pilots: Pilots, place: Place, options: Options, *, namespace: str) -> list[Check]:
    """Never raises for a 'no'. Ends early when the server cannot be asked at all."""
    version = _check("api server", lambda: _version(api))
    if not version.ok:
        return [version]
    rights = _check("permissions", lambda: _rights(api, namespace, options))
    checks = [version, _trust(api), rights]
    if rights.ok:
        checks += [_check("namespace", lambda: _namespace(api, namespace, options)),
                   _check("pilot pod", lambda: _probe(api, pilots, namespace, options))]
    return [*checks, _server_url(api, place, options)]


def may(api: Api, right: _Right, namespace: str) -> bool:
    """Ask the server what it would let us do."""
    attributes = {"verb": right.verb, "resource": right.resource, "group": right.group, "subresource": right.subresource,
                  "namespace": "" if right.everywhere else namespace}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}}}
    answer = api.send("POST", _REVIEW, body, repeat=True)[1]
    return bool((answer.get("status") or {}).get("allowed"))


class _No(Exception):
    """A check that fails, with what to do."""


def _check(name: str, what: Callable[[], str]) -> Check:
    try:
        return Check(name, ok=True, detail=what())
    except (DriverError, _No) as error:
        return Check(name, ok=False, detail=str(error))


def _version(api: Api) -> str:
    version = api.get("/version")
    api.get("/api")  # the version is told to everybody: this is not
    return f"{version.get('gitVersion', 'version unknown')} at {api.access.server}"


def _trust(api: Api) -> Check:
    if api.access.server.startswith("http://"):
        detail = "plain HTTP: whoever is on the way reads the token"
    else:
        detail = "" if api.access.verifies else "its certificate is not verified (insecure-skip-tls-verify)"
    return Check("transport", ok=True, detail=detail)


def _rights(api: Api, namespace: str, options: Options) -> str:
    rights = [*_RIGHTS, *(_CARRIED_RIGHTS if options.agent == CARRIED else ())]
    missing = [right for right in rights if not may(api, right, namespace)]
    needed = [str(right) for right in missing if right.needed]
    if needed:
        raise _No(f"not allowed in {namespace}: {', '.join(needed)}; grant them with a Role")
    return f"not allowed (their verbs are refused): {', '.join(map(str, missing))}" if missing else ""


def _namespace(api: Api, namespace: str, options: Options) -> str:
    try:
        found = api.find(kinds.NAMESPACE.path(name=namespace))
    except ApiRefused as refused:
        if refused.status == 403:  # it takes a right of its own to look
            return namespace
        raise
    if found is None:
        if options.create_namespace:
            return f"{namespace} will be made"
        raise _No(f"there is no {namespace!r}: make it, or set create_namespace=true")
    if found["metadata"].get("deletionTimestamp"):
        raise _No(f"{namespace} is being deleted")
    return namespace


def _probe(api: Api, pilots: Pilots, namespace: str, options: Options) -> str:
    """A pod as we make it, tried without making it: quotas, policies and admission have their say."""
    url = options.server_url or "http://server.invalid"
    body = pilots.manifest(Wanted(_PROBE, node_id=0, cores=1, memory_mb=64, storage_gb=0, join_token="-", server_url=url))  # noqa: S106
    try:
        api.send("POST", kinds.POD.path(namespace), body, query={"dryRun": "All"})
    except ApiRefused as refused:
        absent = refused.status == 404 and options.create_namespace
        if not absent and refused.reason != "AlreadyExists":
            raise
    return f"accepted, with the image {options.image}"


def _server_url(api: Api, place: Place, options: Options) -> Check:
    """Pods call us: a loopback address is theirs, not ours."""
    url = options.server_url or place.server_url
    host = urlsplit(url).hostname or ""
    if not host:
        return Check("server url", ok=False, detail="server_url: the agents need a URL that pods can call; set the option")
    if not is_loopback(url) or is_loopback(api.access.server):
        return Check("server url", ok=True, detail=url)
    return Check("server url", ok=False, detail=f"server_url: pods cannot call {url}; set the option to an address they reach")
