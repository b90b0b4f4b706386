"""Which requests does a client send? A server that writes them down and gives canned answers."""

from __future__ import annotations

import threading
import xmlrpc.client
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class RecordingServer:
    """Answers every request. `seen` holds what came: ("PUT /x", body) and ("name", arguments) of XML-RPC."""

    def __init__(self) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.port = self._http.server_address[1]
        self.reset()

    def reset(self) -> None:
        self.seen: list[tuple[str, object]] = []
        self.content_types: list[str | None] = []
        self.answers: dict[str, str | bytes] = {}
        self.results: dict[str, object] = {}
        self.status = 200

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def rest(self, request: str, body: bytes) -> tuple[int, bytes]:
        self.seen.append((request, body.decode()))
        answer = self.answers.get(request, f"answer to {request}\n")
        return self.status, answer if isinstance(answer, bytes) else answer.encode()

    def rpc(self, body: bytes) -> bytes:
        arguments, name = xmlrpc.client.loads(body)
        self.seen.append((str(name), arguments))
        result = self.results.get(str(name), f"answer to {name}\n")
        if isinstance(result, xmlrpc.client.Fault):
            return xmlrpc.client.dumps(result).encode()
        return xmlrpc.client.dumps((result,), methodresponse=True).encode()


def _handler(server: RecordingServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.content_types.append(self.headers.get("Content-Type"))
            if self.path == "/RPC2":
                status, kind, out = 200, "text/xml", server.rpc(body)
            else:
                status, out = server.rest(f"{self.command} {self.path}", body)
                kind = "text/plain; charset=utf-8"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(out)))
            self.end_headers()
            self.wfile.write(out)

        do_GET = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, *args: object) -> None:
            pass

    return Handler
