"""Does the INI reader follow the rules the original's files were written for?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudsched.classic import ini
from cloudsched.classic.problem import ClassicConfigError


def values(text):
    return {section.name: {key: entry.value for key, entry in section.entries.items()}
            for section in ini.parse(text)}


@pytest.mark.parametrize(("line", "key", "value"), [
    ("host: a.example.org", "host", "a.example.org"),
    ("Host = a.example.org", "host", "a.example.org"),
    ("host:a=b", "host", "a=b"),
    ("url = http://x:80/?a=b", "url", "http://x:80/?a=b"),
    ("pass: 50%of%(all)s", "pass", "50%of%(all)s"),
    ("memory: 10 ; MB", "memory", "10"),
    ("image: a;b", "image", "a;b"),
    ("colour: #fff", "colour", "#fff"),
    ("empty:", "empty", ""),
    ('quoted: ""', "quoted", ""),
    ("name: Zürich", "name", "Zürich"),
])
def test_entries(line, key, value):
    assert values(f"[a]\n{line}\n") == {"a": {key: value}}


def test_stray_indented_lines_continue_the_value_above():
    text = "[global]\ncollector: http://h:9618\n    stray one\n\n    # not this\n\tstray two\nnext: 1\n"
    assert values(text)["global"] == {"collector": "http://h:9618\nstray one\nstray two", "next": "1"}


def test_indented_first_key_and_comments():
    assert values("# c\n; c\n[a]\n  first: 1\n") == {"a": {"first": "1"}}


def test_repeated_section_continues_and_last_key_wins_in_first_place():
    text = "[a]\nx: 1\ny: 2\n[b]\n[a]\nX: 3\nz: 4\n"
    assert [(s.name, [(e.key, e.value) for e in s.entries.values()]) for s in ini.parse(text)] == [
        ("a", [("x", "3"), ("y", "2"), ("z", "4")]), ("b", [])]


def test_default_section_lends_its_keys():
    assert values("[DEFAULT]\nkey_name: k\nport: 1\n[a]\nport: 2\n") == {"a": {"key_name": "k", "port": "2"}}


@pytest.mark.parametrize(("text", "line"), [("x: 1\n", 1), ("[a]\nx: 1\nnonsense\n", 3), ("[a]\n= 3\n", 2)])
def test_broken_lines_are_named(text, line):
    with pytest.raises(ClassicConfigError, match=f"line {line} ") as caught:
        ini.parse(text, file="f.conf")
    assert (caught.value.file, caught.value.line) == ("f.conf", line)


def test_line_ends_byte_order_mark_and_old_encodings(tmp_path):
    path = tmp_path / "x.conf"
    path.write_bytes(b"\xef\xbb\xbf[a]\r\nx: 1\r\n\r\ny: 2\r")
    assert {e.key: e.value for e in ini.load(path)[0].entries.values()} == {"x": "1", "y": "2"}
    path.write_bytes(b"[a]\nx: Z\xfcrich\n")
    assert ini.load(path)[0].entries["x"].value == "Zürich"


def test_unreadable_file(tmp_path):
    with pytest.raises(ClassicConfigError, match=r"cannot read .*No such file"):
        ini.load(tmp_path / "absent.conf")


@given(st.text())
def test_any_text_is_read_or_refused(text):
    try:
        ini.parse(text)
    except ClassicConfigError:
        pass


@given(st.text())
def test_raw_lines_are_the_text(text):
    assert "".join(ini.raw_lines(text)) == text
