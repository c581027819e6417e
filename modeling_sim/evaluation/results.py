"""Results of an evaluation: typed rows, their origin, and their file."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modeling_sim.analysis.scorecard import VERDICTS, Comparison, Measure, Row
from modeling_sim.files import read_results, save_results

SCHEMA = 2
"""Version of the fields of `Results`; increase it when a field changes its meaning."""

ANALYSIS_NAME, CURVES_NAME, MEDIA_NAME = "analysis.json", "curves.json", "media.npz"
"""Files of `modeling-sim evaluate`: results, curves to draw, and clips to play."""

REPORT_NAME, FIGURES = "report.html", "figure_*"
"""The report that is made from them, and its separate pictures, without endings."""


@dataclass(frozen=True)
class Kind:
    """Representations that only differ by their seed; `is_control` if they are controls."""

    name: str
    description: str
    is_control: bool
    representations: list[str]


@dataclass(frozen=True)
class ModelFacts:
    """Facts about a model; `None` for facts that its folder does not record.

    Args:
        representation: Name of the model in rows.
        parameters: Number of parameters of the encoder.
        modules: Number of modules or layers.
        dims: Dimensions of the latents of the last module before the context.
        frame_rate: Frames per second of that module.
        corpus: Corpus that the model was trained on.
        hours: Hours of speech in the corpus.
        steps: Number of training steps.
    """

    representation: str
    parameters: int
    modules: int
    dims: int | None = None
    frame_rate: float | None = None
    corpus: str | None = None
    hours: float | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Difference:
    """Value of `representation` minus that of `against` in one module on the same items, with a 95 % interval."""

    representation: str
    against: str
    module: str
    measure: str
    value: float
    low: float
    high: float


@dataclass(kw_only=True)
class Results:
    """Results of `evaluate`, `probe` and `abx`, and their settings and data.

    Args:
        corpus: Name of the corpus.
        corpus_license: License of the corpus, an id of the Hub.
        corpus_settings: Settings of the corpus that were given.
        dataset_id: Data set of the Hub; `None` for a folder or generated speech.
        label: Column of classes.
        classes: Names of the classes.
        factors: Columns that disentanglement was measured on.
        skipped_factors: Columns that do not vary enough for it.
        settings: Settings that the measures depend on.
        train_items: Number of items that probes were fitted on; `None` without probes.
        test_items: Number of items that probes were tested on.
        tokens: Number of tokens that ABX compared; `None` without ABX.
        intervals_over: What bootstrap intervals resample.
        facts: Facts about each model.
        fingerprints: Digest of the weights by the name of each model; used to find the measures of a model card.
        kinds: Kinds of representations, trained ones first.
        measures: Meaning of every measure in `rows`.
        rows: The numbers.
        differences: Paired differences of the probe's accuracy.
        comparisons: Differences of kinds over seeds.
        details: Counts behind rows: true and predicted classes, numbers of pairs and triples.
        reconstruction_quality: Quality of every decoder.
        media: Content of `media.npz`.
        curves: Curves to draw, by subject; in a separate file.
        versions: Versions of packages.
        git: Commit of the checkout, if there is one.
    """

    corpus: str
    corpus_license: str
    kinds: list[Kind]
    measures: list[Measure]
    rows: list[Row]
    corpus_settings: dict[str, Any] = field(default_factory=dict)
    dataset_id: str | None = None
    label: str | None = None
    classes: list[str] = field(default_factory=list)
    factors: list[str] = field(default_factory=list)
    skipped_factors: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    train_items: int | None = None
    test_items: int | None = None
    tokens: int | None = None
    intervals_over: str | None = None
    facts: list[ModelFacts] = field(default_factory=list)
    fingerprints: dict[str, str] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    details: list[dict[str, Any]] = field(default_factory=list)
    reconstruction_quality: list[dict[str, Any]] = field(default_factory=list)
    media: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    git: str | None = None

    @property
    def models(self) -> list[str]:
        """Names of the models, without controls."""
        return [name for kind in self.kinds if not kind.is_control for name in kind.representations]

    @property
    def probe_measure(self) -> str:
        """Key of the probe's accuracy."""
        return f"{self.settings.get('probe', 'linear')}_accuracy"

    @property
    def probe_name(self) -> str:
        """Name of the probe in texts."""
        return (
            "the paper's linear" if self.settings.get("protocol") == "paper" else self.settings.get("probe", "linear")
        )

    def by_features(self) -> dict[str, dict[str, Row]]:
        """Rows by the name of their features, in order, and by measure."""
        found: dict[str, dict[str, Row]] = {}
        for row in self.rows:
            found.setdefault(row.features, {})[row.measure] = row
        return found

    def write(self, path: Path) -> None:
        """Writes the file, and `curves.json` next to it if there is something to draw."""
        values = asdict(self)
        if curves := values.pop("curves"):
            save_results(path.with_name(CURVES_NAME), curves, schema=SCHEMA)
        save_results(path, values, schema=SCHEMA)

    @classmethod
    def read(cls, path: Path, *, with_curves: bool = False) -> "Results":
        """Reads results that `write` wrote.

        Args:
            path: The file.
            with_curves: Also read `curves.json` next to it, if it exists.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: The file is not JSON, has another schema or other fields, or a row has a kind or measure that is
                not described, or a value that is not a number.
        """
        values = read_results(path, schema=SCHEMA)
        curves = path.with_name(CURVES_NAME)
        if with_curves and curves.is_file():
            values["curves"] = read_results(curves, schema=SCHEMA)
            del values["curves"]["schema"]
        try:
            for name, row in _ROWS.items():
                if name in values:
                    values[name] = [row(**entry) for entry in values[name]]
            results = cls(**{name: value for name, value in values.items() if name != "schema"})
        except TypeError as error:
            raise ValueError(f"{path} does not have the fields of this version ({error}); measure again.") from error
        results._check(path)
        return results

    def _check(self, path: Path) -> None:
        """Raises for an entry with an undescribed kind or measure, which tables would skip silently."""
        kinds, measures = {kind.name for kind in self.kinds}, {measure.key for measure in self.measures}
        lists = {name: getattr(self, name) for name in ("media", "details", "reconstruction_quality")}
        lists |= {f"curves.{name}": entries for name, entries in self.curves.items()}
        named = [("kind", "rows", row.kind, kinds) for row in self.rows]
        named += [("kind", place, entry["kind"], kinds) for place, entries in lists.items() for entry in entries]
        for place in ("rows", "differences", "comparisons"):
            named += [("measure", place, entry.measure, measures) for entry in getattr(self, place)]
        named += [("verdict", "comparisons", each.verdict, set(VERDICTS)) for each in self.comparisons]
        for name, place, value, known in named:
            if value not in known:
                raise ValueError(
                    f"{path}: `{place}` has {name} {value!r}, which is not one of {', '.join(sorted(known))}."
                )
        for row in self.rows:
            for name in ("value", "low", "high", "null"):
                number = getattr(row, name)
                if number is not None and (isinstance(number, bool) or not isinstance(number, (int, float))):
                    raise ValueError(
                        f"{path}: `{name}` of {row.measure} of {row.features} is {number!r}, not a number."
                    )


_ROWS: dict[str, Any] = {
    "kinds": Kind,
    "facts": ModelFacts,
    "measures": Measure,
    "rows": Row,
    "differences": Difference,
    "comparisons": Comparison,
}
