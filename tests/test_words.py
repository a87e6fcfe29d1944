"""The field's own English: none of the words, names and spellings that it replaced comes back."""

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
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
    # but in the prompt that Qwen3-Reranker was trained with
    r"\b(judge[sd]?(?! whether the Document)|judgement|verdicts?)\b": "decide, decision, removal",
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


ANY = re.compile("|".join(f"(?:{pattern})" for pattern in TEXTS), re.IGNORECASE)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tokens_of(path: Path) -> list[tokenize.TokenInfo]:
    text = path.read_text(encoding="utf-8")
    return list(tokenize.generate_tokens(io.StringIO(text).readline))


def old_names(tokens: list[tokenize.TokenInfo]) -> list[str]:
    """List the names that were replaced, with their lines."""
    named = ((token.start[0], token.string) for token in tokens if token.type == tokenize.NAME)
    return [
        f"line {line}: {name}, say {new}"
        for line, name in named
        if name not in FOREIGN
        for new in [NAMES.get(name), *(PARTS.get(part) for part in name.lower().split("_"))]
        if new is not None and not name.startswith("test_")
    ]


def prose_of(tokens: list[tokenize.TokenInfo]) -> Iterator[tuple[int, str]]:
    """Yield comments and strings of a file of code, with their lines."""
    kinds = (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1))
    return ((token.start[0], token.string) for token in tokens if token.type in kinds)


def old_words(prose: Iterable[tuple[int, str]]) -> list[str]:
    """List the words that were replaced, with their lines."""
    return [
        f"line {line + text[: match.start()].count(chr(10))}: {match[0]!r}, say {new}"
        for line, text in prose
        if ANY.search(text)
        for pattern, new in TEXTS.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]


def test_a_word_that_was_replaced_is_found() -> None:
    assert old_words([(7, "two\nneighbours")]) == ["line 8: 'neighbours', say -or"]
    assert old_words([(1, "there is no file"), (2, "# neighbors")]) == []
    tokens = list(tokenize.generate_tokens(io.StringIO("x = Meeting").readline))
    assert old_names(tokens) == ["line 1: Meeting, say CoGroup"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_old_name_or_word_comes_back(folder: str) -> None:
    found = {}
    for path in CODE:
        if name_of(path).startswith(f"{folder}/"):
            tokens = tokens_of(path)
            found[name_of(path)] = old_names(tokens) + old_words(prose_of(tokens))
    assert len(found) > 0
    assert {name: old for name, old in found.items() if old} == {}


def parameters_of(path: Path) -> set[str]:
    """Give the names of the parameters of all functions of a file."""
    functions = (
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.Lambda)
    )
    return {argument.arg for node in functions for argument in node.args.args}


def test_settings_are_not_called_own() -> None:
    assert [name_of(path) for path in CODE if "own" in parameters_of(path)] == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_no_old_word_comes_back_in_a_page(path: Path) -> None:
    assert old_words([(1, path.read_text(encoding="utf-8"))]) == []
