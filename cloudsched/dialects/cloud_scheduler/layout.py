"""Which generation of clients asks? X: over XML-RPC; R: over REST. The texts differ a little (contract 2.4)."""

from __future__ import annotations

from enum import Enum


class Layout(Enum):
    """The surface a request came through."""

    X = "xmlrpc"
    R = "rest"
