"""The device of a run: copies to it, checks that it works, and advice when its memory is full."""

import ctypes
import os
import sys
from typing import Any

import torch
from accelerate import Accelerator

from modeling_sim.text import counted
from modeling_sim.trainer.settings import RunArguments

# Less free memory than this is not enough for the libraries of a training step (cuBLAS, cuDNN), let alone a model.
_LEAST_FREE = 1 << 30


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copies a CPU tensor to `device` without making the host wait.

    Only copies from page-locked memory are asynchronous.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def to_device(batch: dict[str, Any], device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Copies samples and mask of a batch to the device; returns no mask without padding, which is faster."""
    attention_mask = batch["attention_mask"]
    if attention_mask.all():  # it is on the CPU, so there is no synchronization
        return send(batch["input_values"], device), None
    return send(batch["input_values"], device), send(attention_mask, device)


def prepare_cuda() -> None:
    """Makes training on a GPU reproducible; call it before the first use of the GPU.

    cuDNN's recurrent layers are only deterministic with a workspace of fixed size, which cuBLAS reads when it starts.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


# Constants of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def prepare_cpu() -> None:
    """Makes training on a CPU faster, for the rest of the process.

    - glibc reuses the memory of large tensors instead of returning it to the kernel, which clears it each time. A step
      takes 4 to 10 % less time, but the process keeps its peak memory. Without glibc nothing changes.
    - Denormal numbers become 0: gradients of unlikely candidates are denormal, and their products are 20 times as slow.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
    torch.set_flush_denormal(True)


def check_device(accelerator: Accelerator) -> None:
    """Checks that the device works and is the intended one.

    Raises:
        ValueError: The launcher is configured for a GPU but none can be used; the driver is too old; several processes
            share a GPU with NCCL; or the GPU is full, not supported by this PyTorch, or lacks the precision.
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
            f"{local} processes were launched for {counted(there, 'GPU')}, but NCCL needs one GPU per process; launch "
            f"with `num_processes` {there}."
        )
    try:
        name = torch.cuda.get_device_name(device)
        free, total = torch.cuda.mem_get_info(device)
        if free >= _LEAST_FREE:
            torch.ones(1, device=device).add_(1).item()  # fails if this PyTorch does not support the GPU
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        raise ValueError(
            f"{device} cannot be used: {_first_line(error)}. Choose another GPU with CUDA_VISIBLE_DEVICES, install a "
            "PyTorch that supports this GPU, or train on the CPU with ACCELERATE_USE_CPU=true."
        ) from error
    if free < _LEAST_FREE:
        raise ValueError(
            f"{device} ({name}) is full: {free / 2**30:.2f} of {total / 2**30:.1f} GiB are free. Choose another GPU "
            "with CUDA_VISIBLE_DEVICES, or end the processes that use this one (see `nvidia-smi`)."
        )
    if precision == "bf16" and torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        raise ValueError(
            f"`mixed_precision` is 'bf16', which {name} does not support (compute capability below 8.0); set "
            "--mixed_precision fp16 or no."
        )


def _check_missing_gpu(precision: str) -> None:
    """Raises if training would run on the CPU although a GPU was requested."""
    use_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower()
    if use_cpu in ("1", "true", "yes", "y", "t", "on"):
        if precision == "fp16":
            raise ValueError("`mixed_precision` 'fp16' needs a GPU; on a CPU use 'bf16' or 'no'.")
        return
    # `accelerate launch` sets both from its file; its defaults have no mixed precision.
    was_meant = use_cpu == "false" and os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no"
    reason = _why_no_gpu()
    if precision == "fp16" or was_meant or "too old" in reason:
        raise ValueError(
            f"a GPU is requested but none can be used: {reason}. Install a newer NVIDIA driver or a PyTorch that "
            "supports this one, or train on the CPU with `use_cpu: true` in the configuration of accelerate (see "
            "`training/accelerate/cpu.yaml`), or ACCELERATE_USE_CPU=true, and `mixed_precision` 'no' or 'bf16'."
        )


def _why_no_gpu() -> str:
    """PyTorch's reason for not finding a GPU; `torch.cuda.is_available` does not give one."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # AssertionError: a PyTorch without CUDA
        return _first_line(error)
    return "PyTorch sees no GPU"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")


def what_to_set(settings: RunArguments, precision: str, *, in_evaluation: bool) -> str:
    """Advice for a run that is out of GPU memory: settings that need less, those with the lowest cost first."""
    if in_evaluation:
        return (
            f"out of GPU memory in evaluation with `eval_batch_size` {settings.eval_batch_size}; set "
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
    return f"out of GPU memory with `batch_size` {settings.batch_size}; set {', or '.join(advice)}"


__all__ = ["check_device", "prepare_cpu", "prepare_cuda", "send", "to_device", "what_to_set"]
