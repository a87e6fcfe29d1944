"""One stream at a time has an output in a bucket, whoever launched it."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_gpte import InputError
from beam_gpte.sinks.runs import owner as owners
from beam_gpte.sinks.runs.owner import OwnedCommit, Owner
from beam_gpte.sources.committed_rows import StreamOutput, rows_in_parquet
from tests.files.stores import Store
from tests.programs import ROOT, finish, start


@pytest.fixture
def job(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owner]:
    FileSystems.set_options(PipelineOptions([]))  # as each pipeline does
    monkeypatch.setattr(owners, "SILENCE", 3.0)  # stores date objects to the second
    job = StreamOutput(f"{store.url}/owned", None, "id").owner(0.5, local=True)
    assert job is not None
    job.take()
    yield job
    for name in (".stream-job", ".stream-job-clock"):
        assert f"owned/{name}" in store.names("owned/")


def test_a_job_that_shows_life_keeps_its_output(
    job: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.release()
    monkeypatch.setattr(owners, "SILENCE", 60.0)  # a busy machine may stand still for seconds
    job.take()

    def sleep(_: float) -> None:
        wait(1.1)
        job.show_life()

    wait = time.sleep
    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(InputError, match="owned: another stream writes here; stop it, or name"):
        Owner(job.path).take()
    assert OwnedCommit(job, len)([1, 2]) == 2
    job.release()
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
    Owner(job.path).take()


@pytest.mark.sampled(1)
def test_a_silent_job_loses_its_output_and_commits_no_more(job: Owner) -> None:
    following = Owner(job.path)
    following.take()
    assert OwnedCommit(following, len)([1, 2]) == 2
    job.release()
    following.show_life()
    for write in (job.show_life, lambda: OwnedCommit(job, len)([1, 2])):
        with pytest.raises(InputError, match="another stream was started here after this one"):
            write()


@pytest.mark.sampled(1)
def test_a_second_program_is_refused_and_the_first_goes_on(
    store: Store, minilm: str, tmp_path: Path
) -> None:
    places = ["--input", f"{store.url}/owned-in/*", "--output", f"{store.url}/owned-out"]
    flags = [*places, "--model", minilm, "--interval", "1", "--every", "1"]
    there = dict(os.environ)  # of the store
    store.upload("owned-in/a.jsonl", json.dumps({"text": "one"}).encode())
    out, err = tmp_path / "out", tmp_path / "err"
    first = start("embed_stream.py", *flags, out=out, err=err, environment=there)
    while rows_in_parquet(f"{store.url}/owned-out", "id").keys() != {"a.jsonl"}:
        assert first.exitcode is None, err.read_text()
        time.sleep(0.5)
    second = finish([str(ROOT / "pipelines" / "embed_stream.py"), *flags], environment=there)
    assert second.returncode == 2
    assert "another stream writes here; stop it, or name another output" in second.stderr
    store.upload("owned-in/b.jsonl", json.dumps({"text": "two"}).encode())
    while "b.jsonl" not in rows_in_parquet(f"{store.url}/owned-out", "id"):
        time.sleep(0.5)
    first.terminate()
    first.join(60)
    assert first.exitcode == 0, err.read_text()
    assert store.download("owned-out/.stream-job").strip() == b""
