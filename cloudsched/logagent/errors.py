"""How is a request refused, and what do the codes of the wire mean? (contract 5.1)"""

from __future__ import annotations

CODES = {
    "L200": "success",
    "L1001": "read one runner configuration",
    "L1002": "add a runner",
    "L1003": "delete a runner",
    "L1004": "start a runner",
    "L1005": "stop a runner",
    "L1006": "reset a runner",
    "L1007": "update a runner",
    "L1008": "read the errors of a runner",
    "L1101": "trial of a reader",
    "L1201": "trial of a parser",
    "L1301": "trial of a transform",
    "L1401": "trial of a sender",
    "L2001": "master: list agents or runners",
    "L2002": "master: status of runners",
    "L2003": "master: runner configurations",
    "L2004": "master: register an agent",
    "L2005": "change the tag of this agent",
    "L2006": "master: add a runner",
    "L2007": "master: delete a runner",
    "L2008": "master: start a runner",
    "L2009": "master: stop a runner",
    "L2010": "master: reset a runner",
    "L2011": "master: update a runner",
    "L2012": "master: forget agents",
    "L2013": "master: set the tag of agents",
    "L2014": "master: one runner configuration",
}


class Refused(Exception):
    """A request that is answered with an error: HTTP status, code of the envelope style, text."""

    def __init__(self, text: str, *, code: str = "", status: int = 400) -> None:
        super().__init__(text)
        self.text, self.code, self.status = text, code, status


class BadConfig(Exception):
    """A configuration that cannot work; the text names the field and what is allowed."""


class SendError(Exception):
    """A sender could not hand over a batch this time; it may be tried again."""
