"""``python -m fwrl`` is ``fwrl``."""

from fwrl.cli import main

main()
