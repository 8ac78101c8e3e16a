"""The command line: the roof of the house, where everything is wired together."""

from fwrl.cli.app import main

__all__ = ["main"]
