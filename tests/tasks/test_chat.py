"""`wordmill finetune chat`: from conversations to a model that answers."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import wordmill
from tests.tokenizer.chats import LLAMA, QWEN
from wordmill.batches.batch import IGNORE
from wordmill.cli.app import main
from wordmill.core.progress import SILENT
from wordmill.evaluate.bootstrap import paired
from wordmill.generate import Dialogue
from wordmill.models.folder import build_model, load_model, save_model
from wordmill.models.grow import grow_vocabulary
from wordmill.tasks import finetune as tuning
from wordmill.tasks.chat import ChatOutcomes, ChatTask
from wordmill.tasks.examples import Record, Records
from wordmill.tasks.task import Tools
from wordmill.tasks.watch import TaskWatch
from wordmill.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from wordmill.tokenizer.chat import Chat
from wordmill.train.budget import family_shape, model_config

COLOURS = {"grass": "green", "snow": "white", "night": "black", "blood": "red", "sky": "blue"}
TEXT = " ".join(f"what colour has {k} ? it is {v} . user assistant system Be short." for k, v in COLOURS.items())


def talk(generator: random.Random, turns: int) -> list[dict[str, str]]:
    found = []
    for thing in generator.choices(list(COLOURS), k=turns):
        found += [{"role": "user", "content": f"what colour has {thing} ?"}, {"role": "assistant", "content": f"it is {COLOURS[thing]} ."}]
    return found


@pytest.fixture(scope="session")
def talks(tmp_path_factory):
    """A file of conversations of one to three turns, each question of the first turn with another system text."""
    generator = random.Random(0)
    path = tmp_path_factory.mktemp("talks") / "talks.jsonl"
    rows = [{"messages": [{"role": "system", "content": f"Be short {n}."}, *talk(generator, 1 + n % 3)]} for n in range(90)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def folder_of(place, family="qwen3", *, template=None, special=None, eos=True, padding=0):
    """A small model with random weights, its tokenizer trained on TEXT."""
    config = TokenizerConfig(vocab=400, allow_smaller=True, extra_special=special or ())
    tokenizer = train_tokenizer([TEXT] * 3, config)
    if template is not None:
        tokenizer.templates["default"] = template
    if not eos:
        spec = json.loads(tokenizer._json)
        spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] not in ("<|im_start|>", "<|im_end|>")]
        spec["model"]["vocab"] = {k: v for k, v in spec["model"]["vocab"].items() if k not in ("<|im_start|>", "<|im_end|>")}
        ids = {v: n for n, v in enumerate(sorted(spec["model"]["vocab"].values()))}
        spec["model"]["vocab"] = {k: ids[v] for k, v in spec["model"]["vocab"].items()}
        for token in spec["added_tokens"]:
            token["id"] = spec["model"]["vocab"][token["content"]]
        spec["post_processor"] = None
        tokenizer = Tokenizer(json.dumps(spec), {"bos_token": None, "eos_token": None, "pad_token": None})
    shape = {"width": 48, "layers": 2, "heads": 2, "kv_heads": 2, "head_size": 24, "ffn_size": 96, "max_positions": 256}
    if family == "lstm":
        shape = {"embedding_size": 32, "hidden_size": 48, "layers": 1}
    ids = {"vocab_size": tokenizer.vocab_size + padding, "bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    model = build_model(model_config(family, {**family_shape(family, 48, 2), **shape, **ids}))
    model.initialise(0)
    save_model(model, place)
    tokenizer.save(place)
    return place


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("base"))


QUICK = ["--steps", "120", "--lr", "0.01", "train.optim.kind=muon", "train.optim.matrix_lr=0.03", "train.optim.embedding_lr=0.28",
         "train.optim.head_lr=0.006", "train.rows=16", "train.evaluations=3", "task.answer_tokens=24"]


def tuned(data, model, out, *more):
    return main(["finetune", "chat", str(data), "--model", str(model), "-o", str(out), *QUICK, *more])


@pytest.fixture(scope="session")
def assistant(talks, base, tmp_path_factory):
    """A run on `talks`."""
    out = tmp_path_factory.mktemp("runs") / "assistant"
    assert tuned(talks, base, out, "--quiet") == 0
    return out


def test_from_conversations_to_answers(assistant, talks, tmp_path, monkeypatch, capsys):
    metrics = json.loads((assistant / "run.json").read_text())["metrics"]["validation"]
    before = metrics["baselines"]["before fine-tuning"]
    assert metrics["headline"] == "bits_per_byte" and metrics["lower_is_better"]
    assert metrics["metrics"]["bits_per_byte"] < 0.1 * before["bits_per_byte"], "each answer follows from its question"
    assert [one["said"] for one in metrics["samples"]] == [one["expected"] for one in metrics["samples"]] and len(metrics["samples"]) == 5
    assert all(one["finished"] for one in metrics["samples"])
    report = (assistant / "report.html").read_text(encoding="utf-8")
    assert "before fine-tuning" in report and "What it says" in report and "bits per byte" in report

    capsys.readouterr()
    held = assistant / "data" / "validation.jsonl"
    assert main(["evaluate", str(assistant / "model"), str(held), "--json", "--quiet"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["metrics"] == pytest.approx(metrics["metrics"], rel=1e-5)
    assert again["baselines"]["before fine-tuning"] == pytest.approx(before, rel=1e-5)

    out = tmp_path / "out.jsonl"
    assert main(["predict", str(assistant / "model"), str(held), "-o", str(out), "--quiet"]) == 0
    rows, expected = ([json.loads(line) for line in path.read_text().splitlines()] for path in (out, held))
    assert [row["answer"] for row in rows] == [row["messages"][-1]["content"] for row in expected]
    assert all(row["input"]["messages"][-1]["role"] == "user" and row["finished"] for row in rows)
    assert main(["predict", str(assistant / "model"), str(held), "task.samples=2", "task.answer_tokens=9"]) == 2
    assert "task.samples would have no effect: it is for judging" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", ["what colour has snow ?\n", '{"prompt": "what colour has night ?"}\n'])
    assert main(["predict", str(assistant / "model"), "-", "--quiet"]) == 0
    assert [json.loads(line)["answer"] for line in capsys.readouterr().out.splitlines()] == ["it is white .", "it is black ."]
    model = wordmill.load(assistant)
    assert model.predict("what colour has blood ?")["answer"] == "it is red ."
    assert model.predict({"instruction": "what colour has", "input": "grass ?"})["answer"].startswith("it is")


def test_what_is_asked_keeps_the_other_fields_of_its_record():
    task, turn = ChatTask(), {"role": "user", "content": "who?"}
    rows = [{"id": 7, "prompt": "who?", "response": "anna", "source": "a"}, {"id": 7, "prompt": "who?", "source": "a"},
            {"id": 7, "source": "a", "messages": [turn, {"role": "assistant", "content": "anna"}]}]  # fmt: skip
    asked = task.inputs(Records([Record(row, "f") for row in rows]))
    assert [one.values for one in asked] == [{"id": 7, "source": "a", "messages": [turn]}] * 3
    assert task.as_record(rows[0], "f").values == asked[0].values


def test_time_is_kept_for_the_model_as_it_was_before_and_for_samples(talks, base, tmp_path, monkeypatch):
    seen = []

    class Watching(TaskWatch):
        def __call__(self, run, event):
            super().__call__(run, event)
            seen.append((self.in_the_end, len(self.records), self.sampling))

    monkeypatch.setattr(tuning, "TaskWatch", Watching)
    tuning.finetune("chat", talks, model=base, out=tmp_path / "run", time="5s", options={"answer_tokens": 5})
    answers, examples, sampling = seen[-1]
    assert answers == 2 * examples and sampling > 0


def test_an_assistant_that_speaks_twice_is_learned_and_judged(base, tmp_path):
    """Where the last answer follows another one, there is no question that a sample could be asked."""
    row = {"messages": [{"role": "user", "content": "what colour has snow ?"}, {"role": "assistant", "content": "it is"},
                        {"role": "assistant", "content": "white ."}]}  # fmt: skip
    path = tmp_path / "twice.jsonl"
    path.write_text("".join(json.dumps({"messages": [{"role": "system", "content": str(n)}, *row["messages"]]}) + "\n" for n in range(20)))
    run = tuning.finetune("chat", path, model=base, out=tmp_path / "run", steps=2, options={"answer_tokens": 5})
    assert (run.model_folder / "model.safetensors").exists()
    judged = wordmill.load(run.model_folder, device="cpu").evaluate(path)
    assert judged.examples == 20 and judged.samples == [] and judged.metrics["loss"] > 0


def test_chat_and_predict_say_the_same_from_the_same_ids(assistant):
    model = wordmill.load(assistant / "model", device="cpu")
    dialogue = Dialogue(model, model.sampling({"temperature": 0.0, "max_tokens": 24}))
    said = ["".join(dialogue.say(f"what colour has {thing} ?")) for thing in ("sky", "snow", "grass")]
    assert said == ["it is blue .", "it is white .", "it is green ."] and dialogue.reason == "eos"
    record = Record({"messages": dialogue.messages[:-1]}, "here")
    encoded = model.task.encode(record, model.tools, answer=False)
    assert encoded.ids.tolist() == dialogue.prompt and model.predict({"messages": dialogue.messages})["answer"] == said[-1]


def test_wordmill_chat_works_on_what_came_out(assistant, monkeypatch, capsys):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("what colour has snow ?\nwhat colour has sky ?\n"))
    assert main(["chat", str(assistant / "model"), "-t", "0"]) == 0
    found = capsys.readouterr()
    assert found.out == "it is white .\nit is blue .\n" and "not trained to chat" not in found.err


def test_transformers_opens_the_folder_with_the_same_ids_and_logits(assistant):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(assistant / "model", dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(assistant / "model")
    messages = [{"role": "user", "content": "what colour has snow ?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    ours = wordmill.load(assistant / "model", device="cpu")
    assert ids == Chat(ours.tokenizer).encode(messages, prompt=True).ids
    with torch.no_grad():
        assert (theirs(torch.tensor([ids])).logits - ours.logits(ids)).abs().max() <= 1e-5
        made = theirs.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :].tolist()
    assert tokenizer.decode(made, skip_special_tokens=True) == "it is white ." and made[-1] in theirs.generation_config.eos_token_id


def test_preview_shows_what_counts(talks, base, capsys):
    assert main(["finetune", "chat", str(talks), "--model", str(base), "--preview", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    tokenizer = Tokenizer.load(base)
    for example in found["examples"]:
        learned = tokenizer.decode([t for t in example["targets"] if t != IGNORE], skip_special=False)
        assert learned.count("<|im_end|>") == learned.count("it is") >= 1 and "what" not in learned and "<|im_start|>" not in learned
    assert main(["finetune", "chat", str(talks), "--model", str(base), "--preview"]) == 0
    shown = capsys.readouterr()
    assert "‹<|im_end|>›" in shown.out and "conversations, 60 of them with several answers" in shown.err


def test_validation_holds_whole_conversations(talks, base, tmp_path):
    """With an example for every answer too: all of a conversation stand on one side."""
    for answers in ("all", "each"):
        out = tmp_path / answers
        assert tuned(talks, base, out, f"task.answers={answers}", "--steps", "2", "--quiet") == 0
        rows = [json.loads(line) for line in (out / "data" / "validation.jsonl").read_text().splitlines()]
        held = {row["messages"][0]["content"] for row in rows}
        whole = [json.loads(line)["messages"] for line in talks.read_text().splitlines()]
        answers_held = sum(sum(turn["role"] == "assistant" for turn in one) for one in whole if one[0]["content"] in held)
        assert len(rows) == (len(held) if answers == "all" else answers_held) and 5 <= len(held) <= 15


def test_the_loss_is_that_of_the_assistants_tokens_alone_whatever_shares_a_row(base):
    tokenizer, model = Tokenizer.load(base), load_model(base)
    task = ChatTask()
    tokenizer = task.equip(tokenizer)
    generator = random.Random(3)
    records = [Record({"messages": talk(generator, n)}, str(n)) for n in (1, 3, 2, 1, 2)]
    costs = {}
    for capacity in (0, 200):
        tools = Tools(tokenizer, model.config, 256, capacity)
        costs[capacity] = task.respond(model, tools, records)
    for alone, packed in zip(*costs.values(), strict=True):
        assert packed == pytest.approx(alone, rel=1e-5)
    chat = Chat(tokenizer)
    for record, (nats, tokens, size) in zip(records, costs[0], strict=True):
        turns = chat.encode(record.values["messages"])
        logits = model.logits(model(torch.tensor([turns.ids]))[0])[0].log_softmax(-1)
        places = [i for a in turns.answers for i in range(a.start, a.stop)]
        assert nats == pytest.approx(-sum(float(logits[i - 1, turns.ids[i]]) for i in places), rel=1e-4)
        assert tokens == len(places) and size == sum(a.bytes for a in turns.answers)


def test_what_writes_has_no_head_to_learn_alone(tmp_path, capsys):
    base = folder_of(tmp_path / "base", "llama")
    assert tuned(tmp_path / "nowhere.jsonl", base, tmp_path / "run", "--freeze", "base") == 2
    told = capsys.readouterr().err
    assert "chat has no head that could learn alone" in told and len(told.splitlines()) == 1, "before anything is read"


def test_a_broken_template_is_named_by_its_file(talks, tmp_path, capsys):
    base, broken = folder_of(tmp_path / "base", "llama"), tmp_path / "bad.jinja"
    broken.write_text("{% for turn in messages %}{{ turn.content }", encoding="utf-8")
    assert tuned(talks, base, tmp_path / "run", f"task.template={broken}") == 2
    told = capsys.readouterr().err
    assert f"{broken}: the chat template is broken" in told and "Mend this file" in told and "chat_template.jinja" not in told


@pytest.mark.parametrize(("template", "special"), [(QWEN, None), (LLAMA, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"))])
def test_an_imported_family_keeps_its_own_template(template, special, talks, tmp_path, capsys):
    base = folder_of(tmp_path / "base", "llama", template=template, special=special)
    assert tuned(talks, base, tmp_path / "run", "--steps", "3", "--quiet") == 0
    tokenizer = Tokenizer.load(tmp_path / "run" / "model")
    assert tokenizer.chat_template == template
    ends = json.loads((tmp_path / "run" / "model" / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.token_id("<|eot_id|>" if special else "<|im_end|>") in ends


@pytest.mark.parametrize(("family", "padding"), [("qwen3", 0), ("qwen3", 70), ("qwen3", 1), ("lstm", 0)])
def test_marks_of_turns_are_added_where_a_vocabulary_lacks_them(family, padding, talks, tmp_path, capsys):
    base = folder_of(tmp_path / "base", family, eos=False, padding=padding)
    assert tuned(talks, base, tmp_path / "no", "--quiet") == 2
    assert "task.template=chatml" in capsys.readouterr().err
    assert tuned(talks, base, tmp_path / "run", "task.template=chatml") == 0
    assert "2 new special tokens" in capsys.readouterr().err
    old, new = Tokenizer.load(base), Tokenizer.load(tmp_path / "run" / "model")
    assert [new.token_id(name) for name in ("<|im_start|>", "<|im_end|>")] == [old.vocab_size, old.vocab_size + 1]
    model = wordmill.load(tmp_path / "run", device="cpu")
    assert model.config.vocab_size == max(old.vocab_size + padding, new.vocab_size)
    said = model.predict("what colour has snow ?")
    assert said["finished"] and (said["answer"] == "it is white ." or family == "lstm")
    lora = tuned(talks, base, tmp_path / "lora", "task.template=chatml", "--lora", "2", "--quiet")
    assert lora == 2 and ("beside an adapter" if family == "qwen3" else "recurrent") in capsys.readouterr().err


@pytest.mark.parametrize("shape", ["qwen3", "gpt2", "lstm"])
def test_new_rows_hardly_change_what_is_said(make_model, shape):
    model = make_model(shape)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    before = model.logits(model(ids)[0])
    grown = grow_vocabulary(model, 97, 99)
    after = grown.logits(grown(ids)[0])
    assert after.shape[-1] == 99 and torch.equal(after[..., :97], before)
    assert not torch.equal(after[..., 97], after[..., 98])
    padded = grow_vocabulary(make_model(shape), 90, 92)
    assert padded.config.vocab_size == 97
    assert torch.equal(padded.logits(padded(ids)[0])[..., :90], before[..., :90])


def test_an_adapter_learns_to_chat(talks, assistant, tmp_path, capsys):
    out, base, other = tmp_path / "run", assistant / "model", tmp_path / "other.jsonl"
    other.write_text(talks.read_text().replace("it is", "thanks , it is"))
    assert tuned(other, base, out, "train.optim.kind=adamw", "--lora", "8", "--lr", "0.01", "--quiet") == 0
    metrics = json.loads((out / "run.json").read_text())["metrics"]
    found, before = metrics["validation"]["metrics"], metrics["validation"]["baselines"]["before fine-tuning"]
    assert found["bits_per_byte"] < 0.5 * before["bits_per_byte"]
    own, merged = load_file(base / "model.safetensors"), load_file(out / "model" / "model.safetensors")
    assert all(("_proj" in name) != torch.equal(own[name], merged[name]) for name in own)
    whole, apart = wordmill.load(out / "model", device="cpu"), wordmill.load(out / "adapter", device="cpu")
    ids = Chat(whole.tokenizer).encode([{"role": "user", "content": "what colour has snow ?"}], prompt=True).ids
    assert (whole.logits(ids) - apart.logits(ids)).abs().max() <= 1e-5
    assert apart.predict("what colour has snow ?") == whole.predict("what colour has snow ?")
    apart.use_adapters({})
    assert (apart.logits(ids) - whole.logits(ids)).abs().max() > 1e-3
    assert main(["predict", str(out / "adapter"), str(out / "data" / "validation.jsonl"), "--quiet"]) == 0


def test_two_models_are_compared(assistant, talks, base, tmp_path, capsys):
    assert tuned(talks, base, tmp_path / "short", "--steps", "4", "--quiet") == 0
    capsys.readouterr()
    held = assistant / "data" / "validation.jsonl"
    assert main(["compare", str(tmp_path / "short"), str(assistant), "--data", str(held), "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metric"] == "bits_per_byte" and found["high"] < 0 and found["p_value"] is None


def test_the_best_weights_are_those_with_the_fewest_bits(talks, base, tmp_path):
    """Lower is better: an evaluation later and worse must not win."""
    out = tmp_path / "run"
    more = ["--steps", "20", "--lr", "0.1", "train.optim.kind=adamw", "train.evaluations=10", "train.schedule.kind=constant", "patience=0"]
    assert tuned(talks, base, out, *more, "--quiet") == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    scores = {row["step"]: row["validation_score"] for row in rows if "validation_score" in row}
    best = json.loads((out / "run.json").read_text())["metrics"]
    assert scores[best["best_step"]] == min(scores.values())
    assert best["validation"]["metrics"]["bits_per_byte"] == pytest.approx(min(scores.values()), rel=1e-4)


BAD = {
    "starts with the assistant": [{"role": "assistant", "content": "hi"}, *talk(random.Random(0), 1)],
    "assistant says nothing": [{"role": "user", "content": "a"}],
    "known roles": [{"role": "mill", "content": "a"}],
    "is empty": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}],
}


@pytest.mark.parametrize("message", list(BAD))
def test_bad_conversations_are_named_and_can_be_left_out(message, talks, base, tmp_path, capsys):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(talks.read_text() + json.dumps({"messages": BAD[message]}) + "\n")
    assert tuned(bad, base, tmp_path / "run", "--quiet") == 2
    said = capsys.readouterr().err
    assert message in said and f"{bad}:91" in said and "task.skip_bad=true" in said
    assert main(["finetune", "chat", str(bad), "--model", str(base), "--preview", "task.skip_bad=true"]) == 0
    assert "1 conversation left out" in capsys.readouterr().err


TOO_LONG = "too long, so that no answer begins within 100 tokens"


def test_a_context_too_long_loses_its_end_and_is_counted(talks, base, tmp_path, capsys):
    long = tmp_path / "long.jsonl"
    much = [{"role": "user", "content": "snow " * 300}, {"role": "assistant", "content": "it is white ."}]
    row, question = {"messages": [*talk(random.Random(1), 1), *much]}, {"messages": much}
    long.write_text(talks.read_text() + json.dumps(row) + "\n")
    look = ["--model", str(base), "--preview", "--json", "validation_share=0"]
    assert main(["finetune", "chat", str(long), *look, "--max-tokens", "100"]) == 0
    split = json.loads(capsys.readouterr().out)["splits"]["train"]
    assert split["examples"] == 91 and split["cut"] >= 1 and split["tokens_cut"] > 200
    long.write_text(talks.read_text() + json.dumps(question) + "\n")
    assert main(["finetune", "chat", str(long), *look, "--max-tokens", "100"]) == 0
    found = capsys.readouterr()
    split = json.loads(found.out)["splits"]["train"]
    assert split["examples"] == 90 and split["left_out"] == 1
    assert f"1 of 91 examples of train is left out: {TOO_LONG} (first: {long}:91)" in found.err
    long.write_text(json.dumps(question) + "\n")
    assert main(["finetune", "chat", str(long), *look, "--max-tokens", "100"]) == 2
    assert f"no example of train is left: {TOO_LONG} (first: {long}:1)" in capsys.readouterr().err


def test_what_is_too_long_is_left_out_and_said_beside_the_scores(talks, base, tmp_path, capsys):
    long = tmp_path / "long.jsonl"
    question = {"messages": [{"role": "user", "content": "snow " * 300}, {"role": "assistant", "content": "it is white ."}]}
    long.write_text("".join(talks.read_text().splitlines(keepends=True)[:8]) + json.dumps(question) + "\n")
    run = tmp_path / "run"
    more = ["--test", str(long), "--max-tokens", "100", "--steps", "2", "validation_share=0", "task.samples=0"]
    assert main(["finetune", "chat", str(long), "--model", str(base), "-o", str(run), *more]) == 0
    said = capsys.readouterr().err
    assert "  left out as too long: 1 of train, 1 of test" in said and "8 examples, " in said and "; 1 more left out as too long" in said
    assert json.loads((run / "run.json").read_text())["metrics"]["test"]["left_out"] == 1
    assert "1 more left out as too long" in (run / "report.html").read_text(encoding="utf-8")
    assert main(["evaluate", str(run / "model"), str(long), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == 1
    assert main(["compare", str(run), str(run / "model"), "--data", str(long)]) == 0
    both = capsys.readouterr()
    assert "8 examples, paired" in both.out and both.err.count("1 of 9 examples is left out") == 2


def test_a_question_too_long_loses_its_oldest_turns(assistant):
    model = wordmill.load(assistant, device="cpu")
    messages = [*talk(random.Random(2), 30), {"role": "user", "content": "what colour has snow ?"}]
    said = model.predict({"messages": messages})
    assert said["answer"].startswith("it is") and said["cut"] > 0
    with pytest.raises(wordmill.WordmillError, match="fit with room for an answer"):
        model.predict("snow " * 400)


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [("t5", [], "needs decoder or recurrent"), ("qwen3", ["task.template=nowhere.jinja"], "no such file"),
     ("qwen3", ["task.answer=each"], "answers"), ("qwen3", ["--freeze", "base"], "no head")],
)  # fmt: skip
def test_what_can_t_be_honoured(model, more, message, talks, small_models, tmp_path, capsys):
    assert tuned(talks, small_models(model), tmp_path / "run", "--quiet", *more) == 2
    assert message in capsys.readouterr().err


def test_formats_are_found_and_mixed(tmp_path, base, capsys):
    rows = {
        "alpaca.json": [{"instruction": "what colour has", "input": "snow ?", "output": "it is white ."}] * 2,
        "sharegpt.json": [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}],
        "pairs.jsonl": [{"question": "a", "answer": "b"}],
    }
    for name, values in rows.items():
        (tmp_path / name).write_text(json.dumps(values) if name.endswith("json") else "".join(json.dumps(v) + "\n" for v in values))
    files = [str(tmp_path / name) for name in rows]
    assert main(["finetune", "chat", *files, "--model", str(base), "--preview"]) == 0
    said = capsys.readouterr().err
    assert "Alpaca" in said and "ShareGPT" in said and "'question' asks" in said and "ask the same as another" in said


def test_from_scratch(talks, tmp_path):
    more = ["model.width=48", "model.layers=1", "--steps", "3", "tokenizer.vocab=300", "--quiet"]
    assert tuned(talks, "qwen3", tmp_path / "run", *more) == 0
    found = json.loads((tmp_path / "run" / "run.json").read_text())["metrics"]["validation"]
    assert found["baselines"] == {}, "a model from scratch could do nothing before"


def test_conversations_need_something_to_learn():
    much = [{"role": "user", "content": "a"}]
    with pytest.raises(wordmill.WordmillError, match="no conversation"):
        ChatTask({"skip_bad": True}).check(Records([Record({"messages": much}, "here")], files=["x"]), SILENT)


def test_of_two_losses_the_lower_is_called_the_better():
    tokens, size = np.full(30, 5.0), np.full(30, 20.0)
    low, high = (ChatOutcomes(np.linspace(n, n + 1, 30), tokens, size) for n in (1.0, 3.0))
    for pair, better in (((high, low), "second"), ((low, high), "first")):
        found = paired(*pair, draws=50)
        assert found.lower_is_better and f"the {better} is better (lower is better), by more than chance" in found.text()
