"""Report pages: differences, charts and samples show what is in the data."""

import argparse
import dataclasses
import datetime
import html
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from beam_gpte.cli.runtime import run_of
from beam_gpte.core.errors import InputError
from beam_gpte.core.vectors.quantize import dequantize, quantize
from beam_gpte.elements.block import Block
from beam_gpte.reports.charts import (
    Bars,
    Threshold,
    categories,
    histogram,
    log_histogram,
)
from beam_gpte.reports.differences import mark_differences, mark_untranslated, merge_differences
from beam_gpte.reports.maps import VectorMap
from beam_gpte.reports.masking import masked_command
from beam_gpte.reports.output_pages import StreamSample, stream_page
from beam_gpte.reports.page import Figure, Run, Section, check_report, render_page
from beam_gpte.reports.sample import (
    LENGTH,
    SAMPLE_CHARACTERS,
    SAMPLE_ROWS,
    WriteSample,
    take_sample,
)
from beam_gpte.reports.sections import compare_texts, map_section, reject_sections
from tests.pages import HOSTILE, Elements, hash_of

# differences


def test_words_of_only_one_of_two_texts_are_marked() -> None:
    assert mark_differences("a red <cat>", "a blue <cat>", 200) == (
        "a <del>red</del> &lt;cat&gt;",
        "a <ins>blue</ins> &lt;cat&gt;",
    )
    assert (
        merge_differences("a red cat", "a blue cat", 200) == "a <del>red</del><ins>blue</ins> cat"
    )
    assert mark_differences("one  two", "one two", 200) == (
        "one<del>  </del>two",
        "one<ins> </ins>two",
    )


def test_line_breaks_are_kept_and_shown_where_they_differ() -> None:
    assert mark_differences("a\nred cat", "a\nblue cat", 200) == (
        "a\n<del>red</del> cat",
        "a\n<ins>blue</ins> cat",
    )
    assert mark_differences("a b", "a\nb", 200) == (
        "a<del> </del>b",
        "a<ins><i>↵</i>\n</ins>b",
    )
    section = Section("s", examples=[compare_texts("t", ("x", "a\nb"), ("y", "a\nc"))])
    page = render_page("t", Run("p", {}, {}), {}, [section])
    assert "a\n<del>b</del>" in page
    assert ".example p { white-space: pre-wrap;" in page


def test_texts_without_blanks_are_compared_by_their_letters() -> None:
    assert mark_differences("我喜欢红色", "我喜欢蓝色", 200) == (
        "我喜欢<del>红</del>色",
        "我喜欢<ins>蓝</ins>色",
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [("How do I open it?", "how do we open  them?"), ("", "new"), (HOSTILE, "x")],
)
def test_without_its_marks_each_text_is_unchanged(first: str, second: str) -> None:
    one, other = mark_differences(first, second, 200)
    merged = merge_differences(first, second, 200)
    assert html.unescape(re.sub("</?del>", "", one)) == first
    assert html.unescape(re.sub("</?ins>", "", other)) == second
    assert html.unescape(re.sub("</?ins>", "", re.sub("<del>.*?</del>", "", merged))) == second
    assert html.unescape(re.sub("</?del>", "", re.sub("<ins>.*?</ins>", "", merged))) == first


def test_truncated_ends_are_not_marked_as_differences() -> None:
    assert mark_differences("the same text goes on", "a same text went on", 16) == (
        "<del>the</del> same text go…",
        "<ins>a</ins> same text went…",
    )
    assert (
        mark_differences("the same text goes on", "the same text", 200)[0]
        == "the same text<del> goes on</del>"
    )


def test_numbers_and_placeholders_of_translations_are_compared() -> None:
    assert mark_untranslated("um 5 Uhr, %(name)s & 7", "at 5, %(user)s &amp; 8") == (
        "um 5 Uhr, <del>%(name)s</del> &amp; <del>7</del>",
        "at 5, <ins>%(user)s</ins> &amp;amp; <ins>8</ins>",
    )
    assert mark_untranslated("2 und 2", "2") == ("2 und <del>2</del>", "2")


# charts


def counts_of(bars: Bars) -> list[tuple[float, float, float]]:
    """Read the lower edge, upper edge and count of each bar from its name."""
    edges = [re.findall(r"-?[\d.,]+", name) for name in bars.names]
    return [
        (float(edge[0].replace(",", "")), float(edge[-1].replace(",", "")), count)
        for edge, count in zip(edges, bars.counts, strict=True)
    ]


@pytest.mark.parametrize("scale", [1.0, 0.003, 700.0])
@pytest.mark.parametrize("threshold", [None, 0.123])
def test_bars_count_the_values_between_their_edges(scale: float, threshold: float | None) -> None:
    values = (np.random.default_rng(0).normal(size=500) * scale).round(9)
    mark = None if threshold is None else Threshold(threshold * scale, "t")
    bars = histogram(values, "x", mark)
    counts = counts_of(bars)
    assert 8 < len(counts) <= 26
    assert sum(count for *_, count in counts) == 500
    step = counts[1][0] - counts[0][0]
    for i, (low, high, count) in enumerate(counts):
        near = min(abs(values - edge).min() for edge in (low, high))
        if near > step / 50:  # names are rounded
            assert count == ((values >= low) & (values < high)).sum(), i


def test_each_bar_is_on_one_side_of_the_threshold() -> None:
    values = np.array([0.1, 0.14999, 0.15, 0.1501, 0.3, 0.7])
    bars = histogram(values, "margin", Threshold(0.15, "minimum"))
    assert bars.mark is not None
    place = bars.mark[0]
    assert place == round(place)
    below = sum(bars.counts[: round(place)])
    assert (below, sum(bars.counts) - below) == (2, 4)


def test_bars_of_cosines_end_at_one() -> None:
    bars = counts_of(histogram(np.array([-0.1, 0.2, 0.9, 1.0]), "x"))
    assert bars[-1][1] == 1.0
    assert bars[-1][2] == 1


def test_bars_of_lengths_grow_and_count_every_text() -> None:
    lengths = np.random.default_rng(1).geometric(0.01, 1000)
    bars = counts_of(log_histogram(lengths, "x"))
    assert sum(count for *_, count in bars) == 1000
    assert all(count == ((lengths >= low) & (lengths <= high)).sum() for low, high, count in bars)
    assert bars[-1][1] - bars[-1][0] > 10 * (bars[0][1] - bars[0][0])


def test_bars_of_lengths_above_the_limit_begin_there() -> None:
    lengths = np.array([1, 9, 255, 256, 257, 300, 900])
    bars = log_histogram(lengths, "tokens", Threshold(256, "limit", "truncated", "whole"))
    assert bars.mark is not None
    place = round(bars.mark[0])
    assert bars.names[place].startswith("257")
    assert sum(bars.counts[:place]) == 4


def test_a_chart_has_its_figures_as_text() -> None:
    bars = categories({"1": 4, "2-3": 0, "4-7": 1200}, "removed", "rows")
    page = Elements(
        render_page("t", Run("p", {}, {}), {}, [Section("s", figures=[Figure("f", bars)])])
    )
    assert bars.table() == [("1", "4"), ("4-7", "1,200")]
    assert "1,200" in page.text


# samples


def test_the_same_rows_are_sampled_whatever_the_blocks_and_workers(
    tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    rows = 1300
    lengths = [SAMPLE_CHARACTERS + 500 if i % 100 == 0 else i % 30 for i in range(rows)]
    codes = quantize(np.random.default_rng(3).normal(size=(rows, 4)), "int8")
    lists = pa.FixedSizeListArray.from_arrays(pa.array(codes.reshape(-1)), 4)
    columns = {"id": np.arange(rows), "text": ["é" * length for length in lengths], "v": lists}
    whole = Block(pa.RecordBatch.from_pydict(columns))
    blocks = [
        whole.slice(0, 500),
        whole.slice(500, 600),
        whole.slice(1100, 200).without_columns(["v"]),
    ]
    path = str(tmp_path / "sample")
    with new_pipeline("two processes") as pipeline:
        pipeline | beam.Create(blocks) | WriteSample(path, ("id",), ("text",), ("v",))
    sample = take_sample(path)
    assert not Path(path).exists()
    hashes = pl.Series([str(i) for i in range(rows)]).hash().to_numpy()
    assert sample["id"].to_list() == np.argsort(hashes)[:SAMPLE_ROWS].tolist()
    assert sample["text" + LENGTH].to_list() == [lengths[i] for i in sample["id"]]
    assert sample["text"].str.len_chars().max() == SAMPLE_CHARACTERS
    known = sample.filter(pl.col("v").is_not_null())["id"].to_numpy()
    assert set(known) == {i for i in sample["id"] if i < 1100}
    vectors = sample.filter(pl.col("v").is_not_null())["v"].to_numpy()
    assert np.allclose(vectors, dequantize(codes[known]))


def test_a_sample_has_further_columns_to_color_by(
    tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    """Numbers, booleans, strings and moments; neither lists nor columns that differ by block."""
    first = {"id": ["a", "b"], "text": ["x", "y"], "stars": [1, 2], "tags": [["t"], []]}
    second = {"id": ["c"], "text": ["z"], "stars": [0.5], "lang": ["é" * 500], "is_new": [True]}
    second["day"] = [datetime.date(2026, 11, 29)]
    path = str(tmp_path / "sample")
    blocks = [Block.from_pydict(first), Block.from_pydict(second)]
    with new_pipeline() as pipeline:
        pipeline | beam.Create(blocks) | WriteSample(path, ("id",), ("text",), ())
    sample = take_sample(path).sort("id")
    assert sample.columns[0] == "id"
    assert set(sample.columns) == {"id", "text", "text_length", "stars", "lang", "is_new", "day"}
    assert sample["stars"].to_list() == [1, 2, 0.5]
    assert sample["lang"].to_list() == [None, None, "é" * 200]
    assert sample["is_new"].to_list() == [None, None, True]
    assert sample["day"].to_list() == [None, None, "2026-11-29"]


def test_no_rows_give_an_empty_sample(
    tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    with new_pipeline() as pipeline:
        (
            pipeline
            | beam.Create([], reshuffle=False).with_output_types(Block)
            | WriteSample(f"{tmp_path}/s", ("id",), (), ())
        )
    assert take_sample(f"{tmp_path}/s").is_empty()


# pages; tests/cli/test_programs.py tests those that the programs write


def test_a_page_that_cannot_be_written_is_refused_before_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="name a file that ends in .html"):
        check_report(str(tmp_path / "page.pdf"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to this folder"):
        check_report(str(tmp_path / "file" / "page.html"))
    check_report(str(tmp_path / "page.html"))
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    message = r"^--report needs jinja2 and scikit-learn; pip install 'beam-gpte\[report\]'$"
    with pytest.raises(InputError, match=message):
        check_report(str(tmp_path / "page.html"))


def test_a_page_of_a_stream_shows_texts_and_their_duplicates() -> None:
    summary = {"files_read": 1, "rows_read": 4, "texts": 3, "removed": 1, "rejected": 1}
    summary |= {"seconds": 2.0, "reasons": {"text is null": 1}}
    vectors = np.eye(3, dtype=np.float32)
    kept = {"id": [1, 2], "text": ["a red cat", "dogs"], "text_length": [9, 4]}
    removed = {"id": [3], "text": ["a blue cat"], "text_length": [10], "duplicate_of": ["1"]}
    sample = StreamSample(
        pl.DataFrame({**kept, "embedding": vectors[:2]}),
        pl.DataFrame({**removed, "score": [0.95], "embedding": vectors[:1]}),
        "id",
        "text",
        "embedding",
    )
    page = Elements(stream_page(Run("p", {}, {}), summary, sample))
    assert "score 0.9500" in page.text
    assert (page.count("del"), page.count("ins")) >= (1, 1)
    assert "text is null" in page.text
    assert "1.5" in page.text
    (chart,) = page.charts_of("map")
    assert chart["ids"] == ["1", "2", "3"]
    assert chart["columns"][0]["values"] == ["kept", "kept", "removed"]
    nothing = dataclasses.replace(sample, kept=pl.DataFrame(), removed=pl.DataFrame())
    page = Elements(stream_page(Run("p", {}, {}), {**summary, "reasons": {}}, nothing))
    assert page.charts == []


OBEYED = [*range(9), *range(11, 32), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F]
OBEYED += [*range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xD800, 0xDFFF]


def test_what_a_reader_would_not_see_is_shown_escaped_wherever_it_is() -> None:
    text = "".join(map(chr, OBEYED))
    points = VectorMap(np.eye(2), [text, text], [text, text], {text: [text, None]})
    sections = [
        Section(text, text, table=[(text, 1)], header=(text, "rows"), search=True),
        reject_sections({text: 2})[0],
        Section("", figures=[Figure(text, histogram(np.array([1.0]), text, unit=text), text)]),
        Section("", examples=[compare_texts(text, (text, f"a {text}"), (text, f"b {text}"))]),
        map_section(points, text),
    ]
    run = Run(text, {text: text}, {text: 1.0}, command=text)
    page = render_page(text, run, {text: text}, sections, [text], {text: text})
    written = page.partition("<script>")[0]  # before Bokeh's own
    assert not set(text) & set(written)
    assert written.count(r"\u202e") >= 20
    # what the script makes of its data is as visible as what is written
    chart = Elements(page).charts_of("map")[0]
    shown = [*chart["ids"], *chart["texts"], chart["columns"][0]["name"]]
    assert not set(text) & set("".join(shown))
    assert page.encode()
    plain = render_page("", Run("", {}, {}), {"Größe 東京 🙂": "a\tb\nשלום\u200d"}, [])
    assert "Größe 東京 🙂" in plain
    assert "a\tb\nשלום\u200d" in plain


def test_options_are_shown_with_their_defaults_and_those_of_beam_only_if_given(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    with new_pipeline() as pipeline:
        pipeline | beam.Create([1], reshuffle=False)
    options, flags = argparse.Namespace(pooling="auto"), ["--direct_num_workers=2", "--job_name=j"]
    run = run_of("program", options, flags, pipeline.result, 2.0)
    assert run.parameters["direct_num_workers"] == 2
    assert run.parameters["pooling"] == "auto"
    assert "direct_running_mode" not in run.parameters
    assert run.parameters["job_name"] == "j"
    assert "temp_location" not in run.parameters
    assert run.speed == {"seconds": 2.0}


def test_a_secret_among_beams_options_is_not_on_the_page(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    """Of an option that is not known to be harmless only the name is shown."""
    with new_pipeline() as pipeline:
        pipeline | beam.Create([1], reshuffle=False)
    secrets = {
        "s3_secret_access_key": "TOPSECRET1",
        "s3_session_token": "TOPSECRET2",
        "azure_connection_string": "AccountKey=TOPSECRET3",
        "environment_config": '{"password": "TOPSECRET4"}',
        "temp_location": "gs://TOPSECRET5/x",
        "labels": "TOPSECRET6=1",
    }
    flags = [f"--{name}={value}" for name, value in secrets.items()]
    options = argparse.Namespace()
    run = run_of("program", options, ["--job_name=j", *flags], pipeline.result, 2.0)
    page = Elements(render_page("t", run, {}, [])).text
    assert "TOPSECRET" not in page
    assert "TOPSECRET" not in repr(run)
    for name in secrets:
        assert run.parameters[name] == "(not shown)"
    assert run.parameters["job_name"] == "j"


def test_date_model_input_dimension_and_command_are_at_the_top() -> None:
    when = datetime.datetime(2026, 11, 29, 7, 5, tzinfo=datetime.UTC)
    parameters = {"model": "some/model", "input": ["a.jsonl", "b.jsonl"], "output": "o"}
    run = Run("p.py", parameters, {}, "p.py --model some/model --input a.jsonl b.jsonl", when)
    page = Elements(render_page("t", run, {"rows": 3}, [], about={"dimension": 384}))
    top = page.text[page.text.index("date") : page.text.index("rows")]
    assert top.split("\n")[0] == "date2026-11-29 07:05 UTC"
    for shown in (
        "modelsome/model",
        "inputa.jsonl b.jsonl",
        "dimension384",
        f"command{run.command}",
    ):
        assert shown in top


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--input", "a b.jsonl", "c.jsonl"], "--input 'a b.jsonl' c.jsonl"),
        (["--model=m", "-k", "2", "what is it?"], "--model=m -k 2 'what is it?'"),
        (["a question"], "'a question'"),
        (["--input", "s3://me:TOPSECRET@b/x"], "--input 's3://(not shown)@b/x'"),
        (["--s3_secret_access_key", "TOPSECRET"], "--s3_secret_access_key (not shown)"),
        (["--s3_secret_access_key=TOPSECRET"], "--s3_secret_access_key=(not shown)"),
        (["--s3_secret", "TOPSECRET"], "--s3_secret (not shown)"),
        (["--temp_location=gs://TOPSECRET/x"], "--temp_location=(not shown)"),
        (["--unknown", "TOPSECRET", "TOPSECRET", "--model", "m"], None),
        (["-pTOPSECRET"], "(not shown)"),
        (["--api_key", "TOPSECRET"], "--api_key (not shown)"),
        (["--", "TOPSECRET"], None),
    ],
)
def test_a_secret_of_the_command_line_is_not_on_the_page(
    arguments: list[str], shown: str | None
) -> None:
    """Only values of the program's own options, by their full names, and of harmless ones."""
    options = {"input": "", "model": "", "k": 5, "api_key": "", "temp_location": "(not shown)"}
    command = masked_command(["p.py", *arguments], options)
    assert "TOPSECRET" not in command
    assert command.startswith("p.py ")
    if shown is not None:
        assert command == f"p.py {shown}"


def test_the_command_of_another_program_is_not_taken_for_the_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("beam_gpte.reports.page._commands", [])
    monkeypatch.setattr(sys, "argv", ["/somewhere/p.py", "--x", "TOPSECRET", "--n", "1"])
    assert Run("p.py", {"n": 1}, {}).command == "p.py --x (not shown) --n 1"
    assert "TOPSECRET" not in repr(Run("p.py", {"n": 1}, {}))
    assert Run("q.py", {"n": 1}, {}).command == ""


def test_a_page_allows_its_own_scripts_and_no_others() -> None:
    bars = histogram(np.array([0.1, 0.2]), "x")
    run = Run("p", {}, {})
    page = Elements(render_page(HOSTILE, run, {}, [Section(HOSTILE, figures=[Figure("", bars)])]))
    scripts = [one for one in page.scripts if not one.startswith("[")]
    assert len(scripts) == 3
    assert re.findall(r"'sha256-\S+'", page.policy) == [hash_of(one) for one in scripts]
    assert page.policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in page.policy.partition("style-src")[0]
    plain = Elements(render_page("t", run, {}, []))
    assert (plain.scripts, "script-src 'none'" in plain.policy) == ([], True)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("model", "https://me:hunter2@host/m", "https://(not shown)@host/m"),
        ("input", ["gs://b/x?", "s3://key:hunter2@b/*"], "gs://b/x? s3://(not shown)@b/*"),
        ("input", "https://h/x?X-Sig=hunter2&b=1", "https://h/x?X-Sig=(not shown)&b=1"),
        ("input", "md:x?motherduck_token=hunter2", "md:x?motherduck_token=(not shown)"),
        ("input", "AccountName=a;AccountKey=hunter2", "AccountName=a;AccountKey=(not shown)"),
        ("api_key", "hunter2", "(not shown)"),
        ("db_password", "hunter2", "(not shown)"),
        ("hf_token", "hunter2", "(not shown)"),
        ("api_key", None, "–"),
        ("max_tokens", 512, "512"),
        ("token_budget", 4096, "4,096"),
        ("key_columns", ["id"], "id"),
        ("input", "data/202?-*.jsonl", "data/202?-*.jsonl"),
        ("keep", "stars desc", "stars desc"),
    ],
)
def test_a_secret_of_a_programs_own_is_not_on_the_page(name: str, value: Any, shown: str) -> None:
    page = Elements(render_page("t", Run("p", {name: value}, {}), {}, [])).text
    assert "hunter2" not in page
    assert shown in page
