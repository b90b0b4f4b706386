"""What can be asked of log agents and runners over HTTP? Look, apply to a tag, roll out, compare, take back."""

from __future__ import annotations

from typing import Any

from flask import Response, current_app, request
from marshmallow import Schema, fields, validate

from cloudsched.dialects.native import paging, schemas, wire
from cloudsched.dialects.native.problems import HttpProblem
from cloudsched.dialects.native.routing import Blueprint, caller, check_match, reply, route, single, tag_of
from cloudsched.domain.rollout import DEFAULT_STEPS, ROLLOUT_STATES, Plan
from cloudsched.errors import Invalid
from cloudsched.services import rollout
from cloudsched.services.runners import STATES, Runners

blueprint = Blueprint("runners", __name__, url_prefix="/api/v2", description="Log agents, and what they are to collect")
_RUNS = ("running", "stopped")
_STATUS = ("ok", "bad", "lost")


def _time() -> fields.String:
    return fields.String(allow_none=True, metadata={"format": "date-time"})


def _words(words: tuple[str, ...], **kw: Any) -> fields.String:
    return fields.String(validate=validate.OneOf(words), **kw)


class LogAgentQuery(schemas.PageQuery):
    tag = fields.String(load_default="")
    status = _words(_STATUS, load_default="")


class RunnerQuery(schemas.PageQuery):
    tag = fields.String(load_default="")
    name = fields.String(load_default="")


class TargetQuery(schemas.PageQuery):
    state = _words(STATES, load_default="")


class RolloutQuery(schemas.PageQuery):
    runner = fields.Integer(load_default=None)


class DryRunQuery(schemas.Strict):
    dry_run = fields.Boolean(load_default=False)


class GenerationQuery(schemas.Strict):
    generation = fields.Integer(load_default=None, validate=validate.Range(1))


class ByHandBody(schemas.Strict):
    """`by_hand`: desired state leaves this agent alone."""

    by_hand = fields.Boolean(required=True)


class PlanBody(schemas.Strict):
    """How a roll-out goes. `steps`: how many agents have it after each wave."""

    steps = fields.List(fields.String(), load_default=list(DEFAULT_STEPS))
    soak_s = fields.Float(load_default=30.0, validate=validate.Range(0, 86_400))
    wave_limit_s = fields.Float(load_default=300.0, validate=validate.Range(1, 86_400))
    max_failures = fields.Integer(load_default=0, validate=validate.Range(0, 1_000_000))
    max_errors = fields.Integer(load_default=0, validate=validate.Range(0, 1_000_000_000))
    on_failure = _words(("pause", "roll_back"), load_default="pause")


class ApplyBody(schemas.Strict):
    """A runner's configuration for all agents of a tag; with `waves` it goes out in waves."""

    name = fields.String(required=True)
    tag = fields.String(required=True)
    config = fields.Dict(required=True)
    run = _words(_RUNS, load_default="running")
    waves = fields.Nested(PlanBody, allow_none=True, load_default=None)


class DiffBody(schemas.Strict):
    """What would change if this were applied; without `config`: if the runner were removed."""

    name = fields.String(required=True)
    tag = fields.String(required=True)
    config = fields.Dict(allow_none=True, load_default=None)


class GoBackBody(schemas.Strict):
    generation = fields.Integer(required=True, validate=validate.Range(1))


class Target(Schema):
    id = fields.Integer()
    agent_id = fields.Integer()
    url = fields.String()
    runner = fields.String()
    runner_id = fields.Integer(allow_none=True)
    generation = fields.Integer()
    want = _words(("present", "absent"))
    run = fields.String(allow_none=True)
    state = _words(STATES)
    reason = fields.String(allow_none=True)
    attempts = fields.Integer()
    gives_up = fields.Boolean()
    applied_at = _time()
    checked_at = _time()


class LogAgent(Schema):
    id = fields.Integer()
    node_id = fields.Integer()
    url = fields.String()
    tag = fields.String()
    status = _words(_STATUS)
    by_hand = fields.Boolean()
    last_seen_at = _time()
    silent_s = fields.Float()
    registered_at = _time()
    labels = fields.Dict(keys=fields.String(), values=fields.String(), metadata={
        "description": "what an agent of ours says of itself: node, node_id, cloud, cluster"})
    jobs = fields.List(fields.Integer(), metadata={"description": "jobs on its node now"})


class OneLogAgent(LogAgent):
    runners = fields.List(fields.Nested(Target))


class Runner(Schema):
    id = fields.Integer()
    name = fields.String()
    tag = fields.String()
    want = _words(("present", "absent"))
    run = _words(_RUNS)
    generation = fields.Integer()
    targets = fields.Dict(keys=fields.String(), values=fields.Integer())
    actor = fields.String()
    version = fields.Integer()
    rollout = fields.Integer(allow_none=True)
    created_at = _time()
    updated_at = _time()


class RunnerVersion(Schema):
    generation = fields.Integer()
    hash = fields.String()
    actor = fields.String()
    at = _time()


class RunnerConfig(Runner):
    config = fields.Dict(allow_none=True)
    versions = fields.List(fields.Nested(RunnerVersion))


class Difference(Schema):
    url = fields.String()
    agent_id = fields.Integer()
    action = _words(("add", "update", "delete", "none", "unknown"))
    diff = fields.String()
    error = fields.String(allow_none=True)


class Differences(Schema):
    name = fields.String()
    tag = fields.String()
    changes = fields.List(fields.Nested(Difference))


class AppliedRunner(Runner):
    """The runner; with `dry_run` its name and tag alone, and `changes`."""

    changes = fields.List(fields.Nested(Difference), metadata={"description": "Only with dry_run: what each agent would change."})


class Rollout(Schema):
    id = fields.Integer()
    runner_id = fields.Integer()
    runner = fields.String(allow_none=True)
    tag = fields.String(allow_none=True)
    state = _words(ROLLOUT_STATES)
    from_generation = fields.Integer()
    to_generation = fields.Integer()
    plan = fields.Nested(PlanBody)
    wave = fields.Integer()
    waves = fields.List(fields.Integer())
    reason = fields.String(allow_none=True)
    actor = fields.String()
    version = fields.Integer()
    created_at = _time()
    wave_at = _time()
    ended_at = _time()


# log agents


@route(blueprint, "/log-agents", role="viewer", query=LogAgentQuery, answer=schemas.page_of(LogAgent))
def list_log_agents(query: dict[str, Any]) -> Response:
    """List log agents in the order in which they first registered."""
    return _page(lambda after, most: _runners().agents(tag=query["tag"], status=query["status"], after=after, limit=most))


@route(blueprint, "/log-agents/<raw:agent>", role="viewer", answer=OneLogAgent, also=[(404, "No such log agent")])
def show_log_agent(agent: str) -> Response:
    """One log agent with the runners wanted there."""
    return reply(_runners().agent(_number("log agent", agent)))


@route(blueprint, "/log-agents/<raw:agent>", "PATCH", role="operator", body=ByHandBody, answer=OneLogAgent)
def change_log_agent(body: dict[str, Any], agent: str) -> Response:
    """Leave an agent to whoever manages it by hand, or take it back."""
    return reply(_runners().set_by_hand(_number("log agent", agent), body["by_hand"], caller()))


@route(blueprint, "/log-agents/<raw:agent>", "DELETE", role="operator", status=204, also=[(404, "No such log agent")])
def forget_log_agent(agent: str) -> Response:
    """Drop an agent from the list; its next heartbeat brings it back."""
    _runners().forget_agent(_number("log agent", agent), caller())
    return Response(status=204)


# runners


@route(blueprint, "/runners", role="viewer", query=RunnerQuery, answer=schemas.page_of(Runner))
def list_runners(query: dict[str, Any]) -> Response:
    """List runners with how far they have come, newest first."""
    return _page(lambda after, most: _runners().page(tag=query["tag"], name=query["name"], after=after, limit=most))


@route(blueprint, "/runners", "POST", role="operator", query=DryRunQuery, body=ApplyBody, answer=AppliedRunner,
       also=[(409, "A roll-out of it is under way")])
def apply_runner(query: dict[str, Any], body: dict[str, Any]) -> Response:
    """Want a configuration on all agents of a tag, also on those that come later.

    With `waves` it goes out in waves. `dry_run=1` answers what would change on each agent, and changes nothing.
    """
    if query["dry_run"]:
        return _differences(body)
    plan = _plan(body["waves"]) if body["waves"] is not None else None
    return reply(_runners().apply(body["name"], body["tag"], body["config"], caller(), plan=plan, run=body["run"]))


@route(blueprint, "/runners/diff", "POST", role="operator", body=DiffBody, answer=Differences)
def diff_runner(body: dict[str, Any]) -> Response:
    """What applying (or, without `config`, removing) would change on each agent; nothing is changed."""
    return _differences(body)


@route(blueprint, "/runners/<raw:runner>", role="viewer", answer=Runner, also=[(404, "No such runner")])
def show_runner(runner: str) -> Response:
    """One runner."""
    found = _runners().one(_number("runner", runner))
    return single(found, tag_of(found))


@route(blueprint, "/runners/<raw:runner>/config", role="operator", query=GenerationQuery, answer=RunnerConfig)
def show_runner_config(query: dict[str, Any], runner: str) -> Response:
    """A runner's configuration, the present one or an earlier; it may hold service tokens."""
    return reply(_runners().with_config(_number("runner", runner), query["generation"]))


@route(blueprint, "/runners/<raw:runner>/targets", role="viewer", query=TargetQuery, answer=schemas.page_of(Target))
def list_targets(query: dict[str, Any], runner: str) -> Response:
    """How far a runner has come on each agent: pending, applied, failed with the reason, or by hand."""
    number = _number("runner", runner)
    return _page(lambda after, most: _runners().targets(number, state=query["state"], after=after, limit=most))


@route(blueprint, "/runners/<raw:runner>/start", "POST", role="operator", answer=Runner)
def start_runner(runner: str) -> Response:
    """Want it running."""
    return reply(_runners().switch(_number("runner", runner), "running", caller()))


@route(blueprint, "/runners/<raw:runner>/stop", "POST", role="operator", answer=Runner)
def stop_runner(runner: str) -> Response:
    """Want it stopped."""
    return reply(_runners().switch(_number("runner", runner), "stopped", caller()))


@route(blueprint, "/runners/<raw:runner>/retry", "POST", role="operator", answer=Runner)
def retry_runner(runner: str) -> Response:
    """Try again now where it failed or waits."""
    return reply(_runners().retry(_number("runner", runner), caller()))


@route(blueprint, "/runners/<raw:runner>/rollback", "POST", role="operator", body=GoBackBody, answer=Runner)
def go_back_runner(body: dict[str, Any], runner: str) -> Response:
    """Want an earlier configuration again, everywhere at once."""
    return reply(_runners().go_back(_number("runner", runner), body["generation"], caller()))


@route(blueprint, "/runners/<raw:runner>", "DELETE", role="operator", answer=Runner, status=202,
       also=[(409, "A roll-out of it is under way"), (412, "It was changed meanwhile")])
def remove_runner(runner: str) -> Response:
    """Want it nowhere: the agents delete it, then it is gone here too."""
    number = _number("runner", runner)
    if request.headers.get("If-Match"):
        check_match(tag_of(_runners().one(number)))
    return reply(_runners().remove(number, caller()), 202)


# roll-outs


@route(blueprint, "/rollouts", role="viewer", query=RolloutQuery, answer=schemas.page_of(Rollout))
def list_rollouts(query: dict[str, Any]) -> Response:
    """List roll-outs, newest first."""
    return _page(lambda after, most: rollout.page(runner=query["runner"], after=after, limit=most))


@route(blueprint, "/rollouts/<raw:number>", role="viewer", answer=Rollout, also=[(404, "No such roll-out")])
def show_rollout(number: str) -> Response:
    """One roll-out."""
    return reply(rollout.one(_number("roll-out", number)))


@route(blueprint, "/rollouts/<raw:number>/pause", "POST", role="operator", answer=Rollout)
def pause_rollout(number: str) -> Response:
    """Begin no further wave."""
    return reply(rollout.pause(_number("roll-out", number), caller()))


@route(blueprint, "/rollouts/<raw:number>/resume", "POST", role="operator", answer=Rollout)
def resume_rollout(number: str) -> Response:
    """Go on with the present wave."""
    return reply(rollout.resume(_number("roll-out", number), caller()))


@route(blueprint, "/rollouts/<raw:number>/rollback", "POST", role="operator", answer=Rollout)
def roll_back_rollout(number: str) -> Response:
    """Give the agents of the waves so far their previous configuration back."""
    return reply(rollout.roll_back(_number("roll-out", number), caller()))


def _runners() -> Runners:
    extensions = current_app.extensions
    if "runners" not in extensions:
        extensions["runners"] = Runners(extensions["settings"])
    found: Runners = extensions["runners"]
    return found


def _plan(body: dict[str, Any]) -> Plan:
    return Plan(**{**body, "steps": tuple(body["steps"])})


def _differences(body: dict[str, Any]) -> Response:
    changes = _runners().diff(body["name"], body["tag"], body["config"], caller())
    return reply({"name": body["name"], "tag": body["tag"], "changes": changes})


def _page(read: Any) -> Response:
    pairs = wire.query(request.environ, request.args)
    most = paging.limit(pairs)
    found = read(paging.position(pairs), most)
    return reply({"items": found, "next": paging.following(pairs, found, most, found[-1]["id"] if found else None)})


def _number(noun: str, text: str) -> int:
    try:
        return wire.whole(noun, text)
    except Invalid:
        raise HttpProblem(404, f"there is no {noun} {text[:100]}") from None
