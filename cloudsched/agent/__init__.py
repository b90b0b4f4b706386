"""What runs on a node? Standard library only, Python 3.8 syntax, so that old machines can join."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = "0.1.0"


def agent_main(argv: Sequence[str] | None = None) -> int:
    """Run the agent until it is told to stop; returns the exit status (0 also when the node is gone)."""
    from cloudsched.agent.agent import main

    return main(argv)
