"""Pretraining's precision by default, and what keeps a processor's memory from going back and forth."""

import json

import pytest
import torch

from modeling_sim.settings import as_dict
from modeling_sim.trainer import run
from modeling_sim.trainer.settings import PretrainingArguments, RunArguments


@pytest.mark.parametrize(
    ("has_amx", "on_cpu", "launched", "expected"),
    [(True, True, None, "bf16"), (False, True, None, None), (True, False, None, None), (True, True, "no", None)],
)
def test_the_default_is_bf16_where_the_processor_multiplies_it_fast(has_amx, on_cpu, launched, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr(run.AcceleratorState, "_shared_state", {})
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    assert run.default_precision(on_cpu=on_cpu) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (PretrainingArguments(), "bf16"),
        (PretrainingArguments(mixed_precision="no"), "no"),
        (RunArguments(), "no"),  # of the other commands
    ],
)
def test_only_pretraining_without_a_precision_takes_the_default(settings, expected, monkeypatch):
    made = {}
    monkeypatch.setattr(run, "default_precision", lambda **_: "bf16")
    monkeypatch.setattr(run, "keep_freed_memory", lambda: made.update(kept=True))
    monkeypatch.setattr(run, "check_device", lambda _: None)
    monkeypatch.setattr(run, "Accelerator", lambda **arguments: made.update(arguments))
    run.make_accelerator(settings)
    assert (made["mixed_precision"] or "no") == expected
    assert made["kept"]


def test_settings_keep_saying_that_no_precision_was_given():
    # A run that is found finished, or resumed on another machine, is the same run.
    assert json.loads(json.dumps(as_dict([PretrainingArguments()])))["mixed_precision"] is None
