"""The effect of each part of SIM: sampling, the KL term, independent noise, batch normalization.

    python studies/ablation/run.py --budget 8h

The rows are settings of the same model, from GIM to SIM. Those of sampling and KL come first, with all seeds, so that a
part of the study already compares them; then shared noise and batch normalization, variant by variant. The preset with
readable axes, which differs in several settings, is included for comparison. The last rows use other learning rates
with and without batch normalization, and matrix products in bfloat16. Rerun the same command after an interruption;
`--plan` lists the rows.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from studies.pages import write_page
from studies.runner import Place, Study, StudyRow, main

SEEDS = (0, 1, 2)

# There is no row for a Gaussian head without sampling and KL: from equal weights its training is bit-identical to GIM,
# as a test in tests/test_modeling_sim.py shows, so it would be one more seed of GIM.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "SIM": ("sim-small", {}),
    "GIM": ("gim-small", {}),
    "sampling, no KL": ("sim-small", {"kl_weight": 0.0}),
    "KL, no sampling": ("sim-small", {"sample_latents": False}),
    "SIM, shared noise": ("sim-small", {"shared_noise": True}),
    "sampling, shared noise, no KL": ("sim-small", {"kl_weight": 0.0, "shared_noise": True}),
    "SIM, no batch norm": ("sim-small", {"use_batch_norm": False}),
    "GIM, no batch norm": ("gim-small", {"use_batch_norm": False}),
    "sampling, no KL, no batch norm": ("sim-small", {"kl_weight": 0.0, "use_batch_norm": False}),
    "KL, no sampling, no batch norm": ("sim-small", {"sample_latents": False, "use_batch_norm": False}),
    "readable preset": ("sim-readable-small", {}),
}

_FIRST = ("SIM", "GIM", "sampling, no KL", "KL, no sampling")

# In addition to the default, 0.001: with and without batch normalization, another learning rate may be best.
_LEARNING_RATES = (0.0003, 0.003)


def rows() -> list[StudyRow]:
    """The variants of sampling and KL, seed by seed, each of the others with all seeds, learning rates, precision."""
    first = [(kind, seed) for seed in SEEDS for kind in _FIRST]
    others = [(kind, seed) for kind in VARIANTS if kind not in _FIRST for seed in SEEDS]
    variants = [
        StudyRow(
            f"{kind.lower().replace(', ', '-').replace(' ', '-')}-{seed}",
            kind,
            {"preset": preset, "model_settings": settings},
            seed,
            has_controls=kind == "SIM",
            decoders=(2,) if kind in _FIRST or seed == 0 else (),
        )
        for kind, seed in first + others
        for preset, settings in [VARIANTS[kind]]
    ]
    learning_rates = [
        replace(
            row,
            name=f"{row.name}-learning-rate-{rate}",
            kind=f"{row.kind}, learning rate {rate}",
            settings={**row.settings, "learning_rate": rate},
            decoders=(),
        )
        for row in variants
        for rate in _LEARNING_RATES
        if row.kind in ("GIM", "GIM, no batch norm") and row.seed == 0
    ]
    in_bfloat16 = [
        replace(
            row,
            name=f"sim-bfloat16-{row.seed}",
            kind="SIM, bfloat16",
            settings={**row.settings, "mixed_precision": "bf16"},
            has_controls=False,
        )
        for row in variants
        if row.kind == "SIM"
    ]
    return [*variants, *learning_rates, *in_bfloat16]


_DRAWN = str.split(
    "linear_accuracy abx_within kl wasserstein mmd_whitened best_dimension_gap rotation_gap path_ratio curve_area"
)


def page(place: Place) -> None:
    """Writes tables and pictures of all finished rows."""
    write_page(
        place,
        "What each part of SIM does",
        "Made by `python studies/ablation/run.py` from the results next to it. Means over seeds; **+** and "
        "**\N{MINUS SIGN}** say that SIM is better or worse than the variant of that column with 95 % over seeds.",
        controls=("untrained", "log-mel"),
        drawn={"phones": _DRAWN, "speaker_id": ["linear_accuracy"]},
    )


STUDY = Study(Path(__file__).resolve(), __doc__ or "", rows(), page)

if __name__ == "__main__":
    main(STUDY)
