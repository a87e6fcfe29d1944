"""Configurations, and the transforms that refuse some of them while the graph is built."""

from collections.abc import Callable
from typing import Any

import pytest

from beam_gpte import (
    AlignDocuments,
    DeduplicateSemantic,
    EncoderConfig,
    FilterPairs,
    GpteTextEmbeddings,
    InputError,
    MineBitext,
    MineHardNegatives,
    PairOptions,
    ScoreBitext,
)

ONE_ROW: tuple[Callable[[Any], Any], ...] = (
    lambda model: DeduplicateSemantic(model=model),
    lambda model: MineBitext(model=model),
    lambda model: ScoreBitext(model=model),
    lambda model: AlignDocuments("document", ("sentence",), model=model),
    lambda model: MineHardNegatives(model=model),
    lambda model: MineHardNegatives(model="m", pairs=PairOptions(query_model=model)),
    lambda model: FilterPairs(min_score=0.5, model=model),
    lambda model: GpteTextEmbeddings(model, columns=["text"]),
)


@pytest.mark.parametrize("make", ONE_ROW)
@pytest.mark.parametrize("long_text", ["chunks", "late_chunks"])
def test_a_model_with_chunks_is_refused_where_a_row_has_one_vector(
    make: Callable[[Any], Any], long_text: Any
) -> None:
    with pytest.raises(InputError, match=f"{long_text}.* makes several rows of one"):
        make(EncoderConfig("m", long_text=long_text))
    make(EncoderConfig("m", long_text="windows"))
