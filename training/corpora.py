"""Describes a corpus from a checkout: `python -m training.corpora --help`."""

import sys

from modeling_sim.commands.corpora import main

if __name__ == "__main__":
    sys.exit(main())
