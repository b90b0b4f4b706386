"""Which products fit nowhere? Books say what a cluster has left of each part, nodes say whether one of them has all of it.

A product fits when at least one ready, schedulable node that carries the labels has everything of it free at once. Each product
is judged alone. Plain data in, plain data out: whoever asks brings the nodes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from cloudsched.domain.labels import check_key, check_value
from cloudsched.domain.pricing import Refusal
from cloudsched.domain.stock import LIMIT, STANDARD, Amount, Key, a_type, merged, to_base
from cloudsched.errors import Invalid

_SHAPE = 'a list of {"productid": ..., "resources": [{"type", "model", "amount"}, ...]}'


@dataclass(frozen=True, slots=True)
class NodeFree:
    """What is free on a node now (allocatable minus requested), in base units.

    `disk_gi` None: the cluster does not tell. `gpus`: model -> cards; the model '' stands for any (the cluster tells no model).
    `models`: type -> model of its cpu and memory, where known; an unknown one counts as any.
    """

    name: str
    cpu_m: int
    memory_mi: int
    disk_gi: int | None = None
    gpus: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    ready: bool = True
    schedulable: bool = True
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Product:
    """Something for sale: what it needs at once, on one node."""

    id: str
    amounts: tuple[Amount, ...]


def products(raw: str | Any) -> list[Product]:
    """Products of the `resources` of a call: JSON text or what it decodes to, a list or an object id -> list.

    Raises Invalid that names the place: `resources[2].resources[0].amount`.
    """
    value = _decoded(raw)
    if isinstance(value, Mapping):
        if "resources" in value and ("productid" in value or "id" in value):
            value = [value]
        else:
            return [Product(str(key), _amounts(entry, f"resources.{key}")) for key, entry in value.items()]
    if not isinstance(value, list):
        raise Invalid.at("resources", f"is {_named(value)}", _SHAPE + " or an object id -> list")
    return [_product(entry, f"resources[{place}]") for place, entry in enumerate(value)]


def amounts(raw: str | Any) -> list[Amount]:
    """The parts of one `resources` list. Raises Invalid that names the place."""
    return list(_amounts(_decoded(raw), "resources"))


def selector(raw: Any) -> dict[str, str | None]:
    """Labels a node must carry: "a=b,c" or ["a=b", "c"] or {"a": "b"}; a value of None: any value. Raises Invalid."""
    if isinstance(raw, str) and raw.strip()[:1] in ("[", "{"):
        raw = _decoded(raw, "kyylabels")
    if isinstance(raw, Mapping):
        return {check_key(str(key), "kyylabels"): None if value is None else check_value(str(value), "kyylabels")
                for key, value in raw.items()}
    if isinstance(raw, str):
        raw = raw.split(",")
    if raw is not None and not isinstance(raw, list | tuple):
        raise Invalid.at("kyylabels", f"is {_named(raw)}", "key=value, separated by commas")
    found: dict[str, str | None] = {}
    for entry in raw or ():
        key, equals, value = str(entry).strip().partition("=")
        if not key and (equals or value):
            raise Invalid.at("kyylabels", f"{entry!r} has no key", "key=value, separated by commas")
        if key:
            found[check_key(key.strip(), "kyylabels")] = check_value(value.strip(), "kyylabels") if equals else None
    return found


def unfit_by_books(wanted: Sequence[Product], free: Mapping[Key, int]) -> dict[str, Refusal]:
    """Products that need more of a part than the books have free, with the first such part."""
    found: dict[str, Refusal] = {}
    for product in wanted:
        for (kind, model), amount in merged(product.amounts).items():
            left = free.get((kind, model))
            if left is None or amount > left:
                code = "no_model" if left is None else "short"
                found[product.id] = Refusal(code, {"type": kind, "model": model, "free": left or 0, "asked": amount})
                break
    return found


def unfit_by_nodes(wanted: Sequence[Product], nodes: Sequence[NodeFree],
                   labels: Mapping[str, str | None] | None = None) -> dict[str, Refusal]:
    """Products that no node has room for, with why: how many nodes were in question, and the most that one has of each type."""
    usable = [node for node in nodes if node.ready and node.schedulable and carries(node, labels or {})]
    board = _Board(usable)
    found: dict[str, Refusal] = {}
    for product in wanted:
        need = _need(product)
        if not board.has_room(need):
            found[product.id] = Refusal("no_node", {"nodes": len(nodes), "usable": len(usable), **board.most(need)})
    return found


def carries(node: NodeFree, labels: Mapping[str, str | None]) -> bool:
    """Does the node carry all the labels?"""
    return all(key in node.labels and (value is None or node.labels[key] == value) for key, value in labels.items())


@lru_cache(maxsize=4096)
def same_card(asked: str, told: str) -> bool:
    """Is a card of the model that a node tells ("NVIDIA-GeForce-RTX-4090") what is asked for ("RTX4090-24G")?

    What is not told may be any; STANDARD is any. Where both say how much memory it has, that must be the same.
    """
    if not told or asked == told:
        return True
    family, size = _card(asked)
    plain = "".join(re.findall("[A-Z0-9]+", told.upper()))
    sizes = re.findall(r"(\d+)GI?B?(?![A-Z0-9])", told.upper())
    if size and sizes and size not in sizes:
        return False
    return family == STANDARD or bool(family and re.search(re.escape(family) + r"(?!\d)", plain))


def _card(model: str) -> tuple[str, str]:
    """(family, Gi of memory or '') of a model named as books do: RTX5090-32G."""
    found = re.fullmatch(r"(.*?)[-_ ]?(\d+)GI?B?", model.strip().upper()) if re.search(r"[-_ ]\d+GI?B?$", model.upper()) else None
    family, size = found.groups() if found else (model.upper(), "")
    return "".join(re.findall("[A-Z0-9]+", family)), size


@dataclass(frozen=True, slots=True)
class _Need:
    """What one product needs of a node: sums by type, cards and models by name."""

    cpu_m: int
    memory_mi: int
    disk_gi: int
    gpus: tuple[tuple[str, int], ...]
    models: tuple[tuple[str, str], ...]


def _need(product: Product) -> _Need:
    sums = dict.fromkeys(("cpu", "memory", "disk"), 0)
    gpus: list[tuple[str, int]] = []
    models: list[tuple[str, str]] = []
    for (kind, model), amount in merged(product.amounts).items():
        if kind == "gpu":
            gpus.append((model, amount))
            continue
        sums[kind] += amount
        if kind != "disk" and model != STANDARD:
            models.append((kind, model))
    return _Need(sums["cpu"], sums["memory"], sums["disk"], tuple(gpus), tuple(models))


_Row = tuple[int, int, int, int, NodeFree]


class _Board:
    """Nodes to look for room on. What products have in common (models) is looked for once."""

    def __init__(self, usable: Sequence[NodeFree]) -> None:
        # The biggest first: what fits at all is mostly found at once, and where the cores end the search does.
        self._nodes = sorted(usable, key=lambda node: node.cpu_m, reverse=True)
        self._told = {told for node in usable for told in node.gpus}
        self._rows: dict[tuple[Any, ...], list[_Row]] = {}
        self._most = {"cpu": max((node.cpu_m for node in usable), default=0),
                      "memory": max((node.memory_mi for node in usable), default=0),
                      "disk": max((node.disk_gi or 0 for node in usable), default=0)}
        self._most_cards: dict[str, int] = {}

    def has_room(self, need: _Need) -> bool:
        """Has one node all of it?"""
        cpu, memory, disk, cards = need.cpu_m, need.memory_mi, need.disk_gi, sum(cards for _, cards in need.gpus)
        several = len(need.gpus) > 1
        for cpu_m, memory_mi, disk_gi, held, node in self._with_models(need):
            if cpu > cpu_m:
                return False
            if memory <= memory_mi and cards <= held and disk <= disk_gi and (not several or _has_cards(need, node)):
                return True
        return False

    def most(self, need: _Need) -> dict[str, Any]:
        """Of each thing needed: how much, and the most that one node has."""
        sums = (("cpu", need.cpu_m), ("memory", need.memory_mi), ("disk", need.disk_gi))
        found: dict[str, Any] = {kind: {"asked": much, "most": self._most[kind]} for kind, much in sums if much}
        for model, cards in need.gpus:
            found[f"gpu {model}"] = {"asked": cards, "most": self._cards(model)}
        return found

    def _cards(self, model: str) -> int:
        if model not in self._most_cards:
            right = {told for told in self._told if same_card(model, told)}
            self._most_cards[model] = max((sum(much for told, much in node.gpus.items() if told in right)
                                           for node in self._nodes), default=0)
        return self._most_cards[model]

    def _with_models(self, need: _Need) -> list[_Row]:
        """Nodes with the right processors and memory, and how many cards of the right models they have together."""
        asked = tuple(model for model, _ in need.gpus)
        found = self._rows.get((need.models, asked))
        if found is None:
            right = {told for told in self._told if any(same_card(model, told) for model in asked)}
            found = self._rows[need.models, asked] = [
                (node.cpu_m, node.memory_mi, LIMIT if node.disk_gi is None else node.disk_gi,
                 sum(much for told, much in node.gpus.items() if told in right), node)
                for node in self._nodes
                if (not asked or not right.isdisjoint(node.gpus))
                and all(node.models.get(kind, model) == model for kind, model in need.models)]
        return found


def _has_cards(need: _Need, node: NodeFree) -> bool:
    """Enough cards of each of several models; those of no told model are given out last."""
    left = dict(node.gpus)
    for model, cards in need.gpus:
        missing = cards
        for told in sorted(left, reverse=True):
            if same_card(model, told):
                taken = min(left[told], missing)
                left[told] -= taken
                missing -= taken
        if missing:
            return False
    return True


def _decoded(raw: Any, name: str = "resources") -> Any:
    if not isinstance(raw, str | bytes):
        return raw
    try:
        return json.loads(raw)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}: {error.msg}"
    except (UnicodeDecodeError, RecursionError) as error:
        place = str(error)
    raise Invalid.at(name, f"is no JSON ({place})", _SHAPE if name == "resources" else "JSON or key=value")


def _product(entry: Any, place: str) -> Product:
    if not isinstance(entry, Mapping):
        raise Invalid.at(place, f"is {_named(entry)}", '{"productid": ..., "resources": [...]}')
    key = entry.get("productid", entry.get("id"))
    if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
        raise Invalid.at(f"{place}.productid", "is missing" if key is None else f"is {_named(key)}", "a text")
    return Product(str(key), _amounts(entry.get("resources"), f"{place}.resources"))


def _amounts(entry: Any, place: str) -> tuple[Amount, ...]:
    if not isinstance(entry, list):
        raise Invalid.at(place, "is missing" if entry is None else f"is {_named(entry)}", 'a list of {"type", "model", "amount"}')
    return tuple(_amount(one, f"{place}[{number}]") for number, one in enumerate(entry))


def _amount(entry: Any, place: str) -> Amount:
    if not isinstance(entry, Mapping):
        raise Invalid.at(place, f"is {_named(entry)}", '{"type", "model", "amount"}')
    kind = a_type(entry.get("type"), f"{place}.type")
    model = entry.get("model", STANDARD)
    if not isinstance(model, str):
        raise Invalid.at(f"{place}.model", f"is {_named(model)}", "a text")
    if "amount" not in entry:
        raise Invalid.at(f"{place}.amount", "is missing", "a number")
    return Amount(kind, model, to_base(kind, entry["amount"], field=f"{place}.amount"))


def _named(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number",
             type(None): "empty"}
    return names.get(type(value), type(value).__name__)
