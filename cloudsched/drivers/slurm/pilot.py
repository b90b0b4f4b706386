"""How does the agent live inside a Slurm job? This runs on the host, as the batch process: it is put into the batch script
as text, so it stands alone (standard library, Python 3.8).

It makes room for the agent, starts it, and cleans up. Two signals come from Slurm: SIGUSR1 is the warning before the time
limit, and the agent finishes what runs; SIGTERM means that the end is here, and the agent stops at once, so that its jobs
are begun again elsewhere. Both are held back from the first line on and until the agent listens: whoever cancels a pilot
that is just beginning is heard.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import pwd
import shutil
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PREFIX = "cloudsched-pilot-"
STALE_S = 600.0
EXIT_USAGE = 2
WARNING = signal.SIGUSR1
_HELD = {signal.SIGTERM, signal.SIGINT, WARNING}


def main(facts: dict[str, Any], carried: str) -> int:
    """`facts`: `home` (the machine's directory on a shared file system, or empty), `scratch` (where to work, or empty), `agent`
    (its path, or empty when `carried` holds it in base64), `words` (its arguments), `run_as`, `environment`,
    `drain_after_s`. Returns the agent's exit status."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    os.environ.update(facts["environment"])
    os.environ["CLOUDSCHED_MACHINE"] = "slurm-" + os.environ.get("SLURM_JOB_ID", "0")
    scratch = facts["scratch"] or ("" if facts["home"] else os.environ.get("TMPDIR") or "/tmp")  # noqa: S108
    own = make_room(scratch) if scratch else ""
    try:
        home = own or facts["home"]
        agent = facts["agent"] or unpack(carried, home)
        words = facts["words"] + ["--work-dir", os.path.join(home, "work")] + run_as(facts["run_as"], agent, home)
        if _HELD & signal.sigpending():
            return 0
        return supervise([sys.executable, agent] + words, facts["drain_after_s"])  # noqa: RUF005
    finally:
        if own:
            os.chdir("/")
            shutil.rmtree(own, ignore_errors=True)


def make_room(scratch: str) -> str:
    """A directory of this job's own. What pilots left behind that were killed goes, when nobody holds an agent's lock there."""
    for name in os.listdir(scratch):
        if name.startswith(PREFIX):
            remove_stale(os.path.join(scratch, name))
    cluster, job_id = os.environ.get("SLURM_CLUSTER_NAME", "slurm"), os.environ.get("SLURM_JOB_ID", "0")
    own = os.path.join(scratch, f"{PREFIX}{cluster}-{job_id}")
    os.mkdir(own, 0o711)
    os.chmod(own, 0o711)  # noqa: S103 -- the agent may become another user, who passes through
    os.mkdir(os.path.join(own, "work"), 0o700)
    return own


def remove_stale(path: str) -> None:
    """Remove a directory that nobody uses any more; one that is young may be about to be used."""
    try:
        if time.time() - os.lstat(path).st_mtime < STALE_S or os.path.islink(path):
            return
        handle = os.open(os.path.join(path, "work", "agent.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass
    finally:
        os.close(handle)


def unpack(carried: str, home: str) -> str:
    """Write down the agent that came with the script."""
    path = os.path.join(home, "agent.pyz")
    with open(path, "wb") as file:
        file.write(base64.b64decode(carried))
    os.chmod(path, 0o644)
    return path


def run_as(wanted: str, agent: str, home: str) -> list[str]:
    """Whom the agent becomes, in its own words: with `auto` root's becomes nobody, where nobody can get there."""
    if wanted != "auto":
        mine = wanted in ("", "self", pwd.getpwuid(os.geteuid()).pw_name)
        return [] if mine else ["--run-as", wanted]
    if os.geteuid() != 0:
        return []
    sys.path.insert(0, agent)
    try:
        from cloudsched.agent.privileges import reachable

        user = pwd.getpwnam("nobody")
        paths = (agent, os.path.join(home, "work"))
        return ["--run-as", "nobody"] if all(reachable(path, user.pw_uid, user.pw_gid) for path in paths) else []
    except KeyError:
        return []
    finally:
        sys.path.remove(agent)


def supervise(command: list[str], drain_after_s: int) -> int:
    """Run the agent until it ends. The end of `drain_after_s` is a warning as well."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:  # the others stay blocked over this: the agent's guard lets them in when it listens
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {WARNING})
            os.execv(command[0], command)  # noqa: S606
        finally:
            os._exit(EXIT_USAGE)
    for number in (WARNING, signal.SIGALRM):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGTERM))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGINT))
    signal.alarm(drain_after_s)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
    status = os.waitpid(child, 0)[1]
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD | {signal.SIGALRM})
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def complain(error: str) -> int:
    """Say it as the agent would, so that whoever asks why the pilot ended finds it."""
    sys.stderr.write(json.dumps({"level": "error", "message": "cannot start", "error": error}) + "\n")
    return EXIT_USAGE
