"""Pictures of one utterance and of one dimension, as HTML in which every name is escaped.

A `figure.sim-player` holds audio, and pictures over the same time axis; `page.js` moves its cursor while the audio
plays, and zooms. Text and lines have colors of the page, so that they work in both of its themes.
"""

import base64
import io
import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.colors import Colormap
from matplotlib.image import imsave

from modeling_sim.evaluation.clips import Media, Recorded
from modeling_sim.explore.evidence import Evidence, short
from modeling_sim.explore.explorer import Counterpart, Utterance, UtteranceFrames
from modeling_sim.report.plots import SIGNED
from modeling_sim.report.sounds import Clip, load_item
from modeling_sim.text import counted

QUANTITIES = ("mean", "standard deviation", "KL divergence to N(0, 1)")
"""Quantities of Gaussian frames that a heat map can show."""

# Maximum number of columns of a heat map: more than a screen has, but few enough for the size of a page.
_MOST_COLUMNS = 1600

# Standard deviations from a dimension's mean at which colors saturate.
_MOST_DEVIATIONS = 3.0

# Maximum number of dimensions for which every row of a heat map has a name.
_NAMED_ROWS = 48

# Points of a drawn waveform.
_ENVELOPE = 600

_BINS = 41


# ---------------------------------------------------------------------- an utterance


def utterance_view(
    utterance: Utterance, maps: Sequence[tuple[str, UtteranceFrames, Evidence, str]], *, most_rows: int = _NAMED_ROWS
) -> str:
    """Audio, waveform, spectrogram and phones over heat maps of latents, with one cursor.

    Args:
        utterance: The recording.
        maps: Title, frames, evidence and quantity (of `QUANTITIES`) of each heat map.
        most_rows: Maximum number of dimensions for which all rows have a name.
    """
    (clip,) = clips_of([(utterance.name, utterance.samples)], utterance.rate)
    rows = [
        _row("waveform", waveform_svg(utterance.samples), "sim-wave"),
        _row(
            "spectrogram",
            Markup('<img src="{}" alt="Spectrogram of {}">').format(clip.spectrogram, utterance.name),
            "sim-spec",
        ),
    ]
    if utterance.phones:
        rows.append(_row("phones", _phones(utterance), "sim-phones"))
    for title, frames, evidence, quantity in maps:
        rows += _heat_rows(utterance, title, frames, evidence, quantity, most_rows)
    return str(_player(utterance.name, utterance.seconds, clip.audio, Markup("").join(rows), zoom=True))


def _player(name: str, seconds: float, audio: str, rows: Markup, *, zoom: bool = False) -> Markup:
    """Audio and rows of pictures that share its time axis."""
    slider = Markup(
        '<label class="sim-zoom">Zoom <input type="range" min="1" max="12" step="0.5" value="1" '
        'aria-label="Zoom of the time axis"></label>'
    )
    return Markup(
        '<figure class="sim-player" data-seconds="{:.4f}"><figcaption>{}</figcaption>'
        '<div class="sim-controls"><audio controls preload="auto" src="{}" aria-label="{}"></audio>{}</div>'
        '<div class="sim-scroll" tabindex="0" role="group" aria-label="Pictures over time; click to play from there">'
        '<div class="sim-strip">{}<div class="sim-cursor" hidden></div></div></div></figure>'
    ).format(seconds, f"{name}, {seconds:.2f} s" if zoom else name, audio, name, slider if zoom else "", rows)


def _row(name: str, content: Markup, css: str) -> Markup:
    return Markup(
        '<div class="sim-row {}"><span class="sim-name">{}</span><div class="sim-time">{}</div></div>'
    ).format(css, name, content)


def waveform_svg(samples: np.ndarray) -> Markup:
    """The envelope of a waveform, as wide as its container."""
    parts = np.array_split(samples, min(_ENVELOPE, len(samples)))
    peak = max(float(np.abs(samples).max()), 1e-6)
    tops = [f"{x} {50 - 48 * float(part.max()) / peak:.1f}" for x, part in enumerate(parts)]
    bottoms = [f"{x} {50 - 48 * float(part.min()) / peak:.1f}" for x, part in enumerate(parts)]
    path = f"M{' L'.join(tops + bottoms[::-1])}Z"
    return Markup(
        '<svg viewBox="0 0 {} 100" preserveAspectRatio="none" role="img" aria-label="Waveform">'
        '<path d="{}" fill="currentColor"/></svg>'
    ).format(len(parts), path)


def _phones(utterance: Utterance) -> Markup:
    spans = [
        Markup('<span title="{0}" style="left:{1:.3f}%;width:{2:.3f}%">{0}</span>').format(
            phone.name, 100 * phone.start / utterance.seconds, 100 * (phone.end - phone.start) / utterance.seconds
        )
        for phone in utterance.phones
    ]
    return Markup("").join(spans)


def _heat_rows(
    utterance: Utterance, title: str, frames: UtteranceFrames, evidence: Evidence, quantity: str, most_rows: int
) -> list[Markup]:
    """A heading, and a heat map with one row per dimension, the first at the top."""
    values, colors, scale = heat_values(frames, evidence, quantity)
    dims = values.shape[1]
    height = min(max(340 / dims, 3.0), 22.0) if dims <= most_rows else max(1.0, 300 / dims)
    left = 100 * (frames.start - frames.hop / 2) / utterance.seconds
    width = 100 * frames.hop * len(values) / utterance.seconds
    picture = Markup(
        '<img src="{}" alt="{} of {} dimensions over time" style="left:{:.3f}%;width:{:.3f}%;height:100%">'
    ).format(heat_png(values, colors), quantity, dims, left, width)
    names = [Markup("<span>{}</span>").format(counted(dims, "dimension"))]
    if dims <= most_rows:
        names = [
            Markup('<span class="{}" title="{}">{} {}</span>').format(
                "sim-labeled" if evidence.labels[dim] else "", evidence.words(dim), dim, evidence.labels[dim] or ""
            )
            for dim in range(dims)
        ]
    return [
        Markup('<div class="sim-title">{} <small>{}</small></div>').format(title, scale),
        Markup(
            '<div class="sim-row sim-heat" style="height:{:.1f}px;--rows:{}"><span class="sim-name">{}</span>'
            '<div class="sim-time">{}</div></div>'
        ).format(height * dims, len(names), Markup("").join(names), picture),
    ]


def heat_values(frames: UtteranceFrames, evidence: Evidence, quantity: str) -> tuple[np.ndarray, Colormap, str]:
    """The picture of a quantity: `(frames, dims)` in [0, 1], a color map for them, and the scale in words.

    Means are shown as standardized values: standard deviations from the dimension's mean over the corpus. Features
    without the quantity, such as frames that are not Gaussian, show their means.
    """
    if quantity == QUANTITIES[1] and frames.deviations is not None:
        top = max(1.0, float(np.quantile(frames.deviations, 0.99)))
        scale = f"standard deviation, 0 (dark) to {top:.1f}"
        return frames.deviations.clip(0, top) / top, mpl.colormaps["viridis"], scale
    if quantity == QUANTITIES[2] and frames.divergences is not None:
        top = max(1e-3, float(np.quantile(frames.divergences, 0.99)))
        scale = f"KL divergence to N(0, 1), 0 (dark) to {top:.2g} nats"
        return frames.divergences.clip(0, top) / top, mpl.colormaps["viridis"], scale
    standard = (frames.values - np.array(evidence.means)) / np.array(evidence.deviations)
    limit = _MOST_DEVIATIONS
    scale = f"mean, {limit:g} standard deviations below (blue) to above (orange) that of the corpus"
    return (standard.clip(-limit, limit) / limit + 1) / 2, SIGNED, scale


def heat_png(values: np.ndarray, colors: Colormap) -> str:
    """A picture of `(frames, dims)` from 0 to 1 as a data URI: time to the right, the first dimension at the top."""
    if len(values) > _MOST_COLUMNS:
        values = np.stack([part.mean(axis=0) for part in np.array_split(values, _MOST_COLUMNS)])
    buffer = io.BytesIO()
    imsave(buffer, colors(values.T, bytes=True), format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def clips_of(recorded: Sequence[Recorded], rate: int) -> list[Clip]:
    """Clips that share a gain and a color scale; a recording's third element is the time to mark, in seconds."""
    media = Media()
    media.add(
        "clips", "", [(str(label), *rest) for label, *rest in recorded], rate, kind="", representation="", module=""
    )
    return load_item(media.items[0], media.arrays).clips


def clips_view(title: str, recorded: Sequence[Recorded], rate: int) -> str:
    """A row of players with spectrograms."""
    cards = []
    for clip in clips_of(recorded, rate):
        picture = _row(
            "", Markup('<img src="{}" alt="Spectrogram of {}">').format(clip.spectrogram, clip.label), "sim-spec"
        )
        cards.append(_player(clip.label, clip.seconds, clip.audio, picture))
    return str(
        Markup('<section class="sim-clips"><h2>{}</h2><div>{}</div></section>').format(title, Markup("").join(cards))
    )


# ---------------------------------------------------------------------- a dimension


def labels_view(evidence: Evidence, *, most: int = 12) -> str:
    """The labeled dimensions of a feature with their evidence, strongest first."""
    found = [dim for dim in evidence.order() if evidence.labels[dim] is not None]
    if not found:
        return str(
            Markup(
                '<p class="sim-note">No dimension has a label: none of {} correlates with a property more than random '
                "axes of the same space do.</p>"
            ).format(evidence.num_dims)
        )
    lines = [
        Markup("<li><b>{}</b> {} <small>{}</small></li>").format(dim, evidence.words(dim), evidence.directions[dim])
        for dim in found[:most]
    ]
    more = f"and {len(found) - most} more" if len(found) > most else ""
    head = f"{len(found)} of {evidence.num_dims} dimensions have a label"
    return str(
        Markup('<div class="sim-labels"><p>{}</p><ul>{}</ul><p>{}</p></div>').format(head, Markup("").join(lines), more)
    )


def dimension_view(
    evidence: Evidence, dim: int, values: np.ndarray, counterparts: Sequence[Counterpart], *, is_gaussian: bool
) -> str:
    """Label, histogram, lag profile, evidence and counterparts of a dimension.

    Args:
        evidence: Evidence of its feature.
        dim: Number of the dimension.
        values: Values in frames of the corpus, `(items,)`.
        counterparts: The matching dimensions in other models.
        is_gaussian: Whether training has a KL term to N(0, 1); if not, the histogram standardizes values.
    """
    words = Markup('<p class="sim-label">Dimension {}: <b>{}</b> <small>{}</small></p>').format(
        dim, evidence.words(dim), evidence.directions[dim]
    )
    if not is_gaussian:
        values = (values - evidence.means[dim]) / evidence.deviations[dim]
    constant = evidence.time_constant(dim)
    last = 1000 * evidence.lags[-1] if evidence.lags else 0
    slow = f"{1000 * constant:.0f} ms" if math.isfinite(constant) else f"longer than {last:.0f} ms"
    pictures = Markup('<div class="sim-panels"><figure>{}<figcaption>{}</figcaption></figure>').format(
        histogram_svg(values),
        f"Values in {len(values):,} frames{'' if is_gaussian else ', standardized'}, over N(0, 1) (line)",
    ) + Markup("<figure>{}<figcaption>Autocorrelation over lags; time constant {}</figcaption></figure></div>").format(
        lag_svg(evidence.lags, evidence.profiles[dim]), slow
    )
    return str(words + pictures + evidence_table(evidence, dim) + _counterparts(counterparts))


def evidence_table(evidence: Evidence, dim: int) -> Markup:
    """Rank correlation of a dimension with each property, next to random axes."""
    rows = [
        Markup(
            '<tr{}><th scope="row">{}</th><td>{}</td><td>{}</td><td>{}</td>'
            '<td><div class="sim-bar" aria-hidden="true"><i style="width:{:.1f}%"></i><b style="left:{:.1f}%"></b>'
            "</div></td></tr>"
        ).format(
            Markup(' class="sim-ahead"') if values[dim] > evidence.limits[name] else "",
            name,
            short(values[dim]),
            short(evidence.random_axes[name]),
            short(evidence.limits[name]),
            100 * values[dim],
            100 * evidence.limits[name],
        )
        for name, values in sorted(evidence.correlations.items(), key=lambda pair: -pair[1][dim])
    ]
    note = (
        f"In {evidence.num_items:,} frames of held-out utterances. For classes, the correlation ratio of ranks. Random "
        f"axes: {evidence.num_rotations} rotations of the same space."
    )
    return Markup(
        '<table class="sim-evidence"><thead><tr><th scope="col">Property</th><th scope="col">|rho|</th>'
        '<th scope="col">best of random axes</th><th scope="col">a label needs more than</th><td></td></tr>'
        '</thead><tbody>{}</tbody></table><p class="sim-note">{}</p>'
    ).format(Markup("").join(rows), note)


def _counterparts(counterparts: Sequence[Counterpart]) -> Markup:
    lines = [
        Markup("<li>{} {}: dimension <b>{}</b>, |r| = {}; random axes {}</li>").format(
            "Same dimension in another seed," if each.is_seed else "Closest dimension in",
            each.model,
            each.dim,
            short(each.correlation),
            short(each.random_axes),
        )
        for each in counterparts
    ]
    return Markup('<ul class="sim-seeds">{}</ul>').format(Markup("").join(lines)) if lines else Markup("")


_LEFT, _TOP, _WIDE, _HIGH = 34, 8, 300, 130


def histogram_svg(values: np.ndarray) -> Markup:
    """Bars of a histogram from -4 to 4, over the density of N(0, 1)."""
    edges = np.linspace(-4, 4, _BINS + 1)
    density = np.histogram(values.clip(-4, 4), edges)[0] / len(values) / (edges[1] - edges[0])
    places = np.linspace(-4, 4, 81)
    normal = np.exp(-(places**2) / 2) / math.sqrt(2 * math.pi)
    top = max(float(density.max()), float(normal.max()))
    bars = [
        Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            _x((edges[number] + 4) / 8), _y(height / top), _WIDE / _BINS - 0.6, _HIGH * height / top
        )
        for number, height in enumerate(density)
    ]
    line = " L".join(
        f"{_x((place + 4) / 8):.1f} {_y(each / top):.1f}" for place, each in zip(places, normal, strict=True)
    )
    ticks = [(f"{place:g}", (place + 4) / 8) for place in (-4, -2, 0, 2, 4)]
    text = f"Histogram: mean {values.mean():.2f}, standard deviation {values.std():.2f}"
    content = Markup('<g class="sim-bars">{}</g><path class="sim-line" d="M{}"/>').format(Markup("").join(bars), line)
    return _plot(content, ticks, [], text)


def lag_svg(lags: Sequence[float], profile: Sequence[float]) -> Markup:
    """Autocorrelation over lags on a logarithmic axis, from 0 to 1, with a line at 1/e."""
    if not lags:
        return _plot(Markup(""), [], [], "No lag profile: the utterances are too short")
    low, high = math.log(lags[0]), math.log(max(lags[-1], lags[0] * 1.01))
    places = [(math.log(lag) - low) / (high - low) for lag in lags]
    shown = np.clip(profile, 0, 1)
    line = " L".join(f"{_x(place):.1f} {_y(each):.1f}" for place, each in zip(places, shown, strict=True))
    dots = [
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2.5"/>').format(_x(place), _y(each))
        for place, each in zip(places, shown, strict=True)
    ]
    content = Markup(
        '<path class="sim-rule" d="M{0} {1:.1f} H{2}"/><path class="sim-line" d="M{3}"/><g class="sim-bars">{4}</g>'
    ).format(_LEFT, _y(math.exp(-1)), _LEFT + _WIDE, line, Markup("").join(dots))
    chosen = [0, len(lags) // 2, len(lags) - 1]
    ticks = [(f"{1000 * lags[number]:.3g} ms", places[number]) for number in dict.fromkeys(chosen)]
    ends = [f"{profile[end]:.2f} after {1000 * lags[end]:.3g} ms" for end in (0, -1)]
    text = f"Autocorrelation: {', '.join(ends)}"
    return _plot(content, ticks, [("0", 0.0), ("1/e", math.exp(-1)), ("1", 1.0)], text)


def _x(share: float) -> float:
    return _LEFT + _WIDE * share


def _y(share: float) -> float:
    return _TOP + _HIGH * (1 - share)


def _plot(
    content: Markup, xticks: Sequence[tuple[str, float]], yticks: Sequence[tuple[str, float]], text: str
) -> Markup:
    below = _TOP + _HIGH
    labels = [
        Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(_x(place), below + 15, label)
        for label, place in xticks
    ] + [
        Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(_LEFT - 5, _y(place) + 4, label)
        for label, place in yticks
    ]
    return Markup(
        '<svg class="sim-plot" viewBox="0 0 {} {}" role="img" aria-label="{}">'
        '<path class="sim-axis" d="M{} {} H{}"/>{}{}</svg>'
    ).format(_LEFT + _WIDE + 26, below + 22, text, _LEFT, below, _LEFT + _WIDE, content, Markup("").join(labels))


# ---------------------------------------------------------------------- messages


def note(text: str) -> str:
    """A message."""
    return str(Markup('<p class="sim-note">{}</p>').format(text))


def changes_view(changes: Sequence[tuple[str, float | None, float | None]]) -> str:
    """Changes of the sound: name of the property, and its values before and after; `None` if the sound lacks it."""
    rows = []
    for name, before, after in changes:
        quantity, unit = name.rsplit(", ", maxsplit=1)
        cells = [_amount(before, unit), _amount(after, unit), _change(before, after, unit)]
        rows.append(
            Markup('<tr><th scope="row">{}</th><td>{}</td><td>{}</td><td><b>{}</b></td></tr>').format(quantity, *cells)
        )
    return str(
        Markup(
            '<table class="sim-evidence"><thead><tr><th scope="col">Property</th><th scope="col">before</th>'
            '<th scope="col">after</th><th scope="col">change</th></tr></thead><tbody>{}</tbody></table>'
        ).format(Markup("").join(rows))
    )


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{2 ** (value / 12):.0f} Hz" if unit == "semitones" else f"{value:.1f} {unit}"


def _change(before: float | None, after: float | None, unit: str) -> str:
    if before is None or after is None:
        return "-"
    change = f"{after - before:+z.1f} {unit}"
    hertz = round(2 ** (after / 12) - 2 ** (before / 12))
    return f"{change} ({hertz:+d} Hz)" if unit == "semitones" else change


def difference_png(before: np.ndarray, after: np.ndarray) -> str:
    """Difference of two spectrograms `(frames, bands)` in dB, low bands at the bottom; colors saturate at 20 dB."""
    frames = min(len(before), len(after))
    difference = (after[:frames] - before[:frames]).clip(-20, 20) / 40 + 0.5
    return heat_png(difference[:, ::-1], SIGNED)


def difference_view(before: np.ndarray, after: np.ndarray) -> str:
    """The difference of two spectrograms as a picture."""
    return str(
        Markup(
            '<figure class="sim-difference"><img src="{}" alt="Difference of the spectrograms, after minus before">'
            "<figcaption>Spectrogram after minus before: 20 dB quieter (blue) to louder (orange)</figcaption></figure>"
        ).format(difference_png(before, after))
    )
