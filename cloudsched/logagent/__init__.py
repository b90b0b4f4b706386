"""What collects logs on a node? Standard library only, Python 3.8 syntax; imports nothing of the server."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = "0.1.0"


def logagent_main(argv: Sequence[str] | None = None) -> int:
    """Run the log agent until SIGTERM or SIGINT; returns the exit status (2: the configuration is wrong)."""
    from cloudsched.logagent.agent import main

    return main(argv)
