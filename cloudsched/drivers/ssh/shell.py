"""What does the host's shell get to see of a command? The words around it; the command itself comes on standard input.

The account's shell is asked for `/bin/sh` with a fixed program that reads the command, line by line up to a mark, from
standard input and evaluates it there. So neither the command nor its environment is in any process list; whatever the
account's shell is, the command is read by a POSIX shell; and the line that says "begun" tells a command that failed
from one that was never started (a wrong sudo password, an account without a shell).

All processes of a run carry `CLOUDSCHED_RUN=<mark>` in their environment: a hung command is found and killed by it, also
what has left its process group. `timeout`, where the host has it, ends the command by itself when the connection is lost.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from math import ceil

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError

MARK = "CLOUDSCHED_RUN"
SPARE_S = 10  # the host's own limit is later than ours: ours gives the better message

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# No newline and no exclamation mark in it: a C shell may have to pass it on.
_READER = ('n=$(printf "\\nx"); n=${n%x}; s=; k=; while IFS= read -r l; do if [ "$l" = MARK ]; then k=1; break; fi; '
           's=$s$l$n; done; unset l n; [ "$k" ] || exit 255; unset k; eval "$s"')
_AROUND = ("CLOUDSCHED_RUN=MARK; export CLOUDSCHED_RUN; echo MARK $$; "
           "if timeout -s KILL 1 true 2>/dev/null </dev/null; then timeout -s KILL LIMIT /bin/sh -c \"$1\"; "
           'else /bin/sh -c "$1"; fi; exit $?')
# What has shed its environment is found as long as its parents live: the tree goes with the first look.
_KILL = r"""
if [ ! -r /proc/self/environ ]; then
  [ {pid} -gt 1 ] && kill -9 -- -{pid} 2>/dev/null
  exit 0
fi
pairs=$(cat /proc/[0-9]*/stat 2>/dev/null | sed 's/^\([0-9]*\) (.*) [A-Za-z] \([0-9]*\) .*/\1:\2/')
tree={pid}
more=1
[ {pid} -gt 1 ] || {{ tree=; more=; }}
while [ "$more" ]; do
  more=
  for x in $pairs; do
    case " $tree " in *" ${{x%:*}} "*) continue;; esac
    case " $tree " in *" ${{x#*:}} "*) tree="$tree ${{x%:*}}"; more=1;; esac
  done
done
for p in $tree; do kill -9 $p 2>/dev/null; done
i=0
while [ $i -lt 50 ]; do
  left=
  for f in $(grep -l {variable}={mark} /proc/[0-9]*/environ 2>/dev/null); do
    p=${{f#/proc/}}; p=${{p%/environ}}
    case $(cut -d' ' -f3 /proc/$p/stat 2>/dev/null) in Z|X|'') continue;; esac
    left="$left $p"; kill -9 $p 2>/dev/null
  done
  [ -z "$left" ] && exit 0
  i=$((i+1)); sleep 0.1 2>/dev/null || sleep 1
done
echo "$left"
exit 1
"""


def new_mark() -> str:
    """What tells one run from all others."""
    return "cs" + secrets.token_hex(8)


def around(mark: str, *, timeout_s: float, sudo: str = "") -> str:
    """The command line for the account's shell; `sudo`: '', `plain` (no password) or `password` (asked for by `prompt`)."""
    program = _AROUND.replace("MARK", mark).replace("LIMIT", str(ceil(timeout_s) + SPARE_S))
    words = ["/bin/sh", "-c", program, "sh", _READER.replace("MARK", mark)]
    become = {"": [], "plain": ["sudo", "-n", "--"], "password": ["sudo", "-S", "-p", prompt(mark), "--"]}[sudo]
    return "exec " + shlex.join([*become, *words])


def prompt(mark: str) -> str:
    """What sudo writes when it wants the password."""
    return f"{mark}-password:"


def script(mark: str, command: str | Sequence[str], env: Mapping[str, str] | None = None) -> bytes:
    """What is sent on standard input before the command's own input. Raises DriverError (REQUEST) naming what is wrong."""
    text = command if isinstance(command, str) else "exec " + shlex.join(command)
    if not text.strip() or "\0" in text or mark in text.splitlines():
        raise DriverError("command: must be text without NUL, and not empty", code=base.REQUEST)
    lines = []
    for name, value in (env or {}).items():
        if not _NAME.match(name) or "\0" in value:
            raise DriverError(f"env: {name!r} is not the name of a variable, or its value has a NUL", code=base.REQUEST)
        lines.append(f"export {name}={shlex.quote(value)}")
    return "\n".join([*lines, text, mark, ""]).encode("utf-8", "surrogateescape")


def kill_script(mark: str, pid: int) -> str:
    """Kill all of one run; ends with status 0 when nothing of it is left, else names the processes. `pid`: its first
    process; 1 or less when that is not known (0 and -1 mean groups and everything to kill, and are never passed on)."""
    return _KILL.format(mark=mark, pid=pid, variable=MARK)
