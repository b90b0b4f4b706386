"""Is a host believed only when its key is the known one?"""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.ssh import hostkeys
from cloudsched.drivers.ssh.hostkeys import HostKey, HostKeyRefused, check
from cloudsched.drivers.ssh.targets import Target


def key(seed: str, kind: str = "ssh-ed25519") -> HostKey:
    return HostKey(kind, base64.b64encode(seed.encode() * 8).decode())


GOOD, EVIL = key("good"), key("evil")


def target(path: Path, **facts: object) -> Target:
    return replace(Target("h", known_hosts=str(path)), **facts)  # type: ignore[arg-type]


def test_the_first_key_is_pinned_and_no_other_accepted_after(tmp_path: Path) -> None:
    pins = tmp_path / "deep" / "pins"
    check(target(pins), GOOD)
    assert pins.read_text() == f"h {GOOD.type} {GOOD.text}\n"
    assert pins.stat().st_mode & 0o777 == 0o600
    check(target(pins), GOOD)
    for other in (EVIL, key("evil", "ssh-rsa"), key("good", "ssh-rsa")):
        with pytest.raises(HostKeyRefused) as caught:
            check(target(pins), other)
        said = str(caught.value)
        assert GOOD.fingerprint in said and other.fingerprint in said and f"ssh-keygen -R 'h' -f {pins}" in said
        assert (caught.value.code, caught.value.transient, caught.value.key_type) == (base.AUTH, False, other.type)
    assert pins.read_text().count("\n") == 1


def test_hosts_and_ports_are_pinned_apart(tmp_path: Path) -> None:
    pins = tmp_path / "pins"
    check(target(pins), GOOD)
    check(target(pins, port=2222), EVIL)
    check(target(pins, host="other"), EVIL)
    assert [line.split()[0] for line in pins.read_text().splitlines()] == ["h", "[h]:2222", "other"]


def test_of_many_at_once_one_pins(tmp_path: Path) -> None:
    pins = tmp_path / "pins"
    outcomes: list[str] = []

    def meet(number: int) -> None:
        try:
            check(target(pins), key(f"k{number}"))
            outcomes.append("pinned")
        except HostKeyRefused:
            outcomes.append("refused")

    threads = [threading.Thread(target=meet, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["pinned"] + ["refused"] * 11
    assert pins.read_text().count("\n") == 1


def test_a_known_hosts_file_is_never_written(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    strict = target(file, host_key_policy="known_hosts")
    with pytest.raises(HostKeyRefused, match="no host key is known") as caught:
        check(strict, GOOD)
    assert f"h {GOOD.type} {GOOD.text}" in str(caught.value)
    assert not file.exists()
    file.write_text(f"h {GOOD.type} {GOOD.text} a comment\n")
    check(strict, GOOD)
    with pytest.raises(HostKeyRefused, match="expected was"):
        check(strict, EVIL)


def test_forms_of_names_in_a_file(tmp_path: Path) -> None:
    salt = b"0123456789abcdefghij"
    hashed = "|1|{}|{}".format(*(base64.b64encode(one).decode() for one in (salt, hmac.new(salt, b"h", "sha1").digest())))
    for names, fits in ((hashed, True), ("a,h", True), ("*", True), ("?", True), ("*,!h", False), ("H", True), ("[h]:22", False),
                        ("h.example", False), (hashed[:-4] + "AAA=", False)):  # fmt: skip
        file = tmp_path / "known_hosts"
        file.write_text(f"# comment\n\n{names} {GOOD.type} {GOOD.text}\nbroken line\nx ssh-rsa not-base64!\n")
        assert bool(hostkeys.known_keys(file, "h")[0]) is fits, names
    file.write_text(f"[h]:2222 {GOOD.type} {GOOD.text}\n@cert-authority * {EVIL.type} {EVIL.text}\n")
    assert hostkeys.known_keys(file, "[h]:2222") == ([GOOD], [])


def test_a_revoked_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"@revoked * {EVIL.type} {EVIL.text}\nh {GOOD.type} {GOOD.text}\n")
    check(target(file), GOOD)
    for name in ("h", "new"):
        with pytest.raises(HostKeyRefused, match=r"revoked|no host key is known"):
            check(target(file, host=name), EVIL)


def test_pinned_keys_and_fingerprints_of_the_configuration(tmp_path: Path) -> None:
    digest = base64.b64encode(hashlib.sha256(base64.b64decode(GOOD.text)).digest()).decode().rstrip("=")
    assert GOOD.fingerprint == f"SHA256:{digest}"
    for given in (f"{GOOD.type} {GOOD.text} me@here", GOOD.fingerprint, f"{EVIL.type} {EVIL.text}\n{GOOD.fingerprint}"):
        check(Target("h", host_key=given), GOOD)
    for given in (f"{EVIL.type} {EVIL.text}", EVIL.fingerprint):
        with pytest.raises(HostKeyRefused, match="change the option host_key") as caught:
            check(Target("h", host_key=given), GOOD)
        assert EVIL.fingerprint in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_known_type_is_asked_for_first(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    rsa = key("r", "ssh-rsa")
    file.write_text(f"h {rsa.type} {rsa.text}\n")
    assert hostkeys.preferred_types(target(file)) == ["rsa-sha2-512", "rsa-sha2-256"]
    assert hostkeys.preferred_types(target(file, host="new")) == []
    assert hostkeys.by_fingerprint_alone(Target("h", host_key=GOOD.fingerprint))


def test_without_a_file_nothing_is_trusted() -> None:
    with pytest.raises(DriverError, match="known_hosts or host_key"):
        check(Target("h"), GOOD)
