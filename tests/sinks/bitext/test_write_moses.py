"""Files aligned by line have as many lines, whatever is in a text."""

import json
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.io.filesystems import FileSystems
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beam_gpte import WriteMoses
from beam_gpte.sinks.bitext.write_moses import one_line
from tests.sinks.test_write_parquet import parts

BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
ENDS = ("de", "en", "ids.jsonl")


def write(rows: list[dict], path: Path, **settings: tuple[str, ...]) -> None:
    with beam.Pipeline("FnApiRunner") as p:
        p | beam.Create(rows) | WriteMoses(str(path), "de", "en", **settings)


def lines(path: Path) -> list[list[str]]:
    """Read the lines of the three files as Python does, which knows all line breaks."""
    return [Path(f"{path}.{end}").read_bytes().decode().splitlines() for end in ENDS]


def test_line_n_of_each_file_is_of_one_pair(tmp_path: Path) -> None:
    rows = [
        {
            "source_id": f"d{i}",
            "target_id": i,
            "source_text": f" Satz {BREAKS} {i} | ",
            "target_text": f"Sentence\r\n{i}",
            "margin": 0.5,
            "note": "\u2028",
        }
        for i in range(12, 0, -1)
    ]
    rows.append({**rows[0], "target_text": " "})  # not a pair
    write(rows, tmp_path / "x", values=("source_id", "margin", "note"))
    german, english, ids = lines(tmp_path / "x")
    assert german == [f"Satz {i} |" for i in (1, 10, 11, 12, 2, 3, 4, 5, 6, 7, 8, 9)]
    assert english == [line.replace("Satz", "Sentence").removesuffix(" |") for line in german]
    assert json.loads(ids[1]) == {"source_id": "d10", "margin": 0.5, "note": "\u2028"}
    assert parts(tmp_path) == ["x.de", "x.en", "x.ids.jsonl"]


@settings(max_examples=300, deadline=None)
@example(f"a{BREAKS}b")
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_is_one_line_with_all_else_that_is_in_it(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert line.split() == text.split()  # `split` takes all line breaks for blanks


@pytest.mark.parametrize("after", range(3))
def test_a_kill_between_two_files_never_leaves_lines_of_two_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    def row(number: int) -> dict:
        return {"source_id": number, "source_text": f"s{number}", "target_text": f"t{number}"}

    write([row(1)], tmp_path / "x")
    rename = FileSystems.rename

    def rename_some(sources: list[str], targets: list[str]) -> None:
        rename(sources[:after], targets[:after])
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(FileSystems, "rename", rename_some)
        with pytest.raises(Exception, match="killed"):
            write([row(2)], tmp_path / "x")
    there = [Path(f"{tmp_path}/x.{end}").exists() for end in ENDS]
    assert there == [True] * after + [False] * (3 - after)
    write([row(3)], tmp_path / "x")
    assert lines(tmp_path / "x") == [["s3"], ["t3"], ['{"source_id": 3}']]
    assert parts(tmp_path) == ["x.de", "x.en", "x.ids.jsonl"]
