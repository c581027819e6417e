"""Share a finished run on the Hub, and load it from there.

    python examples/04_share_on_the_hub.py runs/demo --repo_id org/sim-demo             # shows what would be uploaded
    python examples/04_share_on_the_hub.py runs/demo --repo_id org/sim-demo --upload    # needs `hf auth login`

Anyone can then load the model, with this package or without it.
"""

import argparse

from transformers import AutoModel

import modeling_sim  # noqa: F401 - tells the Auto classes of the models
from modeling_sim.commands import publish


def main(checkpoint: str, repo_id: str, *, upload: bool) -> None:
    """Uploads model, code, card, settings, results and pictures in one commit, or shows them."""
    publish.main([checkpoint, "--repo_id", repo_id, *([] if upload else ["--dry_run"])])
    if upload:
        model = AutoModel.from_pretrained(repo_id)
        print(f"loaded {type(model).__name__} with {model.num_parameters():,} parameters from {repo_id}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="Output folder of a finished run.")
    parser.add_argument("--repo_id", default="org/sim-demo", help="Repository of the Hub, org/name.")
    parser.add_argument("--upload", action="store_true", help="Upload, instead of only showing what would be uploaded.")
    arguments = parser.parse_args()
    main(arguments.checkpoint, arguments.repo_id, upload=arguments.upload)
