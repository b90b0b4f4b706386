"""What happens to a request first? Its path is taken as it was sent, and freed of the prefix `/cluster`; then it is Flask's.

Every route answers at the root and below `/cluster` (contract "Where it answers"); `/cluster/check` is a route of its own, so it
keeps its first part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from cloudsched.dialects.dcluster import answers
from cloudsched.dialects.dcluster.asks import ASKED, Environ, raw_path
from cloudsched.incoming import Once

if TYPE_CHECKING:
    from cloudsched.settings import Settings

PREFIX, CHECK = "/cluster", "/cluster/check"
StartResponse = Callable[..., Any]


class Front:
    """The WSGI callable of the dCluster API."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # What the first request waits for (app/warmup.py makes it earlier).
        self.build: Once[Any] = Once(self._make_flask)

    @property
    def flask(self) -> Any:
        """The Flask application, made when it is first needed."""
        return self.build()

    def _make_flask(self) -> Any:
        from cloudsched.dialects.dcluster.routes import make_flask

        return make_flask(self.settings)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = raw_path(environ)
        environ[ASKED], environ["PATH_INFO"], environ["SCRIPT_NAME"] = path, inner(path), ""
        answer: Iterable[bytes] = self.flask(environ, start_response)
        return answer

    @staticmethod
    def refuse(environ: Environ, start_response: StartResponse, status: str, text: str) -> Iterable[bytes]:
        """An error that was found before this application was asked, in its own shape."""
        body = answers.error_body(text, raw_path(environ))
        start_response(status, [("Content-Type", answers.JSON), ("Content-Length", str(len(body)))])
        return [body]


def inner(path: str) -> str:
    """The path without the prefix."""
    if path == CHECK:
        return path
    if path == PREFIX:
        return "/"
    return path.removeprefix(PREFIX) if path.startswith(PREFIX + "/") else path
