"""Are hosts, accounts and options read as they are meant, and refused by name when they are wrong?"""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from cloudsched.drivers.base import DriverError, Place
from cloudsched.drivers.ssh import make, opening, shell
from cloudsched.drivers.ssh.facts import parse_facts
from cloudsched.drivers.ssh.hosts import hosts_of, plain_name
from cloudsched.drivers.ssh.options import Options
from cloudsched.drivers.ssh.targets import Target, split_host, target_from
from cloudsched.errors import Invalid

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----"
PIN = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAIIIfWoCLHDowUbb8Txjm+CVeorsuKmDTpQo7858tGY"


def place(**options: Any) -> Place:
    return Place("c", "SSH", {"hosts": ["h"], **options}, {"password": "p"}, state_dir="/nowhere", server_url="http://s:1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("h", ("", "h", 0)), ("h:2222", ("", "h", 2222)), ("me@h:22", ("me", "h", 22)), ("[::1]:2022", ("", "::1", 2022)),
     ("fe80::1%eth0", ("", "fe80::1%eth0", 0)), ("a@b@h", ("a@b", "h", 0)), (" h.example.org ", ("", "h.example.org", 0))],
)  # fmt: skip
def test_host_texts(text: str, expected: tuple[str, str, int]) -> None:
    assert split_host(text) == expected


@pytest.mark.parametrize("text", ["", "h:", "h:0", "h:70000", "h:x", "[::1", "[::1]x", "a b", "h;rm", "-oProxyCommand=x", "@"])
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(Invalid, match=r"host|port"):
        split_host(text)


def test_a_target_takes_options_and_credentials() -> None:
    target = target_from({"user": "me", "port": "2200", "sudo": "yes", "host_key": PIN, "connect_timeout_s": 3},
                         {"password": "p", "key": KEY, "sudo_password": "s"}, "h", pins="/pins")  # fmt: skip
    assert (target.host, target.port, target.user, target.sudo, target.connect_timeout_s) == ("h", 2200, "me", True, 3.0)
    assert (target.host_key, target.known_hosts, target.host_key_policy) == (PIN, "/pins", "pin")
    assert target_from({"user": "me", "port": 1}, {}, "you@h:2", pins="/p").label == "h:2"
    assert target_from({"known_hosts": "/k"}, {}, "h").host_key_policy == "known_hosts"


def test_jump_hosts_form_a_chain_and_have_credentials_of_their_own() -> None:
    target = target_from({"user": "me", "jump": "gate, you@inner:2222", "sudo": True},
                         {"password": "p", "jump_password": "q", "sudo_password": "s"}, "h", pins="/pins")  # fmt: skip
    inner = target.jump
    assert inner is not None and inner.jump is not None
    assert (inner.label, inner.user, inner.password, inner.sudo, inner.sudo_password) == ("inner:2222", "you", "q", False, "")
    assert (inner.jump.label, inner.jump.user, inner.jump.jump, inner.known_hosts) == ("gate", "me", None, "/pins")
    table = target_from({"jump": {"host": "gate", "user": "g", "port": 99}}, {"password": "p"}, "h", pins="/pins").jump
    assert table is not None and (table.label, table.user, table.password) == ("gate:99", "g", "p")


@pytest.mark.parametrize(
    ("options", "field"),
    [({"port": 0}, "port"), ({"port": "x"}, "port"), ({"port": True}, "port"), ({"user": "a b"}, "user"),
     ({"sudo": "perhaps"}, "sudo"), ({"host_key": "ssh-ed25519"}, "host_key"), ({"host_key": "SHA256:short"}, "host_key"),
     ({"host_key_policy": "accept"}, "host_key_policy"), ({"host_key_policy": "known_hosts"}, "known_hosts"),
     ({"connect_timeout_s": 0}, "connect_timeout_s"), ({"jump": "a b"}, "jump"), ({"jump": {"user": "x"}}, "jump"),
     ({"jump": "a,b,c,d,e"}, "jump"), ({"key": KEY}, "key"), ({"known_hosts": ["x"]}, "known_hosts")],
)  # fmt: skip
def test_wrong_options_are_refused_by_name(options: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid, match=f"^{field}: ") as caught:
        target_from(options, {}, "h")
    assert "c2VjcmV0" not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    target = target_from({"jump": "gate"}, {"password": "p1", "key": KEY, "key_passphrase": "p2", "sudo_password": "p3",
                                            "jump_password": "p4"}, "h", pins="/pins")  # fmt: skip
    shown = repr(target)
    assert not [secret for secret in ("p1", "p2", "p3", "p4", "PRIVATE") if secret in shown]
    assert set(target.secrets) == {"p1", "p2", "p3", "p4", KEY}
    text = str(opening.explained(target, OSError(5, "it said p1 and p4")))
    assert "p1" not in text and "p4" not in text and "***" in text


def test_hosts_of_a_cloud() -> None:
    table = {"host": "b", "port": 2222, "user": "bob", "cores": 4, "machines": "2", "work_dir": "/w", "host_key": PIN}
    hosts = hosts_of(place(hosts=["a", "me@c:99", table], user="al", work_dir="~/x", sudo=True))
    assert [(host.label, host.target.user, host.work_dir, host.target.sudo) for host in hosts] == [
        ("a", "al", "~/x", True), ("c:99", "me", "~/x", True), ("b:2222", "bob", "/w", True)]  # fmt: skip
    assert hosts[2].limits == {"cores": 4, "memory_mb": 0, "storage_gb": 0, "machines": 2}
    assert hosts[0].target.known_hosts == "/nowhere/ssh/known_hosts-c"


@pytest.mark.parametrize("text", ["a, b:2222", "a\nb:2222", '["a", {"host": "b", "port": 2222}]'])
def test_hosts_as_text(text: str) -> None:
    assert [host.label for host in hosts_of(place(hosts=text))] == ["a", "b:2222"]


def test_one_host_may_have_its_own_password() -> None:
    made = Place("c", "SSH", {"hosts": ["a", "b:2"]}, {"password": "common", "password@b:2": "own"}, state_dir="/s")
    assert [host.target.password for host in hosts_of(made)] == ["common", "own"]


@pytest.mark.parametrize(
    ("hosts", "field"),
    [(None, "hosts"), ([], "hosts"), (7, "hosts"), (["a", "a"], r"hosts\[1\]"), ([{"port": 1}], r"hosts\[0\]: host"),
     ([{"host": "a", "cpus": 1}], r"hosts\[0\]: cpus"), (["a", {"host": "b", "cores": -1}], r"hosts\[1\]: cores"),
     ([{"host": "a", "work_dir": "relative"}], "work_dir"), ([{"host": "a", "password": "p"}], "password"), (["a:x"], "port")],
)  # fmt: skip
def test_wrong_hosts_are_refused_by_name(hosts: Any, field: str) -> None:
    with pytest.raises(Invalid, match=field):
        hosts_of(place(hosts=hosts))


@pytest.mark.parametrize(("name", "value"), [("log_level", "loud"), ("orphan_timeout_s", "x"), ("server_url", "ftp://x")])
def test_wrong_options_of_the_cloud(name: str, value: str) -> None:
    with pytest.raises(Invalid, match=f"^{name}: "):
        Options.of(place(**{name: value}))
    with pytest.raises(Invalid, match="state_dir"):
        make(Place("c", "SSH", {"hosts": ["h"]}))


def test_any_cloud_name_is_a_file_name() -> None:
    names = ["a", "a b", "a/b", "..", ".x", "ü" * 200, "x" * 300, "a+b", "a~b"]
    plain = [plain_name(name) for name in names]
    assert len(set(plain)) == len(names)
    assert all("/" not in one and not one.startswith(".") and len(one) < 200 for one in plain)


@pytest.mark.parametrize("key", ["no key at all PRIVATE KEY", KEY, "/no/such/file", "/etc/passwd"])
def test_a_key_that_is_none_says_so_without_showing_it(key: str) -> None:
    with pytest.raises(DriverError, match="key") as caught:
        opening.load_key(Target("h", key=key))
    assert "c2VjcmV0" not in str(caught.value) and "root:" not in str(caught.value)
    assert caught.value.code == -1


def test_nothing_of_a_command_is_in_the_command_line() -> None:
    mark = shell.new_mark()
    line = shell.around(mark, timeout_s=1.5, sudo="password")
    sent = shell.script(mark, ["echo", "a b", "'"], {"TOKEN": "top secret"})
    assert "top secret" not in line and "echo a" not in line and "\n" not in line and "!" not in line
    assert sent.decode() == f"export TOKEN='top secret'\nexec echo 'a b' ''\"'\"''\n{mark}\n"


@pytest.mark.parametrize(("command", "env"), [("", {}), (" ", {}), ("a\0b", {}), ("x", {"A-B": ""}), ("x", {"A": "\0"})])
def test_commands_that_cannot_be_sent(command: str, env: dict[str, str]) -> None:
    with pytest.raises(DriverError, match=r"command|env") as caught:
        shell.script("mark", command, env)
    assert caught.value.code == 1


@pytest.mark.parametrize(("pid", "killed"), [(0, []), (-1, []), (1, []), (2**22 + 1, [str(2**22 + 1)])])
def test_what_is_not_known_is_not_killed(pid: int, killed: list[str]) -> None:
    """To `kill`, 0 is its own group and -1 is everything there is."""
    script = shell.kill_script(shell.new_mark(), pid)
    for lines in (script, script.replace("/proc/self/environ", "/no/such/file")):
        dry = lines.replace("kill -9", "echo killed")
        done = subprocess.run(["/bin/sh", "-c", dry], capture_output=True, text=True, check=True)
        assert [line.split()[-1].lstrip("-") for line in done.stdout.splitlines()] == killed


def test_facts_are_read_from_what_the_host_says() -> None:
    text = ("noise\nhostname=web1\nkernel=Linux 6.1\narch=x86_64\nos=Debian GNU/Linux 12\ncores=8\nmemory_kb=16384000\n"
            "memory_bytes=\nfree_kb=2048\ndisk=100000000 40000000\nload=0.5\nuptime=77.1\nuser=me\nuid=1000\nhome=/home/me\n"
            "python=3.6.8 /usr/bin/python3\npython=3.9.2 /usr/bin/python3.9\n")  # fmt: skip
    facts = parse_facts("h", text)
    assert (facts.cores, facts.memory_mb, facts.disk_gb, facts.disk_free_gb, facts.uid) == (8, 16000, 100, 40, 1000)
    assert (facts.python, facts.python_version, facts.python_problem) == ("/usr/bin/python3.9", "3.9.2", "")
    old = parse_facts("h", "arch=armv7l\npython=3.6.8 /usr/bin/python3\n")
    assert (old.python, old.cores) == ("", 1) and "3.6.8; 3.8 or later is needed" in old.python_problem
    assert "there is no Python" in parse_facts("h", "arch=x\n").python_problem
    with pytest.raises(DriverError, match="cannot be read"):
        parse_facts("h", "This account is currently not available.\n")
