"""Imports point one way: every unit imports from its own layer or from those above it in this list."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "modeling_sim"
LAYERS = (
    {"objectives_sim", "layers_sim", "configuration_sim", "configuration_sim_decoder"},
    {"modeling_sim", "feature_extraction_sim", "modeling_sim_decoder", "processing_sim"},
    {"__init__", "_family", "latents", "files", "text", "plots"},
    {"analysis", "convert"},
    {"data"},
    {"settings", "loading", "provenance", "export"},
    {"trainer"},
    {"evaluation", "inference"},
    {"report", "hub"},
    {"explore"},
    {"commands"},
    {"cli"},
)
LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}
PEERS_APART = ({"report", "hub"},)


def unit_of(path):
    """The top-level unit that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_units(path):
    """Units of the package that a file imports, relative imports of the model files too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = ".".join(path.relative_to(PACKAGE.parent).parts[: -node.level]) if node.level else ""
            module = ".".join(filter(None, [parent, node.module]))
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] in ("training", "benchmarks", "studies", "tests", "model_cards"):
                yield parts[0]
            elif parts[0] == "modeling_sim":
                yield parts[1] if len(parts) > 1 and parts[1] in LEVEL else "__init__"


def test_the_design_page_lists_every_part_in_this_order():
    page = (PACKAGE.parent / "docs" / "design.md").read_text(encoding="utf-8")
    listed = [name for row in re.findall(r"^\| (`.+?`) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(LEVEL)
    assert [LEVEL[name] for name in listed] == sorted(LEVEL.values())


def test_no_import_points_upwards():
    paths = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
    assert {unit_of(path) for path in paths} <= set(LEVEL)
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {imported}"
        for path in paths
        for imported in imported_units(path)
        if LEVEL.get(imported, len(LAYERS)) > LEVEL[unit_of(path)] or {unit_of(path), imported} in PEERS_APART
    ]
    assert not wrong


def test_no_folder_is_crowded():
    # Besides `__init__.py`, which holds no code of its own.
    counts = {folder: len(list(folder.glob("[!_]*.py"))) for folder in [PACKAGE, *PACKAGE.rglob("*/")]}
    assert max(counts.values()) <= 17, {str(folder): count for folder, count in counts.items() if count > 17}


@pytest.mark.trains
def test_an_import_loads_no_more_than_it_needs():
    """In one process, from the module that may load least to the one that may load most."""
    unwanted = {
        "modeling_sim": ("datasets", "accelerate", "evaluate", "sklearn", "matplotlib", "jinja2", "training"),
        "modeling_sim.trainer.loop": ("jinja2", "matplotlib", "modeling_sim.hub", "modeling_sim.report"),
        "modeling_sim.trainer.pretraining": ("jinja2", "modeling_sim.hub", "modeling_sim.report"),
    }
    # transformers imports accelerate and jinja2 by itself where they are installed: that is not of our doing.
    program = (
        "import importlib, sys, transformers.modeling_utils, transformers.feature_extraction_sequence_utils\n"
        "before = set(sys.modules)\n"
        f"for module, unwanted in {unwanted!r}.items():\n"
        "    importlib.import_module(module)\n"
        "    print(*[f'{module}:{name}' for name in unwanted if name in set(sys.modules) - before])"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []
