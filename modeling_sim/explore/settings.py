"""Settings of the explorer."""

from dataclasses import MISSING, dataclass
from pathlib import Path

from huggingface_hub.constants import HF_HOME

from modeling_sim.settings import (
    CorpusArguments,
    at_least,
    check_checkpoint,
    check_seed,
    setting,
)


@dataclass(kw_only=True)
class ExploreArguments(CorpusArguments):
    """The models and the data to explore, and the address of the page."""

    model: str = setting(MISSING, "Folder or Hub id of a checkpoint.", check=check_checkpoint)
    decoder: list[str] = setting(  # noqa: RUF009 - a field
        [], "Decoders of these models, trained by `modeling-sim train-decoder`.", check=check_checkpoint
    )
    compare: list[str] = setting(  # noqa: RUF009 - a field
        [],
        "Further models: another seed, GIM, or any speech encoder that `modeling-sim evaluate` accepts.",
        check=check_checkpoint,
    )
    split: str = setting("test", "Split to explore; one that the models were not trained on.")
    minutes: float = setting(5.0, "Approximate minutes of the split to collect evidence from.")
    device: str = setting("cpu", "Device, such as cpu or cuda:1.")
    batch_size: int = setting(8, "Utterances per batch.", check=at_least(1))
    seed: int = setting(0, "Seed of all random choices.", check=check_seed)
    cache_dir: str = setting(
        str(Path(HF_HOME) / "modeling_sim" / "features"),
        "Folder for cached features, evidence and uploads; anything in it can be deleted.",
    )
    max_seconds: float = setting(30.0, "Longest recording that the page accepts, in seconds.")
    max_megabytes: float = setting(20.0, "Largest file that the page accepts, in MB.")
    host: str = setting("127.0.0.1", "Address to serve at; 0.0.0.0 lets other machines connect.")
    port: int = setting(7860, "Port; 0 for any free one.", check=at_least(0, 65535))
