"""What does a real EC2 do that moto does not, and how does it refuse? Pieces to put before a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlencode
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from cloudsched.testing.faultproxy import Answered, Asked

Forward = Callable[[Asked], Answered]
_UNCOMPARED = {"Action", "Version", "ClientToken"}


def refusal(code: str, message: str = "no", status: int = 400) -> Answered:
    """An error as EC2 answers it."""
    text = f"<Response><Errors><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error></Errors></Response>"
    return Answered(status, text.encode())


def action(name: str) -> Callable[[Asked], bool]:
    """Does a request ask for that action?"""
    return lambda asked: asked.params.get("Action") == name


def canned(answers: dict[str, str]) -> Callable[[Asked, Forward], Answered]:
    """A server that knows some actions by heart, and answers others with nothing in it."""

    def answer(asked: Asked, forward: Forward) -> Answered:
        name = asked.params.get("Action", "")
        return Answered(200, f"<{name}Response>{answers.get(name, '')}</{name}Response>".encode())

    return answer


class Tokens:
    """RunInstances with the same ClientToken is the same instance, as long as the place shows it."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[dict[str, str], str]] = {}

    def __call__(self, asked: Asked, forward: Forward) -> Answered:
        params = dict(asked.params)
        if params.get("Filter.1.Name") == "client-token":
            ids = [number for token, (_, number) in self.known.items() if token == params["Filter.1.Value.1"]]
            return forward(changed(asked, {**params, "Filter.1.Name": "instance-id", "Filter.1.Value.1": (ids or ["i-0"])[0]}))
        if params.get("Action") != "RunInstances":
            return forward(asked)
        compared = {key: value for key, value in params.items() if key not in _UNCOMPARED}
        before, number = self.known.get(params["ClientToken"], (None, ""))
        if before is None:
            answer = forward(asked)
            found = ET.fromstring(answer.body).find(".//{*}instanceId")
            if found is not None:
                self.known[params["ClientToken"]] = (compared, found.text or "")
            return answer
        if before != compared:
            return refusal("IdempotentParameterMismatch", "the parameters are others than before")
        look = {"Action": "DescribeInstances", "Version": params["Version"], "InstanceId.1": number}
        seen = ET.fromstring(forward(changed(asked, look)).body).find(".//{*}reservationSet/{*}item")
        assert seen is not None
        seen.tag = "RunInstancesResponse"
        return Answered(200, ET.tostring(seen))


def changed(asked: Asked, params: dict[str, str]) -> Asked:
    return replace(asked, body=urlencode(params).encode(), params=params)
