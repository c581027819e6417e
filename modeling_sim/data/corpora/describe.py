"""Statistics of a corpus, and a figure of one of its utterances."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from datasets import Dataset
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from modeling_sim.data.audio import log_mel, mel, read_audio
from modeling_sim.data.corpora.alignments import LABEL_HOP, LABEL_RATE, LABEL_WINDOW
from modeling_sim.data.corpora.contract import UNKNOWN_SPEAKER, class_label
from modeling_sim.files import replacing
from modeling_sim.text import counted, printable

_QUANTILES = {"shortest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1.0}


# Okabe and Ito's colors, distinct for every common type of color vision, by manner of articulation.
_MANNERS = {
    "vowel": ("#E69F00", "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW a e i o u"),
    "stop or affricate": ("#0072B2", "B CH D G JH K P T b d g"),
    "fricative": ("#56B4E9", "DH F HH S SH TH V Z ZH s"),
    "nasal": ("#009E73", "M N NG m n"),
    "approximant": ("#CC79A7", "L R W Y"),
    "silence or noise": ("#DDDDDD", "SIL SPN"),
}


_DARK = ("#0072B2", "#009E73")  # colors that need white text


_INK = "#333333"


_STYLE = {
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def describe(dataset: Dataset) -> dict[str, Any]:
    """Statistics of a corpus: utterances, hours, speakers, sampling rates, lengths in seconds, share of labeled rows.

    Returns:
        A JSON-serializable dict; `label_coverage` and `classes` have one entry per label column. `speakers` is 0, and
        there is no entry for them, if none is known.
    """
    columns = dataset.with_format("numpy").select_columns(["num_samples", "sampling_rate"])
    seconds = columns[:]["num_samples"] / columns[:]["sampling_rate"]
    labels = {name: label for name in dataset.column_names if (label := class_label(dataset, name)) is not None}
    speakers = set(dataset["speaker_id"][:]) - {None}
    if "speaker_id" in labels and {labels["speaker_id"].int2str(speaker) for speaker in speakers} <= {UNKNOWN_SPEAKER}:
        speakers = set()
        del labels["speaker_id"]
    return {
        "utterances": len(dataset),
        "hours": float(seconds.sum() / 3600),
        "speakers": len(speakers),
        "sampling_rates": sorted({int(rate) for rate in columns[:]["sampling_rate"]}),
        "seconds": {name: float(np.quantile(seconds, share)) for name, share in _QUANTILES.items()},
        "label_coverage": {
            name: sum(value is not None for value in dataset[name][:]) / len(dataset) for name in labels
        },
        "classes": {name: len(label.names) for name, label in labels.items()},
    }


def description_table(descriptions: Mapping[str, Mapping[str, Any]]) -> str:
    """Descriptions as a Markdown table, one column per split."""
    rows: dict[str, list[str]] = {}
    for numbers in descriptions.values():
        cells = {
            "utterances": f"{numbers['utterances']}",
            "hours": f"{numbers['hours']:.2f}",
            "speakers": f"{numbers['speakers'] or 'unknown'}",
            "sampling rate, Hz": ", ".join(map(str, numbers["sampling_rates"])),
        }
        cells |= {f"length, {name}, s": f"{length:.2f}" for name, length in numbers["seconds"].items()}
        cells |= {
            f"labeled: {name} ({counted(numbers['classes'][name], 'class', 'classes')})": f"{100 * share:.1f} %"
            for name, share in numbers["label_coverage"].items()
        }
        for name, cell in cells.items():
            rows.setdefault(name, []).append(cell)
    table = [["", *descriptions], *([name, *cells] for name, cells in rows.items())]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ["| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |" for row in table]
    rule = "| " + " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def plot_utterance(
    dataset: Dataset, row: int, path: str | Path, *, start: float = 0.0, seconds: float | None = 3.5
) -> None:
    """Draws an utterance: its waveform, its log-mel spectrogram, and its phones, if labeled.

    Formants of synthetic speech are drawn over the spectrogram.

    Args:
        dataset: A corpus.
        row: Row of the utterance.
        path: File of the figure; its suffix determines the format.
        start: Start of the figure in seconds.
        seconds: Duration to show; `None` for all. The default leaves room for the names of phones.

    Raises:
        ValueError: `start` is outside the utterance, or `seconds` is not above 0.
    """
    utterance = dataset.with_format(None)[row]
    samples = read_audio(utterance["audio"], sampling_rate=LABEL_RATE)
    length = len(samples) / LABEL_RATE
    if not 0 <= start < length:
        raise ValueError(f"`start` is {start} s, but {utterance['id']} lasts {length:.2f} s")
    if seconds is not None and seconds <= 0:
        raise ValueError(f"`seconds` is {seconds}; it must be above 0, or None for the complete utterance")
    stop = length if seconds is None else min(start + seconds, length)
    has_phones = "phones" in dataset.column_names and class_label(dataset, "phones") is not None
    phones = utterance["phones"] if has_phones else None
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        heights = [1.0, 2.2] + ([0.42] if phones is not None else [])
        figure = Figure(figsize=(9, 1.25 * sum(heights)), layout="constrained")
        axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        _draw_waveform(axes[0], samples)
        _draw_spectrum(axes[1], samples, utterance.get("formants"))
        if phones is not None:
            _draw_phones(axes[2], phones, dataset.features["phones"].feature.names, start, stop)
        axes[0].set_xlim(start, stop)
        axes[-1].set_xlabel("time, s")
        axes[0].set_title(_title(dataset, utterance), loc="left", fontsize=10)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=200, format=Path(path).suffix.removeprefix(".") or "png")


def _draw_waveform(axes: Axes, samples: np.ndarray) -> None:
    axes.plot(np.arange(len(samples)) / LABEL_RATE, samples, color="#0072B2", linewidth=0.4)
    limit = 1.05 * np.abs(samples).max() or 1.0  # silence
    axes.set(ylabel="amplitude", ylim=(-limit, limit))


def _draw_spectrum(axes: Axes, samples: np.ndarray, formants: Sequence[Sequence[float]] | None) -> None:
    # A hop of 2.5 ms resolves bursts and voicing onsets, which 10 ms would blur.
    hop = LABEL_HOP // 4
    mels = log_mel(samples, hop=hop)
    top = np.percentile(mels, 99.8)
    centers = (LABEL_WINDOW / 2 + hop * np.arange(len(mels))) / LABEL_RATE
    half = hop / LABEL_RATE / 2
    axes.imshow(
        mels.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=top - 65,
        vmax=top,
        interpolation="bilinear",
        extent=(centers[0] - half, centers[-1] + half, mel(20), mel(LABEL_RATE / 2)),
    )
    if formants is not None:
        tracks = mel(formants)
        times = (LABEL_WINDOW / 2 + LABEL_HOP * np.arange(len(tracks))) / LABEL_RATE
        axes.plot(times, tracks, color="white", linewidth=0.9, linestyle="--")
        axes.text(
            0.988,
            0.96,
            "dashed: F1, F2, F3",
            transform=axes.transAxes,
            color="white",
            fontsize=7.5,
            ha="right",
            va="top",
        )
    ticks = [250, 500, 1000, 2000, 4000, 8000]
    axes.set_yticks([mel(tick) for tick in ticks], [f"{tick / 1000:g}" for tick in ticks])
    axes.set_ylabel("frequency, kHz (mel scale)")


def _draw_phones(axes: Axes, phones: Sequence[int], names: Sequence[str], start: float, stop: float) -> None:
    """Draws phones as boxes; a label frame covers one hop around its center."""
    changes = [0, *(np.flatnonzero(np.diff(phones)) + 1), len(phones)]
    borders = (LABEL_WINDOW / 2 + LABEL_HOP * (np.array(changes) - 0.5)) / LABEL_RATE
    shown = {}
    for first, left, right in zip(changes[:-1], borders[:-1], borders[1:], strict=True):
        if right <= start or left >= stop:
            continue
        name = names[phones[first]]
        manner = next((manner for manner, (_, members) in _MANNERS.items() if name in members.split()), "other")
        color = _MANNERS.get(manner, ("#FFFFFF",))[0]
        shown[manner] = color
        axes.axvspan(left, right, facecolor=color, edgecolor="white", linewidth=0.8)
        visible = (max(left, start), min(right, stop))
        share = (visible[1] - visible[0]) / (stop - start)
        axes.text(
            sum(visible) / 2,
            0.5,
            name if share > 0.006 else "",
            ha="center",
            va="center",
            # Rotate a name that is wider than its box, except single letters.
            rotation=0 if len(name) == 1 or share > 0.009 * len(name) else 90,
            fontsize=6.5,
            color="white" if color in _DARK else "black",
        )
    axes.set(ylim=(0, 1), yticks=[])
    axes.set_ylabel("phone", rotation=0, ha="right", va="center")
    axes.spines["left"].set_visible(False)
    axes.legend(
        handles=[Patch(color=shown[manner], label=manner) for manner in (*_MANNERS, "other") if manner in shown],
        loc="upper center",
        bbox_to_anchor=(0.5, -1.15),
        ncols=len(shown),
        frameon=False,
        fontsize=8,
        handlelength=1,
    )


def _title(dataset: Dataset, utterance: Mapping[str, Any]) -> str:
    """The id, the speaker, and the classes of the complete utterance."""
    parts = [printable(utterance["id"])]
    for name in ("speaker_id", "sex", "word", "syllable"):
        value = utterance.get(name)
        label = class_label(dataset, name) if name in dataset.column_names else None
        if value is None:
            continue
        if label is not None:
            values = value if isinstance(value, list) else [value]
            value = " ".join(label.names[number] for number in values if number >= 0)
        if value != UNKNOWN_SPEAKER:
            parts.append(f"{name.removesuffix('_id')} {value}")
    return ", ".join(parts)
