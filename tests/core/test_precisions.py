"""Models of each kind in other precisions: near fp32, alike in any batch, or refused."""

import numpy as np
import pytest

from beam_gpte import InputError
from beam_gpte.core.encoder.int8.linear import int8_works
from beam_gpte.core.encoder.linear_layers import bf16_speedup
from tests.core.each_kind import KINDS, Made

STATIC = ("model2vec", "StaticEmbedding", "static route", "sparse queries")
IMAGES = [name for name in KINDS if "images" in name or name.startswith("CLIP, as")]
RUN = [name for name in KINDS if name not in STATIC]
# How near fp32 random weights have to come, which have no redundancy: the lowest cosine of what two
# precisions give of an input, and the correlation of scores.
NEAR = {"bf16": 0.99, "int8": 0.95}
LARGEST = {"autoencoder": 0.9}  # of 1,500 terms it keeps 16: of two that are near one is exchanged
SHAPED = "token vectors, as a reranker"  # whose scores are products of all tokens of a batch
# What a batch may change where texts are padded to its longest, and of images: products of other
# shapes are rounded otherwise, and a number next to the border of two codes gets the other one.
PADDED = 0.999


def likeness(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Return the lowest cosine of two arrays of one input, or the correlation of scores."""
    if expected[0].size == 1:
        return float(np.corrcoef(np.ravel(found), np.ravel(expected))[0, 1])
    pairs = zip(found, expected, strict=True)
    return min(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in pairs)


def is_there(precision: str) -> bool:
    return int8_works() if precision == "int8" else bf16_speedup() > 0


@pytest.mark.sampled(30)
@pytest.mark.parametrize("precision", NEAR)
@pytest.mark.parametrize("name", RUN)
def test_another_precision_is_near_fp32_and_alike_in_any_batch(
    made: Made, name: str, precision: str
) -> None:
    kind, folder = KINDS[name], made.folder(name)
    if precision == "int8" and name in IMAGES:
        with pytest.raises(InputError, match=r"'int8': images are embedded in fp32, bf16 or fp16"):
            kind.open(folder, precision=precision)
        return
    if not is_there(precision):
        with pytest.raises(InputError, match=f"precision '{precision}': this CPU .* use prec"):
            kind.open(folder, precision=precision)
        return
    model = kind.open(folder, precision=precision)
    found = kind.run(model, list(kind.inputs))
    assert likeness(found, made.found(name)) > LARGEST.get(name, NEAR[precision])
    differs = [not np.array_equal(a, b) for a, b in zip(found, made.found(name), strict=True)]
    assert any(differs)  # so that it is not fp32 under another name
    alone = [kind.run(model, [one])[0] for one in kind.inputs]
    turned = kind.run(model, list(kind.inputs)[::-1])[::-1]
    for others in (alone, turned):
        if getattr(model, "unpadded", False) and name != SHAPED:
            assert all(map(np.array_equal, others, found))
        else:
            assert likeness(others, found) > PADDED


@pytest.mark.parametrize("name", RUN)
def test_fp16_is_refused_on_a_cpu(made: Made, name: str) -> None:
    with pytest.raises(InputError, match="precision 'fp16' needs a GPU, .* use bf16 or fp32"):
        KINDS[name].open(made.folder(name), precision="fp16")


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
@pytest.mark.parametrize("name", STATIC)
def test_what_has_no_layers_refuses_all_but_fp32(made: Made, name: str, precision: str) -> None:
    kind = KINDS[name]
    with pytest.raises(InputError, match=f"precision '{precision}'") as refused:
        kind.open(made.folder(name), precision=precision)
    assert "\n" not in str(refused.value)
    same = kind.run(kind.open(made.folder(name), precision="auto"), list(kind.inputs))
    assert all(map(np.array_equal, same, made.found(name)))
