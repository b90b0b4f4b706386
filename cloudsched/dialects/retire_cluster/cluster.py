"""What can be asked of the whole? Status, health, metrics, configuration, log, statistics (contract 9.2, 9.5, 9.7, 9.8)."""

from __future__ import annotations

from typing import Any

from cloudsched.dialects.retire_cluster import API_VERSION, params, render, schemas, words
from cloudsched.dialects.retire_cluster.access import Door
from cloudsched.dialects.retire_cluster.envelope import Refused
from cloudsched.dialects.retire_cluster.routing import Answer, Call, decoded
from cloudsched.services import figures, fleet_config, fleet_log

PERIODS = ("1h", "24h", "7d", "30d")
METRICS_QUERY: tuple[params.Param, ...] = (
    params.Word("period", PERIODS, "1h"), params.Word("type", ("cpu", "memory", "network", "disk", "all"), "all"))
LOGS_QUERY: tuple[params.Param, ...] = (
    params.Word("level", words.LEVELS, "info", fold=True), params.Text("device_id"), params.Since(),
    params.Whole("limit", 1, 1000, 100))
TASKS_QUERY: tuple[params.Param, ...] = (
    params.Word("period", PERIODS, "24h"), params.Word("group_by", ("device", "task_type", "hour"), "device"))
DEVICES_QUERY: tuple[params.Param, ...] = (params.Word("period", PERIODS, "24h"),)
SECTIONS = ("server", "cluster", "logging")
CONFIG_BODY: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "description": "Any part of what GET answers.",
    "anyOf": [{"required": [name], "properties": {name: {"minProperties": 1}}} for name in SECTIONS],
    "properties": {
        "server": {"type": "object", "additionalProperties": False, "properties": {
            "host": {"type": "string", "minLength": 1, "pattern": r"^[0-9A-Za-z.:_\[\]-]{1,253}$"},
            "port": {"type": "integer", "minimum": 1, "maximum": 65535},
            "max_connections": {"type": "integer", "minimum": 1, "maximum": 1000}}},
        "cluster": {"type": "object", "additionalProperties": False, "properties": {
            "heartbeat_interval": {"type": "integer", "minimum": 10, "maximum": 300},
            "offline_threshold": {"type": "integer", "minimum": 30, "maximum": 3600},
            "task_timeout": {"type": "integer", "minimum": 1, "maximum": 86400}}},
        "logging": {"type": "object", "additionalProperties": False, "properties": {
            "level": {"type": "string", "enum": list(words.LEVELS)},
            "max_size": {"type": "string", "pattern": r"^[0-9]{1,6}(KB|MB|GB)$"}}}}}


def status(_: Call) -> Answer:
    """Count devices and resources, and what is done with them."""
    found, config = figures.cluster(), fleet_config.current()
    stats = dict(found["cluster_stats"])
    uptime = render.uptime(stats.pop("uptime_s"))
    flat = {name: value for name, value in found.items() if name != "cluster_stats"}
    return Answer({
        **flat, "cluster_stats": {**stats, "uptime": uptime}, "timestamp": render.now(), "uptime": uptime,
        "server_info": {"version": API_VERSION, "uptime": uptime, "host": config.host, "port": config.port}})


def health(_: Call) -> Answer:
    """Check database, network and resources; 503 when the cluster is unhealthy."""
    found = dict(figures.health())
    found.setdefault("status", found["overall_health"])
    found["components"] = {**found["components"], "timestamp": render.now()}
    return Answer(found, status=503 if found["overall_health"] == "unhealthy" else 200)


def metrics(call: Call) -> Answer:
    """Show usage, tasks and requests of a period."""
    period, kind = call.query["period"], call.query["type"]
    return Answer({"period": period, **figures.metrics(period, kind)})


def task_stats(call: Call) -> Answer:
    """Show figures of the tasks of a period."""
    return Answer(_under("task_stats", figures.task_stats(call.query["period"], call.query["group_by"])))


def device_stats(call: Call) -> Answer:
    """Show figures of the devices of a period, and their ranking."""
    return Answer(_under("device_stats", figures.device_stats(call.query["period"])))


def _under(name: str, found: dict[str, Any]) -> dict[str, Any]:
    return found if name in found else {name: found}


def logs(call: Call) -> Answer:
    """Read the log, newest first."""
    query = call.query
    found, total = fleet_log.entries(words.kinds_from(query["level"]), device_id=query["device_id"], since=query["since"],
                                     limit=query["limit"])
    return Answer(schemas.Logs(logs=[line.entry for line in words.lines(found)], total=total))


# configuration


def config(_: Call) -> Answer:
    """Show the values that may be changed while the server runs."""
    return Answer({"config": fleet_config.current().nested()})


def configure(call: Call) -> Answer:
    """Change any of these values: all or nothing."""
    raw = call.raw_body()
    if not raw.strip():
        raise Refused("MISSING_REQUEST_BODY", "the body is empty; send the values to change")
    done = fleet_config.change(decoded(raw, SECTIONS), actor=call.caller.name)
    return Answer(schemas.ConfigChanged(updated_fields=list(done.fields), restart_required=done.restart_required))


class ClusterConfig:
    """`GET /cluster/config`: the values as the original's code names them."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def show(self, _: Call) -> Answer:
        """Show the configuration under the names of the original's code."""
        found = fleet_config.current()
        nested = found.nested()
        interval, threshold = found.heartbeat_interval_s, found.offline_threshold_s
        return Answer(schemas.ClusterConfig(
            server=schemas.ClusterConfigServer(**nested["server"]),
            heartbeat=schemas.ClusterConfigHeartbeat(interval=interval, timeout=threshold, max_missed=threshold // interval),
            features=schemas.ClusterConfigFeatures(task_scheduling=True, api_enabled=True, auth_required=self._door.on),
            config=schemas.Config(server=schemas.ClusterConfigServer(**nested["server"]),
                                  cluster=schemas.ConfigCluster(**nested["cluster"]),
                                  logging=schemas.ConfigLogging(**nested["logging"]))))
