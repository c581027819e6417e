"""Cards say what the results say, and the check finds what they do not."""

import json
import re

import jinja2
import numpy as np
import pytest

from modeling_sim import SimConfig
from training import cards
from training.card_check import check_card
from training.cards import CARDS, citation, method_of, render_card, render_committed_cards
from training.figures import config_of_file, decimal, percent, points, settings_of_file

RUN = "librispeech_small"
CARD = CARDS / f"{RUN}.md"
# Metadata with nothing wrong, for a file that holds a 1.
HEADER = """---
license: mit
pipeline_tag: other
model-index: [{results: [{metrics: [{name: m, value: 1}]}]}]
---
"""


@pytest.fixture(scope="module")
def committed():
    return render_committed_cards()


@pytest.fixture
def sources():
    """What the card of a run is rendered from."""
    file = cards.ROOT / "training" / "configs" / f"{RUN}.yaml"
    results = json.loads((CARDS / "results" / f"{RUN}.json").read_text())
    return {
        "config": config_of_file(file),
        "settings": settings_of_file(file),
        "measures": {f"results/{RUN}.json": results},
        "title": "a model",
        "model_id": "org/model",
        "config_link": f"../training/configs/{RUN}.yaml",
    }


def test_the_committed_cards_are_what_their_results_give(committed):
    names = {f"{run}.md" for run in (RUN, "sim_artificial_small", "gim_artificial_small", "cpc_artificial_small")}
    assert names <= {path.name for path in committed}
    for path, text in committed.items():
        assert path.read_text() == text, "run `python training/cards.py`"
    assert {path for path in CARDS.glob("*.md") if not path.name.endswith("template.md")} == set(committed)


def test_nothing_is_wrong_with_the_committed_cards(committed):
    for path in committed:
        assert check_card(path) == []


def test_the_licence_of_the_artificial_set_shows(committed):
    for path, text in committed.items():
        shows = "CC BY-NC-SA 4.0" in text and "not for commercial use" in text and "license: cc-by-nc-sa-4.0" in text
        assert shows == ("artificial" in path.name)


def test_what_was_not_measured_is_said_not_to_be(committed):
    text = committed[CARD]
    assert "Energy and CO2 were not measured" in text
    assert "the device was not recorded" in text


def test_frame_rates_and_fields_are_those_of_the_configuration(committed):
    config = SimConfig.preset("sim-small")
    for module, name in enumerate(config.module_names):
        row = next(line for line in committed[CARD].splitlines() if line.startswith(f"| {name} |"))
        assert f"{config.receptive_field(module)} samples" in row
        assert f"{config.hop_length(module)} samples | {config.sampling_rate // config.hop_length(module)} |" in row


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("license: cc-by-4.0", "license: cc-by", "`license` is 'cc-by'"),
        ("license: cc-by-4.0", "license: other", "needs a `license_name`"),
        ("pipeline_tag: feature-extraction", "pipeline_tag: no-such-task", "`pipeline_tag` is 'no-such-task'"),
        ("language: en", "language: english", "`language` has 'english'"),
        ("value: 0.6805", "value: .nan", "is nan, not a finite number"),
        ("value: 0.6805", "value: good", "is 'good', not a finite number"),
        ("value: 0.6805", "value: 0.6905", "is 0.6905, which no linked file holds"),
        ("model-index:", "model_index:", "has no metric"),
        ("## Limits", "## Limits\n\n[More Information Needed]", "More Information Needed"),
        ("images/librispeech_small_curves.png", "images/nothing.png", "the link to images/nothing.png is dead"),
        ("(results/librispeech_small_abx.json)", "(results/abx.json)", "the link to results/abx.json is dead"),
        ("| 44.6 % |", "| 47.1 % |", "the figure 47.1 % is in no linked file"),
        ("| 0.703 |", "| 0.704 |", "the figure 0.704 is in no linked file"),
        ("+22.0 points", "-22.0 points", "the figure -22.0 points is in no linked file"),
        ("## Limits", "## Limits\n\nIt is right in 97 % of cases.", "the figure 97 % is in no linked file"),
        ("## Limits", "## Limits\n\nIt took 12.5 hours.", "the figure 12.5 is in no linked file"),
        ("---\ndatasets", "datasets", "the card has no metadata"),
        ("language: en", "language: [en", "the metadata is not YAML"),
    ],
)
def test_the_check_names_what_is_wrong(before, after, problem, committed):
    text = committed[CARD]
    assert before in text
    problems = check_card(text.replace(before, after, 1), CARDS)
    assert any(problem in found for found in problems), problems


def test_every_figure_of_a_table_is_checked(committed):
    """Each cell with a decimal point or a percent, moved by one in its last digit to one that no cell has, is found."""
    text = committed[CARD]
    body = text[text.index("# librispeech-small") :]
    cells = {cell for line in body.splitlines() if line.startswith("|") for cell in line.split(" | ")}
    cells = sorted(cell for cell in cells if re.fullmatch(r"\d+\.\d+( %)?", cell))
    assert len(cells) > 50
    found = 0
    for cell in cells:
        number, _, unit = cell.partition(" ")
        wrong = f"{float(number) + 300:.{len(number.partition('.')[2])}f} {unit}".strip()
        found += any(wrong in problem for problem in check_card(text.replace(f"| {cell} |", f"| {wrong} |", 1), CARDS))
    assert found == len(cells)


def test_the_check_rounds_as_the_cards_do(tmp_path):
    values = np.random.default_rng(0).uniform(-1, 1, size=200)
    (tmp_path / "r.json").write_text(json.dumps({"one": 1, "values": values.tolist()}))
    for digits in (1, 2, 4):
        figures = [form(value, digits) for value in values for form in (decimal, percent, points)]
        assert check_card(HEADER + "[r](r.json)\n\n" + "\n".join(figures), tmp_path) == []


def test_numbers_that_are_no_figures_are_let_be(tmp_path):
    (tmp_path / "r.json").write_text('{"one": 1}')
    text = (
        "[r](r.json) transformers 5.23.0, `0.25`, [paper](https://arxiv.org/abs/2408.12936), https://x.org/1.5, "
        "CC BY-NC-SA 4.0, Apache-2.0, 16,000 samples, a 95 % interval\n```python\nx = 0.125\n```\n"
    )
    assert check_card(HEADER + text, tmp_path) == []


def test_a_variable_that_is_not_there_is_an_error(sources):
    results = next(iter(sources["measures"].values()))
    del results["parameters"]
    with pytest.raises(jinja2.UndefinedError, match="parameters"):
        render_card(**sources)


def test_a_result_that_is_not_finite_is_no_metric_and_no_figure(sources):
    results = next(iter(sources["measures"].values()))
    results["modules"][0]["trained"]["contrastive_accuracy"] = None
    text = render_card(**sources)
    assert "contrastive accuracy, module 0" not in text
    assert "| module 0 | - | - | - | - | 134.9 | 128 |" in text


def test_a_data_set_of_the_hub_is_named_and_an_unknown_licence_is_other(sources):
    results = next(iter(sources["measures"].values()))
    results |= {"corpus": "hub", "corpus_license": "other", "train_utterances": None}
    sources["settings"]["corpus_settings"] = {"dataset_id": "org/data"}
    text = render_card(**sources)
    assert "datasets:\n- org/data\n" in text
    assert "(https://huggingface.co/datasets/org/data)" in text
    assert "license: other\n" in text
    assert "license_name: " in text
    assert "a stream of utterances" in text
    assert check_card(text, CARDS) == []
    sources["settings"]["corpus_settings"] = {"dataset_id": "../a/folder"}
    assert "datasets:\n" not in render_card(**sources)


def test_a_measure_of_other_models_is_refused_and_one_of_several_gives_the_own_rows(sources):
    probe = json.loads((CARDS / "results" / f"{RUN}_phone_probe.json").read_text())
    probe["models"] = ["librispeech-small", "untrained"]
    sources["measures"]["probe.json"] = probe
    with pytest.raises(ValueError, match="none of them is a model"):
        render_card(**sources)
    text = render_card(**{**sources, "title": "librispeech-small"})
    assert "| librispeech-small, context |" in text
    assert "| untrained, context |" not in text


def test_a_card_needs_the_results_of_one_run(sources):
    with pytest.raises(ValueError, match="results of one training run; there are 0"):
        render_card(**{**sources, "measures": {}})
    with pytest.raises(ValueError, match=r"other\.json is not what"):
        render_card(**{**sources, "measures": {"other.json": {}}})


@pytest.mark.parametrize(("preset", "words"), [("sim", []), ("gim", ["Löwe"]), ("cpc", ["van den Oord"])])
def test_the_paper_and_those_of_the_method_are_cited(preset, words):
    text = citation(method_of(SimConfig.preset(preset)))
    for word in ["Denoodt", "2408.12936", "modeling_sim", *words]:
        assert word in text
    assert text.count("{") == text.count("}")
