"""The request for a job, field by field: what is refused is named."""

from __future__ import annotations

import json

import pytest

from cloudsched.domain import submission
from cloudsched.errors import Invalid


def refused(**fields: object) -> list[str]:
    with pytest.raises(Invalid) as caught:
        submission.parse(json.dumps({"command": ["true"], **fields}).encode())
    return [error.field for error in caught.value.errors]


@pytest.mark.parametrize("field", ["user", "name", "batch"])
@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m", "a\x7f", "\x00"])
def test_control_characters_are_refused(field: str, text: str) -> None:
    assert refused(**{field: text}) == [field]


def test_other_characters_are_not() -> None:
    (job,), _ = submission.parse(json.dumps({"command": ["a\nb"], "user": "é ü", "name": "名 # %", "batch": "a/b"}).encode())
    assert (job.user, job.name, job.batch) == ("é ü", "名 # %", "a/b")


def test_an_index_comes_once() -> None:
    assert refused(array={"indices": [3, 1, 2, 1]}) == ["array.indices"]
    (job,), _ = submission.parse(b'{"command": ["true"], "array": {"indices": [3, 1, 2]}}')
    assert job.count() == 3
