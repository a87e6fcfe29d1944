"""Every loader names what is damaged in a folder in one line, or gives the same results."""

import re
from pathlib import Path

import numpy as np
import pytest

from beam_gpte import InputError
from tests.core.each_damage import (
    MODULES,
    SETTINGS,
    TOKENIZER,
    Table,
    fewer_words,
    weights_table,
)
from tests.core.each_kind import KINDS, Made

WEIGHTS = weights_table()
MODEL: Table = {**WEIGHTS, **SETTINGS, **TOKENIZER}
WHOLE: Table = {**MODEL, **MODULES}
WORDS: Table = {**WEIGHTS, **TOKENIZER}
MODULE: Table = {**WEIGHTS, **SETTINGS}
del MODULE["settings of no known kind"]  # by a key that the settings of a module do not have
# modules.json names a Router alone, which lies beside it
ROUTER = {name: MODULES[name] for name in MODULES if name != "a module whose folder is missing"}

# Where the files lie that a loader reads: the folder of the Transformer or of what is in its place,
# and those of modules with weights of their own; and what can be damaged there.
PLACES: dict[str, dict[str, Table]] = {
    "encoder": {"": WHOLE, "2_Dense": MODULE},
    "route": {"": ROUTER, "light_0_Transformer": MODEL, "heavy_2_Dense": MODULE},
    "adapter": {"lora": {**WEIGHTS, **SETTINGS}},
    "model2vec": {"": WHOLE},
    "StaticEmbedding": {"": MODULES, "0_StaticEmbedding": WORDS},
    "static route": {"query_0_StaticEmbedding": WORDS},
    "SPLADE": {"": WHOLE},
    "SPLADE, plain": {"": MODEL},
    "sparse queries": {"": ROUTER, "query_0_SparseStaticEmbedding": WORDS},
    "autoencoder": {"": WHOLE, "2_SparseAutoEncoder": MODULE},
    "CLIP, texts": {"": {**MODEL, **weights_table("text_")}},
    "CLIP, images": {"": {**MODEL, **weights_table("vis")}},
    "CLIP, as sentence-transformers saves it": {"": MODULES},
    "token vectors, PyLate": {"": WHOLE, "1_Dense": MODULE},
    "token vectors, Stanford's ColBERT": {"": MODEL},
    "token vectors, as sentence-transformers saves them": {"": WHOLE, "1_Dense": MODULE},
    "cross-encoder": {"": MODEL},
    "causal reranker": {"": WHOLE},
    "quality estimator": {"": MODEL, "quality": WEIGHTS},
}
# What does no harm, and why: results are equal.
POOLER = "the last tensor is missing"  # of a pooler, which is not run
UNREAD = ("a tokenizer that is cut", "a list for the tokenizer", "other JSON for the tokenizer")
HARMLESS = {
    ("route", "light_0_Transformer", POOLER),
    ("autoencoder", "", POOLER),
    ("token vectors, PyLate", "", POOLER),
    ("token vectors, as sentence-transformers saves them", "", POOLER),
    # a count of the training
    ("autoencoder", "2_SparseAutoEncoder", "the last tensor is missing"),
    # images have no words
    *(("CLIP, images", "", name) for name in (*UNREAD, "a tokenizer of more words")),
    # a Normalize has no files
    ("model2vec", "", "a module whose folder is missing"),
}
# No file of a static model says how many dimensions its vectors have.
UNKNOWN = {
    (name, "a tensor of fewer columns") for name in ("model2vec", "StaticEmbedding", "static route")
}
CASES = [
    (name, place, damage)
    for name, places in PLACES.items()
    for place, damages in places.items()
    for damage in damages
    if (name, damage) not in UNKNOWN
]


@pytest.mark.sampled(160)
@pytest.mark.parametrize(("name", "place", "damage"), CASES)
def test_a_damage_is_named_in_one_line_or_does_no_harm(
    made: Made, tmp_path: Path, name: str, place: str, damage: str
) -> None:
    folder, kind = made.copy(name, tmp_path / "model"), KINDS[name]
    do, message = PLACES[name][place][damage]
    do(folder / place)
    if (name, place, damage) not in HARMLESS:
        with pytest.raises(InputError) as refused:
            kind.open(folder)
        assert re.search(message, str(refused.value))
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 500
        return
    found = kind.run(kind.open(folder), list(kind.inputs))
    for one, other in zip(found, made.found(name), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "place"),
    [("encoder", ""), ("SPLADE", ""), ("sparse queries", "query_0_SparseStaticEmbedding")],
)
def test_a_vocabulary_that_is_cut_is_named(
    made: Made, tmp_path: Path, name: str, place: str
) -> None:
    folder = made.copy(name, tmp_path / "model")
    (folder / place / "vocab.txt").unlink(missing_ok=True)
    fewer_words(folder / place)
    with pytest.raises(InputError, match="tokenizer.json"):
        KINDS[name].open(folder)
