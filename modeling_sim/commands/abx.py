"""Measures phone discriminability (ABX) of a model's modules, beside log-mel, MFCC and the untrained network.

    python training/abx.py --model runs/sim-small --corpus librispeech --data_dir LibriSpeech

The error is the share of triples in which a token of a phone lies nearer to a token of another phone than to one of its
own; 50 % is chance. Tokens are the segments of the alignment, read every 10 ms; silence and noise are left out.
The output folder gets `abx.json` and `abx.png`; one that holds these of an earlier measurement is refused.
"""

from collections.abc import Sequence

from modeling_sim.evaluation.abx import measure, table
from modeling_sim.evaluation.settings import measuring_parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = measuring_parser(__doc__, output_dir="runs/abx")
    parser.add_argument("--split", default="test", help="Split to measure; 'all' for every utterance.")
    parser.add_argument("--max_tokens", type=int, default=5, help="Tokens of a phone, speaker and context, at most.")
    arguments = parser.parse_args(argv)
    try:
        results = measure(arguments)
    except (ValueError, OSError) as error:
        raise SystemExit(f"abx.py: {error}") from error
    print(table(results))
    print(f"\nresults and picture in {arguments.output_dir}")
