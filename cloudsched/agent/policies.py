"""Does this device take work now? Rules for battery, temperature and charging, each with two thresholds.

A rule that stops work at one value lets it go on only at a better one, so that a figure that swings around a threshold
does not switch the device on and off.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Rule:
    """Stop below (or above) `stop`, go on above (or below) `resume`. Does not apply to a figure that is not measured."""

    def __init__(self, name: str, *, stop: float, resume: float, unit: str, low_is_bad: bool) -> None:
        if (resume < stop) if low_is_bad else (resume > stop):
            raise ValueError("%s: the value to go on at must be better than the one to stop at" % name)
        self.name = name
        self.stopped = False
        self._stop, self._resume, self._unit, self._low_is_bad = stop, resume, unit, low_is_bad

    def look(self, value: float | None) -> str | None:
        """The reason not to work, or None."""
        if value is None:
            self.stopped = False
            return None
        if self._low_is_bad:
            bad, good = value < self._stop, value >= self._resume
        else:
            bad, good = value > self._stop, value <= self._resume
        self.stopped = bad or (self.stopped and not good)
        if not self.stopped:
            return None
        return "%s is %g%s; goes on at %g%s" % (self.name, value, self._unit, self._resume, self._unit)


class Policies:
    """All rules of one device. `look` takes the metrics of contract 10.1."""

    def __init__(self, *, battery_min: float = 0.0, battery_resume: float | None = None, temperature_max: float = 0.0,
                 temperature_resume: float | None = None, only_charging: bool = False) -> None:
        self._battery = self._temperature = None
        if battery_min > 0:
            resume = min(100.0, battery_min + 10) if battery_resume is None else battery_resume
            self._battery = Rule("battery", stop=battery_min, resume=resume, unit="%", low_is_bad=True)
        if temperature_max > 0:
            resume = temperature_max - 5 if temperature_resume is None else temperature_resume
            self._temperature = Rule("temperature", stop=temperature_max, resume=resume, unit=" C", low_is_bad=False)
        self._only_charging = only_charging

    def look(self, metrics: dict[str, Any]) -> list[str]:
        """Reasons not to take work now; empty: all is well."""
        battery, charging = metrics.get("battery_percent"), metrics.get("battery_charging")
        found = []
        if self._battery is not None:
            # While it charges, the battery is no reason to stop; the rule keeps its own state for later.
            reason = self._battery.look(battery)
            if reason and not charging:
                found.append(reason)
        if self._temperature is not None:
            reason = self._temperature.look(metrics.get("temperature_max"))
            if reason:
                found.append(reason)
        if self._only_charging and battery is not None and not charging:
            found.append("not charging")
        return found
