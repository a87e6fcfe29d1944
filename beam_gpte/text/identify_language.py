"""Identify the language of each text: `rows | IdentifyLanguage()`.

rows --> Identify --> rows with `language` and `language_score`
             |
             +--> rejects: rows of languages not in `keep`
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import ID, TEXT
from beam_gpte.core.errors import InputError
from beam_gpte.elements.added_columns import AddsColumns
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import check_text
from beam_gpte.elements.rejects import (
    GoodAndRejects,
    RejectingTransform,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import over_blocks

LANGUAGE = "language"  # string: ISO 639 code, null for text without letters
# float32: the probability of the language; the model treats bytes as independent, so it is often
# 0 or 1
LANGUAGE_SCORE = "language_score"


@dataclasses.dataclass(eq=False)
class IdentifyLanguage(AddsColumns, RejectingTransform):
    """Add `language` and `language_score` to each row, null where the text has no letters.

    All other columns pass through unchanged. Takes any kind of rows and returns the same kind.
    Languages are identified by py3langid, naive Bayes over byte n-grams (Lui and Baldwin, ACL
    2012): 139 languages, fast, and unreliable for texts of a few words.

    Attributes:
      languages: the only languages to consider; None for all.
      keep: the languages to keep; rows of others fail the job, or are collected by
        `with_exception_handling()`. None keeps all.
      text_column: of the texts.
      id_column: of the ids; None if there is none.
      rename: names for added columns that rows have already, as in ``{"language": "identified"}``.
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
                        f"{name} has {', '.join(unknown) or 'nothing'}; "
                        "use ISO 639 codes such as de, en, zh"
                    )
        self.added()

    def adds(self) -> tuple[str, ...]:
        """Name the language and its probability."""
        return LANGUAGE, LANGUAGE_SCORE

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Return rows with their language; with exception handling, `GoodAndRejects`."""
        return over_blocks(
            pcoll, self._identify, self.text_column, self.id_column, added=self.added()
        )

    def _identify(
        self, blocks: beam.PCollection[Block]
    ) -> beam.PCollection[Block] | GoodAndRejects:
        identify = beam.FlatMap(_identify, _Settings(self))
        good, rejects = blocks | "Identify" >> reject_outputs(identify)
        return GoodAndRejects(good, merge_rejects([rejects])) if self._isolate else good


class _Settings:
    """Carry the settings of an `IdentifyLanguage` to workers."""

    def __init__(self, transform: IdentifyLanguage) -> None:
        self.step = transform.step
        self.isolate = transform._isolate
        self.languages = transform.languages
        self.keep = transform.keep
        self.text_column = transform.text_column
        self.id_column = transform.id_column
        self.added = transform.added()


@functools.cache
def _identifier(languages: tuple[str, ...] | None) -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(languages)
    return identifier


def _identify(block: Block, settings: _Settings) -> Iterator[Any]:
    added = settings.added
    added.check(block.schema.names)
    check_text(block, settings.text_column, settings.step)
    classify = _identifier(settings.languages).classify
    texts = block.column(settings.text_column).to_pylist()
    results = [classify(text) if has_letters(text) else (None, None) for text in texts]
    languages = pa.array([language for language, _ in results], pa.string())
    scores = pa.array([score for _, score in results], pa.float32())
    rows = added.add(added.add(block, LANGUAGE, languages), LANGUAGE_SCORE, scores)
    reasons = _reasons(languages, settings.keep)
    yield from split_rejects(rows, reasons, settings.step, settings.isolate, settings.id_column)


def has_letters(text: str | None) -> bool:
    """Check for a letter of any script; "123" and emoji are in no language."""
    return text is not None and any(map(str.isalpha, text))


def _reasons(languages: pa.Array, keep: tuple[str, ...] | None) -> pa.Array:
    """Return why rows are not kept: a string array, null where they are."""
    none = pa.nulls(len(languages), pa.string())
    if keep is None:
        return none
    other = pc.fill_null(pc.invert(pc.is_in(languages, pa.array(keep))), True)
    reasons = pc.binary_join_element_wise("language", pc.fill_null(languages, "unknown"), ": ")
    return pc.if_else(other, reasons, none)
