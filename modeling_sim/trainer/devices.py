"""The device that a run trains on: copies to it, what it cannot do, and what to set when its memory is full."""

import os
from typing import Any

import torch
from accelerate import Accelerator

from modeling_sim.trainer.settings import RunArguments

# Less free memory than this does not hold the libraries that a training step loads (cuBLAS, cuDNN), let alone a model.
_LEAST_FREE = 1 << 30


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on `device`; the host does not wait for the copy to a GPU.

    Only a copy from page-locked memory runs while the host continues.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def to_device(batch: dict[str, Any], device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Samples and mask of a batch on the device; no mask where nothing is padded, which is faster."""
    attention_mask = batch["attention_mask"]
    if attention_mask.all():  # still on the CPU: nothing waits
        return send(batch["input_values"], device), None
    return send(batch["input_values"], device), send(attention_mask, device)


def prepare_cuda() -> None:
    """Call before the first use of a GPU: the same seed then gives the same weights there.

    cuDNN's recurrent layers repeat to the bit only with a workspace of fixed size, which cuBLAS reads at its start.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def check_device(accelerator: Accelerator) -> None:
    """Refuses a device on which training would fail, or be far from what was asked for.

    Raises:
        ValueError: No GPU can be used although the launcher was set up for one, or the driver is too old; several
            processes share a GPU under NCCL; the GPU is full, cannot run this PyTorch, or lacks the precision.
    """
    device, precision = accelerator.device, accelerator.mixed_precision
    if device.type == "cpu":
        _check_missing_gpu(precision)
        return
    if device.type != "cuda":
        return
    local, there = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if accelerator.state.backend == "nccl" and local > there:
        raise ValueError(
            f"{local} processes were launched for {there} GPU(s), and NCCL takes one process per GPU; set "
            f"`num_processes` of the launch to {there}."
        )
    try:
        name = torch.cuda.get_device_name(device)
        free, total = torch.cuda.mem_get_info(device)
        if free >= _LEAST_FREE:
            torch.ones(1, device=device).add_(1).item()  # a card too old or too new for this PyTorch fails here
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        raise ValueError(
            f"{device} cannot be used: {_first_line(error)}. Choose another GPU with CUDA_VISIBLE_DEVICES, install a "
            "PyTorch for this card, or train on the CPU with ACCELERATE_USE_CPU=true."
        ) from error
    if free < _LEAST_FREE:
        raise ValueError(
            f"{device} ({name}) is full: {free / 2**30:.2f} of {total / 2**30:.1f} GiB are free. Choose another GPU "
            "with CUDA_VISIBLE_DEVICES, or end what uses this one (`nvidia-smi` lists it)."
        )
    if precision == "bf16" and torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        raise ValueError(
            f"`mixed_precision` is 'bf16', which {name} does not have (compute capability below 8.0); set "
            "--mixed_precision fp16 or no."
        )


def _check_missing_gpu(precision: str) -> None:
    """Refuses to train on the CPU where a GPU was meant."""
    use_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower()
    if use_cpu in ("1", "true", "yes", "y", "t", "on"):
        if precision == "fp16":
            raise ValueError("`mixed_precision` 'fp16' needs a GPU; 'bf16' works on CPUs as well.")
        return
    # `accelerate launch` sets both from the file it was given; by its own defaults it has no mixed precision.
    was_meant = use_cpu == "false" and os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no"
    reason = _why_no_gpu()
    if precision == "fp16" or was_meant or "too old" in reason:
        raise ValueError(
            f"a GPU is asked for and none can be used: {reason}. Update the NVIDIA driver or install a PyTorch for it, "
            "or train on the CPU: `use_cpu: true` in the file of accelerate (as `training/accelerate/cpu.yaml`), or "
            "ACCELERATE_USE_CPU=true, with `mixed_precision` 'no' or 'bf16'."
        )


def _why_no_gpu() -> str:
    """What PyTorch says when it looks for a GPU; `torch.cuda.is_available` only answers no."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # the latter of a PyTorch without CUDA
        return _first_line(error)
    return "PyTorch sees no GPU"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")


def what_to_set(settings: RunArguments, precision: str, *, in_evaluation: bool) -> str:
    """One sentence for a GPU whose memory a run has filled: the settings that take less, the cheapest first."""
    if in_evaluation:
        return (
            f"the GPU's memory is full in evaluation, with `eval_batch_size` {settings.eval_batch_size}; set "
            f"--eval_batch_size {max(1, settings.eval_batch_size // 2)}"
        )
    advice = []
    execution = getattr(settings, "execution", None)
    if execution == "joint":
        advice.append("--execution per_module")
    if settings.batch_size > 1:
        half = -(-settings.batch_size // 2)
        accumulated = 2 * settings.gradient_accumulation_steps
        advice.append(f"--batch_size {half} --gradient_accumulation_steps {accumulated} (as many crops per step)")
    if precision == "no":
        advice.append("--mixed_precision bf16")
    advice.append("fewer --crop_samples")
    return f"the GPU's memory is full with `batch_size` {settings.batch_size}; set {', or '.join(advice)}"


__all__ = ["check_device", "prepare_cuda", "send", "to_device", "what_to_set"]
