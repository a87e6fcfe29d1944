"""Window and trigger a collection for a sink, so that every row is in one pane and none is lost.

    rows in their windows --> the same windows, never merged --> a pane when the trigger fires,
                              discarding, 30 days of lateness      the rest at the window's end,
                                                                   each late file by itself

The windows stay as they are and only what Beam knows about them changes, in words that every
runner has: a `WindowFn` of our own would run on none but Python's.
"""

import datetime
from typing import Any

import apache_beam as beam
from apache_beam.coders.coders import IntervalWindowCoder
from apache_beam.transforms.core import Windowing
from apache_beam.transforms.trigger import (
    AccumulationMode,
    AfterCount,
    AfterWatermark,
    DefaultTrigger,
    Repeatedly,
    TriggerFn,
)
from apache_beam.transforms.window import (
    FixedWindows,
    GlobalWindow,
    GlobalWindows,
    IntervalWindow,
    WindowFn,
)
from apache_beam.utils.timestamp import Timestamp

from beam_gpte.core.errors import InputError

LATENESS_SECONDS = 30 * 86400  # Beam drops rows that arrive later than this after their window


class InWindows(beam.ParDo):
    """Apply a DoFn whose output stays in its windows, under another windowing."""

    def __init__(self, fn: beam.DoFn, windowing: Windowing) -> None:
        super().__init__(fn)  # type: ignore[no-untyped-call]
        self._output_windowing = windowing

    def get_windowing(self, inputs: Any) -> Windowing:
        """Return the windowing of the output."""
        return self._output_windowing


def is_whole(blocks: beam.PCollection) -> bool:
    """Return whether a collection is committed at once: bounded, not windowed, no trigger."""
    return bool(blocks.is_bounded and blocks.windowing.is_default())


def pane_windowing(windowing: Windowing, is_bounded: bool) -> Windowing:
    """Keep windows and trigger, but discard fired rows and never stop firing.

    So no row is lost, and none is in two panes. A bounded collection needs no trigger: its windows
    fire when they are complete.

    Raises:
      InputError: a stream is in the global window without a trigger, so it would never fire, or the
        windows have no name.
    """
    trigger = windowing.triggerfn
    if (
        not is_bounded
        and isinstance(windowing.windowfn, GlobalWindows)
        and isinstance(trigger, DefaultTrigger)
    ):
        raise InputError(
            "a stream in the global window never completes; "
            "add beam.WindowInto(FixedWindows(60)) or a trigger before the sink"
        )
    lateness: Any = max(windowing.allowed_lateness, LATENESS_SECONDS)
    return Windowing(
        _unmerged(windowing.windowfn),
        triggerfn=DefaultTrigger() if is_bounded else _fire_all(trigger),
        accumulation_mode=AccumulationMode.DISCARDING,
        allowed_lateness=lateness,
    )


def _unmerged(windows: WindowFn) -> WindowFn:
    """Find a standard function for windows that are assigned already, and stay apart."""
    if isinstance(windows, GlobalWindows):
        return GlobalWindows()
    if isinstance(windows.get_window_coder(), IntervalWindowCoder):
        return FixedWindows(60)  # of any size: it is not asked again
    raise InputError(
        f"windows of {type(windows).__name__} are not intervals of time and cannot name a file; "
        "use beam.window.FixedWindows(60), or other intervals, before the sink"
    )


def _fire_all(trigger: TriggerFn) -> TriggerFn:
    """Fire when `trigger` does, when the window ends, and for each file that is late.

    A trigger that waits for more rows than come would keep those that came.
    """
    if isinstance(trigger, DefaultTrigger):
        return trigger
    if isinstance(trigger, AfterWatermark):
        return AfterWatermark(early=trigger.early, late=AfterCount(1))
    early = trigger.underlying if isinstance(trigger, Repeatedly) else trigger
    return AfterWatermark(early=early, late=AfterCount(1))


def window_name(window: Any) -> str:
    """Name a window in file names: ``20261125T071200_20261125T071300`` (UTC), or ``global``."""
    if isinstance(window, GlobalWindow):
        return "global"
    if not isinstance(window, IntervalWindow):
        raise InputError(
            f"a window of class {type(window).__name__} cannot name a file; use windows that are "
            "intervals of time, such as beam.window.FixedWindows(60)"
        )
    return f"{_format_time(window.start)}_{_format_time(window.end)}"


def _format_time(timestamp: Timestamp) -> str:
    try:
        time = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=timestamp.micros)
    except OverflowError:  # rows without timestamps lie before the year 1
        return f"{timestamp.micros}us".replace("-", "minus")
    return time.strftime("%Y%m%dT%H%M%S" + (".%f" if time.microsecond else ""))
