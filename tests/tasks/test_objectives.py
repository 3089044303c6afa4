"""Pretraining beyond each next token: every family and objective through the same command, and folders that `transformers` opens."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import wordmill
from tests.conftest import TEXT
from wordmill.core.errors import UsageError
from wordmill.core.files import read_json
from wordmill.evaluate.bpb import evaluate_text
from wordmill.models.folder import load_model
from wordmill.tasks.pretrain import Run, pretrain

SMALL: dict[str, Any] = {"steps": 3, "train": {"rows": 2, "context": 64, "evaluations": 1}, "dtype": "fp32",
                         "tokenizer": {"vocab": 400, "allow_smaller": True}, "model": {"width": 64, "layers": 2}}  # fmt: skip


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i}.txt").write_text(f"{TEXT} {i}" * 3, encoding="utf-8")
    return folder


def run(texts: Path, out: Path, **settings: Any) -> Run:
    return pretrain([texts], out=out, device="cpu", **{**SMALL, **settings})


@pytest.mark.parametrize(
    ("family", "objective", "class_name"),
    [
        ("bert", None, "AutoModelForMaskedLM"),
        ("modernbert", "mlm", "AutoModelForMaskedLM"),
        ("roberta", None, "AutoModelForMaskedLM"),
        ("t5", None, "AutoModelForSeq2SeqLM"),
        ("bart", "infill", "AutoModelForSeq2SeqLM"),
        ("llama", None, "AutoModelForCausalLM"),
        ("gemma2", "prefix", "AutoModelForCausalLM"),
    ],
)
def test_from_text_to_a_folder_that_transformers_opens(
    family: str, objective: str | None, class_name: str, texts: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    done = run(texts, tmp_path / "run", family=family, **({} if objective is None else {"objective": objective}))
    assert done.metrics["step"] == 3 and math.isfinite(done.metrics["validation_loss"])
    assert ("validation_bits_per_byte" in done.metrics) == (family == "llama"), "bits per byte are defined for clm alone"
    theirs, info = getattr(transformers, class_name).from_pretrained(done.model_folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    tokenizer = transformers.AutoTokenizer.from_pretrained(done.model_folder)
    inputs = tokenizer("the old mill", return_tensors="pt")
    ids, ours = inputs["input_ids"], load_model(done.model_folder)
    if class_name == "AutoModelForSeq2SeqLM":
        expected = theirs.eval()(input_ids=ids, decoder_input_ids=ids).logits
        got = ours.logits(ours(ids, memory=ours.encode(ids))[0])
    else:
        expected, got = theirs.eval()(input_ids=ids).logits, ours.logits(ours(ids)[0])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert read_json(done.model_folder / "wordmill.json")["objective"] == done.metrics["objective"]
    assert class_name in (done.model_folder / "README.md").read_text(encoding="utf-8")


def test_a_recurrent_model_that_reads_both_ways_learns_what_is_hidden(texts: Path, tmp_path: Path) -> None:
    """From text to filled gaps, on to a classifier, and the same classifier from new weights."""
    shape = {"hidden_size": 24, "embedding_size": 32, "layers": 1}
    done = run(texts, tmp_path / "run", family="gru", objective="mlm", model=shape, steps=40)
    asked = run(texts, tmp_path / "asked", family="gru", model={**shape, "bidirectional": True})
    assert done.metrics["objective"] == asked.metrics["objective"] == "mlm"
    assert done.metrics["validation_loss"] < asked.metrics["validation_loss"], "it learns"
    loaded = wordmill.load(done.model_folder, device="cpu")
    assert loaded.kind == "encoder" and len(loaded.fill("the old [MASK]", top=3).masks[0]) == 3
    assert loaded.score("the old mill").pseudo
    found = evaluate_text(loaded, ["the old mill"])
    assert found.pseudo and found.window == "block", "stretches side by side, as of any encoder: no state carries on"
    with pytest.raises(UsageError, match="can't write text"):
        loaded.generate("the")
    data = tmp_path / "labels.jsonl"
    data.write_text("".join(json.dumps({"text": f"{word} mill {n}", "label": word}) + "\n" for n in range(20) for word in ("old", "new")))
    weights = {}
    for name, more in {"on": {"lr": 1e-9}, "fresh": {"lr": 1e-9, "fresh": True}}.items():
        tuned = wordmill.finetune("classify", data, model=done.model_folder, out=tmp_path / name, steps=2, **more)
        weights[name] = wordmill.load(tuned.model_folder, device="cpu").model.base.state_dict()
        assert read_json(tuned.model_folder / "config.json")["token_dropout"] == 0.15, "as one that labels from scratch has it"
    before = load_model(done.model_folder).state_dict()
    for name, weight in weights["on"].items():
        torch.testing.assert_close(weight, before[name], atol=1e-5, rtol=1e-5)
        assert "bias" in name or not torch.allclose(weights["fresh"][name], weight, atol=1e-2)


def test_going_on_from_a_model_begins_where_it_was(texts: Path, tmp_path: Path) -> None:
    first = run(texts, tmp_path / "first", family="bert")
    still = dict.fromkeys(("lr", "matrix_lr", "embedding_lr", "head_lr"), 1e-9)
    again = pretrain([texts], out=tmp_path / "again", parent=str(first.model_folder), steps=1, device="cpu", dtype="fp32",
                     train={"rows": 2, "context": 64, "evaluations": 1, "optim": still})  # fmt: skip
    before, after = (load_model(done.model_folder).state_dict() for done in (first, again))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=1e-6, rtol=1e-6)
    parent = read_json(again.model_folder / "wordmill.json")["parent"]
    assert parent["folder"] == str(first.model_folder) and set(parent["weights"]) == {"model.safetensors"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"family": "bert", "objective": "clm"}, "an encoder can't learn clm"),
        ({"family": "qwen3", "objective": "mlm"}, "a decoder can't learn mlm"),
        ({"family": "lstm", "objective": "prefix"}, "can't learn prefix"),
        ({"family": "lstm", "objective": "clm", "model": {"bidirectional": True}}, "an encoder can't learn clm"),
        ({"family": "lstm", "objective": "mlm", "model": {"bidirectional": False}}, "learned from both sides"),
        ({"family": "t5", "objective": "denoise", "corruption": {"noize": 0.2}}, "noise"),
        ({"family": "qwen3", "corruption": {"rate": 0.2}}, "corrupts nothing"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], words: str, texts: Path, tmp_path: Path) -> None:
    from wordmill.core.errors import WordmillError

    shape = {"hidden_size": 32, "embedding_size": 32} if settings["family"] == "lstm" else SMALL["model"]
    with pytest.raises(WordmillError, match=words):
        run(texts, tmp_path / "run", **{"model": shape, **settings})
    assert not (tmp_path / "run").exists(), "nothing is left, so that the mended command works"


def test_a_parent_s_shape_is_settled(texts: Path, tmp_path: Path) -> None:
    first = run(texts, tmp_path / "first", family="bert")
    with pytest.raises(UsageError, match=r"layers can't be set"):
        run(texts, tmp_path / "run", parent=str(first.model_folder), model={"layers": 4})
    with pytest.raises(UsageError, match=r"is a bert, not a t5"):
        run(texts, tmp_path / "run", parent=str(first.model_folder), family="t5", model={})
