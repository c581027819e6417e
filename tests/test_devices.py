"""No step of training makes the host wait for the device, and unusable devices raise clear errors."""

import re
import shlex
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_sim import modeling_sim, objectives_sim
from modeling_sim.commands import finetune, pretrain, train_decoder
from modeling_sim.trainer import devices, loop
from modeling_sim.trainer.devices import check_device, what_to_set
from modeling_sim.trainer.pretraining import PretrainingTask
from modeling_sim.trainer.settings import PretrainingArguments

TINY = shlex.split(
    "--crop_samples 6000 --corpus_settings '{num_train: 10, num_test: 4, num_speakers: 2}' --batch_size 3 "
    "--eval_batch_size 4 --save_steps 2 --max_steps 2"
)
SMALL = ["--model_settings", "{hidden_size: 16, context_size: 8, loss_window: 32}"]


class Waits(TorchDispatchMode):
    """Raises where a GPU would make the host wait: a value is read, or a shape depends on values."""

    NAMES = re.compile(r"aten::(_local_scalar_dense|nonzero|masked_select|_unique|unique_|repeat_interleave|equal$)")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        indexed = func.name().startswith(("aten::index.", "aten::index_put")) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if indexed or self.NAMES.match(func.name()):
            raise AssertionError(f"{func.name()} makes the host wait")
        return func(*args, **(kwargs or {}))


def on_an_accelerator(condition, message):
    """What `require` does where the condition is not on the CPU."""
    torch._assert_async(condition, message)


@pytest.fixture
def steps_without_waiting(monkeypatch):
    """Every training step runs under `Waits`; gives the number of steps so far."""
    for module in (objectives_sim, modeling_sim):
        monkeypatch.setattr(module, "require", on_an_accelerator)
    count, step = [], loop.training_step

    def watched(run, batches, *arguments):
        # Batches are read, and their masks looked at, on the CPU.
        ready = [next(batches) for _ in range(run.settings.gradient_accumulation_steps)]
        to_device = devices.to_device
        with monkeypatch.context() as patch:
            for name in ("pretraining", "classification", "decoding"):
                patch.setattr(f"modeling_sim.trainer.{name}.to_device", outside(to_device))
            with Waits():
                step(run, iter(ready), *arguments)
        count.append(1)

    monkeypatch.setattr(loop, "training_step", watched)
    return count


def outside(function):
    """The function without the innermost `TorchDispatchMode`."""

    def call(*arguments):
        with torch.utils._python_dispatch._disable_current_modes():
            return function(*arguments)

    return call


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--execution", "joint", "--max_grad_norm", "1.0", "--gradient_accumulation_steps", "2"],
        ["--crop_samples", "40000"],
        ["--preset", "cpc"],
        ["--preset", "gim-lowe", "--mixed_precision", "bf16"],
        ["--execution", "sequential", "--cache_latents", "True"],
    ],
    ids=["per_module", "joint, clipped", "padded", "cpc", "bf16", "cached latents"],
)
def test_no_step_of_pretraining_waits(tmp_path, steps_without_waiting, flags):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    pretrain.main([*TINY, *SMALL, "--output_dir", str(tmp_path), *flags])
    AcceleratorState._reset_state()
    assert len(steps_without_waiting) >= 2


def test_no_step_of_a_classifier_or_decoder_waits(tmp_path, steps_without_waiting):
    pretrain.main([*TINY, *SMALL, "--output_dir", str(tmp_path / "encoder")])
    model = ["--model", str(tmp_path / "encoder")]
    finetune.main([*TINY, *model, "--output_dir", str(tmp_path / "classifier")])
    assert len(steps_without_waiting) == 4
    train_decoder.main([*TINY, *model, "--loss", "log_mel", "--output_dir", str(tmp_path / "decoder")])
    assert len(steps_without_waiting) == 6


@pytest.mark.parametrize(
    "wait",
    [
        lambda values: values.sum().item(),
        lambda values: values[values > 0],
        lambda values: bool((values > 0).any()),
        lambda values: values.masked_select(values > 0),
        lambda values: values.nonzero(),
    ],
)
def test_what_waits_is_found(wait):
    with Waits(), pytest.raises(AssertionError, match="makes the host wait"):
        wait(torch.ones(3))


# ---------------------------------------------------------------------- devices that will not do


@pytest.fixture
def gpu(monkeypatch):
    """A simulated GPU for `check_device`; each of its properties can be set."""
    facts = SimpleNamespace(count=1, free=70 << 30, capability=(9, 0), precision="no", backend=None, failure=None)

    def memory(_device):
        if facts.failure is not None:
            raise facts.failure
        return facts.free, 80 << 30

    monkeypatch.setattr(torch.cuda, "device_count", lambda: facts.count)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", memory)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: facts.capability)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(1))

    def check():
        state = SimpleNamespace(backend=facts.backend)
        check_device(
            SimpleNamespace(device=torch.device("cuda:0"), mixed_precision=facts.precision, state=state)  # type: ignore[arg-type]
        )

    facts.check = check
    return facts


def test_a_gpu_that_will_do_passes(gpu):
    gpu.check()
    gpu.precision = "bf16"
    gpu.check()


def test_a_full_gpu_is_refused(gpu):
    gpu.free = 300 << 20
    with pytest.raises(ValueError, match=r"0.29 of 80.0 GiB.*CUDA_VISIBLE_DEVICES"):
        gpu.check()
    gpu.failure = torch.OutOfMemoryError("CUDA error: out of memory\nmore lines")
    with pytest.raises(ValueError, match=r"^cuda:0 .*CUDA error: out of memory\. .*CUDA_VISIBLE_DEVICES"):
        gpu.check()


def test_bf16_is_refused_where_the_card_lacks_it(gpu):
    gpu.precision, gpu.capability = "bf16", (7, 5)
    with pytest.raises(ValueError, match=r"`mixed_precision` is 'bf16'.*fp16"):
        gpu.check()


def test_more_processes_than_gpus_are_refused(gpu, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    gpu.count, gpu.backend = 2, "gloo"
    gpu.check()
    gpu.backend = "nccl"
    with pytest.raises(ValueError, match="`num_processes`"):
        gpu.check()


def fail_with(error):
    def fail(*_args, **_kwargs):
        raise error

    return fail


@pytest.mark.parametrize(
    ("variables", "precision", "reason", "is_refused"),
    [
        ({}, "no", "Found no NVIDIA driver on your system", False),
        ({}, "bf16", "Found no NVIDIA driver on your system", False),
        ({}, "fp16", "Found no NVIDIA driver on your system", True),
        ({}, "no", "The NVIDIA driver on your system is too old (found version 11040)", True),
        ({"ACCELERATE_USE_CPU": "true"}, "no", "The NVIDIA driver on your system is too old", False),
        ({"ACCELERATE_USE_CPU": "False", "ACCELERATE_MIXED_PRECISION": "bf16"}, "bf16", "No CUDA GPUs", True),
        ({"ACCELERATE_USE_CPU": "False", "ACCELERATE_MIXED_PRECISION": "no"}, "no", "No CUDA GPUs", False),
    ],
)
def test_a_missing_gpu_is_refused_where_one_was_meant(monkeypatch, variables, precision, reason, is_refused):
    for name in ("ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "init", fail_with(RuntimeError(reason + "\nmore lines")))
    accelerator = SimpleNamespace(device=torch.device("cpu"), mixed_precision=precision)
    if not is_refused:
        check_device(accelerator)  # type: ignore[arg-type]
        return
    with pytest.raises(ValueError, match="ACCELERATE_USE_CPU") as caught:
        check_device(accelerator)  # type: ignore[arg-type]
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_full_memory_says_what_to_set(tmp_path, monkeypatch):
    out_of_memory = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore lines")
    command = [*TINY, *SMALL, "--output_dir", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(PretrainingTask, "backward", fail_with(out_of_memory))
        with pytest.raises(SystemExit, match=r"`batch_size` 3.*--batch_size 2 --gradient_accumulation_steps 2"):
            pretrain.main(command)
    with monkeypatch.context() as patch:
        patch.setattr(PretrainingTask, "evaluate", fail_with(out_of_memory))
        with pytest.raises(SystemExit, match="--eval_batch_size 2"):
            pretrain.main(command)
    with monkeypatch.context() as patch:
        patch.setattr("modeling_sim.trainer.pretraining.build_model", fail_with(out_of_memory))
        with pytest.raises(SystemExit, match=r"Tried to allocate 20\.00 GiB.*CUDA_VISIBLE_DEVICES"):
            pretrain.main(command)
    pretrain.main(command)


def test_the_cheapest_advice_comes_first():
    advice = what_to_set(PretrainingArguments(execution="joint", batch_size=8), "no", in_evaluation=False)
    places = [advice.index(flag) for flag in ("--execution per_module", "--batch_size 4", "--mixed_precision bf16")]
    assert places == sorted(places)
    alone = what_to_set(PretrainingArguments(batch_size=1), "bf16", in_evaluation=False)
    assert "--batch_size" not in alone
    assert "--mixed_precision" not in alone


def test_a_context_gives_its_gradient_in_evaluation_mode(tiny_config, noise):
    """cuDNN only supports it in training mode, so the module is in it while it runs with gradients."""
    model = modeling_sim.SimModel(tiny_config()).eval()
    modes = []
    model.context.register_forward_hook(lambda module, *_: modes.append(module.training))
    model(noise(1, 4000))
    with torch.no_grad():
        model(noise(1, 4000))
    assert modes == [True, False]
    assert not model.context.training
