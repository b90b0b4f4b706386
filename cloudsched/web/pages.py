"""What does a browser get? The overview, readable without JavaScript, and the page of the API; both under a strict CSP.

Everything the pages show beyond the first overview they fetch from the native API themselves.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from flask import Response
from jinja2 import Environment, FileSystemLoader, Template
from markupsafe import Markup

from cloudsched import __version__, clock
from cloudsched.domain import moves
from cloudsched.services import health, listing, pool
from cloudsched.services.caller import Caller
from cloudsched.web.strings import LANGUAGES, words

CSP = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
       "form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
_HEADERS = {"Content-Security-Policy": CSP, "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
            "Vary": "Accept, Accept-Language"}


def overview(caller: Caller | None, languages: Any) -> Response:
    """The dashboard; with figures when the caller may see them, else it asks for a key."""
    seen = _figures() if caller is not None and caller.may("viewer") else None
    return _page("overview.html", languages, seen=seen, at=clock.rfc3339(clock.now()))


def api_page(languages: Any) -> Response:
    """The page of the OpenAPI document."""
    return _page("api.html", languages)


def _figures() -> dict[str, Any]:
    clouds = pool.pool().clouds
    return {
        "jobs": listing.counts(),
        "states": list(moves.NODE_LIVE),
        "clouds": [{
            "name": one.name, "kind": one.cloud.kind, "enabled": bool(one.cloud.enabled), "slots": one.cloud.max_slots,
            "nodes": {state: sum(node.state == state for node in one.every()) for state in moves.NODE_LIVE},
            "error": one.cloud.error_text,
        } for one in clouds],
        "loops": health.loops(),
    }


def _page(name: str, languages: Any, **facts: Any) -> Response:
    language = _language(languages)
    text = words(language)
    strings = Markup(json.dumps(text, ensure_ascii=False).replace("<", "\\u003c"))  # noqa: S704 - words of our own table
    body = _template(name).render(t=text, strings=strings, language=language, version=__version__, **facts)
    return Response(body, content_type="text/html; charset=utf-8", headers={**_HEADERS, "Content-Language": language})


def _language(accepted: Any) -> str:
    """The first language asked for that there is; English otherwise."""
    for value in accepted.values():
        base = value.partition("-")[0].lower()
        if base in LANGUAGES:
            return str(base)
    return LANGUAGES[0]


@lru_cache(maxsize=8)
def _template(name: str) -> Template:
    loader = FileSystemLoader(str(Path(__file__).parent / "templates"))
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)
