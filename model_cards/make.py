"""Writes the cards of the committed runs and the code in `checkpoints/`: `python model_cards/make.py [--check]`."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import transformers
from transformers import AutoConfig, AutoFeatureExtractor

import modeling_sim
from modeling_sim import SimConfig
from modeling_sim.evaluation.results import Results
from modeling_sim.files import read_results, replacing
from modeling_sim.hub.card import render_card
from modeling_sim.hub.card_check import check_card
from modeling_sim.settings import read_settings
from modeling_sim.trainer.settings import DataArguments, ModelArguments, PretrainingArguments

ROOT = Path(__file__).resolve().parent.parent
CARDS = ROOT / "model_cards"
CHECKPOINTS = ROOT / "checkpoints"


# ---------------------------------------------------------------------- the cards of the small runs


def render_committed_cards() -> dict[Path, str]:
    """The text of the card of every run in model_cards/results that has a settings file of the same name, by path.

    The measures and pictures of a run are the files whose names begin with its own.
    """
    cards = {}
    for path in sorted((CARDS / "results").glob("*.json")):
        settings_file = ROOT / "training" / "configs" / "small" / f"{path.stem}.yaml"
        if settings_file.is_file() and "modules" in (training := read_results(path)):
            name = path.stem
            links: dict[str, tuple[Any, str]] = {f"results/{path.name}": (training, f"images/{name}_curves.png")}
            for measure in sorted((CARDS / "results").glob(f"{name}_*.json")):
                links[f"results/{measure.name}"] = (Results.read(measure), f"images/{measure.stem}.png")
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


def settings_of_file(path: Path) -> dict[str, Any]:
    """All settings of a run that a settings file starts: its own, and defaults."""
    return {**asdict(DataArguments()), **asdict(PretrainingArguments()), **read_settings(path)}


def config_of_file(path: Path) -> SimConfig:
    """The configuration of the model that a settings file trains."""
    settings = read_settings(path)
    return SimConfig.preset(settings.get("preset", ModelArguments.preset), **settings.get("model_settings", {}))


# ---------------------------------------------------------------------- the code of the checkpoints


def render_checkpoint_code() -> dict[Path, str]:
    """Code and configurations of every model in `checkpoints/`, as the package saves them today, by path."""
    files = {}
    for folder in sorted(path.parent for path in CHECKPOINTS.glob("*/config.json")):
        config = AutoConfig.from_pretrained(folder)
        trained_with = config.transformers_version
        with TemporaryDirectory() as saved:
            getattr(modeling_sim, config.architectures[0])(config).save_pretrained(saved)
            AutoFeatureExtractor.from_pretrained(folder).save_pretrained(saved)
            for path in (*Path(saved).glob("*.json"), *Path(saved).glob("*.py")):
                files[folder / path.name] = path.read_text(encoding="utf-8")
        name = folder / "config.json"
        files[name] = files[name].replace(f'"{transformers.__version__}"', f'"{trained_with}"')
    return files


# ---------------------------------------------------------------------- command


def main(argv: Sequence[str] | None = None) -> None:
    """Writes cards and code, or checks them."""
    parser = ArgumentParser(description="Write the cards of model_cards/results, and the code of checkpoints/.")
    parser.add_argument("--check", action="store_true", help="Change nothing; fail if a file is out of date.")
    arguments = parser.parse_args(argv)
    cards = render_committed_cards()
    wrong = [f"{path.name}: {problem}" for path, text in cards.items() for problem in check_card(text, path.parent)]
    for path, text in (cards | render_checkpoint_code()).items():
        if arguments.check:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                wrong.append(f"{path.relative_to(ROOT)} is out of date; run `python model_cards/make.py`")
        else:
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            print(path)
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    sys.exit(main())
