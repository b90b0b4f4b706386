"""What runs on a node? Standard library only, Python 3.8 syntax, so that old machines can join."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = "0.1.0"


def worker_main(argv: Sequence[str] | None = None) -> int:
    """`retire-cluster-worker`: the same agent, as a device; `--test HOST[:PORT]` is `--join HOST[:PORT] --test`."""
    import sys

    words = list(sys.argv[1:] if argv is None else argv)
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--test=") else [word])]
    if "--test" in words and "--join" not in words:
        words[words.index("--test")] = "--join"
        words.append("--test")
    if not any(word.split("=")[0] in ("--work-dir", "--data-dir") for word in words):
        words += ["--data-dir", "~/.retire-cluster/worker"]
    return agent_main(words)


def agent_main(argv: Sequence[str] | None = None) -> int:
    """Run the agent until it is told to stop; returns the exit status (0 also when the node is gone)."""
    from cloudsched.agent.agent import main

    return main(argv)
