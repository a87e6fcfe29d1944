"""Extract the translated messages of an installed package: a real bitext, hidden in two files.

    pip install django
    beam-gpte extract messages django de messages

Writes `source.jsonl` (the given language) and `target.jsonl` (English) with `id` and `text`, and
`gold.jsonl` with the `source_id` and `target_id` of each message that is on both sides; a quarter
of the messages are in the source only, and a quarter in the target only. Ids are hashes of texts,
and rows are sorted by them, so that neither reveals which rows belong together. Messages with
plural forms, with fewer than two words, or whose text or translation is not unique are left out.
`--report page.html` shows lengths and examples.
"""

import argparse
import gettext
import hashlib
import importlib.util
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from beam_gpte import InputError
from beam_gpte.cli.arguments import Program
from beam_gpte.cli.runtime import Stopwatch, add_report_option
from beam_gpte.reports.output_pages import texts_page
from beam_gpte.reports.page import Run, check_report, write_page

MIN_WORDS = 2
EXAMPLES = 12


def messages(package: str, language: str) -> list[tuple[str, str]]:
    """List (translation, message) of all catalogs of a package, sorted."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise InputError(f"no package {package!r} is installed; pip install it")
    catalogs = sorted(Path(found.origin).parent.glob(f"**/locale/{language}/LC_MESSAGES/*.mo"))
    if not catalogs:
        raise InputError(f"package {package!r} has no catalog of language {language!r}")
    pairs = set()
    for path in catalogs:
        with path.open("rb") as file:
            pairs |= set(_entries(gettext.GNUTranslations(file)))
    counts = [Counter(side) for side in zip(*pairs, strict=True)]
    return sorted(
        pair
        for pair in pairs
        if all(count[text] == 1 for count, text in zip(counts, pair, strict=True))
    )


def _entries(catalog: gettext.GNUTranslations) -> Iterator[tuple[str, str]]:
    # gettext has no public way to iterate over the entries
    entries: dict = catalog._catalog  # type: ignore[attr-defined]
    for message, translation in entries.items():
        if isinstance(message, str) and message and translation and message != translation:
            text = message.split("\x04")[-1]  # before it, the context
            if len(text.split()) >= MIN_WORDS:
                yield translation, text


def id_of(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("package", help="installed, with catalogs in locale/LANGUAGE/LC_MESSAGES")
    parser.add_argument("language", help="such as de")
    parser.add_argument("output", type=Path, help="folder for the three files")
    add_report_option(parser)


def run(options: argparse.Namespace, _: list[str]) -> None:
    watch = Stopwatch()
    if options.report:
        check_report(options.report)
    pairs = messages(options.package, options.language)
    options.output.mkdir(parents=True, exist_ok=True)
    gold = []
    sides: tuple[list, list] = ([], [])
    for pair in pairs:
        ids = [id_of(text) for text in pair]
        # 0: the source loses its translation; 1: the translation its source
        alone = int(ids[1], 16) % 4
        if alone > 1:
            gold.append({"source_id": ids[0], "target_id": ids[1]})
        for i, rows in enumerate(sides):
            if alone != 1 - i:
                rows.append({"id": ids[i], "text": pair[i]})
    for name, rows in zip(("source", "target"), sides, strict=True):
        write(options.output / f"{name}.jsonl", sorted(rows, key=lambda row: row["id"]))
    write(options.output / "gold.jsonl", sorted(gold, key=lambda row: row["source_id"]))
    print(
        f"{len(gold):,} translations among {len(sides[0]):,} and {len(sides[1]):,} messages "
        f"in {options.output}"
    )
    if options.report:
        texts = {
            name: [row["text"] for row in rows]
            for name, rows in zip(("source", "target"), sides, strict=True)
        }
        examples = [
            [(f"source {id_of(source)}", source), (f"target {id_of(target)}", target)]
            for source, target in pairs[:: -(-len(pairs) // EXAMPLES)]
        ]
        about = Run(PROGRAM.name, vars(options), {"seconds": round(watch.seconds(), 2)})
        write_page(options.report, texts_page(about, "Translated messages", texts, examples))


PROGRAM = Program("extract messages", __doc__, add_options, run, is_job=False)
