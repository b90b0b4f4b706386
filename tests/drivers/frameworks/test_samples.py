"""Do the samples that ship with the product count and reckon rightly? Their own functions; the engines run them elsewhere."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from cloudsched import samples
from cloudsched.samples import build_flink, spark_pi, spark_wordcount


def test_all_three_are_there() -> None:
    paths = (samples.SPARK_PI, samples.SPARK_WORDCOUNT, samples.FLINK_WORDCOUNT, build_flink.SOURCE)
    assert all(path.is_file() for path in paths)
    with zipfile.ZipFile(samples.FLINK_WORDCOUNT) as jar:
        assert samples.FLINK_MAIN_CLASS.replace(".", "/") + ".class" in jar.namelist()
        assert f"Main-Class: {samples.FLINK_MAIN_CLASS}" in jar.read("META-INF/MANIFEST.MF").decode()
    assert samples.FLINK_MAIN_CLASS == build_flink.MAIN_CLASS


def test_words_are_what_stands_between_blanks() -> None:
    assert dict(spark_wordcount.counted(["a  b\ta", "", " b\u00a0c \r"])) == {"a": 2, "b": 1, "b\u00a0c": 1}


def test_the_count_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    spark_wordcount.write(str(path), [("the", 2), ("ü", 1)])
    assert path.read_text(encoding="utf-8") == "the\t2\nü\t1\n" and list(tmp_path.iterdir()) == [path]


def test_darts_are_the_same_each_time() -> None:
    assert spark_pi.hits_of(1000, 1) == spark_pi.hits_of(1000, 1) != spark_pi.hits_of(1000, 2)
    assert 3.0 < 4 * spark_pi.hits_of(20_000, 5) / 20_000 < 3.3


@pytest.mark.parametrize("words", [["x"], ["0"], ["1", "0"], ["1.5"]])
def test_bad_words_are_told(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert spark_pi.main(words) == 2
    assert "usage: spark_pi.py" in capsys.readouterr().err


def test_the_word_count_wants_an_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert spark_wordcount.main([]) == 2 and "usage: spark_wordcount.py INPUT" in capsys.readouterr().err
