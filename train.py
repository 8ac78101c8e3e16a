"""Train an agent: ``python train.py CONFIG [KEY=VALUE ...]`` is ``fwrl train CONFIG ...``."""

import sys

from fwrl.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
