"""How does a program talk to the server? HTTP only; imports nothing of the server.

    from cloudsched.client import Client, locate

    client = locate()                       # address and key as the command line finds them
    job_id = client.create("/jobs", {"command": ["wc", "-l", "/etc/hosts"]})["id"]

`Client` speaks `/api/v2`; `ApiError` and its kinds are the server's refusals, `ServerAway` means no answer.
"""

from __future__ import annotations

from cloudsched.client.errors import (
    ApiError,
    BadInputError,
    BusyError,
    ClientError,
    ConflictError,
    NotAllowedError,
    NotFoundError,
    ServerAway,
)
from cloudsched.client.http import Answer, Client
from cloudsched.client.sse import ServerEvent
from cloudsched.client.where import Address, locate, state_dir

__all__ = [
    "Address",
    "Answer",
    "ApiError",
    "BadInputError",
    "BusyError",
    "Client",
    "ClientError",
    "ConflictError",
    "NotAllowedError",
    "NotFoundError",
    "ServerAway",
    "ServerEvent",
    "locate",
    "state_dir",
]
