"""The command that measures a GPU runs with torch, transformers and tokenizers alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from benchmarks.gpu_models import CONFIG, TOKENIZER, copy_files, with_config

ROOT = Path(__file__).resolve().parents[1]
ABSENT = (
    "apache_beam",
    "duckdb",
    "polars",
    "pyarrow",
    "sentence_transformers",
    "threadpoolctl",
)
RUN = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT!r}))  # how Python marks what is not there
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def models(minilm: str, tmp_path: Path) -> Path:
    """Make an encoder and a decoder of one small layer, without weights."""
    vocabulary = transformers.AutoConfig.from_pretrained(minilm).vocab_size
    shape = {"vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "intermediate_size": 64}
    encoder = transformers.BertConfig(**shape, architectures=["BertModel"])
    decoder = transformers.LlamaConfig(**shape, architectures=["LlamaModel"], pad_token_id=0)
    for config in (encoder, decoder):
        copy_files(Path(minilm), tmp_path / "models" / config.model_type, TOKENIZER)
        with_config(tmp_path / "models" / config.model_type, config)
    assert (tmp_path / "models" / "bert" / CONFIG).exists()
    return tmp_path / "models"


def test_it_runs_dry_on_a_cpu_where_only_torch_and_transformers_are(
    models: Path, tmp_path: Path
) -> None:
    out = tmp_path / "figures.json"
    options = ["--device", "cpu", "--texts", "40", "--seconds", "1", "--out", str(out)]
    command = [sys.executable, "-c", RUN, str(ROOT / "benchmarks/gpu.py"), str(models), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a dry run, of which no figure counts" in done.stdout
    assert done.stdout.count("\nok ") == 4
    figures = json.loads(out.read_text())
    assert not figures["failed"]
    assert {*figures["models"]} == {"bert", "llama"}
    for rows in figures["models"].values():
        assert {name.partition(",")[0] for name in rows} == {"mixed", "128 tokens"}
        assert all(row["texts/s"] > 0 for row in rows.values())
