"""The field's own English: none of the words, names and spellings that it replaced comes back."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("beam_gpte", "pipelines", "transforms", "benchmarks", "tests", "docs")
CODE = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(__file__).resolve()
)
PAGES = [
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts),
    *(path for folder in FOLDERS[1:3] for path in sorted((ROOT / folder).glob("*.[my][da]*"))),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
]

NAMES = {  # what a name was -> what it is
    "MeetById": "CoGroupById",
    "Meeting": "CoGroup",
    "MeetSide": "JoinSide",
    "ScoreMet": "ScoreJoined",
    "meet_pairs": "pair_scores",
    "MakeOne": "FromSideInputs",
    "Defect": "RowError",
    "Wanted": "ColumnSelection",
    "Cut": "FittedThreshold",
    "Reached": "ReadPosition",
    "bring_in": "load_files",
    "_enter": "record_commit",
    "NAP": "POLL_SLEEP_SECONDS",
    "AWAKE": "BUSY_SECONDS",
    "then_all": "mine_unmatched",
    "also_at": "report_thresholds",
}
PARTS = {  # of a name, between underscores
    "told": "known, measured",
    "former": "previous",
    "judge": "decide",
    "judged": "decided",
    "judgement": "decision",
    "verdict": "decision, removal",
    "verdicts": "decisions, removals",
    "twin": "clone",
    "least": "min",
    "most": "max",
    "longest": "max",
    "farthest": "max",
}
# Names of others: of Collections, Polars, Beam, the order of keeping, ...
FOREIGN = {"most_common", "longest"}
TEXTS = {  # in docstrings, comments, messages and pages
    r"\bmend(s|ed)?\b": "fix",
    r"\b(set|sets|setting|are|is|goes|go|put) (\w+ ){0,3}aside\b": "collect, route to the rejects",
    r"\bwish(es)?\b": "to ...",
    r"(?<!there )(?<!there\n)\bis no (?!longer\b|more\b)": "is not",
    r"\bwhat is no\b": "invalid, not",
    r"\ba row a (text|sentence|chunk|pair)\b": "one row per text",
    r"\bone row a file\b": "one row per file",
    r"\bthe most of a\b": "maximum",
    r"\b(judge[sd]?|judgement|verdicts?)\b": "decide, decision, removal",
    r"\btold\b": "known, measured",
    r"\bformer(ly)?\b": "previous",
    r"\btwins?\b": "clone, counterpart",
    r"\bfarthest\b": "max",
    r"\bsays? of (itself|themselves)\b": "describes",
    r"\b\w*(normali|quanti|tokeni|vectori|optimi|summari|paralleli|initiali|reali|organi)s(e|ed|es|"
    r"ing|ation|ations)\b": "-ize",
    r"\b\w*(neighbour|colour|behaviour|favour)\w*\b": "-or",
    r"\b(centre|centred|centres|centring|licence|judgement)\b": "American spelling",
}


def names_of(path: Path) -> Iterator[tuple[int, str]]:
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    return ((token.start[0], token.string) for token in tokens if token.type == tokenize.NAME)


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_old_name_comes_back(path: Path) -> None:
    found = [
        f"line {line}: {name}, say {new}"
        for line, name in names_of(path)
        if name not in FOREIGN
        for new in [NAMES.get(name), *(PARTS.get(part) for part in name.lower().split("_"))]
        if new is not None and not name.startswith("test_")
    ]
    assert found == []


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_settings_are_not_called_own(path: Path) -> None:
    functions = (
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.Lambda)
    )
    parameters = {argument.arg for node in functions for argument in node.args.args}
    assert "own" not in parameters


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Comments and strings of a file of code, with their lines; all of a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield 1, text
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (
            tokenize.COMMENT,
            tokenize.STRING,
            getattr(tokenize, "FSTRING_MIDDLE", -1),
        ):
            yield token.start[0], token.string


@pytest.mark.parametrize("path", [*CODE, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_old_word_comes_back(path: Path) -> None:
    found = [
        f"line {line + text[: match.start()].count(chr(10))}: {match[0]!r}, say {new}"
        for line, text in prose_of(path)
        for pattern, new in TEXTS.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]
    assert found == []
