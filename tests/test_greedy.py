"""The executions of a training step agree, and random draws do not depend on earlier ones."""

import textwrap

import pytest
import torch
from accelerate import Accelerator
from processes import launch

from modeling_sim import SimConfig, SimForPreTraining
from modeling_sim.trainer.greedy import backward_step, module_generator
from modeling_sim.trainer.optimization import Optimization, Part
from modeling_sim.trainer.settings import RunArguments

PRESETS = ["sim", "sim-artificial", "sim-readable-small", "gim", "gim-lowe", "cpc"]


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def tiny_model(preset="sim", **settings):
    torch.manual_seed(0)
    return SimForPreTraining(SimConfig.preset(preset, hidden_size=16, context_size=8, **settings)).train()


def gradients(model, accelerator, execution, mask=None, **arguments):
    model.zero_grad()
    inputs = torch.randn(3, 8000, generator=torch.Generator().manual_seed(1))
    outputs = backward_step(model, accelerator, inputs, mask, execution=execution, seed=5, step=7, **arguments)
    return outputs, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("preset", PRESETS)
def test_joint_and_per_module_give_the_same_losses_and_gradients(preset, accelerator):
    model = tiny_model(preset)
    joint_outputs, joint = gradients(model, accelerator, "joint")
    outputs, per_module = gradients(model, accelerator, "per_module")
    assert [output.loss for output in outputs] == [output.loss for output in joint_outputs]
    for name in joint:
        torch.testing.assert_close(per_module[name], joint[name])
    assert all(gradient.isfinite().all() for gradient in joint.values())


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_bfloat16_products_follow_float32(preset, padded, accelerator, monkeypatch):
    model = tiny_model(preset)
    mask = (torch.arange(8000) < torch.tensor([8000, 5000, 7000])[:, None]).long() if padded else None
    outputs, full = gradients(model, accelerator, "per_module", mask)
    monkeypatch.setattr(accelerator, "autocast", lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    halved, half = gradients(model, accelerator, "per_module", mask)
    for one, other in zip(halved, outputs, strict=True):
        assert one.loss.dtype == torch.float32
        # bfloat16 has 8 bits: a product's inputs are off by 0.4 %, what a few layers add up to is less than 2 %.
        torch.testing.assert_close(one.loss, other.loss, rtol=0.02, atol=0.02)
    for module in range(model.config.num_modules):
        names = {parameter: name for name, parameter in model.named_parameters()}
        own = [names[parameter] for parameter in model.module_parameters(module)]
        one, other = (torch.cat([of[name].flatten() for name in own]) for of in (half, full))
        assert one.dtype == torch.float32
        # Without batch norm, latents of an untrained model differ little from frame to frame, and rounding by more.
        assert torch.cosine_similarity(one, other, dim=0) > (0.98 if model.config.use_batch_norm else 0.9)


def test_padding_is_masked_in_both_executions(accelerator):
    model = tiny_model()
    mask = torch.ones(3, 8000, dtype=torch.long)
    mask[1, 5000:] = 0
    _, joint = gradients(model, accelerator, "joint", mask)
    _, per_module = gradients(model, accelerator, "per_module", mask)
    _, unmasked = gradients(model, accelerator, "joint")
    for name in joint:
        torch.testing.assert_close(per_module[name], joint[name])
    assert any(not torch.allclose(joint[name], unmasked[name]) for name in joint)


def test_a_step_is_a_function_of_its_key_alone(accelerator):
    model = tiny_model(use_batch_norm=False)
    _, first = gradients(model, accelerator, "per_module")
    torch.randn(1000)
    _, again = gradients(model, accelerator, "per_module")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_every_part_of_the_key_changes_the_draws():
    keys = [(0, 1, 2, 3), (1, 1, 2, 3), (0, 2, 2, 3), (0, 1, 3, 3), (0, 1, 2, 4)]
    draws = {torch.randn(4, generator=module_generator(*key, torch.device("cpu"))).sum().item() for key in keys}
    assert len(draws) == len(keys)


def test_kl_weight_scale_scales_the_kl_term_alone(accelerator):
    model = tiny_model(use_batch_norm=False)
    whole, _ = gradients(model, accelerator, "joint")
    none, _ = gradients(model, accelerator, "joint", kl_weight_scale=0.0)
    for module, weight in enumerate(model.config.kl_weights):
        torch.testing.assert_close(none[module].loss, whole[module].contrastive_loss)
        torch.testing.assert_close(whole[module].loss, none[module].loss + weight * whole[module].kl_loss)


def test_an_unknown_execution_is_refused(accelerator):
    with pytest.raises(ValueError, match=r"`execution`.*joint, per_module"):
        gradients(tiny_model(), accelerator, "pipelined")


def test_clipping_bounds_each_modules_norm_alone(accelerator):
    model = tiny_model()
    _, before = gradients(model, accelerator, "joint")
    norms = [
        torch.cat([parameter.grad.flatten() for parameter in model.module_parameters(module)]).norm()
        for module in range(model.config.num_modules)
    ]
    bound = float(sorted(norms)[1])  # two modules lie above it
    parts = [Part(model.module_parameters(module), []) for module in range(model.config.num_modules)]
    optimization = Optimization(parts, accelerator, RunArguments(max_grad_norm=bound, learning_rate=1e-9))
    for optimizer in optimization.optimizers:
        optimizer.zero_grad = lambda: None  # to look at what the step saw
    optimization.begin_step(range(len(parts)))
    optimization.finish_step()
    for module, norm in enumerate(norms):
        clipped = torch.cat([parameter.grad.flatten() for parameter in model.module_parameters(module)]).norm()
        assert clipped == pytest.approx(min(float(norm), bound), rel=1e-4)
    assert len(before) == sum(len(model.module_parameters(module)) for module in range(model.config.num_modules))


@pytest.mark.slow
def test_two_processes_average_their_gradients(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(
        textwrap.dedent(
            """
            import torch
            from accelerate import Accelerator
            from modeling_sim import SimConfig, SimForPreTraining
            from modeling_sim.trainer.greedy import backward_step, broadcast

            accelerator = Accelerator(cpu=True)
            assert accelerator.num_processes == 2
            torch.manual_seed(accelerator.process_index)
            model = SimForPreTraining(SimConfig.preset("sim", hidden_size=8, context_size=8, use_batch_norm=False))
            broadcast([*model.parameters(), *model.buffers()], accelerator)
            batches = torch.randn(2, 2, 8000, generator=torch.Generator().manual_seed(1))
            arguments = dict(seed=0, step=1)
            for execution in ("joint", "per_module"):
                model.zero_grad()
                backward_step(model, accelerator, batches[accelerator.process_index], execution=execution, **arguments)
                averaged = [parameter.grad.clone() for parameter in model.parameters()]
                expected = [torch.zeros_like(gradient) for gradient in averaged]
                class Alone:
                    num_processes, device, scaler = 1, accelerator.device, None
                    autocast = accelerator.autocast
                for process in range(2):
                    alone = Alone()
                    alone.process_index = process
                    model.zero_grad()
                    backward_step(model, alone, batches[process], execution=execution, **arguments)
                    for total, parameter in zip(expected, model.parameters()):
                        total += parameter.grad / 2
                for got, wanted in zip(averaged, expected):
                    torch.testing.assert_close(got, wanted)
            """
        )
    )
    launch(2, script)
