"""How are records changed after parsing? rename, discard, add, timestamp (contract 9, 15)."""

from __future__ import annotations

from cloudsched.logagent.errors import BadConfig
from cloudsched.logagent.times import LAYOUTS, offset_s, to_rfc3339

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cloudsched.logagent.stats import Stage

    Record = dict[str, Any]
    Change = Callable[[Record], None]


class Transform:
    """One entry of `transforms`. A record that cannot be changed is counted and goes on as it is."""

    def __init__(self, index: int, value: dict[str, Any]) -> None:
        kind = value.get("type")
        if kind not in _KINDS:
            raise BadConfig(f"transforms[{index}].type {kind!r} is not supported; allowed: {', '.join(_KINDS)}")
        if value.get("stage") not in (None, "", "after_parser"):
            raise BadConfig(f"transforms[{index}].stage {value['stage']!r} is not supported; allowed: after_parser")
        self.name = f"{kind}-{index}"
        self._change: Change = _KINDS[kind](f"transforms[{index}]", value)

    def apply(self, records: list[Record], stage: Stage) -> None:
        """Change the records in place."""
        change, bad = self._change, 0
        for record in records:
            try:
                change(record)
            except (ValueError, TypeError, KeyError) as error:
                bad += 1
                stage.failed(str(error.args[0] if error.args else error))
        stage.success.total += len(records) - bad


def _rename(where: str, value: dict[str, Any]) -> Change:
    key, new = _text(where, value, "key"), _text(where, value, "new_key_name")

    def change(record: Record) -> None:
        holder, name = _holder(record, key)
        if name not in holder:
            raise KeyError(f"no field {key}")
        record[new] = holder.pop(name)

    return change


def _discard(where: str, value: dict[str, Any]) -> Change:
    keys = [key.strip() for key in _text(where, value, "key").split(",") if key.strip()]

    def change(record: Record) -> None:
        for key in keys:
            holder, name = _holder(record, key)
            holder.pop(name, None)

    return change


def _add(where: str, value: dict[str, Any]) -> Change:
    key, new = _text(where, value, "key"), value.get("value", "")
    override = str(value.get("override", "false")).lower() == "true"

    def change(record: Record) -> None:
        if override or key not in record:
            record[key] = new
        else:
            raise ValueError(f"field {key} exists already")

    return change


def _timestamp(where: str, value: dict[str, Any]) -> Change:
    """`key`; `layout` (default auto); `offset` of times that name none (default UTC); `new_key_name` (default: in place)."""
    key, layout = _text(where, value, "key"), str(value.get("layout") or "auto")
    new = str(value.get("new_key_name") or key)
    if layout not in LAYOUTS and "%" not in layout:
        raise BadConfig(f"{where}.layout {layout!r}; allowed: {', '.join(LAYOUTS)}, or a pattern with %")
    try:
        zone_s = offset_s(str(value.get("offset", "") or ""))
    except ValueError as error:
        raise BadConfig(f"{where}.offset: {error}") from None

    def change(record: Record) -> None:
        holder, name = _holder(record, key)
        if name not in holder:
            raise KeyError(f"no field {key}")
        moment = to_rfc3339(holder[name], layout, zone_s)
        if new == key:
            holder[name] = moment
        else:
            record[new] = moment

    return change


def _holder(record: Record, key: str) -> tuple[Record, str]:
    """The object that has the field: `a.b` is the field itself if there is one of that name, else `b` inside `a`."""
    if "." not in key or key in record:
        return record, key
    holder: Any = record
    *above, name = key.split(".")
    for part in above:
        holder = holder.get(part)
        if not isinstance(holder, dict):
            return {}, name
    return holder, name


def _text(where: str, value: dict[str, Any], key: str) -> str:
    found = value.get(key)
    if not isinstance(found, str) or not found.strip():
        raise BadConfig(f"{where}.{key} must be a string that is not empty")
    return found


_KINDS: dict[str, Callable[[str, dict[str, Any]], Change]] = {
    "rename": _rename, "discard": _discard, "add": _add, "timestamp": _timestamp,
}  # fmt: skip
KINDS = tuple(_KINDS)
