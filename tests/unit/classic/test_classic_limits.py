"""Are user limits and cloud aliases read, with the bad entries named and left out?"""

import pytest

from cloudsched.classic.limits import read_aliases, read_user_limits


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "table.json"

    def write(content):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_limits_in_file_order(file):
    result = read_user_limits(file('{"bob": 10, "alice": 5, "quoted": "7", "never": 0, "whole": 3.0}'))
    assert list(result.limits) == ["bob", "alice", "quoted", "never", "whole"]
    assert list(result.limits.values()) == [10, 5, 7, 0, 3]
    assert result.problems == ()


@pytest.mark.parametrize("value", ["-1", '"many"', "2.5", "true", "null", "[1]", '"-3"', '""', "NaN", '"٣"'])
def test_other_limits_are_left_out_with_a_reason(file, value):
    result = read_user_limits(file(f'{{"alice": {value}, "bob": 1}}'))
    assert result.limits == {"bob": 1}
    assert [problem.key for problem in result.problems] == ["alice"]
    assert "limit of 'alice' must be a whole number of at least 0" in str(result.problems[0])


@pytest.mark.parametrize("reader", [read_user_limits, read_aliases])
@pytest.mark.parametrize(("content", "why"), [
    ("[1]", "one JSON object"), ("{", "not JSON"), (b"\xff\xfe", "not JSON"), ("[" * 100_000, "not JSON"),
    ("", "not JSON")])
def test_unusable_files_are_an_empty_table(file, reader, content, why):
    result = reader(file(content))
    assert not (getattr(result, "limits", None) or getattr(result, "aliases", None))
    assert why in str(result.problems[0])


@pytest.mark.parametrize("reader", [read_user_limits, read_aliases])
def test_missing_files(tmp_path, reader):
    assert "cannot be read: No such file" in str(reader(tmp_path / "absent").problems[0])
    assert "cannot be read: Is a directory" in str(reader(tmp_path).problems[0])
    assert "no file is configured" in str(reader(None).problems[0])


def test_aliases(file):
    result = read_aliases(file('{"East": ["alpha", "beta"], "west": "gamma", "bad": [1],'
                               ' "worse": 2, "none": []}'))
    assert result.aliases == {"East": ("alpha", "beta"), "west": ("gamma",), "none": ()}  # B35
    assert [problem.key for problem in result.problems] == ["bad", "worse"]
    assert result.expand("east") == ("alpha", "beta")
    assert result.expand("Gamma") == ("Gamma",)
