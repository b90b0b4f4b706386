"""Does an answer have the shape of a document example? Same keys, same JSON types; more keys are allowed (contract 9)."""

from __future__ import annotations

from typing import Any

FREE = object()  # an object whose keys are data: only its values have a shape


def same(example: Any, found: Any, path: str = "$") -> None:
    """Fail where `found` lacks a key of the example, or has another JSON type there."""
    if isinstance(example, bool) or isinstance(found, bool):
        assert type(example) is type(found), f"{path}: {found!r}"
    elif isinstance(example, dict):
        assert isinstance(found, dict), f"{path}: {found!r}"
        if FREE in example:
            for name, inner in found.items():
                same(example[FREE], inner, f"{path}.{name}")
            return
        for name, inner in example.items():
            assert name in found, f"{path}.{name} is missing in {sorted(found)}"
            same(inner, found[name], f"{path}.{name}")
    elif isinstance(example, list):
        assert isinstance(found, list), f"{path}: {found!r}"
        for index, inner in enumerate(found):
            same(example[0], inner, f"{path}[{index}]")
    elif isinstance(example, (int, float)):
        assert isinstance(found, (int, float)), f"{path}: {found!r}"
    else:
        assert type(example) is type(found), f"{path}: {found!r}"
