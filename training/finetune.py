"""Trains a classifier from a checkout: `accelerate launch training/finetune.py --help`."""

import sys

from modeling_sim.commands.finetune import main

if __name__ == "__main__":
    sys.exit(main())
