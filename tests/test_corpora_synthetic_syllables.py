import itertools
import multiprocessing

import datasets
import numpy as np
import pytest
from scipy.linalg import solve_toeplitz
from scipy.signal import lfilter
from scipy.stats import chi2_contingency

from modeling_sim.data.audio import read_audio
from modeling_sim.data.corpora import load_corpus, synthetic_syllables
from modeling_sim.data.corpora.alignments import num_label_frames


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("synthetic_syllables", num_train=64, cache=False)


@pytest.fixture(scope="module")
def steady_vowels():
    """One-syllable utterances without noise."""
    return load_corpus(
        "synthetic_syllables", num_train=48, num_syllables=1, noise_level=-120, vowels="aiueo", cache=False
    )


def middle_of_vowel(row, names):
    """Label frame in the middle of the first vowel."""
    runs = [
        (names[phone], list(run))
        for phone, run in itertools.groupby(range(len(row["phones"])), row["phones"].__getitem__)
    ]
    vowel = next(run for name, run in runs if name in "aiueo")
    return vowel[len(vowel) // 2]


def formants_by_linear_prediction(samples):
    """Frequencies of the spectral envelope's resonances, in Hz, rising."""
    emphasized = lfilter([1, -0.97], [1], samples) * np.hanning(len(samples))
    correlation = np.correlate(emphasized, emphasized, "full")[len(samples) - 1 :][:19]
    correlation[0] *= 1 + 1e-9
    roots = np.roots(np.concatenate([[1], -solve_toeplitz(correlation[:-1], correlation[1:])]))
    roots = roots[(roots.imag > 0) & (np.abs(roots) > 0.85)]
    return np.sort(np.angle(roots) * 16_000 / (2 * np.pi))


def test_columns_and_lengths(corpus):
    assert len(corpus) == 64
    assert set(corpus["sampling_rate"]) == {16_000}
    for row in corpus:
        samples = read_audio(row["audio"])
        frames = num_label_frames(len(samples))
        assert len(samples) == row["num_samples"] >= 20_480
        assert len(samples) <= 1.65 * 16_000
        assert len(row["phones"]) == len(row["f0_track"]) == len(row["formants"]) == frames
        assert 0.01 < np.abs(samples).max() < 1


def test_labels_agree_with_each_other(corpus):
    names = {name: corpus.features[name].feature.names for name in ("phones", "syllable", "vowel", "consonant")}
    for row in corpus:
        syllables = [names["syllable"][label] for label in row["syllable"]]
        assert syllables == [
            names["consonant"][consonant] + names["vowel"][vowel]
            for consonant, vowel in zip(row["consonant"], row["vowel"], strict=True)
        ]
        # The phone frames spell the word, between silences.
        spelled = [names["phones"][phone] for phone, _ in itertools.groupby(row["phones"])]
        assert spelled == ["SIL", *"".join(syllables), "SIL"]


def test_one_syllable_has_single_classes(steady_vowels):
    row = steady_vowels[0]
    for name in ("vowel", "consonant", "syllable"):
        assert isinstance(steady_vowels.features[name], datasets.ClassLabel)
        assert isinstance(row[name], int)


def test_pitch_is_what_is_stated(corpus):
    errors = []
    for row in corpus.select(range(24)):
        names = corpus.features["phones"].feature.names
        frame = middle_of_vowel(row, names)
        samples = read_audio(row["audio"])[160 * frame - 300 : 160 * frame + 700]
        # The autocorrelation, of each lag's overlap, peaks at the period.
        lags = np.arange(60, 200)
        scores = [np.corrcoef(samples[lag:], samples[:-lag])[0, 1] for lag in lags]
        errors.append(16_000 / lags[int(np.argmax(scores))] / row["f0_track"][frame])
    # Whole lags resolve 1.4 % at the highest pitch.
    np.testing.assert_allclose(errors, 1, atol=0.02)


def test_the_stated_pitch_is_the_mean_of_its_track(corpus):
    for row in corpus:
        track = np.array(row["f0_track"])
        assert np.exp(np.log(track[track > 0]).mean()) == pytest.approx(row["f0"], rel=0.01)


def test_formants_are_where_they_are_stated(steady_vowels):
    """Linear prediction finds F1 and F2; low voices only, whose harmonics are dense enough to show the envelope."""
    names = steady_vowels.features["phones"].feature.names
    seen = set()
    for row in steady_vowels.filter(lambda row: row["f0"] < 145):
        frame = middle_of_vowel(row, names)
        samples = read_audio(row["audio"])[160 * frame - 200 : 160 * frame + 600]
        found = formants_by_linear_prediction(samples)
        for stated, tolerance in zip(row["formants"][frame][:2], (60, 90), strict=True):
            assert np.abs(found - stated).min() < tolerance, (row["id"], stated, found)
        seen.add(row["vowel"])
    assert len(seen) == 5


def test_a_longer_tract_lowers_every_formant(steady_vowels):
    names = steady_vowels.features["phones"].feature.names
    f3 = [
        (row["vowel"], row["vocal_tract_length"], row["formants"][middle_of_vowel(row, names)][2])
        for row in steady_vowels
    ]
    # F3 of a vowel is not shifted, so what remains is the tract.
    for vowel in range(5):
        products = [length * frequency for label, length, frequency in f3 if label == vowel]
        np.testing.assert_allclose(products, products[0], rtol=1e-5)
    assert len({length for _, length, _ in f3}) == 4


def test_gain_is_the_level_of_the_speech():
    quiet = load_corpus("synthetic_syllables", num_train=16, noise_level=-120, cache=False)
    levels = [20 * np.log10(np.sqrt(np.mean(read_audio(row["audio"]) ** 2))) for row in quiet]
    np.testing.assert_allclose(levels, np.array(quiet["gain"]) - 23, atol=0.05)


def test_the_noise_has_the_set_level():
    noisy = load_corpus("synthetic_syllables", num_train=8, noise_level=-40, cache=False)
    levels = [20 * np.log10(np.std(read_audio(row["audio"])[:1_200])) for row in noisy]
    np.testing.assert_allclose(levels, -40, atol=0.5)


def test_factors_are_independent():
    corpus = load_corpus("synthetic_syllables", num_train=240, num_syllables=1, cache=False)
    factors = np.array(
        [
            [row["vocal_tract_length"], row["f0"], row["gain"], row["vowel"], row["consonant"]]
            for row in corpus.remove_columns("audio")
        ]
    )
    correlations = np.corrcoef(factors.T)[np.triu_indices(5, 1)]
    assert np.abs(correlations).max() < 0.17  # 2.6 standard errors
    counts = np.zeros((8, 9))
    for speaker, syllable in zip(corpus["speaker_id"], corpus["syllable"], strict=True):
        counts[speaker, syllable] += 1
    assert chi2_contingency(counts).pvalue > 0.05
    assert (counts.sum(axis=1) == 30).all()


def test_an_utterance_depends_on_seed_split_and_index_alone(corpus):
    def samples(**settings):
        return [audio["bytes"] for audio in load_corpus("synthetic_syllables", cache=False, **settings)["audio"]]

    first = samples(num_train=3)
    assert first == [audio["bytes"] for audio in corpus[:3]["audio"]]
    assert samples(num_train=3, seed=1) != first
    assert samples(split="test", num_test=3) != first


def test_splits_share_their_classes(corpus):
    test = load_corpus("synthetic_syllables", "test", num_test=2, cache=False)
    assert test.features == corpus.features
    assert not set(test["id"]) & set(corpus["id"])


@pytest.mark.parametrize("consonant", "bdgmns")
def test_every_consonant_can_be_made(consonant):
    corpus = load_corpus("synthetic_syllables", num_train=2, consonants=[consonant], cache=False)
    assert corpus.features["phones"].feature.names == ["SIL", consonant, "a", "i", "u"]
    assert all(np.isfinite(read_audio(audio)).all() for audio in corpus["audio"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_speakers": 0}, "`num_speakers`"),
        ({"num_train": 0}, "`num_train`"),
        ({"vowels": "ax"}, "`vowels`"),
        ({"consonants": ()}, "`consonants`"),
        ({"split": "dev"}, "`split`"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        load_corpus("synthetic_syllables", **{"cache": False, **settings})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return tmp_path / "synthetic_syllables"


def test_the_cache_is_read_and_keyed_by_the_settings(cache, monkeypatch):
    made = load_corpus("synthetic_syllables", num_train=3)
    load_corpus("synthetic_syllables", num_train=3, seed=1)
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr(synthetic_syllables, "_make_utterance", lambda *_: pytest.fail("made again"))
    again = load_corpus("synthetic_syllables", num_train=3)
    assert again.features == made.features
    assert again[:] == made[:]


def test_an_interrupted_write_leaves_no_cache(cache, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets.Dataset, "save_to_disk", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_corpus("synthetic_syllables", num_train=2)
    assert list(cache.iterdir()) == []


def load_in_process(folder, barrier, queue):
    datasets.config.HF_DATASETS_CACHE = folder
    barrier.wait()
    queue.put(load_corpus("synthetic_syllables", num_train=4)["num_samples"])


def test_two_processes_may_make_the_same_corpus_at_once(cache, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(2), context.Queue()
    processes = [context.Process(target=load_in_process, args=(tmp_path, barrier, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    results = [list(queue.get(timeout=60)) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert results[0] == results[1]
    assert len(list(cache.iterdir())) == 1
