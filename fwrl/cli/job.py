"""The process that compare or tune starts: it runs commands of ``fwrl``, one after another.

Each argument is one command, its words as a JSON list. When standard input ends, its parent has
ended, however that came about; the process then saves and stops, as by a signal.
"""

import json
import os
import signal
import sys
import threading

from fwrl.cli.app import main as command

STANDARD_INPUT = 0


def main() -> None:
    """Run the commands up to the first that fails, and leave with its exit code."""
    threading.Thread(target=_stop_with_the_parent, daemon=True).start()
    for words in sys.argv[1:]:
        sys.argv = ["fwrl", *json.loads(words)]
        try:
            command()
        except SystemExit as leave:
            if leave.code:
                raise


def _stop_with_the_parent() -> None:
    # the parent never sends anything
    while os.read(STANDARD_INPUT, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
