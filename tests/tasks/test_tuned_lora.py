"""`wordmill finetune TASK --lora R`: what learns, what is left, PEFT opens it, resuming it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import wordmill
from tests.tasks.test_tag import conll  # noqa: F401
from tests.tuning import stopping
from wordmill.cli.app import main
from wordmill.models.folder import load_model
from wordmill.tasks.adapted import open_tuned_adapter

COMMON = ["--lora", "4", "lora.alpha=16", "lora.dropout=0.05", "--seed", "2", "train.evaluations=4", "train.rows=12"]


def tuned(task, data, model, out, *more):
    return main(["finetune", task, *map(str, data), "--model", str(model), "-o", str(out), *COMMON, *more])


@pytest.mark.parametrize("name", ["bert", "qwen3", "t5"])
def test_the_adapter_and_the_head_learn_and_nothing_else(name, reviews, small_models, tmp_path, capsys):
    base, out = small_models(name), tmp_path / "run"
    assert tuned("classify", [reviews / "train.tsv"], base, out, "--steps", "200", "--lr", "0.005", "train.save_steps=40", "--json") == 0
    found = capsys.readouterr()
    metrics = json.loads(found.out)
    assert "LoRA of rank 4" in found.err
    losses = [row["loss"] for row in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "loss" in row]
    assert min(losses) < 0.9 * losses[0]
    own, changed = load_model(base).state_dict(), wordmill.load(out / "model", device="cpu").model.base.state_dict()
    moved = {key for key, weight in changed.items() if not torch.equal(weight, own[key])}
    assert moved and all(".blocks." in f".{key}" and key.endswith(".weight") and "norm" not in key for key in moved)
    saved = load_file(sorted((out / "checkpoints").glob("step-*"))[-1] / "state.safetensors")
    masters = [key.removeprefix("master.") for key in saved if key.startswith("master.")]
    assert all(".adapters." in key or not key.startswith("base.") for key in masters), "what is frozen has no place there"
    assert metrics["trained_parameters"] == sum(saved[f"master.{key}"].numel() for key in masters)

    merged, apart = wordmill.load(out), wordmill.load(out / "adapter")
    texts = ["the good mill", "a sad day by the cold river", "flour"]
    for one, other in zip(merged.predict(texts), apart.predict(texts), strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=2e-6)
    for place in ("model", "adapter"):
        assert main(["evaluate", str(out / place), str(out / "data" / "validation.jsonl"), "--json", "--quiet"]) == 0
        again = json.loads(capsys.readouterr().out)
        assert again["metrics"] == pytest.approx(metrics["validation"]["metrics"])
        assert again["baselines"] == metrics["validation"]["baselines"] and "majority class" in again["baselines"]


CLASSES = {"bert": "AutoModelForSequenceClassification", "qwen3": "AutoModelForSequenceClassification"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(CLASSES))
def test_peft_opens_the_adapter_with_the_same_logits(name, reviews, small_models, tmp_path):
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    base, out = small_models(name), tmp_path / "run"
    assert tuned("classify", [reviews / "train.tsv"], base, out, "--steps", "20", "--lr", "0.01", "--quiet") == 0
    _same_logits(transformers, peft, getattr(transformers, CLASSES[name]), base, out, labels=2)


@pytest.mark.filterwarnings("ignore")
def test_peft_opens_a_tagger(conll, small_models, tmp_path):  # noqa: F811
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    out = tmp_path / "run"
    assert tuned("tag", [conll / "train.conll"], small_models("bert"), out, "--steps", "20", "--lr", "0.01", "--quiet") == 0
    labels = len(wordmill.load(out).model.head.labels)
    _same_logits(transformers, peft, transformers.AutoModelForTokenClassification, small_models("bert"), out, labels=labels)


def _same_logits(transformers, peft, kind, base, out, *, labels):
    config = transformers.AutoConfig.from_pretrained(base, num_labels=labels)
    theirs = peft.PeftModel.from_pretrained(kind.from_pretrained(base, config=config, dtype=torch.float32), out / "adapter").eval()
    merged = kind.from_pretrained(out / "model", dtype=torch.float32).eval()
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    with torch.no_grad():
        a, b = theirs(input_ids=ids).logits, merged(input_ids=ids).logits
    assert a.shape == b.shape and (a - b).abs().max() <= 1e-5
    plain = kind.from_pretrained(base, config=config, dtype=torch.float32).eval()
    assert (plain(input_ids=ids).logits - a).abs().max() > 1e-4


@pytest.mark.parametrize("more", [[], ["train.recompute=true", "train.optim.layer_decay=0.8", "patience=2"]])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(reviews, small_models, tmp_path, monkeypatch, more):
    how = ["--steps", "16", "--lr", "0.004", "train.save_steps=3", "train.ema=0.9", "task.sampling=balanced", "--dtype", "bf16", "--quiet"]
    files = [reviews / "train.tsv"]
    assert tuned("classify", files, small_models("bert"), tmp_path / "whole", *how, *more) == 0

    with stopping(monkeypatch, lambda run, event: run.step == 5 and event == "step"):
        assert tuned("classify", files, small_models("bert"), tmp_path / "cut", *how, *more) == 143
    assert not (tmp_path / "cut" / "model").exists()
    assert main(["finetune", "-o", str(tmp_path / "cut"), "--resume", "--quiet"]) == 0
    for file in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_resuming_beside_another_base_is_refused(reviews, small_models, tmp_path, monkeypatch, capsys):
    base, out = tmp_path / "base", tmp_path / "run"
    shutil.copytree(small_models("bert"), base)

    with stopping(monkeypatch, lambda run, event: True):
        assert tuned("classify", [reviews / "train.tsv"], base, out, "--steps", "8", "--quiet") == 143
    tensors = load_file(base / "model.safetensors")
    save_file({name: x + 0.01 for name, x in tensors.items()}, base / "model.safetensors", metadata={"format": "pt"})
    assert main(["finetune", "-o", str(out), "--resume", "--quiet"]) == 2
    assert "not those that this run began with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("bert", ["--freeze", "base"], "frozen anyway"),
        ("bert", ["--freeze", "gradual"], "frozen anyway"),
        ("bert", ["lora.targets=[attention.qvk]"], "attention.qkv"),
        ("lstm", [], "recurrent"),
    ],
)
def test_what_can_t_be_honoured_is_said_before_anything_is_read(small_models, tmp_path, capsys, model, more, message):
    assert tuned("classify", ["nowhere.tsv"], small_models(model), tmp_path / "run", "--quiet", *more) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_from_scratch_there_is_nothing_to_adapt(tmp_path, capsys):
    assert tuned("classify", ["nowhere.tsv"], "bert", tmp_path / "run", "--quiet") == 2
    assert "has learned something" in capsys.readouterr().err


def test_seeds_keep_the_best_adapter(reviews, small_models, tmp_path, capsys):
    out = tmp_path / "run"
    assert tuned("classify", [reviews / "train.tsv"], small_models("bert"), out, "--steps", "6", "--seeds", "2", "--json", "--quiet") == 0
    best = json.loads(capsys.readouterr().out)["best"]
    for file in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        assert (out / file).read_bytes() == (out / best / file).read_bytes()


def test_an_adapter_without_its_head_is_refused(reviews, small_models, tmp_path):
    out = tmp_path / "run"
    assert tuned("classify", [reviews / "train.tsv"], small_models("bert"), out, "--steps", "2", "--quiet") == 0
    folder = out / "adapter"
    tensors = {name: x for name, x in load_file(folder / "adapter_model.safetensors").items() if "classifier" not in name}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(wordmill.WordmillError, match="head does not fit"):
        open_tuned_adapter(folder, device=torch.device("cpu"), dtype=None)


def test_an_adapter_beside_other_weights_of_the_same_shape_is_refused(reviews, small_models, tmp_path, capsys):
    """Its answers would be others, and nothing would tell."""
    base, out = tmp_path / "base", tmp_path / "run"
    shutil.copytree(small_models("bert"), base)
    assert tuned("classify", [reviews / "train.tsv"], base, out, "--steps", "2", "--quiet") == 0
    (base / "training_args.bin").write_bytes(b"not read")
    assert main(["predict", str(out / "adapter"), str(reviews / "dev.tsv"), "--quiet"]) == 0, "what no model is opened by doesn't count"
    tensors = load_file(base / "model.safetensors")
    save_file({name: x + 0.01 for name, x in tensors.items()}, base / "model.safetensors", metadata={"format": "pt"})
    capsys.readouterr()
    assert main(["predict", str(out / "adapter"), str(reviews / "dev.tsv"), "--quiet"]) == 2
    assert f"the weights in {base} are not those that this adapter was trained beside" in capsys.readouterr().err
    assert main(["predict", str(out / "model"), str(reviews / "dev.tsv"), "--quiet"]) == 0, "what was merged needs no base"


def test_a_writer_s_adapter_beside_other_weights_is_refused(small_models, tmp_path):
    base, out, data = tmp_path / "base", tmp_path / "run", tmp_path / "pairs.jsonl"
    shutil.copytree(small_models("qwen3"), base)
    data.write_text("".join(json.dumps({"prompt": f"the mill {n}", "response": "the river"}) + "\n" for n in range(20)), encoding="utf-8")
    assert tuned("chat", [data], base, out, "--steps", "2", "--quiet") == 0
    assert wordmill.load(out / "adapter").adapters == {"default": 1.0}
    tensors = load_file(base / "model.safetensors")
    save_file({name: x + 0.01 for name, x in tensors.items()}, base / "model.safetensors", metadata={"format": "pt"})
    for opened in (lambda: wordmill.load(out / "adapter"), lambda: wordmill.load(base).load_adapter(out / "adapter", "other")):
        with pytest.raises(wordmill.WordmillError, match="not those that this adapter was trained beside"):
            opened()
    told = json.loads((out / "adapter" / "wordmill.json").read_text())
    (out / "adapter" / "wordmill.json").write_text(json.dumps({**told, "parent": None}))
    assert wordmill.load(out / "adapter").adapters == {"default": 1.0}, "the way round that the message names"


def test_a_classifier_s_adapter_is_merged_and_saved(reviews, small_models, tmp_path):
    out, texts = tmp_path / "run", ["the good mill", "a sad day by the cold river", "flour"]
    assert tuned("classify", [reviews / "train.tsv"], small_models("bert"), out, "--steps", "40", "--lr", "0.005", "--quiet") == 0
    model = wordmill.load(out / "adapter", device="cpu")
    told = model.predict(texts)
    model.save(tmp_path / "saved")
    assert model.adapters == {"default": 1.0}, "saving leaves it as it is"
    model.use_adapters({})
    without = model.predict(texts)
    model.use_adapters({"default": 1.0})
    model.merge_adapters()
    assert model.adapters == {}
    for one, merged, saved, none in zip(told, model.predict(texts), wordmill.load(tmp_path / "saved").predict(texts), without, strict=True):
        assert merged["probabilities"] == pytest.approx(one["probabilities"], abs=2e-6)
        assert saved["probabilities"] == pytest.approx(one["probabilities"], abs=2e-6)
        assert none["probabilities"] != pytest.approx(one["probabilities"], abs=1e-4)
    with pytest.raises(wordmill.WordmillError, match="a head of its own"):
        model.load_adapter(out / "adapter", "other")
    with pytest.raises(wordmill.WordmillError, match="a finite number, not nan"):
        wordmill.load(out / "adapter").use_adapters({"default": float("nan")})
    with pytest.raises(wordmill.WordmillError, match="a finite number, not 'a'"):
        wordmill.load(out / "adapter").use_adapters({"default": "a"})
