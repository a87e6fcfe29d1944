"""Run examples of the catalog as one pipeline on any runner.

    python -m tests.engines.joined --runner PortableRunner --job_endpoint ...
    python -m tests.engines.joined --only rerank,chunk_text --runner ...

Every example builds its pipeline inside the shared one, below its own name, and waits at the end of
its `with` until that has run; those that have another pipeline then join the next. Examples check
their own output.
"""

import argparse
import runpy
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import AppliedPTransform

EXAMPLES = Path(__file__).resolve().parents[2] / "transforms"
STREAMS = {"watch_corpus"}  # builds a stream
LOCAL = {"embed_by_endpoint"}  # has a key in its own environment, which workers elsewhere lack
SECONDS = 900  # until a pipeline has run


class Joined:
    """Replace `beam.Pipeline` for examples that run in threads, by parts of a shared pipeline.

    Args:
      flags: of the runner.
      count: of the threads.
    """

    def __init__(self, flags: list[str], count: int) -> None:
        self.pipeline_class, self.flags, self.failed = beam.Pipeline, flags, False
        self._building, self._state = threading.RLock(), threading.Condition()
        self._busy, self._round = count, 0
        self._shared: beam.Pipeline | None = None

    def __call__(self, *_: Any, **__: Any) -> "_Part":
        return _Part(self)

    def enter(self, label: str) -> beam.Pipeline:
        """Open a part of the shared pipeline; other threads wait until it is built."""
        self._building.acquire()
        try:
            if self._shared is None:
                self._shared = self.pipeline_class(options=PipelineOptions(self.flags))
            stack = self._shared.transforms_stack
            part = AppliedPTransform(stack[-1], beam.PTransform(), label, {}, None, None)
            stack[-1].add_part(part)
            stack.append(part)
        except BaseException:
            self._building.release()
            raise
        return self._shared

    def leave(self, built: bool) -> None:
        """Close a part, and wait until the shared pipeline has run."""
        assert self._shared is not None
        self._shared.transforms_stack.pop()
        waits_for = self._round
        self._building.release()
        if built:
            self.is_done()
            with self._state:
                self._state.wait_for(lambda: self._round > waits_for, SECONDS)
            if self.failed:
                raise RuntimeError("the joined pipeline failed")

    def is_done(self) -> None:
        """Count a thread that has built all of its part, or has ended."""
        with self._state:
            self._busy -= 1
            self._state.notify_all()

    def run(self, threads: list[threading.Thread]) -> None:
        """Run shared pipelines until all threads have ended."""
        while True:
            with self._state:
                self._state.wait_for(lambda: self._busy == 0, SECONDS)
            if self._shared is None:
                return
            try:
                self._shared.run().wait_until_finish()
            except BaseException:
                self.failed = True
                raise
            finally:
                with self._state:
                    self._shared = None
                    self._busy = sum(thread.is_alive() for thread in threads)
                    self._round += 1
                    self._state.notify_all()


class _Part:
    """Be the pipeline of an example, which may use it in a `with` alone."""

    def __init__(self, joined: Joined) -> None:
        self._joined = joined

    def __enter__(self) -> beam.Pipeline:
        return self._joined.enter(threading.current_thread().name)

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._joined.leave(built=error is None)


def run_examples(names: list[str], flags: list[str]) -> list[str]:
    """Run examples as one pipeline, and return the names of those that failed."""
    joined, failed = Joined(flags, len(names)), []
    beam.Pipeline = joined  # type: ignore[misc, assignment]

    def run(name: str) -> None:
        try:
            runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=f"example_{name}")
        except BaseException:
            traceback.print_exc()
            failed.append(name)
        finally:
            joined.is_done()

    threads = [threading.Thread(target=run, args=(name,), name=name) for name in names]
    for thread in threads:
        thread.start()
    joined.run(threads)
    for thread in threads:
        thread.join()
    return failed


def batch_examples() -> list[str]:
    """List the examples whose pipelines end by themselves."""
    return sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem not in STREAMS | LOCAL)


def main() -> int:
    """Run all examples, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="names, separated by commas")
    arguments, flags = parser.parse_known_args()
    names = arguments.only.split(",") if arguments.only else batch_examples()
    failed = run_examples(names, flags)
    print(f"{len(names) - len(failed)} of {len(names)} examples", *failed)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
