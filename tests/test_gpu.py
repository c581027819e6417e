"""What must hold on a GPU: `pytest -m gpu`. Without one, MODELING_SIM_TEST_DEVICE=cpu rehearses it on the CPU."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch.nn.functional import cosine_similarity

from modeling_sim import SimConfig, SimFeatureExtractor, SimForPreTraining, SimModel
from modeling_sim.commands import finetune, pretrain, train_decoder
from modeling_sim.layers_sim import run_gru
from modeling_sim.trainer import loop
from modeling_sim.trainer.curves import read_log
from modeling_sim.trainer.devices import prepare_cuda
from modeling_sim.trainer.greedy import backward_step

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parent.parent
TINY = shlex.split(
    "--crop_samples 6000 --corpus_settings '{num_train: 10, num_test: 4, num_speakers: 2}' --batch_size 3 "
    "--eval_batch_size 4 --logging_steps 2 --save_steps 3 --max_steps 5"
)
SMALL = ["--model_settings", "{hidden_size: 16, context_size: 8, loss_window: 32}"]
# Largest difference from float32 on the CPU, of losses as a share, and least cosine between the gradients of a module.
# float32: products are summed in another order. TF32 and bfloat16 have 10 and 7 bits of mantissa; errors of single
# products average out in a loss, but a ReLU at 0 flips, which gradients show.
TOLERANCES = {"float32": (1e-4, 0.9999), "tf32": (5e-3, 0.995), "bf16": (3e-2, 0.95)}


@pytest.fixture(scope="module")
def device():
    """The device to test; a test that needs a real GPU asks for `cuda` instead."""
    name = os.environ.get("MODELING_SIM_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here; MODELING_SIM_TEST_DEVICE=cpu rehearses these tests on the CPU")
    prepare_cuda()
    return torch.device(name)


@pytest.fixture(scope="module")
def cuda(device):
    if device.type != "cuda":
        pytest.skip(f"asks about CUDA, and the device is {device.type}")
    return device


@pytest.fixture
def precision():
    """Sets how float32 is multiplied, and returns whether to use autocast: `precision("tf32")`."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]

    def choose(name):
        for backend in backends:
            backend.allow_tf32 = name == "tf32"
        return name == "bf16"

    choose("float32")
    yield choose
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value


@pytest.fixture(autouse=True)
def accelerator_of_its_own(device, monkeypatch):
    """Each test starts an accelerator of its own precision, on the device."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", str(device.type == "cpu").lower())
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def make(preset="sim", **settings):
    torch.manual_seed(0)
    return SimForPreTraining(SimConfig.preset(preset, **{"hidden_size": 64, "context_size": 32, **settings})).train()


def batch(*, padded=False):
    inputs = torch.randn(4, 10240, generator=torch.Generator().manual_seed(1))
    if not padded:
        return inputs, None
    return inputs, (torch.arange(10240) < torch.tensor([10240, 7000, 4000, 9000])[:, None]).long()


def losses_and_gradients(model, device, inputs, mask, *, autocast=False):
    """Losses of all modules and each module's gradient in a row, on the CPU, with draws that no device changes."""
    model = model.to(device)
    model.zero_grad()
    generator = torch.Generator().manual_seed(3)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
        outputs = model(inputs.to(device), None if mask is None else mask.to(device), generator=generator)
    outputs.loss.backward()
    gradients = [
        torch.cat([parameter.grad.flatten() for parameter in model.module_parameters(module)]).cpu()
        for module in range(model.config.num_modules)
    ]
    return torch.stack(outputs.module_losses).detach().cpu(), gradients


def assert_like(found, expected, name):
    tolerance, least_cosine = TOLERANCES[name]
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=0)
    for module, (gradient, wanted) in enumerate(zip(found[1], expected[1], strict=True)):
        cosine = cosine_similarity(gradient.double(), wanted.double(), dim=0)
        assert cosine > least_cosine, f"module {module}: cosine {cosine:.5f}"
        assert gradient.norm() == pytest.approx(float(wanted.norm()), rel=max(0.1, tolerance))


# ---------------------------------------------------------------------- numbers


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("preset", ["sim", "sim-artificial", "gim-lowe", "cpc"])
@pytest.mark.parametrize("name", TOLERANCES)
def test_losses_and_gradients_are_those_of_the_cpu(device, precision, name, preset, padded):
    inputs, mask = batch(padded=padded)
    expected = losses_and_gradients(make(preset), torch.device("cpu"), inputs, mask)
    autocast = precision(name)
    assert_like(losses_and_gradients(make(preset), device, inputs, mask, autocast=autocast), expected, name)


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_latents_are_those_of_the_cpu(device, precision, padded):
    precision("float32")
    inputs, mask = batch(padded=padded)
    model = make().sim.eval()
    with torch.no_grad():
        expected = model(inputs, mask)
        found = model.to(device)(inputs.to(device), None if mask is None else mask.to(device))
    for left, right in zip(found.means, expected.means, strict=True):
        torch.testing.assert_close(left.cpu(), right, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.last_hidden_state.cpu(), expected.last_hidden_state, rtol=1e-3, atol=1e-4)
    assert torch.equal(found.frame_mask.cpu(), expected.frame_mask)


def test_padding_changes_no_latent(device, precision):
    precision("float32")
    model = make().sim.eval().to(device)
    inputs, mask = (tensor.to(device) for tensor in batch(padded=True))
    with torch.no_grad():
        together = model(inputs, mask).means[-1]
        for row, length in enumerate(mask.sum(1).tolist()):
            alone = model(inputs[row : row + 1, :length]).means[-1]
            torch.testing.assert_close(together[row : row + 1, : alone.shape[1]], alone, rtol=1e-3, atol=1e-4)


def test_gradients_reach_the_waveform_in_evaluation_mode(device):
    """cuDNN's recurrent layers have no gradient in evaluation mode unless they are asked for one."""
    inputs = batch()[0][:1].to(device).requires_grad_()
    make().sim.eval().to(device)(inputs).last_hidden_state.sum().backward()
    assert inputs.grad.abs().sum() > 0


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_per_module_has_the_gradients_of_joint(device, precision, padded):
    precision("float32")
    inputs, mask = (None if tensor is None else tensor.to(device) for tensor in batch(padded=padded))
    found = {}
    for execution in ("joint", "per_module"):
        model = make().to(device)
        backward_step(model, Accelerator(), inputs, mask, execution=execution, seed=5, step=7)
        found[execution] = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, gradient in found["joint"].items():
        torch.testing.assert_close(found["per_module"][name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_a_gru_in_float32(device, dtype):
    gru, frames = torch.nn.GRU(8, 4, batch_first=True).to(device), torch.randn(2, 5, 8, device=device)
    expected, _ = run_gru(gru, frames)
    with torch.autocast(device.type, dtype=dtype):
        found, state = run_gru(gru, frames.to(dtype))
    assert found.dtype == state.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)


def test_the_feature_extractor_takes_audio_from_the_device(device):
    extractor, audio = SimFeatureExtractor(), batch()[0][0]
    expected = extractor(audio, sampling_rate=16000, return_tensors="pt")
    # As Whisper's, it gives tensors of the CPU whatever `device` is; `BatchFeature.to` moves them.
    found = extractor(audio.to(device), sampling_rate=16000, return_tensors="pt", device=str(device))
    assert torch.equal(found["input_values"], expected["input_values"])
    outputs = make().sim.eval().to(device)(**found.to(device))
    assert outputs.last_hidden_state.device.type == device.type


# ---------------------------------------------------------------------- runs


def train(output_dir, *flags):
    AcceleratorState._reset_state(reset_partial_state=True)
    pretrain.main([*TINY, *SMALL, "--output_dir", str(output_dir), *flags])
    return load_file(output_dir / "model.safetensors")


def different(left, right):
    return sorted(name for name in left if not torch.equal(left[name], right[name]))


@pytest.mark.parametrize("flags", [[], ["--mixed_precision", "bf16"]], ids=["float32", "bf16"])
def test_a_seed_gives_the_same_weights_twice(device, tmp_path, flags):
    assert different(train(tmp_path / "first", *flags), train(tmp_path / "second", *flags)) == []


def test_a_killed_run_ends_with_the_same_weights(device, tmp_path, killed_at):
    whole = train(tmp_path / "whole")
    killed_at(5, lambda: train(tmp_path / "killed"))
    assert different(train(tmp_path / "killed"), whole) == []
    assert len(read_log(tmp_path / "killed" / "log.jsonl")) == len(read_log(tmp_path / "whole" / "log.jsonl"))


def test_executions_end_with_the_same_weights(device, tmp_path):
    joint, per_module = train(tmp_path / "joint", "--execution", "joint"), train(tmp_path / "per_module")
    for name in joint:
        torch.testing.assert_close(per_module[name], joint[name], rtol=1e-3, atol=1e-4)


def test_fp16_trains_with_a_scaler_and_resumes(cuda, tmp_path, killed_at):
    whole = train(tmp_path / "whole", "--mixed_precision", "fp16")
    assert all(tensor.isfinite().all() for tensor in whole.values() if tensor.is_floating_point())
    log = [line for line in read_log(tmp_path / "whole" / "log.jsonl") if line["split"] == "train"]
    assert all(module["loss"] is not None for line in log for module in line["modules"])
    killed_at(5, lambda: train(tmp_path / "killed", "--mixed_precision", "fp16"))
    assert different(train(tmp_path / "killed", "--mixed_precision", "fp16"), whole) == []


# ---------------------------------------------------------------------- no waiting


@pytest.fixture
def strict_steps(device, monkeypatch):
    """The third step and those after it raise where the host waits for the GPU; earlier ones load and compile."""
    step = loop.training_step

    def strict(run, batches, stage_step, *arguments):
        if device.type != "cuda" or stage_step < 3:
            return step(run, batches, stage_step, *arguments)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(run, batches, stage_step, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop, "training_step", strict)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--execution", "joint", "--max_grad_norm", "1.0", "--gradient_accumulation_steps", "2"],
        ["--crop_samples", "40000"],
        ["--preset", "cpc"],
        ["--preset", "gim-lowe"],
        ["--mixed_precision", "bf16"],
        ["--num_workers", "2"],
        ["--execution", "sequential", "--cache_latents", "True"],
    ],
    ids=["per_module", "joint, clipped", "padded", "cpc", "gim-lowe", "bf16", "workers", "cached latents"],
)
def test_no_step_of_pretraining_waits_for_the_device(device, tmp_path, strict_steps, flags):
    train(tmp_path, *flags)


def test_no_fp16_step_waits_for_the_device(cuda, tmp_path, strict_steps):
    train(tmp_path, "--mixed_precision", "fp16", "--max_grad_norm", "1.0")


def test_no_step_of_a_classifier_or_decoder_waits_for_the_device(device, tmp_path, strict_steps):
    train(tmp_path / "encoder")
    model = ["--model", str(tmp_path / "encoder")]
    finetune.main([*TINY, *model, "--output_dir", str(tmp_path / "classifier")])
    for loss in ("waveform", "log_mel"):
        train_decoder.main([*TINY, *model, "--loss", loss, "--output_dir", str(tmp_path / f"decoder_{loss}")])


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_no_step_without_the_trainer_waits_for_the_device(device, padded):
    model = make().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    inputs, mask = (None if tensor is None else tensor.to(device) for tensor in batch(padded=padded))

    def step():
        model(inputs, mask).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_reading_a_value_would_be_noticed(cuda):
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            torch.ones(1, device=cuda).item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---------------------------------------------------------------------- several processes

# Both processes take the first GPU under gloo, and one each under NCCL, which refuses to share.
PROCESS = """
import functools, sys
from accelerate import PartialState
from modeling_sim.commands import pretrain
from modeling_sim.trainer import run
run.PartialState = functools.partial(PartialState, backend=sys.argv.pop(1))  # the accelerator shares its state
pretrain.main(sys.argv[1:])
"""


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_two_processes_end_with_one_model(device, tmp_path, backend):
    if backend == "nccl" and (device.type != "cuda" or torch.cuda.device_count() < 2):
        pytest.skip("NCCL takes a GPU per process, and there are not two")
    (tmp_path / "process.py").write_text(PROCESS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = [*TINY, *SMALL, "--output_dir", str(tmp_path / "run"), "--max_grad_norm", "1.0"]
    processes = []
    for rank in range(2):
        places = {"RANK": rank, "LOCAL_RANK": rank if backend == "nccl" else 0, "WORLD_SIZE": 2, "MASTER_PORT": port}
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "PYTHONPATH": str(ROOT),
            **{name: str(value) for name, value in places.items()},
        }
        with (tmp_path / f"{rank}.txt").open("w") as output:
            command = [sys.executable, str(tmp_path / "process.py"), backend, *flags]
            processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0], "".join(path.read_text()[-3000:] for path in tmp_path.glob("*.txt"))
    log = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line["split"] == "train"]
    assert len(log) == 3
    assert SimModel.from_pretrained(tmp_path / "run").device.type == "cpu"


# ---------------------------------------------------------------------- compiled: last, as compilers take a minute each


@pytest.mark.skipif(shutil.which("cc") is None, reason="torch.compile needs a C compiler")
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_compiled_modules_have_the_same_losses_and_gradients(device, precision, padded):
    precision("float32")
    inputs, mask = batch(padded=padded)
    expected = losses_and_gradients(make(), device, inputs, mask)
    model = make().to(device)
    for module in model.sim.conv_modules:
        module.compile()
    assert_like(losses_and_gradients(model, device, inputs, mask), expected, "float32")


@pytest.mark.skipif(shutil.which("cc") is None, reason="torch.compile needs a C compiler")
def test_no_compiled_step_waits_for_the_device(cuda, tmp_path, strict_steps):
    train(tmp_path, "--torch_compile", "True")
