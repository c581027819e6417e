"""Parts of an analysis that are measured already: one that was killed, or is given a model more, measures the rest."""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from modeling_sim.evaluation.feature_store import key_name
from modeling_sim.evaluation.results import Analysis
from modeling_sim.evaluation.settings import AnalysisArguments
from modeling_sim.files import replacing
from modeling_sim.provenance import versions

# What flags say of places, and of models that a part is not about.
_NOT_MEASURED_BY = (
    "model", "decoder", "modules", "data_dir", "dataset_name", "cache_dir", "output_dir", "overwrite_output_dir",
    "figure_format",
)  # fmt: skip


# Part of every key: raise it whenever a measure of the same features would give another number.
MEASURES_VERSION = 1


class AnalysisParts:
    """Measures parts of an analysis, or reads them from the cache if nothing that they depend on has changed.

    A part depends on the settings, the data, its model's weights, `MEASURES_VERSION` and the versions of libraries. A
    file of the cache that cannot be read is measured again.

    Args:
        analysis: Gets the parts.
        depends_on: What all parts depend on apart from settings and versions, as JSON holds it.
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

    def add(self, key: Mapping[str, Any], measure: Callable[[Analysis], None]) -> None:
        """Adds a part.

        Args:
            key: What the part is and what it depends on, as JSON holds it.
            measure: Measures it and adds it to the analysis that it is given.
        """
        path = self.folder / f"{key_name({**self.common, **key})}.npz"
        part = Analysis(self.analysis.arguments)
        if self._is_read(path, part):
            self.found += 1
        else:
            measure(part)
            write_part(path, part)
        self.analysis.extend(part)

    def _is_read(self, path: Path, part: Analysis) -> bool:
        if not path.is_file():
            return False
        try:
            read_part(path, part)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            tqdm.write(f"{path} cannot be read and is measured again: {error}")
            return False
        return True


def measuring_settings(arguments: AnalysisArguments) -> dict[str, Any]:
    """Flags that measures depend on."""
    return {name: value for name, value in vars(arguments).items() if name not in _NOT_MEASURED_BY}


def write_part(path: Path, part: Analysis) -> None:
    """Writes what a part has found, whole or not at all."""
    found = {"values": part.values, "curves": part.curves, "quality": part.quality, "media": part.media.items}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, found=np.array(json.dumps(found)), **part.media.arrays)


def read_part(path: Path, part: Analysis) -> None:
    """Reads what `write_part` wrote into an empty part."""
    with np.load(path) as file:
        found = json.loads(str(file["found"]))
        part.media.arrays = {name: file[name] for name in file.files if name != "found"}
    part.values, part.curves, part.quality, part.media.items = (
        found[name] for name in ("values", "curves", "quality", "media")
    )
