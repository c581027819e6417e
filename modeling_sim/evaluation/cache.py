"""A cache of the parts of an evaluation: after an interruption, or with a further model, only the rest is measured."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from modeling_sim.analysis import LinearTransform
from modeling_sim.analysis.scorecard import Row
from modeling_sim.data.digests import key_name
from modeling_sim.evaluation.clips import Media
from modeling_sim.evaluation.feature_store import ARCHIVE_ERRORS
from modeling_sim.evaluation.settings import AnalysisArguments
from modeling_sim.files import replacing
from modeling_sim.provenance import versions

# Settings that parts do not depend on: paths, the choice of models, and settings in the key of a part.
_NOT_MEASURED_BY = frozenset(
    str.split(
        "model decoder modules measures align_modules data_dir dataset_name cache_dir output_dir overwrite_output_dir "
        "figure_format axes axes_minutes dims utterance range on_bad_audio"
    )
)


# Part of every cache key: increase it whenever a measure of the same features would change its value or name.
MEASURES_VERSION = 8


@dataclass
class Analysis:
    """Results of an evaluation, collected part by part.

    `weights` and `hits` belong to probes: classifier weights by the name of the features, and by representation and
    module the numbers of correct items and of all items in each group, `(groups, 2)`. `transforms` are those to other
    axes, by the name of the resulting features.
    """

    arguments: AnalysisArguments
    rows: list[Row] = field(default_factory=list)
    details: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    quality: list[dict[str, Any]] = field(default_factory=list)
    media: Media = field(default_factory=Media)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    hits: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    transforms: dict[str, LinearTransform] = field(default_factory=dict)

    def add(
        self,
        place: Mapping[str, str],
        measure: str,
        value: float | None,
        low: float | None = None,
        high: float | None = None,
        null: float | None = None,
    ) -> None:
        """Adds a row; `place` names kind, representation and module."""
        self.rows.append(Row(**place, measure=measure, value=value, low=low, high=high, null=null))

    def curve(self, name: str, place: Mapping[str, str], **content: Any) -> None:
        """Adds a curve to draw."""
        self.curves.setdefault(name, []).append({**place, **content})

    def extend(self, part: "Analysis") -> None:
        """Adds all results of a part of the evaluation."""
        for name in ("rows", "details", "quality"):
            getattr(self, name).extend(getattr(part, name))
        for name, entries in part.curves.items():
            self.curves.setdefault(name, []).extend(entries)
        self.media.extend(part.media)
        self.weights |= part.weights
        self.hits |= part.hits
        self.transforms |= part.transforms


class AnalysisParts:
    """Measures parts of an evaluation, or reads them from the cache if nothing that they depend on has changed.

    A part depends on the settings, the data, its model's weights, `MEASURES_VERSION` and the versions of libraries. A
    file of the cache that cannot be read is measured again. A part that cannot be measured, for example because a
    module has collapsed, is skipped, and `errors` contains the reason.

    Args:
        analysis: Collects the results of all parts.
        depends_on: Everything that all parts depend on, except settings and versions, as JSON types.
    """

    def __init__(self, analysis: Analysis, depends_on: Mapping[str, Any]) -> None:
        self.analysis = analysis
        self.folder = Path(analysis.arguments.cache_dir) / "analysis"
        self.common = {
            "flags": measuring_settings(analysis.arguments),
            "versions": versions(),
            "measures": MEASURES_VERSION,
            **depends_on,
        }
        self.found = 0
        self.errors: list[str] = []

    def add(self, name: str, key: Mapping[str, Any], measure: Callable[[Analysis], None]) -> bool:
        """Adds a part, and returns whether it could be measured.

        Args:
            name: Name of the part in messages.
            key: Identifies the part and everything it depends on, as JSON types.
            measure: Measures the part and adds the results to the analysis that it gets.
        """
        path = self.folder / f"{key_name({**self.common, **key})}.npz"
        part = Analysis(self.analysis.arguments)
        if self._is_read(path, part):
            self.found += 1
        else:
            try:
                measure(part)
            except ValueError as error:
                self.errors.append(f"{name}: {error}")
                tqdm.write(f"{name}: skipped, since {error}")
                return False
            write_part(path, part)
        self.analysis.extend(part)
        return True

    def _is_read(self, path: Path, part: Analysis) -> bool:
        if not path.is_file():
            return False
        try:
            read_part(path, part)
        except ARCHIVE_ERRORS as error:
            tqdm.write(f"{path} cannot be read and is measured again: {error}")
            return False
        return True


def measuring_settings(arguments: AnalysisArguments) -> dict[str, Any]:
    """Settings that measures depend on."""
    return {name: value for name, value in vars(arguments).items() if name not in _NOT_MEASURED_BY}


_LISTS = ("details", "curves", "quality")
_TRANSFORM = [part.name for part in fields(LinearTransform)]


def write_part(path: Path, part: Analysis) -> None:
    """Writes the results of a part, complete or not at all."""
    found = {name: getattr(part, name) for name in _LISTS}
    found |= {"rows": [asdict(row) for row in part.rows], "media": part.media.items}
    found |= {"weights": list(part.weights), "hits": list(part.hits), "transforms": list(part.transforms)}
    arrays: dict[str, Any] = {f"weights_{number}": array for number, array in enumerate(part.weights.values())}
    arrays |= {f"hits_{number}": array for number, array in enumerate(part.hits.values())}
    for number, transform in enumerate(part.transforms.values()):
        arrays |= {f"transform_{number}_{name}": tensor.numpy() for name, tensor in vars(transform).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, found=np.array(json.dumps(found)), **arrays, **part.media.arrays)


def read_part(path: Path, part: Analysis) -> None:
    """Reads what `write_part` wrote into an empty part."""
    with np.load(path) as file:
        found = json.loads(str(file["found"]))
        part.weights = {name: file[f"weights_{number}"] for number, name in enumerate(found["weights"])}
        part.hits = {tuple(place): file[f"hits_{number}"] for number, place in enumerate(found["hits"])}
        part.transforms = {
            name: LinearTransform(**{each: torch.from_numpy(file[f"transform_{number}_{each}"]) for each in _TRANSFORM})
            for number, name in enumerate(found["transforms"])
        }
        part.media.items = found["media"]
        clips = [clip["array"] for item in part.media.items for clip in item["clips"]]
        part.media.arrays = {name: file[name] for name in clips}
    part.rows = [Row(**row) for row in found["rows"]]
    for name in _LISTS:
        setattr(part, name, found[name])
