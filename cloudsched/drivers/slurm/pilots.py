"""How is a job a machine? A pilot: a job whose name follows from the machine's, and which runs our agent.

The name is looked for before it is submitted, and the job waits for any other of its name (`singleton`): however often
and by whomever a boot is repeated, one pilot runs, the one with the lowest id, and later ones are cancelled.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from cloudsched.drivers import base
from cloudsched.drivers.agentfile import agent_pyz
from cloudsched.drivers.base import DriverError, Machine, Place, Wanted
from cloudsched.drivers.given import check_wanted, refused
from cloudsched.drivers.slurm import states
from cloudsched.drivers.slurm.homes import Homes
from cloudsched.drivers.slurm.model import Controller, JobRecord, Submission
from cloudsched.drivers.slurm.options import SlurmOptions
from cloudsched.drivers.slurm.scripts import TOKEN_VARIABLE, Pilot, pilot_script

COMMENT_BYTES = 1_000  # Slurm takes 1024
SUBMIT_S = 90.0
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.1, 2.0

_Found = tuple[str, str, JobRecord | None]  # the machine's name, its job's name, its job


class Pilots:
    """The machines of one place. `homes` is None when there is no shared directory: a pilot then carries its agent, its
    token travels in the job's environment, and what has ended is known as long as the controller remembers it."""

    def __init__(self, controller: Controller, options: SlurmOptions, place: Place, homes: Homes | None) -> None:
        self._controller = controller
        self._options = options
        self._place = place
        self._homes = homes
        self._prefix = f"cs-{scope_of(place)}-"
        self._destroyed: set[str] = set()  # ids that had ended already: the controller shows them for a while yet
        self._words: dict[str, str] = {}  # last words by job id, so that each log is read once

    def boot(self, wanted: Wanted) -> Machine:
        """The pilot of that name: the one that is there, or a new one. Takes some commands, not the time in the queue."""
        check_wanted(wanted)
        server_url = wanted.server_url or self._place.server_url
        if not server_url.startswith(("http://", "https://")) or not server_url.isprintable():
            raise refused("server_url", f"{server_url!r} is not a URL that the agent can call")
        job_name, comment = self.job_name(wanted.name), self._comment(wanted)
        found = self._only_one(job_name)
        if found is None:
            job_id = self._submit(wanted, job_name, comment, server_url)
            # One that has ended already is told as it is: the next look at the machines sees the same.
            found = self._only_one(job_name) or _leading(self._controller.jobs(ids=[job_id]))
            self._check_hope(found, wanted.name)
        if found is None:
            raise DriverError(f"the pilot of {wanted.name} is not in the queue", code=base.OTHER, transient=True)
        return self._machine(found, wanted.name, job_name)

    def all(self) -> list[Machine]:
        """Every pilot of this place: waiting, running, and ended but not destroyed."""
        homes = self._homes.list() if self._homes else {}
        by_name: dict[str, list[JobRecord]] = {}
        records = self._controller.jobs()
        self._forget_all_but({record.id for record in records})
        for record in records:
            if record.name.startswith(self._prefix):
                by_name.setdefault(record.name, []).append(record)
        machines, ended = [], []
        for job_name in sorted({*homes, *by_name}):
            leading = _leading(by_name.get(job_name, ()))
            name = homes.get(job_name, {}).get("name") or (leading and name_in(leading.comment)) or ""
            if not name or (leading is not None and not self._shown(leading, job_name in homes)):
                continue
            if leading is None or not leading.live:
                ended.append((name, job_name, leading))
            else:
                machines.append(self._machine(leading, name, job_name))
        return machines + self._ended(ended, homes)

    def destroy(self, name: str) -> None:
        """Cancel every job of that name, wait until the last of its processes is gone, remove its directory."""
        job_name = self.job_name(name)
        records = self._controller.jobs(names=[job_name])
        self._destroyed.update(record.id for record in records if not record.live)
        live = [record.id for record in records if record.live]
        if live:
            self._controller.cancel(live)
            self._wait_until_gone(name, job_name)
        if self._homes is not None:
            self._homes.remove(job_name)

    def job_name(self, name: str) -> str:
        """The name of the job that is the machine of that name."""
        return self._prefix + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:24]

    # -- boot --------------------------------------------------------------------------------------------------

    def _only_one(self, job_name: str) -> JobRecord | None:
        """The live job of that name with the lowest id; the others are cancelled."""
        live = [one for one in self._controller.jobs(names=[job_name]) if one.live and not _is_going(one)]
        live.sort(key=lambda one: int(one.base_id))
        if len(live) > 1:
            self._controller.cancel([one.id for one in live[1:]])
        return live[0] if live else None

    def _check_hope(self, record: JobRecord | None, name: str) -> None:
        """Slurm takes jobs that can never begin, and says so a moment later: here they are refused, and leave the queue."""
        cause = record.reason.strip("()") if record is not None else ""
        if record is None or cause not in states.HOPELESS or states.plain(record.raw) not in ("PENDING", "FAILED"):
            return
        self.destroy(name)
        code = base.QUOTA if cause.startswith(("Assoc", "QOSMax")) else base.REQUEST
        raise DriverError(f"Slurm has no place for such a job: {cause}", code=code)

    def _submit(self, wanted: Wanted, job_name: str, comment: str, server_url: str) -> str:
        home, agent, secrets, log = "", agent_pyz(), {TOKEN_VARIABLE: wanted.join_token}, "/dev/null"
        carried: str | bytes = agent
        if self._homes is not None:
            carried = self._homes.make(job_name, {"name": wanted.name, "job_name": job_name, "node_id": wanted.node_id,
                                                  "instance": self._place.instance, "created": time.time()},
                                       wanted.join_token)  # fmt: skip
            home, secrets = self._homes.path(job_name), {}
            log = f"{home}/agent.log".replace("%", "%%")
        options = self._options
        script = pilot_script(Pilot(
            wanted.name, self._place.instance, server_url, wanted.cores, wanted.memory_mb, wanted.storage_gb, wanted.slots,
            options.python, options.run_as, options.orphan_timeout_s, options.log_level, options.tags, home, carried,
            options.scratch_dir, 0 if self._controller.can_warn else max(0, options.time_limit_s - options.drain_s)))  # fmt: skip
        return self._controller.submit(Submission(
            job_name, script, comment, wanted.cores, wanted.memory_mb, options.time_limit_s, directory="/", stdout=log,
            partition=options.partition, account=options.account, qos=options.qos, constraint=options.constraint,
            reservation=options.reservation, warn_s=options.drain_s, singleton=True, secrets=secrets))  # fmt: skip

    def _comment(self, wanted: Wanted) -> str:
        """Who the job is, for people and for us: ASCII, short enough for Slurm."""
        facts = {"cloudsched": self._place.instance[:64], "cloud": self._place.name[:64], "node": wanted.name}
        plain = json.dumps(facts)
        if len(plain) <= COMMENT_BYTES:
            return plain
        code = min(("utf-8", "utf-16-le"), key=lambda one: len(zlib.compress(wanted.name.encode(one), 9)))
        packed = zlib.compress(wanted.name.encode(code), 9)
        short = json.dumps({"cloudsched": self._place.instance[:16], "packed": base64.b64encode(packed).decode(), "code": code})
        if len(short) > COMMENT_BYTES:
            raise refused("name", "is too long for the comment of a Slurm job")
        return short

    # -- what is there -----------------------------------------------------------------------------------------

    def _shown(self, record: JobRecord, has_home: bool) -> bool:
        """What has ended and holds nothing is a machine only until somebody was told, and not when we cancelled it."""
        if record.live or has_home:
            return True
        return self._homes is None and record.id not in self._destroyed and states.plain(record.raw) != "CANCELLED"

    def _ended(self, found: list[_Found], homes: Mapping[str, Mapping[str, Any]]) -> list[Machine]:
        unread = [job_name for _, job_name, record in found if record is None or record.id not in self._words]
        if self._homes is not None and unread:
            said = self._homes.last_words(unread)
            self._words.update({record.id: said.get(job_name, "") for _, job_name, record in found
                                if record is not None and job_name in unread})  # fmt: skip
        else:
            said = {}
        made = []
        for name, job_name, record in found:
            words = said.get(job_name, "") if record is None else self._words.get(record.id, "")
            made.append(self._without_job(name, job_name, homes[job_name], words) if record is None
                        else self._machine(record, name, job_name, words=words))  # fmt: skip
        return made

    def _without_job(self, name: str, job_name: str, facts: Mapping[str, Any], words: str) -> Machine:
        """A directory that no job belongs to: not submitted yet, or long over."""
        created = facts.get("created")
        young = isinstance(created, (int, float)) and 0 <= time.time() - created < SUBMIT_S
        reason = "is being submitted" if young else "the pilot is not among the jobs that Slurm remembers"
        return Machine(name, external_id="" if young else job_name, state="Starting" if young else "Shutdown",
                       handle={"job_name": job_name}, reason=f"{reason}: {words}" if words else reason)  # fmt: skip

    def _forget_all_but(self, ids: set[str]) -> None:
        """What the controller has forgotten need not be remembered here."""
        self._destroyed &= ids
        for job_id in self._words.keys() - ids:
            del self._words[job_id]

    def _machine(self, record: JobRecord, name: str, job_name: str, *, words: str = "") -> Machine:
        state, reason = states.machine_state(record.raw, record.reason)
        host = record.nodes if state == "Running" else ""
        handle: dict[str, Any] = {"job_id": record.id, "job_name": job_name}
        return Machine(name, external_id=record.id, state=state, hostname=host, handle=handle,
                       reason=f"{reason}: {words}" if words else reason)  # fmt: skip

    # -- the end -----------------------------------------------------------------------------------------------

    def _wait_until_gone(self, name: str, job_name: str) -> None:
        until = time.monotonic() + self._options.destroy_limit_s
        pause_s = _FIRST_PAUSE_S
        while True:
            live = [one for one in self._controller.jobs(names=[job_name]) if one.live]
            if not live:
                return
            if time.monotonic() > until:
                shown = ", ".join(f"{one.id} {one.raw}" for one in live)
                raise DriverError(f"the pilot of {name} does not end: {shown}", code=base.OTHER, transient=True)
            time.sleep(pause_s)
            pause_s = min(_LAST_PAUSE_S, pause_s * 1.5)


def scope_of(place: Place) -> str:
    """What tells the pilots of one place of one installation from all others."""
    return hashlib.sha256(json.dumps([place.instance, place.name]).encode()).hexdigest()[:12]


def name_in(comment: str) -> str:
    """The machine's name, out of the comment of its job; empty when it is none of ours."""
    try:
        facts: Mapping[str, Any] = json.loads(comment)
        if "node" in facts:
            return str(facts["node"])
        raw = zlib.decompressobj().decompress(base64.b64decode(str(facts["packed"])), 4096)
        return raw.decode("utf-16-le" if facts.get("code") == "utf-16-le" else "utf-8")
    except (ValueError, KeyError, TypeError, zlib.error):
        return ""


def _leading(records: Iterable[JobRecord]) -> JobRecord | None:
    """Of several jobs of one name: the first that lives, else one that is being ended, else the last that ended."""
    ordered = sorted(records, key=lambda one: int(one.base_id))
    living = [one for one in ordered if one.live]
    staying = [one for one in living if not _is_going(one)]
    return next(iter(staying or living), ordered[-1] if ordered else None)


def _is_going(record: JobRecord) -> bool:
    return states.plain(record.raw) == "COMPLETING"
