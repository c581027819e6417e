"""Measures what can be read from a frozen model with a small classifier, beside controls.

    python training/probe.py --model runs/sim-small --corpus librispeech --data_dir LibriSpeech --label phones

Every row of the table is the same task on the same items: chance (the most frequent class), log-mel and MFCC frames,
the first model untrained, and each model given, all of its modules. Intervals are 95 % bootstrap intervals over
utterances, or over speakers where those of the test split are not in the training split. The output folder gets
`probe.json`, `probe.png` (accuracies), `confusion.png` (of the best module of the first model) and `weights.npz`
(standardised weights of the linear probes); one that holds these of an earlier probe is refused.
"""

from collections.abc import Sequence
from typing import Any

from modeling_sim.evaluation.probe import PROBES, probe, table
from modeling_sim.evaluation.settings import measuring_parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    arguments = parse(argv)
    try:
        results = probe(arguments)
    except (ValueError, OSError) as error:
        raise SystemExit(f"probe.py: {error}") from error
    print(table(results))
    print(f"\nresults and pictures in {arguments.output_dir}")


def parse(argv: Sequence[str] | None) -> Any:
    """Reads the flags."""
    parser = measuring_parser(__doc__, output_dir="runs/probe")
    parser.add_argument("--latents", choices=("mean", "sample"), default="mean", help="What is read of a Gaussian.")
    parser.add_argument(
        "--pooling",
        choices=("frame", "chunk", "mean"),
        help="Frames, means over short chunks, or means over utterances; frames where labels are, else means. For "
        "speakers take chunks: with one chapter a speaker, whole utterances tell the recording.",
    )
    parser.add_argument("--chunk_seconds", type=float, default=0.5, help="Length of a chunk.")
    parser.add_argument("--frame_step", type=int, default=4, help="Label frames of 10 ms from one item to the next.")
    parser.add_argument(
        "--max_items", type=int, default=200_000, help="Items of a split, about, drawn from all utterances; 0 for all."
    )
    parser.add_argument(
        "--protocol",
        choices=("standard", "paper"),
        default="standard",
        help="'paper': the probe of the Smooth InfoMax paper as its code runs it, for its rows alone; see "
        "modeling_sim/analysis/paper_probe.py.",
    )
    parser.add_argument("--probe", choices=PROBES, default="linear", help="Classifier.")
    parser.add_argument(
        "--l2", type=float, help="Of the linear probe; chosen on a part of the training split if unset."
    )
    return parser.parse_args(argv)
