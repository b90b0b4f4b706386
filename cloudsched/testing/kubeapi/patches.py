"""What is an object after a patch? JSON patch, merge patch, and the strategic kind for the lists that matter."""

from __future__ import annotations

import copy
from typing import Any

from cloudsched.testing.kubeapi.answers import bad_request

_MERGE_KEYS = {"containers": "name", "initContainers": "name", "volumes": "name", "env": "name", "taints": "key",
               "ports": "containerPort", "volumeMounts": "mountPath", "conditions": "type", "ownerReferences": "uid",
               "imagePullSecrets": "name", "secrets": "name"}


def merge(value: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = copy.deepcopy(value) if isinstance(value, dict) else {}
    for name, one in patch.items():
        if one is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), one)
    return result


def strategic(value: Any, patch: Any, name: str = "") -> Any:
    """Merge patch in which lists with a merge key are merged element by element."""
    if isinstance(patch, dict):
        result = copy.deepcopy(value) if isinstance(value, dict) else {}
        if patch.get("$patch") == "replace":
            return {key: one for key, one in patch.items() if key != "$patch"}
        for key, one in patch.items():
            if one is None:
                result.pop(key, None)
            elif not key.startswith("$"):
                result[key] = strategic(result.get(key), one, key)
        return result
    key = _MERGE_KEYS.get(name)
    if isinstance(patch, list) and isinstance(value, list) and key and all(isinstance(one, dict) for one in patch):
        return _merged_list(value, patch, key)
    if isinstance(patch, list) and isinstance(value, list) and name == "finalizers":
        return value + [one for one in patch if one not in value]
    return copy.deepcopy(patch)


def json_patch(value: Any, operations: list[dict[str, Any]]) -> Any:
    """RFC 6902: add, remove, replace, test, copy, move. 400 or 422-like refusals as Refused."""
    result = copy.deepcopy(value)
    for one in operations:
        path = _pointer(one["path"])
        if one["op"] == "move":
            moved = _at(result, _pointer(one["from"]))
            _take(result, _pointer(one["from"]))
            _put(result, path, moved, add=True)
        elif one["op"] == "copy":
            _put(result, path, copy.deepcopy(_at(result, _pointer(one["from"]))), add=True)
        elif one["op"] in ("add", "replace"):
            _put(result, path, copy.deepcopy(one["value"]), add=one["op"] == "add")
        elif one["op"] == "remove":
            _take(result, path)
        elif one["op"] == "test":
            if _at(result, path) != one["value"]:
                raise bad_request(f"testing value {one['path']} failed")
        else:
            raise bad_request(f"Unexpected kind: {one['op']}")
    return result


def _merged_list(value: list[Any], patch: list[dict[str, Any]], key: str) -> list[Any]:
    result = copy.deepcopy(value)
    for one in patch:
        at = next((number for number, old in enumerate(result) if isinstance(old, dict) and old.get(key) == one.get(key)), None)
        if one.get("$patch") == "delete":
            if at is not None:
                del result[at]
        elif at is None:
            result.append(copy.deepcopy(one))
        else:
            result[at] = strategic(result[at], one)
    return result


def _pointer(text: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _at(value: Any, path: list[str]) -> Any:
    try:
        for step in path:
            value = value[int(step)] if isinstance(value, list) else value[step]
    except (KeyError, IndexError, ValueError, TypeError):
        raise bad_request(f"the path /{'/'.join(path)} does not exist") from None
    return value


def _put(value: Any, path: list[str], new: Any, *, add: bool) -> None:
    above = _at(value, path[:-1])
    if isinstance(above, list):
        if path[-1] == "-":
            above.append(new)
        elif add:
            above.insert(int(path[-1]), new)
        else:
            above[int(path[-1])] = new
    else:
        if not add:
            _at(value, path)
        above[path[-1]] = new


def _take(value: Any, path: list[str]) -> None:
    _at(value, path)
    above = _at(value, path[:-1])
    del above[int(path[-1]) if isinstance(above, list) else path[-1]]
