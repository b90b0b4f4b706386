"""May this be created, may this pod be evicted? Namespaces, quotas, disruption budgets, users."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

from cloudsched.testing.kubeapi import answers, kinds
from cloudsched.testing.kubeapi.kinds import Kind, Object
from cloudsched.testing.kubeapi.quantities import amount, asked
from cloudsched.testing.kubeapi.selectors import selected
from cloudsched.testing.kubeapi.store import Store

POD, NAMESPACE, QUOTA = kinds.of("Pod"), kinds.of("Namespace"), kinds.of("ResourceQuota")
BUDGET, ACCOUNT = kinds.of("PodDisruptionBudget"), kinds.of("ServiceAccount")
_COUNTED = {"services": "Service", "secrets": "Secret", "configmaps": "ConfigMap",
            "persistentvolumeclaims": "PersistentVolumeClaim"}


@dataclass(frozen=True)
class Rule:
    """What a user may do; `*` is everything. `resources` are plurals, with a slash for subresources (`pods/log`)."""

    verbs: tuple[str, ...]
    resources: tuple[str, ...]
    namespaces: tuple[str, ...] = ("*",)

    def allows(self, verb: str, resource: str, namespace: str) -> bool:
        return all("*" in among or one in among for one, among in (
            (verb, self.verbs), (resource, self.resources), (namespace, self.namespaces)))


@dataclass(frozen=True)
class User:
    """Whom a token stands for."""

    name: str
    rules: tuple[Rule, ...] = (Rule(("*",), ("*",)),)
    denied: tuple[Rule, ...] = ()

    def may(self, verb: str, resource: str, namespace: str) -> bool:
        return (any(rule.allows(verb, resource, namespace) for rule in self.rules)
                and not any(rule.allows(verb, resource, namespace) for rule in self.denied))


def authorize(user: User, verb: str, kind: Kind, namespace: str, name: str, subresource: str) -> None:
    """403 as the server words it."""
    resource = kind.plural + (f"/{subresource}" if subresource else "")
    if user.may(verb, resource, namespace):
        return
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    raise answers.forbidden(kind, name, f'User "{user.name}" cannot {verb} resource "{resource}" in API group '
                            f'"{kind.group}" {where}')


def admit(store: Store, kind: Kind, thing: Object) -> None:
    """Checks before a creation: the namespace is there and stays, the account exists, no quota is exceeded."""
    metadata = thing["metadata"]
    name = metadata.get("name") or metadata.get("generateName", "")
    if kind.namespaced:
        namespace = store.get(NAMESPACE, "", metadata["namespace"])
        if namespace is None:
            raise answers.not_found(NAMESPACE, metadata["namespace"])
        if namespace["metadata"].get("deletionTimestamp"):
            where = metadata["namespace"]
            raise answers.forbidden(
                kind, name, f"unable to create new content in namespace {where} because it is being terminated",
                causes=[{"reason": "NamespaceTerminating", "message": f"namespace {where} is being terminated",
                         "field": "metadata.namespace"}])
    if kind.kind == "Pod":
        account = thing["spec"].get("serviceAccountName", "default")
        if (account != "default" or store.late_accounts) and store.get(ACCOUNT, metadata["namespace"], account) is None:
            where = metadata["namespace"]
            raise answers.forbidden(kind, name, f"error looking up service account {where}/{account}: "
                                    f'serviceaccount "{account}" not found')
    for quota in store.all(QUOTA, metadata.get("namespace", "")) if kind.namespaced else ():
        _check_quota(store, kind, thing, quota, name)


def node_ports(thing: Object) -> list[int]:
    """Of a service, as far as they are said."""
    return [int(one.get("nodePort") or 0) for one in (thing.get("spec") or {}).get("ports") or () if isinstance(one, dict)]


def allocate(store: Store, kind: Kind, thing: Object, asked: list[int]) -> None:
    """Each port of the nodes is given once: 422 for one that was asked for and is taken."""
    if kind.kind != "Service":
        return
    own = (thing["metadata"]["namespace"], thing["metadata"]["name"])
    taken = {port for one in store.all(kind) for port in node_ports(one)
             if (one["metadata"]["namespace"], one["metadata"]["name"]) != own}
    for place, port in enumerate((thing.get("spec") or {}).get("ports") or ()):
        if port.get("nodePort") not in taken:
            continue
        if asked[place]:
            raise answers.invalid(kind, own[1], (f"spec.ports[{place}].nodePort", f"Invalid value: {asked[place]}: provided "
                                                 "port is already allocated"))
        port["nodePort"] = next(one for one in range(30_000, 32_768) if one not in taken)


def usage(store: Store, quota: Object) -> dict[str, float]:
    """What a quota counts, by its own names."""
    namespace = quota["metadata"]["namespace"]
    pods = [pod for pod in store.all(POD, namespace)
            if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")]
    return {name: sum(_counted(name, "Pod", pod) for pod in pods) + _objects(store, name, namespace)
            for name in quota["spec"].get("hard") or {}}


def budgets_of(store: Store, pod: Object) -> list[Object]:
    labels = pod["metadata"].get("labels") or {}
    return [one for one in store.all(BUDGET, pod["metadata"]["namespace"]) if selected(one["spec"].get("selector"), labels)]


def spend_budget(store: Store, pod: Object, *, dry_run: bool) -> None:
    """Take one disruption of the pod's budget; 429 when there is none left, 500 when there are two budgets."""
    budgets = budgets_of(store, pod)
    if len(budgets) > 1:
        raise answers.Refused(500, "InternalError", "Internal error occurred: This pod has more than one "
                              "PodDisruptionBudget, which the eviction subresource does not support.")
    if not budgets or (pod.get("status") or {}).get("phase") not in ("Running",):
        return
    budget = copy.deepcopy(budgets[0])
    name, status = budget["metadata"]["name"], budget.setdefault("status", {})
    if status.get("observedGeneration", 0) < budget["metadata"].get("generation", 1):
        raise answers.budget_refuses(f"The disruption budget {name} is still being processed by the server.")
    if status.get("disruptionsAllowed", 0) <= 0:
        raise answers.budget_refuses(f"The disruption budget {name} needs {status.get('desiredHealthy', 0)} healthy pods "
                                     f"and has {status.get('currentHealthy', 0)} currently")
    if not dry_run:
        status["disruptionsAllowed"] -= 1
        store.put(BUDGET, budget)


def _check_quota(store: Store, kind: Kind, thing: Object, quota: Object, name: str) -> None:
    hard = (quota.get("status") or {}).get("hard") or {}  # it counts from when its controller has seen it
    added = {key: _counted(key, kind.kind, thing) for key in hard}
    title = quota["metadata"]["name"]
    if kind.kind == "Pod":
        unset = [key for key in hard if _unset(key, thing)]
        if unset:
            raise answers.forbidden(kind, name, f"failed quota: {title}: must specify " + ",".join(
                f"{key} for: {thing['spec']['containers'][0]['name']}" for key in sorted(unset)))
    used = usage(store, quota)
    over = sorted(key for key, value in added.items() if value and used[key] + value > amount(hard[key]))
    if over:
        def list_of(values: dict[str, str]) -> str:
            return ",".join(f"{key}={values[key]}" for key in over)

        raise answers.forbidden(
            kind, name, f"exceeded quota: {title}, requested: {list_of(_texts(added, over))}, "
            f"used: {list_of(_texts(used, over))}, limited: {list_of({key: str(hard[key]) for key in over})}")


def _texts(values: dict[str, float], names: Iterable[str]) -> dict[str, str]:
    return {name: f"{values[name]:g}" for name in names}


def _counted(name: str, kind: str, thing: Object) -> float:
    """By how much one object uses a quota's resource."""
    if kind == "Pod":
        if name in ("pods", "count/pods"):
            return 1.0
        sort, _, resource = name.rpartition(".") if name.startswith(("requests.", "limits.")) else ("requests", "", name)
        return asked(thing, sort).get(resource, 0.0)
    return 1.0 if _COUNTED.get(name.removeprefix("count/")) == kind else 0.0


def _unset(name: str, pod: Object) -> bool:
    sort, _, resource = name.rpartition(".") if name.startswith(("requests.", "limits.")) else ("requests", "", name)
    if resource not in ("cpu", "memory"):
        return False
    return any(resource not in ((one.get("resources") or {}).get(sort) or {}) for one in pod["spec"]["containers"])


def _objects(store: Store, name: str, namespace: str) -> float:
    kind = _COUNTED.get(name.removeprefix("count/"))
    return float(len(store.all(kinds.of(kind), namespace))) if kind else 0.0
