"""How are labels listed, added and removed by this API, and how is one set on a node of a cluster?"""

from __future__ import annotations

from typing import Any

from cloudsched.dialects.kboss.calls import Answer, Call, Route, ok, register_texts
from cloudsched.domain.labels import ACTIONS, parse_label
from cloudsched.services.centre import centre_clusters, centre_labels
from cloudsched.services.centre.centre_labels import SYMBOLS, Label
from cloudsched.services.centre.centres import shown_time

_PATH = "/dev/cpcc/cpclabel"


def listed(call: Call) -> Answer:
    """The labels of the caller's organisation."""
    rows = [_row(label) for label in centre_labels.listed(scope=call.scope, labeltype=call.text("labeltype") or None)]
    return ok(call, "labels_listed", call.page.of(rows))


def add(call: Call) -> Answer:
    """A new label."""
    made = centre_labels.add(
        name=call.required("name"), labeltype=call.required("labeltype"), label_key=call.required("label_key"),
        label_value=call.text("label_value", "") or "", org=call.org, actor=call.actor, dry_run=call.dry_run)
    row = _row(made)
    return ok(call, "label_added", {name: row[name] for name in ("label_key", "label_value", "labeltype", "name", "orgid", "id",
                                                                 "update_time")})


def remove(call: Call) -> Answer:
    """A label goes from the list."""
    label = centre_labels.find(call.required("id").strip(), scope=call.scope)
    centre_labels.remove(label, actor=call.actor, dry_run=call.dry_run)
    return ok(call, "label_removed", {"id": label.key})


def setup(call: Call) -> Answer:
    """One label is set on a node of a cluster, or taken from it."""
    given = {name: call.required(name).strip() for name in ("cpcid", "clusterid", "label", "worker_node")}
    action = call.word("opt", ACTIONS) or call.required("opt")
    parse_label(given["label"], action)
    cluster = centre_clusters.find(given["clusterid"], centre_key=given["cpcid"], scope=call.scope)
    centre_clusters.set_label(cluster, given["worker_node"], given["label"], action, actor=call.actor, settings=call.settings,
                              dry_run=call.dry_run)
    return ok(call, "label_set", dict(sorted({**given, "opt": action, "orgid": call.org}.items())))


def _row(label: Label) -> dict[str, Any]:
    return {"id": label.key, "name": label.name, "orgid": label.org, "labeltype": label.labeltype, "label_key": label.label_key,
            "symbol": SYMBOLS[label.labeltype], "label_value": label.label_value, "update_time": shown_time(label.updated_at)}


register_texts({
    "labels_listed": ("获取资源标签成功", "labels listed"),
    "label_added": ("新增资源标签成功", "label added"),
    "label_removed": ("删除资源标签成功", "label removed"),
    "label_set": ("设置节点标签成功", "node label set"),
    "no_label": ("资源标签不存在: {id}", "there is no label {id}"),
    "label_exists": ("资源标签已存在: {label}", "there is a label {label} already"),
})

ROUTES = (
    Route(f"{_PATH}/get_cpclabel.dspy", listed, role="viewer"),
    Route(f"{_PATH}/add_cpclabel.dspy", add),
    Route(f"{_PATH}/delete_cpclabel.dspy", remove),
    Route(f"{_PATH}/setup_cpclabel.dspy", setup),
)
