"""What do the jobs of the demo count, and is it right? Pure: texts in, requests and verdicts out."""

from __future__ import annotations

import base64
import itertools
import re
from collections import Counter
from importlib import resources
from typing import Any, NamedTuple

VM_TYPES = ("lines", "words")
MEMORY_MB = 128
TOP = 3

# Two counts with the plain tools of any Unix: lines, words and bytes; then the commonest words.
_LINES = "wc -l -w -c < piece.txt"
_WORDS = (
    "tr -cs A-Za-z '\\n' < piece.txt | tr A-Z a-z | sed '/^$/d' | sort | uniq -c | sort -k1,1nr -k2 | "
    f"sed {TOP}q > words.txt; cat words.txt"
)
COMMAND = f"{_LINES} && {_WORDS}"


class Piece(NamedTuple):
    """A part of a text, cut at line ends, and what counting it must give."""

    text: str
    number: int
    content: str
    lines: int
    words: int
    top: tuple[tuple[int, str], ...]

    @property
    def name(self) -> str:
        return f"{self.text}-{self.number:02d}"


def pieces(at_least: int) -> list[Piece]:
    """The shipped texts in `at_least` pieces (a few more where lines do not divide; never less than one line
    each)."""
    texts = demo_texts()
    total = sum(len(content) for content in texts.values())
    found: list[Piece] = []
    for name, content in texts.items():
        share = max(1, -(-at_least * len(content) // total))
        found += [_piece(name, number, part) for number, part in enumerate(_cut(content, share), 1)]
    return found


def demo_texts() -> dict[str, str]:
    """The texts that come with the package: name -> content."""
    folder = resources.files("cloudsched.cli").joinpath("demo_texts")
    files = sorted((one for one in folder.iterdir() if one.name.endswith(".txt")), key=lambda one: one.name)
    return {one.name.removesuffix(".txt"): one.read_text(encoding="ascii") for one in files}


def request(
    piece: Piece, batch: str, number: int, *, users: tuple[str, ...], clouds: list[str]
) -> dict[str, Any]:
    """The piece as a job: users and types take turns, each type on a cloud of its own."""
    kind = number % len(VM_TYPES)
    return {
        "command": ["/bin/sh", "-c", COMMAND],
        "name": piece.name,
        "batch": batch,
        "user": users[number // len(VM_TYPES) % len(users)],
        "vm_type": VM_TYPES[kind],
        "targets": [clouds[kind % len(clouds)]],
        "cores": 1,
        "memory_mb": MEMORY_MB,
        "keep_alive_s": 1,
        "time_limit_s": 60,
        "max_retries": 2,
        "env": {"LC_ALL": "C"},
        "input_files": [
            {
                "name": "piece.txt",
                "size": len(piece.content),
                "content_base64": base64.b64encode(piece.content.encode()).decode(),
            }
        ],
        "output_files": ["words.txt"],
    }


def check(piece: Piece, job: dict[str, Any], output: str) -> str | None:
    """What is wrong with a job's answer; None when it is the count made here."""
    if job["state"] != "succeeded":
        return f"ended as {job['state']}" + (f" ({job['reason']})" if job.get("reason") else "")
    said = [line.split() for line in output.splitlines()]
    counts = [str(number) for number in (piece.lines, piece.words, len(piece.content))]
    wanted = [counts, *([str(n), word] for n, word in piece.top)]
    return None if said == wanted else f"counted {said}, right is {wanted}"


def _cut(content: str, share: int) -> list[str]:
    """`share` runs of whole lines of about the same size; fewer when there are not so many lines."""
    lines = content.splitlines(keepends=True)
    share = min(share, len(lines))
    edges = [len(lines) * at // share for at in range(share + 1)]
    return ["".join(lines[start:end]) for start, end in itertools.pairwise(edges)]


def _piece(text: str, number: int, content: str) -> Piece:
    words = Counter(re.findall(r"[a-z]+", content.lower()))
    top = sorted(((n, word) for word, n in words.items()), key=lambda one: (-one[0], one[1]))[:TOP]
    return Piece(text, number, content, content.count("\n"), len(content.split()), tuple(top))
