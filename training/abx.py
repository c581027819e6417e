"""Measures ABX errors from a checkout: `python training/abx.py --help`."""

import sys

from modeling_sim.commands.abx import main

if __name__ == "__main__":
    sys.exit(main())
