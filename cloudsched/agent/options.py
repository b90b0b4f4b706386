"""What was the agent told on its command line and in its environment?"""

from __future__ import annotations

import argparse
import os

from cloudsched.agent import VERSION, log
from cloudsched.agent.wire import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Checked options; ends the program with status 2 and a message when one is wrong."""
    parser = _parser()
    options = parser.parse_args(argv)
    if not options.server:
        parser.error("--server URL is missing (or set CLOUDSCHED_SERVER)")
    try:
        options.address = Address(options.server)
        options.token = _token(options)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if options.slots is not None and options.slots < 1:
        parser.error("--slots must be at least 1")
    options.tags = [tag.strip() for tag in (options.tags or "").split(",") if tag.strip()]
    options.work_dir = os.path.abspath(os.path.expanduser(options.work_dir))
    return options


def _parser() -> argparse.ArgumentParser:
    env = os.environ.get
    parser = argparse.ArgumentParser(
        prog="cloudsched agent", description="Run jobs of a cloudsched server on this machine.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--server", metavar="URL", default=env("CLOUDSCHED_SERVER", ""), help="http://host:port of the server")
    add("--token", help="join token; better in a file or in CLOUDSCHED_AGENT_TOKEN, where no process list shows it")
    add("--token-file", metavar="FILE", help="file that holds the join token")
    add("--name", default=env("CLOUDSCHED_NODE") or None, help="name of the node (default: the server chooses)")
    add("--work-dir", metavar="DIR", default=env("CLOUDSCHED_WORK_DIR", "~/.cloudsched-agent"))
    add("--cores", type=_count, metavar="N", help="cores to offer (default: measured)")
    add("--memory-mb", type=_count, metavar="MB", help="memory to offer (default: measured)")
    add("--storage-gb", type=_count, metavar="GB", help="disk space to offer (default: measured)")
    add("--slots", type=_count, metavar="N", help="at most so many jobs at once (default: as many as there are cores)")
    add("--run-as", metavar="USER", help="become this user before running anything (needs root)")
    add("--tags", metavar="A,B", help="tags of the node")
    add("--grace", type=_seconds, default=5.0, metavar="S", help="seconds between SIGTERM and SIGKILL (default: 5)")
    add("--once", action="store_true", help="end when there is nothing to do")
    add("--orphan-timeout", type=_seconds, default=0.0, metavar="S",
        help="kill all and end when the server was out of reach that long (default: never)")  # fmt: skip
    add("--log-level", choices=sorted(log.LEVELS, key=log.LEVELS.__getitem__), default="info")
    add("--version", action="version", version="cloudsched agent " + VERSION)
    return parser


def _token(options: argparse.Namespace) -> str:
    if options.token:
        return str(options.token).strip()
    if options.token_file:
        with open(options.token_file) as file:
            return file.read().strip()
    # Taken out, so that nothing started from here inherits it.
    return os.environ.pop("CLOUDSCHED_AGENT_TOKEN", "").strip()


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError("must be seconds, 0 or more")
    return value
