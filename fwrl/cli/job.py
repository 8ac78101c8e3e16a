"""What runs in a process that compare or tune has started: commands of ``fwrl``, one after another.

Each argument is one command, its words as a JSON list. The process stops and saves, as by a signal,
when its standard input ends: whoever started it has ended then, however that came about.
"""

import json
import os
import signal
import sys
import threading

from fwrl.cli.app import main as command

STANDARD_INPUT = 0


def main() -> None:
    """Run the commands up to the first that does not go well; its exit code is that of all."""
    threading.Thread(target=_stop_with_the_parent, daemon=True).start()
    for words in sys.argv[1:]:
        sys.argv = ["fwrl", *json.loads(words)]
        try:
            command()
        except SystemExit as leave:
            if leave.code:
                raise


def _stop_with_the_parent() -> None:
    # nothing is ever sent
    while os.read(STANDARD_INPUT, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
