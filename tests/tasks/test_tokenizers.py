"""What every task does with a tokenizer that lacks the end or the padding token: it works, or says in one line what is missing."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import wordmill
from tests.tuning import write_table
from wordmill.cli.app import main
from wordmill.core.errors import ModelError
from wordmill.tasks.task import stand_in
from wordmill.tokenizer import Tokenizer


def without(folder, place, *roles, bare=False):
    """A copy of a model folder whose tokenizer has no tokens for these roles; `bare`: and puts nothing around a text."""
    shutil.copytree(folder, place)
    file = place / "tokenizer_config.json"
    named = {name for role in roles for name in {"eos": ("eos_token", "sep_token"), "pad": ("pad_token",)}[role]}
    file.write_text(json.dumps({**json.loads(file.read_text()), **dict.fromkeys(named)}))
    if bare:
        spec = json.loads((place / "tokenizer.json").read_text(encoding="utf-8"))
        (place / "tokenizer.json").write_text(json.dumps({**spec, "post_processor": None}), encoding="utf-8")
    if "pad" in roles:
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps({**config, "pad_token_id": None}))
    return place


ROWS = {
    "classify": [{"text": f"the mill {n}", "label": "xy"[n % 2]} for n in range(8)],
    "tag": [{"tokens": ["the", "mill"], "tags": ["O", "B-X"]}] * 8,
    "answer": [{"question": "what?", "context": f"the mill {n}", "answers": ["mill"]} for n in range(8)],
    "summarize": [{"article": f"the mill {n} is old", "summary": f"mill {n}"} for n in range(8)],
    "translate": [{"source": f"the mill {n}", "target": f"mill {n}"} for n in range(8)],
    "chat": [{"prompt": f"the mill {n}?", "response": "a mill"} for n in range(8)],
}


def train(task, model, tmp_path, *more):
    data, run = tmp_path / "data.jsonl", tmp_path / "run"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS[task]), encoding="utf-8")
    words = [task, str(data), "--model", str(model), "-o", str(run), "--steps", "1", "validation_share=0", "--quiet", *more]
    return main(["finetune", *words])


@pytest.mark.parametrize(
    ("task", "family", "more", "message"),
    [
        ("summarize", "qwen3", [], "this tokenizer has no eos token, with which summarize ends its answers. Name one as eos_token in"),
        ("translate", "t5", [], "this tokenizer has no eos token, with which translate ends its answers"),
        ("answer", "qwen3", [], "this tokenizer has no eos token, with which answer ends its answers"),
        ("answer", "qwen3", ["task.way=span"], "no token that could stand between question and context"),
        ("chat", "qwen3", ["task.template=plain"], "this tokenizer has no eos token, with which its chat template ends an answer"),
    ],
)
def test_no_end_token_is_one_line_where_it_is_needed(task, family, more, message, small_models, tmp_path, capsys):
    model = without(small_models(family), tmp_path / "model", "eos", "pad", bare=True)
    assert train(task, model, tmp_path, *more) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line and not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", ["classify", "tag"])
@pytest.mark.parametrize("family", ["qwen3", "bert", "lstm"])
def test_labels_need_neither(task, family, small_models, tmp_path):
    model = without(small_models(family), tmp_path / "model", "eos", "pad", bare=True)
    assert train(task, model, tmp_path) == 0
    assert wordmill.load(tmp_path / "run").predict("the mill")


def test_without_any_token_to_stand_in_a_text_of_none_is_named(small_models, tmp_path):
    whole = Tokenizer.load(small_models("qwen3"))
    assert stand_in(whole, "f:1") == whole.eos_id
    bare = Tokenizer.load(without(small_models("qwen3"), tmp_path / "model", "eos", "pad"))
    bare._roles["unk"] = None
    with pytest.raises(ModelError, match="f:1: there is no token in this, and the tokenizer has none that could stand in"):
        stand_in(bare, "f:1")


def test_an_end_token_pads_where_nothing_else_does_and_transformers_agrees(small_models, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    data, run = write_table(tmp_path / "a.tsv", 24, 0), tmp_path / "run"
    model = without(small_models("qwen3"), tmp_path / "model", "pad", bare=True)
    assert main(["finetune", "classify", str(data), "--model", str(model), "-o", str(run), "--steps", "4", "validation_share=0"]) == 0
    assert "no pad token" not in capsys.readouterr().err
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(run / "model", dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "model")
    texts = ["mill", "a sad day by the cold river"]
    with torch.no_grad():
        p = theirs(**tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")).logits.softmax(-1)
    for row, said in zip(p, wordmill.load(run).predict(texts), strict=True):
        assert {theirs.config.id2label[i]: pytest.approx(float(x), abs=1e-5) for i, x in enumerate(row)} == said["probabilities"]


def test_where_nothing_can_pad_it_is_said(small_models, tmp_path, capsys):
    model = without(small_models("qwen3"), tmp_path / "model", "eos", "pad", bare=True)
    data = write_table(tmp_path / "a.tsv", 24, 0)
    assert main(["finetune", "classify", str(data), "--model", str(model), "--preview"]) == 0
    assert "this tokenizer has no pad token, nor another that could be one" in capsys.readouterr().err


def test_an_encoder_decoder_from_scratch_needs_a_padding_token(small_models, tmp_path, capsys):
    tokenizer = without(small_models("t5"), tmp_path / "tokenizer", "pad")
    assert train("translate", "t5", tmp_path, "--tokenizer", str(tokenizer)) == 2
    assert "this tokenizer has no pad token, from which the decoder starts" in capsys.readouterr().err
