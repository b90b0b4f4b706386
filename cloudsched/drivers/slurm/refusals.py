"""What does Slurm mean by what it says? Error texts of commands and REST answers, as DriverErrors with a result code.

The texts are those of slurm_strerror (in English whatever the locale); the first row that fits counts.
"""

from __future__ import annotations

import re

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError

_ROWS: tuple[tuple[str, int, bool], ...] = (
    # Nobody there, or not now.
    (r"unable to contact slurm|connect(ion)? (failure|refused|timed out)|communication connection|socket timed out"
     r"|zero bytes were transmitted|connection reset|standby mode|no route to host|unable to connect to (slurm )?database"
     r"|slurm_receive_msg|broken pipe|insane message length|unexpected message received", base.ENDPOINT, True),
    (r"configuration source|configuration file|cannot stat file|slurm_conf_init|unable to open slurm\.conf"
     r"|name or service not known|unknown host|command not found"
     r"|no such file or directory.*(sbatch|squeue|scontrol|sinfo)", base.ENDPOINT, False),
    # Room that runs out.
    (r"(assoc|qos|usr|user)\w*(max|grp)\w*|violates accounting/qos policy|job submit limit|temporarily unable to accept job"
     r"|too many (jobs|submit)|max_job_count|jobs? limit|resource temporarily unavailable|disk quota"
     r"|no space left", base.QUOTA, True),
    # Who are you?
    (r"munge|authentication (error|credential|plugin)|invalid authentication|user id missing|invalid user id|jwt|token"
     r"|unauthorized|auth(entication)? (failed|failure)|unspecified credential", base.AUTH, False),
    (r"access/permission denied|permission denied|not permitted|user's group not permitted|operation is not|disabled root jobs"
     r"|root user|forbidden", base.DENIED, False),
    # What was asked for cannot be had here.
    (r"invalid (partition|account|qos|feature|node|job array|reservation|constraint|wckey|licen[sc]e|dependency|user|job name"
     r"|generic|trackable)|requested (node|partition|time|reservation|operation|gres)|can not be satisfied"
     r"|cannot be satisfied|more processors requested|specification|too long|account/partition|node count"
     r"|unavailable feature|batch script|memory required|invalid time|time limit", base.REQUEST, False),
)  # fmt: skip
_TABLE = tuple((re.compile(pattern, re.IGNORECASE), code, transient) for pattern, code, transient in _ROWS)
_NOISE = re.compile(r"^(sbatch|squeue|scancel|scontrol|sinfo|sacct|slurm_\w+)(: error| error|: fatal)?:\s*", re.IGNORECASE)
_SHOWN_CHARS = 300


def refusal(doing: str, said: str) -> DriverError:
    """The error for `said`, an error text of Slurm, met while `doing` something. What is not known is OTHER."""
    text = cleaned(said) or "no reason was given"
    for pattern, code, transient in _TABLE:
        if pattern.search(text):
            return DriverError(f"{doing}: {text}", code=code, transient=transient)
    return DriverError(f"{doing}: {text}", code=base.OTHER)


def cleaned(said: str) -> str:
    """An error text on one line, without the programs' prefixes, cut to what people read."""
    lines = [_NOISE.sub("", line.strip()) for line in said.splitlines() if line.strip()]
    text = "; ".join(dict.fromkeys(line for line in lines if line))
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + " ..."
