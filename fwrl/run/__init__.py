"""One training run: its loop, state, directory, log and signals."""

from fwrl.run.neighbours import check_neighbours

check_neighbours()
