"""How is a pod a machine? Our agent in it (a pilot): booted, listed, and taken away with all it holds.

What belongs to the pilot NODE: a pod (its name follows from the node's), and a secret of the same name with the join token.
The pod comes first and the secret names it as its owner: whatever dies in between, whoever deletes the pod has deleted the
secret. The agent's file is in a configuration map that all pilots of this installation with the same agent share; it goes
with the last of them.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from cloudsched import clock
from cloudsched.drivers.agentfile import FILE_NAME, agent_digest, agent_pyz
from cloudsched.drivers.base import OTHER, REQUEST, DriverError, Machine, Place, Wanted
from cloudsched.drivers.kubernetes import kinds, names
from cloudsched.drivers.kubernetes.client import METADATA_LIST, METADATA_ONLY, Api, ApiRefused, Object
from cloudsched.drivers.kubernetes.options import CARRIED, Options
from cloudsched.drivers.kubernetes.pilot import manifest
from cloudsched.drivers.kubernetes.podstates import state_of
from cloudsched.errors import Invalid

MAX_NAME = 255
_PAUSE_S, _MAX_PAUSE_S = 0.05, 1.0
_FORCE_AFTER_S = 15.0
_ENDED = ("Succeeded", "Failed")


class Pilots:
    """The machines of one place."""

    def __init__(self, api: Api, place: Place, options: Options, *, namespace: str,
                 pause: Callable[[float], None] = time.sleep) -> None:
        self._api, self._place, self._options, self._namespace = api, place, options, namespace
        self._pause = pause
        self._mark = names.place_mark(place)
        self._instance = names.instance_mark(place)

    # -- the Driver protocol -----------------------------------------------------------------------------------

    def boot(self, wanted: Wanted) -> Machine:
        """The pod of `wanted.name`, made unless it is there; one that has ended is made afresh."""
        body = self.manifest(wanted)
        self._give_agent()
        pod = self._create(body, wanted.name)
        try:
            self._give_token(pod, wanted.join_token)
            self._give_agent()  # the last pilot may have taken it along meanwhile
        except ApiRefused as refused:
            if not refused.transient:  # nobody comes back for a pod that can never start
                self._clear_up(wanted.name)
            raise
        return self._machine(pod)

    def machines(self) -> list[Machine]:
        """Every pod of this place, ended ones included."""
        found = self._api.items(kinds.POD.path(self._namespace), labelSelector=f"{names.PLACE}={self._mark}")
        return [self._machine(pod) for pod in found]

    def destroy(self, name: str) -> None:
        """The pod with its secret; returns when both are gone."""
        title = names.pod_name(self._place, name)
        self._end_pod(title)
        self._end_secret(title)
        self._take_agents()

    def manifest(self, wanted: Wanted) -> Object:
        """The pod as it would be made. DriverError (REQUEST) names the field that is wrong."""
        check_wanted(wanted)
        url = self._options.server_url or wanted.server_url or self._place.server_url
        if urlsplit(url).scheme not in ("http", "https"):
            raise DriverError(f"server_url: {url!r} is not a URL the agent can call", code=REQUEST)
        try:
            return manifest(wanted, self._place, self._options, namespace=self._namespace, server_url=url,
                            agent_map=self._agent_map)
        except Invalid as error:
            raise DriverError(error.message, code=REQUEST) from error

    # -- the pod -----------------------------------------------------------------------------------------------

    def _create(self, body: Object, name: str) -> Object:
        deadline = time.monotonic() + self._options.destroy_timeout_s
        title = body["metadata"]["name"]
        while True:
            try:
                return self._post(kinds.POD, body)
            except ApiRefused as refused:
                if refused.reason != "AlreadyExists" and not _is_account_late(refused):
                    raise
            pod = self._api.find(kinds.POD.path(self._namespace, title))
            if pod is not None:
                if (pod["metadata"].get("annotations") or {}).get(names.NAME) != name:
                    raise DriverError(f"the pod {self._namespace}/{title} is there and is not {name}", code=OTHER)
                phase = (pod.get("status") or {}).get("phase")
                if not pod["metadata"].get("deletionTimestamp") and phase not in _ENDED:
                    return pod
                self._end_pod(title)
            if time.monotonic() >= deadline:
                raise DriverError(f"no pod can be made for {name} yet", code=OTHER, transient=True)
            self._pause(_PAUSE_S)

    def _post(self, resource: kinds.Resource, body: Object) -> Object:
        """Create in our namespace, which is made first when it is missing and we were told to."""
        path = resource.path(self._namespace)
        try:
            return self._api.send("POST", path, body)[1]
        except ApiRefused as refused:
            if refused.status != 404 or "namespaces" not in refused.message:
                raise
        if not self._options.create_namespace:
            raise DriverError(f"namespace: there is no {self._namespace!r} (make it, or set create_namespace=true)", code=REQUEST)
        self._give_namespace()
        return self._api.send("POST", path, body)[1]

    def _end_pod(self, title: str) -> None:
        path = kinds.POD.path(self._namespace, title)
        deadline = time.monotonic() + self._options.destroy_timeout_s
        uid = self._ask_to_end(path, {"gracePeriodSeconds": self._options.grace_s})
        force_at = time.monotonic() + min(self._options.grace_s + _FORCE_AFTER_S, self._options.destroy_timeout_s / 2)
        pause_s = _PAUSE_S
        while uid:
            pod = self._api.find(path)
            if pod is None or pod["metadata"]["uid"] != uid:
                return
            if time.monotonic() >= deadline:
                raise DriverError(f"the pod {self._namespace}/{title} does not end{self._hint(pod)}", code=OTHER, transient=True)
            if time.monotonic() >= force_at and not self._node_answers(pod):
                self._ask_to_end(path, {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})
            self._pause(pause_s)
            pause_s = min(_MAX_PAUSE_S, pause_s * 1.5)

    def _ask_to_end(self, path: str, options: Object) -> str:
        """The uid of what is ending; empty when it is not there."""
        try:
            answer = self._api.send("DELETE", path, {"apiVersion": "v1", "kind": "DeleteOptions", **options}, repeat=True)[1]
        except ApiRefused as refused:
            if refused.status in (404, 409):
                return ""
            raise
        uid = (answer.get("metadata") or {}).get("uid") or (answer.get("details") or {}).get("uid")
        return str(uid or "")

    def _node_answers(self, pod: Object) -> bool:
        """Is there a kubelet that could end it? When we may not look, we trust that there is."""
        name = pod["spec"].get("nodeName")
        if not name:
            return False
        try:
            node = self._api.find(kinds.NODE.path(name=name))
        except ApiRefused:
            return True
        conditions = ((node or {}).get("status") or {}).get("conditions") or ()
        return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)

    def _hint(self, pod: Object) -> str:
        finalizers = pod["metadata"].get("finalizers") or ()
        return f" (it waits for {', '.join(finalizers)})" if finalizers else ""

    def _clear_up(self, name: str) -> None:
        try:
            self.destroy(name)
        except DriverError:  # the sweep looks again
            pass

    # -- the token ---------------------------------------------------------------------------------------------

    def _give_token(self, pod: Object, token: str) -> None:
        title, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        body = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {
            "name": title, "namespace": self._namespace, "labels": self._labels(),
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": title, "uid": uid}]},
            "data": {"token": base64.b64encode(token.encode()).decode()}}
        for _ in range(3):
            try:
                self._post(kinds.SECRET, body)
                return
            except ApiRefused as refused:
                if refused.reason != "AlreadyExists":
                    raise
            if self._owner_of_secret(title) == uid:
                return
            self._delete(kinds.SECRET.path(self._namespace, title))  # of an earlier pod
        raise DriverError(f"the secret {self._namespace}/{title} is in the way", code=OTHER, transient=True)

    def _owner_of_secret(self, title: str) -> str:
        secret = self._api.find(kinds.SECRET.path(self._namespace, title), accept=METADATA_ONLY)
        owners = (secret or {"metadata": {}})["metadata"].get("ownerReferences") or ()
        return next((str(one["uid"]) for one in owners), "")

    def _end_secret(self, title: str) -> None:
        """The cluster takes it away after its pod; we do not rely on when."""
        path = kinds.SECRET.path(self._namespace, title)
        owner = self._owner_of_secret(title)
        pod = self._api.find(kinds.POD.path(self._namespace, title), accept=METADATA_ONLY) if owner else None
        if pod is None or pod["metadata"]["uid"] != owner:
            self._delete(path)

    # -- the agent ---------------------------------------------------------------------------------------------

    @property
    def _agent_map(self) -> str:
        return f"cloudsched-agent-{self._instance}-{agent_digest()[:16]}"

    def _give_agent(self) -> None:
        if self._options.agent != CARRIED:
            return
        if self._api.find(kinds.CONFIG_MAP.path(self._namespace, self._agent_map), accept=METADATA_ONLY) is not None:
            return
        body = {"apiVersion": "v1", "kind": "ConfigMap", "immutable": True, "metadata": {
            "name": self._agent_map, "namespace": self._namespace,
            "labels": {names.MANAGED: "cloudsched", names.INSTANCE: self._instance, names.AGENT: agent_digest()[:16]}},
            "binaryData": {FILE_NAME: base64.b64encode(agent_pyz()).decode()}}
        try:
            self._post(kinds.CONFIG_MAP, body)
        except ApiRefused as refused:
            if refused.reason != "AlreadyExists":
                raise

    def _take_agents(self) -> None:
        """The agents that no pilot of this installation needs any more. A boot at the same moment looks for its agent after
        its pod is there, and we look for pods after the agent is gone: one of the two puts it back."""
        if self._options.agent != CARRIED:
            return
        selector = f"{names.INSTANCE}={self._instance},{names.AGENT}"
        for one in self._api.items(kinds.CONFIG_MAP.path(self._namespace), accept=METADATA_LIST, labelSelector=selector):
            digest = one["metadata"]["labels"][names.AGENT]
            if self._is_needed(digest):
                continue
            self._delete(kinds.CONFIG_MAP.path(self._namespace, one["metadata"]["name"]))
            if digest == agent_digest()[:16] and self._is_needed(digest):
                self._give_agent()

    def _is_needed(self, digest: str) -> bool:
        page = self._api.get(kinds.POD.path(self._namespace), accept=METADATA_LIST, limit=1,
                             labelSelector=f"{names.INSTANCE}={self._instance},{names.AGENT}={digest}")
        return bool(page.get("items"))

    # -- the rest ----------------------------------------------------------------------------------------------

    def _give_namespace(self) -> None:
        try:
            self._api.send("POST", kinds.NAMESPACE.path(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {
                "name": self._namespace, "labels": {names.MANAGED: "cloudsched"}}})
        except ApiRefused as refused:
            if refused.reason != "AlreadyExists":
                raise

    def _labels(self) -> dict[str, str]:
        return {names.MANAGED: "cloudsched", names.PLACE: self._mark, names.INSTANCE: self._instance}

    def _delete(self, path: str) -> None:
        try:
            self._api.send("DELETE", path, repeat=True)
        except ApiRefused as refused:
            if refused.status != 404:
                raise

    def _machine(self, pod: Object) -> Machine:
        metadata, status = pod["metadata"], pod.get("status") or {}
        seen = state_of(pod, now=clock.now(), pending_timeout_s=self._options.pending_timeout_s)
        return Machine(
            name=(metadata.get("annotations") or {}).get(names.NAME) or metadata["name"], external_id=metadata["uid"],
            state=seen.state, hostname=metadata["name"], address=status.get("podIP") or "", reason=seen.reason,
            handle={"pod": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
                    "node": pod["spec"].get("nodeName") or ""})


def _is_account_late(refused: ApiRefused) -> bool:
    """A namespace that is new has no default service account for some moments."""
    return refused.status == 403 and 'serviceaccount "default" not found' in refused.message


def check_wanted(wanted: Wanted) -> None:
    """DriverError (REQUEST) that begins with the field."""
    if not 1 <= len(wanted.name) <= MAX_NAME or not wanted.name.isprintable():
        raise DriverError(f"name: must be 1 to {MAX_NAME} printable characters", code=REQUEST)
    for field, least in (("cores", 1), ("memory_mb", 0), ("storage_gb", 0), ("slots", 0)):
        if getattr(wanted, field) < least:
            raise DriverError(f"{field}: must be at least {least}", code=REQUEST)
    if not wanted.join_token:
        raise DriverError("join_token: is missing", code=REQUEST)

