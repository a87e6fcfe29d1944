"""Rows say what language their text is in: `rows | IdentifyLanguage()`."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import ID, TEXT
from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import check_text
from beam_gpte.elements.rejects import (
    RejectingTransform,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import over_blocks

STEP = "IdentifyLanguage"
LANGUAGE = "language"  # string: ISO 639 code, "zxx" for what is no language
LANGUAGE_SCORE = "language_score"  # float32: its probability, by a model that takes bytes for independent: often 0 or 1


@dataclasses.dataclass(eq=False)
class IdentifyLanguage(RejectingTransform):
    """Add `language` and `language_score`, both null where the text is null; everything else passes through untouched.

    By py3langid, naive Bayes over byte n-grams (Lui and Baldwin, ACL 2012): 139 languages, fast, and unsure of texts of a
    few words. Takes any kind of rows and gives the same kind back.

    Attributes:
      languages: the only ones that are considered; None for all.
      keep: rows of other languages fail the job, or are set aside by `with_exception_handling()`; None keeps all.
    """

    languages: tuple[str, ...] | None = None
    keep: tuple[str, ...] | None = None
    text_column: str = TEXT
    id_column: str | None = ID

    def __post_init__(self) -> None:
        for name in ("languages", "keep"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise InputError(f"{name} is {value!r}; use a tuple: ({value!r},)")
            if value is not None:
                unknown = sorted(set(value) - set(_identifier(None).labels))
                if not value or unknown:
                    raise InputError(
                        f"{name} has {', '.join(unknown) or 'nothing'}; use ISO 639 codes such as de, en, zh"
                    )

    def expand(self, pcoll: beam.PCollection) -> Any:
        return over_blocks(pcoll, self._identify, self.text_column, self.id_column)

    def _identify(self, blocks: beam.PCollection[Block]) -> Any:
        identify = beam.FlatMap(
            _identify, self.text_column, self.id_column, self.languages, self.keep, self._isolate
        )
        good, refused = blocks | "Identify" >> reject_outputs(identify)
        return (good, merge_rejects([refused])) if self._isolate else good


@functools.cache
def _identifier(languages: tuple[str, ...] | None) -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(languages)
    return identifier


def _identify(
    block: Block,
    text_column: str,
    id_column: str | None,
    languages: tuple[str, ...] | None,
    keep: tuple[str, ...] | None,
    isolate: bool,
) -> Iterator[Any]:
    check_text(block, text_column)
    classify = _identifier(languages).classify
    told = [
        (None, None) if text is None else classify(text)
        for text in block.column(text_column).to_pylist()
    ]
    named = pa.array([language for language, _ in told], pa.string())
    scores = pa.array([score for _, score in told], pa.float32())
    known = block.without_columns([LANGUAGE, LANGUAGE_SCORE]).with_column(
        pa.field(LANGUAGE, pa.string()), named
    )
    known = known.with_column(pa.field(LANGUAGE_SCORE, pa.float32()), scores)
    reasons = pa.nulls(len(block), pa.string())
    if keep is not None:
        foreign = pc.fill_null(pc.invert(pc.is_in(named, pa.array(keep))), True)
        why = pc.binary_join_element_wise("language", pc.fill_null(named, "unknown"), ": ")
        reasons = pc.if_else(foreign, why, reasons)
    yield from split_rejects(known, reasons, STEP, isolate, id_column)
