"""What would change? Two objects side by side, without what the server writes and without secrets."""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

from cloudsched.drivers.kubernetes.client import Object

_NOISE = ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink")
_SALT = os.urandom(16)


def difference(before: Object | None, after: Object) -> str:
    """A unified diff; empty when they are the same. Values of secrets show as `(hidden, ...)`, differing when they differ."""
    name = f"{after['kind']}/{after['metadata']['name']}"
    lines = difflib.unified_diff(_text(before), _text(after), f"{name} (now)", f"{name} (then)", lineterm="", n=3)
    return "\n".join(lines)


def owned(thing: Object, manager: str) -> tuple[Any, Any]:
    """(which fields `manager` has applied, their values): the same before and after when only others have written."""
    entries = thing["metadata"].get("managedFields") or ()
    tree = next((one.get("fieldsV1") for one in entries if one.get("manager") == manager and one.get("operation") == "Apply"
                 and not one.get("subresource")), None)
    return tree, _values(thing, tree) if tree else None


def _values(value: Any, tree: Mapping[str, Any]) -> Any:
    if not any(name != "." for name in tree):
        return value
    found = {}
    for name, below in tree.items():
        sort, _, key = name.partition(":")
        if sort == "f" and isinstance(value, dict):
            found[name] = _values(value.get(key), below)
        elif sort == "k" and isinstance(value, list):
            keys = json.loads(key)
            element = next((one for one in value if isinstance(one, dict) and keys.items() <= one.items()), None)
            found[name] = _values(element, below)
        elif sort == "v" and isinstance(value, list):
            found[name] = json.loads(key) in value
    return found


def _text(thing: Object | None) -> list[str]:
    if thing is None:
        return []
    shown = copy.deepcopy(thing)
    shown.pop("status", None)
    for key in _NOISE:
        shown["metadata"].pop(key, None)
    if shown.get("kind") == "Secret":
        for sort in ("data", "stringData"):
            shown[sort] = {key: _hidden(value) for key, value in (shown.get(sort) or {}).items()}
            if not shown[sort]:
                del shown[sort]
    return str(yaml.safe_dump(shown, sort_keys=True, default_flow_style=False, width=120)).splitlines()


def _hidden(value: Any) -> str:
    """Salted for each process: nobody learns the value from its mark."""
    return f"(hidden, {hashlib.blake2s(str(value).encode(), key=_SALT).hexdigest()[:8]})"
