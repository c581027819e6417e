"""The explorer: labels need evidence, views escape names, limits hold, and the page works in a browser."""

import html
import json
import math
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model, set_seed

from modeling_sim import SimConfig, SimDecoder, SimDecoderConfig, SimFeatureExtractor, SimModel
from modeling_sim.analysis import LinearTransform, dimension_labels, random_rotation
from modeling_sim.cli import COMMANDS
from modeling_sim.commands import explore, publish
from modeling_sim.data.corpora.synthetic_syllables import load
from modeling_sim.evaluation.axes import AXES_NAME, save_axes
from modeling_sim.explore import moving, views
from modeling_sim.explore.evidence import Evidence, right_labels
from modeling_sim.explore.explorer import AXES, Explorer
from modeling_sim.explore.settings import ExploreArguments
from modeling_sim.provenance import weights_fingerprint
from studies.explorer.measure import Property, compare, moments_of

STUDY = Path(__file__).parents[1] / "studies" / "explorer" / "results" / "labels.json"
EVIL = "<img src=x onerror=alert(1)>${alert(2)}{{x}}"
CORPUS = {"num_test": 12, "num_speakers": 4}


def save_model(folder, seed=0, **overrides):
    """A tiny model with random weights."""
    set_seed(seed)
    config = SimConfig.preset("sim", hidden_size=12, context_size=6, use_batch_norm=False, **overrides)
    model = SimModel(config)
    model.save_pretrained(folder)
    SimFeatureExtractor(sampling_rate=config.sampling_rate).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two seeds of a tiny model, and a decoder of module 2 of the first."""
    root = tmp_path_factory.mktemp("my models")
    model = save_model(root / "first")
    save_model(root / "second", seed=1)
    decoder = SimDecoder(
        SimDecoderConfig.for_module(model.config, 2, hidden_size=8, encoder_fingerprint=weights_fingerprint(model))
    )
    decoder.save_pretrained(root / "decoder")
    SimFeatureExtractor().save_pretrained(root / "decoder")
    return root


@pytest.fixture(scope="module")
def arguments(folders, tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))

    def make(**overrides):
        given = {"model": str(folders / "first"), "corpus_settings": CORPUS, "cache_dir": cache, **overrides}
        return ExploreArguments(**given)

    return make


@pytest.fixture(scope="module")
def explorer(arguments, folders):
    return Explorer(arguments(decoder=[str(folders / "decoder")], compare=[str(folders / "second")]))


# ---------------------------------------------------------------------- labels


def planted(items=1500, dims=12, seed=0):
    """Codes whose first two dimensions follow a factor each; the others are noise."""
    generator = np.random.default_rng(seed)
    pitch, level = generator.standard_normal((2, items))
    codes = generator.standard_normal((items, dims))
    codes[:, 0] = pitch**3 + 0.2 * codes[:, 0]
    codes[:, 1] = -level + 0.3 * codes[:, 1]
    phones = generator.integers(3, size=items)
    return codes, {"pitch": pitch, "loudness": level, "phone": phones}


def test_planted_dimensions_get_their_names_and_others_none():
    codes, properties = planted()
    labels = dimension_labels(codes, properties)
    assert labels.labels == ["pitch", "loudness", *[None] * 10]
    assert labels.correlations["pitch"][0] > 0.9 > labels.limits["pitch"] > labels.random_axes["pitch"]
    assert labels.num_rotations == 60
    properties["pitch"][:1400] = np.nan  # as of unvoiced moments
    assert dimension_labels(codes, properties).labels[1] == "loudness"


def test_a_rotated_space_gets_hardly_any_label():
    given = 0
    for seed in range(20):
        codes, properties = planted(items=600, seed=seed)
        turned = codes @ random_rotation(12, np.random.default_rng(seed))
        given += sum(label is not None for label in dimension_labels(turned, properties, seed=seed).labels)
    assert given <= 0.05 * 20 * 12


def test_a_p_value_counts_random_axes(monkeypatch):
    """Limits and labels are those of a plain Benjamini-Hochberg test of the counts."""
    codes, properties = planted(items=300, dims=4)
    found = dimension_labels(codes, properties, smallest=0.0)
    recorded = []
    import modeling_sim.analysis.axes.dimension_labels as module

    best = module.best_dimensions

    def record(codes, properties):
        recorded.append(best(codes, properties).correlations)
        return best(codes, properties)

    monkeypatch.setattr(module, "best_dimensions", record)
    module.dimension_labels(codes, properties, smallest=0.0)
    own, *turned = recorded
    ps = {}
    for name in properties:
        null = np.concatenate([each[name] for each in turned])
        for dim, value in enumerate(own[name]):
            ps[name, dim] = (1 + (null >= value).sum()) / (1 + len(null))
    ordered = sorted(ps.values())
    passing = [p for rank, p in enumerate(ordered, start=1) if p <= 0.05 * rank / len(ps)]
    rejected = {place for place, p in ps.items() if passing and p <= max(passing)}
    assert rejected == {(name, dim) for name, lead in found.leads.items() for dim in range(4) if lead[dim] > 0}


@pytest.mark.parametrize(("properties", "level"), [({}, 0.05), ({"pitch": np.arange(50.0)}, 0.0)])
def test_labels_need_properties_and_a_level(properties, level):
    with pytest.raises(ValueError, match=r"`properties`.*`level`"):
        dimension_labels(np.random.default_rng(0).standard_normal((50, 3)), properties, level=level)


def test_a_label_is_right_if_a_factor_it_stands_for_leads():
    codes, properties = planted()
    factors = {"f0": properties["pitch"], "gain": properties["loudness"]}
    outcome = dimension_labels(codes, factors)
    assert right_labels(["pitch", "pitch", None, *[None] * 9], outcome)[:3] == [True, False, None]


def test_the_measured_claim_holds():
    """Of the model with readable axes, 80 % of labels are right; untrained networks get 5 % at most."""
    measured = json.loads(STUDY.read_text())
    trained, untrained = measured["trained"], measured["untrained"]
    labels = [label for row in trained["modules"] for label in row["labels"]]
    assert (trained["labels"], trained["right"]) == (len(labels), sum(label["right"] for label in labels))
    assert trained["labels"] >= 5
    assert trained["right"] >= 0.8 * trained["labels"]
    assert untrained["labels"] <= 0.05 * untrained["dimensions"]


# ---------------------------------------------------------------------- loudest moments


def planted_moments(dims=48, seed=0):
    """Moments of 60 utterances: dimension 0 is large in "s", and dimension 1 falls with the pitch of voiced moments."""
    generator = np.random.default_rng(seed)
    count = 60 * 50
    utterances = np.repeat([f"u{number}" for number in range(60)], 50)
    seconds = np.tile(np.arange(50) / 2, 60)
    phones = generator.integers(10, size=count)
    pitch = generator.uniform(80, 250, count)
    codes = generator.standard_normal((count, dims))
    codes[:, 0] += 5 * (phones == 3)
    codes[:, 1] -= (pitch - 165) / 10
    properties = {
        "phone": Property(phones, list("abcsefghij")),
        "speaker": Property(np.repeat(generator.integers(4, size=60), 50), ["A", "B", "C", "D"]),
        "pitch": Property(np.where(phones == 3, np.nan, pitch)),
    }
    return codes, utterances, seconds, properties


def test_loudest_moments_are_described_where_something_is_planted():
    codes, utterances, seconds, properties = planted_moments()
    found = compare(codes, [1, 0, 4, 5], utterances, seconds, properties)
    ends = {(end["dimension"], end["end"]): end for end in found["ends"]}
    assert list(ends) == [(dim, end) for dim in (1, 0, 4, 5) for end in ("largest", "smallest")]
    assert ends[0, "largest"]["words"] == ["s (100 %; 10 %)"]
    assert ends[0, "largest"]["properties"]["phone"]["classes"] == ["s"]
    assert ends[0, "largest"]["properties"]["pitch"]["measured"] == 0
    (low,), (high,) = ends[1, "largest"]["words"], ends[1, "smallest"]["words"]
    assert low.startswith("low pitch")
    assert high.startswith("high pitch")
    assert sum(bool(ends[dim, end]["words"]) for dim in (4, 5) for end in ("largest", "smallest")) == 0
    control = found["control"]
    assert control["ends"] == 80
    assert control["with_words"] <= 8
    assert control["properties"]["phone"]["share"] < ends[0, "largest"]["properties"]["phone"]["share"]


def test_what_moments_have_in_common_is_that_of_a_plain_count():
    codes, utterances, seconds, properties = planted_moments()
    (chosen,) = moments_of(codes[:, :1], utterances, seconds)
    assert sorted(codes[chosen, 0]) == sorted(codes[:, 0])[-20:]  # all moments are half a second apart
    phones, pitch = properties["phone"], properties["pitch"]
    some = np.arange(20) * 7
    counts = {phone: (phones.values[some] == phone).sum() for phone in set(phones.values[some])}
    expected = sum(k * np.log(k / (20 * (phones.values == phone).mean())) for phone, k in counts.items())
    assert phones.distance(some) == pytest.approx(expected)
    voiced = [each for each in some if np.isfinite(pitch.values[each])]
    places = [(pitch.values < pitch.values[each]).sum() for each in voiced]
    z = (np.mean(places) + 0.5) / np.isfinite(pitch.values).sum() - 0.5
    assert pitch.distance(some) == pytest.approx(abs(z) * np.sqrt(12 * len(voiced)))


# ---------------------------------------------------------------------- what is found, and the cache


def test_evidence_is_of_every_dimension_and_is_found_once(explorer, arguments, monkeypatch):
    name = next(iter(explorer.representations))
    evidence = explorer.evidence(name, "module 2")
    assert evidence.num_dims == 12
    assert {"pitch", "loudness", "spectral tilt", "voicing", "phone", "speaker"} <= set(evidence.correlations)
    assert sorted(evidence.order()) == list(range(12))
    profiles = np.array(evidence.profiles)
    assert profiles.shape == (12, len(evidence.lags))
    assert np.abs(profiles).max() <= 1
    monkeypatch.setattr("modeling_sim.explore.explorer.find_evidence", None)
    monkeypatch.setattr("modeling_sim.explore.explorer.frame_moments", None)
    again = Explorer(arguments())
    assert again.evidence(name, "module 2") == evidence
    with pytest.raises(TypeError):  # another setting is not in the cache
        Explorer(arguments(seed=1)).evidence(name, "module 2")


def test_damaged_evidence_is_found_again(explorer, arguments):
    name = next(iter(explorer.representations))
    evidence = explorer.evidence(name, "module 1")
    path = explorer._path("evidence", name, "module 1", "own", ".json")
    path.write_text("{")
    assert Explorer(arguments()).evidence(name, "module 1") == evidence


def test_a_corpus_without_labels_has_evidence_of_the_sound_alone(arguments, tmp_path):
    for row in load(split="test", **CORPUS).select(range(4)):
        (tmp_path / "speech").mkdir(exist_ok=True)
        (tmp_path / "speech" / f"{row['id']}.wav").write_bytes(row["audio"]["bytes"])
    given = {"corpus": "folder", "data_dir": str(tmp_path / "speech"), "corpus_settings": {}, "split": "all"}
    explorer = Explorer(arguments(**given))
    evidence = explorer.evidence(next(iter(explorer.representations)), "module 2")
    assert {"pitch", "loudness"} <= set(evidence.correlations)
    assert not {"phone", "speaker"} & set(evidence.correlations)
    assert explorer.utterance(0).phones == ()


def test_time_constants_are_those_of_exponential_decay():
    lags = [0.01, 0.02, 0.04, 0.08]
    profiles = [np.exp(-np.array(lags) / 0.03).tolist(), [0.99] * 4]
    evidence = Evidence([None, None], ["", ""], {}, {}, {}, 1, 1, lags, profiles, [0, 0], [1, 1])
    assert evidence.time_constant(0) == pytest.approx(0.03, rel=0.1)
    assert evidence.time_constant(1) == float("inf")


@pytest.mark.parametrize("axes", AXES)
def test_frames_are_those_of_the_model_in_other_axes(explorer, axes):
    name = next(iter(explorer.representations))
    utterance = explorer.utterance(0)
    frames = explorer.frames(utterance, name, "module 1", axes)
    of = explorer.representations[name]
    with torch.no_grad():
        latents = list(of.model.module_latents(torch.from_numpy(utterance.samples)[None]))[1]
    mean, log_variance = latents.mean[0].numpy(), latents.log_variance[0].numpy()
    if axes == "own":
        np.testing.assert_allclose(frames.values, mean, atol=1e-5)
        np.testing.assert_allclose(frames.deviations, np.exp(log_variance / 2), rtol=1e-4)
        expected = (mean**2 + np.exp(log_variance) - 1 - log_variance) / 2
        np.testing.assert_allclose(frames.divergences, expected, atol=1e-4)
    else:
        transform = explorer.transform(name, "module 1", axes)
        np.testing.assert_allclose(frames.values, transform.apply(mean), atol=1e-5)
        covariance = np.diag(np.exp(log_variance[3])) if log_variance.ndim == 2 else None
        matrix = transform.matrix.numpy()
        np.testing.assert_allclose(frames.deviations[3] ** 2, np.diag(matrix.T @ covariance @ matrix), rtol=1e-3)
        assert frames.divergences is None


def test_damaged_axes_in_the_cache_are_found_again(arguments):
    first = Explorer(arguments(seed=7))  # which no other test caches
    name, principal = next(iter(first.representations)), "principal (PCA)"
    before = set((Path(first.arguments.cache_dir) / "explore").glob("axes-*"))
    found = first.transform(name, "module 1", principal)
    (path,) = set((Path(first.arguments.cache_dir) / "explore").glob("axes-*")) - before
    written = path.read_bytes()
    for content in (b"", written[:-20]):
        path.write_bytes(content)
        again = Explorer(arguments(seed=7)).transform(name, "module 1", principal)
        assert torch.equal(again.matrix, found.matrix)
        assert path.read_bytes() == written


def test_temporal_axes_are_those_of_the_checkpoint_if_they_are_of_its_weights(arguments, folders, tmp_path, capsys):
    folder = shutil.copytree(folders / "first", tmp_path / "first")
    model = SimModel.from_pretrained(folder)
    swapped = torch.eye(12).flip(0)
    transforms = {"module 1": LinearTransform(swapped, swapped.clone(), torch.zeros(12))}
    paths = []
    for fingerprint in ("of other weights", weights_fingerprint(model)):
        save_axes(folder / AXES_NAME, transforms, {"schema": 1, "encoder_fingerprint": fingerprint})
        explorer = Explorer(arguments(model=str(folder)))
        found = explorer.transform("first", "module 1", "temporal (SOBI)")
        assert torch.equal(found.matrix, swapped) == (fingerprint != "of other weights")
        lines = [line for line in capsys.readouterr().out.splitlines() if AXES_NAME in line]
        assert len(lines) == (fingerprint == "of other weights")
        explorer.evidence("first", "module 1", "temporal (SOBI)")
        paths.append(set((Path(explorer.arguments.cache_dir) / "explore").glob("evidence-*.json")))
    assert len(paths[1] - paths[0]) == 1  # evidence of other axes is not taken from the cache


def test_phones_lie_where_the_corpus_has_them(explorer):
    utterance = explorer.utterance(0)
    assert [utterance.phones[0].name, utterance.phones[-1].name] == ["SIL", "SIL"]
    assert utterance.phones[0].start == 0
    assert utterance.phones[-1].end == pytest.approx(utterance.seconds)
    row = load(split="test", **CORPUS)[0]
    names = ["SIL", "b", "d", "g", "a", "i", "u"]
    assert [phone.name for phone in utterance.phones] == [
        names[label] for label, before in zip(row["phones"], [None, *row["phones"]], strict=False) if label != before
    ]


def test_dimensions_of_another_seed_are_matched_and_the_same_model_matches_itself(
    explorer, arguments, folders, tmp_path
):
    name, other = explorer.representations
    (found,) = explorer.counterparts(name, "module 2", "own", 3)
    assert (found.model, found.is_seed) == (other, True)
    assert 0 <= found.correlation <= 1
    # The same weights with dimensions in another order are another model with the same dimensions.
    model = SimModel.from_pretrained(folders / "first")
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.conv_modules[2].latent_head.parameters():  # means, then log-variances
            parameter.copy_(parameter[torch.cat([order, order + 12])])
    model.save_pretrained(tmp_path / "turned")
    shutil.copy(folders / "first" / "preprocessor_config.json", tmp_path / "turned")
    turned = Explorer(arguments(compare=[str(tmp_path / "turned")]))
    first = next(iter(turned.representations))
    (found,) = turned.counterparts(first, "module 2", "own", int(order[5]))
    assert found.dim == 5
    assert found.correlation == pytest.approx(1, abs=1e-3)


# ---------------------------------------------------------------------- recordings


def test_recordings_are_limited_in_bytes_and_seconds(explorer, arguments, tmp_path):
    path = tmp_path / f"{'a' * 20}.wav"
    soundfile.write(path, np.zeros(8000) + 0.1, 8000)
    assert explorer.recording(path).seconds == pytest.approx(1, abs=0.01)
    short, small = Explorer(arguments(max_seconds=0.5)), Explorer(arguments(max_megabytes=0.01))
    with pytest.raises(ValueError, match="max_seconds"):
        short.recording(path)
    with pytest.raises(ValueError, match="max_megabytes"):
        small.recording(path)


def test_errors_on_the_page_name_files_without_the_folders_of_the_server(explorer, tmp_path):
    pytest.importorskip("gradio", reason="the extra `explore` is not installed")
    from modeling_sim.explore.page import Page, shown

    page, broken = Page(explorer), tmp_path / "broken.wav"
    broken.write_bytes(b"no audio")
    for path in (broken, tmp_path / "missing.wav"):
        text = shown(page.listen)(0, str(path), page.models[0], "module 2", "own", "mean")
        assert path.name in text
        assert tmp_path.name not in text


@pytest.mark.parametrize("value", [0.0, math.nan])
@pytest.mark.parametrize("name", ["minutes", "max_seconds", "max_megabytes"])
def test_settings_that_mean_nothing_are_refused(arguments, name, value):
    with pytest.raises(ValueError, match=name):
        Explorer(arguments(**{name: value}))


# ---------------------------------------------------------------------- views


def test_no_name_becomes_markup(explorer):
    name = next(iter(explorer.representations))
    own = explorer.utterance(0)
    utterance = type(own)(EVIL, own.samples, own.rate, (type(own.phones[0])(EVIL, 0.0, own.seconds),))
    evidence = explorer.evidence(name, "module 2")
    evil = Evidence(
        **{
            **evidence.as_dict(),
            "labels": [EVIL] * 12,
            "directions": [EVIL] * 12,
            "correlations": {EVIL: [0.5] * 12},
            "random_axes": {EVIL: 0.1},
            "limits": {EVIL: 0.2},
        }
    )
    frames = explorer.frames(own, name, "module 2")
    (found,) = explorer.counterparts(name, "module 2", "own", 0)
    counterpart = found._replace(model=EVIL)
    shown = [
        views.utterance_view(utterance, [(EVIL, frames, evil, "mean")]),
        views.labels_view(evil),
        views.dimension_view(evil, 0, np.zeros(5), [counterpart], is_gaussian=True),
        views.clips_view(EVIL, [(EVIL, own.samples)], own.rate),
        views.note(EVIL),
        views.changes_view([(f"{EVIL}, dB", 1.0, 2.0)]),
    ]
    for view in shown:
        assert "<img src=x" not in view
        assert "&lt;img src=x" in view


def test_a_picture_has_a_row_per_dimension_and_a_place_in_time(explorer):
    name = next(iter(explorer.representations))
    utterance = explorer.utterance(0)
    evidence, frames = explorer.evidence(name, "module 2"), explorer.frames(utterance, name, "module 2")
    for quantity in views.QUANTITIES:
        values, _, _ = views.heat_values(frames, evidence, quantity)
        assert values.shape == frames.values.shape
        assert values.min() >= 0
        assert values.max() <= 1
    view = views.utterance_view(utterance, [("title", frames, evidence, "mean")])
    assert view.count('class="sim-player"') == view.count("<audio") == 1
    assert float(re.search(r'data-seconds="([\d.]+)"', view)[1]) == pytest.approx(utterance.seconds, abs=1e-3)
    left, width = map(float, re.findall(r"left:(-?[\d.]+)%;width:([\d.]+)%;height", view)[0])
    assert left / 100 * utterance.seconds == pytest.approx(frames.start - frames.hop / 2, abs=1e-3)
    assert width / 100 * utterance.seconds == pytest.approx(frames.hop * len(frames.values), abs=1e-3)


# ---------------------------------------------------------------------- through a decoder


@pytest.fixture
def decoded(monkeypatch):
    """Latents that a decoder is given, which decodes nothing."""
    given = []

    def decode(_, latents, num_samples):
        given.append(latents.numpy())
        return torch.zeros(len(latents), num_samples)

    monkeypatch.setattr(moving, "decode", decode)
    return given


@pytest.mark.parametrize("axes", AXES)
def test_a_move_adds_to_one_dimension_alone(explorer, axes, decoded):
    name = next(iter(explorer.representations))
    utterance = explorer.utterance(1)
    moving.move(explorer, utterance, name, "module 2", axes, {4: 2.0})
    before, after = decoded[0]
    transform = explorer.transform(name, "module 2", axes)
    if transform is not None:
        before, after = transform.apply(before), transform.apply(after)
    difference = np.zeros(before.shape[1])
    difference[4] = 2 * explorer.evidence(name, "module 2", axes).deviations[4]
    np.testing.assert_allclose(after - before, np.tile(difference, (len(before), 1)), atol=2e-4)


def test_an_exchange_takes_the_dimensions_of_the_other(explorer, decoded):
    name = next(iter(explorer.representations))
    first, second = explorer.utterance(0), explorer.utterance(1)
    for share, axes in ((1.0, "own"), (0.25, "own"), (1.0, "principal (PCA)")):
        moving.mix(explorer, first, second, name, "module 2", axes, share, [0, 2])
        before, after = decoded.pop()
        own, other = (explorer.frames(each, name, "module 2").values[: len(before)] for each in (first, second))
        transform = explorer.transform(name, "module 2", axes)
        if transform is not None:
            after, own, other = (transform.apply(each) for each in (after, own, other))
        expected = own.copy()
        expected[:, [0, 2]] += share * (other - own)[:, [0, 2]]
        np.testing.assert_allclose(after, expected, atol=1e-4)


def test_a_decoded_sound_is_as_long_as_the_utterance(explorer):
    name = next(iter(explorer.representations))
    utterance = explorer.utterance(0)
    result = moving.move(explorer, utterance, name, "module 2", "own", {0: 1.0})
    assert len(result.before) == len(result.after) == len(utterance.samples)
    assert [change[0].split(", ")[1] for change in result.changes][:2] == ["semitones", "dB"]


# ---------------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def page(explorer):
    pytest.importorskip("gradio", reason="the extra `explore` is not installed")
    from modeling_sim.explore.page import Page

    return Page(explorer)


def test_every_view_of_the_page_shows_what_it_should(page, explorer):
    name = next(iter(explorer.representations))
    assert "sim-player" in page.listen(0, None, name, "context", "own", "standard deviation")
    assert "Frames where dimension 3 is largest" in (shown := page.dimension(name, "module 2", "own", 3))
    assert shown.count("<audio") >= 5
    assert "Same dimension in another seed" in shown
    assert page.moved(0, None, name, "module 2", "own", [0, 1], 0, 0).count("<audio") == 2
    assert "semitones" in page.moved(0, None, name, "module 2", "own", [0, 1], 0, 2.0)
    assert "semitones" in page.mixed(0, None, name, "module 2", "own", 1, 1.0, "those of the sliders", [0, 1])
    compared = page.compared(0, None, "own", "module 2", "module 1")
    assert compared.count('class="sim-row sim-heat"') == 2
    assert "Through the decoders" in compared


def test_speech_encoders_of_transformers_are_compared_with_sim(arguments, tmp_path):
    pytest.importorskip("gradio", reason="the extra `explore` is not installed")
    from modeling_sim.explore.page import Page

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    convolutions = {"conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (10, 16), "num_feat_extract_layers": 2}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    config = Wav2Vec2Config(**sizes, **convolutions, **positions)
    Wav2Vec2Model(config).save_pretrained(tmp_path / "wav2vec2")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "wav2vec2")
    explorer = Explorer(arguments(compare=[str(tmp_path / "wav2vec2")]))
    page = Page(explorer)
    assert page.compared(0, None, "own", "module 2", "layer 1").count("sim-heat") == 2
    other = page.models[1]
    assert explorer.frames(explorer.utterance(0), other, "layer 1").deviations is None
    assert "standardized" in page.dimension(other, "layer 1", "own", 0)
    assert "SIM models alone" in page.moved(0, None, other, "layer 1", "own", [0], 1.0)


def test_a_module_without_a_decoder_says_how_to_train_one(page, explorer, folders):
    name, other = explorer.representations
    shown = html.unescape(page.moved(0, None, name, "module 1", "own", [0], 1.0))
    first, second = (shlex.quote(str(folders / model)) for model in ("first", "second"))
    assert f"modeling-sim train-decoder --model {first} --module 1 --corpus synthetic_syllables" in shown
    assert "module 2" in shown  # which has one
    shown = html.unescape(page.moved(0, None, other, "module 2", "own", [0], 1.0))
    assert f"--model {second} --module 2" in shown


def test_nothing_is_loaded_from_other_sites():
    folder = Path(views.__file__).parent
    for name in ("page.js", "page.css"):
        assert not re.search(r"https?:|//[a-z]", (folder / name).read_text().replace("// ", ""))


def test_the_command_names_the_extra_that_it_needs(monkeypatch, folders):
    assert "explore" in COMMANDS
    import builtins

    real = builtins.__import__

    def without_gradio(name, *args, **kwargs):
        if name == "gradio":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(__import__("sys").modules, "modeling_sim.explore.page", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_gradio)
    with pytest.raises(SystemExit, match=r"modeling_sim\[explore\]"):
        explore.main([str(folders / "first")])


# ---------------------------------------------------------------------- a Space


def test_a_space_is_published_with_all_it_needs(hub, folders, capsys):
    pytest.importorskip("gradio", reason="the extra `explore` is not installed")
    flags = [str(folders / "first"), "--space", "--repo_id", "org/tiny", "--decoder", str(folders / "decoder")]
    publish.main([*flags, "--dry_run"])
    shown = capsys.readouterr().out
    assert "app.py" in shown
    assert ("space", "org/tiny") not in hub.repos
    publish.main(flags)
    files = hub.files("org/tiny", kind="space")
    for name in (
        "app.py",
        "requirements.txt",
        "README.md",
        "models/tiny/model.safetensors",
        "decoders/0/model.safetensors",
        "modeling_sim/explore/page.py",
        "modeling_sim/explore/page.js",
        "modeling_sim/explore/page.css",
    ):
        assert name in files
    card = files["README.md"].decode()
    assert "sdk: gradio" in card
    assert "app_file: app.py" in card
    requirements = files["requirements.txt"].decode().split()
    assert any(line.startswith("torch>=") for line in requirements)
    assert any(line.startswith("gradio==") for line in requirements)
    compile(files["app.py"].decode(), "app.py", "exec")
    assert str(folders) not in files["app.py"].decode()
    commits = len(hub.repo("org/tiny", "space").commits)
    publish.main(flags)  # nothing has changed
    assert len(hub.repo("org/tiny", "space").commits) == commits


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--space", "--with_training_state"], "with_training_state"),
        (["--decoder", "x"], "decoder"),
        (["--space", "--decoder", "SECOND"], "trained on another model"),
    ],
)
def test_settings_of_a_space_and_of_a_model_are_not_mixed(hub, folders, flags, message):
    flags = [str(folders / "decoder") if flag == "SECOND" else flag for flag in flags]
    model = folders / ("second" if "decoder" in str(flags[-1]) else "first")
    with pytest.raises(SystemExit, match=message):
        publish.main([str(model), "--repo_id", "org/other", *flags])
    assert ("space", "org/other") not in hub.repos


# ---------------------------------------------------------------------- in a browser

CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--autoplay-policy=no-user-gesture-required",
]


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    pytest.importorskip("gradio", reason="the extra `explore` is not installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("there is no Chromium on the path")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=CHROMIUM)
        yield opened
        opened.close()


def _with_evil_names(load_split):
    def load(*arguments):
        dataset = load_split(*arguments)
        names = [f"{EVIL} {number}" for number in range(len(dataset))]
        return dataset.remove_columns("id").add_column("id", names)

    return load


@pytest.fixture(scope="module")
def served(browser, arguments, folders):
    """Address of a page whose utterances have evil names, and the folder of its cache."""
    assert browser is not None  # else there is nothing to serve for
    from modeling_sim.explore import explorer as module
    from modeling_sim.explore.page import launch

    settings = arguments(decoder=[str(folders / "decoder")], compare=[str(folders / "second")], port=0, max_seconds=5.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_split", _with_evil_names(module.load_split))
        blocks = launch(settings, block=False)
        yield blocks.local_url, Path(settings.cache_dir)
        blocks.close()


@pytest.fixture
def tab(browser, served):
    """The page in the browser; at the end, nothing was complained of, asked or loaded from elsewhere."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    problems, requests = [], []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: requests.append(request.url))
    page.set_default_timeout(120_000)
    page.goto(served[0])
    page.wait_for_selector("#listen .sim-player")
    yield page
    page.close()
    assert problems == []
    assert [each for each in requests if not each.startswith((served[0], "data:", "blob:"))] == []


# Whether a part of a phone's name is in sight, but not all of it.
_CUT = """[...document.querySelectorAll('.sim-phones .sim-time span')].some(span => {
  const range = document.createRange(), row = span.getBoundingClientRect();
  range.selectNode(span.firstChild);
  const name = range.getBoundingClientRect();
  return name.top < row.bottom && name.width > row.width;
})"""


@pytest.mark.slow
def test_every_view_in_a_browser(tab, tmp_path):
    page = tab
    player = "#listen .sim-player"
    assert EVIL in page.inner_text(f"{player} figcaption")
    seconds = float(page.get_attribute(player, "data-seconds"))
    page.wait_for_function(f"document.querySelector('{player} audio').readyState > 0")
    assert page.evaluate(f"document.querySelector('{player} audio').duration") == pytest.approx(seconds, abs=0.01)
    page.click(f"{player} .sim-heat .sim-time")  # plays from the middle
    page.wait_for_function(f"!document.querySelector('{player} .sim-cursor').hidden")
    page.wait_for_function(f"document.querySelector('{player} audio').currentTime > {seconds / 2}")
    page.locator(f"{player} .sim-zoom input").fill("4")
    assert page.evaluate("(p => p.scrollWidth / p.clientWidth)(document.querySelector('.sim-scroll'))") > 3.5
    page.locator(f"{player} .sim-zoom input").fill("1")
    before = page.get_attribute(f"{player} .sim-heat img", "src")
    page.get_by_label("KL divergence to N(0, 1)").check()
    page.wait_for_function(f"document.querySelector('{player} .sim-heat img').alt.startsWith('KL divergence')")
    assert page.get_attribute(f"{player} .sim-heat img", "src") != before

    widths = (400, 800, 1440)

    def look(name):
        for width in widths:
            page.set_viewport_size({"width": width, "height": 900})
            page.screenshot(path=tmp_path / f"{name}-{width}.png", full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, (name, width)
            assert not page.evaluate(_CUT), (name, width)

    look("listen")
    page.get_by_role("tab", name="A dimension").click()
    page.wait_for_selector("#dimension .sim-clips audio")
    assert page.locator("#dimension svg.sim-plot").count() == 2
    assert EVIL in page.inner_text("#dimension .sim-clips")
    look("dimension")

    page.get_by_role("tab", name="Move it").click()
    page.wait_for_selector("#moved audio")
    slider = page.locator("input[type=number]:visible").first
    slider.fill("2")
    slider.press("Enter")
    page.wait_for_selector("#moved .sim-evidence")
    page.wait_for_function("document.querySelector('#moved audio').readyState > 0")
    assert page.evaluate("document.querySelector('#moved audio').duration") == pytest.approx(seconds, abs=0.01)
    page.get_by_text("Interpolate between two utterances").click()
    page.click("#mix")
    page.wait_for_selector("#mixed .sim-evidence")
    look("move")

    page.get_by_role("tab", name="Compare").click()
    page.wait_for_selector("#compare .sim-heat >> nth=1")
    look("compare")


@pytest.mark.slow
@pytest.mark.parametrize(("length", "expected"), [(1.0, "1.00 s"), (9.0, "max_seconds")])
def test_an_upload_in_a_browser(tab, served, tmp_path, length, expected):
    path = tmp_path / f"{EVIL}.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(int(16_000 * length)), 16_000)
    tab.get_by_text("Your own recording").click()
    tab.locator("input[type=file]").first.set_input_files(path)
    tab.wait_for_function(f"document.querySelector('#listen').innerText.includes('{expected}')")
    assert any((served[1] / "uploads").rglob("*.wav"))  # and nothing of the page's is written elsewhere
