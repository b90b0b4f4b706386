"""What does a value mean once its macros are filled in?

Values are kept as written and expanded when a job is made, so that ``$(Process)`` and the variables of a
``queue`` statement take effect in every command. Only a reference of a variable to itself is resolved when
it is assigned. Names know no case.
"""

from __future__ import annotations

import ast
import math
import operator
import os.path
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cloudsched.client.submit.errors import Place, SubmitError

_MAX_DEPTH = 32
_MAX_CHARS = 1_000_000
_CALL = re.compile(r"\$(\$?)([A-Za-z_]*)\(")
_SELF = r"\$\(\s*{name}\s*(?::([^()]*))?\)"
_WHOLE_FORMAT = re.compile(r"%[-+ 0#]*\d{0,3}(?:\.\d{1,3})?[dixXofeEgG]\Z")
_REAL_FORMAT = re.compile(r"%[-+ 0#]*\d{0,3}(?:\.\d{1,3})?[feEgG]\Z")
_SUM = re.compile(r"[\d.\s+*/%()eE-]{1,200}\Z")
_LEADING_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")
_LISTED = re.compile(r"[,\s]+")
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


@dataclass(slots=True)
class Variable:
    """A value as written, the spelling of its name, and where it was assigned."""

    name: str
    value: str
    place: Place


@dataclass
class Macros:
    """The variables of one submission.

    `environ` answers ``$ENV``; `live` holds what changes from job to job and wins over everything assigned;
    `used` collects the names that were read, so that misspelt commands can be told from variables.
    """

    environ: Mapping[str, str] = field(default_factory=dict)
    directory: str = "."
    chance: random.Random = field(default_factory=random.Random)
    variables: dict[str, Variable] = field(default_factory=dict)
    live: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)

    def assign(self, name: str, value: str, place: Place) -> None:
        """``name = value``; a reference of `name` to itself takes the value it had."""
        key = name.lower()
        before = self.variables.get(key)

        def itself(found: re.Match[str]) -> str:
            return before.value if before else (found[1] or "")

        value = re.sub(_SELF.format(name=re.escape(key)), itself, value, flags=re.IGNORECASE)
        if len(value) > _MAX_CHARS:
            raise SubmitError(f"{name} grows beyond {_MAX_CHARS} characters", place)
        self.variables[key] = Variable(name, value, place)

    def raw(self, name: str) -> str | None:
        """The value as written; None when the name is not defined."""
        key = name.strip().lower()
        self.used.add(key)
        if key in self.live:
            return self.live[key]
        variable = self.variables.get(key)
        return variable.value if variable else None

    def defined(self, name: str) -> bool:
        return bool(self.raw(name))

    def expand(self, text: str, place: Place) -> str:
        """`text` with every macro and function filled in; SubmitError names what cannot be."""
        return self._expand(text, place, 0)

    def integer(self, text: str, place: Place) -> int:
        """`text`, expanded, as a whole number; plain arithmetic is allowed."""
        expanded = self.expand(text, place)
        number = arithmetic(expanded, place)
        if number != int(number):
            raise SubmitError(f"{expanded!r} is not a whole number", place)
        return int(number)

    def _expand(self, text: str, place: Place, depth: int) -> str:
        if "$" not in text:
            return text
        if depth > _MAX_DEPTH:
            raise SubmitError(f"the macros in {text[:60]!r} refer to each other without end", place)
        parts = []
        at = 0
        while call := _CALL.search(text, at):
            parts.append(text[at : call.start()])
            end = _closing(text, call.end(), place)
            argument = text[call.end() : end]
            if call[1]:
                raise SubmitError(
                    f"$$({argument}) is not supported: it is filled in from the machine after a match; "
                    "write the value itself",
                    place,
                )
            parts.append(self._called(call[2], argument, place, depth))
            at = end + 1
        parts.append(text[at:])
        expanded = "".join(parts)
        if len(expanded) > _MAX_CHARS:
            raise SubmitError(f"a value grows beyond {_MAX_CHARS} characters", place)
        return expanded

    def _called(self, function: str, argument: str, place: Place, depth: int) -> str:
        if not function:
            return self._variable(argument, place, depth)
        if re.fullmatch(r"F[fpduwnxbqa]*", function):
            return file_name(self._value_of(argument, place, depth), function[1:], self.directory)
        answer = _FUNCTIONS.get(function)
        if answer is None:
            known = ", ".join(f"${name}" for name in sorted([*_FUNCTIONS, "F[fpduwnxbqa]"]))
            raise SubmitError(f"${function}(...) is not known; known functions are {known}", place)
        return answer(self, argument, place, depth)

    def _variable(self, argument: str, place: Place, depth: int) -> str:
        name, colon, default = argument.partition(":")
        name = self._expand(name, place, depth + 1).strip()
        if name.upper() == "DOLLAR":
            return "$"
        value = self.raw(name)
        if value is None or (colon and value == ""):
            if not colon:
                self._warn(f"{place}: $({name}) is not defined and counts as empty")
            value = default
        return self._expand(value, place, depth + 1)

    def _value_of(self, argument: str, place: Place, depth: int) -> str:
        """The argument of a function: the value of the variable of that name, else the text itself."""
        expanded = self._expand(argument, place, depth + 1).strip()
        value = self.raw(expanded) if re.fullmatch(r"[A-Za-z_][\w.]*", expanded) else None
        return expanded if value is None else self._expand(value, place, depth + 1).strip()

    def _arguments(self, argument: str, place: Place, depth: int) -> list[str]:
        return [part.strip() for part in self._expand(argument, place, depth + 1).split(",")]

    def _warn(self, warning: str) -> None:
        if warning not in self.warnings:
            self.warnings.append(warning)

    def env(self, argument: str, place: Place, depth: int) -> str:
        name, colon, default = argument.partition(":")
        name = self._expand(name, place, depth + 1).strip()
        if name in self.environ:
            return self.environ[name]
        if colon:
            return self._expand(default, place, depth + 1)
        self._warn(f"{place}: the environment variable {name} is not set; $ENV({name}) becomes UNDEFINED")
        return "UNDEFINED"

    def random_choice(self, argument: str, place: Place, depth: int) -> str:
        return self.chance.choice(self._arguments(argument, place, depth))

    def random_integer(self, argument: str, place: Place, depth: int) -> str:
        bounds = [int(arithmetic(part, place)) for part in self._arguments(argument, place, depth)]
        if len(bounds) not in (2, 3) or bounds[0] > bounds[1] or (len(bounds) == 3 and bounds[2] < 1):
            raise SubmitError("$RANDOM_INTEGER takes (min, max) or (min, max, step) with min <= max", place)
        return str(self.chance.randrange(bounds[0], bounds[1] + 1, *bounds[2:]))

    def choice(self, argument: str, place: Place, depth: int) -> str:
        first, *items = self._arguments(argument, place, depth)
        index = int(arithmetic(self._value_of(first, place, depth), place))
        if len(items) == 1 and self.raw(items[0]) is not None:
            items = [item for item in _LISTED.split(self._value_of(items[0], place, depth)) if item]
        if not 0 <= index < len(items):
            raise SubmitError(f"$CHOICE: index {index} is outside of the {len(items)} items", place)
        return items[index]

    def number(self, argument: str, place: Place, depth: int, *, whole: bool) -> str:
        wanted, _, form = argument.partition(",")
        value = arithmetic(self._value_of(wanted, place, depth), place)
        form = form.strip() or ("%d" if whole else "%16G")
        if not (_WHOLE_FORMAT if whole else _REAL_FORMAT).match(form):
            raise SubmitError(f"{form!r} is no number format; e.g. %04d", place)
        return form % (int(value) if whole else float(value))

    def substring(self, argument: str, place: Place, depth: int) -> str:
        name, *numbers = self._arguments(argument, place, depth)
        if len(numbers) not in (1, 2):
            raise SubmitError("$SUBSTR takes (name, start) or (name, start, length)", place)
        value = self._value_of(name, place, depth)
        start, *length = (int(arithmetic(number, place)) for number in numbers)
        rest = value[start:] if start >= -len(value) else value
        if not length:
            return rest
        return rest[: length[0]] if length[0] >= 0 else rest[: max(len(rest) + length[0], 0)]


def arithmetic(text: str, place: Place) -> float:
    """The value of a sum of plain numbers: ``+ - * / %`` and parentheses; SubmitError otherwise.

    Whole numbers stay whole: their quotient is cut toward zero, as in ClassAds.
    """
    try:
        if not _SUM.match(text):
            raise ValueError(text)
        number = _calculated(ast.parse(_LEADING_ZEROS.sub("", text.strip()), mode="eval").body)
    except (ValueError, SyntaxError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
        raise SubmitError(f"{text.strip()[:60]!r} is not a number", place) from None
    return number


def file_name(path: str, options: str, directory: str) -> str:
    """The parts of a path that ``$Fpdnxq(...)`` asks for; `options`: the letters after F."""
    path = path.strip().strip('"')
    if "f" in options and not path.startswith("/"):
        path = os.path.normpath(os.path.join(directory, path))
    head, slash, name = path.rpartition("/")
    stem, dot, extension = name.rpartition(".")
    if not dot:
        stem, extension = name, ""
    parts = ""
    if "p" in options:
        parts += head + slash
    elif "d" in options:
        parts += head.rpartition("/")[2] + ("" if "b" in options else slash)
    if "n" in options:
        parts += stem
    if "x" in options:
        parts += extension if "b" in options else dot + extension
    if not set(options) & set("pdnx"):
        parts = path
    if "u" in options:
        parts = parts.replace("\\", "/")
    if "w" in options:
        parts = parts.replace("/", "\\")
    if "q" in options:
        quote = "'" if "a" in options else '"'
        parts = quote + parts + quote
    return parts


def _closing(text: str, start: int, place: Place) -> int:
    depth = 1
    for at in range(start, len(text)):
        if text[at] == "(":
            depth += 1
        elif text[at] == ")":
            depth -= 1
            if depth == 0:
                return at
    raise SubmitError(f"'(' is never closed in {text[:60]!r}", place)


def _calculated(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value  # type: ignore[return-value]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _calculated(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if not isinstance(node, ast.BinOp):
        raise ValueError(node)
    left, right = _calculated(node.left), _calculated(node.right)
    whole = isinstance(left, int) and isinstance(right, int)
    if isinstance(node.op, ast.Div):
        return int(math.copysign(1, left * right)) * (abs(left) // abs(right)) if whole else left / right
    if isinstance(node.op, ast.Mod):
        return int(math.fmod(left, right)) if whole else math.fmod(left, right)
    calculate = _OPERATORS.get(type(node.op))
    if calculate is None:
        raise ValueError(node)
    return calculate(left, right)


def _dirname(macros: Macros, argument: str, place: Place, depth: int) -> str:
    return file_name(macros._value_of(argument, place, depth), "p", macros.directory)


def _basename(macros: Macros, argument: str, place: Place, depth: int) -> str:
    return file_name(macros._value_of(argument, place, depth), "nx", macros.directory)


_FUNCTIONS: dict[str, Callable[[Macros, str, Place, int], str]] = {
    "ENV": Macros.env,
    "RANDOM_CHOICE": Macros.random_choice,
    "RANDOM_INTEGER": Macros.random_integer,
    "CHOICE": Macros.choice,
    "INT": lambda macros, argument, place, depth: macros.number(argument, place, depth, whole=True),
    "REAL": lambda macros, argument, place, depth: macros.number(argument, place, depth, whole=False),
    "SUBSTR": Macros.substring,
    "STRING": lambda macros, argument, place, depth: macros._value_of(argument, place, depth),
    "DIRNAME": _dirname,
    "BASENAME": _basename,
}
