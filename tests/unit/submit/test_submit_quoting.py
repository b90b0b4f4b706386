"""Arguments and environments in the old and the new syntax, with the examples of the HTCondor manual."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudsched.client.submit import join_arguments, split_arguments, split_environment

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("one \\\"two\\\" 'three'", ["one", '"two"', "'three'"]),
        ('"3 simple arguments"', ["3", "simple", "arguments"]),
        ("\"one 'two with spaces' 3\"", ["one", "two with spaces", "3"]),
        ("\"one \"\"two\"\" 'spacey ''quoted'' argument'\"", ["one", '"two"', "spacey 'quoted' argument"]),
        ("\"a'b c'd ''\"", ["ab cd", ""]),
        ('"C:\\dir\\file"', ["C:\\dir\\file"]),
        ("  a\tb  c ", ["a", "b", "c"]),
        ('""', []),
        ("", []),
        ("caf\u00e9 x\u00a0y", ["caf\u00e9", "x\u00a0y"]),
    ],
)
def test_arguments(text, words):
    assert split_arguments(text) == words


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('one "two" three', "old syntax"),
        ('"one', "must end with one"),
        ('"', "must end with one"),
        ('"one "two" three"', "must be written twice"),
        ('"one \'two"', "single quote is never closed"),
    ],
)
def test_wrong_arguments(text, problem):
    with pytest.raises(ValueError, match=problem):
        split_arguments(text)


@given(st.lists(TEXT))
def test_any_words_come_back(words):
    assert split_arguments(join_arguments(words)) == words


@given(st.lists(st.text(st.characters(categories=["L", "N", "P"], exclude_characters='"\\'), min_size=1)))
def test_old_syntax_splits_at_blanks_only(words):
    assert split_arguments(" ".join(words)) == words


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        (
            "\"one=1 two=\"\"2\"\" three='spacey ''quoted'' value'\"",
            {"one": "1", "two": '"2"', "three": "spacey 'quoted' value"},
        ),
        (
            "one=1;two=2;three=\"quotes have no 'special' meaning\"",
            {"one": "1", "two": "2", "three": "\"quotes have no 'special' meaning\""},
        ),
        ("A=b=c; ;", {"A": "b=c"}),
        ("\"A= 'B=x y'\"", {"A": "", "B": "x y"}),
        ("", {}),
    ],
)
def test_environment(text, environment):
    assert split_environment(text) == environment


@pytest.mark.parametrize("text", ["novalue", '"=x"', "a=1;b"])
def test_wrong_environment(text):
    with pytest.raises(ValueError, match="is not NAME=value"):
        split_environment(text)
