"""What job does one ``queue`` item mean in our own form?

The commands of a submit description, expanded for this one job, become the dictionary that
``POST /api/v2/jobs`` takes. What has no meaning here is either a warning (it only tunes HTCondor) or an error
(the job would be another one without it); both name file and line. VM attributes are those of contract 7.2.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloudsched.client.submit import quoting
from cloudsched.client.submit.commands import ALIASES, KNOWN, NO_EFFECT, REFUSED
from cloudsched.client.submit.errors import Place, SubmitError
from cloudsched.client.submit.files import (
    Entry,
    Transfer,
    input_files,
    is_url,
    stdin_text,
    transferred_program,
)
from cloudsched.client.submit.macros import Macros, arithmetic
from cloudsched.client.submit.requirements import read_requirements

_UNIVERSES = {"vanilla": "vanilla", "5": "vanilla", "local": "local", "12": "local"}
_TRUE = frozenset({"true", "yes", "1", "t"})
_FALSE = frozenset({"false", "no", "0", "f"})
_NULL = "/dev/null"
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SIZE = re.compile(r"(.*?)\s*([kmgt])(?:i?b)?\Z", re.IGNORECASE | re.DOTALL)
_KIB = {"k": 1, "m": 1024, "g": 1024**2, "t": 1024**3}
_KIB_PER_GIB = 1024**2


@dataclass
class Context:
    """What stays the same for all jobs of a submission; `warnings` are kept once each."""

    macros: Macros
    directory: Path
    environ: Mapping[str, str]
    lenient: bool = False
    noted: dict[str, None] = field(default_factory=dict)
    transfer: Transfer = field(default_factory=Transfer)

    @property
    def warnings(self) -> list[str]:
        return list(self.noted)

    def raw(self, command: str) -> str | None:
        """The value as written, under any spelling of the command."""
        live, variables = self.macros.live, self.macros.variables
        for name in ALIASES[command]:
            if name in live:
                return live[name]
            if name in variables:
                return variables[name].value
        return None

    def text(self, command: str) -> str:
        """The expanded value; empty when it is not given."""
        raw = self.raw(command)
        return self.macros.expand(raw, self.place(command)).strip() if raw else ""

    def place(self, command: str, default: Place | None = None) -> Place:
        for name in ALIASES.get(command, (command.lower(),)):
            if name in self.macros.variables:
                return self.macros.variables[name].place
        return default or Place()

    def fail(self, command: str, reason: str | ValueError) -> SubmitError:
        """What is wrong with a command, with its place; a reason that has a place of its own keeps it."""
        if isinstance(reason, SubmitError):
            return SubmitError(f"{command}: {reason.reason}", reason.place if str(reason.place) else self.place(command))
        return SubmitError(f"{command}: {reason}", self.place(command))

    def warn(self, command: str, reason: str) -> None:
        place = str(self.place(command))
        self.noted[f"{place}: {command}: {reason}" if place else f"{command}: {reason}"] = None


def is_command(name: str) -> bool:
    """Is `name` (lower case) a command rather than a variable?"""
    return name in KNOWN


def job(context: Context, place: Place) -> tuple[dict[str, Any], str | None, str]:
    """(job, path of its log or None, its initialdir) as the variables stand now.

    `place`: the queue statement. SubmitError names the command that cannot be taken.
    """
    _refuse_and_warn(context)
    _check_universe(context)
    home = context.directory / context.text("initialdir")
    job = {
        **_program(context, home, place),
        **_environment(context),
        **_stdin(context, home),
        **_resources(context),
        **_policy(context),
        "outputs": _outputs(context, home),
    }
    _output_files(context, job)
    _name(context, job)
    log = context.text("log")
    return job, str(home / log) if log and log != _NULL else None, str(home)


def _refuse_and_warn(context: Context) -> None:
    given = context.macros.variables.keys()
    for name in sorted(REFUSED & given):
        raise context.fail(name, "is not supported: jobs run as plain programs (vanilla universe)")
    for name in sorted(NO_EFFECT & given):
        if context.macros.variables[name].value:
            context.warn(name, "is accepted and has no effect here")
    if context.text("notification").lower() not in ("", "never"):
        context.warn("notification", "no e-mail is sent; follow the events instead")
    if context.text("success_exit_code") not in ("", "0"):
        context.warn("success_exit_code", "only exit code 0 counts as success here")


def _check_universe(context: Context) -> None:
    universe = context.text("universe").lower()
    if not universe:
        return
    if universe not in _UNIVERSES:
        raise context.fail("universe", f"{universe!r} is not supported; allowed are vanilla and local")
    if _UNIVERSES[universe] == "local":
        context.warn("universe", "local jobs run on a node like all others")


def _program(context: Context, home: Path, place: Place) -> dict[str, Any]:
    """command and input_files."""
    executable = context.text("executable").strip('"')
    if not executable:
        raise SubmitError("executable is missing: name the program to run", place)
    mode = _transfer_mode(context)
    listed = context.text("transfer_input_files").strip('"')
    if mode == "no" and listed:
        raise context.fail("transfer_input_files", "needs should_transfer_files = YES or IF_NEEDED")
    try:
        arguments = quoting.split_arguments(context.text("arguments"))
    except ValueError as problem:
        raise context.fail("arguments", problem) from None
    files: list[Entry] = []
    if mode != "no" and _flag(context, "transfer_executable", True):
        program, files = _transferred(context, executable)
    elif executable.startswith("/"):
        program = executable
    else:
        reason = f"{executable!r} is not transferred, so it must be an absolute path on the node"
        raise context.fail("executable", reason)
    try:
        files = input_files(context.transfer, listed, home, files)
    except ValueError as problem:
        raise context.fail("transfer_input_files", problem) from None
    return {"command": [program, *arguments], "input_files": files}


def _transferred(context: Context, executable: str) -> tuple[str, list[Entry]]:
    if is_url(executable):
        raise context.fail("executable", f"{executable!r}: URLs are not fetched; name a local file")
    try:
        entry = transferred_program(context.transfer, context.directory / executable)
    except ValueError as problem:
        raise context.fail("executable", problem) from None
    return "./" + entry["name"], [entry]


def _transfer_mode(context: Context) -> str:
    mode = context.text("should_transfer_files").lower() or "yes"
    if mode not in ("yes", "no", "if_needed", "true", "false"):
        raise context.fail("should_transfer_files", f"{mode!r} is not allowed; YES, NO or IF_NEEDED")
    when = context.text("when_to_transfer_output").lower()
    if when not in ("", "on_exit", "on_exit_or_evict", "on_success", "never"):
        raise context.fail("when_to_transfer_output", f"{when!r} is not allowed; ON_EXIT or ON_EXIT_OR_EVICT")
    if when not in ("", "on_exit"):
        context.warn("when_to_transfer_output", "output comes back when the job ends (ON_EXIT)")
    return "no" if mode in ("no", "false") else mode


def _environment(context: Context) -> dict[str, Any]:
    env = _inherited(context)
    try:
        env.update(quoting.split_environment(context.text("environment")))
    except ValueError as problem:
        raise context.fail("environment", problem) from None
    for name in env:
        if not _ENV_NAME.match(name):
            raise context.fail("environment", f"{name!r} is no name for a variable")
    return {"env": env} if env else {}


def _inherited(context: Context) -> dict[str, str]:
    """``getenv``: true, or a list of names and patterns, ``!`` in front leaves out."""
    wanted = context.text("getenv")
    if wanted.lower() in _FALSE or not wanted:
        return {}
    patterns = ["*"] if wanted.lower() in _TRUE else [word for word in re.split(r"[,\s]+", wanted) if word]
    refused = [word[1:] for word in patterns if word.startswith("!")]
    taken = [word for word in patterns if not word.startswith("!")] or ["*"]
    return {
        name: value
        for name, value in context.environ.items()
        if _ENV_NAME.match(name) and _matches(name, taken) and not _matches(name, refused)
    }


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _stdin(context: Context, home: Path) -> dict[str, Any]:
    name = context.text("input").strip('"')
    if not name or name == _NULL:
        return {}
    try:
        return {"stdin": stdin_text(context.transfer, home / name)}
    except ValueError as problem:
        raise context.fail("input", problem) from None


def _outputs(context: Context, home: Path) -> dict[str, Any]:
    outputs: dict[str, Any] = {"dir": str(home)}
    for command, key in (("output", "stdout"), ("error", "stderr")):
        name = context.text(command).strip('"')
        if name and name != _NULL:
            outputs[key] = str(home / name)
    remaps = {}
    for entry in context.text("transfer_output_remaps").strip('"').split(";"):
        if not entry.strip():
            continue
        name, equals, path = (part.strip() for part in entry.partition("="))
        if not equals or not name or not path or is_url(path):
            raise context.fail("transfer_output_remaps", f"{entry.strip()!r} is not NAME=local path")
        remaps[name] = str(home / path)
    if remaps:
        outputs["remaps"] = remaps
    return outputs


def _output_files(context: Context, job: dict[str, Any]) -> None:
    names = [name.strip() for name in context.text("transfer_output_files").strip('"').split(",")]
    names = [name for name in names if name]
    for name in names:
        if name.startswith("/") or ".." in Path(name).parts or is_url(name):
            reason = f"{name!r} is not allowed; name files relative to the job's own directory"
            raise context.fail("transfer_output_files", reason)
    if names:
        job["output_files"] = names


def _name(context: Context, job: dict[str, Any]) -> None:
    batch_name = context.text("job_batch_name").strip('"')
    job["name"] = batch_name or Path(job["command"][0]).name


def _resources(context: Context) -> dict[str, Any]:
    """Sizes and VM facts: VM attributes decide; the rest comes from request_* and requirements."""
    asked = _requirements(context)
    for command, key, convert in _REQUESTS:
        if context.text(command):
            asked[key] = max(convert(context, command), asked.get(key, 0))
    stated, others = _attributes(context)
    for key in ("memory_mb", "cores", "storage_gb"):
        if key in stated and asked.get(key, 0) > stated[key]:
            reason = f"{stated[key]} of the +VM attribute is used, though {asked[key]} is asked for"
            context.warn(key, reason)
    if "vm_type" in stated and asked.get("vm_type", stated["vm_type"]) != stated["vm_type"]:
        context.warn("my.vmtype", f"the VM type of requirements, {asked['vm_type']!r}, is used")
        del stated["vm_type"]
    facts = {**asked, **stated}
    if others:
        facts["attributes"] = others
    return facts


def _requirements(context: Context) -> dict[str, Any]:
    text = context.text("requirements")
    if not text:
        return {}
    try:
        asked = read_requirements(text)
    except ValueError as problem:
        raise context.fail("requirements", f"is no ClassAd expression: {problem}") from None
    for clause in asked.not_understood:
        reason = f"the clause {clause!r} is not understood"
        if not context.lenient:
            wanted = 'VMType =?= "x"; Memory, Disk, Cpus, GPUs >= a number; OpSys and Arch of the nodes'
            raise context.fail("requirements", f"{reason}; allowed: {wanted} (--lenient ignores it)")
        context.warn("requirements", f"{reason} and ignored")
    return dict(asked.facts)


def _attributes(context: Context) -> tuple[dict[str, Any], dict[str, Any]]:
    """(facts our form has a key for, other attributes by name) of the ``+Name`` lines."""
    facts: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for key, variable in context.macros.variables.items():
        scope, dot, name = key.partition(".")
        if scope != "my" or not dot:
            continue
        value = _literal(context.macros.expand(variable.value, variable.place).strip())
        if value is None:
            continue
        try:
            if name in _VM_ATTRIBUTES:
                fact, convert = _VM_ATTRIBUTES[name]
                facts[fact] = convert(value)
            else:
                others[_SPELLINGS.get(name, variable.name.partition(".")[2] or name)] = value
        except ValueError as problem:
            raise SubmitError(f"+{_SPELLINGS.get(name, name)}: {problem}", variable.place) from None
    if "ami" in facts:
        if "image" in facts:
            others["VMName"] = facts["image"]
        facts["image"] = facts.pop("ami")
    proxy = context.text("x509userproxy")
    if proxy:
        others["x509userproxy"] = proxy
    return facts, others


def _policy(context: Context) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if context.text("priority"):
        facts["priority"] = _integer(context, "priority", None)
    if context.text("max_retries"):
        facts["max_retries"] = _integer(context, "max_retries", 0)
    limits = [
        _integer(context, command, 1)
        for command in ("allowed_job_duration", "allowed_execute_duration")
        if context.text(command)
    ]
    if limits:
        facts["time_limit_s"] = min(limits)
    if _flag(context, "hold", False):
        facts["hold"] = True
    user = context.text("accounting_group_user").strip('"')
    if user:
        facts["user"] = user
    return facts


def _flag(context: Context, command: str, default: bool) -> bool:
    text = context.text(command).lower()
    if not text:
        return default
    if text not in _TRUE | _FALSE:
        raise context.fail(command, f"{text!r} is neither true nor false")
    return text in _TRUE


def _integer(context: Context, command: str, least: int | None) -> int:
    text = context.text(command)
    try:
        number = arithmetic(text, Place())
    except SubmitError:
        number = math.nan
    if not math.isfinite(number) or number != int(number) or (least is not None and number < least):
        wanted = "a whole number" if least is None else f"a whole number of {least} or more"
        raise context.fail(command, f"{text!r} is not allowed; wanted {wanted}")
    return int(number)


def _count(context: Context, command: str) -> int:
    return _integer(context, command, 0 if command == "request_gpus" else 1)


def _size_kib(context: Context, command: str, unit: str) -> int:
    text = context.text(command)
    with_unit = _SIZE.match(text)
    try:
        number = arithmetic(with_unit[1] if with_unit else text, Place())
    except SubmitError:
        number = -1.0
    if not math.isfinite(number) or number < 0:
        raise context.fail(command, f"{text!r} is not allowed; wanted a number with or without K, M, G or T")
    return math.ceil(number * _KIB[with_unit[2].lower() if with_unit else unit])


def _memory_mb(context: Context, command: str) -> int:
    return math.ceil(_size_kib(context, command, "m") / 1024)


def _storage_gb(context: Context, command: str) -> int:
    return math.ceil(_size_kib(context, command, "k") / _KIB_PER_GIB)


_REQUESTS: tuple[tuple[str, str, Callable[[Context, str], int]], ...] = (
    ("request_cpus", "cores", _count),
    ("request_memory", "memory_mb", _memory_mb),
    ("request_disk", "storage_gb", _storage_gb),
    ("request_gpus", "gpus", _count),
)


def _literal(text: str) -> Any:
    """A ClassAd literal as a plain value: string, number or boolean; an expression stays as its text."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1].replace('\\"', '"')
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if not text or text.lower() == "undefined":
        return None
    if re.fullmatch(r"[+-]?\d{1,18}", text):
        return int(text)
    if re.fullmatch(r"[+-]?(\d+\.\d*|\.?\d+)([eE][+-]?\d{1,2})?", text):
        return float(text)
    return text


def _word(value: Any) -> str:
    return str(value).strip()


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"\s*[+-]?\d{1,18}(\.0*)?\s*", str(value)):
        raise ValueError(f"{value!r} is not allowed; wanted a whole number")
    return int(float(value)) if "." in str(value) else int(value)


def _at_least(least: int, factor: int = 1) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        number = _whole(value)
        if number < least:
            raise ValueError(f"{number} is not allowed; wanted {least} or more")
        return number * factor

    return convert


def _price(value: Any) -> float:
    try:
        price = float(value)
    except ValueError:
        price = math.nan
    if isinstance(value, bool) or not math.isfinite(price) or price < 0:
        raise ValueError(f"{value!r} is not allowed; wanted a price")
    return price


def _boolean(value: Any) -> bool:
    if str(value).strip().lower() not in _TRUE | _FALSE:
        raise ValueError(f"{value!r} is neither true nor false")
    return str(value).strip().lower() in _TRUE


def _names(value: Any) -> list[str]:
    return [name for name in (part.strip().strip('"') for part in str(value).split(",")) if name]


def _by_cloud(value: Any) -> str | dict[str, str]:
    """``value``, or ``cloud:value, cloud:value`` as a mapping with lower-case clouds (contract 7.2)."""
    values: dict[str, str] = {}
    for name in _names(value):
        cloud, colon, image = name.partition(":")
        if not colon or image.startswith("//"):
            values["default"] = name
        else:
            values[cloud.strip().lower()] = image.strip()
    return values["default"] if set(values) == {"default"} else values


_VM_ATTRIBUTES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "vmtype": ("vm_type", _word),
    "vmmem": ("memory_mb", _at_least(1)),
    "vmcpucores": ("cores", _at_least(1)),
    "vmstorage": ("storage_gb", _at_least(0)),
    "vmnetwork": ("network", _word),
    "vmname": ("image", _word),
    "vmami": ("ami", _by_cloud),
    "vminstancetype": ("instance_type", _by_cloud),
    "vmkeepalive": ("keep_alive_s", _at_least(0, factor=60)),
    "vmhighpriority": ("high_priority", _at_least(0)),
    "vmtypelimit": ("vmtype_limit", _at_least(-1)),
    "vmjobpercore": ("job_per_core", _boolean),
    "vmmaximumprice": ("maximum_price", _price),
    "targetclouds": ("targets", _names),
}

# Attributes the server reads by these very names, however the user writes them.
_SPELLINGS = {
    name.lower(): name
    for name in (
        "VMType", "VMMem", "VMCPUCores", "VMStorage", "VMNetwork", "VMName", "VMAMI", "VMInstanceType",
        "VMKeepAlive", "VMHighPriority", "VMTypeLimit", "VMJobPerCore", "VMMaximumPrice", "TargetClouds",
        "VMSecurityGroup", "VMKeyName", "VMUserData", "VMAMIConfig", "VMInjectCA", "VMImageID", "VMLocation",
        "CSMyProxyServer", "CSMyProxyServerPort", "CSMyProxyCredsName", "CSMyProxyRenewalTime",
        "VMProxyNonBoot", "VMImageProxyFile", "x509userproxysubject", "SUBMIT_x509userproxy",
    )
}  # fmt: skip
