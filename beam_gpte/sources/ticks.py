"""Tick every few seconds, on runners of three kinds.

    Flink, Prism, others   Start --> Timer --> ticks
                                      ^ timer of event time
    local                  Clock --> (group, time) --> GroupByKey --> Now --> ticks
                             ^ real-time timer
    Dataflow               PeriodicImpulse --> ticks

What meets on the local runner: two ticks, of which one has waited and held the watermark; no other
step holds it there.

`PeriodicImpulse` splits itself at each tick. Flink keeps what it splits off, so its checkpoints
grow with each tick (Beam 2.62, issue 27648). Draining a job of Dataflow ends it.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, Repeatedly
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindows, TimestampCombiner, TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from beam_gpte.core.errors import InputError
from beam_gpte.elements.rejects import NAMESPACE

Tick = tuple[bytes, bytes]
TICK: Tick = (b"", b"")  # has a key, for steps with state

# seconds; the local runner drops elements that are later than this
MAX_LATENESS = 10 * 365 * 86_400

# the switching runner uses the other one for such timers
LOCAL_RUNNERS = ("BundleBasedDirectRunner", "SwitchingDirectRunner")

SLEEP_SECONDS = 0.5  # in a bundle, and a checkpoint waits for its end
POLL_SLEEP_SECONDS = 0.05  # the local runner has one thread and fires timers without a pause
# a timer of this time is due whatever the machine's clock says
_DUE = Timestamp(0)
SET_BACK_SECONDS = 1.0  # less is not reported

BUSY_SECONDS = 0.5  # after a tick; no sleep meanwhile, for other steps have work then


@dataclasses.dataclass(eq=False)
class Ticks(beam.PTransform):
    """Emit one keyed element every `interval` seconds; its event time is now.

    Attributes:
      interval: seconds.
      stop: path of a file that ends the ticks; local runners only.
    """

    interval: float
    stop: str | None

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection[Tick]:
        """Choose the clock that the runner supports.

        Raises:
          InputError: the runner does not stream, or cannot watch for the stop file.
        """
        runner = type(root.pipeline.runner).__name__
        is_streaming = root.pipeline.options.view_as(StandardOptions).streaming
        is_local = runner in LOCAL_RUNNERS
        if runner == "FnApiRunner" or (is_local and not is_streaming):
            raise InputError(
                f"WatchCorpus: {runner} without the option --streaming ends with its input; "
                "use DirectRunner with --streaming, or another runner for streams"
            )
        if is_local:
            return root | "Local" >> _LocalTicks(self.interval, self.stop)
        if self.stop is not None:
            raise InputError(
                "WatchCorpus: stop is for the local runner; "
                "leave it out, and drain the job to stop it"
            )
        if runner == "DataflowRunner":
            now = Timestamp.now()
            ticks = root | PeriodicImpulse(start_timestamp=now, fire_interval=self.interval)
            return ticks | "Key" >> beam.Map(lambda _: TICK).with_output_types(Tick)
        start = beam.Map(_start).with_output_types(Tick)
        timer = beam.ParDo(Timer(self.interval)).with_output_types(Tick)
        ticks = root | beam.Impulse() | "Start" >> start | "Timer" >> timer
        ticks.is_bounded = False
        return ticks


@dataclasses.dataclass(eq=False)
class _LocalTicks(beam.PTransform):
    """Tick on the bundle-based local runner, with a watermark that follows the clock.

    That runner takes a collection without pending elements for complete. So an element always waits
    in a group of two, and holds the watermark: at each tick one goes to group a and one to group b,
    where the one before waits.
    """

    interval: float
    stop: str | None

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection[Tick]:
        clock = beam.ParDo(Clock(self.interval, self.stop)).with_output_types(tuple[int, int])
        in_twos = beam.WindowInto(
            GlobalWindows(),
            trigger=Repeatedly(AfterCount(2)),
            accumulation_mode=AccumulationMode.DISCARDING,
            timestamp_combiner=TimestampCombiner.OUTPUT_AT_EARLIEST,
            allowed_lateness=MAX_LATENESS,
        )
        ticks = (
            root
            | beam.Create([TICK]).with_output_types(Tick)
            | "Clock" >> clock
            | in_twos
            | beam.GroupByKey()
            | "Now" >> beam.Map(_at_its_time).with_output_types(Tick)
            | "Default" >> beam.WindowInto(GlobalWindows())
        )
        ticks.is_bounded = False
        return ticks


class SteadyClock:
    """Tell the time of day, which never goes back.

    Where the machine's clock is set back, time goes on from where it was: event times are ahead of
    the machine's clock then, until the process ends or that clock has caught up.
    """

    def __init__(self) -> None:
        self._ahead = -math.inf  # of the clock that counts from the start of the machine
        self._behind = 0.0  # the largest distance that was reported

    def now(self) -> Timestamp:
        """Return the time of day."""
        steady, wall = time.monotonic(), time.time()
        self._ahead = max(self._ahead, wall - steady)
        behind = self._ahead - (wall - steady)
        if behind > self._behind + SET_BACK_SECONDS:
            self._behind = behind
            Metrics.counter(NAMESPACE, "clock_set_back").inc()
            logging.getLogger(__name__).warning(
                "the clock of this machine was set back, by %.0f seconds in all; "
                "the stream goes on, with event times that are ahead of it",
                behind,
            )
        return Timestamp(micros=round((steady + self._ahead) * 1e6))


_clock = SteadyClock()  # of this process, which runs all of the local runner


class Timer(beam.DoFn):
    """Tick at once, and then whenever a timer that sets itself again finds that it is time to.

    The timer holds the watermark at the next tick. It is one of event time and fires without a
    pause, as the impulse before it has the last of all watermarks: Flink drops timers of the other
    kind from then on (Beam 2.62).
    """

    WAKE = TimerSpec("wake", TimeDomain.WATERMARK)
    _WAKE = beam.DoFn.TimerParam(WAKE)

    def __init__(self, interval: float) -> None:
        self._interval = interval

    def process(self, tick: Tick, wake: Any = _WAKE) -> Iterator[Tick]:
        """Start the timer."""
        wake.set(_clock.now() + self._interval)
        yield tick

    @on_timer(WAKE)
    def wake(
        self, due: Any = beam.DoFn.TimestampParam, wake: Any = _WAKE
    ) -> Iterator[TimestampedValue]:
        """Tick if it is time to, sleep otherwise."""
        now = _clock.now()
        if now < due:
            time.sleep(min(float(due - now), SLEEP_SECONDS))
            wake.set(due)
            return
        wake.set(now + self._interval)
        yield TimestampedValue(TICK, now)


def _start(_: bytes) -> TimestampedValue:
    return TimestampedValue(TICK, _clock.now())


class Clock(beam.DoFn):
    """Yield (group, microseconds), as `_LocalTicks` needs them.

    The runner's only thread calls without a pause, so a call without a tick sleeps; not for a while
    after each tick, since other steps have work then.
    """

    WAKE = TimerSpec("wake", TimeDomain.REAL_TIME)
    _WAKE = beam.DoFn.TimerParam(WAKE)
    # the last tick: 2 * microseconds + group
    _LAST = beam.DoFn.StateParam(BagStateSpec("last", beam.coders.VarIntCoder()))

    def __init__(self, interval: float, stop: str | None) -> None:
        self._interval = round(interval * 1e6)
        self._stop = stop

    def process(self, _: Tick, wake: Any = _WAKE, last: Any = _LAST) -> Iterator[Any]:
        """Start the clock."""
        now = _clock.now()
        last.add(2 * (now.micros - self._interval))  # the first tick is due
        yield TimestampedValue((0, now.micros), now)
        wake.set(_DUE)

    @on_timer(WAKE)
    def wake(self, wake: Any = _WAKE, last: Any = _LAST) -> Iterator[Any]:
        """Tick if it is time to, sleep otherwise."""
        now = _clock.now()
        micros, group = divmod(next(iter(last.read())), 2)
        stopped = self._stop is not None and Path(self._stop).exists()
        if stopped or now.micros - micros >= self._interval:
            yield TimestampedValue((group, now.micros), now)
        elif now.micros - micros > BUSY_SECONDS * 1e6:
            time.sleep(POLL_SLEEP_SECONDS)
        if not stopped:
            if now.micros - micros >= self._interval:
                yield TimestampedValue((1 - group, now.micros), now)
                last.clear()
                last.add(2 * now.micros + 1 - group)
            wake.set(_DUE)


def _at_its_time(group: tuple[int, Iterable[int]]) -> TimestampedValue:
    return TimestampedValue(TICK, Timestamp(micros=max(group[1])))
