"""Console command: `modeling-sim COMMAND ...`; `modeling-sim COMMAND --help` says what each needs and does."""

import sys
from collections.abc import Sequence
from importlib import import_module

from modeling_sim import __version__
from modeling_sim.files import nearest

COMMANDS = {
    "pretrain": "pretrain a model",
    "finetune": "train a classifier on a pretrained encoder",
    "train-decoder": "train a decoder of a module, to hear its latents",
    "embed": "write embeddings of recordings",
    "probe": "measure what a linear probe reads from each module",
    "abx": "measure phone discriminability (ABX)",
    "evaluate": "measure models with every control, and write a report",
    "report": "write the report of an evaluation again",
    "curves": "draw the curves of a run again",
    "corpora": "list or describe corpora",
    "publish": "upload a model with its card to the Hub",
    "convert": "convert checkpoints of the authors' code",
}
_MODULES = {"evaluate": "modeling_sim.commands.analyze"}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command, which is imported only then.

    Raises:
        SystemExit: There is no such command; or the command ends so.
    """
    name, *flags = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: modeling-sim COMMAND ...\n")
        print("\n".join(f"  {command:<{width}}  {text}" for command, text in COMMANDS.items()))
        print("\n`modeling-sim COMMAND --help` explains a command, `modeling-sim --version` prints the version.")
    elif name == "--version":
        print(f"modeling-sim {__version__}")
    elif name in COMMANDS:
        module = _MODULES.get(name, f"modeling_sim.commands.{name.replace('-', '_')}")
        import_module(module).main(flags)
    else:
        raise SystemExit(
            f"modeling-sim: there is no command {name!r}{nearest(name, COMMANDS)} The commands are "
            f"{', '.join(COMMANDS)}."
        )


if __name__ == "__main__":
    main()
