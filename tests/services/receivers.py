"""What listens on the other side in tests? A receiver of webhooks and a mail server, both real sockets on loopback."""

from __future__ import annotations

import base64
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Got:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """Takes posts; `answer(got) -> (status, headers)` decides, by default 204."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.got: list[Got] = []
        self.answer: Callable[[Got], tuple[int, dict[str, str]]] = lambda got: (204, {})
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                found = Got(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                status, headers = outer.answer(found)
                outer.got.append(found)
                self.send_response(status)
                for name, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.scheme = "https" if tls else "http"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def url(self, path: str = "/hook") -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@dataclass
class Letter:
    """What a mail server was given."""

    sender: str
    to: list[str]
    text: str
    login: str = ""
    tls: bool = False


@dataclass
class MailServer:
    """SMTP as RFC 5321 has it, as far as a client of ours goes: EHLO, STARTTLS, AUTH PLAIN, MAIL, RCPT, DATA.

    `tls`: offers STARTTLS; `login`: name and password that are asked for; `refuse`: address -> answer; `data`: answer to DATA.
    """

    tls: ssl.SSLContext | None = None
    login: tuple[str, str] | None = None
    refuse: dict[str, str] = field(default_factory=dict)
    data: str = "250 taken"
    letters: list[Letter] = field(default_factory=list)

    def __post_init__(self) -> None:
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                talk = _Talk(outer, self.request)
                try:
                    talk.run()
                except OSError:  # the client went away
                    pass
                finally:
                    talk.file.close()
                    talk.sock.close()

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Talk:
    def __init__(self, server: MailServer, sock: socket.socket) -> None:
        self.server, self.sock = server, sock
        self.file = sock.makefile("rwb")
        self.secure, self.user, self.sender = False, "", ""
        self.to: list[str] = []

    def run(self) -> None:
        self.say("220 test mail server")
        while line := self.file.readline():
            word, _, rest = line.decode().strip().partition(" ")
            step = getattr(self, "on_" + word.lower(), None)
            if word.upper() == "QUIT":
                self.say("221 bye")
                return
            if step is None:
                self.say("500 what?")
            else:
                step(rest)

    def say(self, *lines: str) -> None:
        self.file.write("".join(f"{line}\r\n" for line in lines).encode())
        self.file.flush()

    def on_ehlo(self, _: str) -> None:
        offers = ["STARTTLS"] if self.server.tls and not self.secure else []
        offers += ["AUTH PLAIN"] if self.server.login else []
        self.say("250-test", *(f"250-{offer}" for offer in offers), "250 8BITMIME")

    def on_starttls(self, _: str) -> None:
        assert self.server.tls is not None
        self.say("220 go on")
        self.sock = self.server.tls.wrap_socket(self.sock, server_side=True)
        self.file, self.secure = self.sock.makefile("rwb"), True

    def on_auth(self, rest: str) -> None:
        _, name, password = base64.b64decode(rest.removeprefix("PLAIN ")).decode().split("\0")
        if (name, password) == self.server.login:
            self.user = name
            self.say("235 welcome")
        else:
            self.say("535 who are you?")

    def on_mail(self, rest: str) -> None:
        if self.server.login and not self.user:
            self.say("530 log in first")
            return
        self.sender, self.to = rest.partition("<")[2].partition(">")[0], []
        self.say("250 ok")

    def on_rcpt(self, rest: str) -> None:
        address = rest.partition("<")[2].partition(">")[0]
        answer = self.server.refuse.get(address, "250 ok")
        if answer.startswith("250"):
            self.to.append(address)
        self.say(answer)

    def on_rset(self, _: str) -> None:
        self.say("250 ok")

    def on_data(self, _: str) -> None:
        self.say("354 go on")
        lines = []
        while (line := self.file.readline()) not in (b".\r\n", b""):
            lines.append(line[1:] if line.startswith(b"..") else line)
        if self.server.data.startswith("250"):
            self.server.letters.append(Letter(self.sender, self.to, b"".join(lines).decode(), self.user, self.secure))
        self.say(self.server.data)


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """(a server's context for 127.0.0.1 and localhost, the file to trust it by)."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
                    "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", str(key),
                    "-out", str(cert)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, cert
