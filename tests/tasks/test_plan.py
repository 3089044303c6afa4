"""What the plan reads from the command, chooses by itself, and says of it."""

from __future__ import annotations

import json
import math
import time
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from wordmill.core.errors import ConfigError, UsageError
from wordmill.core.lineage import write_lineage
from wordmill.core.progress import SILENT, human_count
from wordmill.models.config import RecurrentConfig, TransformerConfig
from wordmill.models.folder import save_model
from wordmill.models.recurrent import RecurrentLM
from wordmill.tasks import plan as planning
from wordmill.tasks.finetune import FinetuneConfig
from wordmill.tasks.plan import Plan, check_settings, parse_count, parse_time
from wordmill.tasks.pretrain import PretrainConfig
from wordmill.tasks.tuned_shape import narrowed, tuned_shape
from wordmill.train import budget
from wordmill.train.optim import OptimConfig, Optimizer


@pytest.mark.parametrize(
    ("text", "seconds"), [("10m", 600), ("90s", 90), ("1.5h", 5400), ("1h30m", 5400), ("45", 45), (" 2H ", 7200), ("1m30s", 90)]
)
def test_times(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0m", "-5m", "10x", "1.2.3m", ".", "m", "5m10h"])
def test_no_times(text):
    with pytest.raises(UsageError, match="10m"):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "number"), [("15m", 15e6), ("300K", 3e5), ("1.5b", 1.5e9), ("2_000", 2000), ("1,000", 1000), ("1e6", 1e6)]
)
def test_counts(text, number):
    assert parse_count(text, "--size") == number


@pytest.mark.parametrize("text", ["", "lots", "0", "-5m", "15mm", "1.2.3"])
def test_no_counts(text):
    with pytest.raises(UsageError, match="15m"):
        parse_count(text, "--size")


def _plan(make_store, tokenizer, monkeypatch, **values):
    monkeypatch.setattr(planning, "_measure", lambda *arguments, **named: budget.Speed(0.1, 4096, 1e10, 1e5))
    monkeypatch.setattr(planning, "matmul_rate", lambda *arguments, **named: 100.0)
    config = PretrainConfig.of({"sources": ["x"], **values})
    stores = make_store([400] * 50, vocab=300), make_store([40] * 10, vocab=300)
    return planning.make_plan(config, *stores, tokenizer, torch.device("cpu"), 1, time.monotonic(), SILENT)


def test_many_epochs_are_regularised_and_said_so(make_store, tiny_tokenizer, monkeypatch):
    made = _plan(make_store, tiny_tokenizer, monkeypatch, epochs=8)
    assert made.model.dropout > 0 and made.train.ema > 0 and made.train.optim.weight_decay > 0 and made.keep_best
    assert any("8.0 times" in note for note in made.notes)
    own = _plan(
        make_store, tiny_tokenizer, monkeypatch, epochs=8, model={"dropout": 0.0}, train={"ema": 0.5, "optim": {"weight_decay": 0.01}}
    )
    assert (own.model.dropout, own.train.ema, own.train.optim.weight_decay) == (0.0, 0.5, 0.01)
    once = _plan(make_store, tiny_tokenizer, monkeypatch, epochs=1)
    assert once.model.dropout == once.train.ema == 0 and not once.keep_best


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "lstm", "gru"])
def test_a_plan_goes_to_plain_values_and_back(make_store, tiny_tokenizer, monkeypatch, family):
    made = _plan(make_store, tiny_tokenizer, monkeypatch, family=family, time="3m")
    assert Plan.from_plain(made.plain()) == made
    assert made.train.seconds is not None and 150 < made.train.seconds < 180


def test_what_is_given_is_taken(make_store, tiny_tokenizer, monkeypatch):
    made = _plan(
        make_store, tiny_tokenizer, monkeypatch, steps=7, model={"layers": 3, "width": 128}, train={"context": 64, "rows": 5, "seed": 4}
    )
    assert (made.model.layers, made.model.width, made.model.heads, made.train.context, made.train.rows, made.train.steps) == (
        3,
        128,
        2,
        64,
        5,
        7,
    )


@pytest.mark.parametrize(
    ("learned_by", "train", "rates"),
    [("muon", {}, {"matrix_lr": 0.015, "embedding_lr": 0.14, "head_lr": 0.003, "lr": 0.003}), ("adamw", {}, {"lr": 2e-4}),
     (None, {}, {"lr": 2e-4}),
     ("muon", {"optim": {"lr": 0.001}}, {"matrix_lr": 0.015, "embedding_lr": 0.14, "head_lr": 0.003, "lr": 0.001}),
     ("muon", {"optim": {"kind": "adamw"}}, {"lr": 2e-4}),
     (None, {"optim": {"kind": "muon", "matrix_lr": 0.01, "embedding_lr": 0.02, "head_lr": 0.03, "lr": 0.04}},
      {"matrix_lr": 0.01, "embedding_lr": 0.02, "head_lr": 0.03, "lr": 0.04})],
)  # fmt: skip
def test_a_model_goes_on_by_the_optimiser_that_trained_it(
    make_model, make_store, tiny_tokenizer, monkeypatch, tmp_path, learned_by, train, rates
):
    """Where AdamW's rates are for small weights, what Muon trained would stand still. The size of an embedding tells nothing: a T5's is as
    large however it was trained."""
    model = make_model(vocab_size=tiny_tokenizer.vocab_size, tie_embeddings=False, embedding_std=0.8)
    model.initialise(0)
    save_model(model, tmp_path)
    write_lineage(tmp_path, learned_by=learned_by)
    made = _plan(make_store, tiny_tokenizer, monkeypatch, parent=str(tmp_path), steps=3, train={"context": 32, **train})
    assert made.train.optim.rates() == rates


@pytest.mark.parametrize(
    ("objective", "corruption", "share"),
    [("clm", {}, 1), ("mlm", {}, 0.15), ("mlm", {"rate": 0.3}, 0.3), ("denoise", {"noise": 0.5}, 0.5), ("infill", {}, 1)],
)  # fmt: skip
def test_muon_is_slower_where_a_share_of_the_tokens_is_learned(objective, corruption, share, tmp_path, make_model, tiny_tokenizer):
    """At the whole rate masked models stayed at how often tokens occur (docs/log.md)."""
    config = PretrainConfig.of({"objective": objective, "corruption": corruption})
    rate = planning._optim_defaults(TransformerConfig(), config)["matrix_lr"]
    assert rate == pytest.approx(OptimConfig().matrix_lr * share**0.5, rel=0.01)
    save_model(make_model(vocab_size=tiny_tokenizer.vocab_size), tmp_path)
    write_lineage(tmp_path, learned_by="muon")
    later = planning._optim_defaults(TransformerConfig(), config.replace(parent=str(tmp_path)))["matrix_lr"]
    assert later == pytest.approx(rate / 2, rel=0.01)


def test_muon_needs_rates_for_weights_that_it_did_not_train(make_model, make_store, tiny_tokenizer, monkeypatch, tmp_path):
    save_model(make_model(vocab_size=tiny_tokenizer.vocab_size), tmp_path)
    with pytest.raises(ConfigError, match="would wreck"):
        _plan(make_store, tiny_tokenizer, monkeypatch, parent=str(tmp_path), steps=3, train={"context": 32, "optim": {"kind": "muon"}})


def test_a_time_too_short_is_refused(make_store, tiny_tokenizer, monkeypatch):
    with pytest.raises(UsageError, match="1s is too short"):
        _plan(make_store, tiny_tokenizer, monkeypatch, time="1s")


@pytest.mark.parametrize(
    ("values", "words"),
    [({"model": {"layer": 2}}, "'layers'"), ({"family": "lstm", "model": {"heads": 2}}, "'heads'"), ({"train": {"optm": {}}}, "'optim'"),
     ({"train": {"optim": {"kind": "lion"}}}, "lion"), ({"train": {"schedule": {"warmup": 2}}}, "warmup"), ({"family": "bloom"}, "bloom")],
)  # fmt: skip
def test_wrong_settings_are_found_before_the_text_is_read(values, words):
    with pytest.raises(ConfigError, match=words):
        check_settings(PretrainConfig.of(values))


@pytest.mark.parametrize(("compiled_step", "seconds", "used"), [(0.5, 3600.0, True), (0.999, 3600.0, False), (0.5, 100.0, False)])
def test_compiling_is_tried_on_a_gpu_and_kept_where_it_pays(compiled_step, seconds, used, monkeypatch):
    """`auto` measures: here with the measuring itself replaced, since the tests have no GPU."""
    moments = iter((0.0, 20.0))
    monkeypatch.setattr(planning.time, "monotonic", lambda: next(moments))
    monkeypatch.setattr(planning, "_measure", lambda *_, **__: budget.Speed(compiled_step, 100.0, 1e9, 1e3))
    asked = SimpleNamespace(config=PretrainConfig(), device=torch.device("cuda"))
    values = {"optim": {}, "rows": 8, "micro_rows": 8, "seconds": seconds}
    model = TransformerConfig()
    chosen, why = planning._compiled(asked, model, values, budget.Speed(1.0, 100.0, 1e9, 1e3), tokens=100.0 * seconds)
    assert chosen == used
    assert (why is None) == (seconds < planning.TRIAL_PAYS), "too short a run is not worth the trial"
    assert values["seconds"] == (seconds if why is None else seconds - 20), "the trial is part of the budget"


@pytest.mark.parametrize(
    ("values", "words"),
    [({"model": {"layers": "abc"}}, r"model\.layers.*'abc'"), ({"model": {"width": 0}}, r"model\.width"),
     ({"parent": "some/folder", "tokenizer_folder": "tok"}, "tokenizer of some/folder is settled")],
)  # fmt: skip
def test_what_would_end_in_a_traceback_or_a_wrong_model_is_refused_at_once(values, words):
    with pytest.raises((ConfigError, UsageError), match=words):
        check_settings(PretrainConfig.of({"sources": ["x"], **values}))


def test_rates_below_zero_and_epochs_that_are_no_number_are_refused():
    for values in ({"train": {"optim": {"lr": -1}}}, {"epochs": float("nan")}):
        with pytest.raises(ConfigError):
            check_settings(PretrainConfig.of({"sources": ["x"], **values}))


def test_steps_are_counted_in_tokens_by_the_rows_that_a_step_has(make_store, tiny_tokenizer, monkeypatch):
    """Whether a corpus is seen often enough for regularisation follows from what will be read, not from a guess."""
    monkeypatch.setattr(planning, "_measure", lambda *_, **__: budget.Speed(0.01, 64, 1e6, 1e4))
    monkeypatch.setattr(planning, "matmul_rate", lambda *_: 10.0)
    store = make_store((400,), vocab=tiny_tokenizer.vocab_size)
    config = PretrainConfig.of({"steps": 5, "sources": ["x"], "model": {"width": 64, "layers": 1}, "train": {"context": 16}})
    made = planning.make_plan(config, store, None, tiny_tokenizer, torch.device("cpu"), 1, 0.0, SILENT)
    assert made.train.rows != 16, "a step has other rows than the guess"
    tokens = 5 * made.train.rows * 16
    assert f"about {human_count(tokens)} tokens ({tokens / store.n_tokens:.2g} epochs)" in made.summary


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_recurrent_model_soon_learns_more_than_how_often_tokens_occur(cell):
    """Each token settles the next: with a small initial embedding an LSTM saw nothing of it for thousands of steps (loss 2.7 here)."""
    size = 60
    model = RecurrentLM(RecurrentConfig(cell=cell, vocab_size=size, embedding_size=64, hidden_size=64))
    model.initialise(0)
    generator = torch.Generator().manual_seed(0)
    behind = torch.randperm(size, generator=generator)
    optimizer = Optimizer(model, OptimConfig.of(planning._optim_defaults(model.config, PretrainConfig(family=cell))))
    model.train()
    for _ in range(60):
        tokens = [torch.randint(0, size, (16, 1), generator=generator)]
        for _ in range(32):
            tokens.append(behind[tokens[-1]])
        ids = torch.cat(tokens, 1)
        hidden, _ = model(ids[:, :-1])
        loss = F.cross_entropy(model.logits(hidden).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.collect()
        optimizer.step(1.0)
    assert loss < 0.5 < math.log(size)


def test_a_single_step_learns_and_unknown_tokens_are_told(tmp_path):
    """The only step of a run is not the last one of a schedule that ends at nothing; a seed may be large."""
    import wordmill
    from wordmill.core.progress import Reporter
    from wordmill.tokenizer import TokenizerConfig
    from wordmill.tokenizer.train import train_tokenizer

    (tmp_path / "zh.txt").write_text("\n\n".join("河边有一座磨坊" + "在" * n for n in range(1, 40)))
    settings = TokenizerConfig(kind="wordpiece", vocab=60, allow_smaller=True)
    train_tokenizer(["the mill stands by the river\n\n" * 40], settings).save(tmp_path / "tok")
    report = Reporter(quiet=True)
    run = wordmill.pretrain(tmp_path / "zh.txt", out=tmp_path / "run", tokenizer_folder=str(tmp_path / "tok"), steps=1, seed=5_000_000_000,
                            model={"width": 16, "layers": 1}, train={"context": 16, "rows": 2}, reporter=report)  # fmt: skip
    assert any("unknown to the tokenizer" in warning for warning in report.warnings)
    rates = [json.loads(line).get("lr") for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(rate for rate in rates if rate is not None) > 0
    assert run.metrics


@pytest.mark.parametrize(
    ("asked", "wide"), [({}, 384), ({"time": "2m"}, 200), ({"time": "10m"}, 384), ({"time": "2m", "shape": {"hidden_size": 64}}, 64)]
)
def test_a_recurrent_labeller_is_narrow_where_time_is_scant(asked, wide, tiny_tokenizer):
    config = FinetuneConfig(task="tag", data=("train.conll",), parent="lstm", **asked)
    model = tuned_shape(config, tiny_tokenizer, 350_000, writes=False)
    assert isinstance(model, RecurrentConfig) and model.bidirectional and model.hidden_size == wide
    assert narrowed(config, model) == (wide == 200)
