"""What is kept of log agents and runners? Their tables, beside those of tables.py.

A log agent is a node (its row in `node` has the time it was last heard from) and one row here. Configurations are kept
once per content, by their hash: a thousand agents that want the same one share a row.
"""

from __future__ import annotations

from peewee import BigAutoField, BigIntegerField, CompositeKey, DoubleField, IntegerField, TextField

from cloudsched.store.tables import Table, number, text


class LogAgent(Table):
    """A log agent that registered. `id` order is the order of first registration; `by_hand`: desired state is off."""

    id = BigAutoField()
    node_id = BigIntegerField(unique=True)
    url = TextField(unique=True)
    tag = text()
    by_hand = number()
    registered_at = DoubleField()


class RunnerConfig(Table):
    """A runner's configuration by the hash of its canonical form; `body` is the text as it was given."""

    hash = TextField(primary_key=True)
    body = TextField()


class Runner(Table):
    """A configuration wanted on all agents of a tag. `want`: present, absent (being removed); `run`: running, stopped."""

    id = BigAutoField()
    name = TextField()
    tag = TextField()
    want = TextField(default="present")
    run = TextField(default="running")
    generation = IntegerField(default=0)
    version = IntegerField(default=1)
    actor = text()
    created_at = DoubleField()
    updated_at = DoubleField()


class RunnerVersion(Table):
    """One configuration of a runner, numbered from 1."""

    runner_id = BigIntegerField()
    generation = IntegerField()
    hash = TextField()
    actor = text()
    at = DoubleField()

    class Meta:
        primary_key = CompositeKey("runner_id", "generation")


class RunnerTarget(Table):
    """One runner on one agent: what is wanted there, and how far it has come.

    `runner_id` is null for what was asked of this agent alone. `state`: pending, applied, failed, by_hand.
    `reported`: fingerprint of what the agent made of the configuration when it was applied.
    """

    id = BigAutoField()
    agent_id = BigIntegerField()
    name = TextField()
    runner_id = BigIntegerField(null=True)
    generation = number()
    want = TextField()
    run = text()
    hash = text()
    state = TextField()
    reason = text()
    reported = text()
    attempts = number()
    not_before = DoubleField(null=True)
    checked_at = DoubleField(null=True)
    applied_at = DoubleField(null=True)
    changed_at = DoubleField()


class Rollout(Table):
    """A new configuration on its way through the agents of a tag, wave by wave (domain/rollout.py)."""

    id = BigAutoField()
    runner_id = BigIntegerField()
    state = TextField()
    from_generation = IntegerField()
    to_generation = IntegerField()
    plan = TextField()
    waves = TextField()
    wave = number()
    wave_at = DoubleField(null=True)
    healthy_at = DoubleField(null=True)
    baseline = text()
    reason = text()
    actor = text()
    version = IntegerField(default=1)
    created_at = DoubleField()
    ended_at = DoubleField(null=True)


ALL: tuple[type[Table], ...] = (LogAgent, RunnerConfig, Runner, RunnerVersion, RunnerTarget, Rollout)

INDEXES = (
    "CREATE INDEX log_agent_tag ON log_agent (tag, id)",
    "CREATE UNIQUE INDEX runner_place ON runner (tag, name)",
    "CREATE UNIQUE INDEX runner_target_pair ON runner_target (agent_id, name)",
    "CREATE INDEX runner_target_runner ON runner_target (runner_id, state)",
    "CREATE INDEX runner_target_due ON runner_target (not_before, id) WHERE state IN ('pending', 'failed')",
    "CREATE INDEX runner_target_check ON runner_target (checked_at) WHERE state = 'applied'",
    "CREATE UNIQUE INDEX rollout_one ON rollout (runner_id) WHERE state IN ('running', 'paused', 'rolling_back')",
)
