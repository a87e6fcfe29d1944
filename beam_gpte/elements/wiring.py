"""Annotate the inputs and results of an `expand` of several collections.

A transform over several collections takes and returns a `NamedTuple` of them. Beam knows
annotations of single collections only, and logs a warning for every other one each time the
transform is applied.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from apache_beam.typehints import no_annotations

Expand = TypeVar("Expand", bound=Callable[..., Any])


def named_collections(expand: Expand) -> Expand:
    """Keep the annotations of an `expand` for readers and type checkers, hidden from Beam."""
    no_annotations(expand)
    return expand
