"""Cards say what the results say, and the check finds what they do not."""

import html
import json
import re

import jinja2
import numpy as np
import pytest
import yaml

from model_cards import make as cards_make
from model_cards.make import CARDS, render_committed_cards
from modeling_sim import SimConfig
from modeling_sim.hub.card import render_card
from modeling_sim.hub.card_check import check_card
from modeling_sim.hub.card_parts import config_of_file, settings_of_file
from modeling_sim.hub.citation import citation, method_of
from modeling_sim.text import decimal, percent, points

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
    file = cards_make.ROOT / "training" / "configs" / "small" / f"{RUN}.yaml"
    results = json.loads((CARDS / "results" / f"{RUN}.json").read_text())
    return {
        "config": config_of_file(file),
        "settings": settings_of_file(file),
        "measures": {f"results/{RUN}.json": results},
        "title": "a model",
        "model_id": "org/model",
        "config_link": f"../training/configs/small/{RUN}.yaml",
    }


def test_the_committed_cards_are_what_their_results_give(committed):
    names = {f"{run}.md" for run in (RUN, "sim_artificial_small", "gim_artificial_small", "cpc_artificial_small")}
    assert names <= {path.name for path in committed}
    for path, text in committed.items():
        assert path.read_text() == text, "run `python model_cards/make.py`"
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
        ("| 44.7 % |", "| 47.2 % |", "the figure 47.2 % is in no linked file"),
        ("| 0.703 |", "| 0.704 |", "the figure 0.704 is in no linked file"),
        ("+20.3 points", "-20.3 points", "the figure -20.3 points is in no linked file"),
        ("## Limits", "## Limits\n\nIt is right in 97 % of cases.", "the figure 97 % is in no linked file"),
        ("## Limits", "## Limits\n\nIt took 12.5 hours.", "the figure 12.5 is in no linked file"),
        ("| 45 samples", "| 47 samples", "the figure 47 is in no linked file"),
        ("| 1,400 |", "| 1,401 |", "the figure 1,401 is in no linked file"),
        ("on 11,451 tokens", "on 11,452 tokens", "the figure 11,452 is in no linked file"),
        ("Parameters: 1,040,640", "Parameters: 1,040,641", "the figure 1,040,641 is in no linked file"),
        ("subset of 540 utterances", "subset of 541 utterances", "the figure 541 is in no linked file"),
        ("## Limits", "## Limits\n\nIt heard 2000 utterances.", "the figure 2000 is in no linked file"),
        ("## Limits", "## Limits\n\nSamples come at 44 kHz.", "the figure 44 kHz is in no linked file"),
        ("license: cc-by-4.0", "license: mit", "allows: the licence 'mit' is looser than 'cc-by-4.0'"),
        ("license: cc-by-4.0", "license: gpl-3.0", "'gpl-3.0' is not known to be as strict as 'cc-by-4.0'"),
        ("license: cc-by-4.0", "license: [cc-by-4.0]", "`license` is ['cc-by-4.0']"),
        ("pipeline_tag: feature-extraction", "pipeline_tag: [other]", "`pipeline_tag` is ['other']"),
        ("language: en", "language: 5", "`language` has 5"),
        ("language: en", "language: [en, {de: 1}]", "`language` has {'de': 1}"),
        ("model-index:", "model-index: [1]\nold:", "`model-index` is not a list of models"),
        ("model-index:", "model-index: {name: m}\nold:", "`model-index` is not a list of models"),
        ("model-index:", "model-index: 3\nold:", "`model-index` is not a list of models"),
        ("## Limits", "## Limits\n\n[a](/home/me/a.json)", "the link to /home/me/a.json leads to a place on this"),
        ("## Limits", "## Limits\n\n![a](file:///tmp/a.png)", "the link to file:///tmp/a.png leads to a place"),
        ("## Limits", "## Limits\n\n<file:///tmp/a.png>", "the link to file:///tmp/a.png leads to a place"),
        ("## Limits", "## Limits\n\n[a](C:\\runs\\a.json)", "the link to C:\\runs\\a.json leads to a place"),
        ("## Limits", "## Limits\n\n[a]\n\n[a]: /tmp/a.json", "the link to /tmp/a.json leads to a place"),
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
    """Each number of a cell, made 300 more, is found, with or without a unit."""
    text = committed[CARD]
    body = text[text.index("# librispeech-small") :]
    cells = {cell for line in body.splitlines() if line.startswith("|") for cell in line.split(" | ")}
    cells = sorted(cell for cell in cells if re.fullmatch(r"[\d,]+(\.\d+)?( %)?", cell))
    assert len(cells) > 50
    assert sum(cell.isdigit() for cell in cells) > 4
    found = 0
    for cell in cells:
        number, _, unit = cell.partition(" ")
        more = float(number.replace(",", "")) + 300.0 + 7 * number.isdigit()  # 400 is a setting, as are other hundreds
        wrong = f"{more:.{len(number.partition('.')[2])}f} {unit}".strip()
        found += any(wrong in problem for problem in check_card(text.replace(f"| {cell} |", f"| {wrong} |", 1), CARDS))
    assert found == len(cells)


def test_the_check_rounds_as_the_cards_do(tmp_path):
    values = np.random.default_rng(0).uniform(-1, 1, size=200)
    (tmp_path / "r.json").write_text(json.dumps({"one": 1, "values": values.tolist()}))
    for digits in (1, 2, 4):
        figures = [form(value, digits) for value in values for form in (decimal, percent, points)]
        assert check_card(HEADER + "[r](r.json)\n\n" + "\n".join(figures), tmp_path) == []


def test_numbers_that_are_no_figures_are_let_be(tmp_path):
    device = "NVIDIA GeForce RTX 4090"
    (tmp_path / "r.json").write_text(json.dumps({"one": 1, "device": device, "modules": [{"name": "module 7"}]}))
    text = (
        "[r](r.json) transformers 5.23.0, `0.25`, [paper](https://arxiv.org/abs/2408.12936), https://x.org/1.5, "
        "CC BY-NC-SA 4.0, Apache-2.0, a 95 % interval, Löwe et al. (2019), in 2018, see [12], arXiv:2408.12936, "
        f"Python 3.11, version 2, [-1, 1], N(0, I), {device}, module 7, sim-3, checkpoint-40\n"
        "3. of a list, <img src='r.json' width='77'> [b]\n\n[b]: r.json\n```python\nx = 0.125 + 33\n```\n"
    )
    assert check_card(HEADER + text, tmp_path) == []
    for figure in ("0.25", "33", "2,019", "| 2019 |", "77 frames", "RTX 4090 alone", "p < 0.25, x > 3", "module 8"):
        assert check_card(f"{HEADER}{text}\n{figure}\n", tmp_path), figure


def test_a_whole_number_is_not_what_a_share_rounds_to(tmp_path):
    (tmp_path / "r.json").write_text('{"one": 1, "share": 0.1, "seconds": 337.2, "rate": 16000, "some": 3.4}')
    assert check_card(HEADER + "[r](r.json): 1, 337 seconds, 10 %, 16 kHz, 16,000 Hz", tmp_path) == []
    assert len(check_card(HEADER + "[r](r.json): 0, 3, 338", tmp_path)) == 3


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("r.json", b"[1, 2]", "holds a list, not a mapping"),
        ("r.json", b"{", "is not JSON"),
        ("r.json", b'{"a": "\xff"}', "is not JSON"),
        ("r.json", b'{"settings": {"crop_samples": "many"}}', "cannot be read"),
        ("r.json", b'{"model_type": "sim", "conv_kernel": 3}', "cannot be read"),
        ("r.yaml", b"preset: [", "is not YAML"),
        ("r.yaml", b"preset: none-such", "none-such"),
        ("r.yaml", b"extends: gone.yaml", "which is not a file"),
    ],
)
def test_a_linked_file_that_is_broken_is_one_problem(name, content, problem, tmp_path):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "one.json").write_text('{"one": 1}')
    problems = check_card(HEADER + f"[one](one.json) [r]({name})\n", tmp_path)
    assert len(problems) == 1
    assert problems[0].startswith(f"the linked file {name} cannot be read")
    assert problem in problems[0]
    assert "\n" not in problems[0]


def test_a_card_in_another_encoding_is_one_problem(tmp_path):
    (tmp_path / "card.md").write_bytes((HEADER + "Löwe").encode("latin-1"))
    problems = check_card(tmp_path / "card.md")
    assert len(problems) == 1
    assert "not text in UTF-8" in problems[0]


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
    results |= {"corpus": "hub", "corpus_license": "other", "license": "other", "train_utterances": None}
    results |= {"dataset_id": "org/data", "train_hours": None}
    text = render_card(**sources)
    assert "datasets:\n- org/data\n" in text
    assert "(https://huggingface.co/datasets/org/data)" in text
    assert "license: other\n" in text
    assert "license_name: " in text
    assert "a stream of utterances" in text
    assert "Licence: not stated" in text
    results["dataset_id"] = None
    text = render_card(**sources)
    assert "datasets:\n" not in text
    assert "`hub`, read from a local folder: " in text


def test_a_measure_of_other_models_is_refused_and_one_of_several_gives_the_own_rows(sources):
    probe = json.loads((CARDS / "results" / f"{RUN}_phone_probe.json").read_text())
    probe["models"] = ["librispeech-small", "untrained"]
    sources["measures"]["probe.json"] = probe
    with pytest.raises(
        ValueError, match=r"probe\.json is of librispeech-small, untrained, and none of these is a model by its name"
    ):
        render_card(**sources)
    text = render_card(**{**sources, "title": "librispeech-small"})
    assert "| librispeech-small, context |" in text
    assert "| untrained, context |" not in text
    probe["models"] = ["librispeech-small"]
    with pytest.raises(
        ValueError, match=r"probe\.json is of librispeech-small, and none of these is a model by its name"
    ):
        render_card(**sources)


@pytest.mark.parametrize("name", ["librispeech_small_phone_probe", "librispeech_small_abx"])
def test_a_measure_is_the_models_own_by_its_weights_and_not_by_its_name(name, sources):
    measure = json.loads((CARDS / "results" / f"{name}.json").read_text())
    measure["fingerprints"] = {"librispeech-small": "a1"}
    sources["measures"]["other.json"] = measure
    assert "| librispeech-small, context |" in render_card(**sources, fingerprint="a1")
    sources["title"] = "librispeech-small"
    with pytest.raises(
        ValueError,
        match=r"other\.json is of librispeech-small, and none of these is .* by its weights.*probe\.py or abx\.py",
    ):
        render_card(**sources, fingerprint="b2")


def test_a_run_that_went_on_from_a_model_says_so(sources):
    results = next(iter(sources["measures"].values()))
    sources["settings"]["init_from"] = "org/start"
    results["base_model"] = "org/start"
    text = render_card(**sources)
    assert "base_model: org/start\n" in text
    assert "- Started from: [org/start](https://huggingface.co/org/start)\n" in text
    assert "| module | contrastive accuracy | at the start | InfoNCE, nats | at the start |" in text
    assert "the model it started from" in text
    assert "| untrained |" not in text
    assert check_card(text, CARDS) == []
    results["base_model"] = None
    sources["settings"]["init_from"] = "some/folder"
    text = render_card(**sources)
    assert "base_model" not in text
    assert "- Started from: `folder`, a local checkpoint\n" in text


def test_a_publisher_may_state_a_licence_that_is_not_known_but_not_a_looser_one(sources):
    results = next(iter(sources["measures"].values()))
    assert "license: cc-by-nc-sa-4.0\n" in render_card(**sources, stated_license="cc-by-nc-sa-4.0")
    with pytest.raises(ValueError, match=r"'mit' is looser than 'cc-by-4\.0'"):
        render_card(**sources, stated_license="mit")
    results |= {"corpus": "folder", "corpus_license": "other", "license": "other"}
    text = render_card(**sources, stated_license="mit")
    assert "license: mit\n" in text
    assert "Licence: MIT, as the publisher of the model states" in text
    results["base_license"] = "cc-by-4.0"
    with pytest.raises(ValueError, match=r"'mit' is looser than 'cc-by-4\.0'"):
        render_card(**sources, stated_license="mit")


def test_the_command_of_a_card_names_the_folder_of_the_data_and_the_card_how_much_of_it(committed):
    assert "--config training/configs/small/librispeech_small.yaml --data_dir PATH_TO_LIBRISPEECH`" in committed[CARD]
    assert "read from a local folder: a subset of 540 utterances, 432 (1.41 hours) trained on" in committed[CARD]


@pytest.mark.parametrize("name", ["<img src=x>", "a|b", "`a`", "a\nb 77", "$7$", "</code>", "![x](y.png)", "\x1b[31m"])
def test_names_in_results_are_shown_and_nothing_else(name, sources):
    """Names of labels, models, splits, devices and settings come from data and folders of other people."""
    measures = json.loads(json.dumps(sources["measures"]))
    (training,) = measures.values()
    training["hardware"] = {"device": name, "processes": 1, "threads": 1, "cores": 2}
    for kind in ("phone_probe", "abx"):
        link = f"results/{RUN}_{kind}.json"
        measure = measures[link] = json.loads((CARDS / link).read_text())
        measure.update({"corpus_settings": {name: name}, "label": name} if "probe" in kind else {"split": name})
        for row in measure["rows"]:
            row["name"] = f"{name}, {row['name']}"
    text = render_card(**{**sources, "measures": measures, "measured_as": "librispeech-small"})
    prose = re.sub(r"```.*?```", "", text[text.index("\n---\n", 4) :], flags=re.DOTALL)
    outside_code = re.sub(r"`[^`\n]*`", "", prose)
    assert not set(text) & {"\x1b", "\x07"}
    assert not re.search(r"<img|</code> items|\]\(y\.png\)|\$7\$", outside_code)
    tables = [block.splitlines() for block in prose.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 5
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1
    shown = html.unescape(prose)
    assert shown.count(name if name.isprintable() else name.encode("unicode_escape").decode()) > 10


def test_metrics_of_two_probes_are_told_apart_in_the_metadata(committed):
    metadata = yaml.safe_load(committed[CARDS / "sim_artificial_small.md"].split("---\n")[1])
    metrics = [metric for result in metadata["model-index"][0]["results"] for metric in result["metrics"]]
    values = {metric["name"]: metric["value"] for metric in metrics}
    assert len(values) == len(metrics) == 3 * 4
    for label in ("syllable", "vowel"):
        probe = json.loads((CARDS / "results" / f"sim_artificial_small_{label}_probe.json").read_text())
        for row in probe["rows"]:
            if row["source"] == "sim-artificial-small":
                name = f"accuracy of a linear probe of {label}, {row['feature']}"
                assert values[name] == round(row["accuracy"]["value"], 4)


def test_a_card_says_where_spectra_know_more_than_the_model(committed, sources):
    probe = json.loads((CARDS / "results" / f"{RUN}_phone_probe.json").read_text())
    sources |= {"measures": {**sources["measures"], "p.json": probe}, "title": "librispeech-small"}
    words = "Spectra alone score higher than every module"
    assert words not in render_card(**sources)  # the context is 0.1 points above log-mel frames
    spectrum = next(row for row in probe["rows"] if row["name"] == "log-mel")
    spectrum["accuracy"]["value"] = 0.5
    assert words in render_card(**sources)
    assert words in committed[CARDS / "sim_artificial_small.md"]


def test_every_committed_card_has_curves_probes_with_controls_and_small_pictures(committed):
    for text in committed.values():
        assert "![Training curves" in text
        assert "### Probe: " in text
        assert "| untrained, context |" in text
        assert "| log-mel |" in text
        for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
            assert (CARDS / picture).stat().st_size < 100_000


@pytest.mark.parametrize("preset", ["gim", "cpc"])
def test_keys_of_the_bibliography_are_ascii(preset):
    keys = re.findall(r"@\w+\{([^,]+),", citation(method_of(SimConfig.preset(preset))))
    assert len(keys) == 3
    assert all(key.isascii() for key in keys), keys


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
