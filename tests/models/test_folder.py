"""Folders in every form that people have, folders that are not what they say, and what loading costs."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.reference import CASES, LLAMA, build, pair, run_ours, run_theirs, tokens, transformers
from wordmill.core.errors import ModelError, UsageError, WordmillError
from wordmill.core.files import read_json, write_json
from wordmill.models.config import RotaryScaling, TransformerConfig
from wordmill.models.families import families, family
from wordmill.models.folder import load_model, save_model
from wordmill.models.transformer import Transformer


def make(folder: Path, **settings: Any) -> Path:
    values = {"vocab_size": 31, "width": 16, "layers": 1, "heads": 2, "kv_heads": 2, "head_size": 8, "ffn_size": 32, **settings}
    model = Transformer(TransformerConfig(**values))
    model.initialise(0, zero_outputs=False)
    save_model(model, folder)
    return folder


def check_same(folder: Path, theirs: Any) -> None:
    ours, ids = load_model(folder), tokens(2, 20)
    assert isinstance(ours, Transformer)
    source = tokens(2, 9) if ours.config.encoder_layers else None
    with torch.no_grad():
        torch.testing.assert_close(
            run_ours(ours, ids, source=source)[0], run_theirs(theirs, ids, source=source).logits, atol=1e-5, rtol=1e-5
        )


# ---- the forms that weights come in


@pytest.mark.parametrize("case", ["llama", "t5 1.1", "bert", "gpt2"])
def test_shards(case: str, tmp_path: Path) -> None:
    theirs = pair(case)[0]
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    check_same(tmp_path, theirs)
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(ModelError, match="model-00002"):
        load_model(tmp_path)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("case", ["llama tied, biases", "bart", "t5 1.0", "roberta", "distilbert"])
def test_old_bin_files_hold_tied_weights_twice(case: str, shards: int, tmp_path: Path) -> None:
    theirs, _, folder = pair(case)
    write_json(tmp_path / "config.json", read_json(folder / "config.json"))
    weights = list(theirs.state_dict().items())
    if shards == 1:
        torch.save(dict(weights), tmp_path / "pytorch_model.bin")
    else:
        half = len(weights) // 2
        for number, part in enumerate((weights[:half], weights[half:])):
            torch.save(dict(part), tmp_path / f"part-{number}.bin")
        index = {name: f"part-{int(i >= half)}.bin" for i, (name, _) in enumerate(weights)}
        write_json(tmp_path / "pytorch_model.bin.index.json", {"weight_map": index})
    check_same(tmp_path, theirs)


def test_the_bin_format_before_zip_files(tmp_path: Path) -> None:
    theirs, _, folder = pair("llama")
    write_json(tmp_path / "config.json", read_json(folder / "config.json"))
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    check_same(tmp_path, theirs)


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("gpt2 untied", "llama linear", "mistral without window")])
def test_the_bare_model(case: str, tmp_path: Path) -> None:
    """Folders written by the class without an output layer, whose names lack a prefix."""
    bare = transformers.AutoModel.from_pretrained(pair(case)[2], attn_implementation="eager").eval()
    bare.save_pretrained(tmp_path / "bare")
    ours = load_model(tmp_path / "bare")
    assert isinstance(ours, Transformer)
    ids, source = tokens(2, 20), tokens(2, 9) if ours.config.encoder_layers else None
    extra = {} if source is None else {"input_ids": source, "decoder_input_ids": ids}
    with torch.no_grad():
        expected = bare(**(extra or {"input_ids": ids}))
        hidden, _ = ours(ids, memory=None if source is None else ours.encode(source))
    torch.testing.assert_close(hidden, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    if ours.config.pooler:
        torch.testing.assert_close(ours.pooled(hidden), expected.pooler_output, atol=1e-5, rtol=1e-5)
    if not ours.config.lm_head:
        with pytest.raises(UsageError, match="output layer"):
            ours.logits(hidden)
        save_model(ours, tmp_path / "again")
        _, info = type(bare).from_pretrained(tmp_path / "again", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"], info


def test_a_bert_with_everything(tmp_path: Path) -> None:
    """The pooler is kept, the next-sentence head is named as unused, and the old names of LayerNorm's weights are read."""
    config = transformers.AutoConfig.for_model("bert", **CASES["bert"][1])
    theirs = transformers.BertForPreTraining(config).eval()
    theirs.save_pretrained(tmp_path)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor.clone()
        for name, tensor in theirs.state_dict().items()
    }
    assert any("gamma" in name for name in old)
    save_file({**old, "bert.embeddings.position_ids": torch.arange(66)}, tmp_path / "model.safetensors")
    ours, ids = load_model(tmp_path), tokens(2, 20)
    assert isinstance(ours, Transformer)
    assert ours.ignored == ("cls.seq_relationship.bias", "cls.seq_relationship.weight")
    types = torch.tensor([[0] * 8 + [1] * 12] * 2)
    with torch.no_grad():
        expected = theirs(ids, token_type_ids=types, output_hidden_states=True)
        hidden, _ = ours(ids, types=types)
        torch.testing.assert_close(ours.logits(hidden), expected.prediction_logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.pooled(hidden), theirs.bert(ids, token_type_ids=types).pooler_output, atol=1e-5, rtol=1e-5)


def test_the_file_is_the_model_where_config_json_says_tied_and_there_are_two_matrices(tmp_path: Path) -> None:
    theirs = build("llama", {**LLAMA, "tie_word_embeddings": False}, tmp_path)
    write_json(tmp_path / "config.json", {**read_json(tmp_path / "config.json"), "tie_word_embeddings": True})
    assert not load_model(tmp_path).config.tie_embeddings
    check_same(tmp_path, theirs)


def test_gemmas_norms_lose_nothing_in_bfloat16(tmp_path: Path) -> None:
    """Gemma stores them less 1: in bfloat16 the sum would drop bits, so they are kept in float32, and come back as they were."""
    theirs = pair("gemma2")[0]
    narrow = transformers.AutoModelForCausalLM.from_pretrained(pair("gemma2")[2], dtype=torch.bfloat16)
    narrow.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    save_model(ours, tmp_path / "ours", dtype=torch.bfloat16)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    ids = tokens(2, 20)
    with torch.no_grad():
        logits = ours.logits(ours(ids)[0])
        assert logits.dtype == torch.bfloat16
        expected = theirs(ids).logits
    assert ((logits - expected).norm() / expected.norm()).item() < 0.03


# ---- settings


@pytest.mark.parametrize("scaling", [None, RotaryScaling(kind="ntk", factor=4.0), RotaryScaling(kind="linear", factor=2.0),
                                     RotaryScaling(kind="yarn", factor=2.0, first_context=16, attention=1.3, round_borders=False),
                                     RotaryScaling(kind="llama3", factor=8.0, first_context=32, fast=4.0)],
                         ids=lambda s: s.kind if s else "none")  # fmt: skip
def test_rotary_scalings_as_transformers_reads_them(scaling: RotaryScaling | None, tmp_path: Path) -> None:
    make(tmp_path, family="llama", qk_norm=False, rope_scaling=scaling, vocab_size=97)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    check_same(tmp_path, theirs)
    if scaling is not None and scaling.kind != "ntk":
        values = read_json(tmp_path / "config.json")
        del values["rope_parameters"]
        write_json(tmp_path / "config.json", values)
        assert load_model(tmp_path).config.rope_scaling == scaling, "the words before transformers 5"


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"family": "llama", "qk_norm": True}, "qk_norm"), ({"family": "qwen3", "positions": "sinusoidal"}, "positions"),
     ({"family": "gpt2"}, "gated"),
     ({"family": "qwen2", "windows": (3, 5), "layers": 2, "attention_bias": True, "qk_norm": False}, "windows")],
)  # fmt: skip
def test_a_setting_that_the_family_cannot_say_is_an_error_before_anything_is_written(
    settings: dict[str, Any], word: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=word):
        make(tmp_path / "model", **settings)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [("model_type", "bloom", "'bloom'"), ("frobnicate", 3, "frobnicate"), ("rope_scaling", {"rope_type": "yarn"}, "rope_scaling"),
     ("rope_scaling", {"rope_type": "longrope", "factor": 2.0}, "longrope"),
     ("rope_scaling", {"rope_type": "dynamic", "factor": 2.0}, "dynamic"),
     ("hidden_act", "mish", "mish"), ("num_hidden_layers", 2, "lack"),
     ("num_hidden_layers", None, "num_hidden_layers"), ("hidden_size", "16", "hidden_size"),
     ("intermediate_size", 40, r"gate_proj.* \(32, 16\), .*\(40, 16\)"), ("num_key_value_heads", 3, "multiple"),
     ("layer_types", ["chunked_attention"], "chunked_attention")],
)  # fmt: skip
def test_a_config_that_lies_is_an_error_that_names_it(setting: str, value: Any, words: str, tmp_path: Path) -> None:
    folder = make(tmp_path)
    write_json(folder / "config.json", {**read_json(folder / "config.json"), setting: value})
    with pytest.raises(WordmillError, match=words):
        load_model(folder)


@pytest.mark.parametrize("case", ["gpt2", "bert", "distilbert", "modernbert", "gemma2", "gemma3_text", "phi3", "t5 1.0", "bart", "roberta"])
def test_an_unknown_setting_is_named_in_every_family(case: str, tmp_path: Path) -> None:
    pair(case)[0].save_pretrained(tmp_path)
    values = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", {**values, "frobnicate": 3})
    with pytest.raises(ModelError, match="frobnicate"):
        load_model(tmp_path)
    first = next(name for name in values if name in ("n_embd", "hidden_size", "dim", "d_model"))
    write_json(tmp_path / "config.json", {name: value for name, value in values.items() if name != first})
    with pytest.raises(ModelError, match=first):
        load_model(tmp_path)


# ---- files that are broken, or worse


@pytest.mark.parametrize("cut", [-100, 40, 4, 0])
def test_a_torn_weights_file_is_an_error_that_names_it(cut: int, tmp_path: Path) -> None:
    path = make(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(tmp_path)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_an_error_that_names_it(missing: str, tmp_path: Path) -> None:
    (make(tmp_path) / missing).unlink()
    with pytest.raises(ModelError, match=missing):
        load_model(tmp_path)


def test_a_missing_and_an_unexpected_tensor_are_named(tmp_path: Path) -> None:
    path = make(tmp_path) / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, "model.surprise": torch.ones(2)}, path)
    with pytest.raises(ModelError, match=r"model\.surprise"):
        load_model(tmp_path)
    del weights["model.norm.weight"]
    save_file(weights, path)
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        load_model(tmp_path)


def test_copies_that_differ_are_an_error(tmp_path: Path) -> None:
    pair("bart")[0].save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, "model.encoder.embed_tokens.weight": torch.ones(97, 48)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"encoder\.embed_tokens"):
        load_model(tmp_path)


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.place),)

    def __init__(self, place: Path) -> None:
        self.place = str(place)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_that_would_run_code_is_refused(how: str, tmp_path: Path) -> None:
    folder, mark = make(tmp_path / "model"), tmp_path / "mark"
    (folder / "model.safetensors").unlink()
    if how == "torch":
        torch.save({"model.norm.weight": Evil(mark)}, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"model.norm.weight": Evil(mark)}))
    with pytest.raises(ModelError, match="would run code"):
        load_model(folder)
    assert not mark.exists()


@pytest.mark.parametrize("held", [b"no weights at all", {"a": 3}, [torch.ones(2)]], ids=["text", "number", "list"])
def test_a_bin_file_of_something_else(held: Any, tmp_path: Path) -> None:
    folder = make(tmp_path)
    (folder / "model.safetensors").unlink()
    if isinstance(held, bytes):
        (folder / "pytorch_model.bin").write_bytes(held)
    else:
        torch.save(held, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        load_model(folder)


def test_an_index_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}})
    with pytest.raises(ModelError, match="weight_map"):
        load_model(folder)


# ---- what loading costs

CHILD = """
import json, sys
from wordmill.models.folder import load_model

def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024

load_model(__import__('pathlib').Path(sys.argv[1]))  # everything that is made once
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
model = load_model(sys.argv[2])
print(json.dumps([before, status("VmHWM"), sum(p.numel() * p.element_size() for p in model.parameters())]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak memory from /proc")
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_loading_takes_little_more_than_the_weights(kind: str, tmp_path: Path) -> None:
    parts = {**families()[kind].parts, "family": kind}
    sizes = {"width": 768, "heads": 12, "kv_heads": 12, "head_size": 64, "ffn_size": 3072, "layers": 4, "vocab_size": 20_000}
    make(tmp_path / "small", **parts)
    make(tmp_path / "large", **{**parts, **sizes})
    done = subprocess.run([sys.executable, "-c", CHILD, tmp_path / "small", tmp_path / "large"], capture_output=True, text=True, check=True)
    before, peak, weights = json.loads(done.stdout)
    assert weights > 150e6
    assert (peak - before) / weights < 1.1


def test_loading_does_not_load_the_compiler(make_model, tmp_path):
    """torch's own drawing of weights on the meta device would: two seconds of each command's time."""
    save_model(make_model("bert"), tmp_path)
    code = "import sys, pathlib; from wordmill.models.folder import load_model; load_model(pathlib.Path(sys.argv[1]))\n"
    code += "print('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True).stdout == "False\n"


def test_families_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example of a fine-tuning asks how its head looks: listing the folder each time took a third of a short run."""
    known = family("bert")
    monkeypatch.setattr("pkgutil.iter_modules", lambda *_: pytest.fail("looked for again"))
    assert family("bert") is known
