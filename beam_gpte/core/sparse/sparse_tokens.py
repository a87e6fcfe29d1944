"""Name the terms of sparse vectors, for people."""

from collections.abc import Sequence

import numpy as np

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.model_folder import find_model
from beam_gpte.core.encoder.pretrained import load_tokenizer
from beam_gpte.core.errors import InputError
from beam_gpte.core.sparse.sparse_folder import read_sparse_folder


def sparse_tokens(
    model: str | EncoderConfig,
    indices: Sequence[Sequence[int] | None],
    values: Sequence[Sequence[float] | None],
    limit: int | None = None,
) -> list[list[tuple[str, float]]]:
    """Name the terms of some rows by the tokens of their model, largest weight first.

    Args:
      model: that made them, of which the tokenizer alone is loaded.
      indices: of each row, the column `sparse_indices`; None for a row without a vector.
      values: of each row, the column `sparse_values`.
      limit: maximum number of terms of a row; None for all.

    Returns:
      Of each row its terms and weights; of two weights that are equal the smaller index is first.

    Raises:
      InputError: the model is not a sparse one, rows differ in length, or an index is not one of
        its terms.
    """
    config = EncoderConfig(model) if isinstance(model, str) else model
    sparse = read_sparse_folder(find_model(config, weights=False), config)
    if sparse.autoencoder is not None:
        raise InputError(
            f"model {config.model!r}: the terms of an autoencoder have no names; use a SPLADE model"
        )
    tokenizer = load_tokenizer(sparse.folder, config.trust_remote_code)
    size = len(tokenizer)
    if len(indices) != len(values):
        raise InputError(f"{len(indices)} rows of indices and {len(values)} of values; give both")
    named = []
    for position, (row, weights) in enumerate(zip(indices, values, strict=True)):
        terms = np.array([] if row is None else row, np.int64)
        sizes = np.array([] if weights is None else weights, np.float64)
        if len(terms) != len(sizes):
            raise InputError(f"row {position}: {len(terms)} indices and {len(sizes)} values")
        if len(terms) and not 0 <= terms.min() <= terms.max() < size:
            raise InputError(
                f"row {position}: an index is not one of the {size:,} terms of model "
                f"{config.model!r}; name the model that made the rows"
            )
        order = np.lexsort((terms, -sizes))[:limit]
        tokens = tokenizer.convert_ids_to_tokens(terms[order].tolist())
        named.append(list(zip(tokens, sizes[order].tolist(), strict=True)))
    return named
