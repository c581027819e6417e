"""Parts of an analysis that are measured already: one that was killed, or is given a model more, measures the rest."""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import modeling_sim
from training.analysis_task import Analysis
from training.feature_store import key_name
from training.files import replacing
from training.provenance import versions

# What flags say of places, and of models that a part is not about.
_NOT_MEASURED_BY = ("model", "decoder", "modules", "data_dir", "cache_dir", "output_dir")


class AnalysisParts:
    """Measures parts of an analysis, or reads them from the cache if nothing that they depend on has changed.

    A part depends on the flags, the data, its model's weights and the code: a change of any line of either package, or
    of a library's version, measures all anew.

    Args:
        analysis: Gets the parts.
        depends_on: What all parts depend on beside flags and code, as JSON holds it.
    """

    def __init__(self, analysis: Analysis, depends_on: Mapping[str, Any]) -> None:
        flags = {name: value for name, value in vars(analysis.arguments).items() if name not in _NOT_MEASURED_BY}
        self.analysis = analysis
        self.folder = Path(analysis.arguments.cache_dir) / "analysis"
        self.common = {"flags": flags, "versions": versions(), "code": code_fingerprint(), **depends_on}
        self.found = 0

    def add(self, key: Mapping[str, Any], measure: Callable[[Analysis], None]) -> None:
        """Adds a part.

        Args:
            key: What the part is and what it depends on, as JSON holds it.
            measure: Measures it and adds it to the analysis that it is given.
        """
        path = self.folder / f"{key_name({**self.common, **key})}.npz"
        part = Analysis(self.analysis.arguments)
        if path.is_file():
            read_part(path, part)
            self.found += 1
        else:
            measure(part)
            write_part(path, part)
        self.analysis.extend(part)


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
    """Digest of the source of the package and of the commands."""
    digest = hashlib.sha256()
    for root in (Path(modeling_sim.__file__).parent, Path(__file__).parent):
        for path in sorted(root.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
