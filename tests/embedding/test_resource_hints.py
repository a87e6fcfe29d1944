"""Resource hints on our transforms reach every step inside them, and no other."""

from collections.abc import Callable

import apache_beam as beam
import pytest

from beam_gpte import EmbedText

RAM = "beam:resources:min_ram_bytes:v1"


def with_rejects(transform: EmbedText) -> EmbedText:
    return transform.with_exception_handling()


@pytest.mark.parametrize(
    "variant", [lambda transform: transform, with_rejects], ids=["plain", "rejects"]
)
def test_hints_hold_for_all_inside_a_transform_and_nothing_else(
    variant: Callable[[EmbedText], EmbedText],
) -> None:
    pipeline = beam.Pipeline()
    pipeline | beam.Create(["a"]) | variant(EmbedText("model")).with_resource_hints(min_ram="8GB")
    components = pipeline.to_runner_api().components
    hinted = {
        transform.unique_name
        for transform in components.transforms.values()
        if transform.environment_id
        and RAM in components.environments[transform.environment_id].resource_hints
    }
    assert any(name.startswith("EmbedText/Infer") for name in hinted)
    assert all(name.startswith("EmbedText") for name in hinted)
    leaves = {
        t.unique_name
        for t in components.transforms.values()
        if t.spec.urn == "beam:transform:pardo:v1"
    }
    assert {name for name in leaves if name.startswith("EmbedText")} <= hinted
