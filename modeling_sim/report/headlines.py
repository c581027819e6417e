"""The five numbers at the top of the report: each next to its control, with the 95 % interval of the difference."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

from modeling_sim.analysis.scorecard import LOG_MEL, Measure, Row
from modeling_sim.evaluation.results import Difference, Results
from modeling_sim.report.tables import digits_for, write_value
from modeling_sim.text import decimal, interval

NUM_HEADLINES = 5


Light = Literal["better", "undecided", "worse"]


class Headline(NamedTuple):
    """A number next to its control, as text.

    Args:
        question: What the number answers.
        measure: Name of the measure.
        sentence: Explanation of the measure.
        value: The number.
        control: Name of the control.
        control_value: Value of the control.
        difference: Value minus control, with its interval.
        light: "better" or "worse" than the control if the interval excludes 0, else "undecided".
        basis: How many models agree; empty for one.
        share: Length of the bar: the value divided by 1, or by the largest number if that is above 1.
        control_share: Length of the bar of the control.
        lower_is_better: Whether a lower value is better.
    """

    question: str
    measure: str
    sentence: str
    value: str
    control: str
    control_value: str
    difference: str
    light: Light
    basis: str
    share: float
    control_share: float
    lower_is_better: bool


class _Found(NamedTuple):
    """Value of one model, value of its control, and the 95 % interval of their difference."""

    value: float
    control: float
    low: float
    high: float


_Find = Callable[[Results, str, str], _Found | None]


class _Subject(NamedTuple):
    """A possible headline: question, measure, name of the control, and a function that finds both values."""

    question: str
    measure: str
    control: str
    find: _Find


def headlines(results: Results) -> tuple[str, list[Headline]]:
    """The headlines of one module of the first kind: the first five of a fixed list that were measured.

    The choice of the module does not depend on results: it is the one with a decoder, or the last one before the
    context. If the kind has several models, values are those of the first, and a difference counts if all models agree.

    Returns:
        Name of the module and its headlines; both empty if nothing was measured.
    """
    first = next((kind for kind in results.kinds if not kind.is_control), None)
    if first is None or not (module := headline_module(results, first.representations)):
        return "", []
    measures = {measure.key: measure for measure in results.measures}
    found = []
    for subject in _subjects(results):
        if subject.measure not in measures:
            continue
        of_models = [subject.find(results, name, module) for name in first.representations]
        known = [each for each in of_models if each is not None]
        if known and of_models[0] is not None:
            found.append(_written(subject, measures[subject.measure], known))
    return module, found[:NUM_HEADLINES]


def headline_module(results: Results, models: Sequence[str]) -> str:
    """The first module with a decoder, otherwise the last one before the context; empty if there is none."""
    decoded = [entry["module"] for entry in results.reconstruction_quality if entry["representation"] in models]
    measured = list(dict.fromkeys(row.module for row in results.rows if row.representation in models))
    latent = [module for module in measured if module != "context"] or measured
    return next(iter([*decoded, *latent[-1:]]), "")


def _subjects(results: Results) -> Iterator[_Subject]:
    label, probe = results.label or "the label", results.probe_measure
    best, selectivity, dci = "best_dimension", "traversal_selectivity", "dci_disentanglement"
    yield _Subject(
        f"Has it learned the label, {label}?", probe, "the same network, untrained", _against("{} untrained")
    )
    yield _Subject(
        f"Does it contain more about {label} than the spectrum?", probe, "log-mel spectrum", _against(LOG_MEL)
    )
    yield _Subject("Are single dimensions meaningful?", best, "random axes", _gap(best, f"{best}_gap"))
    yield _Subject("Can its latents be decoded to sound?", "log_mel", "silence", _null("log_mel"))
    yield _Subject(
        "Does a dimension change only one property of the sound?", selectivity, "random axes", _null(selectivity)
    )
    yield _Subject("Does each dimension follow only one factor?", dci, "random axes", _gap(dci, f"{dci}_gap"))
    yield _Subject("Is the information in few dimensions?", "gini", "random axes", _gap("gini", "rotation_gap"))
    yield _Subject(
        f"Are frames close to others with the same {label}?",
        "knn_accuracy",
        "most frequent class",
        _null("knn_accuracy"),
    )
    yield _Subject(f"Can a probe predict {label}?", probe, "most frequent class", _null(probe))


def _against(other: str) -> _Find:
    """Reads the paired difference to another representation on the same items."""

    def find(results: Results, name: str, module: str) -> _Found | None:
        measure, against = results.probe_measure, other.format(name)
        own = _row(results, name, module, measure)
        difference: Difference | None = next(
            (
                each
                for each in results.differences
                if (each.representation, each.against, each.module) == (name, against, module)
            ),
            None,
        )
        if own is None or own.value is None or difference is None:
            return None
        return _Found(own.value, own.value - difference.value, difference.low, difference.high)

    return find


def _gap(measure: str, gap: str) -> _Find:
    """Reads a measure on a model's own axes, and its gap to random axes with the interval."""

    def find(results: Results, name: str, module: str) -> _Found | None:
        own, of_gap = _row(results, name, module, measure), _row(results, name, module, gap)
        if own is None or own.value is None or of_gap is None or of_gap.value is None:
            return None
        if of_gap.low is None or of_gap.high is None:
            return None
        return _Found(own.value, own.value - of_gap.value, of_gap.low, of_gap.high)

    return find


def _null(measure: str) -> _Find:
    """Reads a measure with its interval, and its null value, which is treated as exact."""

    def find(results: Results, name: str, module: str) -> _Found | None:
        own = _row(results, name, module, measure)
        if own is None or own.value is None or own.null is None or own.low is None or own.high is None:
            return None
        return _Found(own.value, own.null, own.low - own.null, own.high - own.null)

    return find


def _row(results: Results, name: str, module: str, measure: str) -> Row | None:
    place = (name, module, measure)
    return next((row for row in results.rows if (row.representation, row.module, row.measure) == place), None)


# ---------------------------------------------------------------------- text


def light_of(found: Sequence[tuple[float, float]], *, lower_is_better: bool) -> Light:
    """The common verdict of all intervals `(low, high)` of a difference; "undecided" if they disagree."""
    lights = {_light(*bounds, lower_is_better=lower_is_better) for bounds in found}
    return lights.pop() if len(lights) == 1 else "undecided"


def _light(low: float, high: float, *, lower_is_better: bool) -> Light:
    if low <= 0 <= high:
        return "undecided"
    return "better" if (low > 0) != lower_is_better else "worse"


def _written(subject: _Subject, measure: Measure, found: Sequence[_Found]) -> Headline:
    lower_is_better = measure.direction == "lower"
    first = found[0]
    full = max(first.value, first.control, 1.0)
    digits = min(2, digits_for([first.value, first.control]))
    basis = ""
    if len(found) > 1:
        lights = [_light(each.low, each.high, lower_is_better=lower_is_better) for each in found]
        basis = f"first of {len(found)} models; better than the control in {lights.count('better')}"
    return Headline(
        subject.question,
        measure.title,
        measure.sentence,
        write_value(first.value, measure.format, digits),
        subject.control,
        write_value(first.control, measure.format, digits),
        _difference(first, measure, digits),
        light_of([(each.low, each.high) for each in found], lower_is_better=lower_is_better),
        basis,
        max(0.0, first.value) / full,
        max(0.0, first.control) / full,
        lower_is_better,
    )


def _difference(found: _Found, measure: Measure, digits: int) -> str:
    scale, unit, digits = (100, " points", 1) if measure.format == "percent" else (1, "", digits)
    difference, low, high = (scale * value for value in (found.value - found.control, found.low, found.high))
    write = partial(decimal, digits=digits, signed=True)
    bounds = interval(low, high, write)
    return f"{write(difference)}{unit}" + (f" (95 %: {bounds})" if bounds else "")
