"""Evaluates models from a checkout: `python training/analyze.py --help`.

Named `evaluate.py`, it would hide the package `evaluate` from every script of this folder.
"""

import sys

from modeling_sim.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
