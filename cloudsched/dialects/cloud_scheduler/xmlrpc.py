"""How is XML-RPC spoken? One call in, one value or fault out, always HTTP 200 (contract 2.1).

Requests come from anybody: document types, entities, deep nesting and bodies over the limit are refused before
anything is built from them.
"""

from __future__ import annotations

import logging
import re
import xmlrpc.client
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from xml.parsers import expat

from cloudsched.dialects.cloud_scheduler.calls import Call, Text
from cloudsched.dialects.cloud_scheduler.layout import Layout
from cloudsched.errors import CloudschedError

log = logging.getLogger(__name__)

FAULT_CODE = 1
LIMIT_BYTES = 1024 * 1024
CONTENT_TYPE = "text/xml"

_DEPTH = 64
_ELEMENTS = 20_000
_CALLS_IN_ONE = 100
_NO_SIGNATURES = "signatures not supported"
# What XML 1.0 cannot carry.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class BadRequest(CloudschedError):
    """The body is no XML-RPC call, or the call is wrong; becomes a fault."""

    kind = "bad_request"

    def __init__(self, message: str, *, kind: str = "TypeError") -> None:
        super().__init__(f"{kind}:{message}")


class Endpoint:
    """The methods of one listener."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self._calls = {call.name: call for call in calls if not call.hidden}
        self._system: Mapping[str, Callable[..., Any]] = {
            "system.listMethods": self._list, "system.methodHelp": self._help,
            "system.methodSignature": self._signature, "system.multicall": self._multicall,
        }

    def answer(self, body: bytes) -> bytes:
        """The response body to a request body. Never raises."""
        try:
            name, params = parse(body)
            return _value(self._run(name, params))
        except CloudschedError as error:
            return _fault(error.message)
        except Exception:
            log.exception("an XML-RPC call failed")
            return _fault("Exception:internal server error")

    def _run(self, name: str, params: Sequence[Any]) -> Any:
        system = self._system.get(name)
        if system is not None:
            return _called(name, system, params)
        call = self._calls.get(name)
        if call is None:
            raise BadRequest(f'method "{name}" is not supported', kind="Exception")
        return _sendable(call.answer(Layout.X, *_arguments(call, params)))

    def _list(self) -> list[str]:
        # `system.multicall` is offered besides, but the list is that of the original.
        return sorted([*self._calls, *(name for name in self._system if name != "system.multicall")])

    def _help(self, name: str) -> str:
        return ""

    def _signature(self, name: str) -> str:
        return _NO_SIGNATURES

    def _multicall(self, calls: list[dict[str, Any]]) -> list[Any]:
        if not isinstance(calls, list) or len(calls) > _CALLS_IN_ONE:
            raise BadRequest(f"system.multicall takes a list of at most {_CALLS_IN_ONE} calls")
        return [self._one_of_many(call) for call in calls]

    def _one_of_many(self, call: Any) -> Any:
        try:
            if not isinstance(call, dict) or call.get("methodName") == "system.multicall":
                raise BadRequest("a call is a struct of methodName and params")
            return [self._run(str(call.get("methodName")), call.get("params") or [])]
        except CloudschedError as error:
            return {"faultCode": FAULT_CODE, "faultString": _clean(error.message)}
        except Exception:
            log.exception("an XML-RPC call failed")
            return {"faultCode": FAULT_CODE, "faultString": "Exception:internal server error"}


def parse(body: bytes) -> tuple[str, tuple[Any, ...]]:
    """(method name, arguments) of a call. Raises BadRequest."""
    reader = _Reader()
    try:
        params, name = reader.read(body)
    except BadRequest:
        raise
    except expat.ExpatError as error:
        raise BadRequest(str(error), kind="ExpatError") from None
    # Whatever the reader of values says of a value that is none: int(), float(), base64, dates, missing members.
    except Exception as error:
        raise BadRequest(f"the call cannot be read: {type(error).__name__}", kind="ResponseError") from None
    if name is None:
        raise BadRequest("the body is no methodCall", kind="ResponseError")
    return name, params


class _Reader:
    """expat feeding the standard library's reader of values, with limits."""

    def __init__(self) -> None:
        self._values = xmlrpc.client.Unmarshaller()
        self._depth = self._elements = 0
        parser = self._parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._values.data
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.ProcessingInstructionHandler = None
        parser.buffer_text = True

    def read(self, body: bytes) -> tuple[tuple[Any, ...], str | None]:
        self._values.xml(None, None)  # type: ignore[arg-type]  # the parser decodes already
        self._parser.Parse(body, True)
        return self._values.close(), self._values.getmethodname()

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._elements += 1
        if self._depth > _DEPTH or self._elements > _ELEMENTS:
            raise BadRequest(f"more than {_DEPTH} levels or {_ELEMENTS} elements", kind="ValueError")
        self._values.start(tag, attributes)

    def _end(self, tag: str) -> None:
        self._depth -= 1
        self._values.end(tag)

    def _refuse(self, *_: Any) -> None:
        raise BadRequest("document types and entities are not allowed", kind="ValueError")


def _arguments(call: Call, params: Sequence[Any]) -> list[str]:
    least, most = len(call.required), len(call.required) + len(call.optional)
    if not least <= len(params) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise BadRequest(f"{call.name}() takes {wanted} arguments ({len(params)} given)")
    names = (*call.required, *call.optional)
    return [_argument(call, name, value) for name, value in zip(names, params, strict=False)]


def _argument(call: Call, name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise BadRequest(f"{call.name}() argument {name} is a {type(value).__name__}, not a string or int")
    return str(value)


def _called(name: str, method: Callable[..., Any], params: Sequence[Any]) -> Any:
    wanted = {"system.listMethods": 0}.get(name, 1)
    if len(params) != wanted:
        raise BadRequest(f"{name}() takes {wanted} arguments ({len(params)} given)")
    return method(*params)


def _value(result: Any) -> bytes:
    return _encoded((result,))


def _fault(text: str) -> bytes:
    return _encoded(xmlrpc.client.Fault(FAULT_CODE, _clean(text)))


def _encoded(what: Any) -> bytes:
    text = xmlrpc.client.dumps(what, methodresponse=True, allow_none=False, encoding="utf-8")
    # Readers of XML turn a bare carriage return into a newline; all of those here belong to a text.
    return text.replace("\r", "&#13;").encode("utf-8")


def _sendable(answer: Text) -> Text:
    return answer if isinstance(answer, bool) else _clean(answer)


def _clean(text: str) -> str:
    """Without characters that XML cannot carry; they would make the whole answer unreadable."""
    return _NO_XML.sub("\ufffd", text)
