"""Publishes a model from a checkout: `python training/publish.py --help`."""

import sys

from modeling_sim.commands.publish import main

if __name__ == "__main__":
    sys.exit(main())
