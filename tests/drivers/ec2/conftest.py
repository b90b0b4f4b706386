"""The fixtures of moto_server.py, for all tests here."""

from .moto_server import moto, moto_server

__all__ = ["moto", "moto_server"]
