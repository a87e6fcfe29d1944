"""Run the local runner with several threads on elements that take longer than its timer."""

import time

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

import beam_gpte._whole_elements  # noqa: F401  # as `import beam_gpte` does

SECONDS = 1.3  # the timer has 1


class Slow:
    """Hold a number."""

    def __init__(self, number: int) -> None:
        self.number = number


class SlowCoder(beam.coders.Coder):
    """Encode after the timer would have cut the element."""

    def encode(self, value: Slow) -> bytes:
        """Wait, and encode."""
        time.sleep(SECONDS)
        return value.number.to_bytes(8, "big")

    def decode(self, encoded: bytes) -> Slow:
        """Decode."""
        return Slow(int.from_bytes(encoded, "big"))

    def estimate_size(self, value: Slow) -> int:
        """Return the number of bytes."""
        return 8

    def is_deterministic(self) -> bool:
        """Return True."""
        return True


beam.coders.registry.register_coder(Slow, SlowCoder)


def test_no_element_is_cut_in_two() -> None:
    options = PipelineOptions(["--direct_running_mode=multi_threading", "--direct_num_workers=2"])
    with beam.Pipeline("FnApiRunner", options=options) as p:
        slow = p | beam.Create([1, 2]) | beam.Map(Slow).with_output_types(Slow)
        numbers = slow | beam.Reshuffle() | beam.Map(lambda element: element.number)
        assert_that(numbers, equal_to([1, 2]))
