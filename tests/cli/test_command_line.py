"""The command line as a whole: help, exit statuses, interruptions, start-up, completion, local commands."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloudsched.cli.commands import COMMANDS, build_parser
from cloudsched.cli.completion import script
from cloudsched.cli.main import main

from .conftest import Cli
from .fake_api import FakeApi

HEAVY = {"flask", "peewee", "requests", "msgspec", "marshmallow", "cryptography", "dataclasses", "asyncio"}


def _python(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "cloudsched", *words],
        capture_output=True, text=True, check=False, env={**os.environ, **env},
    )  # fmt: skip


@pytest.mark.parametrize("words", [("--help",), ("jobs", "list"), ("submit", "--", "true")])
def test_start_up_loads_little(words: tuple[str, ...], server: str) -> None:
    done = _python(*words)
    assert done.returncode == 0
    loaded = set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))
    assert "argparse" in loaded
    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()
    if words == ("--help",):
        assert "http.client" not in loaded


def test_help_names_every_command_and_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^    {name} ", text, re.MULTILINE) for name in COMMANDS)
    assert "3 server away" in text and "5 not allowed" in text
    assert main([]) == 0


def _leaves(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        return [path]
    return [leaf for action in below for name, inner in action.choices.items() for leaf in _leaves(inner, (*path, name))]


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    leaves = [leaf for leaf in _leaves(build_parser()) if leaf not in {("agent",), ("logagent",), ("simulate",)}]
    assert len(leaves) > 45
    for leaf in leaves:
        assert main([*leaf, "--help"]) == 0
        assert f"cloudsched {leaf[0]}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("nonsense",), ("jobs",), ("jobs", "list", "--limit", "x"), ("--nonsense", "jobs")])
def test_wrong_usage_is_exit_2(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "--help" in capsys.readouterr().err


def test_a_server_that_is_away_is_exit_3_and_says_how_to_start_one(
    free_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDSCHED_STATE", str(tmp_path))
    (tmp_path / "server.json").write_text(f'{{"native_url": "http://127.0.0.1:{free_port}"}}')
    assert main(["jobs", "list"]) == 3
    err = capsys.readouterr().err
    assert f"no answer from http://127.0.0.1:{free_port} (connection refused)" in err
    assert f"the address is from {tmp_path}/server.json" in err
    assert f"cloudsched up --state {tmp_path}" in err


def test_not_allowed_is_exit_5(cli: Cli, api: FakeApi, tmp_path: Path) -> None:
    api.key = "right"
    said = cli("jobs", "list")
    assert said.status == 5 and "a key is needed: --key-file FILE" in said.err
    (tmp_path / "key").write_text("right\n")
    assert cli("--key-file", str(tmp_path / "key"), "jobs", "list").status == 0
    assert cli("jobs", "list", "--key-file", str(tmp_path / "key")).status == 0
    (tmp_path / "key").write_text("wrong\n")
    said = cli("jobs", "list", "--key-file", str(tmp_path / "key"))
    assert said.status == 5 and "wrong" not in said.err


def test_options_stand_before_or_behind_the_command(cli: Cli, server: str) -> None:
    assert cli("--server", server, "--json", "jobs", "list").json == []
    assert cli("jobs", "--help").status == 0
    assert cli("jobs", "list", "--server", "ftp://x").status == 2


def test_ctrl_c_is_clean(cli: Cli, api: FakeApi, server: str) -> None:
    api.add_job(state="running")
    with _as_in_the_foreground():
        process = subprocess.Popen(
            [sys.executable, "-m", "cloudsched", "jobs", "wait", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    try:
        _until(lambda: api.requests or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, "Traceback" in err) == (130, "", False), err


@contextmanager
def _as_in_the_foreground() -> Iterator[None]:
    """A shell without job control starts what stands before `&` with SIGINT ignored, and that is inherited: also by what
    these tests start. A handler of ours is not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _until(done: Callable[[], object], limit_s: float = 60.0) -> None:
    until = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < until, f"not within {limit_s:g} s"
        time.sleep(0.01)


def test_watch_and_follow_end_well_with_ctrl_c(cli: Cli, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def sleep(seconds: float) -> None:
        drawn.append(seconds)
        if len(drawn) == 2:
            raise KeyboardInterrupt

    api.add_job(state="held")
    monkeypatch.setattr("time.sleep", sleep)
    said = cli("jobs", "list", "--watch", "7s")
    assert said.status == 0 and drawn == [7, 7]
    assert said.out.count("ID\tSTATE") == 2


@pytest.mark.parametrize(
    "words", [("events", "--follow"), ("jobs", "logs", "1"), ("jobs", "logs", "-f", "1"), ("logs", "show", "-f", "node:n")]
)
def test_nobody_there_is_no_traceback(
    words: tuple[str, ...], free_port: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setenv("CLOUDSCHED_SERVER_URL", f"http://127.0.0.1:{free_port}")
    assert main([*words]) == 3
    assert "(connection refused); the address is from CLOUDSCHED_SERVER_URL" in capfd.readouterr().err


def test_an_error_of_the_system_is_said_in_words(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cloudsched.client.Client.get", fail)
    said = cli("jobs", "count")
    assert (said.status, said.err) == (1, "cloudsched: No space left on device\n")


def test_a_reader_that_leaves_is_no_error(cli: Cli, api: FakeApi) -> None:
    for _ in range(3000):
        api.add_job(state="held")
    line = f"{sys.executable} -m cloudsched jobs list --all | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout.splitlines()[-1:]) == ("", ["0"])


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudsched.cli.screen import Screen

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Screen(width=80).paint("x", "red") == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert Screen(width=80).paint("x", "red") == "x"


def test_completion_in_bash_completes(tmp_path: Path) -> None:
    path = tmp_path / "completion.bash"
    path.write_text(script("bash"))
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    for typed, wanted in (
        (["cloudsched", "jo"], {"jobs"}),
        (["cloudsched", "jobs", "can"], {"cancel"}),
        (["cloudsched", "--json", "clouds", "add", "x", "--dry"], {"--dry-run"}),
        (["cloudsched", "jobs", "list", "--of-state", "su"], {"succeeded"}),
        (["cloudsched", "completion", ""], {"bash", "zsh", "fish"}),
    ):
        words = " ".join(f"'{word}'" for word in typed)
        code = f'source {path}; COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; _cloudsched; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
        assert wanted <= set(done.stdout.split()), done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_of_other_shells_is_accepted_by_them(shell: str, tmp_path: Path) -> None:
    text = script(shell)
    for word in ("submit", "of-state", "dry-run", "succeeded"):
        assert word in text
    if shutil.which(shell) is None:
        plain = text.replace("'\"'\"'", "").replace("\\'", "")  # an apostrophe inside quotes, in each shell's way
        assert plain.count("'") % 2 == 0
        return
    path = tmp_path / "script"
    path.write_text(text)
    assert subprocess.run([shell, "-n", str(path)], check=False).returncode == 0


@pytest.mark.parametrize("command", ["up", "serve", "engine"])
def test_servers_are_started_lazily(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    app = types.ModuleType("cloudsched.app")
    setattr(app, f"run_{command}", lambda args: seen.append(args) or 7)
    monkeypatch.setitem(sys.modules, "cloudsched.app", app)
    demo = ["--demo"] if command == "up" else []
    assert main([command, "--state", "/s", "--port-offset", "5", "--config", "c", "--log-level", "debug", *demo]) == 7
    (args,) = seen
    assert (args.state, args.port_offset, args.config, args.log_level) == ("/s", 5, "c", "DEBUG")
    assert getattr(args, "demo", None) is (True if command == "up" else None)


def test_the_agent_gets_its_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = types.ModuleType("cloudsched.agent")
    seen = []
    agent.agent_main = lambda argv: seen.append(argv) or 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cloudsched.agent", agent)
    assert main(["agent", "--server", "u", "--help", "--anything"]) == 0
    assert seen == [["--server", "u", "--help", "--anything"]]


@pytest.mark.parametrize(
    ("words", "calls"),
    [
        (["migrate"], [("migrate",)]),
        (["rebuild"], [("rebuild",)]),
        (["backup", "to.db"], [("backup", "to.db")]),
        (["restore", "from.db", "--yes"], [("restore", "from.db")]),
    ],
)
def test_db(words: list[str], calls: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
            capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    seen: list[tuple[str, ...]] = []
    admin = _admin(monkeypatch)
    for name in ("migrate", "backup", "restore", "rebuild"):
        setattr(admin, name, lambda settings, *rest, name=name: seen.append((name, *rest)))
    assert main(["db", *words, "--state", str(tmp_path)]) == 0
    assert seen == calls
    assert capsys.readouterr().out == f"{words[0]}: done\n"


def test_db_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    admin = _admin(monkeypatch)
    admin.check = lambda settings: [("pages", True, ""), ("rows", False, "3 orphans")]  # type: ignore[attr-defined]
    assert main(["db", "check", "--state", str(tmp_path)]) == 1
    assert capsys.readouterr().out == "CHECK\tRESULT\tDETAIL\npages\tok\t-\nrows\trefused\t3 orphans\n"


def _admin(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    admin = types.ModuleType("cloudsched.store.admin")
    monkeypatch.setitem(sys.modules, "cloudsched.store.admin", admin)
    return admin


def test_config_show_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int) -> None:
    local = ["--state", str(tmp_path), "--port-offset", "300"]
    assert main(["config", "show", "listen.port_offset", "--origin", *local]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "SETTING\tVALUE\tORIGIN"
    assert out[1].startswith("listen.port_offset\t300\tflag")
    assert main(["config", "show", "nothing.there", *local]) == 1
    assert "no such setting" in capsys.readouterr().err
    assert main(["config", "show", "listen", "--json", *local]) == 0
    assert '"key":"listen.native"' in capsys.readouterr().out
    for words in (["check"], ["config", "check"]):
        assert main([*words, *local]) in (0, 1)
        assert "state.dir" in capsys.readouterr().out


def test_bad_settings_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text("[web]\nworkers = 'many'\n")
    assert main(["config", "show", "--config", str(tmp_path / "c.toml"), "--state", str(tmp_path)]) == 2
    assert "web.workers" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["jobs", "nodes", "clouds"])
def test_the_line_of_help_names_all_verbs(command: str) -> None:
    parser = build_parser(command)
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    (actions,) = (one for one in commands.choices[command]._actions if isinstance(one, argparse._SubParsersAction))
    assert set(COMMANDS[command][1].split(", ")) == set(actions.choices)
