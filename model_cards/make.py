"""Renders the cards of the committed runs, or checks them: `python model_cards/make.py [--check]`."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from modeling_sim.files import read_json, replacing
from modeling_sim.hub.card import render_card
from modeling_sim.hub.card_check import check_card
from modeling_sim.hub.card_parts import config_of_file, settings_of_file

ROOT = Path(__file__).resolve().parent.parent


CARDS = ROOT / "model_cards"


# ---------------------------------------------------------------------- the cards of the small runs


def render_committed_cards() -> dict[Path, str]:
    """The text of the card of every run in model_cards/results that has a settings file of the same name, by path.

    The measures and pictures of a run are the files whose names begin with its own.
    """
    cards = {}
    for path in sorted((CARDS / "results").glob("*.json")):
        settings_file = ROOT / "training" / "configs" / "small" / f"{path.stem}.yaml"
        if settings_file.is_file() and "modules" in (training := read_json(path)):
            name = path.stem
            links = {f"results/{path.name}": (training, f"images/{name}_curves.png")}
            for measure in sorted((CARDS / "results").glob(f"{name}_*.json")):
                links[f"results/{measure.name}"] = (read_json(measure), f"images/{measure.stem}.png")
            settings = settings_of_file(settings_file)
            cards[CARDS / f"{name}.md"] = render_card(
                config_of_file(settings_file),
                settings,
                {link: measure for link, (measure, _) in links.items()},
                title=Path(settings["output_dir"]).name,
                model_id=settings["output_dir"],
                config_link=f"../training/configs/small/{settings_file.name}",
                pictures={link: picture for link, (_, picture) in links.items() if (CARDS / picture).is_file()},
                published=False,
            )
    return cards


# ---------------------------------------------------------------------- command


def main(argv: Sequence[str] | None = None) -> None:
    """Renders the cards of the small runs, or checks them."""
    parser = ArgumentParser(description="Render the cards of the runs in model_cards/results.")
    parser.add_argument("--check", action="store_true", help="Change nothing; fail if a card is not what results give.")
    arguments = parser.parse_args(argv)
    wrong = []
    for path, text in render_committed_cards().items():
        wrong += [f"{path.name}: {problem}" for problem in check_card(text, path.parent)]
        if arguments.check:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                wrong.append(f"{path.name} is not what its results give; run `python model_cards/make.py`")
        else:
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            print(path)
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    sys.exit(main())
