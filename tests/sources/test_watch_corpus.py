"""Read each file that appears in a folder once; a damaged one costs no other."""

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows

from beam_gpte import Block, InputError, Polling, ReadCorpus, ReadOptions, WatchCorpus
from beam_gpte.sources import ticks
from beam_gpte.sources.declared_columns import typed_columns
from beam_gpte.sources.row_ranges import RowRanges
from tests.examples import keep, kept

Rows = list[dict[str, Any]]
Watch = Callable[..., list[Rows]]  # good and bad ones


@pytest.fixture(autouse=True)
def no_idle_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the five seconds that Beam's local runner waits, idle, at its end."""
    monkeypatch.setattr(
        "apache_beam.runners.direct.executor._ExecutorService._ExecutorServiceWorker.TIMEOUT", 0.1
    )


def stream() -> beam.Pipeline:
    return beam.Pipeline("BundleBasedDirectRunner", options=PipelineOptions(["--streaming"]))


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def polling(tmp_path: Path) -> Polling:
    return Polling(0.1, str(tmp_path / "stop"))


@pytest.fixture
def watch(inbox: Path, polling: Polling, tmp_path: Path) -> Watch:
    """Read rows and rejects of the files in the inbox, in a stream that stops after one scan."""

    def run(pattern: str = "*", isolate: bool = True, **arguments: Any) -> list[Rows]:
        (tmp_path / "stop").touch()
        p = stream()
        corpus = WatchCorpus(f"{inbox}/{pattern}", **{"polling": polling, **arguments})
        good, bad = p | corpus.with_exception_handling() if isolate else (p | corpus, None)
        good | "Good" >> beam.Map(keep, str(tmp_path), "good")
        if isolate:
            bad | "Bad" >> beam.Map(keep, str(tmp_path), "bad")
        p.run().wait_until_finish()
        return [
            [row for block in kept(str(tmp_path), kind) for row in block.batch.to_pylist()]
            for kind in ("good", "bad")
        ]

    return run


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def reasons(rejects: Rows) -> list[tuple[str, str]]:
    return sorted((row["id"], row["reject_reason"].split(":")[0]) for row in rejects)


def put(path: Path, text: str) -> None:
    """Write a file that is complete when its name appears."""
    hidden = path.with_name(f".{path.name}")
    hidden.write_text(text, encoding="utf-8")
    hidden.rename(path)


def test_ids_and_rows_are_those_of_read_corpus(
    watch: Watch, inbox: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    (inbox / "deep").mkdir()
    put(inbox / "a.jsonl", '{"text": "one", "n": 1}\n\n{"text": "three", "n": 3}\n')
    pq.write_table(pa.table({"text": ["four", "five"], "n": [4, 5]}), inbox / "b.parquet")
    (inbox / "deep" / "c.jsonl.gz").write_bytes(
        gzip.compress(lines({"text": "six", "n": 6}).encode())
    )
    good, bad = watch("**")
    assert bad == []
    assert {row["id"] for row in good} == {
        "a.jsonl:1",
        "a.jsonl:3",
        "b.parquet:1",
        "b.parquet:2",
        "deep/c.jsonl.gz:1",
    }
    with new_pipeline() as p:
        rows = (
            p
            | ReadCorpus([f"{inbox}/*.*", f"{inbox}/deep/*"])
            | beam.FlatMap(lambda block: block.batch.to_pylist())
        )
        assert_that(rows | beam.Map(repr), equal_to([repr(row) for row in good]))


def test_files_of_another_encoding_are_read(watch: Watch, inbox: Path) -> None:
    (inbox / "a.csv").write_bytes(b"text;n\ncaf\xe9;1\n\x81;2\n")
    good, bad = watch(options=ReadOptions(encoding="cp1252"))
    assert good == [{"id": "a.csv:1", "text": "café", "n": "1"}]
    assert reasons(bad) == [("a.csv:2", "invalid cp1252")]


def test_each_file_is_read_once_while_others_appear(
    inbox: Path, polling: Polling, tmp_path: Path
) -> None:
    """One exists, one is added, the first is appended to, a third gets a matching name late."""

    def act() -> None:
        until = time.monotonic() + 60
        put(inbox / "b.jsonl", lines({"text": "second"}))
        while len(kept(str(tmp_path), "good")) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        with (inbox / "a.jsonl").open("a") as file:
            file.write(lines({"text": "too late"}))
        while not kept(str(tmp_path), "bad") and time.monotonic() < until:
            time.sleep(0.02)
        put(inbox / "a.jsonl", lines({"text": "later still"}))
        (inbox / "c.tmp").write_text(lines({"text": "third"}))
        (inbox / "c.tmp").rename(inbox / "c.jsonl")
        while len(kept(str(tmp_path), "good")) < 3 and time.monotonic() < until:
            time.sleep(0.02)
        (tmp_path / "stop").touch()

    put(inbox / "a.jsonl", lines({"text": "first"}))
    p = stream()
    watch_corpus = WatchCorpus(f"{inbox}/*.jsonl", polling=polling)
    corpus, rejects = p | watch_corpus.with_exception_handling()
    assert not corpus.is_bounded
    corpus | "Good" >> beam.Map(keep, str(tmp_path), "good")
    rejects | "Bad" >> beam.Map(keep, str(tmp_path), "bad")
    threading.Thread(target=act, daemon=True).start()
    p.run().wait_until_finish()
    found = [row for block in kept(str(tmp_path), "good") for row in block.batch.to_pylist()]
    assert sorted((row["id"], row["text"]) for row in found) == [
        ("a.jsonl:1", "first"),
        ("b.jsonl:1", "second"),
        ("c.jsonl:1", "third"),
    ]
    (changed,) = kept(str(tmp_path), "bad")
    assert reasons(changed.batch.to_pylist()) == [("a.jsonl:0", "file was changed")]


def test_a_file_written_anew_before_a_restart_is_not_mixed_with_its_old_rows(
    watch: Watch, inbox: Path, tmp_path: Path
) -> None:
    polling = Polling(0.1, str(tmp_path / "stop"), str(tmp_path / "versions"))
    put(inbox / "a.jsonl", lines({"text": "old one"}))
    put(inbox / "b.jsonl", lines({"text": "b one"}, {"text": "b two"}))
    put(inbox / "c.jsonl", lines({"text": "never committed"}))
    good, bad = watch(polling=polling)
    assert (len(good), bad) == (4, [])
    put(inbox / "a.jsonl", lines({"text": "new one"}, {"text": "new two"}))
    put(inbox / "c.jsonl", lines({"text": "c anew"}))
    committed = {"a.jsonl": RowRanges.of([1]), "b.jsonl": RowRanges.of([1])}
    good, bad = watch(polling=polling, committed=committed)
    assert [row["text"] for row in good[4:]] == ["b two", "c anew"]
    assert reasons(bad) == [("a.jsonl:0", "file was changed")]
    message = (
        r"'a\.jsonl:0': file was changed: after it was read; write what is new under a new name"
    )
    with pytest.raises(Exception, match=message):
        watch(polling=polling, committed=committed, isolate=False)


def test_a_file_that_changes_while_it_is_read_is_reported(
    watch: Watch, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = iter(["1", "2"])
    monkeypatch.setattr(
        "beam_gpte.sources.watch_corpus.current_version", lambda path: next(versions)
    )
    put(inbox / "a.jsonl", lines({"text": "one"}))
    good, bad = watch()
    assert (len(good), reasons(bad)) == (1, [("a.jsonl:0", "file was changed")])


def test_windows_of_event_time_end_while_the_stream_runs(
    inbox: Path, polling: Polling, tmp_path: Path
) -> None:
    """Only the first window's end stops the stream; a row's time is when its file was found."""
    put(inbox / "a.jsonl", lines({"text": "first"}, {"text": "second"}))
    p = stream()
    counts = (
        p
        | WatchCorpus(f"{inbox}/*", polling=polling)
        | beam.Map(lambda block: ("rows", len(block))).with_output_types(tuple[str, int])
        | beam.WindowInto(FixedWindows(1))
        | beam.CombinePerKey(sum)
    )
    (
        counts
        | beam.Map(lambda count, window=beam.DoFn.WindowParam: (count[1], float(window.start)))
        | beam.Map(keep, str(tmp_path), "counts")
    )
    counts | "Stop" >> beam.Map(lambda _, path: Path(path).touch(), str(tmp_path / "stop"))
    began = time.time()
    p.run().wait_until_finish()
    ((count, start),) = kept(str(tmp_path), "counts")
    assert count == 2
    assert began - 1 <= start <= time.time()


@pytest.mark.parametrize("hours", [1, 24 * 365])
def test_a_clock_that_is_set_back_does_not_stop_the_stream(
    inbox: Path,
    polling: Polling,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hours: int,
) -> None:
    """A file that appears afterwards is read, its window of event time ends, and it is logged."""
    clock, began = time.time, time.monotonic()
    monkeypatch.setattr(ticks, "_clock", ticks.SteadyClock())

    def act() -> None:
        until = began + 60
        while not kept(str(tmp_path), "counts") and time.monotonic() < until:
            time.sleep(0.02)
        monkeypatch.setattr(time, "time", lambda: clock() - hours * 3600)
        put(inbox / "b.jsonl", lines({"text": "second"}))
        while len(kept(str(tmp_path), "counts")) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        (tmp_path / "stop").touch()

    put(inbox / "a.jsonl", lines({"text": "first"}))
    p = stream()
    counts = (
        p
        | WatchCorpus(f"{inbox}/*", polling=polling, time_column="seen")
        | beam.FlatMap(lambda block: block.column("seen").to_pylist())
        | beam.Map(lambda seen: ("rows", seen.timestamp())).with_output_types(tuple[str, float])
        | beam.WindowInto(FixedWindows(0.5))
        | beam.CombinePerKey(max)
    )
    counts | beam.Map(keep, str(tmp_path), "counts")
    thread = threading.Thread(target=act)
    thread.start()
    with caplog.at_level("WARNING"):
        p.run().wait_until_finish()
    thread.join()
    (_, first), (_, second) = kept(str(tmp_path), "counts")
    assert 0 < second - first < 60
    assert time.monotonic() - began < 60
    assert f"was set back, by {hours * 3600} seconds in all" in caplog.text


def test_what_is_never_opened_is_one_reject_each(watch: Watch, inbox: Path) -> None:
    put(inbox / "a.jsonl", lines({"text": "good"}))
    put(inbox / "b\\c.jsonl", lines({"text": "backslash"}))
    (inbox / os.fsdecode(b"b\xff.jsonl")).write_text(lines({"text": "not UTF-8"}))
    os.mkfifo(inbox / "f.jsonl")
    (inbox / "l.jsonl").symlink_to("nowhere")
    (inbox / "loop.jsonl").symlink_to("loop.jsonl")
    good, bad = watch("*.jsonl")
    assert sorted(row["id"] for row in good) == ["a.jsonl:1", "b\\c.jsonl:1"]
    assert sorted((row["id"], row["row"], row["reject_reason"]) for row in bad) == [
        ("b\\xff.jsonl:0", None, "file cannot be read: its name is not valid UTF-8; rename it"),
        ("f.jsonl:0", None, "file cannot be read: it is a FIFO, not a file; move it elsewhere"),
        ("l.jsonl:0", None, "file cannot be read: it is a link to nothing; remove it"),
        ("loop.jsonl:0", None, "file cannot be read: it is a link to itself; remove it"),
    ]
    rejected = {row["id"].removesuffix(":0"): RowRanges.of([0]) for row in bad}
    assert watch("*.jsonl", committed=rejected)[1] == bad  # once, not again after a restart


def test_a_file_whose_name_is_not_utf_8_is_named_without_exception_handling(
    watch: Watch, inbox: Path
) -> None:
    (inbox / os.fsdecode(b"b\xff.jsonl")).write_text(lines({"text": "not UTF-8"}))
    message = r"WatchCorpus: .*/b\\xff\.jsonl: its name is not valid UTF-8; rename it"
    with pytest.raises(InputError, match=message):
        watch(isolate=False)


def test_a_fifo_in_the_inbox_is_not_waited_for(inbox: Path, tmp_path: Path) -> None:
    """The program ends by SIGTERM, and has read the other file."""
    os.mkfifo(inbox / "a.jsonl")
    put(inbox / "b.jsonl", lines({"text": "good"}))
    code = (
        "import sys; import apache_beam as beam; from beam_gpte import Polling, WatchCorpus\n"
        "from apache_beam.options.pipeline_options import PipelineOptions\n"
        "from beam_gpte.cli.streams import stop_file\n"
        "with stop_file() as stop:\n"
        "    options = PipelineOptions(['--streaming'])\n"
        "    p = beam.Pipeline('BundleBasedDirectRunner', options=options)\n"
        "    watch = WatchCorpus(sys.argv[1], polling=Polling(0.1, stop))\n"
        "    good, bad = p | watch.with_exception_handling()\n"
        "    good | beam.Map(lambda block: print('read', len(block), flush=True))\n"
        "    p.run().wait_until_finish()\n"
    )
    command = [sys.executable, "-c", code, f"{inbox}/*.jsonl"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == b"read 1\n"
    process.terminate()
    assert process.wait(60) == 0


def test_a_folder_that_may_not_be_listed_stops_no_other(
    watch: Watch, inbox: Path, refuse_folder: Callable[[str], None]
) -> None:
    (inbox / "closed").mkdir()
    put(inbox / "a.jsonl", lines({"text": "good"}))
    refuse_folder("closed")
    good, bad = watch("**/*.jsonl")
    assert [row["id"] for row in good] == ["a.jsonl:1"]
    reason = "the folder cannot be listed: Permission denied; change its permissions"
    assert [(row["id"], row["reject_reason"]) for row in bad] == [
        ("closed/:0", f"file cannot be read: {reason}")
    ]


def test_damaged_and_unknown_files_are_one_reject_each(watch: Watch, inbox: Path) -> None:
    put(inbox / "a.jsonl", lines({"text": "fine"}) + "no JSON\n")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["never read"] * 100}), sink)
    (inbox / "b.parquet").write_bytes(sink.getvalue().to_pybytes()[:-20])
    (inbox / "c.jsonl.gz").write_bytes(gzip.compress(lines({"text": "never read"}).encode())[:-10])
    put(inbox / "d.csv", "body\nx\n")
    put(inbox / "e.unknown", "x")
    put(inbox / "g.jsonl", lines({"text": "fine too"}))
    good, bad = watch()
    assert good == [{"id": "a.jsonl:1", "text": "fine"}, {"id": "g.jsonl:1", "text": "fine too"}]
    unread = [
        (f"{name}:0", "file cannot be read")
        for name in ("b.parquet", "c.jsonl.gz", "d.csv", "e.unknown")
    ]
    assert reasons(bad) == [("a.jsonl:2", "broken JSON"), *unread]
    whole = next(row for row in bad if row["id"] == "b.parquet:0")
    assert (whole["file"], whole["row"], whole["reject_step"]) == (
        f"{inbox}/b.parquet",
        None,
        "WatchCorpus",
    )


def test_without_exception_handling_the_file_is_named(watch: Watch, inbox: Path) -> None:
    put(inbox / "a.jsonl", lines({"text": 7}))
    with pytest.raises(Exception, match=r"id 'a\.jsonl:1': text is not a string: 7"):
        watch(isolate=False)


def test_columns_have_one_type_in_all_files_and_a_misfit_costs_its_row(
    watch: Watch, inbox: Path
) -> None:
    put(inbox / "a.jsonl", lines({"text": "x", "n": 1, "more": True}, {"text": "y", "n": "many"}))
    put(inbox / "b.jsonl", lines({"text": "z"}))
    good, bad = watch(columns=typed_columns(["n:int64", "url"]))
    assert good == [
        {"id": "a.jsonl:1", "text": "x", "n": 1, "url": None},
        {"id": "b.jsonl:1", "text": "z", "n": None, "url": None},
    ]
    assert [row["id"] for row in bad] == ["a.jsonl:2"]
    with pytest.raises(InputError, match="'n:whole': no type 'whole'; use int64"):
        typed_columns(["n:whole"])


def test_the_users_ids_are_kept_and_the_source_is_added(watch: Watch, inbox: Path) -> None:
    put(
        inbox / "a.jsonl",
        lines({"key": 7, "text": "x"}, {"key": "seven", "text": "y"}) + "no JSON\n",
    )
    good, bad = watch(id_column="key", columns={})
    assert good == [{"source": "a.jsonl:1", "key": "7", "text": "x"}]
    assert {row["source"] for row in bad} == {"a.jsonl:2", "a.jsonl:3"}


def test_committed_rows_are_not_read_again(
    watch: Watch, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_gpte.sources.watch_corpus.ROWS_PER_BLOCK", 2)
    put(inbox / "a.jsonl", lines(*[{"text": f"t{i}"} for i in range(1, 7)]) + "no JSON\n")
    (inbox / "b.parquet").write_bytes(b"damaged")
    good, bad = watch(
        committed={"a.jsonl": RowRanges.of([1, 2, 5, 7]), "b.parquet": RowRanges.of([0])}
    )
    assert [row["text"] for row in good] == ["t3", "t4", "t6"]
    assert bad == []


def test_a_time_column_holds_when_a_file_was_seen(watch: Watch, inbox: Path) -> None:
    put(inbox / "a.jsonl", lines({"text": "x"}))
    before = time.time()
    ((row,), _) = watch(time_column="seen_at")
    assert before <= row["seen_at"].timestamp() <= time.time()


@pytest.mark.parametrize(
    "arguments", [{"id_column": "key"}, {"id_column": "key", "time_column": "seen_at"}]
)
@pytest.mark.parametrize("columns", [None, {}])
def test_columns_of_files_are_not_overwritten(
    watch: Watch, inbox: Path, arguments: dict[str, Any], columns: dict | None
) -> None:
    name = arguments.get("time_column", "source")
    put(inbox / "a.jsonl", lines({"key": "k", "text": "x", name: "mine"}))
    good, bad = watch(columns=columns, **arguments)
    if columns is None:
        assert good == []
        assert f"a column '{name}' is there already" in bad[0]["reject_reason"]
    else:
        assert (good[0]["source"], bad) == ("a.jsonl:1", [])
        assert good[0][name] != "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_column": "id"}, "a column 'id' is added"),
        ({"columns": {"source": pa.string()}, "id_column": "k"}, "a column 'source' is added"),
        ({"pattern": ""}, "no file pattern in ''"),
        ({"columns": ["n"]}, r"columns is \['n'\]; give a mapping of names to types"),
        ({"id_column": "text"}, "'text' is both text and id column"),
        ({"format": "xml"}, "format 'xml' is unknown"),
    ],
)
def test_wrong_arguments_raise_at_construction(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WatchCorpus(**{"pattern": "*", **arguments})


def test_an_interval_of_zero_raises_at_construction() -> None:
    with pytest.raises(InputError, match="interval is 0; use seconds, above 0"):
        Polling(interval=0)


def test_a_runner_that_cannot_stream_is_refused() -> None:
    with pytest.raises(
        InputError,
        match="FnApiRunner without the option --streaming ends with its input; use DirectRunner",
    ):
        beam.Pipeline("FnApiRunner") | WatchCorpus("*")
    with pytest.raises(InputError, match="BundleBasedDirectRunner without the option --streaming"):
        beam.Pipeline("BundleBasedDirectRunner") | WatchCorpus("*")


def test_on_other_runners_beams_own_impulse_ticks() -> None:
    pipeline = beam.Pipeline("PortableRunner", options=PipelineOptions(["--streaming"]))
    blocks = pipeline | WatchCorpus("in/*", polling=Polling(5))
    assert (blocks.is_bounded, blocks.element_type) == (False, Block)
    with pytest.raises(InputError, match="stop is for the local runner"):
        pipeline | "Again" >> WatchCorpus("in/*", polling=Polling(stop="stop"))
