"""Which products fit nowhere: what is asked for is checked to the place, and judged like a slow and obvious rule does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudsched.domain import fitting
from cloudsched.domain.fitting import NodeFree, Product
from cloudsched.domain.stock import Amount
from cloudsched.errors import Invalid


def part(kind: str, amount: int, model: str = "STANDARD") -> dict[str, Any]:
    return {"type": kind, "model": model, "amount": amount}


def node(name: str = "n", **values: Any) -> NodeFree:
    return NodeFree(name, **{"cpu_m": 8000, "memory_mi": 16384, "disk_gi": 100, "gpus": {"A": 2}, **values})


def test_both_shapes_of_products() -> None:
    wanted = [part("cpu", 2), part("memory", 512)]
    amounts = (Amount("cpu", "STANDARD", 2000), Amount("memory", "STANDARD", 512))
    assert fitting.products(json.dumps([{"productid": "a", "resources": wanted}, {"id": 7, "resources": []}])) == [
        Product("a", amounts), Product("7", ())]
    assert fitting.products({"a": wanted}) == [Product("a", amounts)]
    assert fitting.products({"productid": "a", "resources": wanted}) == [Product("a", amounts)]


@pytest.mark.parametrize(("raw", "place"), [
    ("{", r"resources: is no JSON \(line 1 column 2"),
    ("[" * 100_000, "resources: is no JSON"),
    ('"x"', "resources: is a text"),
    ("[1]", r"resources\[0\]: is a number"),
    ('[{"resources": []}]', r"resources\[0\].productid: is missing"),
    ('[{"id": [], "resources": []}]', r"resources\[0\].productid: is a list"),
    ('[{"id": "a"}]', r"resources\[0\].resources: is missing"),
    ('[{"id": "a", "resources": {}}]', r"resources\[0\].resources: is an object"),
    ('[{"id": "a", "resources": [[]]}]', r"resources\[0\].resources\[0\]: is a list"),
    ('[{"id": "a", "resources": []}, {"id": "b", "resources": [{"type": "tpu"}]}]', r"resources\[1\].resources\[0\].type"),
    ('[{"id": "a", "resources": [{"type": "cpu", "amount": 1}, {"type": "cpu", "model": 3, "amount": 1}]}]',
     r"resources\[0\].resources\[1\].model"),
    ('[{"id": "a", "resources": [{"type": "cpu"}]}]', r"resources\[0\].resources\[0\].amount: is missing"),
    ('[{"id": "a", "resources": [{"type": "gpu", "amount": 0.5}]}]', r"resources\[0\].resources\[0\].amount"),
    ('{"a": 3}', r"resources.a: is a number"),
])
def test_what_is_wrong_is_named(raw: str, place: str) -> None:
    with pytest.raises(Invalid, match=place):
        fitting.products(raw)


@pytest.mark.parametrize(("raw", "labels"), [
    (None, {}), ("", {}), ("a=b", {"a": "b"}), ("a=b, c", {"a": "b", "c": None}), ('["a=b"]', {"a": "b"}),
    ('{"a": "b", "n": 1}', {"a": "b", "n": "1"}), (["a="], {"a": ""}), ("kyy-gpu=false", {"kyy-gpu": "false"}),
])
def test_labels(raw: Any, labels: dict[str, str | None]) -> None:
    assert fitting.selector(raw) == labels


@pytest.mark.parametrize("raw", ["=b", "[1", 7])
def test_what_are_no_labels(raw: Any) -> None:
    with pytest.raises(Invalid, match="kyylabels"):
        fitting.selector(raw)


def fits(wanted: list[dict[str, Any]], *nodes: NodeFree, labels: str = "") -> bool:
    products = fitting.products([{"id": "p", "resources": wanted}])
    return not fitting.unfit_by_nodes(products, nodes, fitting.selector(labels))


def test_all_of_it_on_one_node_at_once() -> None:
    much_cpu, much_memory = node(memory_mi=512), node(cpu_m=1000)
    assert not fits([part("cpu", 4), part("memory", 1024)], much_cpu, much_memory)
    assert fits([part("cpu", 4), part("memory", 1024)], much_cpu, much_memory, node())


@pytest.mark.parametrize("unusable", [{"ready": False}, {"schedulable": False}, {"labels": {"a": "c"}}])
def test_only_ready_schedulable_nodes_with_the_labels(unusable: dict[str, Any]) -> None:
    assert not fits([part("cpu", 1)], node(**unusable), labels="a=b")
    assert fits([part("cpu", 1)], node(**unusable), node(labels={"a": "b"}), labels="a=b")


def test_disk_is_one_and_may_be_untold() -> None:
    wanted = [part("disk", 60, "SYS"), part("disk", 60, "DATA")]
    assert not fits(wanted, node(disk_gi=100))
    assert fits(wanted, node(disk_gi=120)) and fits(wanted, node(disk_gi=None))


def test_cards_by_model_or_untold() -> None:
    assert fits([part("gpu", 2, "A")], node())
    assert not fits([part("gpu", 2, "B")], node())
    assert fits([part("gpu", 2, "B")], node(gpus={"": 2}))
    assert not fits([part("gpu", 2, "B"), part("gpu", 1, "A")], node(gpus={"": 2}))
    assert fits([part("gpu", 3, "A")], node(gpus={"A": 2, "": 1}))


def test_models_of_processors_where_they_are_known() -> None:
    assert not fits([part("cpu", 1, "INTEL")], node(models={"cpu": "AMD"}))
    assert fits([part("cpu", 1, "INTEL")], node(models={"cpu": "INTEL"})) and fits([part("cpu", 1, "INTEL")], node())
    assert fits([part("cpu", 1)], node(models={"cpu": "AMD"}))


def test_why_it_fits_nowhere() -> None:
    products = fitting.products({"p": [part("cpu", 9), part("gpu", 1, "B")], "q": []})
    found = fitting.unfit_by_nodes(products, [node(), node(ready=False)])
    assert found.keys() == {"p"}
    assert found["p"].facts == {"nodes": 2, "usable": 1, "cpu": {"asked": 9000, "most": 8000}, "gpu B": {"asked": 1, "most": 0}}
    assert fitting.unfit_by_nodes(products, []).keys() == {"p", "q"}


def test_the_books_first() -> None:
    products = fitting.products({"a": [part("cpu", 1)], "b": [part("cpu", 3)], "c": [part("gpu", 1, "B")]})
    found = fitting.unfit_by_books(products, {("cpu", "STANDARD"): 2000})
    assert {key: refusal.code for key, refusal in found.items()} == {"b": "short", "c": "no_model"}


COUNTS = st.integers(0, 4)
NODES = st.lists(st.builds(
    lambda cpu, memory, disk, a, b, ready: NodeFree("n", cpu * 1000, memory, disk, {"A": a, "B": b}, ready=ready),
    COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.booleans()), max_size=4)
PRODUCTS = st.lists(st.tuples(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS), max_size=5)


@given(NODES, PRODUCTS)
def test_as_the_obvious_rule_says(nodes: list[NodeFree], products: list[tuple[int, int, int, int, int]]) -> None:
    wanted = [Product(str(number), (Amount("cpu", "STANDARD", 1000 * one[0]), Amount("memory", "M", one[1]),
                                    Amount("disk", "SYS", one[2]), Amount("gpu", "A", one[3]), Amount("gpu", "B", one[4])))
              for number, one in enumerate(products)]
    unfit = {str(number) for number, one in enumerate(products) if not any(
        node.ready and 1000 * one[0] <= node.cpu_m and one[1] <= node.memory_mi and one[2] <= (node.disk_gi or 0)
        and one[3] <= node.gpus["A"] and one[4] <= node.gpus["B"] for node in nodes)}
    assert fitting.unfit_by_nodes(wanted, nodes).keys() == unfit


@pytest.mark.parametrize(("asked", "told", "same"), [
    ("RTX4090-24G", "NVIDIA-GeForce-RTX-4090", True), ("RTX4090-24G", "NVIDIA-GeForce-RTX-3090", False),
    ("A100-80G", "NVIDIA-A100-SXM4-80GB", True), ("A100-80G", "NVIDIA-A100-SXM4-40GB", False),
    ("A10-24G", "NVIDIA-A100-SXM4-80GB", False), ("A10", "NVIDIA-A100-SXM4-80GB", False), ("A100", "NVIDIA-A100-SXM4-80GB", True),
    ("V100-32G", "Tesla-V100-SXM2-32GB", True), ("V100-32G", "", True), ("STANDARD", "Tesla-V100-SXM2-32GB", True),
    ("STANDARD-8G", "Tesla-V100-SXM2-32GB", False), ("", "Tesla-T4", False), ("卡", "Tesla-T4", False), ("X", "X", True),
])
def test_cards_by_the_names_that_clusters_tell(asked: str, told: str, same: bool) -> None:
    assert fitting.same_card(asked, told) is same
