"""Which labels does an organisation use for its nodes and instances? Add, list, forget."""

from __future__ import annotations

from cloudsched import clock
from cloudsched.domain.labels import check_key, check_value
from cloudsched.errors import Conflict, NotFound
from cloudsched.services.centre.centres import attempt, checked_name, new_key, refused, wrong
from cloudsched.store import centres as store
from cloudsched.store.centres import Label
from cloudsched.store.db import Tx

__all__ = ["INSTANCE", "NODE", "SYMBOLS", "Label", "add", "find", "listed", "remove"]
INSTANCE, NODE = "0", "1"
# How a label of each type is written: between its key and its value.
SYMBOLS = {INSTANCE: ":", NODE: "="}


def listed(*, scope: str | None = None, labeltype: str | None = None) -> list[Label]:
    """The labels of an organisation, or all. Raises Invalid for an unknown type."""
    return store.labels(org=scope, labeltype=_type(labeltype) if labeltype else None)


def add(*, name: str, labeltype: str, label_key: str, label_value: str, org: str, actor: str, dry_run: bool = False) -> Label:
    """A new label, valid where Kubernetes takes it. Raises Invalid; Conflict when the organisation has it already."""
    key = new_key()
    values = {"key": key, "name": checked_name("name", name), "org": org, "labeltype": _type(labeltype),
              "label_key": check_key(label_key.strip(), "label_key"),
              "label_value": check_value(label_value.strip(), "label_value")}

    def insert(tx: Tx) -> Label:
        at = clock.now()
        for known in store.labels(org=org, labeltype=values["labeltype"]):
            if (known.label_key, known.label_value) == (values["label_key"], values["label_value"]):
                raise refused(Conflict, "label_exists", f"there is a label {known.label_key} {known.label_value} already",
                              label=f"{known.label_key}{SYMBOLS[known.labeltype]}{known.label_value}")
        number = store.insert(tx, "centre_label", {**values, "updated_at": at})
        store.note(tx, "centre.label_add", ("label", number), at=at, actor=actor, org=org, id=key, label=values["label_key"],
                   value=values["label_value"])
        return find(key)

    return attempt(insert, dry_run=dry_run)


def find(key: str, *, scope: str | None = None) -> Label:
    """One label by its id. Raises NotFound, also for one of another organisation."""
    label = store.label(key)
    if label is None or (scope is not None and label.org != scope):
        raise refused(NotFound, "no_label", f"there is no label {key}", id=key)
    return label


def remove(label: Label, *, actor: str, dry_run: bool = False) -> None:
    """Forget a label; nodes and instances that have it keep it."""

    def delete(tx: Tx) -> None:
        store.delete_label(tx, label.id)
        store.note(tx, "centre.label_remove", ("label", label.id), at=clock.now(), actor=actor, org=label.org, id=label.key,
                   label=label.label_key, value=label.label_value)

    attempt(delete, dry_run=dry_run)


def _type(text: str) -> str:
    if text.strip() not in SYMBOLS:
        raise wrong("labeltype", text[:40], "bad_word", allowed=", ".join(SYMBOLS))
    return text.strip()
