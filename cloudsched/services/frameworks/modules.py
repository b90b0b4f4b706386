"""Which applications may jobs of Spark and Flink run? The samples that ship with the product, and the catalogue of this place.

A catalogue is a TOML or INI file (`[dcluster] modules`, or modules.toml / modules.ini in the directory it names). What its
modules name is looked for below its own directory alone; what leads out of it, by `..` or by a link, is refused.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloudsched import samples
from cloudsched.domain import modules
from cloudsched.domain.frameworks import ModuleSpec
from cloudsched.domain.modules import Module
from cloudsched.errors import Invalid, Unavailable
from cloudsched.settings import Settings

FILES = ("modules.toml", "modules.ini")
MAX_BYTES = 4 << 20
SHOWN_MOST, TEXT_MOST = 50, 10_000
SAMPLES = samples.FOLDER
_WORD_COUNT = "counts the words of a text file; pipelineConfig: INPUT [OUTPUT]"
_SAMPLES = {one.name: one for one in (
    Module("spark-wordcount", "spark", "spark_wordcount.py", arguments=("{pipelineConfig*}",), description=_WORD_COUNT),
    Module("spark-pi", "spark", "spark_pi.py", arguments=("{pipelineConfig*}",),
           description="estimates pi by throwing darts; pipelineConfig: [THROWS [SLICES [SEED]]]"),
    Module("flink-wordcount", "flink", "flink_wordcount.jar", main_class="cloudsched.samples.WordCount",
           arguments=("{pipelineConfig*}",), description=_WORD_COUNT))}


class Catalogue:
    """The modules of one instance; the file is read again when it has changed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._kept: tuple[tuple[str, int, int], dict[str, Module], Path] | None = None

    def names(self) -> list[str]:
        """All modules by name; those of the samples alone when the catalogue cannot be read."""
        try:
            return sorted({**_SAMPLES, **self._own()[0]})
        except Unavailable:
            return sorted(_SAMPLES)

    def listed(self) -> list[dict[str, Any]]:
        """All modules with what jobs need to know of them. Raises Unavailable when the catalogue cannot be read."""
        own, folder = self._own()
        return [{"name": one.name, "type": one.kind, "entry": one.entry, "mainClass": one.main_class,
                 "sample": one.name not in own, "versions": _versions(folder, one) if one.name in own else [],
                 "arguments": list(one.arguments), "timeLimitS": one.time_limit_s, "alertAfterS": one.alert_after_s,
                 "description": one.description}
                for _, one in sorted({**_SAMPLES, **own}.items())]

    def find(self, fields: Mapping[str, Any]) -> ModuleSpec:
        """What the job of these fields (`module`, `codeVersion` ...) runs, its arguments filled in.

        Raises Invalid naming the field: an unknown module with the known ones, a version that is not there with those that
        are, an entry that is missing or leads out of the catalogue; Unavailable when the catalogue itself cannot be read.
        """
        name = _text(fields, "module")
        own, folder = ({}, SAMPLES) if name in _SAMPLES and not self._says(name) else self._own()
        found = own.get(name) or _SAMPLES.get(name)
        if found is None:
            raise Invalid.at("module", f"there is no module {name[:100]!r}", _shown(self.names()))
        base = folder if name in own else SAMPLES
        entry = _entry(base, found, _text(fields, "codeVersion"))
        values = {key: _text(fields, key) for key in modules.PLACEHOLDERS}
        return ModuleSpec(name=found.name, kind=found.kind, entry=str(entry), main_class=found.main_class,
                          arguments=modules.arguments(found.arguments, values), settings=dict(found.settings),
                          time_limit_s=found.time_limit_s, alert_after_s=found.alert_after_s,
                          max_retries=found.max_retries, backoff_s=found.backoff_s)

    def _says(self, name: str) -> bool:
        """Does the catalogue have a module of this name? One that cannot be read has none: samples run all the same."""
        try:
            return name in self._own()[0]
        except Unavailable:
            return False

    def _own(self) -> tuple[dict[str, Module], Path]:
        """(the catalogue's modules, its directory)."""
        file = _file(self._settings.dcluster.modules)
        if file is None:
            return {}, SAMPLES
        try:
            stat = file.stat()
        except OSError as error:
            raise _unreadable(file, error.strerror or str(error)) from None
        mark = (str(file), stat.st_mtime_ns, stat.st_size)
        with self._lock:
            if self._kept is None or self._kept[0] != mark:
                self._kept = (mark, _read(file, stat.st_size), file.parent.resolve())
            return self._kept[1], self._kept[2]


def _text(fields: Mapping[str, Any], key: str) -> str:
    """A field as it goes into arguments; a number becomes text."""
    value = fields.get(key)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Invalid.at(key, "is not text", "a string")
    text = str(value)
    if "\0" in text or len(text) > TEXT_MOST:
        raise Invalid.at(key, "holds a NUL" if "\0" in text else f"is {len(text)} characters long",
                         f"text of up to {TEXT_MOST} characters")
    return text


def _file(setting: str) -> Path | None:
    if not setting:
        return None
    path = Path(setting)
    if not path.is_dir():
        return path
    found = [path / name for name in FILES if (path / name).exists()]
    if not found:
        raise Unavailable(f"the module catalogue cannot be read: dcluster.modules is {path}, and there is neither "
                          f"{' nor '.join(FILES)} in it")
    return found[0]


def _read(file: Path, size: int) -> dict[str, Module]:
    if size > MAX_BYTES:
        raise _unreadable(file, f"it has {size:,} bytes; at most {MAX_BYTES:,} are read")
    try:
        text = file.read_text(encoding="utf-8")
        return modules.parse(text, form="toml" if file.suffix == ".toml" else "ini")
    except OSError as error:
        raise _unreadable(file, error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise _unreadable(file, "it is not UTF-8") from None
    except Invalid as error:
        raise _unreadable(file, error.message) from None


def _unreadable(file: Path, text: str) -> Unavailable:
    return Unavailable(f"the module catalogue cannot be read: dcluster.modules, {file}: {text}")


def _entry(base: Path, found: Module, version: str) -> Path:
    """The file that runs, proved to lie below the catalogue's directory."""
    if version and not modules.is_version(version):
        raise Invalid.at("codeVersion", f"{version[:100]!r} cannot be used", "the name of a version: A-Z, a-z, 0-9, . _ + -")
    if found.versions:
        version = version or found.default_version
        known = _versions(base, found)
        if version not in known:
            text = f"module {found.name} has no version {version!r}" if version else f"module {found.name} needs one"
            raise Invalid.at("codeVersion", text, _shown(known) or "none: there are no versions of it")
        base_of_entry = base / found.versions / version
    else:
        base_of_entry = base
    path = Path(os.path.realpath(base_of_entry / found.entry))
    if not path.is_relative_to(Path(os.path.realpath(base))):
        raise Invalid.at("module", f"the entry of module {found.name} leads out of the catalogue's directory",
                         "a file below it, not a link to elsewhere")
    if not path.is_file():
        raise Invalid.at("module", f"module {found.name} is in the catalogue, but its entry {found.entry} is no file"
                                   + (f" in version {version}" if found.versions else ""))
    return path


def _versions(base: Path, found: Module) -> list[str]:
    if not found.versions:
        return []
    try:
        return sorted(one.name for one in os.scandir(base / found.versions) if one.is_dir() and modules.is_version(one.name))
    except OSError:
        return []


def _shown(names: list[str]) -> str:
    return ", ".join(names[:SHOWN_MOST]) + (f" and {len(names) - SHOWN_MOST} more" if len(names) > SHOWN_MOST else "")
