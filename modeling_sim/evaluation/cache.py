"""Parts of an analysis that are measured already: one that was killed, or is given a model more, measures the rest."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

import modeling_sim
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


# What begins with these renders and publishes results: it has no part in measuring them.
_RENDERING = (
    "report", "claims", "card", "task_cards", "publish", "hub", "background_push", "licenses", "scrubbing", "plots",
    "curves", "escaping",
)  # fmt: skip


class AnalysisParts:
    """Measures parts of an analysis, or reads them from the cache if nothing that they depend on has changed.

    A part depends on the flags, the data, its model's weights and the code: a change of any line that may take part in
    measuring, or of a library's version, measures all anew. A file of the cache that cannot be read is measured again.

    Args:
        analysis: Gets the parts.
        depends_on: What all parts depend on beside flags and code, as JSON holds it.
    """

    def __init__(self, analysis: Analysis, depends_on: Mapping[str, Any]) -> None:
        self.analysis = analysis
        self.folder = Path(analysis.arguments.cache_dir) / "analysis"
        self.common = {
            "flags": measuring_settings(analysis.arguments),
            "versions": versions(),
            "code": code_fingerprint(),
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


@lru_cache(maxsize=1)
def code_fingerprint() -> str:
    """Digest of the source of the package and of the commands, but for what renders results."""
    digest = hashlib.sha256()
    for root in (Path(modeling_sim.__file__).parent, Path(__file__).parent):
        for path in sorted(root.rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if not name.startswith(_RENDERING):  # of a folder of its own, as a corpus, nothing is left out
                digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
