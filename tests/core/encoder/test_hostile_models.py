"""A model folder is data: it runs no code, reaches no network and reads no file but its own."""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from beam_gpte import EncoderConfig, InputError, TextEncoder
from beam_gpte.core.encoder.adapters.find import check_model
from tests.core.damage import change, write
from tests.core.encoder.whole_model import TEXTS

CODE = "import pathlib; pathlib.Path({mark!r}).touch()\nclass Evil: pass\n"
# What code does that leaves the process, or that a pickle does first.
EVENTS = (
    "ctypes.dlopen",
    "os.exec",
    "os.posix_spawn",
    "os.system",
    "pickle.find_class",
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
)
seen: list[str] = []
outside = ["\0"]  # a folder of which no file may be opened


def _audit(event: str, arguments: tuple) -> None:
    if event in EVENTS:
        seen.append(f"{event} {arguments!r}")
    path = arguments[0] if event == "open" and arguments else None
    if isinstance(path, str) and (path.startswith(outside[0]) or path.endswith((".bin", ".pkl"))):
        seen.append(f"open {path}")


sys.addaudithook(_audit)  # which nothing removes

Change = Callable[[Path], object]


class Payload:
    """Touch a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Iterator[Path]:
    """A model beside which there is another, with code and pickles in both."""
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    (tmp_path / "outside").mkdir()
    mark = tmp_path / "code-was-run"
    for place in (folder, tmp_path / "outside"):
        (place / "evil.py").write_text(CODE.format(mark=str(mark)))
        for name in ("pytorch_model.bin", "training_args.bin", "evil.pkl", "vocab.pkl"):
            (place / name).write_bytes(pickle.dumps(Payload(mark)))
    for name in ("config.json", "vocab.txt", "tokenizer.json"):
        shutil.copy(whole / name, tmp_path / "outside" / name)
    weights = {name: t for part in whole.glob("model-*") for name, t in load_file(part).items()}
    save_file(weights, tmp_path / "outside" / "model.safetensors")
    outside[0] = str(tmp_path / "outside")
    seen.clear()
    yield folder
    assert not mark.exists()
    assert seen == []
    outside[0] = "\0"


def set_in(name: str, **settings: Any) -> Change:
    return lambda folder: change(folder / name, **settings)


def config(**settings: Any) -> Change:
    return set_in("config.json", **settings)


def tokenizer(**settings: Any) -> Change:
    return set_in("tokenizer_config.json", **settings)


def without_layers(folder: Path) -> None:
    weights = {name: t for part in folder.glob("model-*") for name, t in load_file(part).items()}
    for path in list(folder.glob("model*.safetensors*")):
        path.unlink()
    kept = {name: tensor for name, tensor in weights.items() if "encoder." not in name}
    save_file(kept, folder / "model.safetensors")


def index(name: Any) -> Change:
    """Let the index place one tensor in another file."""

    def edit(folder: Path) -> None:
        path = folder / "model.safetensors.index.json"
        listed = json.loads(path.read_text())
        first = min(listed["weight_map"])
        listed["weight_map"][first] = name
        write(path, listed)

    return edit


def only_pickles(folder: Path) -> None:
    """Let the index name a pickle for all tensors, with no safetensors in the folder."""
    for path in folder.glob("model-*.safetensors"):
        path.unlink()
    names = ["embeddings.word_embeddings.weight"]
    write(
        folder / "model.safetensors.index.json",
        {"metadata": {}, "weight_map": dict.fromkeys(names, "pytorch_model.bin")},
    )


def module(position: int, **fields: Any) -> Change:
    def edit(folder: Path) -> None:
        listed = json.loads((folder / "modules.json").read_text())
        listed[position] |= fields
        write(folder / "modules.json", listed)

    return edit


def put(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


def fifo(name: str) -> Change:
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return make


def both(*changes: Change) -> Change:
    return lambda folder: [one(folder) for one in changes]


KERNEL = "kernels-community/flash-attn"
NOT_SAFETENSORS = "not a safetensors file in this folder"
LEADS_OUT = "which leads out of this folder"
AUTO_MAP = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
DEEP = "[" * 100_000 + "]" * 100_000
REFUSED: dict[str, tuple[Change, str]] = {
    # weights
    "an index that names a pickle": (index("pytorch_model.bin"), NOT_SAFETENSORS),
    "an index of pickles alone": (only_pickles, "no safetensors weights"),
    "an index that leads up": (index("../outside/model.safetensors"), NOT_SAFETENSORS),
    "an index that leads down and up": (index("1_Pooling/../../x.safetensors"), NOT_SAFETENSORS),
    "an absolute path in an index": (index("/etc/model.safetensors"), NOT_SAFETENSORS),
    "a folder in an index": (index("1_Pooling/model.safetensors"), NOT_SAFETENSORS),
    "a backslash in an index": (index("..\\outside\\model.safetensors"), NOT_SAFETENSORS),
    "a NUL in an index": (index("model.bin\0.safetensors"), NOT_SAFETENSORS),
    "a number in an index": (index(7), NOT_SAFETENSORS),
    "a list in an index": (index(["pytorch_model.bin"]), NOT_SAFETENSORS),
    "weights of another name": (config(transformers_weights="x.safetensors"), "leads to weights"),
    "weights of another index": (
        config(transformers_weights="evil.safetensors.index.json"),
        "leads to weights",
    ),
    "an adapter": (
        put("adapter_config.json", '{"base_model_name_or_path": "evil/hub-model"}'),
        "adapter_config.json is an adapter",
    ),
    "quantized weights": (config(quantization_config={"quant_method": "fp8"}), "leads to quantize"),
    # code of attention and experts
    "a kernel of the hub": (config(_attn_implementation=KERNEL), "leads to attention code"),
    "a kernel by the public key": (config(attn_implementation=KERNEL), "leads to attention code"),
    "a kernel by the internal key": (
        config(_attn_implementation_internal=KERNEL),
        "leads to attention code",
    ),
    "a kernel with a function": (
        config(attn_implementation=f"{KERNEL}:flash_attn_func"),
        "leads to attention code",
    ),
    "a paged kernel": (config(attn_implementation=f"paged|{KERNEL}"), "leads to attention code"),
    "a kernel of a revision": (config(attn_implementation=f"{KERNEL}@main"), "leads to attention"),
    "a kernel of a part": (
        config(attn_implementation={"": "sdpa", "text_config": KERNEL}),
        "leads to attention code",
    ),
    "a kernel in the settings of a part": (
        config(text_config={"_attn_implementation": KERNEL}),
        "leads to attention code",
    ),
    "a kernel in a list": (config(parts=[{"attn_implementation": [KERNEL]}]), "leads to attention"),
    "a kernel of experts": (config(experts_implementation="evil/experts"), "leads to code"),
    "other kernels": (config(use_kernels=True), "leads to code"),
    "a mapping of kernels": (config(kernel_config={"RMSNorm": "evil/norm:Norm"}), "leads to code"),
    # code of the model's own
    "a class of its own": (
        config(model_type="evil", auto_map=AUTO_MAP),
        "comes with its own code; set trust_remote_code=True",
    ),
    "a class of another repository": (
        config(model_type="evil", auto_map={"AutoConfig": "evil/repository--evil.Evil"}),
        "comes with its own code; set trust_remote_code=True",
    ),
    "a module of a foreign class": (module(3, type="evil.Normalize"), "'evil.Normalize'.* is not"),
    "a module of a foreign package": (module(3, type="os.system"), "'os.system' of modules.json"),
    "a module whose class is not a text": (module(3, type=["evil"]), "of modules.json is not"),
    "an activation that is code": (
        set_in("2_Dense/config.json", activation_function="evil.Evil"),
        "activation 'evil.Evil' is not one of",
    ),
    "an activation of torch that is none": (
        set_in("2_Dense/config.json", activation_function="torch.nn.utils.evil"),
        "is not one of",
    ),
    "an activation that is not a text": (
        set_in("2_Dense/config.json", activation_function=["os.system"]),
        "has activation_function .*, not a text",
    ),
    # other files and other models
    "a module above": (module(1, path="../outside"), LEADS_OUT),
    "a module far above": (module(2, path="../.."), LEADS_OUT),
    "a module down and up": (module(2, path="1_Pooling/../../outside"), LEADS_OUT),
    "a module anywhere": (module(2, path="/etc"), LEADS_OUT),
    "a transformer above": (module(0, path="../outside"), LEADS_OUT),
    "a module with a backslash": (module(2, path="..\\outside"), LEADS_OUT),
    "a module with a NUL": (module(2, path="2_Dense\0"), LEADS_OUT),
    "a module whose path is not a text": (module(2, path=7), LEADS_OUT),
    "another configuration": (
        both(config(configuration_files=["config.4.0.0.json"]), put("config.4.0.0.json", "{}")),
        "leads to settings in place of config.json",
    ),
    "another tokenizer": (
        tokenizer(fast_tokenizer_files=["../outside/tokenizer.4.0.0.json"]),
        "leads to files in place of tokenizer.json",
    ),
    "a tokenizer of a GGUF": (tokenizer(gguf_file="../outside/x.gguf"), "leads to a file"),
    "arguments of a tokenizer": (tokenizer(init_inputs=["/etc/passwd"]), "leads to arguments"),
    "arguments below a tokenizer": (
        tokenizer(sp_model_kwargs={"model_file": "/etc/passwd"}),
        "leads to arguments of another library",
    ),
    "a dictionary that is code": (
        tokenizer(mecab_kwargs={"mecab_option": "-d ../outside"}),
        "leads to arguments of another library",
    ),
    "a backbone of the hub": (
        config(model_type="detr", backbone="evil/resnet", use_pretrained_backbone=True),
        "leads to another model",
    ),
    # what does not end
    "a FIFO for the settings": (fifo("config.json"), "config.json is not a file"),
    "a FIFO for the tokenizer": (fifo("tokenizer.json"), "tokenizer.json is not a file"),
    "a FIFO for a template": (fifo("chat_template.jinja"), "chat_template.jinja is not a file"),
    "a FIFO for other settings": (fifo("generation_config.json"), "is not a file"),
    "settings nested deep": (put("config.json", DEEP), "config.json is not whole JSON"),
    "a tokenizer nested deep": (put("tokenizer.json", DEEP), "give no tokenizer"),
    "modules nested deep": (put("modules.json", DEEP), "modules.json is not whole JSON"),
    "a billion layers": (config(num_hidden_layers=10**9), "num_hidden_layers 1,000,000,000, but"),
    "a dense module of a trillion weights": (
        set_in("2_Dense/config.json", in_features=10**6, out_features=10**6),
        "does not agree with config.json",
    ),
    "layers without weights, of gigabytes each": (
        both(config(intermediate_size=10**9), without_layers),
        "asks for 130,000,050,240 weights, but the files of weights have",
    ),
    "prompts that are no texts": (
        set_in("config_sentence_transformers.json", prompts={"query": ["x"]}),
        "prompts that are not texts",
    ),
}

HARMLESS: dict[str, Change] = {
    "nothing": lambda _: None,
    "files that nobody asked for": put("setup.py", "raise SystemExit"),
    "attention of transformers": config(attn_implementation="eager"),
    "flash attention, which is ours": config(_attn_implementation="flash_attention_2"),
    "a class of its own for a known type": config(auto_map=AUTO_MAP),
    "a tokenizer of its own for a known type": tokenizer(auto_map={"AutoTokenizer": "evil.Evil"}),
    "files of the machine where it was made": tokenizer(
        tokenizer_file="/etc/passwd",
        vocab_file="../outside/vocab.txt",
        special_tokens_map_file="/root/.cache/x.json",
        name_or_path="evil/hub-model",
    ),
    "a name of the hub": config(_name_or_path="evil/hub-model", _commit_hash="0" * 40),
    "generation with code": set_in(
        "generation_config.json", custom_generate="evil/generate", trust_remote_code=True
    ),
    "a template that is code": tokenizer(
        chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}{% for i in range(10**9) %}"
    ),
    "a template in its own file": put("chat_template.jinja", "{{ cycler.__init__.__globals__ }}"),
    "arguments for transformers that are not followed": set_in(
        "sentence_bert_config.json",
        model_args={"trust_remote_code": True, "attn_implementation": KERNEL},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_model_is_refused(model: Path, name: str) -> None:
    spoil, message = REFUSED[name]
    spoil(model)
    with pytest.raises(InputError, match=message) as error:
        TextEncoder.load(str(model))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_not_followed_changes_no_vector(
    model: Path, whole_vectors: np.ndarray, name: str
) -> None:
    if name == "generation with code":
        write(model / "generation_config.json", {})
    HARMLESS[name](model)
    assert np.allclose(TextEncoder.load(str(model)).encode(TEXTS), whole_vectors, atol=1e-5)


def test_a_job_does_not_start_with_a_hostile_model(model: Path) -> None:
    config(attn_implementation=KERNEL)(model)
    with pytest.raises(InputError, match="leads to attention code"):
        check_model(EncoderConfig(str(model)))


def test_a_model_from_elsewhere_needs_safetensors_too(model: Path) -> None:
    """As one that was fetched: no folder of this machine has its name."""
    for path in model.glob("model*.safetensors*"):
        path.unlink()
    torch.save({}, model / "pytorch_model.bin")
    seen.clear()
    with pytest.raises(InputError, match="no safetensors weights"):
        TextEncoder.load(EncoderConfig("gs://bucket/model"), root=model)


def test_the_code_of_a_trusted_model_is_still_kept_from_kernels(model: Path) -> None:
    config(attn_implementation=KERNEL)(model)
    with pytest.raises(InputError, match="leads to attention code"):
        TextEncoder.load(EncoderConfig(str(model), trust_remote_code=True))
