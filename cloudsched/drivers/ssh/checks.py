"""Can this host be used? One answer of `remote.check`, as checks that say what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudsched.drivers.base import Check
from cloudsched.drivers.ssh.connection import HostResult


def of_host(result: HostResult, server_url: str) -> list[Check]:
    """Checks of one host: `login`, and when that went well `agents` and, with a URL, `server`."""
    if not result.ok:
        reached = result.error not in ("auth", "unreachable", "timeout")
        told = result.message.removeprefix(f"{result.host}: ")
        if not reached:
            return [Check(f"{result.host} login", ok=False, detail=told)]
        return [Check(f"{result.host} login", ok=True), Check(f"{result.host} agents", ok=False, detail=told)]
    checks = [Check(f"{result.host} login", ok=True), _agents(result.host, result.value)]
    if server_url:
        problem = result.value["server"]
        detail = f"{problem}; set the option server_url to what this host can reach" if problem else server_url
        checks.append(Check(f"{result.host} server", ok=not problem, detail=detail))
    return checks


def _agents(host: str, said: Mapping[str, Any]) -> Check:
    has = said["has"]
    if not said["writable"]:
        return Check(f"{host} agents", ok=False, detail=f"work_dir: {said['root']} cannot be written")
    if said.get("bad_user"):
        return Check(f"{host} agents", ok=False, detail=said["note"])
    detail = (f"{has['cores']} cores, {has['memory_mb']} MB, {has['storage_gb']} GB in {said['root']}; "
              f"{said['note'] or 'jobs run as ' + said['run_as']}; {said['python']}")
    return Check(f"{host} agents", ok=True, detail=detail)
