"""Find the prompts that a model has for queries and for documents. Loads no torch."""

import functools
import logging
from collections.abc import Iterable, Mapping

from beam_gpte.core.encoder.config import EncoderConfig

QUERY, DOCUMENT = "query", "document"

# The prompts of a task, of which the first that a model has is taken, as `encode_query` and
# `encode_document` of sentence-transformers do.
TASK_PROMPTS = {QUERY: (QUERY,), DOCUMENT: (DOCUMENT, "passage", "corpus")}

_log = logging.getLogger(__name__)


def task_prompt(task: str | None, prompts: Iterable[str]) -> str | None:
    """Return the name of the prompt that goes with a task; None where the model has none."""
    return next((name for name in TASK_PROMPTS.get(task or "", ()) if name in prompts), None)


def warn_without_prompt(
    config: EncoderConfig, prompts: Mapping[str, str], default: str | None
) -> None:
    """Log, once per model, that it has prompts for queries and for documents, and none is used.

    Args:
      config: of the model.
      prompts: texts by name.
      default: the name of the one that is used where the configuration has none.
    """
    is_chosen = (config.prompt, config.prompt_name, config.template, config.route, default)
    if any(one is not None for one in is_chosen):
        return
    query, document = (
        next((name for name in names if prompts.get(name)), "") for names in TASK_PROMPTS.values()
    )
    if query and document:
        _warn(config.model, query, document)


@functools.cache
def _warn(model: str, query: str, document: str) -> None:
    _log.warning(
        "model %r has a prompt %r and a prompt %r, and none of them is used: name one by "
        "prompt_name, the same for all texts that are compared with one another; prompt='' for "
        "none",
        model,
        query,
        document,
    )
