"""How does the agent travel? As one file: a zipapp of the two agents, which any Python 3.8 or later runs.

The same sources give the same bytes, so that a host's copy is compared by its digest. `python3 agent.pyz ...` is
`cloudsched agent ...`; `python3 agent.pyz logagent ...` is `cloudsched logagent ...`.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from functools import cache
from pathlib import Path

import cloudsched

FILE_NAME = "agent.pyz"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_PACKAGES = ("agent", "logagent")
_SHEBANG = b"#!/usr/bin/env python3\n"
_MAIN = """import sys

if sys.argv[1:2] == ["logagent"]:
    from cloudsched.logagent import logagent_main

    sys.exit(logagent_main(sys.argv[2:]))
if sys.argv[1:2] == ["agent"]:
    del sys.argv[1]
from cloudsched.agent import agent_main

sys.exit(agent_main(sys.argv[1:]))
"""


@cache
def agent_pyz() -> bytes:
    """The file's bytes, made once for each process (some 70 kB, some milliseconds)."""
    root = Path(cloudsched.__file__).parent
    written = io.BytesIO(_SHEBANG)
    written.seek(0, io.SEEK_END)
    with zipfile.ZipFile(written, "a", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "__main__.py", _MAIN.encode())
        _add(archive, "cloudsched/__init__.py", (root / "__init__.py").read_bytes())
        for package in _PACKAGES:
            for path in sorted((root / package).rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    _add(archive, f"cloudsched/{path.relative_to(root).as_posix()}", path.read_bytes())
    return written.getvalue()


@cache
def agent_digest() -> str:
    """SHA-256 of `agent_pyz()`, in hex."""
    return hashlib.sha256(agent_pyz()).hexdigest()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)
