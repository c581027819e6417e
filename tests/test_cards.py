"""Cards show the numbers of the results, and the check names the problems of a card."""

import html
import json
import re
from dataclasses import replace

import jinja2
import pytest
import yaml

from model_cards import make as cards_make
from model_cards.make import CARDS, config_of_file, render_committed_cards, settings_of_file
from modeling_sim import SimConfig
from modeling_sim.evaluation.results import Results
from modeling_sim.hub.card import render_card
from modeling_sim.hub.card_check import check_card
from modeling_sim.hub.citation import citation, method_of

RUN = "librispeech_small"
CARD = CARDS / f"{RUN}.md"
HEADER = "---\nlicense: mit\n---\n"


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


def test_the_license_of_the_artificial_set_shows(committed):
    for path, text in committed.items():
        shows = "CC BY-NC-SA 4.0" in text and "license: cc-by-nc-sa-4.0" in text
        assert shows == ("artificial" in path.name)


def test_what_was_not_measured_is_said_not_to_be(committed):
    assert all("CO2 were not measured" in text for text in committed.values())


def test_frame_rates_and_fields_are_those_of_the_configuration(committed):
    config = SimConfig.preset("sim-small")
    for module, name in enumerate(config.module_names):
        row = next(line for line in committed[CARD].splitlines() if line.startswith(f"| {name} |"))
        assert f"{config.receptive_field(module)} samples" in row
        assert f"{config.hop_length(module)} samples | {config.sampling_rate // config.hop_length(module)} |" in row


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("license: cc-by-4.0", "license: other", "`license_name`"),
        ("license: cc-by-4.0", "no_license: 1", "`license`"),
        ("license: cc-by-4.0", "license: [cc-by-4.0]", "`license`"),
        ("license: cc-by-4.0", "license: mit", "'mit'"),
        ("license: cc-by-4.0", "license: gpl-3.0", "'gpl-3.0'"),
        ("value: 0.6805", "value: .nan", "nan"),
        ("value: 0.6805", "value: good", "'good'"),
        ("model-index:", "model-index: [1]\nold:", "`model-index`"),
        ("model-index:", "model-index: {name: m}\nold:", "`model-index`"),
        ("model-index:", "model-index: 3\nold:", "`model-index`"),
        ("## Limits", "## Limits\n\n[More Information Needed]", "More Information Needed"),
        ("images/librispeech_small_curves.png", "images/nothing.png", "images/nothing.png"),
        ("(results/librispeech_small_abx.json)", "(results/abx.json)", "results/abx.json"),
        ("## Limits", "## Limits\n\n[a](/home/me/a.json)", "/home/me/a.json"),
        ("## Limits", "## Limits\n\n![a](file:///tmp/a.png)", "file:///tmp/a.png"),
        ("## Limits", "## Limits\n\n<file:///tmp/a.png>", "file:///tmp/a.png"),
        ("## Limits", "## Limits\n\n[a](C:\\runs\\a.json)", "C:\\runs\\a.json"),
        ("## Limits", "## Limits\n\n[a]\n\n[a]: /data/a.json", "/data/a.json"),
        ("---\ndatasets", "datasets", "metadata"),
        ("language: en", "language: [en", "YAML"),
    ],
)
def test_the_check_names_what_is_wrong(before, after, problem, committed):
    text = committed[CARD]
    assert before in text
    problems = check_card(text.replace(before, after, 1), CARDS)
    assert any(problem in found for found in problems), problems


@pytest.mark.parametrize("content", [b"[1, 2]", b"{", b'{"a": "\xff"}', b'{"schema": 2}', b'{"schema": 3}'])
def test_a_linked_file_that_is_broken_is_one_problem(content, tmp_path):
    (tmp_path / "r.json").write_bytes(content)
    problems = check_card(HEADER + "[r](r.json) [again](r.json)\n", tmp_path)
    assert len(problems) == 1
    assert "r.json" in problems[0]
    assert "\n" not in problems[0]
    (tmp_path / "r.json").write_text("{}")
    assert check_card(HEADER + "[r](r.json) [again](r.json)\n", tmp_path) == []


def test_a_card_in_another_encoding_is_one_problem(tmp_path):
    (tmp_path / "card.md").write_bytes((HEADER + "Löwe").encode("latin-1"))
    problems = check_card(tmp_path / "card.md")
    assert len(problems) == 1
    assert "UTF-8" in problems[0]
    assert "byte 0xf6" in problems[0]


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


def test_a_data_set_of_the_hub_is_named_and_an_unknown_license_is_other(sources):
    results = next(iter(sources["measures"].values()))
    results |= {"corpus": "hub", "corpus_license": "other", "license": "other", "train_utterances": None}
    results |= {"dataset_id": "org/data", "train_hours": None}
    text = render_card(**sources)
    assert "datasets:\n- org/data\n" in text
    assert "(https://huggingface.co/datasets/org/data)" in text
    assert "license: other\n" in text
    assert "license_name: " in text
    assert "stream" in text
    assert "License: not stated" in text
    results["dataset_id"] = None
    text = render_card(**sources)
    assert "datasets:\n" not in text
    assert "`hub`, read from a local folder: " in text


def test_metrics_name_the_split_that_they_are_of(sources):
    def splits(settings):
        (entry,) = yaml.safe_load(render_card(**{**sources, "settings": settings}).split("---")[1])["model-index"]
        return {result["dataset"]["split"] for result in entry["results"]}

    assert splits(sources["settings"]) == {"test"}
    assert splits({**sources["settings"], "eval_split": "development"}) == {"development"}


def test_a_measure_of_other_models_is_refused_and_one_of_several_gives_the_own_rows(sources):
    probe = Results.read(CARDS / "results" / f"{RUN}_phone_probe.json")
    kinds = probe.kinds
    probe.kinds = [replace(kind, is_control=kind.is_control and kind.name != "untrained") for kind in kinds]
    sources["measures"]["probe.json"] = probe
    with pytest.raises(ValueError, match=r"probe\.json .*a model"):
        render_card(**sources)
    text = render_card(**{**sources, "title": "librispeech-small"})
    assert "| librispeech-small, context |" in text
    assert "| untrained, context |" not in text
    probe.kinds = kinds
    with pytest.raises(ValueError, match=r"probe\.json .*librispeech-small.*a model.*name"):
        render_card(**sources)


@pytest.mark.parametrize("name", ["librispeech_small_phone_probe", "librispeech_small_abx"])
def test_a_measure_is_the_models_own_by_its_weights_and_not_by_its_name(name, sources):
    measure = Results.read(CARDS / "results" / f"{name}.json")
    measure.fingerprints = {"librispeech-small": "a1"}
    sources["measures"]["other.json"] = measure
    assert "| librispeech-small, context |" in render_card(**sources, fingerprint="a1")
    sources["title"] = "librispeech-small"
    with pytest.raises(ValueError, match=r"other\.json .*librispeech-small.*weights"):
        render_card(**sources, fingerprint="b2")


def test_a_run_that_went_on_from_a_model_says_so(sources):
    results = next(iter(sources["measures"].values()))
    sources["settings"]["init_from"] = "org/start"
    results["base_model"] = "org/start"
    text = render_card(**sources)
    assert "base_model: org/start\n" in text
    assert "- Started from: [org/start](https://huggingface.co/org/start)\n" in text
    assert "| module | contrastive accuracy | at the start | InfoNCE, nats | at the start |" in text
    assert "| untrained |" not in text
    assert check_card(text, CARDS) == []
    results["base_model"] = None
    sources["settings"]["init_from"] = "some/folder"
    text = render_card(**sources)
    assert "base_model" not in text
    assert "- Started from: `folder`, a local checkpoint\n" in text


def test_a_publisher_may_state_a_license_that_is_not_known_but_not_a_looser_one(sources):
    results = next(iter(sources["measures"].values()))
    assert "license: cc-by-nc-sa-4.0\n" in render_card(**sources, stated_license="cc-by-nc-sa-4.0")
    with pytest.raises(ValueError, match="'mit'"):
        render_card(**sources, stated_license="mit")
    results |= {"corpus": "folder", "corpus_license": "other", "license": "other"}
    text = render_card(**sources, stated_license="mit")
    assert "license: mit\n" in text
    assert "License: MIT" in text
    results["base_license"] = "cc-by-4.0"
    with pytest.raises(ValueError, match="'mit'"):
        render_card(**sources, stated_license="mit")


def test_the_command_of_a_card_names_the_folder_of_the_data_and_the_card_how_much_of_it(committed):
    assert "--config training/configs/small/librispeech_small.yaml --data_dir PATH_TO_LIBRISPEECH`" in committed[CARD]
    assert "read from a local folder: a subset of 540 utterances, 432 (1.41 hours) for" in committed[CARD]


@pytest.mark.parametrize("name", ["<img src=x>", "a|b", "`a`", "a\nb 77", "$7$", "</code>", "![x](y.png)", "\x1b[31m"])
def test_names_in_results_are_shown_and_nothing_else(name, sources):
    """Names of labels, models, splits, devices and settings come from data and folders of other people."""
    measures = json.loads(json.dumps(sources["measures"]))
    (training,) = measures.values()
    training["hardware"] = {"device": name, "processes": 1, "threads": 1, "cores": 2}
    for kind in ("phone_probe", "abx"):
        link = f"results/{RUN}_{kind}.json"
        measure = measures[link] = Results.read(CARDS / link)
        measure.settings["split"] = measure.label = name
        measure.corpus_settings = {name: name}
        measure.rows = [replace(row, module=f"{name}, {row.module}") for row in measure.rows]
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


def test_metrics_of_two_probes_have_different_names_in_the_metadata(committed):
    metadata = yaml.safe_load(committed[CARDS / "sim_artificial_small.md"].split("---\n")[1])
    metrics = [metric for result in metadata["model-index"][0]["results"] for metric in result["metrics"]]
    values = {metric["name"]: metric["value"] for metric in metrics}
    assert len(values) == len(metrics) == 3 * 4
    for label in ("syllable", "vowel"):
        probe = Results.read(CARDS / "results" / f"sim_artificial_small_{label}_probe.json")
        for row in probe.rows:
            if (row.representation, row.measure) == ("sim-artificial-small", "linear_accuracy"):
                name = f"accuracy of a linear probe of {label}, {row.module}"
                assert values[name] == round(row.value, 4)


def test_a_card_says_where_spectra_know_more_than_the_model(committed, sources):
    probe = Results.read(CARDS / "results" / f"{RUN}_phone_probe.json")
    sources |= {"measures": {**sources["measures"], "p.json": probe}, "title": "librispeech-small"}
    words = "Spectra alone score higher than every module"
    assert words not in render_card(**sources)  # the context is 0.1 points above log-mel frames
    probe.rows = [replace(row, value=0.5) if row.features == "log-mel" else row for row in probe.rows]
    assert words in render_card(**sources)
    assert words in committed[CARDS / "sim_artificial_small.md"]


def section(text, heading="### Single dimensions"):
    """The part of a card below a heading; empty if it is not there."""
    return text.partition(f"\n{heading}\n")[2].partition("\nAll numbers of this card")[0]


@pytest.mark.parametrize(("low", "weak"), [(-0.1, ["module 2"]), (0.0, ["module 2"]), (0.01, [])])
def test_single_dimensions_are_next_to_random_axes_and_weak_ones_are_named(low, weak, sources, dimensions):
    sources["measures"]["analysis.json"] = dimensions("a model", low)
    text = render_card(**sources)
    shown = section(text)
    for line in (
        "| property | module 2 | module 2, temporal components | context | context, temporal components |",
        "| pitch | 0.66 / 0.61 | 0.76 / 0.61 | 0.67 / 0.61 | 0.77 / 0.61 |",
        "| speaker | 0.78 / 0.74 | 0.88 / 0.74 | 0.79 / 0.74 | 0.89 / 0.74 |",
        f"| DCI completeness | 0.02 ({low:.2f} to 0.50) | 0.12 (0.01 to 0.50) | 0.03 (0.01 to 0.50) | 0.13 (",
    ):
        assert line in shown
    assert "(R²) | 0.83 | - | 0.84 | - |" in shown
    assert "first formant" not in shown  # not measured
    assert "6 speakers" in shown
    (bold,) = re.findall(r"\*\*(.+?)\*\*", shown) or [""]
    assert [module for module in ("module 2", "context") if module in bold] == weak
    assert "[analysis.json](analysis.json)" in text


def test_a_card_without_measured_dimensions_has_no_such_section_and_one_file_may_have_several(
    committed, sources, dimensions
):
    assert not any(map(section, committed.values()))
    probe = Results.read(CARDS / "results" / f"{RUN}_phone_probe.json")
    probe.rows = [*probe.rows, *dimensions("librispeech-small", 0.1).rows]
    sources |= {"measures": {**sources["measures"], "p.json": probe}, "title": "librispeech-small"}
    text = render_card(**sources)
    assert "0.66 / 0.61" in section(text)
    assert section(text, "### Probe: phones").startswith(section(committed[CARD], "### Probe: phones")[:300])
    probe.rows = [row for row in probe.rows if row.measure == "kl"]
    with pytest.raises(ValueError, match=r"p\.json"):
        render_card(**sources)


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
    with pytest.raises(ValueError, match=r"run.* 0"):
        render_card(**{**sources, "measures": {}})
    with pytest.raises(ValueError, match=r"other\.json"):
        render_card(**{**sources, "measures": {"other.json": {}}})


@pytest.mark.parametrize(("preset", "words"), [("sim", []), ("gim", ["Löwe"]), ("cpc", ["van den Oord"])])
def test_the_paper_and_those_of_the_method_are_cited(preset, words):
    text = citation(method_of(SimConfig.preset(preset)))
    for word in ["Denoodt", "2408.12936", "modeling_sim", *words]:
        assert word in text
    assert text.count("{") == text.count("}")
