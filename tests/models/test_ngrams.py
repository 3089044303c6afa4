"""N-grams beside a network: counted as written out by hand, fitted as scikit-learn fits, and honest about texts in training."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from wordmill.batches.batch import IGNORE
from wordmill.batches.examples import Encoded, pack
from wordmill.core.errors import ModelError
from wordmill.models.config import RecurrentConfig, TransformerConfig
from wordmill.models.folder import build_model
from wordmill.models.heads import HeadConfig, load_headed, save_headed, with_head
from wordmill.models.ngrams import FIT, FOLDS, LEAST, LONGEST, NGrams, balance, fit, folds, grams

LABELS = ("no", "perhaps", "yes")


def drawn(n: int, seed: int = 0, vocabulary: int = 30) -> list[list[int]]:
    """Texts of 1 to 14 tokens."""
    random = np.random.default_rng(seed)
    return [random.integers(0, vocabulary, random.integers(1, 15)).tolist() for _ in range(n)]


def flat(texts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.repeat_interleave(torch.arange(len(texts)), torch.tensor([len(text) for text in texts]))
    return torch.tensor(list(itertools.chain(*texts))), numbers


def runs(text: list[int]) -> set[tuple[int, ...]]:
    return {tuple(text[start : start + n]) for n in range(1, LONGEST + 1) for start in range(len(text) - n + 1)}


def by_hand(texts: list[list[int]]) -> np.ndarray:
    """TF-IDF written out: which runs stand in enough texts; a text's are weighed by their rarity, to a norm of 1."""
    counts: dict[tuple[int, ...], int] = {}
    for text in texts:
        for run in runs(text):
            counts[run] = counts.get(run, 0) + 1
    kept = sorted(run for run, count in counts.items() if count >= LEAST)
    rows = np.array([[(run in runs(text)) * (math.log((1 + len(texts)) / (1 + counts[run])) + 1) for run in kept] for text in texts])
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)


def dense(model: NGrams, texts: list[list[int]]) -> np.ndarray:
    index, value, start = model.features(*flat(texts), len(texts))
    rows = np.zeros((len(texts), len(model.keys)))
    ends = [*start.tolist()[1:], len(index)]
    for n, (first, last) in enumerate(zip(start.tolist(), ends, strict=True)):
        rows[n, index[first:last].numpy()] = value[first:last].numpy()
    return rows


def answers(texts: list[list[int]], labels: int = 3) -> torch.Tensor:
    return torch.tensor([sum(text) % labels if len(text) % 4 else text[0] % labels for text in texts])


def test_what_a_text_has_is_what_is_counted_by_hand() -> None:
    texts = drawn(200)
    model, _ = fit(*flat(texts), answers(texts), torch.ones(len(texts)), 3)
    ours, theirs = dense(model, texts), by_hand(texts)
    assert ours.shape == theirs.shape
    # The order of the n-grams differs: what texts have in common doesn't depend on it.
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-5)
    unseen = [[1000, 1001], [3, 1000, 4]]
    rows = dense(model, unseen)
    assert not rows[0].any() and np.count_nonzero(rows[1]) == 2, "of what was never seen there is nothing"


def test_runs_stay_within_their_text_and_have_keys_of_their_own() -> None:
    keys, owners = grams(*flat([[1, 2], [3], [1, 2, 3]]))
    by_text = [set(keys[owners == n].tolist()) for n in range(3)]
    assert [len(found) for found in by_text] == [3, 1, 6]
    assert by_text[0] | by_text[1] < by_text[2] and len(by_text[2] - by_text[0] - by_text[1]) == 2
    many = list(itertools.product(range(40), repeat=3))
    keys, _ = grams(*flat([list(run) for run in many]))
    assert len(set(keys.tolist())) == 40 + 40**2 + 40**3, "no two runs share a key"


@pytest.mark.parametrize("several", [False, True])
def test_the_fit_is_that_of_scikit_learn(several: bool) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    texts, unseen = drawn(300), drawn(50, seed=1)
    shares = torch.from_numpy(np.random.default_rng(2).uniform(0.5, 1.5, len(texts))).float()
    truth = answers(texts)
    wanted = (torch.stack([truth == 1, truth >= 1], 1)).float() if several else truth
    model, _ = fit(*flat(texts), wanted, shares, 2 if several else 3)
    ours = model.eval()(*flat(unseen), len(unseen))
    rows, new = dense(model, texts), dense(model, unseen)
    columns = wanted.T.numpy() if several else [truth.numpy()]
    fits = [linear.LogisticRegression(C=FIT, max_iter=5000, tol=1e-8).fit(rows, column, sample_weight=shares.numpy()) for column in columns]
    if several:
        theirs = np.stack([one.decision_function(new) for one in fits], 1)
        np.testing.assert_allclose(ours.numpy(), theirs, atol=0.02)
    else:
        np.testing.assert_allclose(ours.softmax(-1).numpy(), fits[0].predict_proba(new), atol=0.005)


def test_in_training_a_texts_own_label_says_nothing_about_it() -> None:
    """The label of a text, and of all that equal it, is turned: its logits in training stay, those in use follow."""
    texts = drawn(100) + [[5, 6, 7, 8]] * 3
    truth = answers(texts)
    turned = truth.clone()
    turned[-3:] = (truth[-3:] + 1) % 3
    shares = torch.ones(len(texts))
    one, before = fit(*flat(texts), truth, shares, 3)
    other, after = fit(*flat(texts), turned, shares, 3)
    torch.testing.assert_close(before[-3:], after[-3:], atol=0, rtol=0)
    assert not torch.equal(before[:-3], after[:-3])
    used, turned_too = (model.eval()(*flat(texts), len(texts)) for model in (one, other))
    assert (used[-1, truth[-1]] > turned_too[-1, truth[-1]] + 0.5).all()
    assert torch.equal(one.train()(*flat(texts), len(texts)), before)
    assert len(set(folds(*flat(texts), len(texts))[-3:].tolist())) == 1
    assert set(folds(*flat(texts), len(texts)).tolist()) == set(range(FOLDS))


@pytest.mark.parametrize("several", [False, True])
def test_a_network_too_sure_of_itself_counts_less(several: bool) -> None:
    """The network's logits are three times what they should be, and the n-grams' half: both are found, and noise counts nothing."""
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(20_000, 2, 2, generator=generator)
    network, said = true[:, 0] * 3, true[:, 1] / 2
    chances = true.sum(1).sigmoid() if several else true.sum(1).softmax(-1)[:, 1]
    drawn_answers = torch.bernoulli(chances, generator=generator)
    answers, shares = drawn_answers if several else drawn_answers.long(), torch.ones(20_000)
    found = balance(network, said, answers, shares)
    torch.testing.assert_close(found, torch.tensor([1 / 3, 2.0]), atol=0.05, rtol=0.05)
    noise = torch.randn(20_000, 2, generator=generator)
    assert 0 < balance(noise, said, answers, shares)[0] < 0.1
    assert (balance(noise, noise.flip(0), answers, shares) > 0).all(), "what both say of noise still tells one answer from another"
    few = balance(network[:3], said[:3], answers[:3], shares[:3])
    torch.testing.assert_close(few, torch.ones(2), atol=0.5, rtol=0)
    first = torch.arange(20_000) < 10_000
    half = balance(network, said, answers, 2.0 * first)
    torch.testing.assert_close(half, balance(network[first], said[first], answers[first], 2 * shares[first]), atol=1e-3, rtol=1e-3)
    model = NGrams(1, 2)
    model.shares = torch.tensor([0.5, 2.0])
    assert torch.equal(model.train().added_to(network, said), network + said), "in training both count alike"
    torch.testing.assert_close(model.eval().added_to(network, said), network / 2 + said * 2)


@pytest.mark.parametrize("texts", [[[1], [2], [3]], [[1, 2, 3]], [[1, 2], [1, 2]]])
def test_of_next_to_nothing_comes_next_to_nothing(texts: list[list[int]]) -> None:
    model, held = fit(*flat(texts), torch.arange(len(texts)) % 2, torch.ones(len(texts)), 2)
    used = model.eval()(*flat(texts), len(texts))
    assert used.shape == held.shape == (len(texts), 2) and used.isfinite().all() and held.isfinite().all()


def shaped(family: str) -> TransformerConfig | RecurrentConfig:
    if family == "lstm":
        return RecurrentConfig(vocab_size=40, embedding_size=16, hidden_size=16, layers=1, bidirectional=True, lm_head=False)
    causal = family == "qwen3"
    return TransformerConfig(family=family, vocab_size=40, width=16, layers=1, heads=2, kv_heads=2, head_size=8, ffn_size=32, causal=causal,
                             max_positions=64)  # fmt: skip


@pytest.mark.parametrize("family", ["lstm", "qwen3"])
def test_in_a_model_they_add_up_to_the_network_alone_packed_or_not_and_come_back(family: str, tmp_path: Path) -> None:
    texts = drawn(60, vocabulary=40)
    head = HeadConfig(kind="sequence", labels=LABELS, ngrams=True)
    base = build_model(shaped(family))
    base.initialise(0)
    model = with_head(base, head, seed=1).eval()
    examples = []
    for text in texts:
        targets = np.full(len(text), IGNORE)
        targets[model.place(len(text))] = 0
        examples.append(Encoded(np.array(text), targets))
    model.grams, _ = fit(*flat(texts), answers(texts), torch.ones(len(texts)), 3)
    model.eval()
    model.grams.shares = torch.tensor([0.25, 1.5])
    grams, model.grams = model.grams, None
    batch, order = pack(examples, 64)
    with torch.no_grad():
        alone = model(batch)
        model.grams = grams
        said = grams(*flat([texts[n] for n in order]), len(texts))
        both = model(batch)
        torch.testing.assert_close(both, 0.25 * alone + 1.5 * said)
        for place, n in enumerate(order[:10]):
            single, _ = pack([examples[n]], 64)
            torch.testing.assert_close(model(single)[0], both[place], atol=1e-5, rtol=1e-5)
    save_headed(model, tmp_path)
    for dtype in (None, torch.bfloat16):
        again = load_headed(tmp_path, dtype=dtype)
        assert again.head.ngrams and again.grams is not None and again.layout.architecture == "WordmillForSequenceClassification"
        assert again.grams.weight.dtype == torch.float32 and again.grams.keys.dtype == torch.int64
        torch.testing.assert_close(again.grams(*flat(texts), len(texts)), grams(*flat(texts), len(texts)), atol=0, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(load_headed(tmp_path)(batch), both, atol=1e-6, rtol=1e-6)
    tensors = load_file(tmp_path / "model.safetensors")
    for name, wrong in (("grams.idf", tensors["grams.idf"][:-1]), ("grams.weight", None)):
        changed = {key: (wrong if key == name else x) for key, x in tensors.items() if key != name or wrong is not None}
        save_file(changed, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=f"the tensor {name} (has shape|is missing)"):
            load_headed(tmp_path)
    model.to(torch.bfloat16)
    assert model.grams.weight.dtype == torch.float32 and model.out.weight.dtype == torch.bfloat16
