"""What do the reference pages say? Written from the code, so that they cannot be wrong about it.

    python docs/generate.py           writes docs/reference/*.md and etc/cloudsched.toml
    python docs/generate.py --check   exit status 1 when a page differs from what would be written
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cloudsched.settings import LocalCloud  # noqa: E402
from cloudsched.settings.classic import CLASSIC_KEYS, OURS  # noqa: E402
from cloudsched.settings.declare import Key, declared  # noqa: E402
from cloudsched.settings.sections import SECTIONS, shown  # noqa: E402
from cloudsched.settings.sources import variable  # noqa: E402

MADE = "<!-- Made by docs/generate.py from the code; changes here are lost. -->"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Writes the reference pages from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is out of date")
    check = parser.parse_args(argv).check
    stale = [path for path, make in PAGES.items() if not _settle(ROOT / path, make(), check=check)]
    if stale:
        print(f"out of date: {', '.join(stale)}\nrun: python docs/generate.py", file=sys.stderr)
    return 1 if stale else 0


def _settle(path: Path, text: str, *, check: bool) -> bool:
    """Writes the page, or compares it; False when it is out of date."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if before == text:
        return True
    if check:
        sys.stderr.writelines(difflib.unified_diff(before.splitlines(True), text.splitlines(True), str(path),
                                                   "from the code", n=0))
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"written: {path.relative_to(ROOT)}")
    return True


# Settings


def settings_page() -> str:
    parts = [MADE, "# Settings", SETTINGS_INTRODUCTION]
    for section, cls in SECTIONS.items():
        parts.append(f"## [{section}]\n\n{_about(cls)}")
        parts.append(_table(("key", "default", "allowed", "meaning"),
                            (_row(f"{section}.{name}", key, getattr(cls, name))
                             for name, key in declared(cls).items())))
        if section == "local":
            parts.append("Each `[[local.clouds]]` has a `name` and:")
            parts.append(_table(("key", "default", "allowed", "meaning"),
                                (_row(name, key, getattr(LocalCloud, name))
                                 for name, key in declared(LocalCloud).items())))
    parts.append("### Keys of `cloud_scheduler.conf`\n\n" + CLASSIC_INTRODUCTION)
    classic = ((f"`{item.field}`", f"`[{item.section}] {item.name}`", _code(shown(item.default, item.key)),
                item.key.allowed()) for item in CLASSIC_KEYS.values())
    parts.append(_table(("key here", "key there", "default", "allowed"), classic))
    parts.append("These keys of `cloud_scheduler.conf` set one of ours:")
    parts.append(_table(("key there", "key here"),
                        ((f"`{there}`", f"`{here.key}`") for there, here in OURS.items())))
    return "\n\n".join(parts) + "\n"


SETTINGS_INTRODUCTION = """\
A value is taken from the first of these that has it:

1. a flag (`--state DIR`, `--port-offset N`, `--config FILE`, ...)
2. the environment: `CLOUDSCHED_SECTION_KEY`, for instance `CLOUDSCHED_WEB_THREADS=100`; there are two short
   names, `CLOUDSCHED_STATE` and `CLOUDSCHED_PORT_OFFSET`
3. `cloudsched.toml`: the file named by `--config` or `CLOUDSCHED_CONFIG`, else the first that exists of
   `STATE/cloudsched.toml` (when the state directory is given), `~/.config/cloudsched/cloudsched.toml`,
   `/etc/cloudsched/cloudsched.toml`
4. the classic file `cloud_scheduler.conf`
5. the default

`cloudsched config show --origin` tells each value and where it comes from, with file and line.
`cloudsched check` tells what keeps the server from starting. Unknown keys are refused.
`etc/cloudsched.toml` shows every key with its default.
"""

CLASSIC_INTRODUCTION = """\
Every key of the classic file can be set in `[cloud_scheduler]` too, by the name in the first column. Keys
whose name ends in `_s` are in seconds here, even where the classic file counts minutes.
"""


def sample_file() -> str:
    lines = ["# Settings of cloudsched, each with its default. Uncomment what you change.",
             "# docs/reference/settings.md tells the same; `cloudsched config show --origin` tells what",
             "# is in force, and where it comes from."]
    for section, cls in SECTIONS.items():
        lines += ["", f"[{section}]", f"# {_about(cls)}"]
        for name, key in declared(cls).items():
            lines += ["", *_comment(f"{key.doc} Allowed: {key.allowed()}."),
                      *([f"# Default: {key.shown_default}."] if key.shown_default else []),
                      f"# {name} = {_toml(getattr(cls, name))}"]
        if section == "local":
            lines += ["", "# [[local.clouds]]", '# name = "local-a"']
            for name, key in declared(LocalCloud).items():
                lines.append(f"# {name} = {_toml(getattr(LocalCloud, name))}  # {key.doc}")
        if section == "cloud_scheduler":
            lines += ["", "# Keys of cloud_scheduler.conf, in seconds where the name ends in _s:"]
            lines += [f"# {item.field} = {_toml(item.default)}" for item in CLASSIC_KEYS.values()]
    return "\n".join(lines) + "\n"


def _row(name: str, key: Key, default: Any) -> tuple[str, ...]:
    field = name.rpartition(".")[2]
    default_text = key.shown_default or _code(shown(default, key))
    doc = key.doc + (f" Variable: `{variable(name)}`." if len(variable(name)) > 40 else "")
    return (f"`{field}`", default_text, key.allowed(), doc)


def _about(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split())


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return '""'
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"


def _comment(text: str, width: int = 100) -> list[str]:
    lines, line = [], "#"
    for word in text.split():
        if len(line) + len(word) + 1 > width:
            lines.append(line)
            line = "#"
        line += f" {word}"
    return [*lines, line]


# Command line


def command_page() -> str:
    from cloudsched.cli.commands import COMMANDS, EPILOG, build_parser

    overview = ((f"`{name}`", text) for name, (_, text) in COMMANDS.items())
    parts = [MADE, "# Command line", "`cloudsched COMMAND --help` tells the same.",
             _table(("command", "what it does"), overview),
             "```\n" + EPILOG.rstrip() + "\n```"]
    parser = build_parser()
    parts += ["## Options of every client command", _options(parser)]
    common = {option for action in parser._actions for option in action.option_strings}
    for name, command in _subparsers(parser).items():
        parts += _command(f"cloudsched {name}", command, common, level="##")
    return "\n\n".join(part for part in parts if part) + "\n"


def _command(name: str, parser: argparse.ArgumentParser, common: set[str], *, level: str) -> Iterator[str]:
    yield f"{level} {name}"
    yield parser.description or ""
    yield _options(parser, leave_out=common)
    if parser.epilog:
        yield "```\n" + parser.epilog.strip() + "\n```"
    for sub, command in _subparsers(parser).items():
        yield from _command(f"{name} {sub}", command, common, level="###")


def _options(parser: argparse.ArgumentParser, leave_out: set[str] | None = None) -> str:
    rows = [(f"`{_spelling(action)}`", _help(action)) for action in parser._actions
            if not isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
            and action.help is not argparse.SUPPRESS
            and not (leave_out and set(action.option_strings) & leave_out)]
    return _table(("option", "meaning"), rows) if rows else ""


def _spelling(action: argparse.Action) -> str:
    metavar = action.metavar
    value = " ".join(metavar) if isinstance(metavar, tuple) else metavar or action.dest.upper()
    if action.choices and not action.metavar:
        value = "{" + ",".join(str(choice) for choice in action.choices) + "}"
    if not action.option_strings:
        return f"[{value}]" if action.nargs in ("?", "*") else value
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {value}"


def _help(action: argparse.Action) -> str:
    text = action.help or ""
    values = {**vars(action), "prog": "cloudsched"}
    return text % values if re.search(r"%\(|%%", text) else text


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


# Native API


def api_page() -> str:
    """The agreed table of routes; the running server tells the same as OpenAPI at /api/v2/openapi.json."""
    text = (ROOT / "docs" / "design" / "native-api.md").read_text(encoding="utf-8")
    return f"{MADE}\n\n{text.rstrip()}\n"


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{text}`" if text else "(empty)"


PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/settings.md": settings_page,
    "docs/reference/command-line.md": command_page,
    "docs/reference/native-api.md": api_page,
    "etc/cloudsched.toml": sample_file,
}

if __name__ == "__main__":
    sys.exit(main())
