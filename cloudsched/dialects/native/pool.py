"""What can be asked of clouds and nodes over HTTP? Add, change, verify, switch, remove; drain, resume, destroy."""

from __future__ import annotations

from typing import Any

from flask import Response, current_app, request

from cloudsched import clock
from cloudsched.dialects.native import paging, schemas, wire
from cloudsched.dialects.native.routing import Blueprint, caller, check_match, matched_version, reply, route, single, tag_of
from cloudsched.domain import moves
from cloudsched.domain.entities import Node
from cloudsched.errors import Invalid
from cloudsched.services import agents, joining, nodes, operations, pool, pool_clouds, pool_ops
from cloudsched.services.pool import CloudFacts

blueprint = Blueprint("pool", __name__, url_prefix="/api/v2", description="Clouds and nodes")
_MASK = "***"
_SECRET_WORDS = ("pass", "secret", "token", "key_data", "private")


# clouds


@route(blueprint, "/clouds", role="viewer", query=schemas.PageQuery, answer=schemas.page_of(schemas.Cloud))
def list_clouds(query: dict[str, Any]) -> Response:
    """List clouds in configuration order."""
    pairs = wire.query(request.environ, request.args)
    most, start = paging.limit(pairs), paging.position(pairs) or 0
    found = pool.pool().clouds
    items = [cloud_view(one) for one in found[start:start + most]]
    more = paging.following(pairs, items, most, start + most) if start + most < len(found) else None
    return reply({"items": items, "next": more})


@route(blueprint, "/clouds", "POST", role="admin", query=schemas.AddCloudQuery, body=schemas.CloudBody,
       answer=schemas.CloudChanged, status=201, also=[(200, "A dry run: nothing was made"), (400, "A field or check failed"),
                                                      (409, "The name is taken")])
def add_cloud(query: dict[str, Any], body: dict[str, Any]) -> Response:
    """Add a cloud; its credentials are tried before they are kept."""
    made = pool_clouds.add_cloud(body, settings=_settings(), actor=caller().name, verify=query["verify"],
                                 dry_run=query["dry_run"])
    return _changed(str(body["name"]), made, 200 if made.dry_run else 201)


@route(blueprint, "/clouds/<raw:cloud>", role="viewer", answer=schemas.Cloud, also=[(404, "No such cloud")])
def show_cloud(cloud: str) -> Response:
    """One cloud; credentials are never read back."""
    found = pool.cloud_facts(cloud)
    return single(cloud_view(found), str(found.cloud.version))


@route(blueprint, "/clouds/<raw:cloud>", "PATCH", role="admin", query=schemas.AddCloudQuery,
       body=schemas.CloudChangeBody, answer=schemas.CloudChanged, also=[(412, "It was changed meanwhile")])
def change_cloud(query: dict[str, Any], body: dict[str, Any], cloud: str) -> Response:
    """Change what is named; `options` and `credentials` are replaced as a whole."""
    if not body:
        raise Invalid.at("body", "names nothing to change", ", ".join(sorted(schemas.CloudChangeBody().fields)))
    made = pool_clouds.set_cloud(cloud, body, settings=_settings(), actor=caller().name, version=_version(cloud),
                                 verify=query["verify"], dry_run=query["dry_run"])
    return _changed(cloud, made, 200)


@route(blueprint, "/clouds/<raw:cloud>", "DELETE", role="admin", answer=schemas.CloudRemoved,
       also=[(202, "Its nodes are being destroyed"), (412, "It was changed meanwhile")])
def remove_cloud(cloud: str) -> Response:
    """Remove a cloud; its nodes are destroyed, their jobs go back to the queue."""
    facts = pool.cloud_facts(cloud)
    removed = pool_clouds.remove_cloud(cloud, actor=caller().name, version=_version(cloud))
    operation = None
    if facts.nodes or facts.retired:
        operation = operations.begin("cloud.remove", {"cloud_id": removed.id, "reason": f"cloud {removed.name} was removed"},
                                     subject=("cloud", removed.id), actor=caller().name)
    return reply({"name": removed.name, "removed": True, "operation": operation}, 200 if operation is None else 202)


@route(blueprint, "/clouds/<raw:cloud>/verify", "POST", role="admin", answer=schemas.Checks)
def verify_cloud(cloud: str) -> Response:
    """Try whether a cloud can be used as it is configured."""
    checks = _checks(pool_clouds.verify_cloud(cloud, settings=_settings()))
    return reply({"name": cloud, "ok": all(check["ok"] for check in checks), "checks": checks})


@route(blueprint, "/clouds/<raw:cloud>/enable", "POST", role="operator", answer=schemas.Cloud)
def enable_cloud(cloud: str) -> Response:
    """Use a cloud for new nodes."""
    return _switch(cloud, enabled=True)


@route(blueprint, "/clouds/<raw:cloud>/disable", "POST", role="operator", answer=schemas.Cloud)
def disable_cloud(cloud: str) -> Response:
    """Boot nothing more on a cloud; its nodes stay."""
    return _switch(cloud, enabled=False)


def _switch(cloud: str, *, enabled: bool) -> Response:
    _version(cloud)
    pool_ops.switch_cloud(cloud, enabled=enabled, actor=caller().name)
    found = pool.cloud_facts(cloud)
    return single(cloud_view(found), str(found.cloud.version))


def _version(cloud: str) -> int | None:
    return matched_version(str(pool.cloud_facts(cloud).cloud.version)) if request.headers.get("If-Match") else None


def _changed(name: str, made: pool_clouds.CloudChange, status: int) -> Response:
    found = pool.cloud_facts(made.cloud.name) if made.cloud else None
    answer = {"name": made.cloud.name if made.cloud else name, "cloud": cloud_view(found) if found else None,
              "checks": _checks(made.checks), "dry_run": made.dry_run}
    return single(answer, str(found.cloud.version), status) if found else reply(answer, status)


def _checks(checks: Any) -> list[dict[str, Any]]:
    return [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in checks]


def cloud_view(facts: CloudFacts) -> dict[str, Any]:
    """A cloud as readers see it; members of `options` that look like secrets are masked."""
    cloud = facts.cloud
    plain = ("name", "title", "kind", "address", "memory_mb", "storage_gb", "cores", "max_node_memory_mb", "priority",
             "keep_alive_s", "boot_timeout_s", "source", "version")
    return {
        **{name: getattr(cloud, name) for name in plain},
        "enabled": bool(cloud.enabled), "slots": cloud.max_slots, "free_slots": facts.free_slots,
        "free_memory_mb": facts.free_memory_mb, "free_storage_gb": facts.free_storage_gb,
        "networks": list(cloud.network_names), "options": _masked(cloud.option),
        "has_credentials": bool(cloud.credentials), "nodes": len(facts.nodes), "retiring": len(facts.retired),
        "error_text": cloud.error_text or None,
        **{name: clock.rfc3339(getattr(cloud, name)) for name in ("error_since", "disabled_at", "created_at")},
    }


def _masked(options: dict[str, Any]) -> dict[str, Any]:
    return {name: _MASK if any(word in name.lower() for word in _SECRET_WORDS) else
            _masked(value) if isinstance(value, dict) else value for name, value in options.items()}


# nodes


@route(blueprint, "/nodes", role="viewer", query=schemas.NodeListQuery, answer=schemas.page_of(schemas.Node))
def list_nodes(query: dict[str, Any]) -> Response:
    """List nodes, newest first."""
    pairs = wire.query(request.environ, request.args)
    most = paging.limit(pairs)
    found = nodes.page(states=wire.words(pairs, "state"), cloud=query["cloud"], user=query["user"],
                       vm_type=query["vm_type"], after=paging.position(pairs), limit=most)
    return reply({"items": found, "next": paging.following(pairs, found, most, found[-1]["id"] if found else None)})


@route(blueprint, "/nodes/tokens", "POST", role="operator", body=schemas.TokenBody, answer=schemas.Token, status=201,
       secret=True)
def new_token(body: dict[str, Any]) -> Response:
    """A token with which machines may join; shown this once."""
    given = dict(body)
    cloud = given.pop("cloud") or joining.AGENT_CLOUD
    return reply(joining.new_pool_token(caller(), cloud=cloud, **given), 201)


@route(blueprint, "/nodes/<raw:node>", role="viewer", answer=schemas.Node, also=[(404, "No such node")])
def show_node(node: str) -> Response:
    """One node, by number or name."""
    found = nodes.one(node)
    return single(found, _node_tag(found))


@route(blueprint, "/nodes/<raw:node>/drain", "POST", role="operator", query=schemas.WaitQuery, answer=schemas.Node,
       also=[(202, "It still runs jobs"), (409, "It cannot be drained as it is")])
def drain_node(query: dict[str, Any], node: str) -> Response:
    """Finish what runs and take nothing new."""
    _match(node)
    found = nodes.one(nodes.drain(node, caller(), wait_s=query["wait_s"]).id)
    return reply(found, 202 if found["jobs"] and found["state"] not in moves.NODE_FINAL else 200)


@route(blueprint, "/nodes/<raw:node>/resume", "POST", role="operator", query=schemas.WaitQuery, answer=schemas.Node)
def resume_node(query: dict[str, Any], node: str) -> Response:
    """Let a draining node take jobs again."""
    _match(node)
    return reply(nodes.one(nodes.resume(node, caller(), wait_s=query["wait_s"]).id))


@route(blueprint, "/nodes/<raw:node>/destroy", "POST", role="operator", query=schemas.WaitQuery, answer=schemas.Node,
       also=[(202, "It is not proved gone yet"), (409, "It is gone already")])
def destroy_node(query: dict[str, Any], node: str) -> Response:
    """Destroy a node; its jobs go back to the queue."""
    _match(node)
    found: Node = nodes.destroy(node, caller(), wait_s=query["wait_s"])
    return reply(nodes.one(found.id), 200 if found.state in moves.NODE_FINAL else 202)


@route(blueprint, "/nodes/<raw:node>/upgrade", "POST", role="operator", answer=schemas.AgentVersion, status=202,
       also=[(409, "No agent that can be upgraded has joined there")])
def upgrade_agent(node: str) -> Response:
    """Have the node's agent, when it is the single file, replace itself by the one served here once its jobs are done."""
    offered = agents.upgrade(nodes.one(node)["id"], caller=caller())
    return reply({"version": offered.version, "sha256": offered.sha256}, 202)


def _match(node: str) -> None:
    if request.headers.get("If-Match"):
        check_match(_node_tag(nodes.one(node)))


def _node_tag(found: dict[str, Any]) -> str:
    """Signs of life change all the time and make no new version."""
    moving = ("silent_s", "last_seen_at", "metrics", "jobs", "idle_since")
    return tag_of({name: value for name, value in found.items() if name not in moving})


def _settings() -> Any:
    return current_app.extensions["settings"]
