"""The license of a trained model: the strictest of the licenses of its data and of the model that it started from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from modeling_sim.files import read_results

# Strictest first. An unlisted license counts as stricter than all of these, since its terms are unknown.
_STRICTEST_FIRST = ("cc-by-nc-sa-4.0", "cc-by-nc-4.0", "other", "cc-by-sa-4.0", "cc-by-4.0", "apache-2.0", "mit")


def license_name(license_id: str) -> str:
    """The usual name of a license from its Hub id, for example "CC BY-NC-SA 4.0"."""
    if license_id.startswith("cc-by"):
        *terms, version = license_id.upper().split("-")[1:]
        return f"CC {'-'.join(terms)} {version}"
    return {"apache-2.0": "Apache-2.0", "mit": "MIT", "other": "not stated"}.get(license_id, license_id)


def license_of_model(model: str | None) -> str | None:
    """License of a checkpoint, from the results in its folder or from its card on the Hub; `None` if unknown."""
    if not model:
        return None
    results = Path(model) / "results.json"
    if results.is_file():
        read = read_results(results)
        return read.get("license") or read.get("corpus_license")
    if Path(model).exists():
        return None
    try:
        license_id: str | None = ModelCard.load(model).data.license
    except (EntryNotFoundError, HfHubHTTPError, OSError, ValueError):
        return None
    return license_id


def check_license(stated: str, training: Mapping[str, Any]) -> None:
    """Checks that a license is as strict as those that bind a run's model; "other" may be that of its results.

    Raises:
        ValueError: See `refuse_looser`.
    """
    if not stated == training.get("license") == "other":
        refuse_looser(stated, known_licenses(training))


def refuse_looser(stated: str, known: list[str]) -> None:
    """Checks that a license is as strict as those that bind a model.

    Args:
        stated: Hub id of the license.
        known: Hub ids of the licenses of the data and of the model that training started from.

    Raises:
        ValueError: The license is less strict than one of these, or cannot be compared with it.
    """
    for license_id in known:
        if stated == license_id:
            continue
        comparable = stated != "other" and {stated, license_id} <= set(_STRICTEST_FIRST)
        if not comparable:
            raise ValueError(
                f"the license {stated!r} cannot be compared with {license_id!r}, which binds the model; give "
                f"{license_id!r}."
            )
        if strictest([stated, license_id]) != stated:
            raise ValueError(
                f"the license {stated!r} is less strict than {license_id!r}, which binds the model; give "
                f"{license_id!r} or a stricter one."
            )


def strictest(licenses: list[str | None]) -> str:
    """The strictest of some licenses, given by Hub id; `None` is ignored.

    Raises:
        ValueError: All of them are `None`.
    """
    known = [license_id for license_id in licenses if license_id]
    if not known:
        raise ValueError("`licenses` holds no license.")
    unknown = [license_id for license_id in known if license_id not in _STRICTEST_FIRST]
    return unknown[0] if unknown else min(known, key=_STRICTEST_FIRST.index)


def known_licenses(training: Mapping[str, Any]) -> list[str]:
    """The licenses that bind a model, each once, without "other", whose terms are unknown."""
    found = [training.get(name) for name in ("license", "corpus_license", "base_license")]
    return [license_id for license_id in dict.fromkeys(found) if license_id and license_id != "other"]
