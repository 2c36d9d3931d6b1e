"""The stages of one run side by side in a collection of the Hub."""

from collections.abc import Mapping

from huggingface_hub import HfApi

from hfgpt.hub.upload import PATIENCE, check_can_push
from hfgpt.hub_client import Retries, hub_errors, with_retries


def gather(
    title: str,
    notes: Mapping[str, str],
    *,
    namespace: str | None = None,
    private: bool = True,
    api: HfApi | None = None,
    retries: Retries | None = None,
) -> str:
    """Put the models of `notes`, {repo id: what is said of it}, into the collection `title` of `namespace` (by default
    the token's user), made where it is missing; returns its address. What is in it already stays."""
    api = api or HfApi()
    check_can_push(f"the collection {title}", api)

    def put() -> str:
        collection = api.create_collection(title, namespace=namespace, private=private, exists_ok=True)
        for repo_id, note in notes.items():
            api.add_collection_item(collection.slug, repo_id, "model", note=note, exists_ok=True)
        return collection.url

    with hub_errors(f"the collection {title}"):
        return with_retries(put, retries or PATIENCE)
