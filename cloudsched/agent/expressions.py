"""What is the value of an expression that a stranger sent? Arithmetic on literals, and nothing that could reach further.

The text is parsed, every part of the tree must be on the list, and sizes are checked before they are made. It runs in a
process of its own with limits of time and memory all the same.
"""

from __future__ import annotations

import ast
import operator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_TEXT = 1000
MAX_BITS = 100_000
MAX_ITEMS = 10_000_000
MAX_COPIES = 1_000_000

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow, ast.LShift: operator.lshift,
    ast.RShift: operator.rshift, ast.BitOr: operator.or_, ast.BitXor: operator.xor, ast.BitAnd: operator.and_,
}  # fmt: skip
_UNARY: dict[type, Callable[[Any], Any]] = {
    ast.UAdd: operator.pos, ast.USub: operator.neg, ast.Not: operator.not_, ast.Invert: operator.invert,
}  # fmt: skip
_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.In: lambda one, many: one in many, ast.NotIn: lambda one, many: one not in many,
    ast.Is: operator.is_, ast.IsNot: operator.is_not,
}  # fmt: skip


class NotAllowed(ValueError):
    """The expression holds something that is not on the list; the message says what."""


def evaluate(text: str) -> Any:
    """The value. NotAllowed, or whatever arithmetic raises (ZeroDivisionError, TypeError, ...)."""
    if len(text) > MAX_TEXT:
        raise NotAllowed("the expression has more than %d characters" % MAX_TEXT)
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise NotAllowed("is not an expression") from None
    try:
        return _value(tree.body)
    except RecursionError:
        raise NotAllowed("is nested too deeply") from None


def _value(node: ast.AST) -> Any:
    rule = _RULES.get(type(node))
    if rule is None:
        raise NotAllowed("%s is not allowed here" % type(node).__name__)
    return rule(node)


def _constant(node: Any) -> Any:
    if isinstance(node.value, (int, float, complex, str, bytes, bool, type(None))):
        return node.value
    raise NotAllowed("%r is not allowed here" % (node.value,))


def _items(nodes: Any) -> list[Any]:
    found = []
    for one in nodes:
        if isinstance(one, ast.Starred):
            more = _value(one.value)
            found += _some(more)
        else:
            found.append(_value(one))
    return found


def _mapping(node: Any) -> dict[Any, Any]:
    if any(key is None for key in node.keys):
        raise NotAllowed("** is not allowed here")
    return {_value(key): _value(value) for key, value in zip(node.keys, node.values)}  # noqa: B905 - Python 3.8


def _binary(node: Any) -> Any:
    left, right = _value(node.left), _value(node.right)
    kind = type(node.op)
    if kind not in _BINARY:
        raise NotAllowed("%s is not allowed here" % kind.__name__)
    if kind is ast.Pow:
        return _power(left, right)
    if kind is ast.LShift and isinstance(right, int) and right > MAX_BITS:
        raise NotAllowed("the result would be too large")
    if kind is ast.Mult:
        _check_product(left, right)
    if kind is ast.Mod and isinstance(left, (str, bytes)):
        raise NotAllowed("formatting is not allowed here")
    return _BINARY[kind](left, right)


def _power(base: Any, exponent: Any, modulus: Any = None) -> Any:
    if modulus is not None:
        return pow(base, exponent, modulus)
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > MAX_BITS:
        raise NotAllowed("the result would be too large")
    return base**exponent


def _check_product(left: Any, right: Any) -> None:
    for one, times in ((left, right), (right, left)):
        if isinstance(one, (str, bytes, list, tuple)) and isinstance(times, int) and len(one) * times > MAX_COPIES:
            raise NotAllowed("the result would be too large")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > MAX_BITS:
        raise NotAllowed("the result would be too large")


def _unary(node: Any) -> Any:
    return _UNARY[type(node.op)](_value(node.operand))


def _boolean(node: Any) -> Any:
    stop = isinstance(node.op, ast.Or)
    found = None
    for one in node.values:
        found = _value(one)
        if bool(found) is stop:
            return found
    return found


def _comparison(node: Any) -> Any:
    left = _value(node.left)
    for kind, one in zip(node.ops, node.comparators):  # noqa: B905 - Python 3.8
        right = _value(one)
        if not _COMPARE[type(kind)](left, right):
            return False
        left = right
    return True


def _choice(node: Any) -> Any:
    return _value(node.body if _value(node.test) else node.orelse)


def _call(node: Any) -> Any:
    name = node.func.id if isinstance(node.func, ast.Name) else None
    if name not in _FUNCTIONS:
        raise NotAllowed("only %s can be called" % ", ".join(sorted(_FUNCTIONS)))
    named = {}
    for word in node.keywords:
        if word.arg is None or (name, word.arg) not in _NAMED:
            raise NotAllowed("%s() takes no argument %s" % (name, word.arg or "**"))
        named[word.arg] = _value(word.value)
    return _FUNCTIONS[name](*_items(node.args), **named)


def _some(values: Any) -> list[Any]:
    if isinstance(values, range) and len(values) > MAX_ITEMS:
        raise NotAllowed("the range is too long")
    found = list(values)
    if len(found) > MAX_COPIES:
        raise NotAllowed("there are too many items")
    return found


def _range(*limits: int) -> range:
    found = range(*limits)
    if len(found) > MAX_ITEMS:
        raise NotAllowed("the range is too long (at most %d)" % MAX_ITEMS)
    return found


def _integer(value: Any = 0, *base: int) -> int:
    if isinstance(value, str) and len(value) > 4000:
        raise NotAllowed("the number is too long")
    return int(value, *base)


def _text(value: Any = "") -> str:
    if isinstance(value, int) and value.bit_length() > 14_000:  # Python refuses longer ones itself from 3.11 on
        raise NotAllowed("the number is too long to be written")
    return str(value)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs, "min": min, "max": max, "sum": sum, "len": len, "range": _range, "round": round,
    "sorted": lambda values, reverse=False: sorted(_some(values), reverse=reverse), "pow": _power, "int": _integer,
    "float": float, "str": _text, "bool": bool,
}  # fmt: skip
_NAMED = {("min", "default"), ("max", "default"), ("sum", "start"), ("round", "ndigits"), ("sorted", "reverse")}
_RULES: dict[type, Callable[[Any], Any]] = {
    ast.Constant: _constant, ast.BinOp: _binary, ast.UnaryOp: _unary, ast.BoolOp: _boolean, ast.Compare: _comparison,
    ast.IfExp: _choice, ast.Call: _call, ast.Dict: _mapping, ast.List: lambda node: _items(node.elts),
    ast.Tuple: lambda node: tuple(_items(node.elts)), ast.Set: lambda node: set(_items(node.elts)),
}  # fmt: skip
