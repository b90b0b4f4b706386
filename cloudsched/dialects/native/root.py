"""What does the server say of itself? Name and version, health, figures; the page for people at `/`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from flask import Response, current_app, redirect, request

from cloudsched import __version__
from cloudsched.dialects.native import front, schemas
from cloudsched.dialects.native.routing import Blueprint, reply, route
from cloudsched.services import health

blueprint = Blueprint("root", __name__, description="The server itself")
# The pages stand beside the dialects, not below them: they are looked up by name when a browser first comes.
PAGES = "cloudsched.web.pages"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def pages() -> Any:
    """The module that writes the pages for people."""
    return import_module(PAGES)


@route(blueprint, "/", role=None, answer=schemas.About)
def about() -> Any:
    """Name and version; the dashboard for browsers."""
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
        return pages().overview(request.environ.get(front.CALLER), request.accept_languages)
    return reply({"name": "cloudsched", "version": __version__, "api": "/api/v2"})


@route(blueprint, "/api/v2/", role=None, answer=schemas.About)
def about_api() -> Response:
    """Name and version."""
    return reply({"name": "cloudsched", "version": __version__, "api": "/api/v2"})


@route(blueprint, "/healthz", role=None, answer=schemas.Health)
def healthz() -> Response:
    """Alive."""
    return reply({"status": "ok", "checks": []})


@route(blueprint, "/readyz", role=None, answer=schemas.Health, also=[(503, "A check failed; it is named")])
def readyz() -> Response:
    """Ready to work: database, loops and disk really checked."""
    good, checks = health.ready(current_app.extensions["settings"])
    if good:
        return reply({"status": "ok", "checks": checks})
    failed = "; ".join(f"{check['name']}: {check['detail']}" for check in checks if not check["ok"])
    made = reply({"type": "urn:cloudsched:problem:not-ready", "title": "Service Unavailable", "status": 503,
                  "detail": failed, "checks": checks}, 503, Retry_After="5")
    made.content_type = "application/problem+json"
    return made


@route(blueprint, "/metrics", role=None, media="text/plain")
def metrics() -> Response:
    """Figures as Prometheus text."""
    return Response(health.metrics(), content_type=METRICS_TYPE)


@route(blueprint, "/api/v2/healthz", role=None, answer=schemas.Health)
def healthz_api() -> Response:
    """Alive."""
    return healthz()


@route(blueprint, "/api/v2/readyz", role=None, answer=schemas.Health, also=[(503, "A check failed; it is named")])
def readyz_api() -> Response:
    """Ready to work."""
    return readyz()


@route(blueprint, "/api/v2/metrics", role=None, media="text/plain")
def metrics_api() -> Response:
    """Figures as Prometheus text."""
    return metrics()


@route(blueprint, "/api/v2/docs", role=None, media="text/html")
def docs() -> Response:
    """This document as a page, without anything from elsewhere."""
    return pages().api_page(request.accept_languages)


@route(blueprint, "/favicon.ico", role=None, status=308, media="image/svg+xml")
def favicon() -> Any:
    """The icon."""
    return redirect("/static/icon.svg", 308)
