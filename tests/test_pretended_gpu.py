"""What wordmill does on a GPU, on machines without one: nothing is left on the other side (tests/pretended.py says what that proves)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import TINY_LSTM, TINY_RUN
from tests.pretended import OnGpu, pretended_gpu
from wordmill.batches.batch import Batch
from wordmill.cli.app import main

pytestmark = pytest.mark.usefixtures("unmeasured")


def test_the_pretence_is_as_picky_as_the_real_thing():
    with pretended_gpu():
        there, here = torch.ones(2, 3, device="cuda"), torch.ones(2, 3)
        layer = torch.nn.Linear(3, 4).to("cuda")
        assert there.device.type == "cuda" and there.is_cuda and not here.is_cuda
        assert isinstance(layer.weight, OnGpu) and layer.weight.is_cuda
        layer(there).sum().backward()
        assert layer.weight.grad is not None and layer.weight.grad.is_cuda
        first = torch.tensor([0])
        for wrong in (lambda: there + here, lambda: layer(here), lambda: torch.cat([there, here]), lambda: there.index_select(0, first)):
            with pytest.raises(RuntimeError, match="same device"):
                wrong()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert not there.cpu().is_cuda and (there + torch.tensor(1.0)).is_cuda and there[torch.tensor([1])].is_cuda
        assert not torch.empty(2).copy_(there[0, :2]).is_cuda


def on_gpu(command: str, *words: object) -> bool:
    """Whether a command does its work there."""
    with pretended_gpu():
        return main([command, *map(str, words), "--device", "cuda"]) == 0


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "modernbert", "t5", "lstm"])
def test_pretraining_and_use(family, texts, tmp_path, capsys):
    run, tiny = tmp_path / "run", TINY_LSTM if family == "lstm" else ["--model", family, *TINY_RUN]
    start = [texts, "-o", run, *tiny, "--steps", 2, "--compile", "off", "--quiet"]
    if family == "t5":
        start.append("model.encoder_layers=1")
    assert on_gpu("pretrain", *start, "train.save_steps=1")
    assert "on cuda" in json.loads((run / "run.json").read_text())["summary"]
    if family in ("qwen3", "gemma2", "lstm"):
        assert on_gpu("generate", run / "model", "Mill 3", "--max-tokens", 4, "--temperature", 0.8, "--top-p", 0.9, "--seed", 1)
    if family == "modernbert":
        assert on_gpu("fill", run / "model", "Mill [MASK] of the river")
        assert on_gpu("embed", run / "model", texts / "mill1.txt", "-o", tmp_path / "v.npy", "--pooling", "mean", "--truncate")
    if family == "t5":
        assert on_gpu("generate", run / "model", "Mill 3 of the river", "--max-tokens", 4)
    else:
        assert on_gpu("evaluate", run / "model", texts / "mill1.txt")


def test_what_stays_on_the_other_side_is_found(texts, tmp_path, monkeypatch):
    """Seen failing: batches that aren't moved."""
    monkeypatch.setattr(Batch, "to", lambda self, *_, **__: self)
    with pretended_gpu(), pytest.raises(RuntimeError, match="same device"):
        main(["pretrain", str(texts), "-o", str(tmp_path / "run"), *TINY_RUN, "--steps", "1", "--compile", "off", "-q", "--device", "cuda"])


@pytest.mark.parametrize(
    ("task", "family"), [("classify", "bert"), ("classify", "lstm"), ("tag", "lstm"), ("translate", "t5"), ("chat", "qwen3")]
)
def test_tuning_and_use(task, family, small_models, tmp_path):
    data, run = tmp_path / {"classify": "a.tsv", "tag": "a.conll", "translate": "a.tsv", "chat": "a.jsonl"}[task], tmp_path / "run"
    write(task, data)
    crf = ["task.crf=true"] if task == "tag" else []
    assert on_gpu("finetune", task, data, "--model", small_models(family), "-o", run, "--steps", 2, "--quiet", *crf, *LORA.get(task, ()))
    if task != "chat":
        assert on_gpu("predict", run / "model", data, "-o", tmp_path / "told.jsonl")
        assert on_gpu("evaluate", run / "model", data)


LORA = {"chat": ("--lora", "4")}


def write(task: str, data: Path) -> None:
    """Some examples of a task."""
    if task == "classify":
        lines = ["text\tlabel", *(f"the {['bad', 'good'][n % 2]} mill {n}\t{['no', 'yes'][n % 2]}" for n in range(24))]
    elif task == "tag":
        lines = [f"The O\nold B-X\nmill I-X\n{n} O\n" for n in range(20)]
    elif task == "translate":
        lines = ["en\tde", *(f"the mill {n}\tdie Mühle {n}" for n in range(24))]
    else:
        turns = [[{"role": "user", "content": f"mill {n}?"}, {"role": "assistant", "content": f"yes {n}"}] for n in range(20)]
        lines = [json.dumps({"messages": each}) for each in turns]
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
