"""What was the agent told on its command line and in its environment?"""

from __future__ import annotations

import argparse
import os
import re
import shutil

from cloudsched.agent import VERSION, log, policies, tasks
from cloudsched.agent.wire import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Checked options; ends the program with status 2 and a message when one is wrong."""
    parser = _parser()
    options = parser.parse_args(argv)
    options.device = bool(options.join or options.device_id or options.role)
    if options.join:
        from cloudsched.agent import doors

        try:
            options.server = doors.find(options.join)
        except ValueError as error:
            parser.error("--join: %s" % error)
        except OSError as error:
            parser.exit(1, "%s: --join: %s\n" % (parser.prog, error))
    if not options.server:
        parser.error("--join HOST[:PORT] or --server URL is missing (or set CLOUDSCHED_SERVER)")
    try:
        _as_device(options)
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
    add("--data-dir", dest="work_dir", metavar="DIR", default=argparse.SUPPRESS, help="the same as --work-dir")
    add("--debug", dest="log_level", action="store_const", const="debug", default=argparse.SUPPRESS, help="--log-level debug")
    _add_device(parser)
    add("--version", action="version", version="cloudsched agent " + VERSION)
    return parser


def _add_device(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("as a device of a Retire-Cluster").add_argument
    add("--join", metavar="HOST[:PORT]", help="the server: its address, or any of its ports (default port: 8080)")
    add("--test", action="store_true", help="show the profile, try the connection, and end (status 1: it failed)")
    add("--device-id", metavar="ID", type=_device_id, help="default: system-hostname-machine")
    add("--role", metavar="ROLE", help="worker, compute, storage, mobile, nas, or another word (default: by what it is)")
    add("--heartbeat-interval", type=_seconds, metavar="S", help="seconds between heartbeats (default: what the server says)")
    add("--allow", action="append", default=[], choices=(*tasks.ON_DEMAND, "command"), metavar="TYPE",
        help="allow tasks of this type: http_request, python_eval; command: batch jobs, which run any program")  # fmt: skip
    add("--program", action="append", type=_program, metavar="NAME[=PATH]", help="allow command tasks to start this program")
    add("--handler", action="append", type=_handler, metavar="TYPE=PATH",
        help="a task type of your own: the program gets the payload as JSON and prints the result")  # fmt: skip
    add("--allow-private", action="store_true", help="let http_request reach private and local addresses")
    add("--battery-min", type=float, default=0.0, metavar="%", help="take no work below this charge while not charging")
    add("--battery-resume", type=float, metavar="%", help="go on at this charge (default: 10 more)")
    add("--temperature-max", type=float, default=0.0, metavar="C", help="take no work above this temperature")
    add("--temperature-resume", type=float, metavar="C", help="go on at this temperature (default: 5 less)")
    add("--only-charging", action="store_true", help="take work only while the battery charges")


def _device_id(text: str) -> str:
    if not re.match(r"[A-Za-z0-9._:@-]{1,128}\Z", text) or text == "summary":
        raise argparse.ArgumentTypeError("%r is no id: 1 to 128 of A-Z a-z 0-9 . _ : @ -" % text)
    return text


def _as_device(options: argparse.Namespace) -> None:
    """What the owner of the machine allows, and when it works. ValueError names the option."""
    programs, handlers = dict(options.program or []), dict(options.handler or [])
    batch = not options.device or "command" in options.allow
    options.rules = tasks.Rules(allow=options.allow, programs=programs, handlers=handlers, batch=batch,
                                private_addresses=options.allow_private)
    options.policies = policies.Policies(
        battery_min=options.battery_min, battery_resume=options.battery_resume, temperature_max=options.temperature_max,
        temperature_resume=options.temperature_resume, only_charging=options.only_charging)
    if not options.device:
        return
    from cloudsched.agent import device

    options.device_id = options.device_id or options.name or device.default_id()
    options.role = options.role or device.default_role()
    options.slots = options.slots or 2  # contract 10.1: the default of max_concurrent_tasks


def _program(text: str) -> tuple[str, str]:
    """NAME or NAME=PATH; what it stands for must be there."""
    name, _, path = text.partition("=")
    found = shutil.which(path or name)
    if not name or found is None:
        raise argparse.ArgumentTypeError("%r is no program that can be started here" % text)
    return name, os.path.abspath(found)


def _handler(text: str) -> tuple[str, str]:
    """TYPE=PATH."""
    name, sign, path = text.partition("=")
    if not sign or not re.match(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}\Z", name) or name in _TAKEN:
        raise argparse.ArgumentTypeError("%r is not TYPE=PROGRAM with a type of your own" % text)
    return _program("%s=%s" % (name, path))


_TAKEN = frozenset(tasks.SAFE + tasks.ON_DEMAND + tasks.BATCH + ("program", "execute_command", "shell_command"))


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
