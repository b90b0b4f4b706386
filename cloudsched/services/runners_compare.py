"""Is what an agent reports what was asked for? Canonical forms, fingerprints and differences of runner configurations.

An agent completes a configuration (contract 9): it sets `name`, `createtime`, `web_folder`, `runner_name` and defaults, and
some leave service tokens out of what they report. So only keys that were asked for are compared.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from typing import Any

from cloudsched.errors import Invalid

# Members that the agent decides, or that say whether it runs and not what it does.
OWN = frozenset({"name", "createtime", "web_folder", "is_stopped"})


def parse(body: str | bytes) -> dict[str, Any]:
    """A configuration. Raises Invalid unless it is a JSON object."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Invalid.at("config", f"is not JSON: {error}", "a JSON object") from None
    if not isinstance(found, dict):
        raise Invalid.at("config", "is no JSON object", "a JSON object")
    return found


def wanted_part(config: dict[str, Any]) -> dict[str, Any]:
    """What of a configuration is compared."""
    return {key: value for key, value in config.items() if key not in OWN}


def digest(config: dict[str, Any]) -> str:
    """The fingerprint of a configuration: equal for equal content, whatever the order of its keys."""
    text = json.dumps(wanted_part(config), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def seen_part(report: Any, wanted: Any) -> Any:
    """What of a report answers to `wanted`: its keys alone, at every depth."""
    if isinstance(report, dict) and isinstance(wanted, dict):
        return {key: seen_part(report[key], value) for key, value in wanted.items() if key in report}
    if isinstance(report, list) and isinstance(wanted, list) and len(report) == len(wanted):
        return [seen_part(one, other) for one, other in zip(report, wanted, strict=True)]
    return report


def report_digest(report: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The fingerprint of what an agent reports of a wanted configuration; equal to `digest(wanted)` when all is there."""
    return digest(seen_part(report, wanted_part(wanted)))


def difference(report: dict[str, Any] | None, wanted: dict[str, Any] | None, *, name: str) -> str:
    """A unified diff from what the agent has to what is wanted; empty when nothing would change."""
    before = wanted_part(report) if report is not None else None
    if report is not None and wanted is not None:
        before = seen_part(report, wanted_part(wanted))
    return "\n".join(difflib.unified_diff(_lines(before), _lines(wanted_part(wanted) if wanted is not None else None),
                                          f"{name} (on the agent)", f"{name} (wanted)", lineterm=""))


def _lines(config: dict[str, Any] | None) -> list[str]:
    return [] if config is None else json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False).splitlines()
