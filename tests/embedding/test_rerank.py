"""Cross-encoders, compared with those of sentence-transformers on tiny random models.

No package has the weights of a real one.
"""

from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from beam_gpte import Block, EncoderConfig, InputError, Rerank, ScoreSettings
from beam_gpte.core.encoder.int8.linear import int8_works
from beam_gpte.core.scorers.causal_reranker import CausalReranker
from beam_gpte.core.scorers.cross_encoder import CrossEncoder
from beam_gpte.core.scorers.pair_scorer import PairRunner, activation_of
from tests.core.damage import change
from tests.core.scorers import tiny_rerankers

WORDS = [f"w{i}" for i in range(60)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
SIZE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
SIZE |= {"pad_token_id": 0, "num_labels": 1}
MODELS = {
    "bert": ("BertConfig", {**SIZE, "max_position_embeddings": 40}),
    "xlm-roberta": (
        "XLMRobertaConfig",
        {**SIZE, "max_position_embeddings": 41, "type_vocab_size": 1},
    ),
    "mpnet": ("MPNetConfig", {**SIZE, "max_position_embeddings": 43}),
}


def tokenizer(types: bool) -> transformers.PreTrainedTokenizerFast:
    """Make a tokenizer whose tokens are words.

    Pairs are as in BERT, ``[CLS] a [SEP] b [SEP]``, or as in XLM-R, with two separators and no
    types.
    """
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1" if types else "[CLS] $A [SEP] [SEP] $B [SEP]"
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
    }
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=names, model_max_length=40, **special
    )


def save(folder: Path, name: str, **settings: object) -> str:
    torch.manual_seed(0)
    kind, given = MODELS[name]
    config = getattr(transformers, kind)(**{**given, **settings})
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.3)
    model.save_pretrained(folder)
    tokenizer(types=name == "bert").save_pretrained(folder)
    return str(folder)


Make = Callable[..., str]  # saves a model under a name, and returns its folder


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda name, **settings: save(tmp_path / "model", name, **settings)


def pairs(seed: int = 0) -> list[tuple[str, str]]:
    """Make short and long pairs, some above the model's 40 tokens on a side, some repeated."""
    random = np.random.default_rng(seed)
    lengths = [
        (1, 1),
        (3, 20),
        (20, 3),
        (5, 80),
        (80, 5),
        (50, 60),
        (18, 19),
        (17, 20),
        (1, 36),
        (30, 30),
    ]
    made = [
        (" ".join(random.choice(WORDS, a)), " ".join(random.choice(WORDS, b))) for a, b in lengths
    ]
    return [*made, made[1], made[5], (made[1][1], made[1][0])]


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_sentence_transformers(make: Make, name: str) -> None:
    from sentence_transformers import CrossEncoder as Peer

    folder = make(name)
    ours = CrossEncoder.load(EncoderConfig(folder, device="cpu"))
    peer = Peer(folder, device="cpu")
    expected = peer.predict(pairs(), batch_size=1)
    assert expected.std() > 0.01
    assert np.abs(ours.score(pairs()) - expected).max() < 1e-5
    assert ours.unpadded == (name != "mpnet")


def test_scores_in_int8_are_near_those_in_fp32_and_the_same_in_any_batch(folder: str) -> None:
    if not int8_works():
        pytest.skip("no int8 products here")
    fp32, int8 = (
        CrossEncoder.load(EncoderConfig(folder, device="cpu", precision=precision))
        for precision in ("fp32", "int8")
    )
    scores, expected = int8.score(pairs()), fp32.score(pairs())
    assert not np.array_equal(scores, expected)
    assert np.corrcoef(scores, expected)[0, 1] > 0.98  # of random weights
    assert np.array_equal(np.concatenate([int8.score([pair]) for pair in pairs()]), scores)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def bert(folder: str) -> CrossEncoder:
    return CrossEncoder.load(EncoderConfig(folder, device="cpu"))


def test_long_pairs_lose_tokens_of_the_longer_text_and_are_counted(bert: CrossEncoder) -> None:
    plain = tokenizer(types=True)
    scoring = bert.score_with_counts(pairs())
    whole = [len(plain(a, b)["input_ids"]) for a, b in pairs()]
    assert scoring.dropped.tolist() == [max(0, length - 40) for length in whole]
    assert scoring.tokens.tolist() == [min(40, length) for length in whole]
    cut = [plain(a, b, truncation=True, max_length=40) for a, b in pairs()]
    tokens = bert._tokenizer.encode_pairs(pairs())
    assert [ids.tolist() for ids in tokens.ids] == [one["input_ids"] for one in cut]
    assert [types.tolist() for types in tokens.types] == [one["token_type_ids"] for one in cut]
    assert (
        scoring.needed
        == scoring.computed
        == sum(map(len, {tuple(one["input_ids"]): 0 for one in cut}))
    )


def test_a_score_does_not_depend_on_its_neighbors(bert: CrossEncoder) -> None:
    alone = np.concatenate([bert.score([pair]) for pair in pairs()])
    assert np.abs(bert.score(pairs()[::-1])[::-1] - alone).max() < 1e-6
    assert bert.score([]).shape == (0,)


def test_the_activation_is_the_one_in_the_model_files() -> None:
    def named(settings: dict, **config: object) -> str:
        return type(
            activation_of(transformers.BertConfig(**config), settings, "torch.nn.Sigmoid")
        ).__name__

    identity = "torch.nn.modules.linear.Identity"
    assert named({}) == "Sigmoid"
    assert named({"activation_fn": identity}) == "Identity"
    assert named({}, sbert_ce_default_activation_function=identity) == "Identity"
    assert named({}, sentence_transformers={"activation_fn": identity}) == "Identity"
    with pytest.raises(InputError, match="activation 'os.system' is not one of Identity"):
        named({"activation_fn": "os.system"})


def test_other_models_are_refused(make: Make, minilm: str) -> None:
    with pytest.raises(InputError, match="has 3 labels, LABEL_0, LABEL_1, LABEL_2; name that"):
        CrossEncoder.load(make("bert", num_labels=3))
    with pytest.raises(InputError, match="weights are missing"):
        CrossEncoder.load(minilm)


def test_rows_get_their_score_and_bad_ones_are_collected(
    new_pipeline: Callable[..., beam.Pipeline], folder: str, bert: CrossEncoder
) -> None:
    rows = [{"query": a, "document": b, "n": i} for i, (a, b) in enumerate(pairs())]
    bad = [
        {"query": None, "document": "w1"},
        {"query": "w1", "document": " "},
        {"query": 7, "document": "w1"},
    ]
    bad += [{"query": "w1", "document": b"\xff"}]
    expected = bert.score(pairs()).tolist()
    with new_pipeline() as p:
        made = p | beam.Create([*rows, *bad])
        scored, rejects = made | Rerank(folder).with_exception_handling()
        equal = scored | beam.Map(
            lambda row: (row["n"], abs(row["rerank_score"] - expected[row["n"]]) < 1e-6)
        )
        assert_that(equal, equal_to([(n, True) for n in range(len(rows))]), label="Scores")
        reasons = rejects | "Reasons" >> beam.Map(lambda row: row["reject_reason"])
        wanted = ["query is null", "document is blank", "text is not a string: int"]
        wanted += ["text is not valid UTF-8"]
        assert_that(reasons, equal_to(wanted), label="Rejects")


def test_a_pair_too_large_for_the_memory_is_one_reject(
    new_pipeline: Callable[..., beam.Pipeline], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = PairRunner.start

    def runs_out(runner: PairRunner, pieces: list) -> tuple:
        if max(len(piece.ids) for piece in pieces) == 40:
            raise MemoryError
        return start(runner, pieces)

    monkeypatch.setattr(PairRunner, "start", runs_out)
    columns = {"query": ["w1", "w2 " * 90], "document": ["w3", "w4"], "id": ["small", "large"]}
    with new_pipeline() as p:
        blocks = p | beam.Create([Block.from_pydict(columns)]).with_output_types(Block)
        scored, rejects = blocks | Rerank(folder, id_column="id").with_exception_handling()
        assert_that(
            scored | beam.Map(lambda block: block.column("id").to_pylist()),
            equal_to([["small"]]),
            label="Good",
        )
        reasons = rejects | "Reasons" >> beam.Map(
            lambda block: block.batch.select(["id", "reject_reason"]).to_pylist()
        )
        reason = "out of memory: 40 tokens do not fit at once"
        assert_that(
            reasons, equal_to([[{"id": "large", "reject_reason": reason}]]), label="Rejects"
        )


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: Rerank(3), "model 3: give a name"),
        (
            lambda: Rerank("m", query_column="a", document_column="a"),
            "query_column and document_column are both 'a'",
        ),
        (lambda: Rerank("m", score_column="query"), "score_column 'query' is another column"),
        (
            lambda: Rerank(EncoderConfig("m", pooling="cls")),
            "pooling 'cls': a cross-encoder supports only model",
        ),
        (
            lambda: Rerank(EncoderConfig("m", template="q: {text}")),
            "template 'q: {text}': a cross-encoder supports only model",
        ),
    ],
)
def test_mistakes_are_reported_before_the_job(make_it: Callable[[], Rerank], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_it()


def test_columns_are_checked_by_name() -> None:
    from beam_gpte.elements.added_columns import AddedColumns
    from beam_gpte.embedding.rerank import _check_pairs

    def added(name: str) -> AddedColumns:
        return AddedColumns("Rerank", ((name, name),), False)

    block = Block.from_pydict(
        {"query": ["a"], "document": ["b"], "rerank_score": pa.array([0.5], pa.float32())}
    )
    with pytest.raises(InputError, match="Rerank: a column 'rerank_score' is there already"):
        list(
            _check_pairs(block, ("query", "document"), added("rerank_score"), "Rerank", False, None)
        )
    with pytest.raises(InputError, match="Rerank: no column 'passage' among query, document"):
        list(_check_pairs(block, ("query", "passage"), added("score"), "Rerank", False, None))
    bad = Block.from_pydict({"query": ["a", ""], "document": ["b", "c"], "id": [1, 2]})
    with pytest.raises(InputError, match="Rerank: row with id 2: query is empty"):
        list(_check_pairs(bad, ("query", "document"), added("score"), "Rerank", False, "id"))


def test_a_score_that_is_no_number_fails_its_pair(folder: str) -> None:
    model = CrossEncoder.load(EncoderConfig(folder, device="cpu"))
    run = model._runner.run

    def damaged(pieces: list) -> object:
        result = run(pieces)
        result.vectors[0] = result.vectors[0] * np.nan
        return result

    model._runner.run = damaged  # type: ignore[method-assign]
    scoring = model.score_with_counts([("w1", "w2"), ("w3", "w4")])
    assert scoring.failed == {0: "the model gave a score that is not finite"}
    with pytest.raises(InputError, match="pair 0: the model gave a score that is not finite"):
        model.score([("w1", "w2")])


def test_only_pairs_of_texts_are_scored(bert: CrossEncoder) -> None:
    for wrong, message in (
        (["ab"], "pair 0 is 'ab', not two texts"),
        ([("w1", None)], "text 1 is None"),
        ([("w1", "w2"), ("w1", "\u200b")], "pair 1: text is empty"),
        ([("w1", "\ud83d")], "text 1 is not valid Unicode"),
    ):
        with pytest.raises(InputError, match=message):
            bert.score(wrong)  # type: ignore[arg-type]


def test_of_several_labels_the_probability_of_one_is_the_score(make: Make) -> None:
    from sentence_transformers import CrossEncoder as Peer

    labels = {0: "no", 1: "maybe", 2: "good"}
    folder = make("bert", num_labels=3, id2label=labels)
    config = EncoderConfig(folder, device="cpu")
    logits = Peer(folder, device="cpu").predict(pairs(), batch_size=1)
    expected = Peer(folder, device="cpu").predict(pairs(), batch_size=1, apply_softmax=True)
    for i, label in labels.items():
        found = CrossEncoder.load(config, settings=ScoreSettings(label=label)).score(pairs())
        assert np.abs(found - expected[:, i]).max() < 1e-5
    change(Path(folder) / "config.json", problem_type="multi_label_classification")
    found = CrossEncoder.load(config, settings=ScoreSettings(label="good")).score(pairs())
    assert np.abs(found - 1 / (1 + np.exp(-logits[:, 2]))).max() < 1e-5
    for settings, message in (
        (ScoreSettings(), "has 3 labels, no, maybe, good; name that whose probability"),
        (ScoreSettings(label="bad"), "label 'bad': model .* has no, maybe, good; name one"),
        (ScoreSettings(template="{query} {document}"), "is a classifier, which takes pairs as"),
    ):
        with pytest.raises(InputError, match=message):
            CrossEncoder.load(config, settings=settings)


def test_a_causal_model_scores_rows_in_several_processes(tmp_path: Path) -> None:
    folder = tiny_rerankers.save(tmp_path / "model")
    rows = [{"query": f"w{i} w2", "document": f"w3 w{i}", "n": i} for i in range(20)]
    texts = [(row["query"], row["document"]) for row in rows]
    expected = CausalReranker.load(EncoderConfig(folder, device="cpu")).score(texts).tolist()
    options = PipelineOptions(["--direct_running_mode=multi_processing", "--direct_num_workers=2"])
    with beam.Pipeline("FnApiRunner", options=options) as p:
        scored = p | beam.Create(rows) | Rerank(folder)
        equal = scored | beam.Map(
            lambda row: (row["n"], abs(row["rerank_score"] - expected[row["n"]]) < 1e-6)
        )
        assert_that(equal, equal_to([(n, True) for n in range(len(rows))]))
