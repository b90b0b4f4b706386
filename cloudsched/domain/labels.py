"""Is this a label that Kubernetes takes, and what does one word say: set it, or take it away?"""

from __future__ import annotations

import re

from cloudsched.errors import Invalid

LABEL, UNLABEL = "label", "unlabel"
ACTIONS = (LABEL, UNLABEL)
NAME_CHARS, PREFIX_CHARS = 63, 253
_ALLOWED_KEY = f"[prefix/]name: at most {NAME_CHARS} letters, digits, '-', '_', '.', a letter or digit first and last"
_ALLOWED_VALUE = f"at most {NAME_CHARS} letters, digits, '-', '_', '.', a letter or digit first and last; or nothing"
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_PART = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?\Z")


def parse_label(text: str, action: str = LABEL) -> tuple[str, str | None]:
    """(key, value) of `key=value`; value None takes the label away: `key-`, or anything with the action `unlabel`.

    Raises Invalid at `label` (or `opt` for an unknown action) with what is allowed.
    """
    if action not in ACTIONS:
        raise Invalid.at("opt", f"{action!r} is nothing that is done to a label", ", ".join(ACTIONS))
    word = text.strip()
    key, equals, value = word.partition("=")
    if not equals and word.endswith("-"):
        return check_key(word[:-1]), None
    check_key(key)
    if action == UNLABEL:
        if equals:
            check_value(value)
        return key, None
    if not equals:
        raise Invalid.at("label", f"{text!r} has no value", "key=value to set one, key- to take one away")
    return key, check_value(value)


def check_key(key: str, field: str = "label") -> str:
    """The key itself. Raises Invalid at `field`."""
    prefix, slash, name = key.rpartition("/")
    good = len(name) <= NAME_CHARS and _PART.match(name)
    if not good or (slash and (len(prefix) > PREFIX_CHARS or not _PREFIX.match(prefix))):
        raise Invalid.at(field, f"{key!r} is not a label key", _ALLOWED_KEY)
    return key


def check_value(value: str, field: str = "label") -> str:
    """The value itself. Raises Invalid at `field`."""
    if value and (len(value) > NAME_CHARS or not _PART.match(value)):
        raise Invalid.at(field, f"{value!r} is not a label value", _ALLOWED_VALUE)
    return value
