"""The parts that need neither database nor server: times, parameters, pages, texts, command lines, keys."""

from __future__ import annotations

from typing import Any

import pytest

from cloudsched.dialects.retire_cluster import access, commands, params, render, text, views
from cloudsched.dialects.retire_cluster.envelope import Refused, failure, field_details
from cloudsched.dialects.retire_cluster.routing import decoded, raw_path, segment
from cloudsched.errors import Conflict, Invalid, NotFound, RateLimited, Unavailable

NOON = 1672574400.0  # 2023-01-01T12:00:00Z


@pytest.mark.parametrize(("given", "found"), [
    ("2023-01-01T12:00:00Z", NOON), ("2023-01-01T12:00:00", NOON), ("2023-01-01T14:00:00+02:00", NOON),
    ("2023-01-01T14:00:00 02:00", NOON), ("2023-01-01T07:00:00-0500", NOON), ("1672574400", NOON), ("1672574400.5", NOON + 0.5),
    ("2023-01-01T12:00:00.250Z", NOON + 0.25), ("2023-01-01", NOON - 43200), ("2023-01-01 12:00", NOON), ("-5", -5.0),
    ("2016-12-31T23:59:60Z", 1483228800.0), ("0000-01-01T00:00:00Z", -62135596800.0), ("1e30", 253402300799.0),
    ("-5.8e+159", -253402300799.0),
])
def test_moments(given: str, found: float) -> None:
    assert params.moment(given) == found


@pytest.mark.parametrize("given", ["", "yesterday", "2023-13-01", "2023-01-01T25:00:00Z", "2023-01-01T12:00:00+25:00", "nan",
                                   "inf", "1_000", "0x10", "2023-02-30", "2023-01-01T12:00:61Z", "٣"])
def test_no_moments(given: str) -> None:
    assert params.moment(given) is None


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0m"), (2579, "42m"), (24120, "6h 42m"), (1320120, "15d 6h 42m"),
                                                (86400, "1d 0h 0m"), (-5, "0m")])
def test_uptime(seconds: float, shown: str) -> None:
    assert render.uptime(seconds) == shown


def test_times_are_utc_with_z() -> None:
    assert render.time(NOON) == "2023-01-01T12:00:00Z"
    assert render.time(NOON + 0.25) == "2023-01-01T12:00:00.250Z"
    assert render.time(None) is None


def refused(param: Any, *given: str) -> Refused:
    with pytest.raises(Refused) as caught:
        param.of(list(given))
    assert caught.value.details["field"] == param.name
    return caught.value


def test_numbers() -> None:
    limit = params.Whole("limit", 1, 1000, 100)
    assert (limit.of([]), limit.of(["1"]), limit.of(["1000"]), limit.of(["7", "x"])) == (100, 1, 1000, 7)
    for bad in ("0", "1001", "-1", "x", "", "1.5", "9" * 40, "１"):
        assert refused(limit, bad).code == "INVALID_PARAMETER"
    size = params.Whole("page_size", 1, None, None, cap=100)
    assert (size.of(["500"]), size.of([])) == (100, None)
    refused(size, "0")


def test_words_flags_texts() -> None:
    level = params.Word("level", ("info", "error"), "info", fold=True)
    assert (level.of([]), level.of(["ERROR"])) == ("info", "error")
    assert "info, error" in refused(level, "loud").message
    refused(params.Word("status", ("online",)), "ONLINE")
    types = params.Words("types", ("devices", "tasks"))
    assert types.of([]) == types.of([""]) == types.of(["all"]) == ("devices", "tasks")
    assert types.of(["tasks,devices", "tasks"]) == ("tasks", "devices")
    refused(types, "tasks,x")
    force = params.Flag("force")
    assert [force.of([word]) for word in ("true", "1", "True", "false", "0")] == [True, True, True, False, False]
    refused(force, "yes")
    assert params.Text("role").of([""]) is None and params.Texts("tags").of(["a,b", "c"]) == ("a", "b", "c")
    refused(params.Text("role"), "x" * 257)


def test_queries() -> None:
    table = (params.Text("a"), params.Since())
    assert params.parse(table, "a=x%20y&zzz=1&since=5") == {"a": "x y", "since": 5.0}
    for bad in ("a=%00", "since=x", "&".join(["b=1"] * 2000)):
        with pytest.raises(Refused):
            params.parse(table, bad)


def test_pages() -> None:
    page = views.Page(2, 20).pagination(41)
    assert (page.total_pages, page.has_next, page.has_previous) == (3, True, True)
    page = views.Page(1, 20).pagination(0)
    assert (page.total_pages, page.has_next, page.has_previous) == (0, False, False)


def test_text_cannot_break_its_line() -> None:
    assert text.joined([["a|b\tc\r\nd\u2028e", None, 5]]) == "a b c  d e||5"
    assert text.separated([["a,b", 'say "x"']], ",") == '"a,b","say ""x"""'
    assert dict(text.flat({"a": {"b": [1, 2]}, "c": [{"d": None}], "e": {}})) == {"a.b": "1, 2", "c[0].d": None, "e": {}}


def test_command_lines() -> None:
    parsed = commands.parse("devices list --status=online -f json --force 'a b'")
    assert parsed.words == ["devices", "list", "a b"]
    assert parsed.options == {"status": "online", "format": "json", "force": "true"}
    for bad in ("echo 'x", "devices list -s"):
        with pytest.raises(Refused) as caught:
            commands.parse(bad)
        assert caught.value.code == "INVALID_COMMAND"


def test_keys() -> None:
    keys = dict(access._parsed(["plain", "low:read", "mid:write", "top:admin", "with:colon"]))
    assert sorted(keys.values()) == ["admin", "admin", "admin", "read", "write"]
    assert access.presented({"HTTP_X_API_KEY": "a", "HTTP_AUTHORIZATION": "Bearer b"}) == "a"
    assert access.presented({"HTTP_AUTHORIZATION": "Bearer b"}) == access.presented({"HTTP_AUTHORIZATION": "b"}) == "b"
    assert access.presented({"HTTP_AUTHORIZATION": "Basic abc"}) == access.presented({}) == access.presented(
        {"HTTP_AUTHORIZATION": "Bearer"}) == ""


@pytest.mark.parametrize(("target", "path"), [
    ("/api/v1/devices/", "/api/v1/devices"), ("/", "/"), ("/api/v1/devices/a%2Fb?x=1", "/api/v1/devices/a%2Fb"),
    ("http://host/api/v1?q", "/api/v1"), ("/a//", "/a/"),
])
def test_raw_paths(target: str, path: str) -> None:
    assert raw_path({"RAW_URI": target}) == path
    assert segment("a%2Fb%ff%00") == "a/b\ufffd\ufffd"


@pytest.mark.parametrize("raw", [b"{", b"[1,", b"\xff", b'{"a":' * 3000, b"nul", b'{"a":1e999}'])
def test_bodies_that_are_no_json(raw: bytes) -> None:
    with pytest.raises(Refused) as caught:
        decoded(raw)
    assert caught.value.code == "INVALID_JSON"


@pytest.mark.parametrize(("raw", "field"), [
    (b"[]", []), (b"1", []), (b'{"a":{"b":["\\u0000"]}}', ["a", "b", 0]), (b'{"a":99999999999999999999}', ["a"]),
])
def test_bodies_that_cannot_be_kept(raw: bytes, field: list[Any]) -> None:
    with pytest.raises(Refused) as caught:
        decoded(raw, ("a",))
    assert (caught.value.code, caught.value.details["field"]) == ("VALIDATION_ERROR", field)
    assert decoded(b'{"b": "\\u0000"}', ("a",)) and decoded(b" \n") == {}
    assert decoded(b'{"a": 1234567890123456789}') == {"a": 1234567890123456789}


@pytest.mark.parametrize(("error", "status", "code"), [
    (Invalid.at("a", "b"), 400, "VALIDATION_ERROR"),
    (NotFound("x", details={"code": "DEVICE_NOT_FOUND"}), 404, "DEVICE_NOT_FOUND"),
    (Conflict("x", details={"code": "CANNOT_CANCEL_TASK"}), 400, "CANNOT_CANCEL_TASK"), (Conflict("x"), 409, "CONFLICT"),
    (RateLimited("x", retry_after_s=3.2), 429, "RATE_LIMIT_EXCEEDED"),
    (Unavailable("the secret host is away"), 503, "SERVICE_UNAVAILABLE"),
    (ValueError("a secret"), 500, "INTERNAL_ERROR"), (RecursionError(), 400, "INVALID_JSON"),
    (NotFound("x", details={"code": "nonsense"}), 404, "NOT_FOUND"),
])
def test_errors(error: Exception, status: int, code: str) -> None:
    found, headers, body = failure(error, "id")
    assert found == status and f'"error_code":"{code}"'.encode() in body and b"secret" not in body
    assert ("Retry-After" in dict(headers)) == (status in (429, 503))


def test_where_a_field_is_wrong() -> None:
    assert field_details(Invalid.at("tasks[3].requirements.min_cpu_cores", "is no number", "1 or more")) == {
        "field": ["tasks", 3, "requirements", "min_cpu_cores"], "message": "is no number", "allowed": "1 or more"}
