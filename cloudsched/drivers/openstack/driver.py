"""What do the driver's verbs do at Nova?

Nova knows no idempotency token: a server is looked for by name and metadata before it is created, and Nova writes it
down before it answers, so that an answer that was lost is found. Our ids are metadata of the very request that makes it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cloudsched.drivers import base, cloudinit
from cloudsched.drivers.base import Check, DriverError, Machine, Place, Wanted
from cloudsched.drivers.given import check_wanted
from cloudsched.drivers.libcloud import Refused, Unreachable, without
from cloudsched.drivers.openstack.calls import Stack
from cloudsched.drivers.openstack.errors import THROTTLED, driver_error, meaning
from cloudsched.drivers.openstack.offers import Offers
from cloudsched.drivers.openstack.servers import CLOUD_TAG, INSTANCE_TAG, USER_DATA_LIMIT, Server, create_body
from cloudsched.drivers.openstack.setup import StackSetup
from cloudsched.drivers.sizes import InstanceType, Price

PAGE = 500
RETRY_S = (0.3, 1.0, 2.0)  # pauses after "too many requests", before it is the engine's turn
LOOK_AGAIN_S = (0.2, 0.5, 1.0, 2.0, 5.0)
CONSOLE_LINES = 1000


class StackDriver:
    """Servers of one project and region."""

    capabilities = frozenset({base.BOOT, base.DESTROY, base.LIST, base.PRICES, base.CONSOLE, base.TYPES})

    def __init__(self, place: Place, setup: StackSetup) -> None:
        self.kind = place.kind
        self._place = place
        self._setup = setup
        self._api = Stack(setup.endpoint)
        self._offers = Offers(self._call, setup)

    # -- the Driver protocol -----------------------------------------------------------------------------------

    def verify(self) -> list[Check]:
        """Endpoint, credentials, and everything that the options name."""
        found = self._check_listing()
        if not all(check.ok for check in found):
            return [*found, self._setup.agent.check()]
        setup = self._setup
        named: list[tuple[str, Any, Callable[[], str]]] = [
            ("flavors", True, self._known_flavors),
            ("image", setup.image, lambda: self._offers.images.of(_any(setup.image), "").id),
            ("network", setup.network, lambda: self._offers.network(setup.network)),
            ("key pair", setup.key_name, lambda: self._call("compute", f"/os-keypairs/{setup.key_name}")["keypair"]["name"]),
            ("security group", setup.security_groups, self._known_groups)]
        return [*found, setup.agent.check(), *(self._check(name, ask) for name, given, ask in named if given)]

    def boot(self, wanted: Wanted) -> Machine:
        """Create a server unless one of that name lives. Watches it for some seconds: hosts that are full show there."""
        check_wanted(wanted)
        with self._saying(f"boot of {wanted.name}", wanted.join_token):
            found = next((one for one in self._servers(wanted.name) if not one.ending), None)
            if found is None:
                found = self._watched(self._create(wanted))
            if found.status == "ERROR":
                self._refuse_broken(wanted.name, found)
        return found.machine(self._setup)

    def machines(self) -> list[Machine]:
        """All that Nova shows, broken ones and those on their way out too."""
        with self._saying("list of machines"):
            return [one.machine(self._setup) for one in self._servers() if one.status not in ("DELETED",)]

    def destroy(self, name: str, handle: Mapping[str, Any]) -> None:
        """Delete all servers of that name; returns when they are gone, with their volumes."""
        with self._saying(f"destroy of {name}"):
            for one in self._servers(name):
                self._delete(one)
            self._wait_gone(name)

    # -- more than the protocol --------------------------------------------------------------------------------

    def types(self) -> list[InstanceType]:
        """The flavors, and what the configuration says they cost."""
        with self._saying("list of flavors"):
            return self._offers.types()

    def prices(self) -> list[Price]:
        """The configuration's: OpenStack has none of its own."""
        return list(self._setup.types.prices)

    def console(self, name: str, handle: Mapping[str, Any]) -> str:
        """The last lines that the machine wrote on its console; empty when there is none."""
        with self._saying(f"console of {name}"):
            for one in self._servers(name):
                body = {"os-getConsoleOutput": {"length": CONSOLE_LINES}}
                answer = self._call("compute", f"/servers/{one.id}/action", method="POST", body=body)
                return str((answer or {}).get("output") or "")
        return ""

    # -- boot --------------------------------------------------------------------------------------------------

    def _create(self, wanted: Wanted) -> Server:
        data = cloudinit.user_data(wanted, self._setup.agent, kind=self.kind, cloud=self._place.name,
                                   limit_bytes=USER_DATA_LIMIT)
        body = create_body(self._place, self._offers.launch(wanted, data), wanted, self._setup)
        made = self._call("compute", "/servers", method="POST", body=body)["server"]
        return Server.of({**made, "metadata": body["server"]["metadata"]})

    def _watched(self, server: Server) -> Server:
        deadline = time.monotonic() + self._setup.boot_watch_s
        for pause_s in _growing(LOOK_AGAIN_S):
            seen = self._server(server.id)
            if seen is None or seen.status != "BUILD" or time.monotonic() + pause_s > deadline:
                return seen or server
            time.sleep(pause_s)
        return server

    def _refuse_broken(self, name: str, server: Server) -> None:
        """It will never run: taken away, and its fault told as if the request had been refused."""
        code, transient = meaning(500, server.fault)
        self._delete(server)
        self._wait_gone(name)
        raise DriverError(f"boot of {name}: {server.fault or 'the server came up in error'}", transient=transient,
                          code=base.OTHER if code == base.ENDPOINT else code)

    # -- the end -----------------------------------------------------------------------------------------------

    def _delete(self, server: Server) -> None:
        try:
            if server.status == "SOFT_DELETED":
                self._call("compute", f"/servers/{server.id}/action", method="POST", body={"forceDelete": None})
            elif server.task != "deleting":
                self._call("compute", f"/servers/{server.id}", method="DELETE")
        except Refused as error:
            if error.status != 404:
                raise

    def _wait_gone(self, name: str) -> None:
        deadline = time.monotonic() + self._setup.destroy_wait_s
        for pause_s in _growing(LOOK_AGAIN_S):
            left = [one for one in self._servers(name) if one.status != "DELETED"]
            if not left:
                return
            if time.monotonic() > deadline:
                states = ", ".join(f"{one.id} is {one.status}{' ' + one.task if one.task else ''}" for one in left)
                raise DriverError(f"destroy of {name}: not gone yet: {states}", transient=True)
            for one in left:
                if one.status == "SOFT_DELETED":
                    self._delete(one)
            time.sleep(pause_s)

    # -- what is there -----------------------------------------------------------------------------------------

    def _servers(self, name: str = "") -> list[Server]:
        """Ours, of one name or all; oldest first."""
        found: list[Server] = []
        params: dict[str, Any] = {"limit": PAGE}
        if re.fullmatch(r"[A-Za-z0-9._-]+", name):
            params["name"] = f"^{re.escape(name)}$"  # an expression over there; other names are looked for among all
        while True:
            page = self._call("compute", "/servers/detail", params=params)
            found += [Server.of(facts) for facts in page["servers"]]
            if not page["servers"] or not page.get("servers_links"):
                break
            params["marker"] = page["servers"][-1]["id"]
        ours = [one for one in found if self._is_ours(one) and name in ("", one.name)]
        return sorted(ours, key=lambda one: (one.created, one.id))

    def _server(self, number: str) -> Server | None:
        try:
            return Server.of(self._call("compute", f"/servers/{number}")["server"])
        except Refused as error:
            if error.status != 404:
                raise
            return None

    def _is_ours(self, one: Server) -> bool:
        mine = (self._place.instance, self._place.name)
        return bool(one.name) and (one.metadata.get(INSTANCE_TAG), one.metadata.get(CLOUD_TAG)) == mine

    # -- verify ------------------------------------------------------------------------------------------------

    def _check_listing(self) -> list[Check]:
        try:
            count = len(self.machines())
        except DriverError as error:
            reached = error.code != base.ENDPOINT
            return [Check("endpoint", ok=reached, detail="" if reached else error.message),
                    *([Check("credentials", ok=False, detail=error.message)] if reached else [])]
        return [Check("endpoint", ok=True, detail=self._setup.endpoint.auth_url),
                Check("credentials", ok=True, detail=f"{count} machines of ours are there")]

    def _check(self, name: str, ask: Callable[[], str]) -> Check:
        try:
            with self._saying(name):
                return Check(name, ok=True, detail=ask())
        except DriverError as error:
            return Check(name, ok=False, detail=error.message)

    def _known_flavors(self) -> str:
        names = {name for one in self._offers.types() for name in (one.name, one.id)}
        wanted = [*self._setup.types.allowed, *([self._setup.default_type] if self._setup.default_type else [])]
        if missing := [one for one in wanted if one not in names]:
            raise DriverError(f"flavors: there is no {', '.join(missing)}")
        return f"{len(self._offers.types())} flavors"

    def _known_groups(self) -> str:
        found = self._call("network", "/security-groups")["security_groups"]
        names = {name for one in found for name in (one["name"], one["id"])}
        if missing := [one for one in self._setup.security_groups if one not in names]:
            raise DriverError(f"security group: there is no {', '.join(missing)}")
        return ", ".join(self._setup.security_groups)

    # -- calls -------------------------------------------------------------------------------------------------

    def _call(self, service: str, path: str, **how: Any) -> Any:
        """Too many requests: wait a little, then ask again; a few times."""
        for pause_s in RETRY_S:
            try:
                return self._api.call(service, path, **how)
            except Refused as error:
                if meaning(error.status, f"{error.code} {error.message}") != THROTTLED:
                    raise
            time.sleep(pause_s)
        return self._api.call(service, path, **how)

    @contextmanager
    def _saying(self, what: str, *secrets: str) -> Iterator[None]:
        """Errors of calls as the engine wants them, without a secret."""
        try:
            yield
        except Refused as error:
            found = driver_error(what, error)
            text = without(found.message, (self._setup.endpoint.password, *secrets))
            raise DriverError(text, code=found.code, transient=found.transient, details=found.details) from None
        except Unreachable as error:
            where = self._setup.endpoint.auth_url
            raise DriverError(f"{what}: {where}: {error}", code=base.ENDPOINT, transient=True) from None


def _growing(pauses_s: tuple[float, ...]) -> Iterator[float]:
    yield from pauses_s
    while True:
        yield pauses_s[-1]


def _any(image: str) -> Wanted:
    return Wanted("", node_id=0, cores=1, memory_mb=0, storage_gb=0, image=image)
