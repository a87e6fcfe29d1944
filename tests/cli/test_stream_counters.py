"""The counters of a local stream are those of all its bundles, as the summary reports them."""

import json
import threading
import time
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct import executor

from beam_gpte import Polling, WatchCorpus
from beam_gpte.cli.runtime import counters
from beam_gpte.cli.stream_counters import count_all_bundles
from tests.examples import keep, kept


def test_what_arrives_later_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "MetricsContainer", executor.MetricsContainer)  # restored
    monkeypatch.setattr(executor._ExecutorService._ExecutorServiceWorker, "TIMEOUT", 0.1)
    count_all_bundles()

    def act() -> None:
        until = time.monotonic() + 60
        for n in range(3):
            rows = [{"text": f"{n}{i}"} for i in range(n + 1)]
            part = tmp_path / f"{n}.part"
            part.write_text("".join(json.dumps(row) + "\n" for row in rows) + "no JSON\n")
            part.rename(tmp_path / f"{n}.jsonl")
            while len(kept(str(tmp_path), "good")) <= n and time.monotonic() < until:
                time.sleep(0.02)
        (tmp_path / "stop").touch()

    p = beam.Pipeline("BundleBasedDirectRunner", options=PipelineOptions(["--streaming"]))
    polling = Polling(0.1, str(tmp_path / "stop"))
    watch = WatchCorpus(f"{tmp_path}/*.jsonl", polling=polling)
    good, _ = p | watch.with_exception_handling()
    good | beam.Map(keep, str(tmp_path), "good")
    threading.Thread(target=act, daemon=True).start()
    result = p.run()
    result.wait_until_finish()
    count = counters(result)
    assert (count["files_read"], count["rows_read"], count["rejects"]) == (3, 9, 3)
