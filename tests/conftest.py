"""What the tests share: tiny models, seeded inputs, a Hub and the real speech next to the checkout."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
import pytest
import torch
from hub_server import HubServer, User

from modeling_sim import SimConfig

if TYPE_CHECKING:
    from modeling_sim.evaluation.results import Results

# Tiny tensors: a second thread costs more than it gives.
torch.set_num_threads(1)


# Runs are in float32 on every machine, unless a test says otherwise.
os.environ.setdefault("ACCELERATE_MIXED_PRECISION", "no")


# Files of tests that train, start processes, use a Hub or take seconds; `make test-fast` runs all others.
_TRAIN = frozenset(
    str.split(
        "axes background_push batches benchmark corpora corpora_artificial_speech devices evaluate examples executions "
        "explore finetune gpu gpu_script hub hub_roundtrip images_text log objectives_two_views pretrain probe publish "
        "remote_code report representations resume studies theory train_decoder wheel"
    )
)


def _trains(path: Path) -> bool:
    return path.stem.removeprefix("test_") in _TRAIN


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Saves `make test-fast` the imports of files that it skips."""
    return True if "not trains" in config.getoption("markexpr") and _trains(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what `make test-fast` skips."""
    for item in items:
        if _trains(item.path):
            item.add_marker("trains")


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., SimConfig]:
    """Makes a preset at a width that runs in milliseconds: `tiny_config("cpc", num_negatives=3)`."""

    def make(preset: str = "sim", **overrides) -> SimConfig:
        return SimConfig.preset(preset, **{"hidden_size": 16, "context_size": 8, **overrides})

    return make


@pytest.fixture(scope="session")
def noise() -> Callable[..., torch.Tensor]:
    """Makes standard normal noise that depends on its shape and seed alone: `noise(2, 4000, seed=1)`."""

    def make(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)

    return make


@pytest.fixture(scope="session")
def padded_batch(noise) -> tuple[torch.Tensor, torch.Tensor]:
    """Waveforms of 3300, 2100 and 4001 samples in one batch, `(input_values, attention_mask)`; the padding is loud."""
    lengths = torch.tensor([3300, 2100, 4001])
    attention_mask = (torch.arange(4001) < lengths[:, None]).long()
    return torch.where(attention_mask == 1, noise(3, 4001), 100 * noise(3, 4001, seed=1)), attention_mask


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real speech: `SIM_DATA_DIR`, else `shared/data` next to the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SIM_DATA_DIR", default))
    if not folder.is_dir():
        pytest.skip("no real speech here; set SIM_DATA_DIR to the folder that holds `librispeech`")
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[HubServer]:
    """A Hub on loopback that this process' client talks to, as its owner."""
    users = {"hf_owner": User("owner", ("org",)), "hf_reader": User("reader", ("org",), can_write=False)}
    with HubServer(users) as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", "hf_owner")
        sleep = time.sleep  # as before a retry
        monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
        yield server


@pytest.fixture(scope="session")
def dimensions() -> Callable[..., "Results"]:
    """Makes up results of `evaluate --measures disentanglement` for a model: `dimensions("tiny", low=-0.1)`."""
    from modeling_sim.analysis.scorecard import MEASURES, Comparison, Row
    from modeling_sim.evaluation.results import Kind, Results

    values = {  # of own dimensions in module 2, and random axes
        "best_pitch": (0.66, 0.61),
        "best_speaker_id": (0.78, 0.74),
        "best_dimension": (0.72, 0.675),
        "linear_pitch": (0.83, 0.0),
    }
    gaps = {"best_dimension_gap": 0.045, "dci_completeness_gap": 0.02}

    def make(model: str, low: float) -> Results:
        places = (
            ("SIM", model, "module 2", 0.0, low),
            ("SIM", model, "context", 0.01, 0.01),
            ("SIM + SOBI", f"{model} + SOBI", "module 2", 0.1, 0.01),
            ("SIM + SOBI", f"{model} + SOBI", "context", 0.11, 0.01),
            ("log-mel", "log-mel", "frame", 0.2, 0.01),
        )
        rows = []
        for *place, more, bound in places:
            rows += [Row(*place, measure, value + more, null=null) for measure, (value, null) in values.items()]
            rows += [Row(*place, measure, value + more, bound, 0.5) for measure, value in gaps.items()]
        rows = [row for row in rows if (row.kind, row.measure) != ("SIM + SOBI", "linear_pitch")]
        return Results(
            corpus="librispeech",
            corpus_license="cc-by-4.0",
            label="phones",
            kinds=[Kind(kind, "", kind != "SIM", [name]) for kind, name in {place[:2]: None for place in places}],
            measures=[measure for measure in MEASURES if measure.key in {**values, **gaps}],
            rows=rows,
            settings={"pooling": "frame"},
            train_items=20,
            test_items=10,
            intervals_over="6 speakers",
            comparisons=[Comparison("best_pitch", "module 2", "SIM", "log-mel", 0.0, None, None, "undecided")],
            media=[{"kind": "SIM", "clips": ["long"] * 999}],
        )

    return make


@pytest.fixture
def killed_at(monkeypatch) -> Callable[..., None]:
    """Runs something and stops its training at the start of a step, as if it were killed: `killed_at(3, run)`."""
    from modeling_sim.trainer.optimization import Optimization

    class Killed(Exception):  # noqa: N818 - stands for a kill
        """The run ends here."""

    begin = Optimization.begin_step

    def kill(step: int, run: Callable[[], object]) -> None:
        def begin_or_die(self, parts):
            if self.schedulers[0].last_epoch + 1 == step:
                raise Killed
            begin(self, parts)

        with monkeypatch.context() as patch:
            patch.setattr(Optimization, "begin_step", begin_or_die)
            with pytest.raises(Killed):
                run()

    return kill
