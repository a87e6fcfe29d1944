"""Languages of real sentences are identified, and rows of other languages collected."""

from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import IdentifyLanguage, InputError

TEXTS = [
    ("a", "Der Hund läuft schnell durch den Garten.", "de"),
    ("b", "The dog is running through the garden.", "en"),
    ("c", "Le chien court vite dans le jardin.", "fr"),
    ("d", "犬は庭を走り回っている。", "ja"),
    ("e", "الكلب يجري بسرعة في الحديقة", "ar"),
]
ROWS = [{"id": id_, "text": text} for id_, text, _ in TEXTS]


@pytest.mark.parametrize("mode", ["in memory", "two processes"])
def test_rows_get_their_language(new_pipeline: Callable[..., beam.Pipeline], mode: str) -> None:
    with new_pipeline(mode) as p:
        rows = p | beam.Create([*ROWS, {"id": "f", "text": None}]) | IdentifyLanguage()
        found = rows | beam.Map(
            lambda row: (row["id"], row["language"], row["language_score"] is None)
        )
        expected = [(id_, language, False) for id_, _, language in TEXTS]
        assert_that(found, equal_to([*expected, ("f", None, True)]))


def test_other_languages_are_collected_with_their_names(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    with new_pipeline() as p:
        identify = IdentifyLanguage(keep=("de", "en")).with_exception_handling()
        good, rejects = p | beam.Create(ROWS) | identify
        assert_that(good | beam.Map(lambda row: row["id"]), equal_to(["a", "b"]), label="Good")
        reasons = rejects | "Reasons" >> beam.Map(lambda row: (row["id"], row["reject_reason"]))
        assert_that(
            reasons,
            equal_to([("c", "language: fr"), ("d", "language: ja"), ("e", "language: ar")]),
            label="Rejects",
        )
    with (
        pytest.raises(Exception, match="IdentifyLanguage: row with id 'c': language: fr"),
        new_pipeline() as p,
    ):
        p | beam.Create(ROWS[:3]) | IdentifyLanguage(keep=("de", "en"))


def test_a_few_languages_are_identified_in_short_texts(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    with new_pipeline() as p:
        words = [{"id": "a", "text": "gut"}, {"id": "b", "text": "good"}]
        rows = p | beam.Create(words) | IdentifyLanguage(("de", "en"))
        assert_that(rows | beam.Map(lambda row: row["language"]), equal_to(["de", "en"]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IdentifyLanguage(keep="de"), r"keep is 'de'; use a tuple"),
        (
            lambda: IdentifyLanguage(languages=("de", "german")),
            "languages has german; use ISO 639 codes",
        ),
        (lambda: IdentifyLanguage(keep=()), "keep has nothing"),
    ],
)
def test_unknown_languages_are_refused(make: Callable[[], IdentifyLanguage], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_nine_in_ten_sentences_of_tatoeba_are_identified(
    new_pipeline: Callable[..., beam.Pipeline], data: Path
) -> None:
    rows = []
    languages = {"deu": "de", "fra": "fr", "jpn": "ja", "ara": "ar", "hin": "hi"}
    for code, language in languages.items():
        (path,) = (data / "tatoeba").glob(f"*{code}-eng.{code}*")
        rows += [
            {"id": f"{code}{i}", "text": text, "expected": language}
            for i, text in enumerate(path.read_text().splitlines())
        ]
    with new_pipeline() as p:
        correct = (
            p
            | beam.Create(rows)
            | IdentifyLanguage()
            | beam.Map(lambda row: row["language"] == row["expected"])
            | beam.CombineGlobally(sum)
        )
        assert_that(
            correct,
            lambda found: found[0] > 0.9 * len(rows) or pytest.fail(f"{found[0]} of {len(rows)}"),
        )


@pytest.mark.parametrize("text", ["123", "3.5 %", "🎉", "!?", " ", "", None])
def test_a_text_without_letters_has_no_language(
    new_pipeline: Callable[..., beam.Pipeline], text: str | None
) -> None:
    with new_pipeline() as p:
        found = p | beam.Create([{"id": 1, "text": text}]) | IdentifyLanguage()
        read = found | beam.Map(lambda row: (row["language"], row["language_score"]))
        assert_that(read, equal_to([(None, None)]))
