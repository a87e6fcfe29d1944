"""Load models one after the other: transformers cannot load two at once.

It imports its modules when they are first named, and a thread that names one while another thread
imports it may find it half made: `module 'transformers' has no attribute 'AutoConfig'`. Runners
set up several steps at once, each on a thread of its own.
"""

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from beam_gpte.core.quick_transformers import quick_transformers

P = ParamSpec("P")
T = TypeVar("T")

# Of this process; whoever holds it may take it again.
LOADING = threading.RLock()


def one_at_a_time(load: Callable[P, T]) -> Callable[P, T]:
    """Make a function wait until no other thread of this process loads a model."""

    @functools.wraps(load)
    def wait_and_load(*args: P.args, **kwargs: P.kwargs) -> T:
        with LOADING, quick_transformers():
            return load(*args, **kwargs)

    return wait_and_load
