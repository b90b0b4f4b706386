"""What does a Spark or Flink cluster cost? Its cores and memory at the prices of a compute centre's parts, where they are known.

`[dcluster] price_centre` names the centre whose parts the machines are made of. Prices are those of now; nothing is estimated:
without the setting, or without a price of both parts, there is no cost.
"""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

from cloudsched import clock
from cloudsched.domain import pricing
from cloudsched.domain.entities import Cluster
from cloudsched.domain.stock import Amount
from cloudsched.services.centre import quotes
from cloudsched.settings.dcluster import Dcluster

HOUR_S = 3600


def cost(cluster: Cluster, given: Dcluster) -> dict[str, Any] | None:
    """`{per_hour, amount, currency}`: of an hour, and of the time since its launch until now or its end; None when not known."""
    rate = _per_second(cluster, given)
    if rate is None:
        return None
    began = cluster.launched_at
    seconds = Fraction(0) if began is None else pricing.duration(began, cluster.ended_at or clock.now())
    return {"per_hour": pricing.number(rate * HOUR_S), "amount": pricing.number(rate * seconds), "currency": pricing.CURRENCY}


def _per_second(cluster: Cluster, given: Dcluster) -> Fraction | None:
    """元 a second for the master and all workers that were asked for."""
    if not given.price_centre:
        return None
    offers, spec = quotes.offers(given.price_centre), json.loads(cluster.spec)
    total = Fraction(0)
    for kind, model, size in (("cpu", given.price_cpu_model, "cores_m"), ("memory", given.price_memory_model, "memory_mb")):
        offer = offers.get((kind, model))
        if offer is None or offer.price is None:
            return None
        amount = cluster.workers_wanted * spec[f"worker_{size}"] + spec[f"master_{size}"]
        total += pricing.cost(Amount(kind, model, amount), offer.price, 1)
    return total
