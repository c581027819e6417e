"""Uploading a finished run to the Hub."""

from pathlib import Path

from huggingface_hub import HfApi

# What a reader of the repository needs, and nothing of the machine that trained it.
UPLOADED = ("*.safetensors", "*.json", "*.py", "*.png", "README.md")


def push_run(output_dir: Path, repo_id: str) -> str:
    """Uploads model, settings, results and curves of a finished run in one commit; returns the repository's address.

    Raises:
        OSError: The Hub cannot be reached, refuses the token, or grants no write right.
    """
    api = HfApi()
    url = api.create_repo(repo_id, exist_ok=True)
    api.upload_folder(
        repo_id=repo_id,
        folder_path=output_dir,
        allow_patterns=list(UPLOADED),
        ignore_patterns=["checkpoint-*", ".*"],
        commit_message="Upload a pretrained model",
    )
    return str(url)
