"""Plant paraphrases of items in documents, and count what n-gram filters and Decontaminate find.

    python benchmarks/decontamination.py PAIRS DOCUMENTS --model MODEL [--clean 1000]
        [--planted N] [--seed 0] [--text text] [--language en] [--alarms 0.001]

PAIRS is a CSV file without a header, of sentence, sentence and similarity from 0 to 5, as in the
STS benchmark. Of each pair of at least 4 the second sentence is an item, and the first is planted
at a random end of a sentence of a document of its own; DOCUMENTS is a Parquet file with a column
`--text`. `--clean` other documents stay as they are. Prints, for each method, how many of the
planted documents it finds, how many of those that both n-gram filters miss, and how many documents
and passages of the clean ones it finds, per thousand.
"""

import argparse
import csv
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from beam_gpte import Contamination, Decontaminate
from beam_gpte.core.text.passages import passages_of
from beam_gpte.core.text.sentences import split_sentences

MIN_SIMILARITY = 4.0
NGRAMS = (8, 13)
OURS = "Decontaminate"

Rows = list[dict[str, Any]]


def planted_in(text: str, sentence: str, language: str, rng: random.Random) -> str:
    """Insert a sentence after a random sentence of a text."""
    at = int(rng.choice(split_sentences(text, language))[1])
    return f"{text[:at]} {sentence} {text[at:].lstrip()}"


def make_rows(arguments: argparse.Namespace) -> tuple[Rows, Rows]:
    """Make the items, and documents: those with a paraphrase have the item's number as id."""
    with Path(arguments.pairs).open(encoding="utf-8") as file:
        pairs = [(a, b) for a, b, score in csv.reader(file) if float(score) >= MIN_SIMILARITY]
    pairs = pairs[: arguments.planted]
    texts = pl.read_parquet(arguments.documents)[arguments.text].drop_nulls().to_list()
    rng = random.Random(arguments.seed)
    texts = rng.sample(texts, min(len(texts), len(pairs) + arguments.clean))
    items = [{"id": i, "text": item, "benchmark": "pairs"} for i, (_, item) in enumerate(pairs)]
    planted = [
        {"id": i, "text": planted_in(text, paraphrase, arguments.language, rng)}
        for i, (text, (paraphrase, _)) in enumerate(zip(texts, pairs, strict=False))
    ]
    clean = [
        {"id": i, "text": text} for i, text in enumerate(texts[len(pairs) :], start=len(pairs))
    ]
    return items, planted + clean


def run(transform: Decontaminate, items: Rows, documents: Rows) -> tuple[dict, pl.DataFrame]:
    """Return the report, and the matches."""
    inputs = {"corpus": pl.DataFrame(documents), "benchmarks": pl.DataFrame(items)}
    found = inputs | transform
    matches = found.matches
    if not len(matches):
        matches = pl.DataFrame(schema={"document_id": pl.Int64, "item_id": pl.Int64})
    return found.report[0], matches


def planted_figures(
    matches: pl.DataFrame, items: int, documents: Rows, language: str = "en"
) -> dict[str, Any]:
    """Give the planted documents that were found, and the share of clean ones."""
    found = set(matches["document_id"].to_list())
    clean = documents[items:]
    passages = sum(len(passages_of(row["text"], (1, 3), language)) for row in clean)
    false = matches.filter(pl.col("document_id") >= items)
    spans = len(false.unique(["document_id", "start", "end"])) if len(false) else 0
    return {
        "planted": {number for number in found if number < items},
        "named": len(matches.filter(pl.col("document_id") == pl.col("item_id")).unique("item_id")),
        "documents": 1000 * sum(number >= items for number in found) / len(clean),
        "passages": 1000 * spans / passages,
    }


def options_of(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the arguments, those of the command line by default."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pairs")
    parser.add_argument("documents")
    parser.add_argument("--model", required=True)
    parser.add_argument("--clean", type=int, default=1000)
    parser.add_argument("--planted", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text", default="text")
    parser.add_argument("--language", default="en")
    parser.add_argument("--alarms", type=float, default=0.001)
    return parser.parse_args(given)


def main() -> None:
    """Print the table."""
    arguments = options_of()
    del sys.argv[1:]  # which Beam would read
    items, documents = make_rows(arguments)
    options = Contamination(language=arguments.language, false_alarms=arguments.alarms)
    methods = {f"{n}-grams": Decontaminate(ngrams=n) for n in NGRAMS}
    methods[OURS] = Decontaminate(arguments.model, contamination=options)
    found: dict[str, dict[str, Any]] = {}
    report: dict[str, Any] = {}
    for name, transform in methods.items():
        report, matches = run(transform, items, documents)
        found[name] = planted_figures(matches, len(items), documents, arguments.language)
    by_words = set().union(*(found[f"{n}-grams"]["planted"] for n in NGRAMS))
    missed = set(range(len(items))) - by_words
    clean = len(documents) - len(items)
    print(f"{len(items)} planted, {clean} clean, {len(missed)} missed by both filters")
    print("| method | found | item named | of those missed | false / 1,000 documents | passages |")
    print("|---|---|---|---|---|---|")
    for name, one in found.items():
        more = len(one["planted"] & missed) / max(1, len(missed))
        print(
            f"| {name} | {len(one['planted']) / len(items):.1%} | {one['named'] / len(items):.1%} "
            f"| {more:.1%} | {one['documents']:.2f} | {one['passages']:.2f} |"
        )
    shown = ("threshold", "threshold_from", "copies", "recall_of_copies", "passages", "best_scores")
    print({name: report[name] for name in shown})


if __name__ == "__main__":
    main()
