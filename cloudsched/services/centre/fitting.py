"""Which products can be sold in a cluster now? First by its books, then by its live nodes (contract: determine_accommodat)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudsched.domain import fitting as rules
from cloudsched.domain.fitting import NodeFree, Product
from cloudsched.domain.pricing import Refusal
from cloudsched.domain.stock import ASKED, shown
from cloudsched.store import parts as store

__all__ = ["DYNAMIC", "STATIC", "Live", "NodeFree", "Product", "Unfit", "as_resources", "live", "products", "selector", "unfit"]

STATIC, DYNAMIC = "static", "dynamic"
products, selector = rules.products, rules.selector
Labels = Mapping[str, str | None]
Live = Callable[[Sequence[Product], Labels], Mapping[str, Refusal]]


@dataclass(frozen=True, slots=True)
class Unfit:
    """The ids that fit nowhere, in the order they were asked for; who said so of the last of them; why, by id."""

    ids: tuple[str, ...]
    reason: str
    why: Mapping[str, Refusal]


def unfit(centre: str, cluster_key: str, wanted: Sequence[Product], *, labels: Labels | None = None, ask: Live) -> Unfit:
    """Products that cannot be placed in a cluster of a centre. `ask` says it of the live cluster; what the books refuse is not
    asked. `reason` is `dynamic` when the live cluster refused one, `static` when the books refused all of them, else empty.

    Raises what `ask` raises when the cluster cannot be reached.
    """
    refused = rules.unfit_by_books(wanted, store.free(centre=centre, cluster=cluster_key))
    left = [product for product in wanted if product.id not in refused]
    seen = dict(ask(left, labels or {})) if left else {}
    reason = DYNAMIC if seen else STATIC if refused else ""
    why = {**refused, **seen}
    return Unfit(tuple(dict.fromkeys(product.id for product in wanted if product.id in why)), reason, why)


def live(nodes_of: Callable[[], Sequence[NodeFree]]) -> Live:
    """The live check over the nodes that `nodes_of` gives."""
    return lambda wanted, labels: rules.unfit_by_nodes(wanted, nodes_of(), labels)


def as_resources(wanted: Sequence[Product]) -> list[dict[str, Any]]:
    """Products as `products` reads them: what is sent to the centre that has the cluster."""
    return [{"productid": product.id, "resources": [
        {"type": one.type, "model": one.model, "amount": shown(one.type, one.amount, ASKED[one.type])}
        for one in product.amounts]} for product in wanted]
