"""`wordmill pretrain --from M --lora R`: what learns, what is left, and resuming it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import wordmill
from wordmill.cli.app import main
from wordmill.core.errors import ConfigError, UsageError
from wordmill.models.adapters import adapter_tensors
from wordmill.models.config import TransformerConfig
from wordmill.models.folder import build_model, save_model
from wordmill.tasks.pretrain import pretrain
from wordmill.tokenizer import Tokenizer
from wordmill.train import checkpoint

pytestmark = pytest.mark.usefixtures("unmeasured")


@pytest.fixture(scope="module")
def parent(prepared, tmp_path_factory):
    """A small model with the tokenizer of the corpus."""
    folder = tmp_path_factory.mktemp("parent") / "model"
    tokenizer = Tokenizer.load(prepared / "tokenizer")
    shape = {"width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "head_size": 16, "ffn_size": 48, "max_positions": 64}
    ids = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    model = build_model(TransformerConfig(vocab_size=tokenizer.vocab_size, **shape, **ids))
    model.initialise(0, zero_outputs=False)
    save_model(model, folder)
    tokenizer.save(folder)
    return folder


SETTINGS = ["train.context=16", "train.rows=4", "train.micro_rows=2", "train.save_steps=4", "train.evaluations=3", "--quiet"]


def _command(prepared, parent, out, *more):
    return [
        "pretrain",
        str(prepared / "corpus"),
        "--from",
        str(parent),
        "--lora",
        "4",
        "lora.dropout=0.1",
        "-o",
        str(out),
        *SETTINGS,
        *more,
    ]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_adapter_learns_and_the_model_is_the_base_with_it(prepared, parent, tmp_path, dtype):
    out = tmp_path / "run"
    assert main(_command(prepared, parent, out, "--steps", "12", "--dtype", dtype)) == 0
    base, merged = load_file(parent / "model.safetensors"), load_file(out / "model" / "model.safetensors")
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert changed == {name for name in base if "_proj" in name}
    # As the folder has it, not as bfloat16 rounded it: only what the adapter adds is new.
    adapted, whole = wordmill.load(out / "adapter", device="cpu"), wordmill.load(out / "model", device="cpu")
    ids = [[3, 4, 5, 6, 7]]
    assert (adapted.logits(ids) - whole.logits(ids)).abs().max() <= 1e-5
    assert (wordmill.load(parent, device="cpu").logits(ids) - whole.logits(ids)).abs().max() > 1e-4

    saved = sorted((out / "checkpoints").glob("step-*"))[-1]
    tensors = load_file(saved / "state.safetensors")
    assert tensors and all(".adapters.default." in name for name in tensors), "the checkpoint holds what is trained, and nothing else"
    facts = json.loads((out / "model" / "wordmill.json").read_text())
    learned = sum(x.numel() for x in adapter_tensors(adapted.model).values())
    assert facts["recipe"]["lora"]["rank"] == 4 and facts["metrics"]["trained_parameters"] == learned
    losses = [row["loss"] for row in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "loss" in row]
    assert sum(losses[-3:]) < sum(losses[:3])


def _cut(command):
    """Run a command and stop it after its first checkpoint, as Ctrl-C would."""
    real = checkpoint.save

    def interrupted(*arguments, **named):
        real(*arguments, **named)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", interrupted)
        assert main(command) == 130


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(prepared, parent, tmp_path):
    how = ("--steps", "10", "train.ema=0.9", "model.dropout=0.1", "--seed", "3", "--dtype", "bf16")
    assert main(_command(prepared, parent, tmp_path / "whole", *how)) == 0
    _cut(_command(prepared, parent, tmp_path / "cut", *how))
    assert not (tmp_path / "cut" / "model").exists()
    assert main(["pretrain", "-o", str(tmp_path / "cut"), "--resume", "--quiet"]) == 0
    for file in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_resuming_beside_another_base_is_refused(prepared, parent, tmp_path, capsys):
    base, out = tmp_path / "base", tmp_path / "run"
    shutil.copytree(parent, base)
    _cut(_command(prepared, base, out, "--steps", "10"))
    tensors = load_file(base / "model.safetensors")
    save_file({name: x + 0.01 for name, x in tensors.items()}, base / "model.safetensors", metadata={"format": "pt"})
    assert main(["pretrain", "-o", str(out), "--resume", "--quiet"]) == 2
    assert "not those that this run began with" in capsys.readouterr().err


def test_what_can_t_be_adapted_is_said_before_the_text_is_read(prepared, parent, tmp_path):
    corpus = prepared / "corpus"
    with pytest.raises(ConfigError, match="--from"):
        pretrain(corpus, out=tmp_path / "a", lora={"rank": 4}, steps=1)
    with pytest.raises(ConfigError, match="attention.qkv"):
        pretrain("nowhere.txt", out=tmp_path / "b", parent=str(parent), lora={"targets": ("attention.qvk",)}, steps=1)
    with pytest.raises(ConfigError, match="rank"):
        pretrain(corpus, out=tmp_path / "c", parent=str(parent), lora={"rank": 0}, steps=1)
    assert not any((tmp_path / name).exists() for name in "abc")


def test_a_recurrent_parent_has_nothing_to_adapt(prepared, tmp_path, make_loaded):
    make_loaded("lstm").save(tmp_path / "lstm")
    with pytest.raises(UsageError, match="recurrent"):
        pretrain(prepared / "corpus", out=tmp_path / "run", parent=str(tmp_path / "lstm"), lora={"rank": 4}, steps=1)


def test_going_on_from_a_bare_encoder_is_refused_before_the_text_is_read(texts, tmp_path, monkeypatch):
    from tests.tuning import make_folder
    from wordmill.core.errors import UsageError
    from wordmill.tasks import pretrain as module

    folder = make_folder(tmp_path / "bert", "bert")
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in weights.items() if "cls." not in name}, folder / "model.safetensors")
    monkeypatch.setattr(module, "prepare", lambda *_: pytest.fail("the text was read first"))
    with pytest.raises(UsageError, match="no output layer.*bare encoder"):
        module.pretrain(texts, parent=str(folder), steps=2, out=tmp_path / "run")
