"""cloudsched: one control plane for mixed fleets."""

__version__ = "0.1.0"
