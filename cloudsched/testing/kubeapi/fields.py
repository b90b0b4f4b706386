"""Who owns which field, and what does an apply change? Server-side apply with field managers.

A field set is a set of paths; a step of a path is `("f", name)` of a map, `("k", ((key, value), ...))` of an element in
a list with keys, or `("v", value)` of an element in a set. What has no row in the tables below is one value as a whole.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from typing import Any

from cloudsched.testing.kubeapi import answers
from cloudsched.testing.kubeapi.kinds import Kind, Object

Step = tuple[str, Any]
Path = tuple[Step, ...]
Fields = frozenset[Path]

# Lists whose elements have a name: the end of the path -> the keys of an element.
_KEYED: dict[tuple[str, ...], tuple[str, ...]] = {
    ("containers",): ("name",), ("initContainers",): ("name",), ("ephemeralContainers",): ("name",),
    ("volumes",): ("name",), ("env",): ("name",), ("imagePullSecrets",): ("name",), ("secrets",): ("name",),
    ("volumeMounts",): ("mountPath",), ("volumeDevices",): ("devicePath",), ("ownerReferences",): ("uid",),
    ("conditions",): ("type",), ("hostAliases",): ("ip",), ("resourceClaims",): ("name",),
    ("topologySpreadConstraints",): ("topologyKey", "whenUnsatisfiable"),
    ("containers", "ports"): ("containerPort", "protocol"), ("initContainers", "ports"): ("containerPort", "protocol"),
    ("spec", "ports"): ("port", "protocol"),
}
_SETS = {"finalizers"}
# Maps that are one value.
_ATOMIC = {"nodeSelector", "labelSelector", "podSelector", "namespaceSelector", "resourceFieldRef", "fieldRef",
           "secretKeyRef", "configMapKeyRef", "objectRef", "scopeSelector", "dataSource"}
_NEVER_OWNED = {("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace"), ("metadata", "uid"),
                ("metadata", "resourceVersion"), ("metadata", "creationTimestamp"), ("metadata", "generation"),
                ("metadata", "managedFields"), ("metadata", "deletionTimestamp"), ("metadata", "selfLink"),
                ("metadata", "deletionGracePeriodSeconds"), ("metadata", "generateName")}
_ABSENT = object()


def apply(kind: Kind, live: Object | None, config: Object, *, manager: str, force: bool, at: str) -> Object:
    """The object after `manager` has applied `config`; 409 with the fields of others unless `force`."""
    managed = read_managers(live)
    own = (manager, "Apply", config["apiVersion"], "")
    wanted = fields_of(config, custom=kind.custom)
    base = live or {}
    _take_over(managed, own, wanted, base, config, force=force)
    merged = _merge(base, config, (), kind.custom)
    elsewhere = frozenset().union(*(paths for key, (paths, _) in managed.items() if key != own)) if managed else frozenset()
    for path in sorted(managed.get(own, (frozenset(), ""))[0] - wanted, key=len):
        if not _is_key(path) and not any(other[: len(path)] == path for other in elsewhere | wanted):
            _remove(merged, path)
    if managed.get(own, (None, ""))[0] != wanted:
        managed[own] = (wanted, at)
    write_managers(merged, managed)
    return merged


def updated(kind: Kind, live: Object | None, new: Object, *, manager: str, subresource: str = "", at: str) -> Object:
    """`new` with the owners of its fields: what this write changed is its manager's now, and nobody else's."""
    result = copy.deepcopy(new)
    managed = read_managers(live)
    before, after = fields_of(live or {}, custom=kind.custom), fields_of(new, custom=kind.custom)
    changed = frozenset(path for path in after
                        if path not in before or (_leaf(after, path) and _get(live or {}, path) != _get(new, path)))
    own = (manager, "Update", kind.api_version, subresource)
    for key, (paths, when) in list(managed.items()):
        kept = frozenset(path for path in paths if path in after and (key == own or path not in changed))
        managed[key] = (kept, when)
    if changed:
        managed[own] = (managed.get(own, (frozenset(), ""))[0] | changed, at)
    write_managers(result, managed)
    return result


def fields_of(thing: Object, *, custom: bool = False) -> Fields:
    """Every field that an object sets, without those nobody owns."""
    return frozenset(path for path in _walk(thing, (), custom)
                     if path != () and _names(path) not in _NEVER_OWNED and _names(path) != ("metadata",))


def read_managers(thing: Object | None) -> dict[tuple[str, str, str, str], tuple[Fields, str]]:
    """(manager, operation, version, subresource) -> its fields and when they were last changed."""
    entries = ((thing or {}).get("metadata") or {}).get("managedFields") or []
    return {(one["manager"], one["operation"], one.get("apiVersion", ""), one.get("subresource", "")):
            (frozenset(_read(one.get("fieldsV1") or {}, ())), one.get("time", "")) for one in entries}


def write_managers(thing: Object, managed: dict[tuple[str, str, str, str], tuple[Fields, str]]) -> None:
    entries = []
    for (manager, operation, version, subresource), (paths, when) in managed.items():
        if paths:
            entry = {"manager": manager, "operation": operation, "apiVersion": version, "time": when,
                     "fieldsType": "FieldsV1", "fieldsV1": _written(paths)}
            entries.append(entry | ({"subresource": subresource} if subresource else {}))
    metadata = thing.setdefault("metadata", {})
    metadata.pop("managedFields", None)
    if entries:
        metadata["managedFields"] = entries


def _take_over(managed: dict[Any, tuple[Fields, str]], own: Any, wanted: Fields, live: Object, config: Object, *,
               force: bool) -> None:
    conflicts = []
    for key, (paths, when) in list(managed.items()):
        if key == own:
            continue
        disputed = [path for path in sorted(wanted & paths, key=str)
                    if _leaf(wanted, path) and _get(live, path) != _get(config, path)]
        if force:
            managed[key] = (paths - frozenset(disputed), when)
        else:
            conflicts += [(_shown(key, when), shown(path)) for path in disputed]
    if conflicts:
        raise answers.apply_conflict(conflicts)


def _shown(key: tuple[str, str, str, str], when: str) -> str:
    manager, operation, version, subresource = key
    text = f'"{manager}"' + (f' with subresource "{subresource}"' if subresource else "")
    return text + (f" using {version} at {when}" if operation == "Update" else "")


def shown(path: Path) -> str:
    """A path as messages spell it: `.spec.containers[name="x"].image`."""
    text = ""
    for sort, value in path:
        if sort == "f":
            text += f".{value}"
        elif sort == "k":
            text += "[" + ",".join(f"{key}={json.dumps(one)}" for key, one in value) + "]"
        else:
            text += f"[={json.dumps(value)}]"
    return text


# -- walking -------------------------------------------------------------------------------------------------


def _walk(value: Any, path: Path, custom: bool) -> Iterator[Path]:
    if isinstance(value, dict) and value and not _is_atomic(path, custom):
        if path and path[-1][0] == "k":
            yield path
        for name, one in value.items():
            if one is not None:
                yield from _walk(one, (*path, ("f", name)), custom)
        return
    elements = _elements(value, path, custom) if isinstance(value, list) and value else None
    if elements is None:
        yield path
        return
    for step, one in elements:
        if step[0] == "v":
            yield (*path, step)
        else:
            yield from _walk(one, (*path, step), custom)


def _elements(value: list[Any], path: Path, custom: bool) -> list[tuple[Step, Any]] | None:
    """The steps to a list's elements; None when it is one value."""
    names = _names(path)
    if custom and names[:1] != ("metadata",):
        return None
    if names[-1:] and names[-1] in _SETS:
        return [(("v", one), one) for one in value]
    keys = _KEYED.get(names[-2:]) or _KEYED.get(names[-1:])
    if keys is None or not all(isinstance(one, dict) for one in value):
        return None
    return [(("k", tuple((key, one.get(key, "TCP" if key == "protocol" else None)) for key in keys)), one) for one in value]


def _is_atomic(path: Path, custom: bool) -> bool:
    if not path or path[-1][0] != "f" or custom:
        return False
    return path[-1][1] in _ATOMIC or (path[-1][1] == "selector" and len(path) > 1)


def _names(path: Path) -> tuple[str, ...]:
    return tuple(value for sort, value in path if sort == "f")


def _leaf(paths: Fields, path: Path) -> bool:
    """A field with a value of its own, not the marker of a list's element."""
    return path[-1][0] != "k"


def _is_key(path: Path) -> bool:
    """What names an element stays as long as the element does."""
    return len(path) > 1 and path[-2][0] == "k" and path[-1][1] in dict(path[-2][1])


def _get(thing: Any, path: Path) -> Any:
    for sort, value in path:
        if sort == "f":
            thing = thing.get(value, _ABSENT) if isinstance(thing, dict) else _ABSENT
        elif sort == "v":
            thing = value if isinstance(thing, list) and value in thing else _ABSENT
        else:
            thing = next((one for one in thing if _has(one, value)), _ABSENT) if isinstance(thing, list) else _ABSENT
        if thing is _ABSENT:
            return _ABSENT
    return thing


def _has(element: Any, keys: tuple[tuple[str, Any], ...]) -> bool:
    return isinstance(element, dict) and all(
        element.get(key, "TCP" if key == "protocol" else None) == value for key, value in keys)


def _merge(live: Any, config: Any, path: Path, custom: bool) -> Any:
    if isinstance(live, dict) and isinstance(config, dict) and not _is_atomic(path, custom):
        result = copy.deepcopy(live)
        for name, value in config.items():
            if value is not None:
                result[name] = _merge(live.get(name), value, (*path, ("f", name)), custom)
        return result
    elements = _elements(config, path, custom) if isinstance(config, list) else None
    if elements is None or not isinstance(live, list):
        return copy.deepcopy(config)
    merged: list[Any] = copy.deepcopy(live)
    for step, one in elements:
        at = next((number for number, old in enumerate(merged)
                   if (old == one if step[0] == "v" else _has(old, step[1]))), None)
        if at is None:
            merged.append(copy.deepcopy(one))
        else:
            merged[at] = _merge(merged[at], one, (*path, step), custom)
    return merged


def _remove(thing: Any, path: Path) -> None:
    """Take one field away, and the lists and maps that it leaves empty."""
    above = _get(thing, path[:-1])
    sort, value = path[-1]
    if sort == "f" and isinstance(above, dict):
        above.pop(value, None)
    elif isinstance(above, list):
        above[:] = [one for one in above if not (one == value if sort == "v" else _has(one, value))]
    if above in ({}, []) and len(path) > 2:
        _remove(thing, path[:-1])


# -- how they are written ------------------------------------------------------------------------------------


def _written(paths: Iterable[Path]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for path in sorted(paths, key=lambda one: [(sort, str(value)) for sort, value in one]):
        here = root
        for step in path:
            here = here.setdefault(_name(step), {})
        if path[-1][0] == "k":
            here.setdefault(".", {})
    return root


def _name(step: Step) -> str:
    sort, value = step
    if sort == "f":
        return f"f:{value}"
    return f"{sort}:" + json.dumps(dict(value) if sort == "k" else value, separators=(",", ":"))


def _read(tree: dict[str, Any], path: Path) -> Iterator[Path]:
    if not tree and path:
        yield path
    for name, below in tree.items():
        if name == ".":
            yield path
            continue
        sort, _, text = name.partition(":")
        step: Step = ("f", text) if sort == "f" else (sort, _keys(json.loads(text)) if sort == "k" else json.loads(text))
        yield from _read(below, (*path, step))


def _keys(value: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(value.items())
