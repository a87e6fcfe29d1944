"""A stream has every text once: started, fed, ended by a signal, and started over what it wrote."""

import random
from pathlib import Path

import pytest

from tests.engines.engine import Engine
from tests.engines.flink import Flink
from tests.engines.streaming import Stream
from tests.engines.streams import cancel_all, go_on


def test_a_stream_that_is_ended_goes_on(engine: Engine, tmp_path: Path, minilm: str) -> None:
    if not engine.streams:
        pytest.skip(f"{engine.name} has no streams")
    stream = Stream(tmp_path / "stream", minilm, engine.flags())
    try:
        go_on(engine, stream, random.Random(0))
        assert stream.faults() == (0, 0)
    finally:
        stream.close()
        if isinstance(engine, Flink):
            cancel_all(engine)
