"""Analyzes models from a checkout: `python training/analyze.py --help`."""

import sys

from modeling_sim.commands.analyze import main

if __name__ == "__main__":
    sys.exit(main())
