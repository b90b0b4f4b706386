"""Does the source keep the rules that a reader would have to check by eye?"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .source import ROOT, files, modules, name, nodes, tree

LONGEST = 600
PACKAGE = modules("cloudsched")
OTHERS = [path for path in files(".py") if not path.is_relative_to(ROOT / "cloudsched")]

# Words of one dialect, not of the core; and the one thing that core calls by such a word on purpose.
DIALECT_WORDS = {"slave", "slaves", "device", "devices", "cpcnode", "cpcnodes", "vm", "vms", "phone"}
CORE_FOLDERS = ("domain", "store", "services", "engine")
# Where the word "device" is the subject: what a node has that registered itself (docs/design/retire-cluster.md, "Words").
DEVICE_WORDS = {"device", "devices"}
DEVICE_HOMES = {f"cloudsched/{name}.py" for name in (
    "domain/tasks", "engine/devices", "engine/run", "services/agents", "services/contacts", "services/devices",
    "services/figures", "services/fleet_log", "services/joining", "services/pings", "services/registering",
    "services/settling", "services/task_estimates", "services/task_views", "services/tasks", "services/why",
    "services/workers", "store/devices", "store/eventlog", "store/migrations", "store/tables_devices")}
DOCUMENTED = re.compile(r"vm_?types?")

TOO_NEW_FOR_THE_AGENT = {"removeprefix", "removesuffix", "pairwise", "batched", "TaskGroup", "timeout_at"}
TOO_NEW_KEYWORDS = {"zip(strict=)", "dataclass(slots=)", "dataclass(kw_only=)", "Popen(process_group=)"}



def _id(path: Path) -> str:
    return name(path)


@pytest.mark.parametrize("path", PACKAGE, ids=_id)
def test_every_module_says_which_question_it_answers(path: Path) -> None:
    doc = ast.get_docstring(tree(path))
    if tree(path).body:
        assert doc, "a module opens with a docstring"
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= LONGEST or re.search(r"\blong\b", doc), f"{lines} lines: the docstring must say why"


@pytest.mark.parametrize("path", OTHERS, ids=_id)
def test_other_files_are_not_too_long_either(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST or re.search(r"\blong\b", ast.get_docstring(tree(path)) or ""), f"{lines} lines"


def test_print_only_where_a_person_reads_it() -> None:
    silent = set(PACKAGE) - set(modules("cloudsched/cli"))
    calls = ((path, node.lineno) for path in sorted(silent) for node in nodes(path)
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print")
    # Programs that start servers speak before logs exist; each such line says so to the linter.
    found = [f"{name(path)}:{line}" for path, line in calls
             if "noqa: T201" not in path.read_text(encoding="utf-8").splitlines()[line - 1]]
    assert found == []


@pytest.mark.parametrize("path", [*modules("cloudsched/agent"), *modules("cloudsched/logagent")], ids=_id)
def test_the_agents_are_python_3_8(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 8))
    if "->" in source:
        assert "from __future__ import annotations" in source, "annotations must not be evaluated on 3.8"
    used = {node.attr for node in nodes(path) if isinstance(node, ast.Attribute)}
    assert not used & TOO_NEW_FOR_THE_AGENT
    assert list(_too_new_keywords(path)) == []


def test_core_speaks_no_dialect() -> None:
    # Keys of the classic files are read by their own names.
    classic = {identifier for path in modules("cloudsched/classic") for identifier, _ in _identifiers(path)}
    allowed = {identifier for identifier in classic if "_" in identifier}
    core = [path for folder in CORE_FOLDERS for path in modules(f"cloudsched/{folder}")]
    found = sorted({f"{name(path)}:{line} {identifier}"
                    for path in core for identifier, line in _identifiers(path) if identifier not in allowed
                    and (DIALECT_WORDS - (DEVICE_WORDS if name(path) in DEVICE_HOMES else set()))
                    & set(_words(DOCUMENTED.sub("", identifier)))})
    assert found == []


def test_no_path_of_one_machine_is_written_anywhere() -> None:
    """A checkout works wherever it lies: neither its own place nor that of this Python is in a file."""
    # A short place such as /app may well be named in a text for other reasons.
    places = {place for place in (str(ROOT), sys.prefix, sys.base_prefix) if place.count("/") > 1}
    places.discard("/usr/local")
    private = [re.compile(re.escape(place) + r"(?![\w.-])") for place in places]
    found = [f"{name(path)}: {match[0]}" for path in files() for pattern in private
             if (match := pattern.search(_text(path)))]
    assert found == []


def test_modules_are_imported_by_their_package_name() -> None:
    found = [f"{name(path)}:{node.lineno}" for path in PACKAGE for node in nodes(path)
             if isinstance(node, ast.ImportFrom) and node.level > 2]
    assert found == []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def _identifiers(path: Path) -> Iterator[tuple[str, int]]:
    for node in nodes(path):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Name):
            yield node.id, line
        elif isinstance(node, (ast.Attribute,)):
            yield node.attr, line
        elif isinstance(node, (ast.arg, ast.keyword)):
            yield node.arg or "", line
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, line


def _words(identifier: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", identifier)]


def _too_new_keywords(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            for keyword in node.keywords:
                if f"{called}({keyword.arg}=)" in TOO_NEW_KEYWORDS:
                    yield f"{called}({keyword.arg}=) at line {node.lineno}"
        if isinstance(node, ast.Import) and any(item.name in ("tomllib", "zoneinfo", "graphlib")
                                                for item in node.names):
            yield f"import at line {node.lineno}"
