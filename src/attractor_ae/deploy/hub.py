"""Model files in repositories of the Hugging Face Hub (``attractor-ae push`` and ``pull``)."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attractor_ae._errors import AttractorError, optional_package
from attractor_ae._files import atomic_path, check_free, write_text
from attractor_ae.deploy.card import card_path, model_card
from attractor_ae.deploy.model import Model, load_model

FILE, _CARD = "attractor-ae.model", "README.md"
_FRONT = "---\nlibrary_name: attractor-ae\npipeline_tag: image-classification\n---\n\n"


def push_model(file: str | Path, repository: str) -> str:
    """Upload a model file and its card in one commit, and return the address of the commit.

    ``repository`` is ``OWNER/NAME``; if it does not exist, it is created as a private one. A card
    is made if there is none next to the file.

    Raises:
        AttractorError: If the file is not a model file, or the Hub refuses it or cannot be reached.
    """
    file = Path(file)
    card = model_card(load_model(file), FILE)
    if card_path(file).exists():
        card = card_path(file).read_text(encoding="utf-8")
    card = card if card.startswith("---") else _FRONT + card
    with _hub(repository) as hub:
        parts = {FILE: file, _CARD: card.encode()}
        added = [hub.CommitOperationAdd(name, content) for name, content in parts.items()]
        api = hub.HfApi()
        api.create_repo(repository, private=True, exist_ok=True)
        return api.create_commit(repository, added, commit_message=f"Add {file.name}").commit_url


def pull_model(repository: str, out: str | Path, *, again: bool = False) -> Model:
    """Download the model file of a repository ``OWNER/NAME``, and return the model.

    Its card is written next to it, ``OUT.md``; ``again`` replaces both.

    Raises:
        AttractorError: If ``out`` exists, the repository has no model file, the file is damaged, or
            the Hub cannot be reached.
    """
    out = Path(out)
    check_free(out, again)
    with TemporaryDirectory() as folder:
        with _hub(repository) as hub:
            api = hub.HfApi()
            file, card = (
                Path(api.hf_hub_download(repository, name, local_dir=folder))
                for name in (FILE, _CARD)
            )
        model = load_model(file)  # is intact
        with atomic_path(out) as temporary:
            shutil.copyfile(file, temporary)
        write_text(card_path(out), card.read_text(encoding="utf-8"))
    return model


@contextmanager
def _hub(repository: str) -> Iterator[Any]:
    """Yield the library of the Hub; its errors become one line."""
    hub = optional_package("huggingface_hub", "hub", "the Hugging Face Hub")
    try:
        yield hub
    except (OSError, ValueError, RuntimeError, hub.errors.HTTPError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise AttractorError(
            f"{repository}: {reason}; give OWNER/NAME of a repository on the Hugging Face Hub, and "
            "log in with: hf auth login"
        ) from None
