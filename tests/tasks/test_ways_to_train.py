"""Frozen encoder, gradual unfreezing, layer-wise rates, several seeds, balanced sampling: for each task, and beside an adapter."""

from __future__ import annotations

import io
import json
import statistics
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import wordmill
from tests.tasks.test_answer import squad  # noqa: F401
from tests.tasks.test_tag import conll  # noqa: F401
from tests.tuning import stopping
from wordmill.cli.app import main
from wordmill.core.progress import Reporter
from wordmill.models.adapters import add_lora
from wordmill.models.config import RecurrentConfig
from wordmill.models.folder import load_model, read_config
from wordmill.models.heads import HeadConfig, with_head
from wordmill.models.lora import LoraConfig
from wordmill.models.recurrent import RecurrentLM
from wordmill.tasks import finetune as tuning
from wordmill.tasks import task as base_of_tasks
from wordmill.tasks import watch as watching
from wordmill.tasks.classify import Classify
from wordmill.tasks.examples import Record
from wordmill.tasks.finetune import FinetuneConfig, depths
from wordmill.tasks.tune_plan import WRITER, tune_plan
from wordmill.tasks.watch import TaskWatch, Thaw
from wordmill.train import budget
from wordmill.train.loop import TrainConfig, Training, over
from wordmill.train.optim import BEHIND, OptimConfig, assign, depth

QUICK = ["--steps", "6", "train.evaluations=2", "train.rows=8", "--quiet"]


@pytest.fixture
def files(reviews, conll, squad):  # noqa: F811
    return {"classify": str(reviews / "train.tsv"), "tag": str(conll / "train.conll"), "answer": str(squad / "train.json")}


def _base(folder):
    model = wordmill.load(folder, device="cpu").model
    return model.base.state_dict(), {name: x for name, x in model.state_dict().items() if not name.startswith("base.")}


@pytest.mark.parametrize("task", ["classify", "tag"])
@pytest.mark.parametrize("name", ["bert", "lstm"])
def test_with_a_frozen_base_the_head_alone_moves(task, name, files, small_models, tmp_path):
    for freeze in ("base", "none"):
        out = tmp_path / freeze
        assert main(["finetune", task, files[task], "--model", str(small_models(name)), "-o", str(out), "--freeze", freeze, *QUICK]) == 0
    own, (kept, head), (moved, other) = load_model(small_models(name)).state_dict(), _base(tmp_path / "base"), _base(tmp_path / "none")
    assert kept.keys() == moved.keys() and all(torch.equal(kept[key], own[key]) for key in kept)
    assert any(not torch.equal(moved[key], own[key]) for key in moved) and head.keys() == other.keys()
    assert any(not torch.equal(head[key], other[key]) for key in head)


@pytest.mark.parametrize("name", ["bert", "qwen3", "t5", "lstm"])
def test_gradual_unfreezing_goes_from_the_head_to_the_embedding(name, small_models):
    model = with_head(load_model(small_models(name)), HeadConfig(kind="sequence", labels=("a", "b")), seed=0)

    class Run:
        progress = 0.0

    run = Run()
    run.model = model
    thaw = Thaw(run, depths(model))
    seen = []
    for progress in np.linspace(0, 1, 21):
        run.progress = float(progress)
        thaw(run, "step")
        seen.append({key for key, parameter in model.named_parameters() if parameter.requires_grad})
    assert seen[0] == {key for key in depths(model) if not key.startswith("base.")}
    assert all(early <= late for early, late in zip(seen, seen[1:], strict=False)), "what has thawed stays so"
    assert seen[-1] == set(depths(model)) == seen[10] and not any("embedding.weight" in key for key in seen[5])


@pytest.mark.parametrize("task", ["classify", "tag"])
def test_gradual_unfreezing_and_layer_wise_rates_run(task, files, small_models, tmp_path):
    more = ["--freeze", "gradual", "train.optim.layer_decay=0.5"]
    assert main(["finetune", task, files[task], "--model", str(small_models("bert")), "-o", str(tmp_path / "run"), *QUICK, *more]) == 0
    own, (moved, _) = load_model(small_models("bert")).state_dict(), _base(tmp_path / "run")
    assert any(not torch.equal(moved[key], own[key]) for key in moved)


@pytest.mark.parametrize("adapter", [False, True])
def test_layer_wise_rates_fall_with_the_distance_from_the_output(small_models, adapter):
    model = with_head(load_model(small_models("bert")), HeadConfig(kind="sequence", labels=("a", "b")), seed=0)
    if adapter:
        add_lora(model.base, LoraConfig(rank=2), 0)
    groups = assign(model, OptimConfig(kind="adamw", lr=1.0, layer_decay=0.5))
    rates = {name: group.lr for group in groups for name in group.names}
    assert rates.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    expected = {BEHIND: 1.0, 2: 1.0, 1: 0.5, 0: 0.25}
    assert all(rate == expected[depth(name)] for name, rate in rates.items())
    assert {depth(name) for name in rates} == ({BEHIND, 1, 2} if adapter else {BEHIND, 0, 1, 2})


@pytest.mark.parametrize("more", [[], ["--lora", "2", "train.optim.layer_decay=0.5"]])
def test_several_seeds_of_a_tagger(files, small_models, tmp_path, capsys, more):
    out = tmp_path / "run"
    common = ["--model", str(small_models("bert")), "-o", str(out), "--seeds", "2", "--json", *QUICK, *more]
    assert main(["finetune", "tag", files["tag"], *common]) == 0
    found = json.loads(capsys.readouterr().out)
    values = found["validation"]["f1"]["values"] if "f1" in found["validation"] else next(iter(found["validation"].values()))["values"]
    assert found["seeds"] == 2 and len(values) == 2
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "run: 2 seeds" in page and f"model/ is that of {found['best']}" in page
    for value in (*values, statistics.fmean(values)):
        assert f"{value:.4f}" in page.partition("its page stands below")[2].partition("</table>")[0]
    weights = [(out / name / "model" / "model.safetensors").read_bytes() for name in ("seed-0", "seed-1")]
    assert weights[0] != weights[1] and (out / "model" / "model.safetensors").read_bytes() in weights


def test_seeds_that_were_stopped_go_on_together_with_the_settings_that_they_had(files, small_models, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    common = ["classify", files["classify"], "--model", str(small_models("lstm")), "-o", str(out), "--steps", "2"]
    assert main(["finetune", *common, "--seeds", "2", "--seed", "3", "task.text=nowhere"]) == 2
    assert not out.exists(), "what never began leaves nothing"

    with stopping(monkeypatch, lambda run, event: run.folder.name == "seed-4" and event == "step"):
        assert main(["finetune", *common, "--seeds", "2", "--seed", "3", "--quiet"]) == 143
    said = capsys.readouterr().err.rpartition("Go on with: wordmill ")[2].split()
    for changed, line in ((["--lr", "0.1"], "changed: lr: None → 0.1"), (["task.dropout=0.5"], "changed: options.dropout: None → 0.5")):
        assert main([*said, "--seeds", "2", *changed]) == 2
        assert line in capsys.readouterr().err
    assert not (out / "model").exists()
    first = (out / "seed-3" / "model" / "model.safetensors").stat().st_mtime_ns
    assert main([*said, "--quiet", "--json"]) == 0
    assert len(next(iter(json.loads(capsys.readouterr().out)["validation"].values()))["values"]) == 2
    assert (out / "seed-3" / "model" / "model.safetensors").stat().st_mtime_ns == first and (out / "model").exists()
    assert main([*said, "--seeds", "3", "--quiet", "--json"]) == 0, "one more seed"
    assert json.loads(capsys.readouterr().out)["seeds"] == 3 and (out / "seed-5" / "model").exists()
    assert main([*said, "--seeds", "2"]) == 2
    assert "this run has 3 seeds, and can only get more" in capsys.readouterr().err


def test_several_seeds_are_for_one_process(files, small_models, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    out = tmp_path / "run"
    assert main(["finetune", "tag", files["tag"], "--model", str(small_models("bert")), "-o", str(out), "--seeds", "2"]) == 2
    assert "by one process, and here are 2" in capsys.readouterr().err and not out.exists()


def test_training_ends_early_enough_for_the_answers_in_the_end_and_no_earlier(reviews, small_models, tmp_path, monkeypatch):
    answer, limits = Classify.respond, []

    def slow(self, model, tools, records, **more):
        time.sleep(0.02 * len(records))
        return answer(self, model, tools, records, **more)

    class Watching(TaskWatch):
        def __call__(self, run, event):
            super().__call__(run, event)
            limits.append((self.whole, run.memory.get("time_limit"), run.seconds))

    monkeypatch.setattr(Classify, "respond", slow)
    monkeypatch.setattr(tuning, "TaskWatch", Watching)
    files = {"validation": reviews / "dev.tsv", "test": reviews / "test.tsv"}  # 30 and 40 examples: 0.6 s a look and 1.4 s in the end
    tuning.finetune("classify", reviews / "train.tsv", model=small_models("bert"), out=tmp_path / "run", time="8s", **files)
    whole, limit, seconds = limits[-1]
    assert whole - limit == pytest.approx(0.6 + 1.1 * 1.4 + 2.0, abs=0.6), "a look, the answers and a tenth more, and the rest"
    assert limits[0][1] is None and abs(seconds - limit) < 1.2, "until then it trains"


@pytest.mark.parametrize(("task", "more"), [("classify", ()), ("classify", ("task.class_weights=balanced", "task.r_drop=1")),
                                            ("tag", ()), ("tag", ("task.crf=true",)), ("answer", ())])  # fmt: skip
def test_a_look_reads_the_validation_examples_once(task, more, files, small_models, tmp_path, monkeypatch):
    """Answers and loss come from one reading, and the loss is the one that the objective gives to the same examples."""
    look, reads, told = TaskWatch._look, [], []

    def watched(self, run):
        reads.clear()
        with run.model.base.register_forward_hook(lambda *_: reads.append(1)):
            look(self, run)
        once = len(reads)
        costs = list(self._costs(run))
        told.append((once, len(costs), sum(float(cost.loss_sum) for cost in costs) / sum(cost.n_targets for cost in costs)))

    monkeypatch.setattr(TaskWatch, "_look", watched)
    monkeypatch.setattr(base_of_tasks, "BATCH_TOKENS", 40)
    monkeypatch.setattr(watching, "BATCH_TOKENS", 40)
    assert main(["finetune", task, files[task], "--model", str(small_models("bert")), "-o", str(tmp_path / "run"), *QUICK, *more]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert len(losses) == len(told) == 2
    for loss, (once, batches, expected) in zip(losses, told, strict=True):
        assert once == batches > 1 and loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("whole", "look", "answer", "in_the_end"), [(600, 3.0, 0.2, 1500), (300, 8.0, 0.25, 500), (120, 4.0, 0.4, 1500)])
def test_a_limit_that_shrinks_brings_no_look_after_look(whole, look, answer, in_the_end, monkeypatch):
    """By an artificial clock: steps of half a second."""
    clock, looks = [0.0], []
    monkeypatch.setattr("wordmill.tasks.watch.time.monotonic", lambda: clock[0])

    class Timed(TaskWatch):
        def _look(self, run):
            looks.append(run.seconds)
            self.each = answer
            clock[0] += look

    task = Classify({}, {"columns": {"text": "text", "label": "label"}, "labels": ["a", "b"], "multi_label": False})
    said = io.StringIO()
    run = Training(RecurrentLM(RecurrentConfig(vocab_size=9, embedding_size=4, hidden_size=4)), None, None,
                   TrainConfig(seconds=0.9 * whole), reporter=Reporter(stream=said))  # fmt: skip
    watch = Timed(None, task, SimpleNamespace(tokenizer=None), [Record({}, "")] * 20, [None] * 20, patience=6, in_the_end=in_the_end,
                  whole=whole)  # fmt: skip
    while not over(run, 0.5):
        clock[0] += 0.5
        run.step, run.seconds = run.step + 1, clock[0]
        watch(run, "step")
    apart = np.diff(looks) - look
    assert (apart >= look - 0.51).all() and len(looks) <= 11, "between two looks it trains, at least as long as a look takes"
    left = whole - clock[0]
    if answer * in_the_end > whole:
        assert len(looks) == 1 and "no more time to train" in said.getvalue()
    else:
        assert left == pytest.approx(look + 1.1 * answer * in_the_end + max(2.0, 0.03 * whole), abs=look + 1.0)


@pytest.mark.parametrize("task", ["classify", "tag"])
def test_r_drop_without_any_dropout_is_refused(task, files, small_models, tmp_path, capsys):
    words = ["finetune", task, files[task], "--model", str(small_models("bert")), "-o", str(tmp_path / "run"), *QUICK, "task.r_drop=1"]
    assert main([*words, "task.dropout=0", "model.dropout=0"]) == 2
    assert "two readings with nothing dropped are the same" in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert main([*words, "task.dropout=0"]) == 0


def test_balanced_sampling_draws_all_classes_alike():
    records = [Record({"text": str(n), "label": "rare" if n % 10 == 0 else "often"}, str(n)) for n in range(100)]
    task = Classify({"sampling": "balanced"}, {"columns": {"text": "text", "label": "label"}, "labels": ["often", "rare"],
                                               "multi_label": False})  # fmt: skip
    shares = task.shares(records)
    rare = np.array([record.values["label"] == "rare" for record in records])
    assert shares[rare].sum() == pytest.approx(shares[~rare].sum())


def test_balanced_sampling_goes_with_an_adapter_and_is_refused_where_words_have_labels(files, small_models, tmp_path, capsys):
    model = ["--model", str(small_models("bert")), "task.sampling=balanced", *QUICK]
    assert main(["finetune", "classify", files["classify"], "-o", str(tmp_path / "a"), "--lora", "2", *model]) == 0
    capsys.readouterr()
    assert main(["finetune", "tag", files["tag"], "-o", str(tmp_path / "b"), *model]) == 2
    assert "sampling" in capsys.readouterr().err and not (tmp_path / "b").exists()


@pytest.mark.parametrize(("n", "targets", "rows"), [(29_000, 15, 128), (10**6, 4, 256), (10**6, 500, 32), (2_000, 5, 32), (420, 30, 16)])
def test_a_model_that_learns_to_write_by_muon_takes_larger_steps(n, targets, rows):
    def planned(by_muon, task="translate", **settings):
        config = FinetuneConfig(task=task, parent="t5", **settings)
        model = budget.model_config("t5", {**budget.family_shape("t5", 64, 1), "vocab_size": 400, "decoder_start_id": 0})
        return tune_plan(config, model, n=n, n_validation=10, longest_example=40, cut={}, task={}, data={}, device=torch.device("cpu"),
                         started=0.0, targets=targets, by_muon=by_muon).train.rows  # fmt: skip

    assert planned(WRITER) == rows and planned(None) == planned(WRITER, "classify") == min(rows, 32)
    assert planned(WRITER, train={"optim": {"kind": "adamw"}}) == min(rows, 32)


def test_a_small_model_goes_over_few_examples_often(small_models):
    folder = small_models("bert")

    def epochs(n, **settings):
        config = FinetuneConfig(task="classify", parent=str(folder), **settings)
        plan = tune_plan(config, read_config(folder), n=n, n_validation=10, longest_example=20, cut={}, task={}, data={},
                         device=torch.device("cpu"), started=0.0)  # fmt: skip
        return plan.train.steps / -(-n // plan.train.rows)

    assert [epochs(n) for n in (400, 1_000, 10_000, 40_000)] == [45, 24, 15, 9]
    assert epochs(10_000, fresh=True) == 15 and epochs(10_000, epochs=2) == 2


def test_a_long_run_keeps_an_average_of_the_weights(small_models):
    folder = small_models("bert")

    def planned(**settings):
        config = FinetuneConfig(task="classify", parent=str(folder), **settings)
        return tune_plan(config, read_config(folder), n=100, n_validation=10, longest_example=20, cut={}, task={}, data={},
                         device=torch.device("cpu"), started=time.monotonic()).train.ema  # fmt: skip

    assert planned(steps=999) == 0 < planned(steps=1000) == planned(time="1h") < 1 and planned(steps=1000, train={"ema": 0.0}) == 0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["lstm", "model.width=64"], "unknown setting 'width'. It is called 'hidden_size' here"),
        (["modernbert", "model.width=wide"], "model.width: a whole number from 1 on is needed, not 'wide'"),
        (["modernbert", "model.layers=0"], "model.layers: a whole number from 1 on is needed, not 0"),
        (["modernbert", "model.heads=5"], "heads (5) must be a multiple of kv_heads"),
    ],
)
def test_a_shape_that_can_not_be_is_refused_before_anything_is_read(asked, said, files, tmp_path, capsys):
    assert main(["finetune", "classify", files["classify"], "-o", str(tmp_path / "run"), "--model", *asked]) == 2
    told = capsys.readouterr().err
    assert said in told and "columns" not in told


def test_sharpness_aware_steps_are_in_wide_enough_numbers(monkeypatch):
    for name, value in (("bf16_gain", 3.0), ("mixed_gain", 0.1)):
        monkeypatch.setattr(f"wordmill.core.device.{name}", lambda value=value: value)
    monkeypatch.setattr("wordmill.core.device.has_bf16", lambda _: True)
    for sam, dtype in ((0.0, "bf16"), (0.05, "mixed")):
        config = FinetuneConfig(task="classify", parent="bert", train={"sam": sam})
        model = budget.model_config("bert", budget.family_shape("bert", 64, 1))
        plan = tune_plan(config, model, n=100, n_validation=10, longest_example=20, cut={}, task={}, data={}, device=torch.device("cpu"),
                         started=0.0)  # fmt: skip
        assert plan.dtype == dtype
