import base64
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
from html import escape, unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from modeling_sim import cli
from modeling_sim.analysis.scorecard import Comparison, Row
from modeling_sim.commands.report import main
from modeling_sim.data.licenses import license_name
from modeling_sim.evaluation.results import SCHEMA, Kind
from modeling_sim.files import read_json, read_results, save_results, write_json
from modeling_sim.report.html import read_analysis, write_report
from modeling_sim.report.plots import SIGNED, kind_style, make_plots
from modeling_sim.report.sounds import common_gain, level_change, load_item
from modeling_sim.report.tables import best_kind, digits_for, modules_of, opponents, seen_from, tally

RATE = 16_000
NASTY = 'GIM <b>&"Löwe"\' $x_1$'
KINDS = [
    ("SIM", "Smooth InfoMax: a Gaussian a frame, pulled towards N(0, I).", False, ["sim-0", "sim-1"]),
    (NASTY, "Greedy InfoMax: the same losses on deterministic latents.", False, ["gim-0", "gim-1"]),
    ("CPC", "Contrastive Predictive Coding, trained end to end.", False, ["cpc-0"]),
    ("log-mel", "Spectra without any training.", True, ["log-mel"]),
    ("SIM untrained", "The architecture of SIM with fresh weights.", True, ["untrained"]),
    ("GIM + PCA", "Principal components of GIM.", True, ["gim-0"]),
]
MEASURES = [
    ("accuracy", "Probes", "Linear probe accuracy", "Share of frames found.", "higher", "chance: 11.2 %", "percent"),
    ("gap", "Probes", "Gap to rotated axes", "By 8 dimensions.", "higher", "0 for axes that mean nothing", "percent"),
    ("units", "Probes", "Units for 90 %", "Dimensions that reach 90 % of the accuracy of all.", "lower", "", "integer"),
    ("mig", "Disentanglement", "Mutual information gap", "Lead.", "higher", "0.01 with permuted factors", "number"),
    ("kurtosis", "Gaussianity", "Kurtosis <3>", "By that of a normal, at best 1.", "near 1", "1", "number"),
    ("width", "Gaussianity", "Width", "Channels.", "none", "", "integer"),
]
MODULES = ["module 0", "module 2"]
PLACE = {"kind": "k", "representation": "m", "module": "0"}
ITEM = {"id": "i", "group": "prior", "title": "t", **PLACE, "sampling_rate": RATE}


def tone(seconds, frequency=220.0, amplitude=0.2):
    time = np.arange(int(seconds * RATE)) / RATE
    return (amplitude * np.sin(2 * np.pi * frequency * time) * np.hanning(len(time))).astype(np.float32)


def own_modules(kind):
    return {"log-mel": ["log-mel"], "CPC": MODULES[1:]}.get(kind, MODULES)


def make_values(generator):
    values = []
    for kind, _, _, models in KINDS:
        for model in models:
            for module in own_modules(kind):
                place = {"kind": kind, "representation": model, "module": module}
                for key, *_, form in MEASURES:
                    value = (
                        int(generator.integers(2, 64)) if form == "integer" else round(float(generator.uniform()), 4)
                    )
                    interval = {"low": 0.9 * value, "high": 1.1 * value}
                    values.append({**place, "measure": key, "value": value, **interval})
    for value in values:
        if value["representation"] == "sim-1" and value["measure"] == "mig":
            value.update(value=None, low=None, high=None)
        if value["kind"] == "log-mel" and value["measure"] == "gap":
            value.update(low=None, high=None)
    return values


def make_comparisons():
    verdicts = {"accuracy": "win", "gap": "loss", "units": "undecided", "mig": "win", "kurtosis": "loss"}
    difference = {"difference": 0.12, "low": 0.02, "high": 0.22}
    return [
        {"measure": measure, "module": module, "first": "SIM", "second": kind, **difference, "verdict": verdict}
        for module in MODULES
        for kind, *_ in KINDS[1:]
        for measure, verdict in verdicts.items()
        if kind == "log-mel" or module in own_modules(kind)
    ]


EFFECTS = {
    "oracle": {"targets": ["F1, Hz"], "values": [[0.11, 77.0]], "selectivity": [0.6]},
    "dimensions": [3, 7, 11],
    "factors": ["f0, semitones", "F1, Hz"],
    "targets": ["f0, semitones", "F1, Hz", "F1, Hz"],
    "correlations": [0.81, -0.3, 0.2],
    "conveyed": [0.91, None],
    "selectivity": [0.9, 0.6, 0.3],
    "selectivity_of_random_axes": [0.31, 0.42],
    "values": [[1.25, -120.0], [0.03, None], [-0.4, 80.0]],
    "spread": [2.5, 300.0],
}


def make_densities(generator):
    drawn = [generator.normal(0, spread, 2000) for spread in (0.9, 1.2)]
    return [np.histogram(values, 32, (-4, 4), density=True)[0].tolist() for values in drawn]


def make_curves(generator):
    ks = [1, 2, 4, 8, 16]
    each = [
        {"kind": kind, "representation": model, "module": module}
        for kind, _, _, models in KINDS
        for model in models
        for module in own_modules(kind)
    ]
    rising, falling = np.linspace(0.2, 0.9, 5), np.linspace(1, 0, 5)
    dims = 16
    mixing = np.corrcoef(generator.normal(size=(dims, 40)))
    trained = [entry for entry in each if entry["kind"] in ("SIM", NASTY)]
    return {
        "accuracy_by_dimensions": [
            {
                **entry,
                "ks": ks,
                "values": [*(rising + generator.normal(0, 0.02, 5)).tolist()[:4], None],
                "chance": 0.112,
            }
            for entry in each
        ],
        "reconstruction": [
            {**entry, "control": control, "ks": [0, *ks[:-1]], "values": (falling**power).tolist(), "area": 0.4}
            for entry in trained
            for power, control in enumerate(
                ("dimensions", "random", "rotation", "pca", "ica", "oracle", "paper", "paper_pca"), 1
            )
        ],
        "kl_spectrum": [
            {**entry, "values": np.sort(generator.gamma(0.6, size=dims))[::-1].tolist()}
            for entry in trained
            if entry["kind"] == "SIM"
        ],
        "histograms": [
            {
                **entry,
                "edges": np.linspace(-4, 4, 33).tolist(),
                "dimensions": [3, 7],
                "densities": make_densities(generator),
            }
            for entry in trained
        ],
        "probe_weights": [
            {**entry, "values": generator.gamma(0.5, size=(9, dims)).tolist(), "classes": ["ba", "<di>", "gu"] * 3}
            for entry in trained
        ],
        "correlation": [{**entry, "values": mixing.tolist()} for entry in trained],
        "best_dimensions": [
            {
                **entry,
                "properties": ["pitch", "vocal_tract_length"],
                "dimensions": [2, 5],
                "values": generator.uniform(0.5, 0.9, 2).tolist(),
                "rotated": [[0.3, 0.4, 0.35]] * 2 if entry in trained else [None, None],
            }
            for entry in each
        ],
        "traversal_effects": [{**trained[0], **EFFECTS}],
    }


def make_media():
    """Sounds of two modules: their lengths differ within an item, and one item is silent."""
    arrays, media = {}, []
    for group in ("interpolation", "interpolation_k", "reconstruction", "traversal", "prior", "moments"):
        for module in MODULES:
            clips = []
            for step in range(3):
                name = f"clip_{len(arrays)}"
                amplitude = 1e-4 if (group, module) == ("prior", MODULES[1]) else 0.1 * (step + 1)
                arrays[name] = tone(0.3 + 0.1 * step, 220 * (step + 1), amplitude)
                clips.append({"label": f"{50 * step} %", "array": name} | ({"mark": 0.1} if group == "moments" else {}))
            item = {**ITEM, "id": f"{group}-{module}", "group": group, "title": 'ba to <gi> & "du"', "clips": clips}
            media.append(item | {"kind": NASTY, "representation": "gim-0", "module": module})
    return media, arrays


def make_analysis():
    generator = np.random.default_rng(0)
    media, arrays = make_media()
    quality = [
        {
            "kind": "SIM",
            "representation": "sim-0",
            "module": "module 2",
            "decoder": "decoder of sim-0",
            "log_mel": {"value": 1.234, "low": 1.1, "high": 1.4},
            "log_mel_of_silence": 4.56,
            "spectral": {"value": 0.78, "low": None, "high": None},
            "si_sdr": None,
        },
        {
            "kind": NASTY,
            "representation": "gim-0",
            "module": "module 2",
            "decoder": "d",
            "log_mel": 5.01,
            "log_mel_of_silence": 4.56,
            "spectral": None,
            "si_sdr": -3.4,
        },
    ]
    analysis = {
        "schema": SCHEMA,
        "corpus": "artificial_speech",
        "corpus_license": "cc-by-nc-sa-4.0",
        "label": "syllable",
        "classes": ["ba", "<di>", "gu"],
        "factors": ["vowel", "f0"],
        "train_items": 2181,
        "test_items": 360,
        "intervals_over": "360 utterances",
        "kinds": [vars(Kind(*kind)) for kind in KINDS],
        "measures": [
            dict(zip(("key", "group", "title", "sentence", "direction", "null", "format"), measure, strict=True))
            for measure in MEASURES
        ],
        "rows": make_values(generator),
        "comparisons": make_comparisons(),
        "curves": make_curves(generator),
        "reconstruction_quality": quality,
        "media": media,
        "versions": {"torch": "2.13"},
        "git": "abc123",
    }
    return analysis, arrays


def leave(folder, analysis, arrays=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "analysis.json").write_text(
        json.dumps({name: value for name, value in analysis.items() if name != "curves"})
    )
    if "curves" in analysis:
        (folder / "curves.json").write_text(json.dumps({"schema": SCHEMA, **analysis["curves"]}))
    if arrays is not None:
        np.savez(folder / "media.npz", **arrays)
    return folder


class Page(HTMLParser):
    """What the tests look at: elements with their attributes, text, and whether tags are balanced."""

    VOID = ("meta", "link", "img", "br", "hr", "input", "path", "use", "rect", "image")

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.unbalanced, self.texts = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.texts.append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    analysis, arrays = make_analysis()
    folder = leave(tmp_path_factory.mktemp("analysis"), analysis, arrays)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


# ---------------------------------------------------------------------- the page as a whole


def test_the_page_is_well_formed_and_every_id_is_unique(page):
    assert not page.unbalanced
    assert not page.open
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_nothing_is_loaded_from_elsewhere(text, page):
    links = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href")
    ]
    assert len(links) > 30
    assert all(value.startswith(("data:", "#")) for value in links)
    assert not page.all("script")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert all(f'id="{target}"' in text for target in re.findall(r'(?:href="|url\()#([^")]+)', text))


def test_headings_are_in_order_and_headers_of_tables_say_what_they_head(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))


def test_pictures_and_players_have_names(page):
    pictures = [attributes for attributes in page.all("svg") if "aria-hidden" not in attributes]
    assert len(pictures) >= 20
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in pictures)
    assert all(attributes["alt"] for attributes in page.all("img"))
    labels = [attributes["aria-label"] for attributes in page.all("audio")]
    assert len(labels) == 36
    assert all("gim-0" in label and "module" in label for label in labels)


def test_names_are_escaped_everywhere(text):
    assert "<b>" not in text
    assert "<gi>" not in text
    assert "<di>" not in text
    assert NASTY in unescape(text)
    assert "&lt;di&gt;" in text


def test_a_license_that_binds_its_users_is_shown_at_the_top_and_at_the_sounds(text, tmp_path):
    assert text.count("CC BY-NC-SA 4.0") >= 3
    assert text.index("CC BY-NC-SA 4.0") < text.index('id="summary"')
    assert "CC BY-NC" in text
    analysis, _ = make_analysis()
    leave(tmp_path, {**analysis, "corpus_license": "apache-2.0", "media": [], "curves": {}})
    other = write_report(tmp_path).read_text(encoding="utf-8")
    assert "commercial" not in other
    assert "Apache-2.0" in other


@pytest.mark.parametrize(
    ("identifier", "name"),
    [("cc-by-nc-sa-4.0", "CC BY-NC-SA 4.0"), ("cc-by-4.0", "CC BY 4.0"), ("apache-2.0", "Apache-2.0"), ("mit", "MIT")],
)
def test_licenses_are_written_as_people_write_them(identifier, name):
    assert license_name(identifier) == name


# ---------------------------------------------------------------------- scores


def test_every_figure_of_the_scorecard_is_there(folder, text):
    analysis = read_analysis(folder)
    forms = {measure.key: measure.format for measure in analysis.measures}
    cells = re.findall(r'<span class="value">(.*?)(?:<|$)', text)
    spreads = " ".join(re.findall(r'<span class="spread">(.*?)</span>', text))
    for kind in analysis.kinds:
        for module in own_modules(kind.name):
            for key, form in forms.items():
                values = [
                    row.value
                    for row in analysis.rows
                    if (row.kind, row.module, row.measure) == (kind.name, module, key)
                ]
                measured = [value for value in values if value is not None]
                mean = sum(measured) / len(measured)
                written = {"percent": f"{100 * mean:.1f} %", "number": f"{mean:.3f}"}.get(
                    form, f"{mean:.1f}".removesuffix(".0")
                )
                assert written in cells, (kind.name, module, key)
                if len(values) > 1 and form == "percent":
                    assert f"{100 * min(measured):.1f} % to {100 * max(measured):.1f} %" in spreads
    assert "(1 of 2 models)" in spreads
    for _, group, title, sentence, *_ in MEASURES:
        assert all(each in unescape(text) for each in (group, title, sentence))


def test_features_without_modules_stand_in_every_module(folder, text):
    section = text[text.index('id="scorecard"') : text.index('id="quality"')]
    assert len(re.findall(r'<th scope="row">log-mel<', section)) == 2 * 3  # modules by groups
    assert modules_of([(row.kind, row.module) for row in read_analysis(folder).rows], ["log-mel"]) == MODULES
    assert modules_of([("log-mel", "log-mel")], ["log-mel"]) == ["log-mel"]


def test_wins_and_losses_are_counted_from_the_first_kind(folder):
    groups, rows = opponents(read_analysis(folder))
    assert groups == ["Probes", "Disentanglement", "Gaussianity"]
    assert [row.kind for row in rows] == [kind for kind, *_ in KINDS[1:]]
    assert [each[:3] for each in rows[0].tallies] == [(2, 2, 2), (2, 0, 0), (0, 2, 0)]
    assert rows[0].total == (4, 4, 2, True)
    assert rows[1].total == (2, 2, 1, True)  # CPC has one of the modules


def test_one_model_of_each_kind_needs_seeds_and_counts_nothing(tmp_path):
    analysis, arrays = make_analysis()
    for kind in analysis["kinds"]:
        kind["representations"] = kind["representations"][:1]
    analysis["rows"].append({**analysis["rows"][0], "kind": "log-mel", "representation": "log-mel", "module": "frame"})
    for comparison in analysis["comparisons"]:
        comparison.update(verdict="undecided", low=None, high=None)
    text = write_report(leave(tmp_path, analysis, arrays)).read_text(encoding="utf-8")
    number = len(analysis["comparisons"]) + len(KINDS) - 1 + len(MODULES)
    assert text.count("needs at least two seeds") == number
    assert "0 wins" not in text
    _, rows = opponents(read_analysis(tmp_path))
    assert not any(row.total.has_seeds for row in rows)
    # A spectrum has no seed, so two models of the first kind are enough to be compared with it.
    analysis["kinds"][0]["representations"] = ["sim-0", "sim-1"]
    _, rows = opponents(read_analysis(leave(tmp_path, analysis, arrays)))
    assert [row.kind for row in rows if row.total.has_seeds] == ["log-mel"]


def test_kinds_have_colors_of_their_own_and_controls_that_of_their_model():
    names = [f"SIM #{number}" for number in range(12)]
    controls = ["SIM #3 untrained", "SIM #11 + PCA", "SIM #1 + ICA", "log-mel"]
    kinds = [Kind(name, "", name in controls, []) for name in [*names, *controls]]
    styles = {kind.name: kind_style(kinds, kind.name) for kind in kinds}
    assert len({styles[name][0] for name in [*names, "log-mel"]}) == 13
    assert {styles[name][1] for name in names} == {""}
    for control, of in (("SIM #3 untrained", "SIM #3"), ("SIM #11 + PCA", "SIM #11"), ("SIM #1 + ICA", "SIM #1")):
        assert styles[control][0] == styles[of][0]
    assert len({styles[kind.name][1] for kind in kinds}) == 5


def test_names_in_pictures_are_text_and_nothing_else(tmp_path):
    names = ["#010203", ' id="x"', "$x_1$", "$", "\x1b[31m", "<b>&amp;", "a\nb", "\udce9"]
    analysis, _ = make_analysis()
    weights = {**analysis["curves"]["probe_weights"][0], "classes": names, "values": np.ones((8, 4)).tolist()}
    analysis.update(classes=names, curves={"probe_weights": [weights]}, media=[])
    analysis["rows"][0]["representation"] = "\x1b[31m\udce9"
    text = write_report(leave(tmp_path, analysis), figure_format="svg").read_text(encoding="utf-8")
    saved = "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("figure_*.svg"))
    for drawn in (text, saved):
        assert not set(drawn) & {"\x1b", "\udce9"}
        shown = [unescape(found) for found in re.findall(r"<text[^>]*>(.*?)</text>", drawn)]
        expected = ["#010203", ' id="x"', "$x_1$", "$", "\\x1b[31m", "<b>&amp;", "a\\nb", "\\udce9"]
        assert [name for name in expected if name not in shown] == []


def test_every_picture_can_be_a_file_of_its_own(folder, tmp_path):
    """All of them as SVG, which is the fastest, and one in the other formats."""
    shutil.copytree(folder, tmp_path / "a")
    before = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    main([str(tmp_path / "a"), "--figure_format", "svg"])
    pictures = sorted((tmp_path / "a").glob("figure_*.svg"))
    plots = make_plots(*(getattr(read_analysis(folder), name) for name in ("curves", "kinds")))
    assert len(pictures) == sum(len(panels) for plot in plots for _, panels in plot.modules) > 10
    assert all(path.read_bytes().startswith(b"<?xml") for path in pictures)
    assert (tmp_path / "a" / "report.html").read_text(encoding="utf-8") == before
    analysis, arrays = make_analysis()
    analysis["curves"] = {"correlation": analysis["curves"]["correlation"][:1]}
    leave(tmp_path / "b", analysis, arrays)
    for ending, start in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        main([str(tmp_path / "b"), "--figure_format", ending])
        (picture,) = (tmp_path / "b").glob(f"figure_*.{ending}")
        assert picture.read_bytes().startswith(start)


def test_a_comparison_that_names_a_kind_second_is_turned():
    comparison = Comparison("gini", "module 2", "GIM", "SIM", 0.2, 0.1, 0.3, "win")
    assert tally(seen_from("SIM", [comparison]), None)[:3] == (0, 1, 0)
    assert seen_from("SIM", [comparison])[0].second == "GIM"


@pytest.mark.parametrize(
    ("verdicts", "best"),
    [
        (("win", "win"), "SIM"),
        (("win", "undecided"), None),
        (("loss", "win"), None),
        (("undecided", "undecided"), None),
    ],
)
def test_a_kind_is_the_best_only_where_it_won_against_every_other_trained_kind(verdicts, best):
    kinds = [Kind(name, "", name == "log-mel", [name]) for name in ("SIM", "GIM", "CPC", "log-mel")]
    values = [Row(kind.name, kind.name, "m", "accuracy", 0.5) for kind in kinds]
    comparisons = [
        Comparison("accuracy", "m", "SIM", second, 0.1, 0.1, 0.1, verdict)
        for second, verdict in zip(("GIM", "CPC"), verdicts, strict=True)
    ]
    assert best_kind("accuracy", kinds, values, comparisons) == best


def test_the_page_marks_only_what_comparisons_support(text):
    rows = re.findall(r'<th scope="row">(?:(?!<th ).)*', text)
    marks = {kind: 0 for kind, *_ in KINDS}
    for row in rows:
        name = unescape(re.match(r'<th scope="row">(.*?)<', row)[1])
        marks[name] = marks.get(name, 0) + row.count('class="best"')
    # SIM won two measures in both modules. GIM won two, but in module 2 nobody compared it with CPC.
    assert {name: number for name, number in marks.items() if number} == {"SIM": 4, NASTY: 2}


def test_digits_follow_the_largest_number_of_a_column():
    assert [digits_for(values) for values in ([123.0, 1.0], [12.3], [1.23], [0.0123, None], [], [0.0])] == [
        0,
        1,
        2,
        4,
        3,
        3,
    ]


def test_quality_says_where_silence_does_as_well(text):
    section = text[text.index('id="quality"') : text.index('id="traversal-effects"')]
    assert all(number in section for number in ("1.23", "1.10 to 1.40", "4.56", "5.01", "-3.4"))
    assert section.count("no better than silence") == 1


def test_small_correlations_of_either_sign_have_a_color_and_none_has_none():
    assert SIGNED(0.5)[3] == 0
    for place in (0.45, 0.55):  # correlations of -0.1 and 0.1
        assert SIGNED(place)[3] > 0.15
    assert SIGNED(0.45)[2] > SIGNED(0.45)[0]
    assert SIGNED(0.55)[0] > SIGNED(0.55)[2]


# ---------------------------------------------------------------------- sounds


def decoded(uri):
    return soundfile.read(io.BytesIO(base64.b64decode(uri.removeprefix("data:audio/wav;base64,"))))


def test_players_hold_the_clips_in_order_with_one_gain_an_item(folder, page):
    analysis = read_analysis(folder)
    clips = [(item, clip) for item in analysis.media for clip in item["clips"]]
    by_label = {
        (attributes["aria-label"], len(decoded(attributes["src"])[0])): decoded(attributes["src"])[0]
        for attributes in page.all("audio")
    }
    assert len(clips) == len(page.all("audio"))
    with np.load(folder / "media.npz") as arrays:
        item = next(item for item in analysis.media if item["group"] == "prior" and item["module"] == "module 0")
        peak = max(np.abs(arrays[clip["array"]]).max() for clip in item["clips"])
        for clip in item["clips"]:
            name = f"{item['kind']}, {item['representation']}, {item['module']}: {item['title']}, {clip['label']}"
            samples = arrays[clip["array"]]
            np.testing.assert_allclose(by_label[name, len(samples)], 0.9 / peak * samples, atol=2 / 32768)


def test_silence_is_not_made_louder():
    quiet, loud = tone(0.1, amplitude=1e-4), tone(0.1, amplitude=0.3)
    assert common_gain([quiet]) == 1
    assert common_gain([np.zeros(100, np.float32)]) == 1
    assert common_gain([]) == 1
    assert common_gain([quiet, loud]) == pytest.approx(0.9 / 0.3, rel=1e-2)
    clips = [{"label": "a", "array": "quiet"}]
    item = {**ITEM, "clips": clips}
    loaded = load_item(item, {"quiet": quiet})
    assert loaded.gain == "silent, played as it is"
    np.testing.assert_allclose(decoded(loaded.clips[0].audio)[0], quiet, atol=1 / 32768)
    assert loaded.clips[0].seconds == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full(500, np.nan), "NaN"),
        (np.zeros((2, 500)), "'clip'"),
        (np.zeros(0), "'clip'"),
        (None, "'clip'"),
    ],
)
def test_a_clip_that_cannot_be_played_is_named(array, message):
    item = {**ITEM, "clips": [{"label": "a", "array": "clip"}]}
    with pytest.raises(ValueError, match=message):
        load_item(item, {} if array is None else {"clip": array})


def test_silence_is_dark_next_to_speech():
    def brightness(amplitude):
        item = {**ITEM, "clips": [{"label": "a", "array": "clip"}]}
        uri = load_item(item, {"clip": tone(0.4, amplitude=amplitude)}).clips[0].spectrogram
        return imread(io.BytesIO(base64.b64decode(uri.partition(",")[2])))[..., :3].max()

    assert brightness(1e-4) < 0.7 * brightness(0.3)
    assert brightness(0) < 0.1


def harmonics(pitch, gain_db=0.0, seconds=0.5):
    time = np.arange(int(seconds * RATE)) / RATE
    sound = sum(np.sin(2 * np.pi * number * pitch * time) / number for number in range(1, 20))
    return (0.05 * 10 ** (gain_db / 20) * sound).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "is_heard"),
    [
        (lambda sound: sound, False),
        (lambda _: harmonics(120, 0.5), False),
        (lambda _: harmonics(120, 2), True),
        (lambda _: harmonics(127), True),  # a semitone
        (lambda sound: sound + 1e-5 * np.random.default_rng(0).normal(size=len(sound)).astype(np.float32), False),
        (lambda sound: sound + 1e-2 * np.random.default_rng(0).normal(size=len(sound)).astype(np.float32), True),
        (lambda sound: np.where(np.arange(len(sound)) < 6000, sound, 0).astype(np.float32), True),
        (np.zeros_like, True),
    ],
)
def test_a_change_is_audible_from_a_level_of_1_db_on(change, is_heard):
    sound = harmonics(120)
    assert (level_change(sound, change(sound), RATE) >= 1) == is_heard
    arrays = {"a": sound, "b": change(sound)}
    item = {**ITEM, "group": "interpolation", "clips": [{"label": name, "array": name} for name in arrays]}
    loaded = load_item(item, arrays)
    assert loaded.note.startswith("Nothing audible") != is_heard
    assert (loaded.clips[1].note == "no audible change") != is_heard
    assert loaded.clips[0].note == ""
    # Clips that are not made of one another are not compared; silence is named wherever it is.
    other = load_item({**item, "group": "reconstruction"}, arrays)
    assert other.note == ""
    assert other.clips[1].note == ("silent" if not arrays["b"].any() else "")


def test_a_mark_is_a_line_at_its_moment():
    item = {**ITEM, "clips": [{"label": "a", "array": "clip", "mark": 0.3}, {"label": "b", "array": "clip"}]}
    marked, plain = (
        imread(io.BytesIO(base64.b64decode(clip.spectrogram.partition(",")[2])))
        for clip in load_item(item, {"clip": tone(0.4)}).clips
    )
    columns = np.flatnonzero((marked != plain).any(axis=(0, 2)))
    assert columns.tolist() == [round(0.75 * marked.shape[1])]
    assert np.ptp(marked[:, columns[0]], axis=0).max() == 0


def test_best_dimensions_are_dots_next_to_the_range_of_random_rotations(folder):
    analysis = read_analysis(folder)
    plots = {plot.anchor: plot for plot in make_plots(analysis.curves, analysis.kinds)}
    panel = next(panel for _, panels in plots["best-dimensions"].modules for panel in panels)
    (axis,) = panel.figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["pitch", "vocal tract length"]
    entry = next(entry for entry in analysis.curves["best_dimensions"] if entry["kind"] == analysis.kinds[0].name)
    dots = np.concatenate([found.get_offsets() for found in axis.collections])
    for row, value in enumerate(entry["values"]):
        assert np.isclose(dots, [value, row]).all(axis=1).any()
    assert any(np.allclose(line.get_xdata(), [0.3, 0.4]) for line in axis.lines)


def test_moves_along_regression_directions_stand_next_to_those_of_dimensions(folder, text):
    assert "direction of F1" in text
    assert "+77" in text
    assert read_analysis(folder).curves["traversal_effects"][0]["oracle"]["selectivity"] == [0.6]


def test_a_clip_shorter_than_a_window_is_shown_too():
    item = {**ITEM, "clips": [{"label": "a", "array": "clip"}]}
    assert load_item(item, {"clip": tone(0.005)}).clips[0].spectrogram.startswith("data:image/png;base64,")


# ---------------------------------------------------------------------- what may be absent or wrong


def test_an_analysis_with_nothing_in_it_gives_a_page(tmp_path):
    analysis = {"schema": SCHEMA, "corpus": "c", "corpus_license": "other", "kinds": [], "measures": [], "rows": []}
    page = Page(write_report(leave(tmp_path, analysis)).read_text(encoding="utf-8"))
    assert not page.unbalanced
    assert not page.all("audio")
    assert "Nothing was measured." in page.texts


@pytest.mark.parametrize(
    "absent",
    ["comparisons", "curves", "reconstruction_quality", "media", "versions", "classes", "factors", "git", "label"],
)
def test_every_part_that_may_be_absent_may_be_absent(tmp_path, absent):
    analysis, arrays = make_analysis()
    analysis["curves"] = {"kl_spectrum": analysis["curves"]["kl_spectrum"], "correlation": []}
    analysis["media"] = analysis["media"][:1]
    del analysis[absent]
    assert not Page(write_report(leave(tmp_path, analysis, arrays)).read_text(encoding="utf-8")).unbalanced


def test_nulls_and_empty_entries_of_curves_are_drawn_as_gaps(tmp_path):
    analysis, _ = make_analysis()
    curves = {name: entries[:2] for name, entries in analysis["curves"].items()}
    analysis["curves"] = curves
    curves["correlation"][0]["values"][2] = [None] * 16
    curves["correlation"][1]["values"] = []
    curves["probe_weights"][0]["values"][0][0] = None
    curves["histograms"][0]["densities"][0][0] = None
    curves["reconstruction"][0]["values"] = [None] * 5
    curves["kl_spectrum"] = [{**curves["kl_spectrum"][0], "values": []}]
    text = write_report(leave(tmp_path, {**analysis, "media": []})).read_text(encoding="utf-8")
    assert not Page(text).unbalanced
    assert 'id="correlation"' in text
    assert 'id="kl-spectrum"' not in text
    assert not re.search(r"\bnan\b", text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda analysis: analysis.pop("rows"), "'rows'"),
        (lambda analysis: analysis["rows"][0].pop("value"), "'value'"),
        (lambda analysis: analysis["rows"][0].update(value="high"), "`value`"),
        (lambda analysis: analysis.update(valeus=[]), "'valeus'"),
        (lambda analysis: analysis["rows"][0].update(kind="SIMM"), "`rows` has kind 'SIMM'"),
        (lambda analysis: analysis["rows"][0].update(measure="acc"), "`rows` has measure 'acc'"),
        (lambda analysis: analysis["comparisons"][0].update(verdict="won"), "verdict 'won'"),
        (lambda analysis: analysis["media"][0].update(group="songs"), "group 'songs'"),
        (lambda analysis: analysis["curves"]["kl_spectrum"][0].update(kind="?"), "`curves.kl_spectrum` has kind"),
    ],
)
def test_an_analysis_that_does_not_fit_together_is_refused(tmp_path, change, message):
    analysis, arrays = make_analysis()
    change(analysis)
    with pytest.raises(ValueError, match=re.escape(message)):
        write_report(leave(tmp_path, analysis, arrays))
    assert not (tmp_path / "report.html").exists()


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"analysis\.json"):
        write_report(tmp_path)
    analysis, _ = make_analysis()
    with pytest.raises(FileNotFoundError, match=r"media\.npz"):
        write_report(leave(tmp_path, analysis))
    (tmp_path / "analysis.json").write_text("{")
    with pytest.raises(ValueError, match="JSON"):
        write_report(tmp_path)


def test_sounds_that_are_cut_off_are_named(tmp_path):
    folder = leave(tmp_path, *make_analysis())
    path = folder / "media.npz"
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[100:200] = bytes(100)
    plain = io.BytesIO()
    np.save(plain, np.zeros(3))
    for left in (content[: len(content) // 2], bytes(damaged), b"", b"x", plain.getvalue()):
        path.write_bytes(left)
        with pytest.raises(ValueError, match=r"media\.npz"):
            write_report(folder)


def test_the_command_renders_the_same_page_again_and_names_what_is_wrong(tmp_path, capsys):
    analysis, arrays = make_analysis()
    analysis["curves"] = {"correlation": analysis["curves"]["correlation"][:1]}
    text = write_report(leave(tmp_path, analysis, arrays)).read_text(encoding="utf-8")
    cli.main(["report", str(tmp_path)])
    assert "report.html" in capsys.readouterr().out
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == text
    with pytest.raises(SystemExit, match=r"output_dir.*nowhere"):
        cli.main(["report", str(tmp_path / "nowhere")])


# ---------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def chromium():
    binary = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no Chromium here; put `chromium` on the PATH or name it in CHROMIUM")
    return binary


def run_chromium(binary, tmp_path, *arguments):
    flags = "--headless=new --no-sandbox --disable-gpu --hide-scrollbars --enable-logging=stderr --v=0"
    command = [binary, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


# Opens everything, loads every player, and tells the page around how long each lasts and what sticks out sideways.
_LOOK = """<script>
addEventListener('load', async () => {
  const players = [...document.querySelectorAll('audio')];
  document.querySelectorAll('details').forEach(each => each.open = true);
  const durations = await Promise.all(players.map(player => new Promise(resolve => {
    player.onloadedmetadata = () => resolve(player.duration);
    player.onerror = () => resolve(-1);
    player.preload = 'metadata';
    player.load();
  })));
  const figures = [...document.querySelectorAll('.panel svg')].every(each => {
    const {width, height} = each.getBoundingClientRect(), box = each.viewBox.baseVal;
    return width > 250 && Math.abs(height / width - box.height / box.width) < 0.01;
  });
  parent.document.getElementById('found').textContent = JSON.stringify({
    durations, width: document.documentElement.clientWidth, content: document.documentElement.scrollWidth,
    pictures: [...document.images].every(each => each.naturalWidth > 0), figures,
  });
});
</script></body>"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_every_player_loads_and_nothing_sticks_out_sideways(folder, text, tmp_path, chromium, width):
    # A window has a least width of some 500 pixels, so the page stands in a frame.
    frame = escape(text.replace("</body>", _LOOK))
    around = tmp_path / "around.html"
    around.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><pre id="found"></pre>'
        f'<iframe style="border: 0; width: {width}px; height: 900px" srcdoc="{frame}"></iframe>',
        encoding="utf-8",
    )
    run = run_chromium(
        chromium, tmp_path, "--window-size=1400,1000", "--virtual-time-budget=20000", "--dump-dom", around.as_uri()
    )
    assert "CONSOLE" not in run.stderr
    found = json.loads(unescape(re.search(r'<pre id="found">(.*?)</pre>', run.stdout, re.DOTALL)[1]))
    np.testing.assert_allclose(found["durations"], expected_seconds(folder), atol=1e-3)
    assert found["width"] == width
    assert found["content"] == width
    assert found["pictures"]
    assert found["figures"]


@pytest.fixture(scope="module")
def axe():
    """The source of axe-core, of the package `axe-core-python` or of the file that AXE_CORE names."""
    spec = importlib.util.find_spec("axe_core_python")
    path = os.environ.get("AXE_CORE") or (spec and Path(spec.origin).with_name("axe.min.js"))
    if path is None:
        pytest.skip("no axe-core here; install `axe-core-python` or name axe.min.js in AXE_CORE")
    return Path(path).read_text(encoding="utf-8")


_AUDIT = """<script>
addEventListener('load', async () => {
  document.querySelectorAll('details').forEach(each => each.open = true);
  const {violations} = await axe.run(document, {resultTypes: ['violations']});
  const found = violations.map(each => [each.impact, each.id, each.nodes[0].html.slice(0, 200)]);
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  const output = document.createElement('pre');
  output.id = 'found';
  output.textContent = JSON.stringify({dark, found});
  document.body.replaceChildren(output);
});
</script></body>"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(text, tmp_path, chromium, axe, scheme):
    page = tmp_path / "page.html"
    page.write_text(text.replace("</body>", f"<script>{axe}</script>{_AUDIT}"), encoding="utf-8")
    number = ["dark", "light"].index(scheme)
    run = run_chromium(
        chromium,
        tmp_path,
        f"--blink-settings=preferredColorScheme={number}",
        "--virtual-time-budget=60000",
        "--dump-dom",
        page.as_uri(),
    )
    found = json.loads(unescape(re.search(r'<pre id="found">(.*?)</pre>', run.stdout, re.DOTALL)[1]))
    assert found["dark"] == (scheme == "dark")
    assert [each for each in found["found"] if each[0] in ("serious", "critical")] == []


def expected_seconds(folder):
    """Lengths of the clips in the order of the page: by group, then by module."""
    groups = ["reconstruction", "interpolation", "interpolation_k", "traversal", "moments", "prior"]
    media = sorted(read_analysis(folder).media, key=lambda item: (groups.index(item["group"]), item["module"]))
    with np.load(folder / "media.npz") as arrays:
        return [len(arrays[clip["array"]]) / RATE for item in media for clip in item["clips"]]


def test_results_of_another_schema_are_refused(tmp_path):
    save_results(tmp_path / "new.json", {"a": 1})
    assert read_results(tmp_path / "new.json") == read_json(tmp_path / "new.json") == {"schema": 1, "a": 1}
    write_json(tmp_path / "old.json", {"a": 1})  # of a version that wrote no number
    assert read_results(tmp_path / "old.json") == {"a": 1}
    for schema in (0, 2, "1", None):
        write_json(tmp_path / "other.json", {"schema": schema})
        with pytest.raises(ValueError, match=r"other\.json .*`schema`"):
            read_results(tmp_path / "other.json")


def test_an_analysis_of_another_schema_is_refused_and_curves_have_none(tmp_path):
    leave(tmp_path, *make_analysis())
    for name in ("analysis.json", "curves.json"):
        path = tmp_path / name
        right = read_json(path)
        write_json(path, {**right, "schema": 1})
        with pytest.raises(ValueError, match=rf"{name} has `schema` 1"):
            read_analysis(tmp_path)
        write_json(path, right)
    assert "schema" not in read_analysis(tmp_path).curves
