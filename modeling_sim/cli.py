"""Console command: `modeling-sim COMMAND ...`; see `modeling-sim COMMAND --help`."""

import sys
from collections.abc import Sequence
from importlib import import_module

from modeling_sim import __version__
from modeling_sim.files import nearest

COMMANDS = {
    "pretrain": "pretrain a model",
    "finetune": "train a classifier on a pretrained encoder",
    "train-decoder": "train a decoder that makes a module's latents audible",
    "probe": "train linear probes on each module",
    "axes": "find axes that are easier to read than a model's own",
    "embed": "write embeddings of recordings",
    "abx": "measure phone discriminability (ABX)",
    "evaluate": "measure models next to controls, and write a report",
    "explore": "open a page to see and hear what dimensions do",
    "report": "rewrite the report of an evaluation",
    "curves": "redraw the training curves of a run",
    "corpora": "list or describe corpora",
    "publish": "upload a model and its card to the Hub",
    "convert": "convert checkpoints of the authors' code",
    "export": "export an encoder to ONNX or torch.export",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Imports and runs a command.

    Raises:
        SystemExit: There is no such command, or the command fails.
    """
    name, *flags = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: modeling-sim COMMAND ...\n")
        print("\n".join(f"  {command:<{width}}  {text}" for command, text in COMMANDS.items()))
        print("\n`modeling-sim COMMAND --help` describes a command, `modeling-sim --version` prints the version.")
    elif name == "--version":
        print(f"modeling-sim {__version__}")
    elif name in COMMANDS:
        import_module(f"modeling_sim.commands.{name.replace('-', '_')}").main(flags)
    else:
        raise SystemExit(
            f"modeling-sim: unknown command {name!r}{nearest(name, COMMANDS)} The commands are {', '.join(COMMANDS)}."
        )


if __name__ == "__main__":
    main()
