import io
import itertools
import struct
import warnings

import numpy as np
import pytest
import soundfile
import soxr

from modeling_sim.data import audio as audio_module
from modeling_sim.data import containers
from modeling_sim.data.audio import AudioError, log_mel, read_audio, read_header, resampled_length
from modeling_sim.data.corpora.alignments import num_label_frames

RATES = [8_000, 16_000, 22_050, 44_100, 48_000]


def speech_like(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """Noise with energy in every band."""
    generator = np.random.default_rng(seed)
    return 0.1 * generator.standard_normal(int(seconds * rate))


@pytest.fixture
def write(tmp_path):
    def write_file(samples, rate=16_000, name="speech.flac", **options):
        path = tmp_path / name
        soundfile.write(path, samples, rate, **options)
        return {"path": str(path), "bytes": None}

    return write_file


def test_a_recording_comes_as_float32_mono_in_range(write):
    samples = speech_like(0.5, 16_000)
    read = read_audio(write(samples))
    assert read.dtype == np.float32
    assert read.shape == samples.shape
    np.testing.assert_allclose(read, samples, atol=2**-15)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("start", [0, 1, 8_191, 20_000, 31_000])
def test_a_crop_equals_the_same_span_of_the_complete_recording(write, rate, start):
    audio = write(speech_like(2.0, rate), rate)
    whole = read_audio(audio)
    assert len(whole) == 32_000
    crop = read_audio(audio, start=start, num_samples=5_000)
    assert len(crop) == min(5_000, 32_000 - start)
    np.testing.assert_allclose(crop, whole[start : start + 5_000], atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_the_complete_recording_is_what_the_resampler_makes_of_it(write, rate):
    samples = speech_like(1.0, rate).astype(np.float32)
    audio = write(samples, rate, "speech.wav", subtype="FLOAT")
    np.testing.assert_allclose(read_audio(audio), soxr.resample(samples, rate, 16_000), atol=1e-6)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_crop_of_every_format_equals_the_span(write, suffix):
    audio = write(speech_like(2.0, 16_000), name=f"speech.{suffix}")
    whole = read_audio(audio)
    np.testing.assert_allclose(read_audio(audio, start=12_345, num_samples=777), whole[12_345:13_122], atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
@pytest.mark.parametrize("level", [0.3, 0.99])
@pytest.mark.parametrize("suffix", ["mp3", "ogg", "opus"])
def test_a_crop_of_few_bits_equals_the_span(write, suffix, level, rate):
    rate = {8_000: 8_000, 22_050: 16_000, 44_100: 48_000}[rate] if suffix == "opus" else rate
    samples = speech_like(3, rate) * np.linspace(0, 1, 3 * rate)
    options = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
    audio = write(samples, rate, f"few_bits.{suffix}", compression_level=level, **options)
    whole = read_audio(audio, sampling_rate=rate)
    for start in range(rate // 2, 3 * rate - 500, rate // 7):
        crop = read_audio(audio, start=start, num_samples=500, sampling_rate=rate)
        np.testing.assert_allclose(crop, whole[start : start + 500], atol=1e-4)


def test_only_the_crop_and_a_margin_are_decoded(write, monkeypatch):
    audio = write(speech_like(10.0, 48_000), 48_000)
    decoded = []
    original = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile,
        "read",
        lambda self, frames, **options: decoded.append(frames) or original(self, frames, **options),
    )
    read_audio(audio, start=50_000, num_samples=16_000)
    assert sum(decoded) < 1.1 * 48_000


def test_bytes_and_path_read_alike(write, tmp_path):
    audio = write(speech_like(0.3, 22_050), 22_050)
    content = (tmp_path / "speech.flac").read_bytes()
    np.testing.assert_array_equal(read_audio(audio), read_audio({"path": "elsewhere.flac", "bytes": content}))
    assert read_header({"path": None, "bytes": content}) == (6_615, 22_050, 1)


def test_channels_are_averaged_with_one_warning(write):
    left, right = speech_like(0.2, 16_000, 1), speech_like(0.2, 16_000, 2)
    audio = write(np.stack([left, right], axis=1), name="stereo.wav", subtype="FLOAT")
    audio_module._warn_of_channels.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_header(audio)  # nothing is averaged yet
    with pytest.warns(UserWarning, match="channels"):
        read = read_audio(audio)
    np.testing.assert_allclose(read, (left + right) / 2, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_audio(audio)


def test_a_missing_file_is_named():
    with pytest.raises(AudioError, match=r"^absent\.flac: no such file"):
        read_audio({"path": "absent.flac", "bytes": None})


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty"), (b"this is text, not audio", "not decodable")])
def test_a_file_that_is_no_audio_is_named(tmp_path, content, reason):
    path = tmp_path / "bad.flac"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=rf"bad\.flac: .*{reason}"):
        read_header({"path": str(path), "bytes": None})


def test_a_row_without_audio_is_an_error():
    with pytest.raises(AudioError, match="`path`"):
        read_header({"path": None, "bytes": None})
    with pytest.raises(AudioError, match=r"^x\.wav: `bytes`"):
        read_header({"path": "x.wav", "bytes": b""})


@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_a_truncated_file_is_seen_from_its_header(write, tmp_path, suffix):
    audio = write(speech_like(3.0, 16_000), name=f"cut.{suffix}")
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=rf"cut\.{suffix}: .*truncated"):
        read_header(audio)


def test_a_crop_of_a_truncated_file_that_needs_the_missing_part_is_an_error(write, tmp_path):
    audio = write(speech_like(3.0, 16_000))
    path = tmp_path / "speech.flac"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert len(read_audio(audio, start=0, num_samples=8_000)) == 8_000
    with pytest.raises(AudioError, match=r"speech\.flac: .*(sample 40000|truncated)"):
        read_audio(audio, start=40_000, num_samples=8_000)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_an_error(write, value):
    samples = speech_like(0.2, 16_000)
    samples[1_000] = value
    audio = write(samples, name="nan.wav", subtype="FLOAT")
    with pytest.raises(AudioError, match=r"nan\.wav: .*NaN"):
        read_audio(audio)


def test_no_samples_are_an_error(write):
    audio = write(np.zeros(0), name="nothing.wav")
    with pytest.raises(AudioError, match=r"nothing\.wav: .*no samples"):
        read_header(audio)
    with pytest.raises(AudioError, match=r"nothing\.wav: .*no samples"):
        read_audio(audio)


def test_a_span_outside_the_recording_is_an_error(write):
    audio = write(speech_like(0.1, 16_000))
    with pytest.raises(ValueError, match="`start`"):
        read_audio(audio, start=1_600)
    with pytest.raises(ValueError, match="`num_samples`"):
        read_audio(audio, num_samples=0)


def test_a_sampling_rate_of_the_result_is_a_positive_integer(write):
    audio = write(speech_like(0.1, 16_000))
    assert np.array_equal(read_audio(audio, sampling_rate=8_000.0), read_audio(audio, sampling_rate=8_000))
    for rate in (0, -8_000, 8_000.5, np.inf, np.nan):
        with pytest.raises(ValueError, match="`sampling_rate`"):
            read_audio(audio, sampling_rate=rate)


def test_resampled_length_is_the_length(write):
    for rate in RATES:
        for length in (1_001, 12_156, 44_101):
            audio = write(speech_like(3, rate)[:length], rate)
            samples = read_audio(audio)
            assert len(samples) == resampled_length(len(speech_like(3, rate)[:length]), rate, 16_000)


def test_log_mel_has_the_label_frames_and_shows_a_tone_in_its_band():
    time = np.arange(8_000) / 16_000
    mels = log_mel(np.sin(2 * np.pi * 1_000 * time).astype(np.float32), num_mels=40)
    assert mels.shape == (num_label_frames(8_000), 40)
    # Bands are evenly spaced in mel from 20 Hz to 8 kHz.
    centers = np.linspace(2595 * np.log10(1 + 20 / 700), 2595 * np.log10(1 + 8_000 / 700), 42)[1:-1]
    expected = np.abs(centers - 2595 * np.log10(1 + 1_000 / 700)).argmin()
    assert (mels.argmax(axis=1) == expected).all()
    with pytest.raises(ValueError, match="`samples`"):
        log_mel(np.zeros(399, dtype=np.float32))


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "x.wav", np.zeros(100), 16_000)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("modeling_sim.data.containers.mended", refuse)
    with pytest.raises(AudioError, match=r"x\.wav: .*permission"):
        read_header({"path": str(tmp_path / "x.wav")})


def encoded(samples, rate=16_000, **options):
    """A file's bytes."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **options)
    return buffer.getvalue()


def as_audio(content):
    return {"path": "x", "bytes": bytes(content)}


def with_data_size(wav, size, order="<"):
    """A WAV whose header gives a different size of the samples."""
    place = wav.index(b"data") + 4
    return wav[:place] + struct.pack(f"{order}I", size) + wav[place + 4 :]


@pytest.mark.parametrize(
    "size", [0, 0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0xFFFF_FFDB], ids=lambda size: f"{size:#x}"
)
@pytest.mark.parametrize(("endian", "order"), [("LITTLE", "<"), ("BIG", ">")])
def test_a_wav_that_was_written_to_a_pipe_is_complete(size, endian, order):
    samples = speech_like(0.2, 16_000)
    audio = as_audio(with_data_size(encoded(samples, format="WAV", subtype="PCM_16", endian=endian), size, order))
    assert read_header(audio).num_samples == len(samples)
    np.testing.assert_allclose(read_audio(audio, start=100), samples[100:], atol=2**-15)


@pytest.mark.parametrize("file_format", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("trailer", [b"", b"LIST\x04\x00\x00\x00INFO", b"LIST\x03\x00\x00\x00abc"])
def test_a_wav_ends_where_its_header_says(file_format, trailer):
    content = encoded(speech_like(0.2, 16_000), format=file_format, subtype="PCM_16")
    assert read_header(as_audio(content + trailer)).num_samples == 3_200
    with pytest.raises(AudioError, match=r"^x: truncated"):
        read_header(as_audio(content[:-100]))
    with pytest.raises(AudioError, match=r"^x: joined or damaged, (99|100) "):
        read_header(as_audio(content + trailer + b"\x07" * 100))


def test_a_wav_of_64_bits_that_announces_too_much_is_truncated():
    content = bytearray(encoded(speech_like(0.2, 16_000), format="RF64", subtype="PCM_16"))
    place = content.index(b"ds64")
    content[place + 16 : place + 24] = struct.pack("<Q", 2**62)
    with pytest.raises(AudioError, match=rf"^x: truncated, .*{2**62}"):
        read_header(as_audio(content))


@pytest.mark.parametrize(("subtype", "rate"), [("VORBIS", 16_000), ("OPUS", 48_000)])
def test_an_ogg_is_looked_through_page_by_page(subtype, rate):
    content = encoded(speech_like(3, rate), rate, format="OGG", subtype=subtype)
    assert read_header(as_audio(content)).num_samples == 3 * rate
    pages = [place for place in range(len(content)) if content[place : place + 4] == b"OggS"]
    assert len(pages) > 3
    for cut in (pages[-1], len(content) - 1, pages[-1] + 10):
        with pytest.raises(AudioError, match=r"^x: truncated"):
            read_header(as_audio(content[:cut]))
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged, how in (
        (flipped, "damaged"),
        (content[: pages[2]] + content[pages[3] :], f"damaged.* {pages[2]}"),
        (content + content, "joined"),
    ):
        with pytest.raises(AudioError, match=f"^x: {how}"):
            read_header(as_audio(damaged))


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_is_looked_through_frame_by_frame(rate, mode):
    samples = speech_like(2, rate) * np.linspace(0, 1, 2 * rate)
    content = encoded(samples, rate, format="MP3", bitrate_mode=mode)
    assert read_header(as_audio(content)).num_samples == len(samples)
    tagged = b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10) + content + b"TAG" + bytes(125)
    assert len(read_audio(as_audio(tagged), sampling_rate=rate)) == len(samples)
    for damaged, how in ((content[: len(content) // 2], "truncated"), (content + content, "joined or damaged")):
        with pytest.raises(AudioError, match=f"^x: {how}"):
            read_header(as_audio(damaged))
    for place in range(1_000, len(content) - 1):
        if content[place] == 0xFF and content[place + 1] & 0xF6 == 0xF2:
            flipped = bytearray(content)
            flipped[place + 1] ^= 0x08  # another version of MPEG, and with it another sampling rate
            with pytest.raises(AudioError, match=f"^x: damaged.* {place}$"):
                read_header(as_audio(flipped))
            break


def without_length(flac):
    """A FLAC as encoders write it to a pipe: its header counts 0 samples."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


ID3 = b"ID3\x03\x00\x00\x00\x00\x00\x0a" + bytes(10)


@pytest.mark.parametrize("front", [b"", ID3], ids=["plain", "tagged"])
@pytest.mark.parametrize(
    ("length", "channels", "subtype"), [(100, 1, "PCM_S8"), (8_192, 2, "PCM_16"), (30_001, 2, "PCM_24")]
)
def test_a_flac_of_unknown_length_is_read_to_its_last_frame(front, length, channels, subtype):
    samples = speech_like(channels * length / 16_000, 16_000).reshape(length, channels)
    content = encoded(samples, format="FLAC", subtype=subtype)
    expected = read_audio(as_audio(content))
    opened = front + without_length(content)
    for end in (b"", b"TAG" + bytes(125)):
        assert read_header(as_audio(opened + end)).num_samples == length
        np.testing.assert_array_equal(read_audio(as_audio(opened + end), start=length // 2), expected[length // 2 :])
    for damaged, how in (
        (opened[:-40], "truncated or damaged"),
        (opened + without_length(encoded(samples[:50], format="FLAC")), "joined"),
    ):
        with pytest.raises(AudioError, match=f"^x: {how}"):
            read_header(as_audio(damaged))


def frames_of(mp3):
    """Frames of an MP3 without tags."""
    place, frames = 0, []
    while place < len(mp3):
        length = containers._mp3_frame(mp3[place : place + 4]).length
        frames.append(mp3[place : place + length])
        place += length
    return frames


def ape(flags, body=b"x" * 40):
    return b"APETAGEX" + struct.pack("<IIII", 2_000, len(body) + 32, 1, flags) + bytes(8)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
@pytest.mark.parametrize("mode", [{"bitrate_mode": "CONSTANT", "compression_level": 0.5}, {"bitrate_mode": "VARIABLE"}])
def test_an_mp3_without_a_xing_header_is_read_by_its_frames(rate, channels, mode):
    samples = (speech_like(2, rate) * np.linspace(0, 1, 2 * rate))[:, None].repeat(channels, axis=1)
    frames = frames_of(encoded(samples, rate, format="MP3", **mode))
    assert b"Xing" in frames[0] or b"Info" in frames[0]
    content = b"".join(frames[1:])
    picture = b"ID3\x03\x00\x00\x00\x06\x00\x00" + np.random.default_rng(0).bytes(6 << 14)
    for audio in (content, picture + content, content + b"TAG" + bytes(125), content + b"x" * 40 + ape(0)):
        header = read_header(as_audio(audio))
        assert header.num_samples == pytest.approx((len(frames) - 1) * (1152 if rate > 24_000 else 576), abs=1152)
        whole = read_audio(as_audio(audio), sampling_rate=rate)
        assert len(whole) == header.num_samples
        crop = read_audio(as_audio(audio), sampling_rate=rate, start=rate, num_samples=500)
        np.testing.assert_allclose(crop, whole[rate : rate + 500], atol=1e-4)
        with pytest.raises(AudioError, match=r"^x: truncated"):
            read_header(as_audio(audio[: len(audio) - len(content) // 2 - 7]))


def test_tags_of_every_kind_are_no_part_of_an_mp3():
    content = encoded(speech_like(1, 16_000), format="MP3")
    footed = b"ID3\x04\x00\x10\x00\x00\x00\x0a" + bytes(10) + b"3DI\x04\x00\x10\x00\x00\x00\x0a"
    lyrics = b"LYRICSBEGIN" + b"y" * 30
    for front in (b"", ID3, ID3 + ID3, ID3 + bytes(700), footed, ape(0xA000_0000) + b"x" * 40 + ape(0x8000_0000)):
        for back in (
            b"",
            b"TAG" + bytes(125),
            bytes(3_000),
            ID3,
            b"x" * 40 + ape(0),
            ape(0xA000_0000) + b"x" * 40 + ape(0x8000_0000) + b"TAG" + bytes(125),
            lyrics + b"000041LYRICS200",
        ):
            assert read_header(as_audio(front + content + back)).num_samples == 16_000


@pytest.mark.parametrize("order", ["<", ">"])
def test_chunks_around_the_samples_are_no_samples(order):
    samples = speech_like(0.2, 16_000)
    wav = encoded(samples, format="WAV", subtype="PCM_16", endian="LITTLE" if order == "<" else "BIG")

    def chunk(name, body):
        return name + struct.pack(f"{order}I", len(body)) + body + bytes(len(body) % 2)

    place = wav.index(b"data")
    fronts = (b"", chunk(b"bext", b"data" + bytes(598)), chunk(b"JUNK", bytes(29)))
    backs = (b"", chunk(b"LIST", b"INFO") + chunk(b"id3 ", b"ID3" + bytes(80)), chunk(b"iXML", b"<a/>"), bytes(512))
    for front, back in itertools.product(fronts, backs):
        for size in (2 * len(samples), *([] if back else [0])):
            header = wav[:12] + front + wav[12 : place + 4] + struct.pack(f"{order}I", size)
            content = header + wav[place + 8 :] + back
            assert read_header(as_audio(content)).num_samples == len(samples)
            np.testing.assert_allclose(read_audio(as_audio(content)), samples, atol=2**-15)


def test_a_wav_of_64_bits_is_read_by_its_other_name():
    content = b"BW64" + encoded(speech_like(0.2, 16_000), format="RF64", subtype="PCM_16")[4:]
    assert read_header(as_audio(content)).num_samples == len(read_audio(as_audio(content))) == 3_200
    with pytest.raises(AudioError, match=r"^x: truncated"):
        read_header(as_audio(content[:-100]))


@pytest.mark.parametrize("file_format", ["AU", "W64"])
def test_rare_containers_that_are_cut_are_refused(file_format):
    content = encoded(speech_like(0.2, 16_000), format=file_format, subtype="PCM_16")
    assert read_header(as_audio(content)).num_samples == 3_200
    with pytest.raises(AudioError, match=r"^x: truncated"):
        read_header(as_audio(content[:-100]))


def test_a_container_that_is_not_looked_into_is_refused():
    with pytest.raises(AudioError, match=r"^x: unsupported format"):
        read_header(as_audio(encoded(speech_like(0.2, 16_000), format="CAF", subtype="PCM_16")))


@pytest.mark.parametrize("rate", [1, 100, 2_000_000])
def test_a_rate_that_is_none_of_sound_is_refused(rate):
    with pytest.raises(AudioError, match=f"{rate}"):
        read_header(as_audio(encoded(speech_like(1, 4_000), rate, format="WAV", subtype="PCM_16")))


def test_less_than_a_millisecond_is_refused():
    with pytest.raises(AudioError, match=r"^x: .*\(1 samples\)"):
        read_header(as_audio(encoded(np.array([0.1]), 44_100, format="WAV")))


@pytest.mark.parametrize("peak", [12_000.0, 1e30])
def test_floats_that_hold_other_than_audio_are_refused(peak):
    audio = as_audio(encoded(peak * np.sin(np.arange(8_000)), format="WAV", subtype="FLOAT"))
    for read in (read_header, read_audio):
        with pytest.raises(AudioError, match=r"^x: .*\[-1, 1\]"):
            read(audio)


def test_a_little_overshoot_is_clipped():
    samples = 1.3 * np.sin(np.arange(8_000))
    read = read_audio(as_audio(encoded(samples, format="WAV", subtype="FLOAT")))
    np.testing.assert_allclose(read, samples.clip(-1, 1), atol=1e-6)


def test_a_file_that_changed_since_it_was_found_is_named(write):
    audio = write(speech_like(0.5, 16_000))
    assert len(read_audio(audio, start=7_000, num_samples=1_000, found=(8_000, 16_000))) == 1_000
    write(speech_like(0.25, 16_000))
    with pytest.raises(AudioError, match=r"speech\.flac: .*8000.*4000"):
        read_audio(audio, start=7_000, num_samples=1_000, found=(8_000, 16_000))


@pytest.mark.parametrize("error", [RuntimeError("any"), AssertionError(), MemoryError(), OSError(5, "stale")])
def test_whatever_the_decoder_throws_names_the_file(write, monkeypatch, error):
    audio = write(speech_like(0.5, 8_000), 8_000)

    def fail(*_args, **_options):
        raise error

    for owner, name in ((soundfile, "SoundFile"), (soundfile.SoundFile, "read"), (soxr, "resample")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            with pytest.raises(AudioError, match=r"speech\.flac"):
                read_audio(audio)


@pytest.mark.parametrize(
    "options",
    [{"format": "FLAC"}, {"format": "WAV"}, {"format": "RF64"}, {"format": "WAV", "endian": "BIG"}],
    ids=["flac", "wav", "rf64", "rifx"],
)
def test_joined_files_are_refused(options):
    content = encoded(speech_like(0.3, 16_000), **options)
    read_header(as_audio(content))
    with pytest.raises(AudioError, match=r"^x: (joined|not decodable)"):
        read_header(as_audio(content + content))


@pytest.mark.parametrize("options", [{"format": "NIST", "subtype": "PCM_16"}, {"format": "AIFF"}], ids=["nist", "aiff"])
def test_other_containers_that_are_cut_are_refused(options):
    content = encoded(speech_like(0.3, 16_000), **options)
    assert read_header(as_audio(content)).num_samples == 4_800
    with pytest.raises(AudioError, match=r"^x: truncated"):
        read_header(as_audio(content[: len(content) // 2]))
