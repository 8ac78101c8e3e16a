"""The command line: commands parse, call and print."""

from fwrl.cli.app import main

__all__ = ["main"]
