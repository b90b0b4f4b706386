"""The door: which key counts for how long, and who comes in without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched import clock
from cloudsched import settings as settings_module
from cloudsched.errors import Conflict, Forbidden, Invalid, RateLimited, Unauthenticated
from cloudsched.services import access, keys
from cloudsched.services.access import Gate, Request
from cloudsched.services.caller import LOCAL_ADMIN, Caller
from cloudsched.store import db, migrations


class Hands:
    """A monotonic clock moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def database(database_url: str) -> Iterator[None]:
    opened = db.open_database(database_url, synchronous="OFF")
    migrations.migrate(opened)
    yield
    opened.close()


@pytest.fixture
def gate_of(tmp_state: Path) -> Callable[..., Gate]:
    def make(**flags: Any) -> Gate:
        return Gate(settings_module.load({"state": str(tmp_state), **flags}, environ={}), monotonic=Hands())

    return make


HERE = Request("127.0.0.1", host="localhost:8100")


def with_key(key: str, address: str = "10.0.0.1") -> Request:
    return Request(address, host="x", api_key=key)


def test_keys_switch_the_door_on_and_off(gate_of: Callable[..., Gate]) -> None:
    gate = gate_of()
    assert gate.caller(HERE) is LOCAL_ADMIN
    made = keys.create("a", "admin", LOCAL_ADMIN)
    gate._monotonic.now += access.CACHE_S + 1  # type: ignore[attr-defined]
    with pytest.raises(Unauthenticated):
        gate.caller(HERE)
    assert gate.caller(with_key(made["key"])) == Caller("a", "admin", "", made["id"])
    keys.revoke(made["id"], LOCAL_ADMIN)
    assert gate.caller(with_key(made["key"])).name == "a"  # for a few seconds
    gate._monotonic.now += access.CACHE_S + 1  # type: ignore[attr-defined]
    with pytest.raises(Unauthenticated):
        gate.caller(with_key(made["key"]))
    assert gate.caller(HERE) is LOCAL_ADMIN


def test_always_and_never(gate_of: Callable[..., Gate]) -> None:
    with pytest.raises(Unauthenticated):
        gate_of(**{"access.require_keys": "yes"}).caller(HERE)
    keys.create("a", "admin", LOCAL_ADMIN)
    assert gate_of(**{"access.require_keys": "no"}).caller(HERE) is LOCAL_ADMIN
    with pytest.raises(Unauthenticated):
        gate_of(**{"listen.native_bind": "0.0.0.0"}).caller(HERE)


def test_an_expired_key_is_none(gate_of: Callable[..., Gate], monkeypatch: pytest.MonkeyPatch) -> None:
    gate = gate_of()
    made = keys.create("a", "admin", LOCAL_ADMIN, ttl_s=60)
    assert gate.caller(with_key(made["key"])).role == "admin"
    later = clock.now() + 61
    monkeypatch.setattr(clock, "now", lambda: later)
    with pytest.raises(Unauthenticated):
        gate.caller(with_key(made["key"]))


def test_failures_are_counted_per_address(gate_of: Callable[..., Gate]) -> None:
    gate = gate_of()
    good = keys.create("a", "admin", LOCAL_ADMIN)["key"]
    gate.caller(with_key(good))
    for number in range(access.FAILURES_MAX):
        with pytest.raises(Unauthenticated):
            gate.caller(with_key(f"cs_{number}"))
    with pytest.raises(RateLimited) as refused:
        gate.caller(with_key("cs_x"))
    assert 0 < refused.value.retry_after_s <= access.FAILURES_WINDOW_S
    assert gate.caller(with_key(good)).name == "a"  # a key that is known to be good goes on
    gate._monotonic.now += access.FAILURES_WINDOW_S + 1  # type: ignore[attr-defined]
    with pytest.raises(Unauthenticated):
        gate.caller(with_key("cs_x"))


@pytest.mark.parametrize(("host", "fine"), [
    ("localhost", True), ("LOCALHOST:8100", True), ("127.0.0.1:1", True), ("[::1]:8100", True), ("", True),
    ("pool.example", True), ("evil.example", False), ("localhost.evil.example", False), ("127.0.0.1.nip.example", False)])
def test_host_names(gate_of: Callable[..., Gate], host: str, fine: bool) -> None:
    gate = gate_of(**{"listen.public_url": "http://pool.example:8100"})
    request = Request("127.0.0.1", host=host)
    if fine:
        assert gate.caller(request) is LOCAL_ADMIN
    else:
        with pytest.raises(Forbidden):
            gate.caller(request)


@pytest.mark.parametrize("user", ["x" * 101, "a\nb", "a\x7fb"])
def test_odd_user_names(gate_of: Callable[..., Gate], user: str) -> None:
    with pytest.raises(Forbidden):
        gate_of().caller(Request("127.0.0.1", user=user))


def test_last_use_is_noted(gate_of: Callable[..., Gate]) -> None:
    made = keys.create("a", "admin", LOCAL_ADMIN)
    gate_of().caller(with_key(made["key"]))
    assert keys.listed(LOCAL_ADMIN)[0]["last_used_at"]


def test_admin_key_file(tmp_state: Path, gate_of: Callable[..., Gate]) -> None:
    file = keys.ensure_admin_key_file(tmp_state)
    key = file.read_text().strip()
    assert file.stat().st_mode & 0o777 == 0o600 and gate_of().caller(with_key(key)).role == "admin"
    assert keys.ensure_admin_key_file(tmp_state) == file and file.read_text().strip() == key
    assert len(keys.listed(LOCAL_ADMIN)) == 1


@pytest.mark.parametrize(("name", "role"), [
    ("", "admin"), ("  ", "admin"), ("a", "king"), ("a\0", "admin"), ("x" * 101, "admin")])
def test_bad_keys(name: str, role: str) -> None:
    with pytest.raises(Invalid):
        keys.create(name, role, LOCAL_ADMIN)


def test_only_admins_make_keys() -> None:
    with pytest.raises(Forbidden):
        keys.create("a", "viewer", Caller("eve", "operator"))
    with pytest.raises(Conflict):
        keys.create("a", "viewer", LOCAL_ADMIN)
