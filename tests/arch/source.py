"""Which files belong to the project, and what do their syntax trees say?"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_OUTSIDE = {".git", ".venv", "build", "dist", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache",
            ".hypothesis", ".import_linter_cache", "node_modules", ".cloudsched", "state"}


def files(*suffixes: str) -> Iterator[Path]:
    """All files of the checkout with one of these suffixes; all files when none is given."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if _OUTSIDE & set(parts) or any(part.endswith(".egg-info") for part in parts):
            continue
        if path.is_file() and (not suffixes or path.suffix in suffixes):
            yield path


def modules(folder: str) -> list[Path]:
    """The Python files under a folder of the checkout."""
    return [path for path in files(".py") if path.is_relative_to(ROOT / folder)]


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
