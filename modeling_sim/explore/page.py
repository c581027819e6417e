"""The page: layout and events, by default served only on this machine."""

import functools
import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

from modeling_sim.data.audio import read_audio
from modeling_sim.explore import views
from modeling_sim.explore.evidence import Evidence
from modeling_sim.explore.explorer import AXES, Explorer, Utterance
from modeling_sim.explore.moving import Moved, mix, move
from modeling_sim.explore.settings import ExploreArguments

if TYPE_CHECKING:
    from modeling_sim.evaluation.clips import Recorded

try:
    import gradio as gr
except ImportError as error:
    raise ImportError("the explorer needs gradio; install it with `pip install 'modeling_sim[explore]'`.") from error

_FOLDER = Path(__file__).parent

# Number of sliders: as many as fit next to each other.
_NUM_SLIDERS = 6

# Seconds of a clip before and after its frame.
_AROUND = 0.35

_ALL = "all dimensions"

# Seconds between searches for old uploads, and the age in seconds at which they are deleted.
_UPLOADS_AGE = (3600, 86_400)

# Fonts of the system: the page loads nothing from other sites.
_FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]
_MONO = ["ui-monospace", "monospace"]

# Folders of an absolute path in a message, which are hidden from users of the page.
_FOLDERS = re.compile(r"(?<![\w:/.])(?:[A-Za-z]:)?[/\\](?:[^/\\\s'\"]+[/\\])+")


def shown(view: Callable[..., Any]) -> Callable[..., Any]:
    """Shows an error that the user can fix, in place of the view."""

    @functools.wraps(view)
    def safe(*arguments: Any) -> Any:
        try:
            return view(*arguments)
        except (ValueError, OSError) as error:
            return views.note(f"This cannot be shown: {_FOLDERS.sub('', str(error))}")

    return safe


class Page:
    """Views of the page for the values of its controls; every view is HTML in which names are escaped.

    Args:
        explorer: The models and the corpus.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.models = list(explorer.representations)

    def prepare(self) -> None:
        """Computes and caches what the page shows first."""
        for model in self.models:
            self.explorer.evidence(model, self.explorer.default_feature(model))

    def source(self, number: int | None, upload: str | None) -> Utterance:
        """The uploaded recording, if there is one, otherwise an utterance of the corpus."""
        if upload:
            return self.explorer.recording(upload)
        return self.explorer.utterance(int(number or 0))

    def listen(self, number: int, upload: str | None, model: str, feature: str, axes: str, quantity: str) -> str:
        """An utterance over the heat map of a feature."""
        utterance = self.source(number, upload)
        frames = self.explorer.frames(utterance, model, feature, axes)
        evidence = self.explorer.evidence(model, feature, axes)
        title = f"{model}, {feature}" + ("" if axes == "own" else f", {axes} axes")
        return views.utterance_view(utterance, [(title, frames, evidence, quantity)])

    def labels(self, model: str, feature: str, axes: str) -> str:
        """The labels of a feature."""
        return views.labels_view(self.explorer.evidence(model, feature, axes))

    def dimension(self, model: str, feature: str, axes: str, dim: int) -> str:
        """One dimension: label, histogram, lag profile, evidence, other models, and its extreme moments."""
        explorer = self.explorer
        evidence = explorer.evidence(model, feature, axes)
        values = explorer.codes(model, feature, axes, [dim])[:, 0]
        is_gaussian = axes == "own" and explorer.is_gaussian(model, feature)
        counterparts = explorer.counterparts(model, feature, axes, dim)
        view = views.dimension_view(evidence, dim, values, counterparts, is_gaussian=is_gaussian)
        for which, smallest in (("largest", False), ("smallest", True)):
            title = f"Frames where dimension {dim} is {which}"
            view += self._moments(title, model, feature, axes, dim, smallest=smallest)
        return view

    def _moments(self, title: str, model: str, feature: str, axes: str, dim: int, *, smallest: bool) -> str:
        rate = 16_000
        clips: list[Recorded] = []
        numbers = {name: number for number, name in enumerate(self.explorer.names)}
        for moment in self.explorer.moments(model, feature, axes, dim, smallest=smallest):
            audio = self.explorer.dataset[numbers[moment.utterance]]["audio"]
            waveform = read_audio(audio, sampling_rate=rate)
            start = max(0.0, moment.seconds - _AROUND)
            first, last = round(start * rate), round((moment.seconds + _AROUND) * rate)
            label = f"{moment.value:+.1f} at {moment.seconds:.2f} s of {moment.utterance}"
            clips.append((label, waveform[first:last], moment.seconds - start))
        return views.clips_view(title, clips, rate)

    # ------------------------------------------------------------------ through a decoder

    def decoder_note(self, model: str, feature: str) -> str | None:
        """Explains how to train a decoder of a feature, if there is none."""
        decoders = self.explorer.decoders(model)
        if feature in decoders:
            return None
        arguments = self.explorer.arguments
        path = shlex.quote([arguments.model, *arguments.compare][self.models.index(model)])
        features = self.explorer.features(model)
        if not hasattr(self.explorer.representations[model], "decoders"):
            return views.note("Sounds are decoded from the latents of SIM models alone.")
        number, corpus = features.index(feature), arguments.corpus
        have = f" Decoders of {', '.join(decoders)} are loaded: choose one of these modules." if decoders else ""
        return str(
            Markup(
                '<p class="sim-note">There is no decoder of {}.{} Train one, and open the page with it:</p>'
                '<pre class="sim-command">{}\n{}</pre>'
            ).format(
                feature,
                have,
                f"modeling-sim train-decoder --model {path} --module {number} --corpus {corpus} "
                "--architecture source_filter --loss stft --output_dir runs/decoder",
                f"modeling-sim explore {path} --corpus {corpus} --decoder runs/decoder",
            )
        )

    def moved(
        self, number: int, upload: str | None, model: str, feature: str, axes: str, dims: Sequence[int], *shifts: float
    ) -> str:
        """An utterance before and after its latents are changed."""
        note = self.decoder_note(model, feature)
        if note is not None:
            return note
        chosen = {dim: shift for dim, shift in zip(dims, shifts, strict=False) if shift}
        utterance = self.source(number, upload)
        result = move(self.explorer, utterance, model, feature, axes, chosen)
        if not chosen:
            clips = [("decoded", result.before), ("recorded", utterance.at(result.rate))]
            return views.clips_view(f"{utterance.name}: move a slider", clips, result.rate)
        return _sounds("Decoded", result, utterance)

    def mixed(
        self,
        number: int,
        upload: str | None,
        model: str,
        feature: str,
        axes: str,
        other: int,
        share: float,
        group: str,
        dims: Sequence[int],
    ) -> str:
        """An utterance with dimensions changed towards those of another."""
        note = self.decoder_note(model, feature)
        if note is not None:
            return note
        first, second = self.source(number, upload), self.explorer.utterance(int(other))
        evidence = self.explorer.evidence(model, feature, axes)
        chosen = groups_of(evidence, dims).get(group)
        result = mix(self.explorer, first, second, model, feature, axes, share, chosen)
        return _sounds(f"{100 * share:.0f} % of the way to {second.name}, {group}", result, first, second)

    # ------------------------------------------------------------------ several models

    def compared(self, number: int, upload: str | None, axes: str, *features: str) -> str:
        """One utterance over the heat maps of all models, their labels, and their decoded sounds."""
        utterance = self.source(number, upload)
        maps, labels, sounds = [], [], []
        rate = utterance.rate
        for model, feature in zip(self.models, features, strict=True):
            evidence = self.explorer.evidence(model, feature, axes)
            frames = self.explorer.frames(utterance, model, feature, axes)
            maps.append((f"{model}, {feature}", frames, evidence, views.QUANTITIES[0]))
            head = Markup("<h2>{}, {}</h2>").format(model, feature)
            labels.append(Markup("<div>{}{}</div>").format(head, Markup(views.labels_view(evidence))))  # noqa: S704 - escaped there
            if feature in self.explorer.decoders(model):
                moved = move(self.explorer, utterance, model, feature, axes, {})
                if moved.rate == rate:
                    sounds.append((f"decoded from {model}, {feature}", moved.before))
        view = views.utterance_view(utterance, maps)
        view += str(Markup('<div class="sim-panels sim-compare">{}</div>').format(Markup("").join(labels)))
        if sounds:
            view += views.clips_view("Through the decoders", [("recording", utterance.samples), *sounds], rate)
        return view


def _sounds(title: str, result: Moved, *originals: Utterance) -> str:
    """Before and after, what changed, and the difference of the spectrograms."""
    clips: list[Recorded] = [("before", result.before), ("after", result.after)]
    own = [(each.name, each.at(result.rate)) for each in originals]
    return (
        views.clips_view(title, clips, result.rate)
        + views.changes_view(result.changes)
        + views.difference_view(*result.spectrograms())
        + views.clips_view("Recorded", own, result.rate)
    )


def groups_of(evidence: Evidence, dims: Sequence[int]) -> dict[str, list[int] | None]:
    """Groups of dimensions by name: all, those of each label, and those of the sliders."""
    groups: dict[str, list[int] | None] = {_ALL: None}
    for name in dict.fromkeys(label for label in evidence.labels if label is not None):
        found = [dim for dim, label in enumerate(evidence.labels) if label == name]
        groups[f"labeled {name} ({', '.join(map(str, found[:8]))}{', ...' if len(found) > 8 else ''})"] = found
    groups["those of the sliders"] = list(dims)
    return groups


# ---------------------------------------------------------------------- layout


class _Top(NamedTuple):
    """Controls above the tabs."""

    utterance: Any
    upload: Any
    model: Any
    module: Any
    axes: Any

    @property
    def source(self) -> list[Any]:
        """Controls that choose an utterance."""
        return [self.utterance, self.upload]

    @property
    def place(self) -> list[Any]:
        """Controls that choose what the page shows of it."""
        return [self.model, self.module, self.axes]


class _Moving(NamedTuple):
    """Controls and views of the tab that changes latents."""

    tab: Any
    dims: Any
    sliders: list[Any]
    group: Any
    sound: tuple[Any, ...]
    """Function, inputs and output for the sliders."""


def build(explorer: Explorer) -> gr.Blocks:
    """The page of an explorer, with its first views filled in."""
    page = Page(explorer)
    page.prepare()
    model = page.models[0]
    start = (model, explorer.default_feature(model), "own")
    with gr.Blocks(title="modeling_sim explorer", analytics_enabled=False, delete_cache=_UPLOADS_AGE) as blocks:
        gr.HTML(str(Markup("<h1>{}</h1>").format(f"What the dimensions of {model} do")))
        top = _top(page, *start)
        with gr.Tab("Listen"):
            quantity = gr.Radio(list(views.QUANTITIES), value=views.QUANTITIES[0], label="Heat map of")
            listening = gr.HTML(shown(page.listen)(0, None, *start, views.QUANTITIES[0]), elem_id="listen")
            labels = gr.HTML(shown(page.labels)(*start))
        with gr.Tab("A dimension") as dimension_tab:
            chosen = gr.Dropdown(label="Dimension", filterable=True, **_dims(explorer, *start))
            about = gr.HTML(elem_id="dimension")
        moving = _move_tab(page, top, *start)
        if len(page.models) > 1:
            _compare_tab(page, top)

        heat = (shown(page.listen), [*top.source, *top.place, quantity], listening)
        one = (shown(page.dimension), [*top.place, chosen], about)
        controls = [labels, chosen, moving.dims, *moving.sliders, moving.group]

        def refreshed(model: str, feature: str, axes: str) -> list[Any]:
            """Labels and controls after a change of the feature."""
            return [
                page.labels(model, feature, axes),
                gr.update(**_dims(explorer, model, feature, axes)),
                _slid(explorer, model, feature, axes),
                *(gr.update(value=0, **each) for each in _sliders(explorer, model, feature, axes)),
                gr.update(**_groups(explorer, model, feature, axes)),
            ]

        def of_model(model: str) -> Any:
            return gr.update(choices=explorer.features(model), value=explorer.default_feature(model))

        for changed in (
            top.model.input(of_model, top.model, top.module).then(refreshed, top.place, controls),
            *(each.input(refreshed, top.place, controls) for each in (top.module, top.axes)),
        ):
            changed.then(*heat).then(*one).then(*moving.sound)
        for event in (top.utterance.input, top.upload.change):
            event(*heat).then(*moving.sound)
        quantity.input(*heat)
        chosen.input(*one)
        dimension_tab.select(*one)
    return blocks


def _top(page: Page, model: str, feature: str, axes: str) -> _Top:
    explorer = page.explorer
    with gr.Row():
        utterance = gr.Dropdown(_numbered(explorer), value=0, label="Utterance", filterable=True)
        with_model = gr.Dropdown(page.models, value=model, label="Model", visible=len(page.models) > 1)
        module = gr.Dropdown(explorer.features(model), value=feature, label="Module")
        with_axes = gr.Dropdown(list(AXES), value=axes, label="Axes")
    with gr.Accordion("Your own recording", open=False):
        sources: Any = ["upload", "microphone"]
        upload = gr.Audio(sources=sources, type="filepath", label="Record or upload", editable=False)
        gr.HTML(
            views.note(
                f"Up to {explorer.arguments.max_seconds:g} s and {explorer.arguments.max_megabytes:g} MB. It stays on "
                "the machine that serves this page, and is deleted after a day. Remove it to go back to the corpus."
            )
        )
    return _Top(utterance, upload, with_model, module, with_axes)


def _move_tab(page: Page, top: _Top, *start: str) -> _Moving:
    explorer = page.explorer
    with gr.Tab("Move it") as tab:
        gr.HTML(views.note("Each slider changes one dimension in all frames, by this many of its standard deviations."))
        dims = gr.State(_slid(explorer, *start))
        found, sliders = _sliders(explorer, *start), []
        for row in (found[:3], found[3:]):
            with gr.Row():
                sliders += [gr.Slider(-4, 4, 0, step=0.5, min_width=200, **each) for each in row]
        reset = gr.Button("Reset", size="sm")
        decoded = gr.HTML(elem_id="moved")
        with gr.Accordion("Interpolate between two utterances, or exchange a group of dimensions", open=False):
            with gr.Row():
                numbered = _numbered(explorer)
                other = gr.Dropdown(numbered, value=min(1, len(numbered) - 1), label="Toward", filterable=True)
                group = gr.Dropdown(label="Dimensions to change", **_groups(explorer, *start))
                share = gr.Slider(0, 1, 0.5, step=0.05, label="Share: 0 changes nothing, 1 is an exchange")
            go = gr.Button("Play", variant="primary", elem_id="mix")
            blend = gr.HTML(elem_id="mixed")
    sound = (shown(page.moved), [*top.source, *top.place, dims, *sliders], decoded)
    tab.select(*sound)
    for slider in sliders:
        slider.input(*sound, trigger_mode="always_last", show_progress="minimal")
    reset.click(lambda: [0] * _NUM_SLIDERS, None, sliders).then(*sound)
    go.click(shown(page.mixed), [*top.source, *top.place, other, share, group, dims], blend)
    return _Moving(tab, dims, sliders, group, sound)


def _compare_tab(page: Page, top: _Top) -> None:
    explorer = page.explorer
    with gr.Tab("Compare") as tab:
        with gr.Row():
            features = [
                gr.Dropdown(explorer.features(name), value=explorer.default_feature(name), label=name)
                for name in page.models
            ]
        side = gr.HTML(elem_id="compare")
    for event in (tab.select, *(each.input for each in features)):
        event(shown(page.compared), [*top.source, top.axes, *features], side, show_progress="minimal")


def _numbered(explorer: Explorer) -> list[tuple[str, int]]:
    """Utterances by name and position."""
    return [(name, number) for number, name in enumerate(explorer.names)]


def _dims(explorer: Explorer, model: str, feature: str, axes: str) -> dict[str, Any]:
    """Choices of dimensions, those with the most evidence first."""
    evidence = explorer.evidence(model, feature, axes)
    choices = [(f"{dim}: {evidence.words(dim)}", dim) for dim in evidence.order()]
    return {"choices": choices, "value": choices[0][1]}


def _slid(explorer: Explorer, model: str, feature: str, axes: str) -> list[int]:
    """Dimensions of the sliders: those with the most evidence."""
    return explorer.evidence(model, feature, axes).order()[:_NUM_SLIDERS]


def _sliders(explorer: Explorer, model: str, feature: str, axes: str) -> list[dict[str, Any]]:
    evidence, dims = explorer.evidence(model, feature, axes), _slid(explorer, model, feature, axes)
    found = [{"label": f"{dim}: {evidence.labels[dim] or 'no label'}", "visible": True} for dim in dims]
    return found + [{"label": "", "visible": False}] * (_NUM_SLIDERS - len(found))


def _groups(explorer: Explorer, model: str, feature: str, axes: str) -> dict[str, Any]:
    evidence = explorer.evidence(model, feature, axes)
    return {"choices": list(groups_of(evidence, _slid(explorer, model, feature, axes))), "value": _ALL}


def launch(arguments: ExploreArguments, *, host: str | None = None, block: bool = True) -> gr.Blocks:
    """Serves the page.

    Args:
        arguments: Settings.
        host: Address to use in place of the one in the settings.
        block: Return only when the server stops.

    Raises:
        ValueError: See `Explorer`.
        OSError: See `Explorer`; or the port is in use.
    """
    uploads = Path(arguments.cache_dir) / "uploads"
    uploads.mkdir(parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)  # only uploads are written there
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    blocks = build(Explorer(arguments))
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    blocks.queue(default_concurrency_limit=2).launch(
        server_name=host or arguments.host,
        server_port=arguments.port or None,
        max_file_size=int(arguments.max_megabytes * 1e6),
        share=False,
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=[],
        theme=gr.themes.Default(font=_FONTS, font_mono=_MONO),
        css=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        head=f"<script>{script}</script>",
        prevent_thread_lock=not block,
        quiet=not block,
    )
    return blocks
