"""How does a process of an instance start? `up` (everything), `serve` (the web processes), `engine` (the loops)."""

from __future__ import annotations

import argparse


def run_up(args: argparse.Namespace) -> int:
    """`cloudsched up`: one command for everything, until Ctrl-C."""
    from cloudsched.app.up import run

    return run(args)


def run_serve(args: argparse.Namespace) -> int:
    """`cloudsched serve`: the listeners, under gunicorn."""
    from cloudsched.app.serve import run

    return run(args)


def run_engine(args: argparse.Namespace) -> int:
    """`cloudsched engine`: the loops."""
    from cloudsched.app.engine import run

    return run(args)
