"""Complete runs in every execution: they end with the same weights, and settings have their effect."""

import json
import math
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate import Accelerator, DistributedType
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from processes import launch
from safetensors.torch import load_file

from modeling_sim import SimConfig, SimForPreTraining
from modeling_sim.commands import pretrain
from modeling_sim.trainer import latent_cache
from modeling_sim.trainer import loop as trainer
from modeling_sim.trainer import pretraining as pretraining_task
from modeling_sim.trainer.curves import read_log
from modeling_sim.trainer.loop import EarlyStopping
from modeling_sim.trainer.pipeline import share_out
from modeling_sim.trainer.pretraining import CollapseWatch
from modeling_sim.trainer.run import check_trackers
from modeling_sim.trainer.settings import RunArguments

ROOT = Path(__file__).parent.parent
TINY = shlex.split(
    "--model_settings '{hidden_size: 16, context_size: 8, loss_window: 32}' --crop_samples 6000 "
    "--corpus_settings '{num_train: 10, num_test: 4, num_speakers: 2}' --batch_size 3 --eval_batch_size 4 "
    "--logging_steps 2 --save_steps 3 --max_steps 5"
)
# Crops as long as the longest utterance: every epoch's crop is the same.
COMPLETE = ["--crop_samples", "40000"]
# The Gaussian critic and all penalties, on few channels.
READABLE = shlex.split(
    "--preset sim-readable-small "
    "--model_settings '{hidden_size: 16, latent_size: 8, context_size: 8, loss_window: 32, prediction_offsets: [1, 8]}'"
)


def train(output_dir, *flags):
    pretrain.main([*TINY, "--output_dir", str(output_dir), *flags])
    return load_file(output_dir / "model.safetensors")


def of_module(weights, module):
    names = (f"sim.conv_modules.{module}.", f"predictors.{module}.")
    return {name: tensor for name, tensor in weights.items() if name.startswith(names)}


def assert_equal(left, right):
    assert left.keys() == right.keys()
    assert left
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.fixture(scope="module")
def per_module(tmp_path_factory):
    return train(tmp_path_factory.mktemp("per_module"))


def test_the_gaussian_critic_learns_the_same_in_every_execution(tmp_path):
    joint, per_module, sequential = (
        train(tmp_path / execution, *READABLE, "--execution", execution)
        for execution in ("joint", "per_module", "sequential")
    )
    assert_equal(joint, per_module)
    assert_equal(of_module(sequential, 0), of_module(per_module, 0))


# ---------------------------------------------------------------------- sequential


@pytest.fixture(scope="module")
def sequential(tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("sequential")
    return output_dir, train(output_dir, "--execution", "sequential")


def test_the_first_module_of_a_sequential_run_is_that_of_any_other(per_module, sequential):
    assert_equal(of_module(sequential[1], 0), of_module(per_module, 0))
    assert not torch.equal(sequential[1]["predictors.1.weight"], per_module["predictors.1.weight"])


def test_a_sequential_run_trains_every_module_for_all_steps(sequential):
    output_dir, weights = sequential
    log = read_log(output_dir / "log.jsonl")
    trained = [[module["loss"] is not None for module in line["modules"]] for line in log if line["split"] == "train"]
    assert trained == [[row == module for row in range(4)] for module in range(4) for _ in range(3)]
    assert log[-1]["step"] == 20
    assert weights["sim.conv_modules.2.layers.0.norm.num_batches_tracked"] == 5


@pytest.mark.parametrize("step", [4, 8, 13])
def test_a_sequential_run_resumes_in_the_middle(sequential, tmp_path, monkeypatch, step):
    training_step = trainer.training_step

    def until(run, *arguments):
        if run.counts.step == step:
            raise KeyboardInterrupt
        training_step(run, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "training_step", until)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, "--execution", "sequential")
    assert_equal(train(tmp_path, "--execution", "sequential"), sequential[1])


def test_a_sequential_checkpoint_is_not_resumed_by_another_execution(sequential, tmp_path):
    checkpoint = min(sequential[0].glob("checkpoint-*"))
    with pytest.raises(SystemExit, match="'sequential'"):
        train(tmp_path, "--resume", str(checkpoint))


@pytest.mark.parametrize("preset", ["gim", "sim"])
def test_cached_latents_train_the_same_modules(tmp_path, preset):
    """Deterministic latents are the same read from disk; those of a Gaussian are drawn again."""
    settings = ["--execution", "sequential", "--preset", preset, *COMPLETE]
    train(tmp_path / "online", *settings)
    train(tmp_path / "cached", *settings, "--cache_latents", "True")
    losses = {}
    for run in ("online", "cached"):
        log = [line for line in read_log(tmp_path / run / "log.jsonl") if line["split"] == "train"]
        losses[run] = [[module["loss"] for module in line["modules"] if module["loss"] is not None] for line in log]
    # Up to rounding: a latent's last bits depend on the batch it was computed in. The noise of a Gaussian two modules
    # below was drawn once, so from the third module on losses differ as noise does.
    exact = len(losses["cached"]) if preset == "gim" else 2 * 3
    for cached, online in zip(losses["cached"][:exact], losses["online"][:exact], strict=True):
        assert cached == pytest.approx(online, rel=1e-5)
    for cached, online in zip(losses["cached"], losses["online"], strict=True):
        assert cached == pytest.approx(online, rel=0.1)
    counted = [[module["active_units"] is not None for module in line["modules"]] for line in log]
    assert counted[0] == [True, False, False, False]
    assert counted[-1] == [False, False, False, True]  # none of modules whose latents are read
    assert not list((tmp_path / "cached").glob(".latents*"))


def test_the_cache_is_estimated_and_a_full_disk_refused_beforehand(tmp_path, monkeypatch, capsys):
    flags = ["--execution", "sequential", "--cache_latents", "True", *COMPLETE]
    train(tmp_path / "fits", *flags)
    config = SimConfig.preset("sim-small", hidden_size=16, context_size=8)
    frames = [config.num_frames(40000, module) for module in range(3)]
    expected = 4 * 10 * 16 * 2 * (frames[0] + frames[1])
    assert latent_cache.cache_bytes(config, num_utterances=10, crop_samples=40000) == expected
    assert f"{expected / 1e9:.2f} GB" in capsys.readouterr().out
    usage = type("Usage", (), {"free": expected})
    monkeypatch.setattr(latent_cache.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SystemExit, match="`cache_latents`"):
        train(tmp_path / "full", *flags)
    assert not (tmp_path / "full" / "log.jsonl").exists()


# ---------------------------------------------------------------------- pipeline


def launched(processes, output_dir, *flags):
    launch(processes, "training/pretrain.py", *TINY, "--output_dir", output_dir, *flags)
    return load_file(output_dir / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "stages"), [(2, 2), (4, 4), (3, 3)])
def test_a_pipeline_ends_with_the_weights_of_one_process(per_module, tmp_path, processes, stages):
    assert_equal(launched(processes, tmp_path, "--execution", "pipeline"), per_module)
    log = read_log(tmp_path / "log.jsonl")
    assert all(math.isfinite(module["loss"]) for line in log for module in line["modules"])
    assert len(log[0]["modules"]) == 4
    assert stages == processes


@pytest.mark.slow
def test_replicas_of_a_pipeline_are_data_parallel(tmp_path):
    pipelines = launched(4, tmp_path / "pipelines", "--execution", "pipeline", "--pipeline_stages", "2")
    parallel = launched(2, tmp_path / "parallel")
    assert_equal(pipelines, parallel)


@pytest.mark.slow
def test_a_pipelines_checkpoint_is_an_ordinary_one(tmp_path):
    """Started by two processes in a pipeline, finished by one in a different execution."""
    launched(2, tmp_path / "pipeline", "--execution", "pipeline", "--max_steps", "7", "--lr_scheduler_type", "constant")
    checkpoint = tmp_path / "pipeline" / "checkpoint-6"
    rest = ["--resume", str(checkpoint), "--max_steps", "7", "--lr_scheduler_type", "constant"]
    assert_equal(train(tmp_path / "rest", *rest), load_file(tmp_path / "pipeline" / "model.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("flags", [COMPLETE, READABLE], ids=["padded crops", "Gaussian critic"])
def test_a_pipeline_learns_the_same_as_one_process(flags, tmp_path):
    assert_equal(launched(2, tmp_path / "pipeline", "--execution", "pipeline", *flags), train(tmp_path / "one", *flags))


def test_stages_share_the_cost():
    assert share_out([6.0, 2.0, 1.0, 1.0], 2) == [range(1), range(1, 4)]
    assert share_out([1.0, 1.0, 1.0, 6.0], 2) == [range(3), range(3, 4)]
    assert share_out([1.0] * 4, 4) == [range(module, module + 1) for module in range(4)]
    with pytest.raises(ValueError, match="`pipeline_stages`"):
        share_out([1.0] * 4, 5)


# ---------------------------------------------------------------------- several machines


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_processes")
    launched(2, folder, "--eval_batch_size", "2")
    return folder


def test_two_processes_score_the_model_that_they_save(two_processes, tmp_path):
    train(tmp_path, "--init_from", str(two_processes), "--max_steps", "1")
    saved, again = read_log(two_processes / "log.jsonl")[-1], read_log(tmp_path / "log.jsonl")[0]
    assert saved["split"] == again["split"] == "test"
    for score, expected in zip(saved["modules"][:3], again["modules"], strict=False):
        assert score["kl"] == pytest.approx(expected["kl"], rel=1e-5)


@pytest.mark.slow
def test_a_reader_that_dies_in_one_of_two_processes_ends_the_run_after_a_save(tmp_path):
    script = tmp_path / "reader.py"
    script.write_text(
        """
import os
import sys
from modeling_sim.commands import pretrain
from modeling_sim.data.batches import ReaderError
from modeling_sim.trainer import task

crop_batches = task.crop_batches

def breaking(*arguments, **options):
    for number, batch in enumerate(crop_batches(*arguments, **options)):
        if number == 4 and os.environ["RANK"] == "0":
            raise ReaderError("a reader process died")
        yield batch

task.crop_batches = breaking
pretrain.main(sys.argv[1:])
"""
    )
    with pytest.raises(AssertionError):  # of the exit status
        launch(2, script, *TINY, "--output_dir", tmp_path / "run")
    assert (tmp_path / "run" / "checkpoint-4").is_dir()


@pytest.mark.slow
def test_two_processes_resume_on_the_same_finished_modules(tmp_path):
    """Batch normalization of finished modules has the statistics of one process, as after a resumption."""
    flags = ["--execution", "sequential", "--save_total_limit", "9"]
    complete = launched(2, tmp_path, *flags)
    (tmp_path / "results.json").unlink()
    for step in range(9, 21):  # resumes in the second of four stages of 5 steps
        shutil.rmtree(tmp_path / f"checkpoint-{step}", ignore_errors=True)
    assert_equal(launched(2, tmp_path, *flags), complete)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def started(number, launcher, output_dir, **variables):
    """Starts one of two machines, with its output in a file."""
    with (output_dir / f"{number}.txt").open("w") as output:
        return subprocess.Popen(
            [*launcher, "training/pretrain.py", *TINY, "--output_dir", str(output_dir / "run")],
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", **variables},
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )


def launch_of_accelerate(number, output_dir, port):
    return started(
        number,
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
            *("--num_machines", "2", "--machine_rank", str(number), "--mixed_precision", "no"),
            *("--dynamo_backend", "no", "--main_process_ip", "127.0.0.1", "--main_process_port", str(port)),
        ],
        output_dir,
    )


def launch_of_slurm(number, output_dir, port):
    """The launch of a task in the script of docs/cluster.md."""
    places = {"RANK": str(number), "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    return started(number, [sys.executable], output_dir, **places, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


@pytest.mark.slow
@pytest.mark.parametrize("machine", [launch_of_accelerate, launch_of_slurm])
def test_two_machines_end_with_the_weights_of_two_processes_on_one(two_processes, tmp_path, machine):
    port = free_port()
    machines = [machine(number, tmp_path, port) for number in range(2)]
    try:
        codes = [process.wait(timeout=300) for process in machines]
    finally:
        for process in machines:
            process.kill()
    assert codes == [0, 0], "".join(path.read_text()[-3000:] for path in tmp_path.glob("*.txt"))
    assert_equal(*(load_file(folder / "model.safetensors") for folder in (tmp_path / "run", two_processes)))
    assert json.loads((tmp_path / "run" / "results.json").read_text())["crops"] == 5 * 3 * 2


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_launches_that_shard_are_refused(monkeypatch, kind):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    accelerator = SimpleNamespace(num_processes=1, distributed_type=DistributedType(kind))
    with pytest.raises(ValueError, match=f"`distributed_type` {kind}"):
        trainer.check_processes(accelerator)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--execution", "pipeline"], "`execution` 'pipeline'"),
        (["--execution", "sequential", "--preset", "cpc"], "`gradient_isolation`"),
        (["--cache_latents", "True"], "`cache_latents`"),
        (["--gather_negatives", "True"], "`gather_negatives`"),
        (["--report_to", "tensorbord"], "'tensorboard'"),
        (["--early_stopping_patience", "2"], "`eval_steps`"),
        (["--push_to_hub", "True"], "`repo_id`"),
        (["--gradient_accumulation_steps", "0"], "`gradient_accumulation_steps`"),
    ],
)
def test_invalid_settings_are_refused(tmp_path, flags, message):
    with pytest.raises(SystemExit, match=message):
        train(tmp_path, *flags)


# ---------------------------------------------------------------------- gathered negatives


@pytest.mark.slow
def test_gathered_negatives_have_the_gradients_of_one_batch(tmp_path):
    script = tmp_path / "gathered.py"
    script.write_text(
        """
import torch
from accelerate import Accelerator, DistributedType
from modeling_sim import SimConfig, SimForPreTraining
from modeling_sim.trainer.greedy import backward_step, module_generator

accelerator = Accelerator(cpu=True)
rank = accelerator.process_index
config = SimConfig.preset("sim", hidden_size=8, context_size=8, use_batch_norm=False)
torch.manual_seed(0)
model = SimForPreTraining(config).train()
batches = torch.randn(2, 2, 8000, generator=torch.Generator().manual_seed(1))
backward_step(model, accelerator, batches[rank], seed=0, step=1, gather_negatives=True)
averaged = [parameter.grad.clone() for parameter in model.parameters()]
model.zero_grad()

# One process with all crops: both parts' latents first, then each part's loss with the other's as negatives.
hidden = [model.sim.prepare_inputs(batch)[0] for batch in batches]
for module in range(config.num_modules):
    latents, outputs = {}, []
    for collect in (True, False):
        handed_on = []
        for part in range(2):
            def gather(own, mask, part=part):
                latents[part] = own if collect else latents[part]
                other = latents.get(1 - part)
                return (torch.empty(0, *own.shape[1:]) if other is None else other), None
            output = model.module_objective(
                module, hidden[part], generator=module_generator(0, 1, module, part, torch.device("cpu")),
                gather_latents=gather,
            )
            handed_on.append(output)
        outputs = handed_on
    # the gathered latents are of the first round; gradients reach them there
    (sum(output.loss for output in outputs) / 2).backward()
    hidden = [output.hidden_state.detach() for output in outputs]
for got, wanted in zip(averaged, [parameter.grad for parameter in model.parameters()]):
    torch.testing.assert_close(got, wanted)
assert any((got != 0).any() for got in averaged)
"""
    )
    launch(2, script)


def test_others_latents_are_negatives_like_the_batchs_own(noise):
    from modeling_sim.objectives_sim import draw_negatives, info_nce

    latents, weight = noise(5, 12, 4, seed=1), noise(2, 4, 4, seed=2)
    context = noise(2, 12, 4, seed=3)
    frames = torch.randint(60, (2, 11, 6), generator=torch.Generator().manual_seed(0))
    loss = info_nce(context, latents[:2], weight, other_latents=latents[2:], negative_frames=frames).loss
    bank = latents.flatten(0, 1)[frames]
    expected = []
    for step in range(2):
        anchors = slice(0, 11 - step)
        predicted = context[:, anchors] @ weight[step].T
        positive = (predicted * latents[:2, step + 1 : 12]).sum(-1, keepdim=True)
        negative = (predicted[:, :, None] * bank[:, anchors]).sum(-1)
        expected.append(-torch.cat([positive, negative], -1).log_softmax(-1)[..., 0].mean())
    torch.testing.assert_close(loss, torch.stack(expected).mean())

    anchors = torch.arange(24).view(2, 12)
    mask = torch.ones(5, 12)
    mask[3] = 0
    drawn = draw_negatives(anchors, 12, 2, 500, "other_utterances", mask, num_utterances=5)
    assert set((drawn[0] // 12).unique().tolist()) == {1, 2, 4}
    assert set((drawn[1] // 12).unique().tolist()) == {0, 2, 4}


# ---------------------------------------------------------------------- settings of a run


def test_gradients_accumulate_to_those_of_a_larger_step(tmp_path, monkeypatch):
    """One optimizer step is one schedule step, and reads as many batches as accumulate."""
    keys = []
    backward = pretraining_task.PretrainingTask.backward

    def record(self, batch, step, *, loss_scale, accumulating):
        keys.append((step, loss_scale, accumulating, tuple(batch["position"].tolist())))
        return backward(self, batch, step, loss_scale=loss_scale, accumulating=accumulating)

    monkeypatch.setattr(pretraining_task.PretrainingTask, "backward", record)
    train(tmp_path, "--gradient_accumulation_steps", "2", "--max_steps", "2", "--preset", "gim")
    assert keys == [
        (1, 0.5, True, (0, 1, 2)),
        (2, 0.5, False, (3, 4, 5)),
        (3, 0.5, True, (6, 7, 8)),
        (4, 0.5, False, (9, 10, 11)),
    ]
    assert json.loads((tmp_path / "results.json").read_text())["crops"] == 12


def test_accumulated_gradients_are_the_mean(noise):
    from modeling_sim.trainer.greedy import GradientAverages, Placement, backward_modules

    accelerator = Accelerator(cpu=True)
    model = SimForPreTraining(SimConfig.preset("gim", hidden_size=8, context_size=8, use_batch_norm=False)).train()
    placement, batches = Placement.data_parallel(model, accelerator), noise(2, 2, 6000)

    def gradients(numbers, scale):
        model.zero_grad()
        for number in numbers:
            inputs, lengths = model.sim.prepare_inputs(batches[number])
            list(
                backward_modules(
                    model,
                    accelerator,
                    placement,
                    inputs,
                    lengths,
                    averages=GradientAverages(placement),
                    execution="per_module",
                    trained=range(4),
                    loss_scale=scale,
                    seed=0,
                    step=number,
                )
            )
        return [parameter.grad.clone() for parameter in model.parameters()]

    both, first, second = gradients((0, 1), 0.5), gradients((0,), 1.0), gradients((1,), 1.0)
    for mean, one, two in zip(both, first, second, strict=True):
        torch.testing.assert_close(mean, (one + two) / 2)


def test_epochs_set_the_steps(tmp_path):
    train(tmp_path, "--num_train_epochs", "1.5")
    assert json.loads((tmp_path / "results.json").read_text())["steps"] == 5  # 15 crops by 3
    with pytest.raises(ValueError, match="`max_steps`"):
        trainer.steps_of_epochs(RunArguments(num_train_epochs=1), None, 1)


def test_time_ends_a_run_as_steps_do(tmp_path, capsys):
    train(tmp_path, "--max_steps", "500", "--max_train_time", "0.002")
    results = json.loads((tmp_path / "results.json").read_text())
    assert 0 < results["steps"] < 500
    assert "`max_train_time`" in capsys.readouterr().out
    assert (tmp_path / "model.safetensors").exists()


def test_modules_stop_from_the_bottom_up():
    stopping = EarlyStopping()
    rows = range(3)
    assert stopping.update([1.0, 1.0, 1.0], rows, 2, together=False) == []
    assert stopping.update([1.1, 0.9, 1.0], rows, 2, together=False) == []
    assert stopping.update([1.2, 0.8, 1.0], rows, 2, together=False) == [0]
    assert stopping.update([9.9, 0.9, 1.0], rows, 2, together=False) == []
    assert stopping.update([9.9, 0.8, 1.0], rows, 2, together=False) == [1, 2]
    assert stopping.best[0] == 1.0


@pytest.mark.parametrize("together", [False, True])
def test_a_loss_that_is_not_a_number_is_never_the_lowest(together):
    stopping = EarlyStopping()
    for loss in (math.nan, 5.0, 4.0, 3.0, 2.0):
        assert stopping.update([loss], range(1), 2, together=together) == []
    assert stopping.best == [2.0]


def test_each_stage_of_a_sequential_run_can_stop_early():
    """The first module trains to the end; the second stops, although the first did not."""
    stopping = EarlyStopping()
    assert stopping.update([1.0, 5.0], range(1), 1, together=False) == []
    stopping.finished = 1  # as the second stage begins
    assert stopping.update([1.0, 4.0], range(1, 2), 1, together=False) == []
    assert stopping.update([1.0, 4.5], range(1, 2), 1, together=False) == [1]


def test_a_sequential_run_stops_stages_early(tmp_path, monkeypatch, capsys):
    losses = iter([9.0, 3.0, 2.0, 1.0, 0.5, *[5.0] * 40])  # the first module gets better to its end, no other does
    score = pretraining_task.PretrainingTask.evaluate

    def scripted(self):
        value = next(losses)
        return [{**row, "loss": value} for row in score(self)]

    monkeypatch.setattr(pretraining_task.PretrainingTask, "evaluate", scripted)
    train(tmp_path, "--execution", "sequential", "--eval_steps", "1", "--early_stopping_patience", "1")
    output = capsys.readouterr().out
    assert re.findall(r"stopped .*?(module \d|context)", output) == ["module 1", "module 2", "context"]


def test_a_finished_module_stays_as_it_is(tmp_path, monkeypatch, capsys):
    """Module 0 stops after the second evaluation; the others continue."""
    states = []
    score = pretraining_task.PretrainingTask.evaluate

    def worse(self):
        states.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
        scores = score(self)
        scores[0]["loss"] = 1.0 + len(states)
        for row in range(1, 4):
            scores[row]["loss"] = 9.0 - len(states)
        return scores

    monkeypatch.setattr(pretraining_task.PretrainingTask, "evaluate", worse)
    train(tmp_path, "--eval_steps", "1", "--early_stopping_patience", "1", "--logging_steps", "1")
    assert re.findall(r"stopped .*?(module \d).*?(\d+)", capsys.readouterr().out) == [("module 0", "2")]
    assert_equal(of_module(states[-1], 0), of_module(states[2], 0))
    assert not torch.equal(states[-1]["predictors.1.weight"], states[2]["predictors.1.weight"])
    log = [line for line in read_log(tmp_path / "log.jsonl") if line["split"] == "train"]
    assert [line["modules"][0]["loss"] is None for line in log] == [False, False, True, True, True]


def scores(accuracy, units):
    return {"contrastive_accuracy": accuracy, "active_units": units, "kl": 1.0, "loss": 1.0}


def test_a_collapse_is_reported_once():
    config = SimConfig.preset("sim-small")
    watch = CollapseWatch(config)
    good, chance, dead = scores(0.5, 10), scores(0.09, 10), scores(0.5, 0)
    assert watch.sentences([chance] * 4, step=10) == []
    assert watch.sentences([good, chance, good, good], step=110) == []
    (sentence,) = watch.sentences([good, chance, good, good], step=120)
    assert sentence.startswith("module 1")
    assert sentence.count("0.09") == 2  # its accuracy, and chance
    assert "`kl_weight` (now 0.0005)" in sentence
    assert watch.sentences([good, chance, good, good], step=130) == []
    (sentence,) = watch.sentences([good] * 4, step=140)
    assert sentence.startswith("module 1")
    assert "kl_weight" not in sentence
    for step in (150, 160):
        watch.sentences([good, good, good, dead], step=step)
    (sentence,) = watch.sentences([good, good, good, dead], step=170)
    assert sentence.startswith("context")
    assert "kl_weight" not in sentence


def test_chance_among_many_negatives_differs_from_zero():
    watch = CollapseWatch(SimConfig.preset("sim-small", num_negatives=255))
    assert watch.trouble(0, scores(0.0052, 10)) == ""
    assert "0.004" in watch.trouble(0, scores(0.0040, 10))


def test_bf16_keeps_losses_and_weights_in_float32(tmp_path):
    AcceleratorState._reset_state()
    weights = train(tmp_path, "--mixed_precision", "bf16", "--max_steps", "2")
    AcceleratorState._reset_state()
    assert all(tensor.dtype == torch.float32 for tensor in weights.values() if tensor.is_floating_point())
    full = train(tmp_path / "full", "--max_steps", "2")
    name = "sim.conv_modules.0.layers.0.conv.weight"
    assert not torch.equal(weights[name], full[name])
    log, full_log = (read_log(path / "log.jsonl") for path in (tmp_path, tmp_path / "full"))
    for module, full_module in zip(log[1]["modules"], full_log[1]["modules"], strict=True):
        assert module["loss"] == pytest.approx(full_module["loss"], rel=0.02)


def test_a_tracker_gets_every_number(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, "--report_to", "tensorboard", "--max_steps", "4")
    events = EventAccumulator(str(tmp_path / "modeling_sim"))  # the project's folder
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("train/module 1/loss")}
    log = {
        line["step"]: line["modules"][1]["loss"]
        for line in read_log(tmp_path / "log.jsonl")
        if line["split"] == "train"
    }
    assert logged == pytest.approx(log)


def test_a_failed_upload_is_reported_and_loses_nothing(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("modeling_sim.hub.callback.push_run", fail)
    train(tmp_path, "--push_to_hub", "True", "--repo_id", "org/name", "--max_steps", "1")
    assert "no route to host" in capsys.readouterr().out
    assert (tmp_path / "results.json").exists()


def test_compiling_is_announced_and_timed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda _: None)
    train(tmp_path, "--torch_compile", "True", "--max_steps", "2", "--logging_steps", "1")
    lines = capsys.readouterr().out.splitlines()
    announced, timed = (number for number, line in enumerate(lines) if "`torch_compile`" in line)
    assert re.search(r"\b\d+ s\b", lines[timed])
    steps = [number for number, line in enumerate(lines) if re.match(r"step +[12]\b", line.strip())]
    assert announced < timed < max(steps)


def test_a_tracker_without_its_package_names_it(monkeypatch):
    monkeypatch.setattr("modeling_sim.trainer.run.get_available_trackers", list)
    with pytest.raises(ValueError, match=r"`report_to` .*`pip install tensorboard`"):
        check_trackers(["tensorboard"])


@pytest.mark.slow
def test_compiled_modules_learn_the_same(tmp_path):
    plain, compiled = train(tmp_path / "plain"), train(tmp_path / "compiled", "--torch_compile", "True")
    for name in plain:
        torch.testing.assert_close(compiled[name], plain[name], rtol=1e-2, atol=2e-3)


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("file", sorted((ROOT / "training" / "accelerate").glob("*.yaml")), ids=lambda file: file.stem)
def test_accelerate_reads_its_settings_files(file):
    config = load_config_from_file(str(file))
    assert config.num_processes >= 1
    assert set(yaml.safe_load(file.read_text())) <= set(vars(config))
