"""Languages, of real sentences, with what is none of them set aside."""

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
        told = rows | beam.Map(
            lambda row: (row["id"], row["language"], row["language_score"] is None)
        )
        assert_that(
            told,
            equal_to([*((id_, language, False) for id_, _, language in TEXTS), ("f", None, True)]),
        )


def test_other_languages_are_set_aside_with_what_they_are(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    with new_pipeline() as p:
        good, rejects = (
            p | beam.Create(ROWS) | IdentifyLanguage(keep=("de", "en")).with_exception_handling()
        )
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


def test_few_languages_are_told_apart_in_short_texts(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    with new_pipeline() as p:
        rows = (
            p
            | beam.Create([{"id": "a", "text": "gut"}, {"id": "b", "text": "good"}])
            | IdentifyLanguage(("de", "en"))
        )
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
def test_what_is_no_language_is_refused(make, message) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_nine_in_ten_sentences_of_tatoeba_are_told(
    new_pipeline: Callable[..., beam.Pipeline], data: Path
) -> None:
    rows = []
    for code, language in (
        ("deu", "de"),
        ("fra", "fr"),
        ("jpn", "ja"),
        ("ara", "ar"),
        ("hin", "hi"),
    ):
        (path,) = (data / "tatoeba").glob(f"*{code}-eng.{code}*")
        rows += [
            {"id": f"{code}{i}", "text": text, "own": language}
            for i, text in enumerate(path.read_text().splitlines())
        ]
    with new_pipeline() as p:
        told = (
            p
            | beam.Create(rows)
            | IdentifyLanguage()
            | beam.Map(lambda row: row["language"] == row["own"])
        )
        right = told | beam.CombineGlobally(sum)
        assert_that(
            right,
            lambda found: found[0] > 0.9 * len(rows) or pytest.fail(f"{found[0]} of {len(rows)}"),
        )
