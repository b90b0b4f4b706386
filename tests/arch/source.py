"""Which files belong to the project, and what do their syntax trees say?"""

from __future__ import annotations

import ast
import functools
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_OUTSIDE = {".git", ".venv", "build", "dist", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache",
            ".hypothesis", ".import_linter_cache", "node_modules", ".cloudsched", "state"}


def files(*suffixes: str) -> Iterator[Path]:
    """All files of the checkout with one of these suffixes; all files when none is given."""
    return (path for path in _all() if not suffixes or path.suffix in suffixes)


@functools.cache
def _all() -> tuple[Path, ...]:
    found = []
    for folder, below, names in os.walk(ROOT):
        below[:] = [item for item in below if item not in _OUTSIDE and not item.endswith(".egg-info")
                    and not item.startswith(".venv")]
        found += [Path(folder, item) for item in names]
    return tuple(sorted(found))


def modules(folder: str) -> list[Path]:
    """The Python files under a folder of the checkout."""
    return [path for path in files(".py") if path.is_relative_to(ROOT / folder)]


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every node of the file's tree."""
    return tuple(ast.walk(tree(path)))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
