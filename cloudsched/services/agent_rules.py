"""What do the server and its agents agree on? The rules told at joining, secrets, and who a bearer is."""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass

from cloudsched import clock
from cloudsched.errors import Unauthenticated
from cloudsched.store import nodes
from cloudsched.store.db import Tx


@dataclass
class Rules:
    """What the server tells its agents; set once when a process starts, from the settings."""

    lease_s: float = 60
    heartbeat_s: float = 10
    long_poll_s: float = 20
    output_limit: int = 16 << 20
    recheck_s: float | None = None  # look again this often while waiting: other web processes queue jobs too


rules = Rules()


def digest(secret: str) -> str:
    """How tokens and secrets are kept: they are random, so a plain hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def bearer_of(text: str) -> tuple[int, str]:
    """`NODE.SECRET` as (node, hash of the secret). Raises Unauthenticated."""
    number, _, secret = text.partition(".")
    if not (number.isascii() and number.isdigit()) or not secret or len(number) > 18:
        raise Unauthenticated("the node's secret is missing")
    return int(number), digest(secret)


def check_secret(tx: Tx, number: int, secret_hash: str) -> None:
    """Raise Unauthenticated unless the node has this secret now."""
    row = nodes.contact(tx, number)
    if row is None or not hmac.compare_digest(row[2], secret_hash):
        raise Unauthenticated("the node's secret is not valid any more: join again")


def instance_id() -> str:
    """A name for this process in leases: host, process, random."""
    return f"{os.uname().nodename}:{os.getpid()}:{clock.new_suffix(6)}"
