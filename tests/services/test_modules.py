"""Does the module catalogue find what jobs may run, and nothing else?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cloudsched import settings
from cloudsched.domain import modules as domain
from cloudsched.domain.modules import Module
from cloudsched.errors import Invalid, Unavailable
from cloudsched.services.frameworks.modules import SAMPLES, Catalogue

TOML = """
[data-processing]
type = "spark"
entry = "main.py"
versions = "data-processing"
default_version = "v1.1"
arguments = ["--config", "{pipelineConfig}", "--version={pipelineVersion:none}", "{{{client}}}", "{codeVersion}"]
settings = { "spark.ui.enabled" = false, "spark.x" = 3 }
time_limit_s = 60
alert_after_s = 30

[joined]
type = "flink"
entry = "jars/joined.jar"
main_class = "org.example.Joined"
"""
INI = """
[plain]
type = spark
entry = plain.py
arguments = --config {pipelineConfig} "two words"
settings = spark.ui.enabled=false
time_limit_s = 60
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "catalogue"
    for file in ("data-processing/v1.0/main.py", "data-processing/v1.1/main.py", "jars/joined.jar", "plain.py"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("x")
    (folder / "modules.toml").write_text(TOML)
    return folder


def catalogue(where: Path | str, state: Path) -> Catalogue:
    return Catalogue(settings.load({"state": str(state), "dcluster.modules": str(where)}, environ={"HOME": str(state)}))


def refusal(found: Catalogue, **fields: Any) -> str:
    with pytest.raises(Invalid) as caught:
        found.find(fields)
    assert len(caught.value.errors) == 1
    return f"{caught.value.errors[0].field} {caught.value.errors[0].allowed}"


def test_the_samples_are_always_there(tmp_state: Path) -> None:
    found = catalogue("", tmp_state)
    assert found.names() == ["flink-wordcount", "spark-pi", "spark-wordcount"]
    for name in found.names():
        spec = found.find({"module": name, "pipelineConfig": "'in file.txt' out", "codeVersion": "v1.0"})
        assert Path(spec.entry).is_file() and Path(spec.entry).parent == SAMPLES
        assert spec.arguments == ("in file.txt", "out") and spec.kind == name.partition("-")[0]
    assert found.find({"module": "spark-pi"}).arguments == ()
    assert refusal(found, module="spark-pi", pipelineConfig="'open").startswith("pipelineConfig ")


def test_unknown_modules_list_the_known_ones(tmp_state: Path, place: Path) -> None:
    assert refusal(catalogue(place, tmp_state), module="nothing") == \
        "module data-processing, flink-wordcount, joined, spark-pi, spark-wordcount"


def test_versions_are_directories(tmp_state: Path, place: Path) -> None:
    found = catalogue(place, tmp_state)
    spec = found.find({"module": "data-processing", "codeVersion": "v1.0", "pipelineConfig": "config.json", "client": "me"})
    assert spec.entry == str(place / "data-processing/v1.0/main.py")
    assert spec.arguments == ("--config", "config.json", "--version=none", "{me}", "v1.0")
    assert spec.settings == {"spark.ui.enabled": "false", "spark.x": "3"}
    assert (spec.time_limit_s, spec.alert_after_s) == (60, 30)
    assert found.find({"module": "data-processing"}).entry == str(place / "data-processing/v1.1/main.py")
    assert refusal(found, module="data-processing", codeVersion="v9") == "codeVersion v1.0, v1.1"
    for bad in ("../v1.0", "v1.0/../v1.1", ".", "..", "a\0b", "/etc"):
        assert refusal(found, module="data-processing", codeVersion=bad).startswith("codeVersion ")
    joined = found.find({"module": "joined", "codeVersion": "kept with the record"[:4]})
    assert (joined.kind, joined.main_class) == ("flink", "org.example.Joined")


@pytest.mark.parametrize(("field", "value"), [("module", ["x"]), ("pipelineConfig", {"a": 1}), ("pipelineVersion", True),
                                              ("codeVersion", []), ("client", "x" * 10_001), ("pipelineConfig", "a\0b")])
def test_values_are_texts(tmp_state: Path, field: str, value: Any) -> None:
    assert refusal(catalogue("", tmp_state), **{"module": "spark-pi", field: value}).startswith(f"{field} ")
    assert catalogue("", tmp_state).find({"module": "spark-pi", "pipelineConfig": 1000}).arguments == ("1000",)


def test_links_out_of_the_catalogue_are_refused(tmp_state: Path, place: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "main.py").write_text("x")
    (place / "data-processing" / "v2").symlink_to(outside)
    (place / "plain.py").unlink()
    (place / "plain.py").symlink_to("/etc/passwd")
    (place / "modules.toml").write_text(TOML + '[plain]\ntype = "spark"\nentry = "plain.py"\n')
    found = catalogue(place, tmp_state)
    assert "not a link" in refusal(found, module="data-processing", codeVersion="v2")
    assert "not a link" in refusal(found, module="plain")
    (place / "data-processing" / "v3").symlink_to("v1.0")
    assert found.find({"module": "data-processing", "codeVersion": "v3"}).entry == str(place / "data-processing/v1.0/main.py")


def test_a_missing_entry_is_told(tmp_state: Path, place: Path) -> None:
    (place / "jars" / "joined.jar").unlink()
    with pytest.raises(Invalid, match=r"entry jars/joined\.jar is no file"):
        catalogue(place, tmp_state).find({"module": "joined"})


def test_it_is_read_again_when_it_changes_and_may_be_ini(tmp_state: Path, place: Path) -> None:
    found = catalogue(place, tmp_state)
    assert "plain" not in found.names()
    (place / "modules.toml").unlink()
    (place / "modules.ini").write_text(INI)
    spec = found.find({"module": "plain", "pipelineConfig": "a b"})
    assert spec.arguments == ("--config", "a b", "two words") and spec.settings == {"spark.ui.enabled": "false"}
    (place / "modules.ini").write_text(INI.replace("[plain]", "[spark-pi]"))
    os.utime(place / "modules.ini", ns=(1, 1))
    assert found.find({"module": "spark-pi"}).entry == str(place / "plain.py"), "a catalogue may replace a sample"


def test_one_that_cannot_be_read_is_told_and_keeps_no_sample_away(tmp_state: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[x]\ntype = 'hadoop'\n")
    for where, text in ((tmp_path / "nothing.toml", "No such file"), (tmp_path, "neither modules.toml nor modules.ini"),
                        (broken, "x.type: is not right")):
        found = catalogue(where, tmp_state)
        with pytest.raises(Unavailable, match=text):
            found.find({"module": "mine"})
        assert found.find({"module": "spark-pi"}).kind == "spark"
        assert found.names() == ["flink-wordcount", "spark-pi", "spark-wordcount"]


def test_everything_is_listed(tmp_state: Path, place: Path) -> None:
    rows = {row["name"]: row for row in catalogue(place, tmp_state).listed()}
    assert rows["data-processing"]["versions"] == ["v1.0", "v1.1"] and not rows["data-processing"]["sample"]
    assert rows["spark-pi"]["sample"] and "darts" in rows["spark-pi"]["description"]


GOOD = {"type": "spark", "entry": "a.py"}


@pytest.mark.parametrize(("key", "values"), [
    ("type", {"type": "hadoop"}), ("type", {"type": 3}), ("entry", {"entry": "/etc/passwd"}), ("entry", {"entry": "../a.py"}),
    ("entry", {"entry": "a.sh"}), ("entry", {"entry": ""}), ("entry", {"type": "flink"}), ("entry", {"entry": "a\0.py"}),
    ("main_class", {"main_class": "A"}), ("main_class", {"entry": "a.jar", "main_class": "A; rm"}),
    ("versions", {"versions": "../x"}), ("default_version", {"default_version": "v1"}), ("arguments", {"arguments": "x"}),
    ("arguments", {"arguments": ["{who}"]}), ("arguments", {"arguments": ["{client"]}),
    ("arguments", {"arguments": ["a{client*}"]}),
    ("settings", {"settings": ["x"]}), ("settings", {"settings": {"a b": 1}}), ("settings", {"settings": {"a": "x\ny"}}),
    ("time_limit_s", {"time_limit_s": 0}), ("time_limit_s", {"time_limit_s": "x"}), ("alert_after_s", {"alert_after_s": True}),
    ("colour", {"colour": "red"}), ("description", {"description": "two\nlines"}),
])
def test_mistakes_in_a_catalogue_are_named(key: str, values: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        domain.module("mine", {**GOOD, **values})
    assert [error.field for error in caught.value.errors] == [f"mine.{key}"]


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        domain.parse("[a]\ntype = 'x'\n[b]\nentry = 'b.py'\n['c d']\ntype = 'spark'\nentry = 'c.py'\n", form="toml")
    assert [error.field for error in caught.value.errors] == ["a.type", "a.entry", "b.type", "c d"]


@pytest.mark.parametrize(("text", "form"), [("x", "toml"), ("x = 3", "toml"), ("x", "ini"), ("[a]\ntype = spark\n[a]\n", "ini"),
                                            ("[a]\narguments = 'open\n", "ini"), ("[a]\nsettings = alone\n", "ini")])
def test_what_is_no_catalogue(text: str, form: str) -> None:
    with pytest.raises(Invalid):
        domain.parse(text, form=form)


def test_names() -> None:
    assert domain.is_name("data-processing_2.0") and not any(map(domain.is_name, ("", "a/b", "..", "a..b", "-a", "a\n", "a b")))
    assert isinstance(domain.module("x", GOOD), Module)
