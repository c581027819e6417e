"""Smooth InfoMax for s3prl: copy this folder to `s3prl/upstream/sim`, or load it by its path.

    python run_downstream.py -m train -n sim_phones -u sim -k runs/sim-small -d ctc ...
    torch.hub.load("examples/s3prl", "sim", "runs/sim-small", source="local")

`-k` is the folder or Hub id of a checkpoint. `-s` selects the features of a task: `hidden_states` (the default, a
weighted sum of the modules), `last_hidden_state` (the context) or a module at its own frame rate, such as `module_0`.
"""

from typing import Any

from modeling_sim.export.s3prl_upstream import UpstreamExpert as _UpstreamExpert

dependencies = ["modeling_sim"]


def sim(ckpt: str, *args: Any, **kwargs: Any) -> _UpstreamExpert:
    """The encoder of a checkpoint."""
    return _UpstreamExpert(ckpt, *args, **kwargs)
