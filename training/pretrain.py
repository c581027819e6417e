"""Pretrains a model from a checkout: `accelerate launch training/pretrain.py --help`."""

import sys

from modeling_sim.commands.pretrain import main

if __name__ == "__main__":
    sys.exit(main())
