"""How is a pool of hosts a cloud? Which host gets a machine, what is where, and what an unreachable host means.

Each machine is remembered with its host before the host is touched (placements.py), and is only ever booted, listed and
destroyed there. While a host is away its machines are reported as last known, `Running` ones as `Unreachable`: neither
vanished nor booted a second time elsewhere. Only when no host answers is the cloud itself unreachable.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from cloudsched import clock
from cloudsched.drivers import base
from cloudsched.drivers.base import Check, DriverError, Machine, Place, Wanted
from cloudsched.drivers.ssh import checks
from cloudsched.drivers.ssh.connection import Connection, Connections, HostResult, Result, RunFailed, on_all
from cloudsched.drivers.ssh.hosts import Host, hosts_of, leaving_host, plain_name, state_folder
from cloudsched.drivers.ssh.keeper import CALL_S, Keeper, KeeperFailed
from cloudsched.drivers.ssh.many import GaveUp
from cloudsched.drivers.ssh.options import Options
from cloudsched.drivers.ssh.placements import Placements, Record
from cloudsched.errors import Invalid

log = logging.getLogger(__name__)

KIND = "SSH"
UNREACHABLE = "Unreachable"
LIST_S = 20.0
LOOK_S = 5.0  # how old may be what boot knows of the hosts
AWAY_S = 20.0  # a host that let us wait is left alone for so long
SLOW_S = 1.0
INTENT_S = 900.0  # an intent that led to nothing is forgotten after this
MAX_NAME = 255


class SshDriver:
    """One pool of hosts. Safe for several threads."""

    kind = KIND
    capabilities = frozenset({base.BOOT, base.DESTROY, base.LIST, base.RUN, base.FACTS, base.PING, base.FILES})

    def __init__(self, place: Place) -> None:
        if not place.state_dir:
            raise Invalid.at("state_dir", "an SSH cloud needs a directory to remember its machines and host keys in")
        self._place = place
        self._options = Options.of(place)
        self._hosts = {host.label: host for host in hosts_of(place)}
        self._placements = Placements(state_folder(place) / f"machines-{plain_name(place.name)}.json")
        self._connections = Connections()
        self._keepers: dict[str, Keeper] = {}
        self._away: dict[str, tuple[float, HostResult]] = {}
        self._destroyed: dict[str, float] = {}  # name -> when; what is older than a listing may take is dropped
        self._look_lock = threading.Lock()
        self._looked: tuple[float, dict[str, HostResult]] = (-1e9, {})

    # -- the Driver protocol -----------------------------------------------------------------------------------

    def verify(self) -> list[Check]:
        """Per host: can we log in, can agents run there and as whom, do they reach the server?"""
        self._away.clear()
        results = self._ask(self.hosts(), "check", server_url=self._agents_url(), told=self._options.told())
        return [check for result in results for check in checks.of_host(result, self._agents_url())]

    def boot(self, wanted: Wanted) -> Machine:
        """Start the agent of `wanted.name` on the host that has most room, or where it is (or may be) already.

        DriverError: QUOTA when no reachable host has room; ENDPOINT (transient) when none is reachable, or when the one
        that the machine was given to is away; REQUEST for a wrong field.
        """
        _check_wanted(wanted)
        url = self._options.server_url or wanted.server_url or self._place.server_url
        if urlsplit(url).scheme not in ("http", "https"):
            raise DriverError(f"server_url: {url!r} is not a URL the agents can call", code=base.REQUEST)
        facts = self._boot_facts(wanted, url)
        known = self._placements.get(wanted.name)
        if known is not None:
            machine = self._boot_again(known, wanted.name, facts)
            if machine is not None:
                return machine
        return self._boot_somewhere(wanted, facts)

    def machines(self) -> list[Machine]:
        """All machines of the pool; those on hosts that are away as last known (see the module). Raises DriverError when
        no host answers (ENDPOINT, transient), lets us in (AUTH) or can be used."""
        asked_at = clock.now()
        records = self._placements.all()
        hosts = self.hosts() + self._leaving(records)
        results = self._ask(hosts, "list", timeout_s=LIST_S, patient=False)
        self._none_answers(results)
        found: dict[str, tuple[str, Mapping[str, Any]]] = {}
        for result in results:
            for seen in (result.value or {}).get("machines", ()):
                if seen["name"] not in found or records.get(seen["name"], Record("", 0)).host == result.host:
                    found[seen["name"]] = (result.host, seen)
        self._remember(found, answered={result.host for result in results if result.ok}, asked_at=asked_at,
                       given_up={host.label for host in hosts if host.leaving})  # fmt: skip
        away = {result.host: result for result in results if not result.ok}
        missing = [_unseen(name, record, away[record.host]) for name, record in self._placements.all().items()
                   if name not in found and record.host in away]  # fmt: skip
        return [self._machine(*facts) for facts in found.values()] + missing

    def destroy(self, name: str, handle: Mapping[str, Any]) -> None:
        """Kill the agent and all its jobs on the host, remove what it had there; returns when that is proved.

        DriverError (ENDPOINT, transient) when the host of the machine is away, or when it is not known which host that
        is and one is away.
        """
        known = self._placements.get(name)
        label = known.host if known is not None else str(handle.get("host") or "")
        if not label:
            self._destroy_anywhere(name)
            return
        host = self._hosts.get(label) or leaving_host(label, self._place)
        if host is not None:
            result = self._ask([host], "destroy", name=name)[0]
            if result.failure is not None and not (host.leaving and result.error in ("unreachable", "timeout", "auth")):
                raise result.failure
        self._placements.forget(name, host=label)
        self._note_destroyed(name)
        self._forget_look()

    # -- more verbs --------------------------------------------------------------------------------------------

    def hosts(self) -> list[Host]:
        """The hosts of the configuration."""
        return list(self._hosts.values())

    def ping_all(self, *, timeout_s: float = 15.0) -> list[HostResult]:
        """Seconds there and back, for each host."""
        return self._each(self.hosts(), lambda connection: connection.ping(timeout_s=timeout_s), timeout_s=timeout_s)

    def facts_all(self, *, timeout_s: float = 30.0) -> list[HostResult]:
        """`Facts` of each host."""
        hosts = {host.target: host for host in self.hosts()}

        def ask(connection: Connection) -> Any:
            host = hosts[connection.target]
            return connection.facts(path=host.work_dir or ".", python=host.python, timeout_s=timeout_s)

        return self._each(self.hosts(), ask, timeout_s=timeout_s)

    def run_all(self, command: str | Sequence[str], *, hosts: Iterable[str] | None = None, timeout_s: float,
                sudo: bool = False, parallel: int = 16, on_output: Callable[[str, str, str], None] | None = None,
                ) -> list[HostResult]:  # fmt: skip
        """A command on all hosts, or on those labels; `value` is a Result. `on_output(host, stream, text)` as it comes.
        A host that cannot be reached, or takes longer, is a result as well."""

        def work(connection: Connection) -> Result:
            tell = None if on_output is None else lambda stream, text: on_output(connection.host, stream, text)
            return connection.run(command, timeout_s=timeout_s, sudo=sudo, on_output=tell)

        chosen = self._chosen(hosts)
        return self._each(chosen, work, timeout_s=timeout_s + 20.0, parallel=parallel)

    def upgrade_agents(self, *, busy: bool = False, timeout_s: float = 120.0) -> list[HostResult]:
        """Put today's agent on each host and restart idle agents with it (`busy`: those with jobs too, which run again).
        `value`: names that are `current`, were `restarted`, were left `busy`, and agent files `removed`."""
        return self._ask(self.hosts(), "upgrade", timeout_s=timeout_s, busy=busy, told=self._options.told())

    def remove_agents(self, *, timeout_s: float = 60.0) -> list[HostResult]:
        """Take our agent off each host; `value["machines"]` names those that still need it."""
        return self._ask(self.hosts(), "remove", timeout_s=timeout_s)

    def connection(self, label: str) -> Connection:
        """The connection to one host, for files and single commands. DriverError (REQUEST) for an unknown label."""
        return self._connections.get(self._chosen([label])[0].target)

    def close(self) -> None:
        """Close all connections; the next call opens what it needs."""
        self._connections.close()

    def _agents_url(self) -> str:
        return self._options.server_url or self._place.server_url

    # -- boot --------------------------------------------------------------------------------------------------

    def _boot_facts(self, wanted: Wanted, url: str) -> dict[str, Any]:
        share = {name: getattr(wanted, name) for name in ("name", "node_id", "cores", "memory_mb", "storage_gb", "slots")}
        return {"wanted": share, "token": wanted.join_token, "server_url": url, "told": self._options.told()}

    def _boot_again(self, known: Record, name: str, facts: Mapping[str, Any]) -> Machine | None:
        """On the host it was given to; None when that has no room, and so no machine either."""
        host = self._hosts.get(known.host)
        if host is None:
            self._placements.forget(name, host=known.host)
            return None
        result = self._ask([host], "boot", **facts)[0]
        if result.failure is not None:
            raise result.failure
        return self._booted(host, name, result.value)

    def _boot_somewhere(self, wanted: Wanted, facts: Mapping[str, Any]) -> Machine:
        looked = self._look()
        here = next((label for label, result in looked.items() if result.ok and _has(result.value, wanted.name)), None)
        answering = [label for label, result in looked.items() if result.ok]
        order = [here] if here else sorted(answering, key=lambda label: -_free_cores(looked[label].value))
        refused: list[str] = [result.message for result in looked.values() if not result.ok]
        for label in order:
            if why := _too_small(looked[label].value, wanted) if label != here else "":
                refused.append(f"{label}: {why}")
                continue
            record = self._placements.intend(wanted.name, label)
            host = self._hosts.get(record.host, self._hosts[label])
            result = self._ask([host], "boot", **facts)[0]
            if result.failure is not None:
                self._boot_failed(wanted.name, host, result.failure)
                refused.append(result.failure.message)
                continue
            machine = self._booted(host, wanted.name, result.value)
            if machine is not None:
                return machine
            refused.append(f"{host.label}: {result.value['full']}")
        if not answering:
            self._none_answers(list(looked.values()))
        raise DriverError(f"no host has room: {'; '.join(refused)}"[:1000], code=base.QUOTA)

    def _boot_failed(self, name: str, host: Host, failure: DriverError) -> None:
        """Go on with the next host only when nothing was begun on this one."""
        if isinstance(failure, RunFailed | GaveUp | KeeperFailed):
            raise failure
        self._placements.forget(name, host=host.label)

    def _booted(self, host: Host, name: str, said: Mapping[str, Any]) -> Machine | None:
        if "full" in said:
            self._placements.forget(name, host=host.label)
            self._note_room(host.label, said)
            return None
        self._placements.confirm(name, host.label, said["machine"])
        self._note_room(host.label, said)
        return self._machine(host.label, said["machine"])

    def _look(self) -> dict[str, HostResult]:
        """What the hosts said a moment ago; asked once for all boots that wait."""
        with self._look_lock:
            if time.monotonic() - self._looked[0] > LOOK_S:
                results = self._ask(self.hosts(), "list", timeout_s=LIST_S, patient=False)
                self._looked = (time.monotonic(), {result.host: result for result in results})
            return dict(self._looked[1])

    def _note_room(self, label: str, said: Mapping[str, Any]) -> None:
        """What the look said of a host is brought up to date by a boot there."""
        with self._look_lock:
            result = self._looked[1].get(label)
            if result is not None and result.ok:
                added = [said["machine"]] if "machine" in said else []
                value = {**result.value, "has": said["has"], "held": said["held"],
                         "machines": [*result.value["machines"], *added]}  # fmt: skip
                self._looked[1][label] = HostResult(label, value)

    def _forget_look(self) -> None:
        with self._look_lock:
            self._looked = (-1e9, {})

    # -- machines ----------------------------------------------------------------------------------------------

    def _leaving(self, records: Mapping[str, Record]) -> list[Host]:
        labels = sorted({record.host for record in records.values()} - set(self._hosts))
        made = (leaving_host(label, self._place) for label in labels)
        return [host for host in made if host is not None]

    def _remember(self, found: Mapping[str, tuple[str, Mapping[str, Any]]], *, answered: set[str], asked_at: float,
                  given_up: set[str]) -> None:
        """Bring the records up to date with what the hosts said when they were asked at `asked_at`."""
        with self._placements.changing() as records:
            for name, (host, seen) in found.items():
                known = records.get(name)
                if known is None and self._destroyed.get(name, 0.0) >= asked_at:
                    continue  # it was there when the host was asked
                if known is None or known.host != host or dict(known.seen) != dict(seen):
                    records[name] = Record(host, known.at if known else asked_at, dict(seen))
            for name, record in list(records.items()):
                age_s = asked_at - record.at
                is_old = age_s > 0 if record.is_confirmed else age_s > INTENT_S
                is_gone = record.host in answered and is_old
                is_nowhere = record.host not in self._hosts and record.host not in answered
                if name not in found and (is_gone or (is_nowhere and (record.host in given_up or is_old))):
                    del records[name]

    def _machine(self, label: str, seen: Mapping[str, Any]) -> Machine:
        host = self._hosts.get(label) or leaving_host(label, self._place)
        handle = {"host": label, "mark": seen["mark"], "pid": seen["pid"], "started": seen["started"]}
        return Machine(
            name=seen["name"], external_id=seen["mark"], state=seen["state"], hostname=seen["name"],
            address=host.target.host if host else "", ssh_port=host.target.port if host else 22, handle=handle,
            reason=seen.get("reason", ""))  # fmt: skip

    # -- destroy -----------------------------------------------------------------------------------------------

    def _destroy_anywhere(self, name: str) -> None:
        """Nobody knows of a host: each is asked."""
        results = self._ask(self.hosts(), "destroy", name=name)
        failed = [result for result in results if not result.ok]
        self._forget_look()
        if failed:
            text = "; ".join(result.message for result in failed)
            raise DriverError(f"it cannot be told whether {name} is on a host that is away: {text}"[:1000],
                              code=base.ENDPOINT, transient=True)  # fmt: skip

    def _note_destroyed(self, name: str) -> None:
        now = clock.now()
        self._destroyed = {one: at for one, at in self._destroyed.items() if at > now - INTENT_S} | {name: now}

    # -- asking ------------------------------------------------------------------------------------------------

    def _ask(self, hosts: Sequence[Host], do: str, *, timeout_s: float = CALL_S, patient: bool = True,
             **facts: Any) -> list[HostResult]:
        """`remote.py` on each host. Without patience a host that was away a moment ago counts as away."""
        now = time.monotonic()
        skipped = {} if patient else {host.label: self._away[host.label][1] for host in hosts
                                      if self._away.get(host.label, (0.0,))[0] > now}  # fmt: skip
        asked = [host for host in hosts if host.label not in skipped]
        keepers = {host.target: self._keeper(host) for host in asked}
        facts = {"instance": self._place.instance, "cloud": self._place.name, **facts}

        def call(connection: Connection) -> Any:
            return keepers[connection.target].call(connection, do, timeout_s=timeout_s, **facts)

        # The limit is for a thread that is stuck; a call has limits for each of its steps.
        results = self._each(asked, call, timeout_s=4 * timeout_s)
        for result in results:
            self._note_away(result)
        given = {result.host: result for result in results} | skipped
        return [given[host.label] for host in hosts]

    def _each(self, hosts: Sequence[Host], work: Callable[[Connection], Any], *, timeout_s: float,
              parallel: int = 16) -> list[HostResult]:
        def one(target: Any) -> Any:
            return work(self._connections.get(target))

        return on_all([host.target for host in hosts], one, parallel=parallel, timeout_s=timeout_s)

    def _keeper(self, host: Host) -> Keeper:
        keeper = self._keepers.get(host.label)
        if keeper is None:
            keeper = self._keepers[host.label] = Keeper(host)
        return keeper

    def _note_away(self, result: HostResult) -> None:
        if result.ok or result.error not in ("unreachable", "timeout"):
            self._away.pop(result.host, None)
        elif result.seconds > SLOW_S:
            self._away[result.host] = (time.monotonic() + AWAY_S, result)

    def _none_answers(self, results: Sequence[HostResult]) -> None:
        """Raise when not one host answered."""
        if not results or any(result.ok for result in results):
            return
        text = "; ".join(result.message for result in results)[:1000]
        if any(result.error in ("unreachable", "timeout") for result in results):
            raise DriverError(f"no host answers: {text}", code=base.ENDPOINT, transient=True)
        if all(result.error == "auth" for result in results):
            raise DriverError(f"no host lets us in: {text}", code=base.AUTH)
        code = results[0].failure.code if results[0].failure else base.OTHER
        raise DriverError(f"no host can be used: {text}", code=code, transient=results[0].transient)

    def _chosen(self, labels: Iterable[str] | None) -> list[Host]:
        if labels is None:
            return self.hosts()
        chosen = []
        for label in labels:
            if label not in self._hosts:
                raise DriverError(f"hosts: {label!r} is none of {', '.join(self._hosts)}", code=base.REQUEST)
            chosen.append(self._hosts[label])
        return chosen


def _unseen(name: str, record: Record, result: HostResult) -> Machine:
    """A machine on a host that is away."""
    state = str(record.seen.get("state", "Starting"))
    return Machine(
        name=name, external_id=str(record.seen.get("mark", "")), state=UNREACHABLE if state == "Running" else state,
        hostname=name, handle={"host": record.host, "mark": record.seen.get("mark", "")} if record.seen else {},
        reason=f"its host is away, {state} as last known: {result.message}"[:500])  # fmt: skip


def _has(said: Mapping[str, Any], name: str) -> bool:
    return any(seen["name"] == name for seen in said["machines"])


def _free_cores(said: Mapping[str, Any]) -> int:
    return int(said["has"]["cores"]) - int(said["held"]["cores"])


def _too_small(said: Mapping[str, Any], wanted: Wanted) -> str:
    """Why a look at the host is enough to pass it over; the host itself decides when it is not."""
    for name in ("cores", "memory_mb", "storage_gb"):
        has, free = int(said["has"][name]), int(said["has"][name]) - int(said["held"][name])
        if (has or name != "memory_mb") and getattr(wanted, name) > free:
            return f"{name}: {getattr(wanted, name)} wanted, {max(0, free)} of {has} free"
    most = int(said["has"]["machines"])
    return f"machines: {most} of {most} are there" if most and int(said["held"]["machines"]) >= most else ""


def _check_wanted(wanted: Wanted) -> None:
    if not 1 <= len(wanted.name) <= MAX_NAME or not wanted.name.isprintable():
        raise DriverError(f"name: must be 1 to {MAX_NAME} printable characters", code=base.REQUEST)
    for field, least in (("cores", 1), ("memory_mb", 0), ("storage_gb", 0), ("slots", 0)):
        if getattr(wanted, field) < least:
            raise DriverError(f"{field}: must be at least {least}", code=base.REQUEST)
    if not wanted.join_token:
        raise DriverError("join_token: is missing", code=base.REQUEST)
