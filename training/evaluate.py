"""Evaluates models from a checkout: `python training/evaluate.py --help`."""

import sys

from modeling_sim.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
