"""A page of the Hub that lists the published models together."""

from collections.abc import Mapping

from huggingface_hub import Collection, HfApi

from modeling_sim.hub.upload import RepoType, hub_errors

TITLE = "Smooth InfoMax"
DESCRIPTION = "Representations with one local loss per module, their decoders and classifiers."


def publish_collection(
    api: HfApi, namespace: str, repositories: Mapping[str, RepoType], *, private: bool = False
) -> Collection:
    """Adds repositories to the collection `TITLE`, which is created if it does not exist.

    Args:
        api: Client with the Hub's URL and the token.
        namespace: User or organization.
        repositories: Types of the repositories by name, in order.
        private: Make a new collection private.

    Raises:
        HubError: There is no token or no write access, or the network fails.
    """
    with hub_errors(api, f"the collection of {namespace}"):
        collection = api.create_collection(
            TITLE, namespace=namespace, description=DESCRIPTION, private=private, exists_ok=True
        )
        for repo_id, repo_type in repositories.items():
            api.add_collection_item(collection.slug, repo_id, repo_type, exists_ok=True)
        return collection
