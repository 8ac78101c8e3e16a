"""The command line: commands parse, call and print."""

import sys


def main() -> None:
    """Run the command that was typed."""
    try:
        from fwrl.cli.app import main as run
    # something is not installed, or has the name of a package of ours
    except ImportError as error:
        sys.stderr.write(f"fwrl: cannot start: {error}\n")
        sys.exit(2)
    run()


__all__ = ["main"]
