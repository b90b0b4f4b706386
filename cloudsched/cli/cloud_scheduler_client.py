"""How do `cloud_status` and `cloud_admin` reach a Cloud Scheduler server?

What the two small clients share (contract 8): finding the server, one question in both
generations (REST and XML-RPC), and saying why no answer came. `requests` and
`xmlrpc.client` are loaded when a question is really asked, so that `--help` stays fast.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from optparse import OptionGroup, OptionParser, Values
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    import requests

DEFAULT_INFO_PORT, DEFAULT_ADMIN_PORT = 8111, 8112

# With --exit-code; without it the contract's statuses hold (0 for every answer).
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_REFUSED = 0, 1, 2, 4, 5
EXIT_HELP = """1 no answer, or an error in the server (HTTP 500)
  2 wrong or missing options
  4 not found
  5 refused or failed"""


@dataclass(frozen=True)
class Question:
    """One request in both generations: REST method, raw path and parameters; XML-RPC method and arguments."""

    path: str
    call: str
    args: tuple[str, ...] = ()
    method: str = "GET"
    query: Mapping[str, str] | None = None
    form: Mapping[str, str] | None = None

    @property
    def target(self) -> str:
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


@dataclass(frozen=True)
class Answer:
    """What the server said. `status` is the HTTP status (200 for every XML-RPC result)."""

    text: str
    status: int = 200


class Unreachable(Exception):
    """Nobody listens there, or the connection broke."""


class Server(Protocol):
    """A server one can ask. Raises Unreachable, or whatever else went wrong."""

    host: str
    port: int
    url: str

    def ask(self, question: Question) -> Answer: ...

    def close(self) -> None: ...


def path(*pieces: str, suffix: str = "") -> str:
    """`/clouds/a%2Fb`: each name encoded completely but for letters, digits, `_`, `.`, `-` (contract 1.2)."""
    return "".join("/" + quote(os.fsencode(piece), safe="").replace("~", "%7E") for piece in pieces) + suffix


class RestServer:
    """The REST generation. The path goes out exactly as written, dots and escapes included."""

    def __init__(self, host: str, port: int, *, timeout_s: float | None = None) -> None:
        self.host, self.port, self.url = host, port, _base_url(host, port)
        self._timeout_s = timeout_s

    def ask(self, question: Question) -> Answer:
        from requests import Request
        from requests.exceptions import ConnectionError as NotConnected

        form = {key: os.fsencode(value) for key, value in (question.form or {}).items()}
        prepared = self._session.prepare_request(Request(question.method, self.url + "/", data=form or None))
        # Set afterwards: preparing would resolve "." and ".." and undo some escapes.
        prepared.url = self.url + question.target
        try:
            response = self._session.send(prepared, timeout=self._timeout_s, allow_redirects=False)
        except NotConnected as error:
            raise Unreachable(str(error)) from error
        return Answer(_decoded(response.content), response.status_code)

    def close(self) -> None:
        """Lets the connection go; the next question opens a new one."""
        self._session.close()

    @cached_property
    def _session(self) -> requests.Session:
        from requests import Session

        session = Session()
        session.trust_env = False  # no proxy between a client and its own scheduler, no .netrc
        return session


class XmlRpcServer:
    """The XML-RPC generation. Each call goes out once: repeating a shutdown is not harmless."""

    def __init__(self, host: str, port: int, *, timeout_s: float | None = None) -> None:
        self.host, self.port, self.url = host, port, _base_url(host, port)
        self._timeout_s = timeout_s

    def ask(self, question: Question) -> Answer:
        try:
            return Answer(str(getattr(self._proxy, question.call)(*question.args)))
        except TimeoutError as error:
            if error.errno is None:  # our own --timeout, not the network's
                raise
            raise Unreachable(str(error)) from error
        except OSError as error:
            raise Unreachable(str(error)) from error

    def close(self) -> None:
        """Lets the connection go; the next question opens a new one."""
        self._proxy("close")()

    @cached_property
    def _proxy(self) -> Any:
        from xmlrpc.client import ServerProxy, Transport

        timeout_s = self._timeout_s

        class OnceTransport(Transport):
            def request(self, host: Any, handler: str, request_body: Any, verbose: bool = False) -> Any:
                return self.single_request(host, handler, request_body, verbose)

            def make_connection(self, host: Any) -> Any:
                connection = super().make_connection(host)
                if timeout_s is not None:
                    connection.timeout = timeout_s
                return connection

        return ServerProxy(self.url, transport=OnceTransport())


class ClientParser(OptionParser):
    """The original's kind of option parser: a value may begin with a dash, further words are ignored."""

    def __init__(self, prog: str, description: str, examples: str) -> None:
        super().__init__(prog=prog, usage="%prog [options]", description=description)
        self._examples = examples
        self.add_option("-f", "--config-file", metavar="FILE", help="configuration file, for the port")
        self.add_option("-s", "--server-hostname", metavar="HOSTNAME",
                        help="host of the server (default: CLOUDSCHED_SERVER, else localhost)")

    def flag(self, *spellings: str, help: str) -> None:
        self.add_option(*spellings, action="store_true", default=False, help=help)

    def add_common_options(self) -> None:
        """The options the original did not have, for both clients."""
        more = OptionGroup(self, "More")
        more.add_option("--exit-code", action="store_true", default=False,
                        help="end with a status that tells what happened (see below)")
        more.add_option("--timeout", type="float", metavar="SECONDS",
                        help="give up after so long without an answer (default: wait)")
        more.add_option("--xml-rpc", action="store_true", default=False,
                        help="talk XML-RPC, as the clients up to 1.10 did, instead of REST")
        self.add_option_group(more)

    def format_epilog(self, formatter: Any) -> str:
        return f"\n{self._examples.strip()}\n\nStatus with --exit-code:\n  0 done\n  {EXIT_HELP}\n"


def connect(parser: OptionParser, options: Values, *, default_port: int, file_port: int | None) -> Server:
    """The server the options, the file and the environment point to."""
    port = options.port or file_port or default_port + port_offset(parser)
    host = options.server_hostname or os.environ.get("CLOUDSCHED_SERVER") or "localhost"
    kind: Callable[..., Server] = XmlRpcServer if options.xml_rpc else RestServer
    return kind(host, port, timeout_s=options.timeout)


def port_offset(parser: OptionParser) -> int:
    """CLOUDSCHED_PORT_OFFSET, which shifts the default ports of one instance; 0 if not set."""
    text = os.environ.get("CLOUDSCHED_PORT_OFFSET") or "0"
    try:
        offset = int(text)
    except ValueError:
        parser.error(f"CLOUDSCHED_PORT_OFFSET must be a whole number, not {text!r}")
    if not 0 < DEFAULT_INFO_PORT + offset < 65535:
        parser.error(f"CLOUDSCHED_PORT_OFFSET {offset} leads outside the ports 1 to 65535")
    return offset


def failure_lines(error: Exception, server: Server) -> list[str]:
    """The two lines of contract 8.1 for an answer that did not come."""
    if isinstance(error, Unreachable):
        first = f"{sys.argv[0]}: couldn't connect to cloud scheduler at {server.host} on port {server.port}."
    else:
        first = f"Unexpected error:  {type(error)} {error}"
    return [first, f"Is the cloud scheduler running on port {server.port}?"]


def say(text: str) -> None:
    """Prints a line; characters the terminal's encoding lacks are escaped instead of raising."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def say_json(value: object) -> None:
    say(json.dumps(value))


def run_client(main: Callable[[], int]) -> int:
    """Runs a client to its exit status; Ctrl-C and a closed pipe end it without a traceback."""
    try:
        return main()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK


def parse(parser: OptionParser, argv: Sequence[str] | None) -> Values:
    """The options; a wrong one prints the usage on standard error and ends with status 2."""
    options = parser.parse_args(list(sys.argv[1:] if argv is None else argv))[0]
    if options.port is not None and not 0 < options.port < 65536:
        parser.error(f"option --port: {options.port} is not a port (1 to 65535)")
    if options.timeout is not None and not 0 < options.timeout < 1e9:
        parser.error("option --timeout: must be more than 0 seconds")
    return options


def _base_url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host and not host.startswith("[") else f"http://{host}:{port}"


def _decoded(body: bytes) -> str:
    """Our servers say UTF-8; those of the original say nothing and may mean anything."""
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return body.decode("latin-1")
