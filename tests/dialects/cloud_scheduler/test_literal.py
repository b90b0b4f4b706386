"""Does a Python 2 program read back what was meant?"""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudsched.dialects.cloud_scheduler import literal


@pytest.mark.parametrize(("text", "expected"), [
    ("alice", "u'alice'"), ("o'neil", 'u"o\'neil"'), ("'\"", "u'\\'\"'"), ('say "x"', "u'say \"x\"'"),
    ("a\\b", "u'a\\\\b'"), ("\t\n\r\x01\x7f", "u'\\t\\n\\r\\x01\\x7f'"), ("jörg", "u'j\\xf6rg'"),
    ("☃", "u'\\u2603'"), ("😀", "u'\\U0001f600'"), ("", "u''"),
])
def test_strings(text: str, expected: str) -> None:
    assert literal.string(text) == expected


def test_dictionaries() -> None:
    assert literal.dictionary({}) == "{}"
    assert literal.dictionary({"alice": 5, "bob": 10}) == "{u'alice': 5, u'bob': 10}"
    assert literal.dictionary({"east": ["alpha", "beta"], "west": []}) == "{u'east': [u'alpha', u'beta'], u'west': []}"


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(TEXTS, st.integers() | st.lists(TEXTS)))
def test_reads_back(entries: dict[str, int | list[str]]) -> None:
    text = literal.dictionary(entries)
    assert text.isascii()
    assert ast.literal_eval(text) == entries
