"""Training methods and how to cite them."""

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from modeling_sim import SimConfig

# The file is next to this one in a wheel, and in the root of a checkout.
_CITATION = next(
    path for folder in (Path(__file__).parent, Path(__file__).parents[2]) if (path := folder / "CITATION.cff").is_file()
)


# Fields with equal names in CITATION.cff and in BibTeX.
_SAME_FIELDS = ("journal", "year", "doi", "note")


class Method(NamedTuple):
    """A training method."""

    name: str
    description: str
    references: tuple[str, ...]
    """Words in the titles of the papers to cite, as in CITATION.cff."""


METHODS = {
    "sim": Method(
        "Smooth InfoMax",
        "Smooth InfoMax (SIM): every module has a Gaussian per frame and its own InfoNCE and KL losses; no gradient "
        "passes between modules",
        ("Smooth InfoMax",),
    ),
    "gim": Method(
        "Greedy InfoMax",
        "Greedy InfoMax (GIM): every module has its own InfoNCE loss; no gradient passes between modules",
        ("Smooth InfoMax", "Gradient-Isolated"),
    ),
    "cpc": Method(
        "Contrastive Predictive Coding",
        "Contrastive Predictive Coding (CPC): one InfoNCE loss, trained end to end",
        ("Smooth InfoMax", "Contrastive Predictive Coding"),
    ),
}


def method_of(config: SimConfig) -> Method:
    """The training method of a configuration."""
    if config.latent_distribution == "gaussian":
        return METHODS["sim"]
    return METHODS["gim" if config.gradient_isolation else "cpc"]


def citation(method: Method) -> str:
    """BibTeX of the papers of a method and of this package, from CITATION.cff."""
    cff = yaml.safe_load(_CITATION.read_text(encoding="utf-8"))
    papers = [cff["preferred-citation"], *cff["references"]]
    chosen = [paper for part in method.references for paper in papers if part in paper["title"]]
    package = {
        "type": "software",
        "title": cff["title"],
        "authors": cff["authors"],
        "note": f"version {cff['version']}",
    }
    return "\n\n".join(_bibtex(entry) for entry in [*chosen, package])


def _bibtex(entry: Mapping[str, Any]) -> str:
    entry_type = {"conference-paper": "inproceedings", "article": "article", "software": "software"}[entry["type"]]
    authors = [_author(author) for author in entry["authors"]]
    surname = entry["authors"][0].get("family-names", entry["title"])
    fields = {"title": f"{{{entry['title']}}}", "author": " and ".join(authors)}
    fields |= {
        name: str(entry[source])
        for name, source in (("booktitle", "collection-title"), *((same, same) for same in _SAME_FIELDS))
        if source in entry
    }
    if "start" in entry:
        fields["pages"] = f"{entry['start']}--{entry['end']}"
    for identifier in entry.get("identifiers", []):
        if identifier["value"].startswith("arXiv:"):
            fields |= {"eprint": identifier["value"].removeprefix("arXiv:"), "archivePrefix": "arXiv"}
    plain = unicodedata.normalize("NFKD", surname).encode("ascii", "ignore").decode()  # BibTeX keys must be ASCII
    key = re.sub(r"\W", "", plain).lower() + str(entry.get("year", ""))
    return "\n".join([f"@{entry_type}{{{key},", *(f"  {name} = {{{value}}}," for name, value in fields.items()), "}"])


def _author(author: Mapping[str, str]) -> str:
    if "name" in author:
        return f"{{{author['name']}}}"
    return f"{author.get('name-particle', '')} {author['family-names']}, {author['given-names']}".strip()
