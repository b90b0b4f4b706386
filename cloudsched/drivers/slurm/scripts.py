"""What does a pilot's batch script say? A few words of shell, and the text of `pilot`, which does the work on the host.

The script is kept by slurmctld and shown to the job's owner and to operators; the join token is never in it.
"""

from __future__ import annotations

import base64
import importlib.resources
import json
import shlex
from dataclasses import dataclass
from functools import cache

TOKEN_VARIABLE = "CLOUDSCHED_AGENT_TOKEN"  # noqa: S105
_END = "CLOUDSCHED-PILOT-ENDS-HERE"
_SCRIPT = """#!/bin/sh
# A machine of cloudsched: its agent, run as a Slurm job.
PATH="${{PATH:-/usr/local/bin:/usr/bin:/bin}}"
export PATH
python={python}
command -v "$python" > /dev/null || {{
    echo '{{"level": "error", "message": "there is no '"$python"' on this host"}}'
    exit 127
}}
exec "$python" - <<'{end}'
{program}
try:
    sys.exit(main(json.loads({facts!a}), {carried!r}))
except OSError as error:
    sys.exit(complain(str(error)))
{end}
"""


@dataclass(frozen=True, slots=True)
class Pilot:
    """What one script is written for. `home`: the machine's directory on the shared file system, empty when there is none;
    `agent`: the path of the agent there, or its bytes, which the script then carries; `scratch_dir`: where on the host the
    agent works, instead of in `home`. `drain_after_s`: when the agent is told to finish; 0 when Slurm does that."""

    name: str
    instance: str
    server_url: str
    cores: int
    memory_mb: int
    storage_gb: int
    slots: int
    python: str
    run_as: str
    orphan_timeout_s: float
    log_level: str
    tags: str
    home: str
    agent: str | bytes
    scratch_dir: str
    drain_after_s: int = 0


def pilot_script(pilot: Pilot) -> str:
    """The script for sbatch."""
    facts = {
        "home": pilot.home, "scratch": pilot.scratch_dir, "agent": pilot.agent if isinstance(pilot.agent, str) else "",
        "words": _words(pilot), "run_as": pilot.run_as, "drain_after_s": pilot.drain_after_s,
        "environment": {"CLOUDSCHED_NODE": pilot.name, "CLOUDSCHED_INSTANCE": pilot.instance},
    }  # fmt: skip
    carried = "" if isinstance(pilot.agent, str) else base64.b64encode(pilot.agent).decode()
    return _SCRIPT.format(python=shlex.quote(pilot.python), end=_END, program=_program(), facts=json.dumps(facts),
                          carried=carried)  # fmt: skip


@cache
def _program() -> str:
    return importlib.resources.files("cloudsched.drivers.slurm").joinpath("pilot.py").read_text(encoding="utf-8")


def _words(pilot: Pilot) -> list[str]:
    words = ["agent", f"--server={pilot.server_url}", f"--name={pilot.name}", f"--cores={pilot.cores}",
             f"--storage-gb={pilot.storage_gb}", f"--slots={max(1, pilot.slots)}",
             f"--orphan-timeout={pilot.orphan_timeout_s:g}", f"--log-level={pilot.log_level}"]  # fmt: skip
    words += [f"--memory-mb={pilot.memory_mb}"] if pilot.memory_mb else []
    words += [f"--tags={pilot.tags}"] if pilot.tags else []
    words += [f"--token-file={pilot.home}/token"] if pilot.home else []
    return words
