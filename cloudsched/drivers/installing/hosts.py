"""How is a step run on a host exactly once at a time, whatever dies meanwhile: we, the connection, or the host?

A step is a shell script. It is handed over under a name and runs there in a session of its own; whoever comes back under the
same name finds it running, or its end. Below `$HOME/.cloudsched-install`: `runs/<name>/` with `script` (gone when it ends),
`running` (locked while it runs), `out`, `code`; `host.lock`, so that steps of different installations take turns; `options`,
the host's own; `installed`, what is installed here. A step that a reboot cut short is started again, a few times.

A script begins with assignments of its values; those of its secrets are in that file alone (mode 0600), never in a list of
processes or an environment. It tells facts in lines `::name=value`; everything else it prints is for people.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.ssh.connection import Connection, Result

FOLDER = ".cloudsched-install"
WAIT_S = 1.5
CALL_S = 40.0
OUTPUT_BYTES = 256 << 20
TEMPORARY = 75  # exit status of a script that may go well when it is tried again (EX_TEMPFAIL)
STARTS_MOST = 5
DETAIL_CHARS = 400
_DIED_AGAIN, _TOO_LONG = 93, 124
_KILLED = (137, 143)

_RUN = r"""
umask 077
base=$HOME/.cloudsched-install; d=$base/runs/$1; limit=$2; looks=$3; most=$4
unset CLOUDSCHED_RUN
for name in flock setsid timeout; do
  command -v $name >/dev/null || { echo "$name is not installed (Debian: util-linux, coreutils)"; exit 91; }
done
mkdir -p "$d" || exit 91
cat > "$d/script.$$" || exit 91
exec 8>"$d/starting"; flock 8
exec 9>"$d/running"
if [ ! -f "$d/code" ] && flock -n 9; then
  tries=$(cat "$d/tries" 2>/dev/null || echo 0)
  if [ "$tries" -ge "$most" ]; then
    echo 93 > "$d/code"
  else
    echo $((tries + 1)) > "$d/tries"
    mv -f "$d/script.$$" "$d/script"
    setsid sh -c '
      exec 7>"$2/host.lock"; flock 7
      timeout -k 10 "$3" sh "$1/script" > "$1/out" 2>&1 7>&- 9>&- < /dev/null
      echo $? > "$1/code.new"
      rm -f "$1/script"
      mv "$1/code.new" "$1/code"
    ' step "$d" "$base" "$limit" < /dev/null > /dev/null 2>&1 8>&- &
  fi
fi
exec 9>&- 8>&-
rm -f "$d/script.$$"
i=0
while [ ! -f "$d/code" ] && [ $i -lt "$looks" ]; do sleep 0.1; i=$((i + 1)); done
if [ -f "$d/code" ]; then cat "$d/code"; else echo running; fi
tail -c 60000 "$d/out" 2>/dev/null
exit 0
"""
_FORGET = ('cd "$HOME/.cloudsched-install/runs" 2>/dev/null || exit 0; '
           'for d in "$1"-*; do [ -d "$d" ] && rm -rf -- "$d"; done; exit 0')
_FACT = re.compile(r"::([a-z_]+)=(.*)\Z")
_TOKENS = ((re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b"), "***"), (re.compile(r"sha256:[0-9a-f]{64}"), "sha256:***"),
           (re.compile(r"\b[0-9a-f]{64}\b"), "***"))


@dataclass(frozen=True)
class Script:
    """One step on one host. `values` are assigned before it and shown in a dry run, `secrets` are assigned and never shown.
    `on`: `host`, the one that is meant, or `controller` of its cluster."""

    text: str
    values: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    limit_s: float = 300.0
    on: str = "host"
    common: str = field(default="", repr=False)  # what all scripts of an installer begin with

    def shown(self) -> str:
        """As it would run, without what is secret."""
        hidden = "".join(f"# {name}: a secret, assigned here\n" for name in self.secrets)
        return f"{hidden}{_assignments(self.values)}{self.text.strip()}\n"

    def whole(self) -> bytes:
        return f"{_assignments({**self.values, **self.secrets})}{self.common}{self.text}".encode()


@dataclass(frozen=True)
class Progress:
    """`code` is None while it runs. `facts` are those told so far, `text` the rest of the output, its end."""

    code: int | None
    text: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.code is not None

    @property
    def again(self) -> bool:
        """Did it say that it may be tried again, or did somebody kill it?"""
        return self.code == TEMPORARY or self.code in _KILLED

    def short(self) -> str:
        """The last line that says something."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        return lines[-1][:DETAIL_CHARS] if lines else ""


class StepFailed(DriverError):
    """A script on a host ended with a failure; the message names the host and what it said last."""


class Host:
    """One host for as long as somebody looks at it. Every call raises DriverError when it is out of reach."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.label = connection.host

    def step(self, run: str, script: Script, *, wait_s: float = WAIT_S) -> Progress:
        """Start the script under this name unless it was started, look at it for at most `wait_s`. Raises StepFailed when it
        could not be started or took too long; how it ended is in the answer."""
        words = ["/bin/sh", "-c", _RUN, "run", run, f"{script.limit_s:.0f}", f"{wait_s * 10:.0f}", str(STARTS_MOST)]
        said = self.connection.run(words, input=script.whole(), timeout_s=CALL_S)
        if said.code:
            raise StepFailed(f"{self.label}: {_last(said) or 'no step can be started'}", code=base.REQUEST)
        first, _, rest = said.stdout.partition("\n")
        code = int(first) if first.strip().isdigit() else None
        progress = parsed(code, cleaned(rest, script.secrets.values()))
        if code == _TOO_LONG:
            raise StepFailed(f"{self.label}: not done within {script.limit_s:g} s; it said: {progress.short() or 'nothing'}")
        if code == _DIED_AGAIN:
            raise StepFailed(f"{self.label}: the step was cut short {STARTS_MOST} times: does the host restart?")
        return progress

    def forget(self, run: str) -> None:
        """Take away what is kept of all runs whose names begin with `run` and a hyphen."""
        self.connection.run(["/bin/sh", "-c", _FORGET, "forget", run], timeout_s=CALL_S)

    def ask(self, script: Script) -> Result:
        """Run a short script now, unsupervised; what it prints may be secret and goes nowhere but to the caller."""
        return self.connection.run(["/bin/sh", "-s"], input=script.whole(), timeout_s=script.limit_s, max_output=OUTPUT_BYTES)

    def asked(self, script: Script, what: str) -> str:
        """The output of a short script. Raises StepFailed with `what` when it fails."""
        said = self.ask(script)
        if said.code:
            why = cleaned(_last(said), script.secrets.values())
            raise StepFailed(f"{self.label}: {what}: {why or f'exit status {said.code}'}")
        return said.stdout


def cleaned(text: str, secrets: Iterable[str] = ()) -> str:
    """What a host said, without our secrets and without whatever looks like a join token or its hash."""
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "***")
    for form, instead in _TOKENS:
        text = form.sub(instead, text)
    return text


def _assignments(values: Mapping[str, str]) -> str:
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def parsed(code: int | None, output: str) -> Progress:
    """Facts and text of what a script printed."""
    facts, lines = {}, []
    for line in output.splitlines():
        found = _FACT.match(line)
        if found:
            facts[found[1]] = found[2]
        else:
            lines.append(line)
    return Progress(code, "\n".join(lines), facts)


def _last(said: Result) -> str:
    lines = [line.strip() for line in (said.stdout + "\n" + said.stderr).splitlines() if line.strip()]
    return lines[-1][:DETAIL_CHARS] if lines else ""
