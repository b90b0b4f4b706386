"""What do the driver's verbs do at an EC2 API?

A machine carries our ids from the moment it exists: they are tags of the very request that makes it (servers that
cannot do that get them right after, and are searched by ClientToken as well). The ClientToken follows from the name, so
a request whose answer was lost is the same machine when it is made again.
"""

from __future__ import annotations

import base64
import binascii
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree as ET

from cloudsched.drivers import base, cloudinit
from cloudsched.drivers.base import Check, DriverError, Machine, Place, Wanted
from cloudsched.drivers.ec2.calls import Ec2, text_of
from cloudsched.drivers.ec2.errors import THROTTLED, bare, driver_error, meaning
from cloudsched.drivers.ec2.instances import (
    CLOUD_TAG,
    INSTANCE_TAG,
    NODE_TAG,
    USER_DATA_LIMIT,
    Instance,
    filtered,
    first_token,
    marks,
    next_token,
    numbered,
    run_params,
    tag_params,
    tags_of,
    token_prefix,
)
from cloudsched.drivers.ec2.offers import Offers
from cloudsched.drivers.ec2.setup import Ec2Setup
from cloudsched.drivers.ec2.verify import checks
from cloudsched.drivers.given import check_wanted
from cloudsched.drivers.libcloud import Refused, Unreachable, without
from cloudsched.drivers.sizes import InstanceType, Price

PAGE = "1000"
RETRY_S = (0.3, 1.0, 2.0)  # pauses after "too many requests", before it is the engine's turn
LOOK_AGAIN_S = (0.2, 0.5, 1.0, 2.0, 5.0)
MOST_GENERATIONS = 20


class Ec2Driver:
    """Instances of one region and account. `poll_pause_s`: how long a machine of that state need not be asked about
    (contract 7.4)."""

    capabilities = frozenset({base.BOOT, base.DESTROY, base.LIST, base.PRICES, base.CONSOLE, base.TYPES, base.SPOT})

    def __init__(self, place: Place, setup: Ec2Setup) -> None:
        self.kind = place.kind
        self.poll_pause_s = setup.poll_pause_s
        self._place = place
        self._setup = setup
        self._api = Ec2(setup.endpoint)
        self._offers = Offers(self._call, self._pages, setup)
        self._buried: set[str] = set()  # ended machines whose end was noted: not told again while the place shows them

    # -- the Driver protocol -----------------------------------------------------------------------------------

    def verify(self) -> list[Check]:
        """Endpoint, credentials, and everything that the options name."""
        return checks(self._setup, self._call, self._offers, list_machines=self.machines)

    def boot(self, wanted: Wanted) -> Machine:
        """Run an instance unless one of that name lives. Takes a second or two."""
        check_wanted(wanted)
        with self._saying(f"boot of {wanted.name}", wanted.join_token):
            known = self._instances(wanted.name)
            found = next((one for one in known if not one.ending), None) or self._run(wanted, known)
            if NODE_TAG not in found.tags:
                found = self._tag(found, wanted)
        return found.machine(self._setup)

    def machines(self) -> list[Machine]:
        """All that live, those on their way out, and those that the place itself has ended and nobody has noted yet."""
        with self._saying("list of machines"):
            known = self._instances()
        self._buried &= {one.id for one in known}
        return [one.machine(self._setup) for one in known
                if one.state != "terminated" or (one.taken and one.id not in self._buried)]

    def destroy(self, name: str, handle: Mapping[str, Any]) -> None:
        """Terminate all instances of that name; returns when they are gone, with their volumes."""
        with self._saying(f"destroy of {name}"):
            known = self._instances(name)
            doomed = {one.id for one in known if one.state != "terminated"}
            if doomed:
                self._terminate({one.id for one in known if not one.ending})
                self._wait_gone(name, doomed)
            self._buried |= {one.id for one in known}

    # -- more than the protocol --------------------------------------------------------------------------------

    def types(self) -> list[InstanceType]:
        """The sizes that can be had here, and what the configuration says they cost."""
        with self._saying("list of instance types"):
            return self._offers.types()

    def prices(self) -> list[Price]:
        """What is known of prices: the configuration's, and spot prices of the moment. Nothing is estimated."""
        with self._saying("list of prices"):
            return self._offers.prices()

    def console(self, name: str, handle: Mapping[str, Any]) -> str:
        """What the machine wrote on its console, as far as the place has it; empty when there is nothing (yet)."""
        with self._saying(f"console of {name}"):
            for one in self._instances(name):
                answer = self._call("GetConsoleOutput", {"InstanceId": one.id})
                try:
                    return base64.b64decode(text_of(answer, "output")).decode("utf-8", "replace")
                except (binascii.Error, ValueError):
                    return text_of(answer, "output")
        return ""

    # -- boot --------------------------------------------------------------------------------------------------

    def _run(self, wanted: Wanted, known: Iterable[Instance]) -> Instance:
        """RunInstances under the first token of the name whose machine has not ended already."""
        data = cloudinit.user_data(wanted, self._setup.agent, kind=self.kind, cloud=self._place.name,
                                   limit_bytes=USER_DATA_LIMIT)
        launch = self._offers.launch(wanted, data)
        tags = tags_of(self._place, wanted, self._setup) if self._setup.tags_at_creation else {}
        params = run_params(launch, wanted, self._setup, tags=tags)
        ended = {one.token: one.id for one in known if one.ending}
        token = first_token(self._place, wanted.name)
        for _ in range(MOST_GENERATIONS):
            if token not in ended:
                found = self._run_once(params, token)
                if not found.ending:
                    return found
                ended[token] = found.id
            token = next_token(self._place, token, ended[token])
        raise DriverError(f"{wanted.name} has been booted too often under this name", code=base.REQUEST)

    def _run_once(self, params: Mapping[str, str], token: str) -> Instance:
        try:
            answer = self._call("RunInstances", {**params, "ClientToken": token})
        except Refused as error:
            found = None
            if bare(error.code) == "IdempotentParameterMismatch":
                # It was asked for before, by a server that said something else of itself: it is the same machine.
                found = next(iter(self._described({"client-token": token})), None)
            if found is None:
                raise
            return found
        item = answer.find("instancesSet/item")
        if item is None:
            raise Unreachable("RunInstances was answered without an instance")
        return Instance.of(item)

    def _tag(self, instance: Instance, wanted: Wanted) -> Instance:
        tags = tags_of(self._place, wanted, self._setup)
        self._call("CreateTags", {"ResourceId.1": instance.id, **tag_params(tags)})
        return next(iter(self._described({"instance-id": instance.id})), instance)

    # -- the end -----------------------------------------------------------------------------------------------

    def _terminate(self, ids: set[str]) -> None:
        if not ids:
            return
        try:
            self._call("TerminateInstances", numbered("InstanceId", tuple(sorted(ids))))
        except Refused as error:
            if not bare(error.code).startswith("InvalidInstanceID"):
                raise

    def _wait_gone(self, name: str, ids: set[str]) -> None:
        deadline = time.monotonic() + self._setup.destroy_wait_s
        for pause_s in _growing(LOOK_AGAIN_S):
            left = [one for one in self._described({"instance-id": tuple(sorted(ids))}) if one.state != "terminated"]
            if not left:
                return
            if time.monotonic() > deadline:
                states = ", ".join(f"{one.id} is {one.state}" for one in left)
                raise DriverError(f"destroy of {name}: not gone yet: {states}", transient=True)
            time.sleep(pause_s)

    # -- what is there -----------------------------------------------------------------------------------------

    def _instances(self, name: str = "") -> list[Instance]:
        """Ours, of one name or all; dead ones too while the place shows them. Oldest first."""
        found = self._described(self._filters(name))
        ours = [one for one in found if self._is_ours(one) and name in ("", one.name, self._name_of_token(one, name))]
        return sorted(ours, key=lambda one: (one.launched, one.id))

    def _filters(self, name: str) -> dict[str, str | tuple[str, ...]]:
        if not self._setup.tags_at_creation:
            return {}  # one without tags, left by a crash, must be found too
        filters: dict[str, str | tuple[str, ...]] = {f"tag:{key}": value for key, value in marks(self._place).items()
                                                     if not set(value) & set("*?\\")}
        if name and not set(name) & set("*?\\"):  # these mean something else in filters
            filters[f"tag:{NODE_TAG}"] = name
        return filters

    def _is_ours(self, one: Instance) -> bool:
        if NODE_TAG in one.tags:
            return (one.tags.get(INSTANCE_TAG), one.tags.get(CLOUD_TAG)) == (self._place.instance, self._place.name)
        return not self._setup.tags_at_creation and one.token.startswith(token_prefix(self._place))

    def _name_of_token(self, one: Instance, name: str) -> str | None:
        """An instance without tags is that name's if its token is the name's first."""
        return name if NODE_TAG not in one.tags and one.token == first_token(self._place, name) else None

    def _described(self, filters: Mapping[str, str | tuple[str, ...]]) -> list[Instance]:
        params = filtered(filters) | ({"MaxResults": PAGE} if self._setup.tags_at_creation else {})
        return [Instance.of(item) for page in self._pages("DescribeInstances", params)
                for item in page.findall("reservationSet/item/instancesSet/item")]

    # -- calls -------------------------------------------------------------------------------------------------

    def _call(self, action: str, params: Mapping[str, str] | None = None) -> ET.Element:
        return _patient(lambda: self._api.call(action, params))

    def _pages(self, action: str, params: Mapping[str, str]) -> Iterator[ET.Element]:
        token = ""
        while True:
            page = self._call(action, {**params, **({"NextToken": token} if token else {})})
            yield page
            token = text_of(page, "nextToken")
            if not token:
                return

    @contextmanager
    def _saying(self, what: str, *secrets: str) -> Iterator[None]:
        """Errors of calls as the engine wants them, without a secret."""
        try:
            yield
        except Refused as error:
            raise _without(driver_error(what, error), self._setup, secrets) from None
        except Unreachable as error:
            raise DriverError(f"{what}: {self._setup.endpoint.url}: {error}", code=base.ENDPOINT, transient=True) from None


def _patient(ask: Callable[[], ET.Element]) -> ET.Element:
    """Too many requests: wait a little, then ask again; a few times."""
    for pause_s in RETRY_S:
        try:
            return ask()
        except Refused as error:
            if meaning(error.code, error.status) != THROTTLED:
                raise
        time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads the load
    return ask()


def _growing(pauses_s: tuple[float, ...]) -> Iterator[float]:
    yield from pauses_s
    while True:
        yield pauses_s[-1]


def _without(error: DriverError, setup: Ec2Setup, secrets: tuple[str, ...]) -> DriverError:
    text = without(error.message, (setup.endpoint.secret_access_key, setup.endpoint.session_token, *secrets))
    return DriverError(text, code=error.code, transient=error.transient, details=error.details)

