"""What is one example of the contract, and is an answer what it says? Requests, expected answers in both languages, comparing.

`examples.json` holds, for each route, the parameters and the answers as they stand in the contract, nothing changed. An `Entry`
is one of these answers with the request that it answers. What cannot be the contract's to the byte stands in `differs`, each with
the reason; everything else of an answer must be the contract's: members and their order, types, texts.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXAMPLES: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("examples.json").read_text(encoding="utf-8"))
# Values that requests are written in as well: not texts.
UNITS = frozenset({"元", "角", "分", "核", "卡", "秒", "分钟", "小时", "天", "周", "月"})
_CHINESE = re.compile("[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")
_SENTENCE = re.compile(r"[A-Za-z']+(?:[ ,]+[A-Za-z']+){2,}")
GONE: Any = type("Gone", (), {"__repr__": lambda self: "GONE"})()  # a member that the contract has and we have not


@dataclass(frozen=True)
class Form:
    """A text that cannot be fixed: what it looks like."""

    pattern: str

    def fits(self, value: Any) -> bool:
        return isinstance(value, str) and re.fullmatch(self.pattern, value, re.DOTALL) is not None


TOKEN = r"sealed:1:[A-Za-z0-9_=.-]{40,}"
SEALED = Form(TOKEN)


@dataclass(frozen=True)
class Differs:
    """Where our answer is another than the contract's, and why. `path`: members and places joined by dots, `*` for all places;
    a member that the contract has not stands `before` another, or last."""

    path: str
    ours: Any
    why: str
    before: str = ""


@dataclass(frozen=True)
class Entry:
    """`number`: which answer of the route, from 1; 0: an example of a request that the contract gives no answer to. `before`:
    what there is; the parameters that it returns are those that are not known earlier. `english`: path -> text; all else is as
    in Chinese. `ours`: our path where the contract has none. `way`: how it is said (query or json). `foreign`: texts of other
    programs that are quoted."""

    route: str
    number: int
    request: Mapping[str, Any]
    before: Callable[[Any], Mapping[str, Any] | None]
    english: Mapping[str, Any]
    differs: tuple[Differs, ...] = ()
    flags: Mapping[str, Any] = field(default_factory=dict)
    ours: str = ""
    way: str = "query"
    name: str = ""
    foreign: tuple[str, ...] = ()

    def __str__(self) -> str:
        path = self.route.split()[1]
        last = (self.ours or path).rpartition("/")[2].removesuffix(".dspy")
        half = "pcapi." if path.startswith("/pcapi") else "buy." if "/cpcbuy/" in path else ""
        return f"{half}{last}-{self.number}{'-' + self.name if self.name else ''}"

    @property
    def method(self) -> str:
        return self.route.split()[0]

    @property
    def path(self) -> str:
        return self.ours or self.route.split()[1]

    @property
    def seed(self) -> Any:
        """The contract's answer; of an example without one that of the first."""
        return EXAMPLES[self.route]["answers"][max(self.number, 1) - 1]

    def expected(self, language: str) -> Any:
        found = copy.deepcopy(self.seed)
        for one in self.differs:
            found = put(found, one.path, one.ours, before=one.before)
        for path, text in (self.english if language == "en" else {}).items():
            found = put(found, path, text, known=True)
        return found


def put(tree: Any, path: str, value: Any, *, before: str = "", known: bool = False) -> Any:
    """The tree with a value at a path; `known`: there must be one already."""
    if not path:
        return value
    name, _, rest = path.partition(".")
    if isinstance(tree, list):
        places = range(len(tree)) if name == "*" else [int(name)]
        assert places, f"nothing at {path}"
        return [put(one, rest, value, before=before, known=known) if place in places else one for place, one in enumerate(tree)]
    assert name in tree or not (rest or known), f"no {name} in {list(tree)}"
    if rest:
        return {key: put(one, rest, value, before=before, known=known) if key == name else one for key, one in tree.items()}
    if value is GONE:
        return {key: one for key, one in tree.items() if key != name}
    if name in tree:
        return {key: value if key == name else one for key, one in tree.items()}
    assert not before or before in tree, f"no {before} in {list(tree)}"
    items = list(tree.items())
    place = list(tree).index(before) if before else len(items)
    return dict([*items[:place], (name, value), *items[place:]])


def check(expected: Any, found: Any, path: str = "answer") -> None:
    """Are members, their order, types and texts the same?"""
    if isinstance(expected, Form):
        assert expected.fits(found), f"{path}: {found!r} is not {expected.pattern}"
        return
    assert type(expected) is type(found), f"{path}: {found!r}, not {expected!r}"
    if isinstance(expected, dict):
        assert list(found) == list(expected), f"{path}: {list(found)}, not {list(expected)}"
        for name, one in expected.items():
            check(one, found[name], f"{path}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), f"{path}: {len(found)}, not {len(expected)}: {found}"
        for place, one in enumerate(expected):
            check(one, found[place], f"{path}.{place}")
    else:
        assert found == expected, f"{path}: {found!r}, not {expected!r}"


def check_chinese(entry: Entry, answer: Any, said: set[str]) -> None:
    """No sentence of an answer is English, unless the contract has it so, or it was said to us."""
    theirs = set(texts(entry.seed))
    for text in texts(answer):
        own = next((text.removeprefix(one) for one in theirs if len(one) > 8 and text.startswith(one)), text)
        left = without(own, said | set(entry.foreign))
        assert not _SENTENCE.search(left), f"English in a Chinese answer: {text}"


def check_english(entry: Entry, answer: Any, said: set[str]) -> None:
    """Nothing of an answer is Chinese, unless it was said to us."""
    for text in set(texts(answer)) - UNITS:
        assert not _CHINESE.search(without(text, said | set(entry.foreign))), f"Chinese in an English answer: {text}"


def texts(tree: Any) -> Iterator[str]:
    """All texts of an answer, its members' names as well."""
    if isinstance(tree, str):
        yield tree
    for one in (*tree, *tree.values()) if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from texts(one)


def without(text: str, said: set[str]) -> str:
    for one in sorted(said, key=len, reverse=True):
        if len(one) > 2 or _CHINESE.search(one):
            text = text.replace(one, "~")
    return text
