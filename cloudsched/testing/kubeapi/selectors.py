"""Does an object match a label selector, a field selector?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from cloudsched.testing.kubeapi.answers import bad_request
from cloudsched.testing.kubeapi.kinds import Object

Test = Callable[[Object], bool]
_SET = re.compile(r"\s*([^\s!=,()]+)\s+(in|notin)\s+\(([^)]*)\)\s*")
_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")
_FIELDS = {"metadata.name", "metadata.namespace", "spec.nodeName", "status.phase", "spec.restartPolicy",
           "spec.serviceAccountName", "type", "involvedObject.name", "involvedObject.kind", "involvedObject.uid",
           "involvedObject.namespace", "reason", "spec.unschedulable", "spec.schedulerName"}


def by_labels(text: str) -> Test:
    """`a=b,c!=d,e in (f,g),h notin (i),j,!k` as a test. 400 when it cannot be read."""
    tests = [_requirement(part) for part in _split(text)]
    return lambda thing: all(test(thing.get("metadata", {}).get("labels") or {}) for test in tests)


def by_fields(text: str) -> Test:
    """`metadata.name=x,spec.nodeName!=y` as a test. 400 for a field that has no selector."""
    tests: list[tuple[list[str], str, bool]] = []
    for part in filter(None, (one.strip() for one in text.split(","))):
        found = re.fullmatch(r"([^=!]+)(!=|==|=)(.*)", part)
        if found is None or found[1] not in _FIELDS:
            raise bad_request(f'field label not supported: {found[1] if found else part}')
        tests.append((found[1].split("."), found[3], found[2] != "!="))
    return lambda thing: all((_value(thing, path) == value) is equal for path, value, equal in tests)


def selected(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Does a LabelSelector of an object choose these labels? None chooses nothing, an empty one everything."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_expression(one, labels) for one in selector.get("matchExpressions") or ())


def _expression(one: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = one["key"], one.get("values") or []
    return {"In": labels.get(key) in values, "NotIn": labels.get(key) not in values,
            "Exists": key in labels, "DoesNotExist": key not in labels}[one["operator"]]


def _split(text: str) -> list[str]:
    return [part for part in (one.strip() for one in re.split(r",(?![^(]*\))", text)) if part]


def _requirement(part: str) -> Callable[[Mapping[str, str]], bool]:
    found = _SET.fullmatch(part)
    if found:
        key, among, wanted = found[1], {value.strip() for value in found[3].split(",")}, found[2] == "in"
        return lambda labels: (labels.get(key) in among) is wanted if wanted else labels.get(key) not in among
    for sign, equal in (("!=", False), ("==", True), ("=", True)):
        if sign in part:
            name, _, value = (one.strip() for one in part.partition(sign))
            return lambda labels: (labels.get(name) == value) is equal
    name = part.removeprefix("!").strip()
    if not _KEY.fullmatch(name):
        raise bad_request(f"unable to parse requirement: found '{part}', expected: identifier")
    return lambda labels: (name in labels) is not part.startswith("!")


def _value(thing: Object, path: list[str]) -> str:
    value: Any = thing
    for step in path:
        value = value.get(step, "") if isinstance(value, dict) else ""
    return str(value).lower() if isinstance(value, bool) else str(value or "")
