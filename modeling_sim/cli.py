"""Console command: `modeling-sim COMMAND ...`; `modeling-sim COMMAND --help` says what each needs and does."""

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "pretrain": "pretrain a model",
    "finetune": "train a classifier on a pretrained encoder",
    "train-decoder": "train a decoder of a module, to hear its latents",
    "probe": "measure what a linear probe reads from each module",
    "abx": "measure phone discriminability (ABX)",
    "evaluate": "measure models with every control, and write a report",
    "report": "write the report of an evaluation again",
    "curves": "draw the curves of a run again",
    "corpora": "list or describe corpora",
    "publish": "upload a model with its card to the Hub",
    "convert": "convert checkpoints of the authors' code",
}
_MODULES = {"evaluate": "modeling_sim.commands.analyze", "convert": "modeling_sim.convert"}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command, which is imported only then.

    Raises:
        SystemExit: There is no such command; or the command ends so.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: modeling-sim COMMAND ...\n")
        print("\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()))
        return
    name = words[0]
    if name not in COMMANDS:
        raise SystemExit(f"modeling-sim: there is no command {name!r}; choose one of {', '.join(COMMANDS)}.")
    module = _MODULES.get(name, f"modeling_sim.commands.{name.replace('-', '_')}")
    import_module(module).main(words[1:])


if __name__ == "__main__":
    main()
