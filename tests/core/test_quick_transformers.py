"""What transformers is spared in a program: every kind of model gives the same vectors without."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.core.encoder.tiny_models import PADDED, UNPADDED, backbone_of, texts, tiny, vectors

ROOT = Path(__file__).resolve().parents[2]
SPARED = ("accelerate", "scipy", "sympy", "torch._dynamo", "torch.distributed.tensor")
START = """
import json, sys
from beam_gpte.core.process import begin_program
from beam_gpte.core.quick_transformers import quick_transformers
"""
ENCODE = """
begin_program()
import numpy as np
with quick_transformers():
    from tests.core.encoder.tiny_models import *
    models = {name: backbone_of(tiny(*kind)) for name, kind in {**UNPADDED, **PADDED}.items()}
    found = {name: vectors(model, texts()).numpy() for name, model in models.items()}
np.savez(sys.argv[1], **found)
"""
LOAD = """
begin_program()
from beam_gpte import TextEncoder
print(TextEncoder.load(sys.argv[1]).encode(["a text"])[0, :4].tolist())
"""
LEFT_ALONE = "with quick_transformers():\n    import torch\n    print(torch._dynamo.__file__)"
IMPORTED = "print(json.dumps([name for name in sys.argv[2:] if sys.modules.get(name)]))"


def run(code: str, *arguments: object) -> list[str]:
    command = [sys.executable, "-c", START + code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_model_is_loaded_without_and_a_users_process_is_left_alone(minilm: str) -> None:
    numbers, imported = run(LOAD + IMPORTED, minilm, *SPARED)
    assert json.loads(imported) == []
    as_user = LOAD.replace("begin_program()", LEFT_ALONE)
    file, numbers_of_user, of_user = run(as_user + IMPORTED, minilm, *SPARED)
    assert file.endswith("__init__.py")
    assert "torch._dynamo" in json.loads(of_user)
    assert np.allclose(json.loads(numbers), json.loads(numbers_of_user), rtol=0, atol=1e-6)


def test_every_kind_of_model_gives_the_same_vectors(tmp_path: Path) -> None:
    run(ENCODE, tmp_path / "vectors.npz")
    with np.load(tmp_path / "vectors.npz") as found:
        assert set(found) == {*UNPADDED, *PADDED}
        for name, kind in {**UNPADDED, **PADDED}.items():
            expected = vectors(backbone_of(tiny(*kind)), texts()).numpy()
            assert np.allclose(found[name], expected, rtol=0, atol=1e-5), name


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "use",
    [
        "import torch._dynamo.config\n"
        "    assert torch.compile(torch.sin, backend='eager')(torch.ones(2)).shape == (2,)",
        "from transformers.masking_utils import TransformGetItemToIndex\n"
        "    with TransformGetItemToIndex() as mode: pass\n"
        "    assert isinstance(TransformGetItemToIndex(), torch.overrides.TorchFunctionMode)",
    ],
)
def test_whoever_asks_for_the_compiler_gets_it(use: str) -> None:
    """Within the context, where a model's own code may ask, and afterwards."""
    code = f"begin_program()\nimport torch\nwith quick_transformers():\n    {use}\n"
    after = "import transformers.utils as utils\nprint(utils.is_torch_distributed_available())\n"
    again = f"if True:\n    {use}\nprint(torch._dynamo.__file__)"
    distributed, file = run(code + after + again)
    assert distributed == "True"
    assert file.endswith("__init__.py")


def test_the_names_of_all_models_are_the_same() -> None:
    """Where a program reads them, and where they are read line by line."""
    code = (
        "import json, sys\n"
        "from beam_gpte.core.process import begin_program\n"
        "from beam_gpte.core.quick_transformers import quick_transformers\n"
        "if sys.argv[1] == 'program': begin_program()\n"
        "with quick_transformers(): import transformers\n"
        "from transformers.utils import import_utils\n"
        "print(json.dumps([import_utils.fetch__all__.__name__, sorted(dir(transformers))]))"
    )
    (as_program, quick), (plain, slow) = (
        json.loads(subprocess.check_output([sys.executable, "-c", code, kind]))
        for kind in ("program", "other")
    )
    assert (as_program, plain) == ("fetch_quickly", "fetch__all__")
    assert quick == slow
    assert "BertModel" in quick
