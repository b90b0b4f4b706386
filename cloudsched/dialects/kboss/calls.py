"""What is one call of the kboss API, and what may it answer? Parameters from everywhere, who asks, pages; routes as rows.

A handler takes a `Call` and returns an `Answer` (`ok`, `no`, `bare`), or raises: `Refusal`, or any error of the services. An
error whose `details` hold `say` is told by that text, the other details put in; any other by its own message.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property, wraps
from typing import Any

from cloudsched.dialects.kboss.texts import ZH, register_texts, say
from cloudsched.errors import CloudschedError
from cloudsched.services.caller import Caller
from cloudsched.services.centre.centres import opened
from cloudsched.settings import Settings

__all__ = ["ABSENT", "KBOSS", "PCAPI", "Answer", "Call", "Page", "Refusal", "Route", "bare", "no", "ok", "raw",
           "register_texts", "say"]

PCAPI, KBOSS = "pcapi", "kboss"
ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "ABSENT"})()  # an answer without the member `data`
MOST_CHARS = 1 << 20
_ALIASES = {"psssword": "password", "password": "psssword", "darin": "drain", "drain": "darin"}
_TRUE, _FALSE = frozenset({"true", "1", "yes", "y", "on", "是"}), frozenset({"false", "0", "no", "n", "off", "否"})
_INTEGER = re.compile(r"[+-]?[0-9]{1,1000}\Z")
_MOST_WHOLE = 10**18 - 1  # what a column of whole numbers holds, and a little less
_UNSTORABLE = re.compile("[\\0\\ud800-\\udfff]")
_SAY_SO = frozenset({"instance_planned"})  # texts that tell of a dry run themselves


class Refusal(CloudschedError):
    """The call decides: no. Told by a text of `texts`; `http` is 200 unless the request itself was wrong."""

    kind = "refusal"

    def __init__(self, key: str, *, http: int = 200, data: Any = ABSENT, **values: Any) -> None:
        super().__init__(say(key, "en", **values))
        self.key, self.http, self.data, self.values = key, http, data, values


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call answers; `half` decides whether the text is called `info` or `msg`. `more`: further members beside `data`."""

    status: bool
    text: str
    data: Any = ABSENT
    half: str = KBOSS
    http: int = 200
    more: Mapping[str, Any] = field(default_factory=dict)
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """`page` counts from 1; without `rows` everything is on one page. `sort`: column, and whether it goes down."""

    page: int = 1
    rows: int | None = None
    sort: str = ""
    down: bool = False

    @property
    def offset(self) -> int:
        return (self.page - 1) * (self.rows or 0)

    def order(self, columns: Mapping[str, str] | Iterable[str], default: str) -> tuple[str, bool]:
        """(column to sort by, goes down): `columns` are those allowed, or name -> column. Raises Refusal."""
        known = columns if isinstance(columns, Mapping) else {name: name for name in columns}
        if not self.sort:
            return default, False
        if self.sort not in known:
            raise Refusal("bad_sort", value=self.sort, allowed=", ".join(known))
        return known[self.sort], self.down

    def numbered(self, rows: Iterable[dict[str, Any]], total: int) -> dict[str, Any]:
        """`{"total", "rows"}` of the rows of this page, each with its `row_num_`."""
        first = self.offset + 1
        return {"total": total, "rows": [{**row, "row_num_": number} for number, row in enumerate(rows, first)]}

    def of(self, rows: Sequence[dict[str, Any]], columns: Iterable[str] = ()) -> dict[str, Any]:
        """A whole list in memory, sorted by a member (of `columns`, or any) and cut to this page. Raises Refusal."""
        found = list(rows)
        if self.sort and found:
            name, down = self.order(tuple(columns) or tuple(found[0]), "")
            found.sort(key=lambda row: _sortable(row.get(name)), reverse=down)
        end = len(found) if self.rows is None else self.offset + self.rows
        return self.numbered(found[self.offset:end], len(found))


def _written(value: Any) -> str:
    """A value of JSON as text; a number as it is read by people: 0.00001 and not 1e-05."""
    if isinstance(value, float) and math.isfinite(value):
        return format(Decimal(repr(value)), "f")
    return json.dumps(value, ensure_ascii=False)


def _sortable(value: Any) -> tuple[int, float, str]:
    if isinstance(value, (int, float)):
        return 0, float(value), ""
    return (2, 0.0, "") if value is None else (1, 0.0, str(value))


class Call:
    """One request. `params`: query, form and JSON body in one, the later of these first; names are the contract's.

    `org`: the organisation that what is made belongs to (`orgid`, or the caller's; may be empty). `scope`: the organisation
    whose things may be seen and changed; None: all (an admin who named none). Buying (parts, quotes, instances) is open to
    every organisation on all clusters: only what is bought belongs to one.
    """

    def __init__(self, params: Mapping[str, Any], *, caller: Caller, settings: Settings, language: str = ZH,
                 half: str = KBOSS, address: str = "") -> None:
        self.params = params
        self.caller, self.settings, self.language, self.half, self.address = caller, settings, language, half, address
        self.changes = True

    # parameters

    def given(self, name: str) -> bool:
        """Was it said at all, by this name or its other spelling? An empty text is; null is not."""
        return self._raw(name) is not None

    def text(self, name: str, default: str | None = None, *, most: int = MOST_CHARS) -> str | None:
        """A parameter as text (numbers and truths of JSON as they are written; lists and objects as JSON)."""
        value = self._raw(name)
        if value is None:
            return default
        text = value if isinstance(value, str) else _written(value)
        if _UNSTORABLE.search(text):
            raise Refusal("bad_characters", field=name)
        if len(text) > most:
            raise Refusal("too_long", field=name, most=most)
        return text

    def required(self, name: str, key: str = "missing", *, most: int = MOST_CHARS) -> str:
        """A parameter that must be there and not blank. Raises Refusal by the text `key`, which may name `{field}`."""
        text = self.text(name, most=most)
        if text is None or not text.strip():
            raise Refusal(key, field=name)
        return text

    def integer(self, name: str, default: int | None = None, *, low: int | None = None, high: int | None = None) -> int | None:
        """A whole number within bounds; blank counts as not given. Raises Refusal."""
        text = (self.text(name) or "").strip()
        if not text:
            return default
        number = int(text) if _INTEGER.match(text) else None
        high = _MOST_WHOLE if high is None and number is not None and number > _MOST_WHOLE else high
        if number is None or (low is not None and number < low) or (high is not None and number > high):
            key = "bad_integer" if number is None else "bad_range"
            raise Refusal(key, field=name, value=text[:80], allowed=_bounds(low, high))
        return number

    def boolean(self, name: str, default: bool = False) -> bool:
        """A truth; blank counts as not given. Raises Refusal."""
        text = (self.text(name) or "").strip().lower()
        if not text:
            return default
        if text not in _TRUE and text not in _FALSE:
            raise Refusal("bad_boolean", field=name, value=text[:80])
        return text in _TRUE

    def word(self, name: str, allowed: Sequence[str], default: str | None = None) -> str | None:
        """One of some words. Raises Refusal."""
        text = (self.text(name) or "").strip()
        if not text:
            return default
        if text not in allowed:
            raise Refusal("bad_word", field=name, value=text[:80], allowed=", ".join(allowed))
        return text

    def json(self, name: str, default: Any = None) -> Any:
        """A structured parameter: as the JSON body has it, or a text that is JSON. Raises Refusal that says where it is wrong."""
        value = self._raw(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            return default
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            where = f"{error.msg} ({error.lineno}:{error.colno})" if isinstance(error, json.JSONDecodeError) else str(error)
            raise Refusal("bad_json", field=name, where=where) from None
        except RecursionError:
            raise Refusal("bad_json", field=name, where="nested too deeply") from None

    def _raw(self, name: str) -> Any:
        value = self.params.get(name)
        return self.params.get(_ALIASES[name]) if value is None and name in _ALIASES else value

    # who asks, and how

    @cached_property
    def org(self) -> str:
        """The organisation that what is made belongs to. Raises Refusal (403) when it is not the caller's."""
        wanted = (self.text("orgid", most=200) or "").strip()
        if wanted and not self.caller.may("admin") and wanted != self.caller.org:
            raise Refusal("bad_org", http=403, org=wanted[:80])
        return wanted or self.caller.org

    @property
    def scope(self) -> str | None:
        """The organisation whose things may be seen and changed; None: all of them."""
        return self.org if self.org or not self.caller.may("admin") else None

    @property
    def actor(self) -> str:
        """Who goes into events."""
        return self.caller.name

    @cached_property
    def dry_run(self) -> bool:
        """Is it only asked what would happen?"""
        return self.boolean("dry_run")

    @cached_property
    def page(self) -> Page:
        """Which page of a list. Raises Refusal."""
        sort = (self.text("sort", most=200) or "").strip()
        name, _, way = sort.partition(" ")
        down = way.strip().lower() == "desc"
        if way.strip() and way.strip().lower() not in ("asc", "desc"):
            raise Refusal("bad_sort", value=sort, allowed="NAME, -NAME, NAME desc")
        if name.startswith("-"):
            name, down = name[1:], not down
        page = self.integer("page", 1, low=1, high=10**9)
        return Page(page or 1, self.integer("rows", None, low=1, high=100_000), name, down)

    def secret(self, token: str) -> str:
        """A kept secret as it may be shown: the sealed token, or the clear text for administrators where that is switched on."""
        if token and self.settings.centres.reveal_secrets and self.caller.may("admin"):
            return opened(token, self.settings)
        return token

    def say(self, key: str, /, **values: Any) -> str:
        """A sentence in the caller's language."""
        return say(key, self.language, **values)


Handler = Callable[[Call], Answer]


@dataclass(frozen=True)
class Route:
    """One path; `role`: what its caller must at least be (viewer, submitter, operator, admin). `changes`: is something done?
    What a viewer may call never does anything."""

    path: str
    handler: Handler
    half: str = KBOSS
    role: str = "operator"
    methods: tuple[str, ...] = ("GET", "POST")
    changes: bool = True

    def __post_init__(self) -> None:
        if self.role == "viewer" or not self.changes:
            object.__setattr__(self, "changes", False)
            object.__setattr__(self, "handler", _looking(self.handler))


def _looking(handler: Handler) -> Handler:
    """A handler that changes nothing, dry run or not; its answers do not speak of one."""

    @wraps(handler)
    def look(call: Call) -> Answer:
        call.changes = False
        return handler(call)

    return look


def ok(call: Call, key: str, data: Any = ABSENT, *, more: Mapping[str, Any] | None = None, **texts: Any) -> Answer:
    """It is done (or with `dry_run` would be, which the answer then says). Without `data` it is an empty object."""
    beside = {"dry_run": True} if call.dry_run else {}
    text = call.say(key, **texts)
    if call.dry_run and call.changes and key not in _SAY_SO:
        text = call.say("tried", text=text)
    return Answer(True, text, {} if data is ABSENT else data, call.half, more={**(more or {}), **beside})


def no(call: Call, key: str, data: Any = ABSENT, *, more: Mapping[str, Any] | None = None, **texts: Any) -> Answer:
    """It is not done; the text says why. Without `data` the answer has no such member."""
    return Answer(False, call.say(key, **texts), data, call.half, more=more or {})


def bare(call: Call, value: Any) -> Answer:
    """A value without the envelope around it."""
    return Answer(True, "", value, call.half, bare=True)


def raw(call: Call, body: bytes, media: str, *, file: str = "") -> Answer:
    """Bytes of another kind than JSON, to be kept under a name."""
    headers = {"Content-Type": media, **({"Content-Disposition": f'attachment; filename="{file}"'} if file else {})}
    return Answer(True, "", body, call.half, more=headers, bare=True)


def _bounds(low: int | None, high: int | None) -> str:
    if low is None and high is None:
        return "0, 1, 2 ..."
    return f"{'' if low is None else low}..{'' if high is None else high}"
