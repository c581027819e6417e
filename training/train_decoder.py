"""Trains a decoder from a checkout: `accelerate launch training/train_decoder.py --help`."""

import sys

from modeling_sim.commands.train_decoder import main

if __name__ == "__main__":
    sys.exit(main())
