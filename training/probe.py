"""Probes models from a checkout: `python training/probe.py --help`."""

import sys

from modeling_sim.commands.probe import main

if __name__ == "__main__":
    sys.exit(main())
