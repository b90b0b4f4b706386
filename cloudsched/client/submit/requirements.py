"""What does a job's ``requirements`` expression ask of a machine, in plain facts?

A small reader of ClassAd expressions. The expression is taken apart at its top-level ``&&``; each clause must
say something that can be promised (VM type, at least so much memory, disk, cores, GPUs) or that holds on
every node anyway (OpSys, Arch, file transfer). What is left is returned by its text, for the caller to
refuse.
"""

from __future__ import annotations

import math
import platform
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>"(?:[^"\\]|\\.)*")
  | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
  | (?P<name>[A-Za-z_][\w.]*)
  | (?P<operator>=\?=|=!=|&&|\|\||==|!=|>=|<=|[<>!()+\-*/%,?:{}\[\]])
    )""",
    re.VERBOSE,
)
_COMPARISONS = ("=?=", "=!=", "==", "!=", ">=", "<=", ">", "<", "is", "isnt")
_MIRRORED = {">": "<", "<": ">", ">=": "<=", "<=": ">="}
_LEVELS = (("||",), ("&&",), _COMPARISONS, ("+", "-"), ("*", "/", "%"))
_MAX_DEPTH = 100
_KIB_PER_GIB = 1024 * 1024

# Attributes with a lower bound that can be promised: attribute to (fact, divisor).
_BOUNDS = {
    "memory": ("memory_mb", 1),
    "disk": ("storage_gb", _KIB_PER_GIB),
    "cpus": ("cores", 1),
    "gpus": ("gpus", 1),
}
_TRUE_NAMES = frozenset({"true", "hasfiletransfer", "has_file_transfer", "hasjicfiletransfer"})
_MACHINES = {"x86_64": ("x86_64", "intel", "amd64"), "aarch64": ("aarch64", "arm64")}


@dataclass(frozen=True, slots=True)
class Asked:
    """`facts`: vm_type (str), memory_mb, storage_gb, cores, gpus (int), each only if asked for.

    `not_understood`: the text of every clause that says something else.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    not_understood: tuple[str, ...] = ()


@lru_cache(maxsize=256)
def read_requirements(text: str) -> Asked:
    """`text` as facts, to be copied before changing; ValueError when it is no expression at all."""
    tree = _Reader(text).whole()
    facts: dict[str, Any] = {}
    unclear = []
    for clause in _conjuncts(tree):
        found = _facts(clause)
        if found is None or _contradicts(found.get("vm_type"), facts.get("vm_type")):
            unclear.append(text[clause.start : clause.end].strip())
            continue
        for name, value in found.items():
            facts[name] = value if isinstance(value, str) else max(value, facts.get(name, 0))
    return Asked(facts, tuple(unclear))


@dataclass(frozen=True, slots=True)
class _Node:
    """`kind`: an operator, name, number, string, call, not, sign; `start`, `end`: its text."""

    kind: str
    start: int
    end: int
    value: Any = None
    parts: tuple[_Node, ...] = ()


class _Reader:
    """Recursive descent over the levels of `_LEVELS`."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0

    def whole(self) -> _Node:
        if len(self._tokens) == 1:
            raise ValueError("the expression is empty")
        node = self._ternary()
        if self._kind() != "end":
            raise ValueError(f"{self._value()!r} is not expected there")
        return node

    def _ternary(self) -> _Node:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError(f"the expression is nested more than {_MAX_DEPTH} deep")
        node = self._binary(0)
        if self._value() == "?":
            self._next()
            first = self._ternary()
            self._expect(":")
            second = self._ternary()
            node = _Node("?", node.start, second.end, None, (node, first, second))
        self._depth -= 1
        return node

    def _binary(self, level: int) -> _Node:
        if level == len(_LEVELS):
            return self._unary()
        node = self._binary(level + 1)
        while self._operator() in _LEVELS[level]:
            operator = self._operator()
            self._next()
            right = self._binary(level + 1)
            node = _Node(operator, node.start, right.end, None, (node, right))
        return node

    def _unary(self) -> _Node:
        kind, value, start, end = self._tokens[self._at]
        if value in ("!", "-", "+") and kind == "operator":
            self._next()
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise ValueError(f"the expression is nested more than {_MAX_DEPTH} deep")
            inside = self._unary()
            self._depth -= 1
            if value == "-" and inside.kind == "number":
                return _Node("number", start, inside.end, -inside.value)
            return _Node("not" if value == "!" else "sign", start, inside.end, None, (inside,))
        self._next()
        if value == "(" and kind == "operator":
            inside = self._ternary()
            closing = self._expect(")")
            return _Node(inside.kind, start, closing, inside.value, inside.parts)
        if kind == "number":
            return _Node("number", start, end, float(value))
        if kind == "string":
            return _Node("string", start, end, value[1:-1].replace('\\"', '"'))
        if kind == "name":
            return self._call(value, start) if self._value() == "(" else _Node("name", start, end, value)
        raise ValueError(f"{value!r} is not expected there" if value else "the expression ends too early")

    def _call(self, name: str, start: int) -> _Node:
        self._next()
        parts = []
        while self._value() != ")":
            parts.append(self._ternary())
            if self._value() == ",":
                self._next()
            elif self._value() != ")":
                raise ValueError(f"{self._value()!r} is not expected in {name}(...)")
        return _Node("call", start, self._expect(")"), name, tuple(parts))

    def _kind(self) -> str:
        return self._tokens[self._at][0]

    def _value(self) -> str:
        return self._tokens[self._at][1] if self._kind() != "string" else ""

    def _operator(self) -> str:
        kind, value, _, _ = self._tokens[self._at]
        return value.lower() if kind in ("operator", "name") else ""

    def _next(self) -> None:
        if self._kind() != "end":
            self._at += 1

    def _expect(self, operator: str) -> int:
        kind, value, _, end = self._tokens[self._at]
        if kind != "operator" or value != operator:
            raise ValueError(f"{operator!r} is missing")
        self._next()
        return end


def _tokens(text: str) -> list[tuple[str, str, int, int]]:
    """(kind, text, start, end) of each token, and one of kind ``end``."""
    tokens = []
    at = 0
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        if found is None or found.lastgroup is None:
            raise ValueError(f"{text[at:].strip()[:20]!r} is not understood")
        kind = found.lastgroup
        tokens.append((kind, found[kind], found.start(kind), found.end(kind)))
        at = found.end()
    return [*tokens, ("end", "", len(text), len(text))]


def _contradicts(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one != other


def _conjuncts(node: _Node) -> list[_Node]:
    if node.kind != "&&":
        return [node]
    return [clause for part in node.parts for clause in _conjuncts(part)]


def _facts(node: _Node) -> dict[str, Any] | None:
    """What one clause asks for; empty when it holds anyway, None when it is not understood."""
    if node.kind == "name":
        return {} if _attribute(node) in _TRUE_NAMES else None
    if node.kind == "number":
        return {} if node.value else None
    if node.kind == "||":
        return _either(*(_facts(part) for part in node.parts))
    if node.kind == "&&":
        left, right = (_facts(part) for part in node.parts)
        return None if left is None or right is None or set(left) & set(right) else {**left, **right}
    if node.kind in _COMPARISONS:
        return _compared(node)
    return None


def _either(left: dict[str, Any] | None, right: dict[str, Any] | None) -> dict[str, Any] | None:
    """A choice is met when one side holds anyway, and clear when both ask for the same."""
    if left == {} or right == {}:
        return {}
    return left if left == right else None


def _compared(node: _Node) -> dict[str, Any] | None:
    left, right = node.parts
    operator = node.kind
    if right.kind == "name" and left.kind != "name":
        left, right, operator = right, left, _MIRRORED.get(operator, operator)
    if left.kind != "name":
        return None
    attribute = _attribute(left)
    equal = operator in ("==", "=?=", "is")
    if attribute in _TRUE_NAMES and right.kind == "name" and _attribute(right) == "true":
        return {} if equal else None
    if right.kind == "string":
        return _named(attribute, right.value) if equal else None
    if attribute in _BOUNDS:
        return _bounded(attribute, operator, right)
    return None


def _named(attribute: str, value: str) -> dict[str, Any] | None:
    if attribute == "vmtype" and value:
        return {"vm_type": value}
    if attribute == "opsys" and value.lower() == "linux":
        return {}
    if attribute == "arch":
        here = platform.machine().lower()
        return {} if value.lower() in _MACHINES.get(here, (here,)) else None
    return None


def _bounded(attribute: str, operator: str, right: _Node) -> dict[str, Any] | None:
    # `Memory >= RequestMemory` is what request_memory means already.
    if right.kind == "name":
        own = _attribute(right) in (f"request{attribute}", f"request_{attribute}")
        return {} if own and operator in (">=", "==", "=?=") else None
    amount = _number(right)
    if amount is None or operator not in (">=", ">", "==", "=?="):
        return None
    fact, divisor = _BOUNDS[attribute]
    least = math.floor(amount) + 1 if operator == ">" else math.ceil(amount)
    return {fact: max(math.ceil(least / divisor), 0)}


def _number(node: _Node) -> float | None:
    """The value of plain arithmetic; None for anything else."""
    if node.kind == "number":
        return float(node.value) if math.isfinite(node.value) else None
    if node.kind not in ("+", "-", "*") or len(node.parts) != 2:
        return None
    left, right = (_number(part) for part in node.parts)
    if left is None or right is None:
        return None
    value = {"+": left + right, "-": left - right, "*": left * right}[node.kind]
    return value if math.isfinite(value) else None


def _attribute(node: _Node) -> str:
    """The attribute's name in lower case without its scope."""
    scope, dot, name = str(node.value).lower().partition(".")
    return name if dot and scope in ("target", "my") else scope + dot + name
