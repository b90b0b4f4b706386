"""What does the admin server do? One table of its calls (contract 1.5, 2.3, 4)."""

from __future__ import annotations

import re

from cloudsched.dialects.cloud_scheduler import literal
from cloudsched.dialects.cloud_scheduler import messages as say
from cloudsched.dialects.cloud_scheduler.calls import Call, Given, NoSuchValue, Rest
from cloudsched.dialects.cloud_scheduler.gate import Gate, places
from cloudsched.dialects.cloud_scheduler.layout import Layout
from cloudsched.errors import Invalid
from cloudsched.services import pool_limits, pool_ops, pool_proxies, pool_switches, pool_sync
from cloudsched.services.pool import UnknownCloud, UnknownNode
from cloudsched.services.pool_ops import Retirement
from cloudsched.settings import Settings

# Who is noted in events: this dialect has no keys of its own.
ACTOR = "cloud_scheduler"

# Longer ones Python refuses to read.
_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,4000}\s*\Z", re.ASCII)
_CLOUD, _VMS, _VM = "/clouds/<cloud>", "/clouds/<cloud>/vms", "/clouds/<cloud>/vms/<vm>"


class Admin:
    """The operations, over the settings of this instance. `wait_limit_s`: how long a shutdown waits for the proof."""

    def __init__(self, settings: Settings, *, wait_limit_s: float = pool_ops.WAIT_LIMIT_S) -> None:
        self._settings = settings
        self._wait_limit_s = wait_limit_s
        self._gate = Gate(places(settings))

    def calls(self) -> tuple[Call, ...]:
        """The table; each path's rows in the order in which they are tried."""
        return (*self._cloud_calls(), *self._vm_calls(), *self._service_calls())

    def _cloud_calls(self) -> tuple[Call, ...]:
        name, slow = ("cloudname",), self._gate.slow
        return (
            Call("enable_cloud", self._enable, (_put(_CLOUD, action="enable"),), required=name),
            Call("disable_cloud", self._disable, (_put(_CLOUD, action="disable"),), required=name),
            Call("adjust_cloud_allocation", slow(self._adjust),
                 (_put(_CLOUD, action=Given.ABSENT, allocations=Given.ANY),), required=("cloud_name", "number")),
        )

    def _vm_calls(self) -> tuple[Call, ...]:
        name, one, some, slow = ("cloudname",), ("cloudname", "vmid"), ("cloudname", "number"), self._gate.slow
        return (
            Call("shutdown_vm", slow(self._shut_down), (_put(_VM, action="shutdown"),), required=one),
            Call("shutdown_cluster_all", slow(self._shut_down_all), (_put(_VMS, action="shutdown", count="all"),), required=name),
            Call("shutdown_cluster_count", slow(self._shut_down_count), (_put(_VMS, action="shutdown", count=Given.ANY),),
                 required=some),
            Call("force_retire_vm", slow(self._retire), _put_or_post(_VM, action="force_retire"), required=one),
            Call("force_retire_all_vm", slow(self._retire_all), _put_or_post(_VMS, action="force_retire", count="all"),
                 required=name),
            Call("force_retire_count_vm", slow(self._retire_count), _put_or_post(_VMS, action="force_retire", count=Given.ANY),
                 required=some),
            Call("reset_override_state", self._reset, (_put(_VM, action="reset_override_state"),), required=one),
            Call("delete_vm_entry", self._remove, (_put(_VM, action="remove"), Rest("DELETE", _VM)), required=one),
            Call("delete_all_vm_entry_cloud", self._remove_all,
                 (_put(_VMS, action="remove", count="all"), Rest("DELETE", _VMS, {"count": Given.ABSENT}),
                  Rest("DELETE", _VMS, {"count": "all"})), required=name),
        )

    def _service_calls(self) -> tuple[Call, ...]:
        slow = self._gate.slow
        return (
            Call("change_log_level", self._log_level, (_put("/", log_level=Given.ANY),), required=("level",)),
            Call("perform_quick_shutdown", self._quick_shutdown, (_post("/", action="quick_shutdown"),)),
            Call("cloud_resources_reconfig", self._reconfig, (_post("/", action="reconfig"),)),
            Call("list_cloud_alias", self._aliases, (Rest("GET", "/cloud-aliases"),)),
            Call("cloud_alias_reload", self._reload_aliases, (_post("/cloud-aliases"),)),
            Call("list_user_limits", self._limits, (Rest("GET", "/user-limits"),)),
            Call("user_limit_reload", self._reload_limits, (_post("/user-limits"),)),
            Call("refresh_job_proxy_user", slow(self._refresh_jobs), (_post("/users/<user>", refresh="job_proxy"),),
                 required=("user",)),
            Call("refresh_vm_proxy_user", slow(self._refresh_vms), (_post("/users/<user>", refresh="vm_proxy"),),
                 required=("user",)),
        )

    # clouds: 4.1, 4.2

    def _enable(self, layout: Layout, name: str) -> str:
        return self._switch(name, say.ENABLED, enabled=True)

    def _disable(self, layout: Layout, name: str) -> str:
        return self._switch(name, say.DISABLED, enabled=False)

    def _switch(self, name: str, done: str, *, enabled: bool) -> str:
        try:
            pool_ops.switch_cloud(name, enabled=enabled, actor=ACTOR)
        except UnknownCloud:
            return say.SWITCH_UNKNOWN_CLOUD.format(name=name)
        return done.format(name=name)

    def _adjust(self, layout: Layout, name: str, number: str) -> str:
        slots = whole_number(number)
        if slots is None or slots < 0:
            return say.ADJUST_NOT_INTEGER
        try:
            adjustment = pool_ops.adjust_allocation(name, slots, settings=self._settings, actor=ACTOR)
        except UnknownCloud:
            return say.ADJUST_UNKNOWN_CLOUD.format(name=name)
        except Invalid:
            return say.ADJUST_NOT_INTEGER
        return (say.ADJUST_DONE if adjustment.changed else say.ADJUST_NOTHING).format(name=name, n=slots)

    # shutting down: 4.3

    def _shut_down(self, layout: Layout, name: str, vm_id: str) -> str:
        try:
            done = pool_ops.shut_down_node(name, vm_id, limit_s=self._wait_limit_s, actor=ACTOR)
        except UnknownCloud:
            return say.SHUTDOWN_UNKNOWN_CLOUD.format(name=name)
        except UnknownNode:
            return say.SHUTDOWN_UNKNOWN_VM.format(id=vm_id, name=name)
        return (say.SHUTDOWN_DONE if done.gone else say.SHUTDOWN_FAILED).format(id=vm_id)

    def _shut_down_all(self, layout: Layout, name: str) -> str:
        return self._shut_down_some(name, None, unknown=say.SHUTDOWN_UNKNOWN_CLOUD)

    def _shut_down_count(self, layout: Layout, name: str, number: str) -> str:
        count = whole_number(number)
        if count is None:
            return say.SHUTDOWN_NOT_INTEGER.format(n=number)
        return self._shut_down_some(name, count, unknown=say.SHUTDOWN_COUNT_UNKNOWN_CLOUD)

    def _shut_down_some(self, name: str, count: int | None, *, unknown: str) -> str:
        try:
            done = pool_ops.shut_down_nodes(name, count, limit_s=self._wait_limit_s, actor=ACTOR)
        except UnknownCloud:
            return unknown.format(name=name)
        return "".join((say.SHUTDOWN_DONE if each.gone else say.SHUTDOWN_FAILED).format(id=each.shown_id) + "\n"
                       for each in done)

    # retiring: 4.4

    def _retire(self, layout: Layout, name: str, vm_id: str) -> str:
        try:
            done = pool_ops.retire_node(name, vm_id, settings=self._settings, actor=ACTOR)
        except UnknownCloud:
            return say.RETIRE_UNKNOWN_CLOUD.format(name=name)
        except UnknownNode:
            return say.RETIRE_UNKNOWN_VM.format(id=vm_id)
        return say.RETIRE_DONE.format(id=vm_id, name=name) if done.accepted else say.RETIRE_REFUSED

    def _retire_all(self, layout: Layout, name: str) -> str:
        return self._retire_some(name, None)

    def _retire_count(self, layout: Layout, name: str, number: str) -> str:
        count = whole_number(number)
        return say.RETIRE_NOT_INTEGER.format(n=number) if count is None else self._retire_some(name, count)

    def _retire_some(self, name: str, count: int | None) -> str:
        try:
            done = pool_ops.retire_nodes(name, count, settings=self._settings, actor=ACTOR)
        except UnknownCloud:
            return say.RETIRE_MANY_UNKNOWN_CLOUD.format(name=name)
        return _retired(name, done, all_asked=count is None)

    # resetting and removing: 4.5, 4.6

    def _reset(self, layout: Layout, name: str, vm_id: str) -> str:
        try:
            pool_ops.reset_override(name, vm_id, actor=ACTOR)
        except UnknownCloud:
            return say.RESET_UNKNOWN_CLOUD.format(name=name)
        except UnknownNode:
            return say.RESET_UNKNOWN_VM.format(id=vm_id)
        return say.RESET_DONE.format(name=name, id=vm_id)

    def _remove(self, layout: Layout, name: str, vm_id: str) -> str:
        try:
            done = pool_ops.release_node(name, vm_id, actor=ACTOR)
        except UnknownCloud:
            return say.REMOVE_UNKNOWN_CLOUD.format(name=name)
        except UnknownNode:
            return say.REMOVE_UNKNOWN_VM.format(id=vm_id, name=name)
        return (say.REMOVE_RETIRED_DONE if done.retired else say.REMOVE_DONE).format(id=vm_id, name=name)

    def _remove_all(self, layout: Layout, name: str) -> str:
        try:
            pool_ops.release_nodes(name, actor=ACTOR)
        except UnknownCloud:
            return say.REMOVE_UNKNOWN_CLOUD.format(name=name)
        return say.REMOVE_ALL_DONE.format(name=name)

    # limits, aliases, switches, proxies: 4.7 to 4.12

    def _limits(self, layout: Layout) -> str:
        return literal.dictionary(pool_limits.limits())

    def _reload_limits(self, layout: Layout) -> bool:
        return pool_limits.reload_limits(self._settings, actor=ACTOR)

    def _aliases(self, layout: Layout) -> str:
        return literal.dictionary(pool_limits.aliases())

    def _reload_aliases(self, layout: Layout) -> bool:
        return pool_limits.reload_aliases(self._settings, actor=ACTOR)

    def _log_level(self, layout: Layout, level: str) -> str:
        try:
            pool_switches.set_log_level(level, actor=ACTOR)
        except Invalid as error:
            raise NoSuchValue(error.message) from error
        return ""

    def _quick_shutdown(self, layout: Layout) -> str:
        pool_switches.toggle_quick_shutdown(actor=ACTOR)
        return ""

    def _reconfig(self, layout: Layout) -> str:
        pool_sync.reconfigure(self._settings, actor=ACTOR)
        return ""

    def _refresh_jobs(self, layout: Layout, user: str) -> str:
        pool_proxies.refresh_jobs(user, settings=self._settings, actor=ACTOR)
        return ""

    def _refresh_vms(self, layout: Layout, user: str) -> str:
        pool_proxies.refresh_nodes(user, settings=self._settings, actor=ACTOR)
        return ""


def whole_number(text: str) -> int | None:
    """An integer as clients send it, None for anything else."""
    return int(text) if _INTEGER.match(text) else None


def _retired(name: str, done: list[Retirement], *, all_asked: bool) -> str:
    """One line per refusal, then what was accepted (B12)."""
    refused = [each for each in done if not each.accepted]
    lines = "".join(say.RETIRE_REFUSED_ONE_OF.format(id=each.shown_id) for each in refused)
    if all_asked and not refused:
        return say.RETIRE_ALL_DONE.format(name=name)
    return lines + say.RETIRE_COUNT_DONE.format(n=len(done) - len(refused), name=name)


def _put(path: str, **when: str) -> Rest:
    return Rest("PUT", path, when)


def _post(path: str, **when: str) -> Rest:
    return Rest("POST", path, when)


def _put_or_post(path: str, **when: str) -> tuple[Rest, ...]:
    return _put(path, **when), _post(path, **when)
