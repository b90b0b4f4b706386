"""Which routes are there? A Flask application made from one table, the 25 routes of the contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from cloudsched.dialects.dcluster import answers, asks
from cloudsched.dialects.dcluster.answers import Nothing
from cloudsched.errors import Forbidden, Invalid, NotFound
from cloudsched.services.caller import Caller
from cloudsched.services.frameworks import cloud_nodes, framework_clusters, framework_jobs
from cloudsched.services.frameworks.modules import Catalogue
from cloudsched.services.notices import alerts, mail
from cloudsched.settings import Settings

BODY_MOST = 1 << 20
SERVICE = "Cluster Service"
SPARK, FLINK = "spark", "flink"
_ALLOW_GET = {"Allow": "GET"}


class Route(NamedTuple):
    """`answer` gets the raw parts of the path. `acts`: it changes something, also where the method is GET."""

    method: str
    rule: str
    answer: Callable[..., Any]
    acts: bool = False


class Handlers:
    """What each route does: parse, one service call; rendering is elsewhere."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.catalogue = Catalogue(settings)
        framework_clusters.configure(settings)
        cloud_nodes.configure(settings)
        self.body_most = min(BODY_MOST, settings.web.max_body_mb << 20)

    def routes(self) -> list[Route]:
        """The table, in the order of the contract."""
        return [
            Route("GET", "/", lambda: SERVICE),
            Route("POST", "/launch/spark/cluster", lambda: self.launch(SPARK), acts=True),
            Route("POST", "/v2/launch/spark/cluster", lambda: self.launch(SPARK), acts=True),
            Route("POST", "/launch/flink/cluster", lambda: self.launch(FLINK), acts=True),
            Route("GET", "/status/cluster/<number>", lambda number: self.status(number, FLINK)),
            Route("GET", "/status/spark/cluster/<number>", lambda number: self.status(number, SPARK)),
            Route("GET", "/status/cluster/name/<name>", self.status_by_name),
            Route("DELETE", "/terminate/spark/<number>", lambda number: self.terminate(number, SPARK), acts=True),
            Route("GET", "/terminate/flink/<number>", lambda number: self.terminate(number, FLINK), acts=True),
            Route("POST", "/log/instance/<name>", self.log_instance, acts=True),
            Route("POST", "/job/submit", self.submit, acts=True),
            Route("POST", "/job/terminate/<number>", self.terminate_job, acts=True),
            Route("GET", "/job/status/<number>", lambda number: framework_jobs.status(asks.number(number, "jobId"))),
            Route("GET", "/job/info/<number>", lambda number: framework_jobs.info(asks.number(number, "jobId"))),
            Route("GET", "/job/list", self.jobs),
            Route("GET", "/job/check/<client>/<module>", lambda **pair: bool(framework_jobs.active(*_pair(**pair)))),
            Route("POST", "/job/stopped/<client>/<module>", self.stop_client, acts=True),
            Route("GET", "/job/monitor/<name>", lambda name: alerts.is_monitored(asks.name(name, "client"), self.settings)),
            Route("GET", "/job/monitor/alert", self.alert, acts=True),
            Route("GET", "/cluster/check", lambda: framework_clusters.check(_caller()), acts=True),
            Route("POST", "/node/launch", self.launch_nodes, acts=True),
            Route("POST", "/node/destroy", self.destroy_nodes, acts=True),
            Route("GET", "/node/croncleanup", self.clean_up, acts=True),
            Route("GET", "/ec2-info", lambda: cloud_nodes.instance_types(_region())),
            Route("GET", "/ec2-list-info", lambda: cloud_nodes.refresh_inventory(_caller(), _region()), acts=True),
        ]

    def launch(self, kind: str) -> int:
        return framework_clusters.launch(kind, self._fields(), _caller())

    def status(self, number: str, kind: str) -> str:
        return framework_clusters.status(asks.number(number, "clusterId"), kind)

    def status_by_name(self, name: str) -> str:
        wanted = asks.name(name, "clusterName")
        if wanted.isdigit():  # that would be found as an id
            raise NotFound(f"there is no cluster named {wanted}")
        return framework_clusters.status(wanted)

    def terminate(self, number: str, kind: str) -> str:
        return framework_clusters.terminate(asks.number(number, "clusterId"), kind, _caller())

    def log_instance(self, name: str) -> type[Nothing]:
        said = asks.document(request.environ, self.body_most)
        cloud_nodes.log_instance(asks.name(name, "instanceId"), said, _caller().name)
        return Nothing

    def submit(self) -> dict[str, Any]:
        fields = self._fields()
        mail.recipients(_text(fields, "emailRecipients"))
        return framework_jobs.submit(fields, _caller(), self.catalogue.find(fields))

    def terminate_job(self, number: str) -> str:
        return framework_jobs.terminate(asks.number(number, "jobId"), _caller())

    def jobs(self) -> list[dict[str, Any]]:
        asked = asks.query(request.environ, "status", "jobType", "limit", "offset")
        limit = asks.whole(asked.get("limit"), "limit", asks.LIMIT_DEFAULT, low=1, high=asks.LIMIT_MOST)
        offset = asks.whole(asked.get("offset"), "offset", 0, low=0, high=10**9)
        return framework_jobs.listed(status=asked.get("status", ""), job_type=asked.get("jobType", ""), limit=limit,
                                     offset=offset)

    def stop_client(self, client: str, module: str) -> bool:
        return framework_jobs.stop_client(*_pair(client, module), _caller())

    def alert(self) -> str:
        return alerts.sentence(alerts.check(self.settings, actor=_caller().name))

    def launch_nodes(self) -> type[Nothing]:
        cloud_nodes.launch(self._fields(), _caller())
        return Nothing

    def destroy_nodes(self) -> type[Nothing]:
        cloud_nodes.destroy(self._fields(), _caller())
        return Nothing

    def clean_up(self) -> type[Nothing]:
        done = cloud_nodes.clean_up(_caller())
        if not done.destroyed and not done.kept:
            cloud_nodes.need_cloud()
        return Nothing

    def _fields(self) -> dict[str, Any]:
        return asks.fields(request.environ, self.body_most)


def make_flask(settings: Settings) -> Flask:
    """The application; it expects the raw path without prefix in PATH_INFO (`front`)."""
    app = Flask("cloudsched_dcluster", static_folder=None, template_folder=None)
    app.url_map.merge_slashes, app.url_map.strict_slashes = False, True
    app.url_map.redirect_defaults = False
    for route in Handlers(settings).routes():
        app.add_url_rule(route.rule, endpoint=f"{route.method} {route.rule}", methods=[route.method], view_func=_view(route),
                         provide_automatic_options=False)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, answers.of_error)
    return app


def _view(route: Route) -> Callable[..., Response]:
    def view(**parts: str) -> Response:
        try:
            if route.acts:
                if request.method == "HEAD":
                    return answers.failed(405, "HEAD is not possible where GET changes something", headers=_ALLOW_GET)
                _refuse_by_the_way()
            return answers.value(route.answer(**parts))
        except Exception as error:
            return answers.of_error(error)

    return view


def _refuse_by_the_way() -> None:
    """A browser that fetches ahead, or shows a page of another site, changes nothing: nobody asked for it (a side effect is
    one GET away in this API, and it has no keys)."""
    headers = request.headers
    ahead = f"{headers.get('Sec-Purpose', '')} {headers.get('Purpose', '')} {headers.get('X-Moz', '')}".lower()
    if "prefetch" in ahead or "prerender" in ahead:
        raise Forbidden("this changes something: it is not done by fetching ahead")
    origin = headers.get("Origin", "")
    foreign = origin and urlsplit(origin).netloc.lower() != headers.get("Host", "").lower()
    if foreign or headers.get("Sec-Fetch-Site", "").lower() == "cross-site":
        raise Forbidden("this changes something: pages of other sites may not ask for it")


def _caller() -> Caller:
    return Caller(f"dcluster {request.remote_addr or ''}".strip(), "operator")


def _pair(client: str, module: str) -> tuple[str, str]:
    return asks.name(client, "client"), asks.name(module, "module")


def _text(fields: Mapping[str, Any], field: str) -> str:
    found = fields.get(field)
    if found is not None and not isinstance(found, str):
        raise Invalid.at(field, "is not text", "a string")
    return found or ""


def _region() -> str:
    return asks.query(request.environ, "region").get("region", "")


def _http(error: HTTPException) -> Response:
    """404 and 405."""
    status, path = error.code or 500, request.environ.get(asks.ASKED, "")[:200]
    text = {404: f"there is nothing at {path}", 405: f"{request.method} is not possible at {path}"}.get(
        status, error.description or error.name)
    allow = sorted(getattr(error, "valid_methods", None) or ())
    return answers.failed(status, text, headers={"Allow": ", ".join(allow)} if status == 405 and allow else {})
