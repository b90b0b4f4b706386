"""Which hosts does a list of hosts name?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudsched import settings
from cloudsched.errors import CloudschedError
from cloudsched.settings import hosts

LISTED = ("spark.example.com:7077", "*.example.org", "10.1.0.0/16", "10.2.0.7:8081", "[fd00::1]:80", "node_1", "10.9.0.0/16:80")


@pytest.mark.parametrize(("host", "port", "named"), [
    ("spark.example.com", 7077, True), ("SPARK.example.com.", 7077, True), ("spark.example.com", 7078, False),
    ("example.com", 7077, False), ("spark.example.com.evil", 7077, False), ("a.example.org", 1, True),
    ("a.b.example.org", 1, True), ("example.org", 1, False), (".example.org", 1, False), ("aexample.org", 1, False),
    ("10.1.255.255", 9, True), ("10.2.0.7", 8081, True), ("10.2.0.7", 8082, False), ("::ffff:10.1.2.3", 9, True),
    ("fd00::1", 80, True), ("node_1", 5, True), ("127.0.0.1", 5, False), ("10.9.1.1", 80, True),
    ("10.9.1.1", 81, False), ("10.1", 5, False), ("", 5, False)])
def test_a_host_is_named(host: str, port: int, named: bool) -> None:
    assert hosts.names(LISTED, host, port) is named


@pytest.mark.parametrize("host", ["169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "::ffff:169.254.169.254"])
def test_some_addresses_never_are(host: str) -> None:
    assert not hosts.names(("0.0.0.0/0", "::/0"), host, 80)
    assert hosts.names(("0.0.0.0/0", "::/0"), "127.0.0.1", 80) and hosts.names(("::/0",), "::1", 80)


@pytest.mark.parametrize("text", ["", "a b", "127.1", "2130706433", "0x7f000001", "x.0x1", "a:0", "a:99999", "http://x", "*",
                                  "*.", "a/b", "10.0.0.0/99", "[a]:1", "-a", "a..b"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no host"):
        hosts.parse(text)


def test_the_setting_says_what_is_wrong() -> None:
    flags = {"state": "/nowhere", "dcluster.external_clusters": "good:1, http://bad"}
    with pytest.raises(CloudschedError, match=r"(?s)external_clusters.*'http://bad' is no host"):
        settings.load(flags, environ={})
    flags["dcluster.external_clusters"] = "good:1, 10.0.0.0/8"
    assert settings.load(flags, environ={}).dcluster.external_clusters == ("good:1", "10.0.0.0/8")


@given(st.text(max_size=30), st.text(max_size=30), st.integers(0, 70_000))
def test_any_text_is_taken_or_refused(entry: str, host: str, port: int) -> None:
    try:
        hosts.parse(entry)
    except ValueError:
        return
    assert hosts.names((entry,), host, port) in (True, False)
