"""The model that is saved may not be the one that was trained: untied or forgotten output weights, bf16 copies, the last weights instead of
the average. The folder opened by `transformers` must give the trained weights' logits to 1e-5 and the tokenizer's ids, and hold the very
weights that were evaluated."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import FAMILIES, TINY_RUN
from tests.models.reference import auto_class, run_ours, run_theirs
from wordmill.batches.store import encode_corpus
from wordmill.cli.app import main
from wordmill.core.files import read_json
from wordmill.corpus import Corpus
from wordmill.evaluate.validation import evaluate_store
from wordmill.models.folder import load_model, save_model
from wordmill.tasks import pretrain as pretraining
from wordmill.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers", reason="parity tests need transformers")

CASES = {
    "qwen3 untied": ["model.tie_embeddings=false"],
    "qwen3 tied": ["model.tie_embeddings=true", "train.ema=0.9"],
    "gpt2": ["--model", "gpt2", "train.ema=0.9"],
    "best": ["train.evaluations=15", "train.optim.kind=adamw", "train.optim.lr=0.5", "train.schedule.kind=constant"],
}
SHAPE = [pair for pair in TINY_RUN if "ffn_size" not in pair]


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.usefixtures("unmeasured")
def test_transformers_sees_the_trained_model(prepared, case, tmp_path, monkeypatch):
    kept = {}
    save = pretraining.save_model
    monkeypatch.setattr(
        pretraining,
        "save_model",
        lambda model, folder, **named: (kept.update(model=model, weights=dict(named["weights"])), save(model, folder, **named)),
    )
    if case == "best":  # a corpus seen many times keeps the best weights; this learning rate makes sure that they are not the last
        make = pretraining.make_plan
        monkeypatch.setattr(pretraining, "make_plan", lambda *arguments: _keeping_best(make(*arguments)))
    out = tmp_path / "run"
    arguments = [
        "pretrain",
        str(prepared / "corpus"),
        "--tokenizer",
        str(prepared / "tokenizer"),
        "-o",
        str(out),
        "--steps",
        "15",
        "--dtype",
        "bf16",
        "--quiet",
    ]
    assert main([*arguments, *SHAPE, *CASES[case]]) == 0

    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(out / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    assert theirs.dtype == torch.float32
    tied = theirs.get_input_embeddings().weight.data_ptr() == theirs.get_output_embeddings().weight.data_ptr()
    assert tied == (case in ("qwen3 tied", "gpt2"))
    trained = kept["model"].float().eval()
    trained.load_state_dict({name: weight.float() for name, weight in kept["weights"].items()})
    tokenizer, text = Tokenizer.load(out / "model"), "Mill 3 of the river grinds 磨坊 sacks."
    ids = transformers.AutoTokenizer.from_pretrained(out / "model")(text).input_ids
    assert ids == tokenizer.encode(text, bos=True)
    with torch.no_grad():
        expected = trained.logits(trained(torch.tensor([ids]))[0])
        torch.testing.assert_close(theirs.eval()(torch.tensor([ids])).logits, expected, atol=1e-5, rtol=0)

    metrics = read_json(out / "run.json")["metrics"]
    store = encode_corpus(Corpus.open(prepared / "corpus"), tokenizer, tmp_path / "tokens", splits=["validation"])["validation"]
    score = evaluate_store(load_model(out / "model"), store, context=16)
    assert score.nats / score.tokens == pytest.approx(metrics["validation_loss"], rel=0.01), (
        "the weights saved are those that were evaluated (there, in bf16)"
    )
    if case == "best":
        import json

        losses = [
            row["validation_loss"] for row in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "validation_loss" in row
        ]
        assert min(losses) < losses[-1] - 0.1
        assert score.nats / score.tokens == pytest.approx(min(losses), rel=0.01)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "wordmill-transformer"])
def test_the_trained_weights_of_every_family(make_model, name, tmp_path):
    """Float32 masters stand beside a bfloat16 model, as in training: the folder must hold the masters, tied ones tied."""
    trained = make_model(name)
    model = make_model(name, seed=1).bfloat16()
    save_model(model, tmp_path, weights=dict(trained.state_dict()))
    theirs, info = auto_class(name).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    tied = theirs.get_input_embeddings().weight.data_ptr() == theirs.get_output_embeddings().weight.data_ptr()
    assert tied == trained.config.tie_embeddings
    ids = torch.arange(3, 23)[None]
    source = ids + 30 if trained.config.encoder_layers else None
    with torch.no_grad():  # in float64, since how float32 rounds is the processor's
        expected = run_ours(trained.double(), ids, source=source)[0]
        got = run_theirs(theirs.double().eval(), ids, source=source).logits
    torch.testing.assert_close(got, expected, atol=1e-5 * max(1.0, float(expected.abs().max())), rtol=0)


def _keeping_best(plan):
    plan.keep_best = True
    return plan
