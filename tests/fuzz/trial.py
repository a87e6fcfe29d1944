"""Try one input on a target, and say what is wrong with what comes of it."""

import random
import traceback
from collections.abc import Callable
from pathlib import Path

from beam_gpte import InputError
from tests.fuzz.choices import Choices

Target = Callable[[random.Random, Path], None]


class WrongResultError(Exception):
    """Say what is wrong with a result."""


def problem_of(target: Target, data: bytes, folder: Path) -> str | None:
    """Run the input that bytes spell; return what is wrong, None if it is right or refused."""
    try:
        target(Choices(data), folder)
    except InputError:
        return None
    except WrongResultError as error:
        return f"wrong: {error}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a MemoryError too, and Polars' panics
        place = traceback.extract_tb(error.__traceback__)[-1]
        shown = f"{type(error).__name__}: {error}"[:300]
        return f"{shown} ({Path(place.filename).name}:{place.lineno})"
    return None
