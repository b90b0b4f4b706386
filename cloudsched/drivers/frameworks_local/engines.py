"""Where are Java, Spark and Flink on this machine, and are they new enough?

Spark is the directory of `pyspark`, Flink that of `pyflink` (from `apache-flink-libraries`): found without importing them, or
given as `spark_home` and `flink_home`. Java is `java_home`, else JAVA_HOME, else what PATH leads to.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudsched.drivers import base
from cloudsched.drivers.base import Check, DriverError

MIN_JAVA = 17
MIN_PYTHON = (3, 10)
SYSTEM_PYTHONS = ("/usr/bin/python3", "/usr/local/bin/python3")
JAVA_ADVICE = "install openjdk-17-jre-headless, or set java_home or JAVA_HOME"
SPARK_ADVICE = "pip install 'cloudsched[spark]', or set spark_home"
FLINK_ADVICE = "pip install 'cloudsched[flink]', or set flink_home"
JAVA_TIMEOUT_S = 60

_VERSION = re.compile(r'version "(\d+)(?:\.(\d+))?[^"]*"')


@dataclass(frozen=True)
class Engine:
    """One thing that was found: its directory and version."""

    home: Path
    version: str


def java(options: Mapping[str, Any]) -> Engine:
    """Java's home, of version 17 or later. DriverError says what to install."""
    program = _java_program(options)
    if program is None:
        raise DriverError(f"there is no Java on this machine: {JAVA_ADVICE}", code=base.REQUEST)
    text = _java_says(str(program), program.stat().st_mtime_ns)
    found = _VERSION.search(text)
    major = int(found[1] if found[1] != "1" else found[2] or 0) if found else 0
    if major < MIN_JAVA:
        raise DriverError(f"{program} is Java {major or 'of an unknown version'}; {MIN_JAVA} or later is needed: {JAVA_ADVICE}",
                          code=base.REQUEST)  # fmt: skip
    return Engine(program.parent.parent, str(major))


def spark(options: Mapping[str, Any]) -> Engine:
    """Spark's directory. DriverError says what to install."""
    home = _home(options, "spark_home", "pyspark")
    jars = sorted((home / "jars").glob("spark-core_*.jar")) if home else []
    if home is None or not jars or not (home / "bin" / "spark-class").is_file():
        raise _missing("Spark", home, SPARK_ADVICE)
    return Engine(home, jars[-1].stem.rpartition("-")[2])


def flink(options: Mapping[str, Any]) -> Engine:
    """Flink's directory. DriverError says what to install."""
    home = _home(options, "flink_home", "pyflink")
    jars = sorted((home / "lib").glob("flink-dist*.jar")) if home else []
    if home is None or not jars:
        raise _missing("Flink", home, FLINK_ADVICE)
    return Engine(home, jars[-1].stem.rpartition("-")[2])


def system_python(usable: Callable[[Path], bool]) -> Path | None:
    """A Python of the system that is new enough for Spark."""
    known = (Path(path) for path in SYSTEM_PYTHONS)
    return next((path for path in known if os.access(path, os.X_OK) and usable(path) and _is_new(str(path))), None)


@functools.lru_cache(maxsize=8)
def _is_new(program: str) -> bool:
    try:
        done = subprocess.run([program, "-I", "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True,
                              timeout=JAVA_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL)  # fmt: skip
        return tuple(map(int, done.stdout.split())) >= MIN_PYTHON
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return False


def check(name: str, find: Callable[[Mapping[str, Any]], Engine], options: Mapping[str, Any]) -> Check:
    """The same as one line of what was verified."""
    try:
        found = find(options)
    except DriverError as error:
        return Check(name, ok=False, detail=error.message)
    return Check(name, ok=True, detail=f"{found.version} in {found.home}")


def _java_program(options: Mapping[str, Any]) -> Path | None:
    for home in (options.get("java_home"), os.environ.get("JAVA_HOME")):
        if home:
            program = Path(str(home)) / "bin" / "java"
            return program if os.access(program, os.X_OK) else None
    found = shutil.which("java")
    return Path(found).resolve() if found else None


@functools.lru_cache(maxsize=8)
def _java_says(program: str, _changed: int) -> str:
    try:
        done = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=JAVA_TIMEOUT_S, check=False,
                              stdin=subprocess.DEVNULL)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DriverError(f"{program} does not answer: {error}", code=base.OTHER) from error
    return done.stderr + done.stdout


def _home(options: Mapping[str, Any], option: str, package: str) -> Path | None:
    if options.get(option):
        return Path(str(options[option])).absolute()
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    places = list(found.submodule_search_locations or ()) if found else []
    return Path(places[0]).absolute() if places else None


def _missing(what: str, home: Path | None, advice: str) -> DriverError:
    where = f"in {home}" if home else "on this machine"
    return DriverError(f"there is no {what} {where}: {advice}", code=base.REQUEST)
