"""What can be asked of clusters over HTTP, whichever dialect they came by? Look, and have one taken away."""

from __future__ import annotations

from typing import Any

from flask import Response, request
from marshmallow import Schema, fields, validate
from webargs.fields import DelimitedList

from cloudsched.dialects.native import paging, schemas, wire
from cloudsched.dialects.native.routing import Blueprint, caller, check_match, reply, route, single
from cloudsched.services import clusters

blueprint = Blueprint("clusters", __name__, url_prefix="/api/v2/clusters", description="Many nodes as one")


class ClusterListQuery(schemas.PageQuery):
    state = DelimitedList(fields.String(validate=validate.OneOf(clusters.STATES)), load_default=[])
    kind = fields.String(load_default="", validate=validate.OneOf(("", *clusters.KINDS)))
    cloud = fields.String(load_default="", metadata={"description": "the cloud or compute centre it lies in"})
    org = fields.String(load_default="", metadata={"description": "organisation or tenant"})


class Cluster(Schema):
    id = fields.Integer()
    key = fields.String(metadata={"description": "its name in the outside world, unique"})
    name = fields.String()
    kind = fields.String(validate=validate.OneOf(clusters.KINDS))
    origin = fields.String(metadata={"description": "the dialect it came by"})
    org = fields.String()
    user = fields.String()
    place = fields.String(metadata={"description": "where it runs: local, kubernetes:CLOUD, hosts"})
    cloud = fields.String(allow_none=True)
    made_cloud = fields.String(allow_none=True, metadata={"description": "the cloud that it is for the batch queue"})
    job_id = fields.Integer(allow_none=True, metadata={"description": "the job it ends with"})
    state = fields.String(validate=validate.OneOf(clusters.STATES))
    goal = fields.String(validate=validate.OneOf(("run", "end")))
    workers_wanted = fields.Integer()
    workers_ready = fields.Integer()
    address = fields.String()
    web_url = fields.String()
    idle_limit_s = fields.Float(allow_none=True)
    version = fields.Integer()
    reason = fields.String(allow_none=True)
    facts = fields.Dict()
    created_at = fields.String(allow_none=True)
    launched_at = fields.String(allow_none=True)
    running_at = fields.String(allow_none=True)
    idle_since = fields.String(allow_none=True)
    ended_at = fields.String(allow_none=True)


class ClusterMember(Schema):
    id = fields.Integer()
    node = fields.String(allow_none=True)
    role = fields.String()
    name = fields.String(metadata={"description": "what it is called in the cluster"})
    joined_at = fields.String(allow_none=True)


class ClusterCost(Schema):
    per_hour = fields.Float()
    amount = fields.Float(metadata={"description": "since its launch, at the prices of now"})
    currency = fields.String()


class ClusterWithNodes(Cluster):
    nodes = fields.List(fields.Nested(ClusterMember))
    cost = fields.Nested(ClusterCost, allow_none=True, metadata={"description": "where the prices of its parts are known"})


@route(blueprint, "", role="viewer", query=ClusterListQuery, answer=schemas.page_of(Cluster))
def list_clusters(query: dict[str, Any]) -> Response:
    """List clusters of every kind, newest first."""
    pairs = wire.query(request.environ, request.args)
    most = paging.limit(pairs)
    found = clusters.page(states=wire.words(pairs, "state"), kind=query["kind"], cloud=query["cloud"], org=query["org"],
                          after=paging.position(pairs), limit=most)
    return reply({"items": found, "next": paging.following(pairs, found, most, found[-1]["id"] if found else None)})


@route(blueprint, "/<raw:cluster>", role="viewer", answer=ClusterWithNodes, also=[(404, "No such cluster")])
def show_cluster(cluster: str) -> Response:
    """One cluster with its nodes, by number, key or name."""
    found = clusters.one(cluster)
    return single(found, str(found["version"]))


@route(blueprint, "/<raw:cluster>", "DELETE", role="operator", answer=ClusterWithNodes,
       also=[(202, "It is being taken away"), (404, "No such cluster"), (412, "It was changed meanwhile")])
def terminate_cluster(cluster: str) -> Response:
    """Have a cluster taken away: its jobs are ended first, its nodes are free again; asking again is no error."""
    if request.headers.get("If-Match"):
        check_match(str(clusters.one(cluster)["version"]))
    found = clusters.one(clusters.terminate(cluster, caller()).id)
    return reply(found, 200 if found["state"] in clusters.FINAL else 202)
