"""Who did what in compute centres? The changes among the events, for one organisation or for all."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cloudsched.services.centre.centres import checked_date, shown_time
from cloudsched.store import centres as store


def page(*, scope: str | None = None, limit: int = 100, offset: int = 0, kind: str = "", actor: str = "",
         since: str = "") -> tuple[int, list[dict[str, Any]]]:
    """(how many there are, one page), newest first: `id`, `time`, `user`, `action`, `orgid`, `object`, `data`.

    `kind`: what actions begin with (`centre.`, `centre.host_add`, ...); `since`: a day. Raises Invalid.
    """
    total, rows = store.audit(org=scope, limit=limit, offset=offset, kind=kind, actor=actor, since=_epoch(since))
    return total, [{
        "id": row["id"], "time": shown_time(row["at"]), "user": row["actor"], "action": row["kind"],
        "orgid": str(row["data"].get("org", "")), "object": f"{row['subject_kind']}:{row['subject_id']}",
        "data": {name: value for name, value in row["data"].items() if name != "org"},
    } for row in rows]


def _epoch(since: str) -> float:
    day = checked_date("since", since, "")
    return datetime.fromisoformat(day).timestamp() if day else 0.0
