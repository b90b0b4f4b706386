"""What does `cloudsched logs show` ask for?"""

from __future__ import annotations

import argparse
import re

import pytest

from cloudsched.cli.logs import _since, _subject


@pytest.mark.parametrize(("subject", "job", "asked"), [
    ("n1", None, ("/nodes/n1/logs", None)), ("12", None, ("/jobs/12/logs", None)), ("node:12", None, ("/nodes/12/logs", None)),
    ("h#1.0#2", None, ("/jobs/h%231.0%232/logs", None)), ("job:x", None, ("/jobs/x/logs", None)),
    ("n1", "7", ("/nodes/n1/logs", "7")), ("12", "7", ("/nodes/12/logs", "7")), (None, "7", ("/jobs/7/logs", None)),
    ("10.0.0.7:1222", None, ("/nodes/10.0.0.7:1222/logs", None)), (None, None, ("", None)),
    ("a/b", None, ("/nodes/a%2Fb/logs", None))])
def test_what_is_meant(subject: str | None, job: str | None, asked: tuple[str, str | None]) -> None:
    found, filtered = _subject(argparse.Namespace(subject=subject, job=job))
    assert (found.replace("%3A", ":"), filtered) == asked


@pytest.mark.parametrize(("given", "asked"), [
    (None, None), ("nonsense", ""), ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000Z"),
    ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00.000Z")])
def test_since(given: str | None, asked: str | None) -> None:
    assert _since(given) == asked


def test_since_a_while_ago() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", _since("1h30m") or "")
