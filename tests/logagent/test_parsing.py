"""Do parsers, patterns, transforms and times make of a line what they say?"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudsched.logagent.batches import Batch, dump
from cloudsched.logagent.errors import BadConfig
from cloudsched.logagent.parsers import Parser, split_patterns
from cloudsched.logagent.patterns import LIBRARY, Grok, custom_patterns
from cloudsched.logagent.stats import Stage
from cloudsched.logagent.times import now_text, offset_s, to_rfc3339
from cloudsched.logagent.transforms import Transform


def parse(kind: str, *lines: str, **keys: str) -> tuple[list[dict[str, Any]], Stage]:
    stage = Stage()
    return Parser(kind, keys).parse(list(lines), stage, {}), stage


def test_raw_keeps_the_newline() -> None:
    (record,), stage = parse("raw", "a line\r\n")
    assert record["raw"] == "a line\r\n" and set(record) == {"raw", "timestamp"}
    assert stage.shown()["success"] == 1
    assert to_rfc3339(record["timestamp"]) == record["timestamp"]


def test_json_and_what_is_none() -> None:
    good = '{"a": 1, "b": {"c": [null]}}\n'
    bad = ["[1]\n", "{\n", '{"a": NaN}\n', "[" * 5000 + "\n", '{"n": ' + "1" * 5000 + "}\n"]
    records, stage = parse("json", good, "\n", *bad)
    assert records[0] == {"a": 1, "b": {"c": [None]}}
    assert [record["pandora_stash"] for record in records[1:]] == [line.rstrip("\n") for line in bad]
    assert (stage.errors, stage.success.total) == (5, 2)
    assert parse("json", *bad, disable_record_errdata="true")[0] == []


def test_labels_and_source_do_not_override() -> None:
    stage = Stage()
    parser = Parser("json", {"labels": "dc east, host a b"})
    (record,) = parser.parse(['{"dc":"west"}'], stage, {"file": "/x"})
    assert record == {"dc": "west", "host": "a b", "file": "/x"}
    with pytest.raises(BadConfig, match="labels"):
        Parser("raw", {"labels": "nothing"})


def test_csv() -> None:
    keys = {"csv_schema": "name string, size long, ratio float, at date, more json", "csv_splitter": ","}
    records, stage = parse("csv", '"a,b",7,0.5,2026-01-02 03:04:05,"{""x"":1}"\r\n', "a,b\n", "a,x,1,2026-01-02,{}\n", **keys)
    assert records[0] == {"name": "a,b", "size": 7, "ratio": 0.5, "at": "2026-01-02T03:04:05Z", "more": {"x": 1}}
    assert stage.errors == 2 and "pandora_stash" in records[1] and "pandora_stash" in records[2]
    for wrong in ({"csv_schema": ""}, {"csv_schema": "a what"}, {"csv_schema": "a", "csv_splitter": ",,"}):
        with pytest.raises(BadConfig, match=r"parser\.csv"):
            Parser("csv", wrong)


def test_an_apache_line() -> None:
    line = '10.1.2.3 - frank [10/Oct/2025:13:55:36 -0700] "GET /a.gif?x=1 HTTP/1.0" 200 2326 "http://r/" "Agent \\"x\\""\n'
    (record,), _ = parse("grok", line, grok_patterns="%{COMBINEDAPACHELOG}")
    assert record == {"clientip": "10.1.2.3", "ident": "-", "auth": "frank", "timestamp": "10/Oct/2025:13:55:36 -0700",
                      "verb": "GET", "request": "/a.gif?x=1", "httpversion": "1.0", "response": 200, "bytes": 2326,
                      "referrer": '"http://r/"', "agent": '"Agent \\"x\\""'}
    assert to_rfc3339(record["timestamp"]) == "2025-10-10T13:55:36-07:00"


def test_grok_tries_patterns_in_order_and_casts() -> None:
    keys = {"grok_patterns": "^%{LEVEL:level} took %{NUMBER:ms:float}ms$,%{GREEDYDATA:rest}",
            "grok_custom_patterns": "LEVEL [A-Z]{2,5}"}
    records, _ = parse("grok", "WARN took 1.5ms\n", "else\n", **keys)
    assert records == [{"level": "WARN", "ms": 1.5}, {"rest": "else"}]
    for wrong in ("%{NOPE:x}", "%{WORD}", "(%{WORD:x}", "%{WORD:x:blob}", ""):
        with pytest.raises(BadConfig, match="grok_patterns"):
            Parser("grok", {"grok_patterns": wrong})
    with pytest.raises(ValueError, match="circle"):
        Grok("%{A:x}", {"A": "%{B}", "B": "%{A}"})
    with pytest.raises(ValueError, match="custom pattern"):
        custom_patterns("ONLYNAME")


def test_patterns_are_split_outside_brackets() -> None:
    assert split_patterns(r"a{1,2},[,]x,(b,c)\,d" + "\ne") == ["a{1,2}", "[,]x", r"(b,c)\,d", "e"]


@pytest.mark.parametrize(("name", "good", "bad"), [
    ("NUMBER", "-1.5e3", "x"), ("IP", "192.168.0.254", "1.2.3"), ("IP", "fe80::1", "word"), ("WORD", "héllo", "--"),
    ("TIMESTAMP_ISO8601", "2026-11-22T10:11:12.345+02:00", "22.11.2026"), ("HTTPDATE", "22/Nov/2026:10:11:12 +0000", "now"),
    ("QUOTEDSTRING", '"a \\" b"', "'open"), ("UUID", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
    ("LOGLEVEL", "Warning", "loud"), ("URI", "https://u@h.example:8080/p/q?r=1", "nothing"),
    ("MAC", "00:1a:2b:3c:4d:5e", "00:1a"),
    ("SYSLOGTIMESTAMP", "Nov  2 10:11:12", "Nov"), ("UNIXPATH", "/var/log/x", "var"), ("HOSTPORT", "db.example:5432", ":1"),
])
def test_named_patterns(name: str, good: str, bad: str) -> None:
    grok = Grok(f"^%{{{name}:x}}$")
    assert grok.match(good) == {"x": good}
    assert grok.match(bad) is None


def test_every_name_of_the_library_compiles() -> None:
    for name in LIBRARY:
        Grok(f"%{{{name}:x}}")


def test_a_syslog_line() -> None:
    (record,), _ = parse("grok", "Nov 22 10:11:12 web1 sshd[42]: Accepted key\n", grok_patterns="%{SYSLOGLINE}")
    assert record == {"timestamp": "Nov 22 10:11:12", "logsource": "web1", "program": "sshd", "pid": 42,
                      "message": "Accepted key"}


def test_regex_and_lines_too_long_to_match() -> None:
    records, stage = parse("regex", "a=1\n", "b\n", "a=" + "1" * 100_000, regex=r"a=(?P<a>\d+)")
    assert records[0] == {"a": "1"} and stage.errors == 2
    for wrong in ("", "(", r"\d"):
        with pytest.raises(BadConfig, match=r"parser\.regex"):
            Parser("regex", {"regex": wrong})


def transformed(record: dict[str, Any], **value: Any) -> tuple[dict[str, Any], Stage]:
    stage = Stage()
    Transform(0, value).apply([record], stage)
    return record, stage


def test_transforms() -> None:
    assert transformed({"a": 1}, type="rename", key="a", new_key_name="b")[0] == {"b": 1}
    assert transformed({"a": {"b": 1, "c": 2}}, type="rename", key="a.b", new_key_name="d")[0] == {"a": {"c": 2}, "d": 1}
    assert transformed({"a": 1, "b": 2, "c": {"d": 3}}, type="discard", key="a, c.d")[0] == {"b": 2, "c": {}}
    assert transformed({}, type="add", key="a", value=[1])[0] == {"a": [1]}
    assert transformed({"a": 1}, type="add", key="a", value=2, override=True)[0] == {"a": 2}
    record, _ = transformed({"t": "22/Nov/2026:10:11:12 +0100"}, type="timestamp", key="t", layout="httpdate")
    assert record == {"t": "2026-11-22T10:11:12+01:00"}
    record, _ = transformed({"t": "22.11.2026 10:11"}, type="timestamp", key="t", layout="%d.%m.%Y %H:%M", offset="+08:00",
                            new_key_name="at")
    assert record == {"t": "22.11.2026 10:11", "at": "2026-11-22T10:11:00+08:00"}


@pytest.mark.parametrize("value", [
    {"type": "rename", "key": "x", "new_key_name": "y"}, {"type": "timestamp", "key": "a"}, {"type": "timestamp", "key": "x"},
    {"type": "add", "key": "a", "value": 1},
])
def test_a_record_that_cannot_be_changed_goes_on_and_is_counted(value: dict[str, Any]) -> None:
    record, stage = transformed({"a": "text"}, **value)
    assert record == {"a": "text"} and stage.errors == 1 and stage.last_error


@pytest.mark.parametrize(("value", "words"), [
    ({"type": "replace", "key": "a"}, "transforms[0].type"), ({"type": "discard"}, "transforms[0].key"),
    ({"type": "rename", "key": "a"}, "new_key_name"), ({"type": "discard", "key": "a", "stage": "before_parser"}, "stage"),
    ({"type": "timestamp", "key": "a", "layout": "Jan"}, "layout"), ({"type": "timestamp", "key": "a", "offset": "far"},
     "offset"),
])
def test_wrong_transforms_name_their_field(value: dict[str, Any], words: str) -> None:
    with pytest.raises(BadConfig) as error:
        Transform(0, value)
    assert words in str(error.value)


@pytest.mark.parametrize(("value", "layout", "expected"), [
    ("2026-11-22 10:11:12,345", "auto", "2026-11-22T10:11:12.345Z"), ("20261122T101112Z", "iso8601", "2026-11-22T10:11:12Z"),
    (1700000000, "auto", "2023-11-14T22:13:20Z"), (1700000000123, "auto", "2023-11-14T22:13:20.123Z"),
    ("1700000000.5", "unix", "2023-11-14T22:13:20.5Z"), ("1700000000000000001", "unix_ns", "2023-11-14T22:13:20.000000001Z"),
    ("1700000000123", "unix_ms", "2023-11-14T22:13:20.123Z"), (-1, "unix", "1969-12-31T23:59:59Z"),
    ("2016-12-31T23:59:60Z", "iso8601", "2016-12-31T23:59:60Z"),
    ("2026-11-22T10:11:12+00:00", "%Y-%m-%dT%H:%M:%S%z", "2026-11-22T10:11:12Z"),
])
def test_times(value: Any, layout: str, expected: str) -> None:
    assert to_rfc3339(value, layout) == expected


@pytest.mark.parametrize("value", ["", "yesterday", "2026-13-01", "2026-02-30T00:00:00", "31/Foo/2026:00:00:00", None, True, [],
                                   10**30])
def test_what_is_no_time(value: Any) -> None:
    with pytest.raises(ValueError):
        to_rfc3339(value)


def test_a_syslog_time_lies_in_the_last_year_and_not_ahead() -> None:
    assert to_rfc3339("Jan  1 00:00:00", "syslog")[:4] == now_text()[:4]
    assert [offset_s(text) for text in ("", "Z", "+08:00", "-0330", "2")] == [0, 0, 28800, -12600, 7200]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # other work on the machine is no fault
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8))
def test_whatever_is_in_a_record_becomes_json_that_anybody_reads(value: Any) -> None:
    def refuse(name: str) -> Any:
        raise AssertionError(name)

    json.loads(dump({"x": value}).decode("utf-8"), parse_constant=refuse)


def test_lone_surrogates_and_infinities() -> None:
    batch = Batch([{"a": "\ud800", "b": float("inf")}])
    assert json.loads(batch.array()) == [{"a": "\ud800", "b": "inf"}]
    assert batch.lines().count(b"\n") == 1
