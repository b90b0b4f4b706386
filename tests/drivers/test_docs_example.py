"""Does the driver in docs/drivers.md keep the promises of a driver? The page's own text is what is tested."""

from __future__ import annotations

import re
import types
from functools import cache
from pathlib import Path

import pytest

from cloudsched.drivers.base import Driver, Place
from cloudsched.errors import Invalid
from tests.drivers.contract import DriverContract

PAGE = Path(__file__).resolve().parents[2] / "docs" / "drivers.md"


@cache
def example() -> types.ModuleType:
    """The first Python block of the page, as a module."""
    block = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    module = types.ModuleType("folder")
    exec(compile(block[1], str(PAGE), "exec"), module.__dict__)
    return module


class TestFolder(DriverContract):
    def place(self, name: str) -> Place:
        return Place(name, "Folder", {"path": str(self.tmp)})

    def make(self, place: Place) -> Driver:
        made: Driver = example().make(place)
        return made

    def test_a_directory_that_is_missing_is_a_failed_check(self) -> None:
        driver = self.make(Place("one", "Folder", {"path": str(self.tmp / "none")}))
        assert [check.ok for check in driver.verify()] == [False]

    def test_the_option_is_refused_by_name(self) -> None:
        with pytest.raises(Invalid, match="path"):
            self.make(Place("one", "Folder", {}))
