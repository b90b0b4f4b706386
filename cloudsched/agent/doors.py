"""Which URL does `--join HOST[:PORT]` mean? Any port of a server will do: it is asked where agents knock.

The port may be that of the native worker protocol (its `status` tells the port for agents) or one that speaks HTTP.
"""

from __future__ import annotations

import json
import socket
import uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_PORT = 8080
TIMEOUT_S = 10.0
MAX_BYTES = 1 << 20


def find(text: str) -> str:
    """The server's URL. ValueError: the text is no address; OSError: nobody there, or nobody who takes agents."""
    if "://" in text:
        return text.rstrip("/")
    host, port = _split(text)
    answer = _ask_native(host, port)
    if answer is None:  # it speaks HTTP: agents may knock at this very port
        return "http://%s:%d" % (_in_url(host), port)
    result = (answer.get("data") or {}).get("result")
    if not isinstance(result, dict):
        raise OSError("%s refuses: %s" % (text, (answer.get("data") or {}).get("error", "no reason given")))
    if isinstance(result.get("agent_url"), str) and result["agent_url"]:
        return str(result["agent_url"]).rstrip("/")
    if isinstance(result.get("agent_port"), int):
        return "http://%s:%d" % (_in_url(host), result["agent_port"])
    raise OSError("the server at %s takes no agents" % text)


def _split(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (text.count(":") > 1 and not text.startswith("[")):
        host, port = text, str(DEFAULT_PORT)
    host = host.strip("[]")
    if not host or any(letter in " /?#@" for letter in host) or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError("%r is not HOST[:PORT] or a URL" % text)
    return host, int(port)


def _in_url(host: str) -> str:
    return "[%s]" % host if ":" in host else host


def _ask_native(host: str, port: int) -> dict[str, Any] | None:
    """The answer of the native protocol; None when the port speaks something else."""
    request = {"message_type": "status", "sender_id": "joining", "message_id": str(uuid.uuid4()), "data": {}}
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT_S) as sock:
            sock.sendall(json.dumps(request).encode() + b"\r\n\r\n")
            answer = b""
            while len(answer) <= MAX_BYTES:
                piece = sock.recv(65_536)
                if not piece:
                    break
                answer += piece
    except socket.gaierror:
        raise OSError("%s cannot be resolved" % host) from None
    except socket.timeout:
        raise OSError("%s:%d does not answer" % (host, port)) from None
    except ConnectionResetError:
        return None
    except OSError as error:
        raise OSError("%s:%d cannot be reached: %s" % (host, port, error.strerror or error)) from None
    try:
        found = json.loads(answer)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "message_type" in found else None
