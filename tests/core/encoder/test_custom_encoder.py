"""What a user's encoder returns is checked before it becomes a column."""

from typing import Any

import numpy as np
import pytest

from beam_gpte import InputError
from beam_gpte.core.encoder.custom_encoder import CustomEncoder
from beam_gpte.core.metadata import check_same_vectors


class Lengths:
    """Vectors of the length of a text, with some replaced."""

    def __init__(self, **replaced: Any) -> None:
        self.replaced = replaced

    def encode(self, texts: list[str]) -> np.ndarray:
        rows = [self.replaced.get(text, [len(text), 1.0]) for text in texts]
        return np.array(rows, np.float64)


def test_vectors_that_are_not_finite_fail_their_texts() -> None:
    encoder = CustomEncoder(Lengths(nan=[np.nan, 1], inf=[1, -np.inf], large=[1e300, 0]))
    encoding = encoder.encode_with_counts(["a", "nan", "inf", "large", "nan", "zero", "\u200b"])
    reason = "the model gave a vector that is not finite"
    assert encoding.failed == {
        **dict.fromkeys([1, 2, 3, 4], reason),
        6: "text is empty: it has no visible character",
    }


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.ma.masked_array([[1.0, 2.0]], [[False, True]]), "returned MaskedArray"),
        (np.array([[1j, 2]]), "returned ndarray of complex128"),
        (np.array([["1", "2"]]), "returned ndarray of <U1"),
        (np.array([1.0, 2.0, 3.0]), r"returned shape \(3,\) for 1 texts"),
        (np.array([[1.0, 2.0, 3.0]]), "returned 3 dimensions, and 2 before"),
    ],
)
def test_what_is_no_matrix_of_floats_is_refused(returned: Any, message: str) -> None:
    lengths = Lengths()
    encoder = CustomEncoder(lengths)
    lengths.encode = lambda texts: returned  # type: ignore[method-assign]
    with pytest.raises(InputError, match=message):
        encoder.encode_with_counts(["a"])


def test_two_encoders_of_one_name_are_distinguished_by_what_they_make() -> None:
    class Shifted(Lengths):
        __qualname__ = "Lengths"

        def encode(self, texts: list[str]) -> np.ndarray:
            return super().encode(texts) + [[0, 30]]

    here, there = CustomEncoder(Lengths()).metadata, CustomEncoder(Shifted()).metadata
    assert here.fingerprint == there.fingerprint
    with pytest.raises(InputError, match="'Lengths' and 'Lengths' make different ones"):
        check_same_vectors(here, there, "table t")
    check_same_vectors(here, CustomEncoder(Lengths()).metadata, "table t")


def test_an_encoder_that_takes_plain_words_only_has_no_canaries() -> None:
    class Plain(Lengths):
        def encode(self, texts: list[str]) -> np.ndarray:
            if not all(text.isascii() for text in texts):
                raise UnicodeError("ASCII only")
            return super().encode(texts)

    metadata = CustomEncoder(Plain()).metadata
    assert (metadata.dim, metadata.canaries) == (2, "")
