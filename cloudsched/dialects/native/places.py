"""What can be asked of a cloud beside its machines? Hosts, nodes of its own, types and prices, objects, batch work."""

from __future__ import annotations

from typing import Any

from flask import Response, current_app

from cloudsched.dialects.native import place_schemas as shapes
from cloudsched.dialects.native.routing import Blueprint, caller, reply, route
from cloudsched.services import places_ops

blueprint = Blueprint("places", __name__, url_prefix="/api/v2/clouds", description="What else a cloud can do")
CANNOT = (409, "This kind of cloud cannot do that; `capability` names what it lacks")
AWAY = (503, "The place cannot be reached now")


@route(blueprint, "/<raw:cloud>/capabilities", role="viewer", answer=shapes.Capabilities)
def cloud_capabilities(cloud: str) -> Response:
    """What this kind of cloud can do as it is configured."""
    return reply(places_ops.capabilities(cloud, settings=_settings()))


@route(blueprint, "/<raw:cloud>/run", "POST", role="admin", body=shapes.RunBody, answer=shapes.Hosts, also=[CANNOT])
def run_on_hosts(body: dict[str, Any], cloud: str) -> Response:
    """Run a command on hosts; a result for each."""
    return _hosts(places_ops.run(cloud, body.pop("command"), caller=caller(), settings=_settings(), **body))


@route(blueprint, "/<raw:cloud>/hosts", role="operator", answer=shapes.Hosts, also=[CANNOT])
def cloud_hosts(cloud: str) -> Response:
    """The hosts, each with its facts or why it does not answer."""
    return _hosts(places_ops.host_facts(cloud, settings=_settings()))


@route(blueprint, "/<raw:cloud>/ping", "POST", role="operator", answer=shapes.Hosts, also=[CANNOT])
def ping_hosts(cloud: str) -> Response:
    """How long each host takes there and back."""
    return _hosts(places_ops.ping(cloud, caller=caller(), settings=_settings()))


def _hosts(items: list[dict[str, Any]]) -> Response:
    return reply({"items": items, "failed": sum(1 for one in items if not one["ok"] or one.get("code"))})


@route(blueprint, "/<raw:cloud>/nodes", role="operator", answer=shapes.Items, also=[CANNOT, AWAY])
def cloud_nodes(cloud: str) -> Response:
    """The place's own nodes (of Kubernetes, of Slurm)."""
    return _items(places_ops.nodes(cloud, settings=_settings()))


@route(blueprint, "/<raw:cloud>/nodes/<raw:node>/cordon", "POST", role="operator", answer=shapes.NodeDone, also=[CANNOT, AWAY])
def cordon_cloud_node(cloud: str, node: str) -> Response:
    """Let nothing new begin on a node of the place."""
    return _node(cloud, node, "cordon", {})


@route(blueprint, "/<raw:cloud>/nodes/<raw:node>/uncordon", "POST", role="operator", answer=shapes.NodeDone, also=[CANNOT, AWAY])
def uncordon_cloud_node(cloud: str, node: str) -> Response:
    """Let things begin on a node of the place again."""
    return _node(cloud, node, "uncordon", {})


@route(blueprint, "/<raw:cloud>/nodes/<raw:node>/drain", "POST", role="operator", body=shapes.CloudDrainBody,
       answer=shapes.NodeDone, also=[CANNOT, AWAY])
def drain_cloud_node(body: dict[str, Any], cloud: str, node: str) -> Response:
    """Empty a node of the place: by evictions in Kubernetes; in Slurm what runs goes on."""
    return _node(cloud, node, "drain", body)


@route(blueprint, "/<raw:cloud>/nodes/<raw:node>/resume", "POST", role="operator", answer=shapes.NodeDone, also=[CANNOT, AWAY])
def resume_cloud_node(cloud: str, node: str) -> Response:
    """Use a drained node of the place again."""
    return _node(cloud, node, "resume", {})


def _node(cloud: str, node: str, verb: str, how: dict[str, Any]) -> Response:
    return reply(places_ops.node_verb(cloud, node, verb, caller=caller(), settings=_settings(), how=how))


@route(blueprint, "/<raw:cloud>/types", role="viewer", answer=shapes.Items, also=[CANNOT, AWAY])
def cloud_types(cloud: str) -> Response:
    """Sizes of machine that can be had there."""
    return _items(places_ops.types(cloud, settings=_settings()))


@route(blueprint, "/<raw:cloud>/prices", role="viewer", answer=shapes.Items, also=[CANNOT, AWAY])
def cloud_prices(cloud: str) -> Response:
    """What is known of prices; nothing is estimated."""
    return _items(places_ops.prices(cloud, settings=_settings()))


@route(blueprint, "/<raw:cloud>/apply", "POST", role="admin", body=shapes.ManifestsBody, answer=shapes.Items, also=[CANNOT, AWAY])
def apply_manifests(body: dict[str, Any], cloud: str) -> Response:
    """Make objects as manifests say; with `dry_run` only the differences are told."""
    return _items(places_ops.apply(cloud, body.pop("manifests"), caller=caller(), settings=_settings(), **body))


@route(blueprint, "/<raw:cloud>/delete", "POST", role="admin", body=shapes.DeleteBody, answer=shapes.Items, also=[CANNOT, AWAY])
def delete_objects(body: dict[str, Any], cloud: str) -> Response:
    """Delete objects with all they own, and prove it."""
    return _items(places_ops.delete(cloud, caller=caller(), settings=_settings(), **body))


@route(blueprint, "/<raw:cloud>/batch", "POST", role="admin", body=shapes.BatchBody, answer=shapes.BatchIds, status=201,
       also=[CANNOT, AWAY])
def submit_to_cloud(body: dict[str, Any], cloud: str) -> Response:
    """Hand batch jobs to the engine itself; ids in their order."""
    ids = places_ops.batch_submit(cloud, body["jobs"], caller=caller(), settings=_settings(), key=body["key"])
    return reply({"ids": ids}, 201)


@route(blueprint, "/<raw:cloud>/batch", role="operator", query=shapes.BatchQuery, answer=shapes.Items, also=[CANNOT, AWAY])
def cloud_batch(query: dict[str, Any], cloud: str) -> Response:
    """What became of batch jobs."""
    return _items(places_ops.batch_states(cloud, query["ids"], settings=_settings()))


@route(blueprint, "/<raw:cloud>/batch/cancel", "POST", role="operator", body=shapes.BatchIds, answer=shapes.BatchIds,
       also=[CANNOT, AWAY])
def cancel_on_cloud(body: dict[str, Any], cloud: str) -> Response:
    """End batch jobs."""
    places_ops.batch_cancel(cloud, body["ids"], caller=caller(), settings=_settings())
    return reply({"ids": body["ids"]})


@route(blueprint, "/<raw:cloud>/pods/<raw:namespace>/<raw:pod>/log", role="operator", query=shapes.PodLogQuery,
       media="text/plain", also=[CANNOT, AWAY])
def pod_log(query: dict[str, Any], cloud: str, namespace: str, pod: str) -> Response:
    """The last lines of a container's log."""
    text = places_ops.pod_log(cloud, namespace, pod, caller=caller(), settings=_settings(), **query)
    return Response(text, content_type="text/plain; charset=utf-8")


def _items(items: list[dict[str, Any]]) -> Response:
    return reply({"items": items})


def _settings() -> Any:
    return current_app.extensions["settings"]
