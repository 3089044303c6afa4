"""Heads: the folder opens in `transformers` with the same labels and logits, several texts in a row don't mix, and all comes back."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.models.reference import CASES, pair, tokens, transformers
from wordmill.batches.batch import IGNORE
from wordmill.batches.examples import Encoded, pack
from wordmill.core.errors import ModelError
from wordmill.models.config import RecurrentConfig
from wordmill.models.crf import CRF, count_moves
from wordmill.models.families import family
from wordmill.models.folder import build_model, load_model
from wordmill.models.heads import HeadConfig, Headed, load_base, load_headed, save_headed, with_head

LABELS = ("no", "perhaps", "yes")
CLASSES = {"sequence": "AutoModelForSequenceClassification", "token": "AutoModelForTokenClassification",
           "span": "AutoModelForQuestionAnswering"}  # fmt: skip
SPAN = ("start", "end")
PAIRS = [(case, kind) for case in CASES for kind in CLASSES if kind in family(CASES[case][0]).heads and " " not in case]


def headed(case: str, kind: str) -> Headed:
    base = load_model(pair(case)[2])
    model = with_head(base, HeadConfig(kind=kind, labels=SPAN if kind == "span" else LABELS), seed=3)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("base."):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def encoded(model: Headed, lengths: tuple[int, ...]) -> list[Encoded]:
    found = []
    for number, length in enumerate(lengths):
        ids = tokens(length, seed=number).numpy()
        ids[-1] = model.config.eos_id or 2
        targets = np.full(length, IGNORE if model.head.kind == "sequence" else 0)
        targets[model.place(length)] = number % 3
        found.append(Encoded(ids, targets))
    return found


@pytest.mark.parametrize("case", ["modernbert", "bert", "qwen3", "bart"])
def test_the_mean_of_all_tokens_stands_for_a_text(case: str, tmp_path: Path) -> None:
    """Written out by hand; and where `transformers` can do it too (ModernBERT), it does the same, its own folders included."""
    model = with_head(load_model(pair(case)[2]), HeadConfig(kind="sequence", labels=LABELS, pooling="mean"), seed=3).eval()
    with torch.no_grad():
        model.out.weight.normal_(generator=torch.Generator().manual_seed(5))
    examples = encoded(model, (9, 4, 13))
    batch, order = pack(examples, 100)
    with torch.no_grad():
        ours = model(batch)
        alone = [pack([examples[i]])[0] for i in order]
        by_hand = torch.cat([model.logits(model.states(one)[0, : len(examples[i].ids)].mean(0))[None] for one, i in zip(alone, order)])
    torch.testing.assert_close(ours, by_hand, atol=2e-5, rtol=2e-5)
    save_headed(model, tmp_path / "ours")
    back = load_headed(tmp_path / "ours")
    assert back.head.pooling == "mean"
    torch.testing.assert_close(back(batch), ours)
    if case == "modernbert":
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
        with torch.no_grad():
            expected = torch.cat([theirs(torch.tensor(examples[i].ids)[None]).logits for i in order])
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=2e-5)
        theirs.save_pretrained(tmp_path / "theirs")
        torch.testing.assert_close(load_headed(tmp_path / "theirs")(batch), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("case", "kind"), PAIRS)
def test_transformers_opens_it_with_the_same_labels_and_logits(case: str, kind: str, tmp_path: Path) -> None:
    model = headed(case, kind)
    save_headed(model, tmp_path)
    theirs, info = getattr(transformers, CLASSES[kind]).from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    labels = model.head.labels
    assert [theirs.config.id2label[i] for i in range(len(labels))] == list(labels)
    examples = encoded(model, (9, 4, 13))
    batch, order = pack(examples, 100)
    assert batch.input_ids.shape[0] == 1, "all in one row"
    with torch.no_grad():
        ours = model(batch)
        said = [theirs.eval()(torch.tensor(examples[i].ids)[None]) for i in order]
    if kind == "span":
        expected = torch.cat([torch.stack([one.start_logits[0], one.end_logits[0]], -1) for one in said])
    else:
        expected = torch.cat([one.logits.view(-1, 3) for one in said])
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=2e-5)
    assert ours.std() > 0.05
    back = load_headed(tmp_path)
    assert back.head.labels == labels
    with torch.no_grad():
        assert torch.equal(back(batch), ours)
    assert load_base(tmp_path).config.lm_head is False  # type: ignore[union-attr]
    with pytest.raises(ModelError, match=r"wordmill\.load"):
        load_model(tmp_path)


@pytest.mark.parametrize("shape", ["lstm", "gru"])
@pytest.mark.parametrize("both", [True, False])
def test_recurrent_texts_in_a_row_are_as_if_alone_and_come_back(shape: str, both: bool, tmp_path: Path) -> None:
    config = RecurrentConfig(cell=shape, vocab_size=97, embedding_size=12, hidden_size=16, bidirectional=both, lm_head=False)  # type: ignore[arg-type]
    base = build_model(config)
    base.initialise(1)
    model = with_head(base, HeadConfig(kind="token", labels=LABELS, crf=True), seed=1).eval()
    examples = encoded(model, (9, 1, 13))
    batch, order = pack(examples, 100)
    with torch.no_grad():
        alone = torch.cat([model(pack([examples[i]])[0]) for i in order])
        torch.testing.assert_close(model(batch), alone, atol=1e-6, rtol=1e-5)
        save_headed(model, tmp_path)
        assert torch.equal(load_headed(tmp_path)(batch), model(batch))
    if both:  # the other direction is what torch's own layer computes
        theirs = getattr(torch.nn, shape.upper())(12, 16, num_layers=2, bidirectional=True, batch_first=True)
        for n, (a, b) in enumerate(zip(base.layers, base.back)):  # type: ignore[arg-type]
            for side, layer in (("", a), ("_reverse", b)):
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    getattr(theirs, f"{name}_l{n}{side}").data.copy_(getattr(layer, name))
        ids = tokens(2, 7)
        with torch.no_grad(), warnings.catch_warnings():
            torch.testing.assert_close(base(ids)[0], theirs(base.embedding(ids))[0], atol=1e-6, rtol=1e-5)


def test_mean_of_each_text_alone(make_model) -> None:
    base = make_model("wordmill-transformer", causal=False, positions="rotary")
    model = with_head(base, HeadConfig(kind="sequence", labels=LABELS), seed=1).eval()
    assert model.layout.reads == "mean"
    examples = encoded(model, (9, 4, 6))
    batch, order = pack(examples, 12)
    with torch.no_grad():
        alone = torch.cat([model(pack([examples[i]])[0]) for i in order])
        torch.testing.assert_close(model(batch), alone, atol=1e-5, rtol=1e-5)


def test_a_crf_that_starts_from_counts() -> None:
    """With scores log P(label), a path's probability is that of the Markov chain that was counted."""
    paths = [[0, 1, 1], [0, 1], [2], [2, 0], [], [2, 0, 1]] * 500
    moves = count_moves(paths, 3)
    assert moves[3].tolist() == [1000, 0, 1500, 0] and moves[:3, 3].tolist() == [500, 1500, 500] and moves[0, 1] == 1500
    crf = CRF(3).double()
    crf.start_from(moves)
    chance = moves.sum(0) / moves.sum()
    scores = chance[:3].double().log().expand(1, 3, 3)
    real = torch.ones(1, 3, dtype=torch.bool)
    after = moves.double() / moves.sum(1, keepdim=True)
    chain = {path: after[3, path[0]] * after[path[0], path[1]] * after[path[1], path[2]] * after[path[2], 3] / chance[3]
             for path in itertools.product(range(3), repeat=3)}  # fmt: skip
    whole = sum(chain.values())
    for path, probability in chain.items():
        found = math.exp(-crf(scores, torch.tensor([path]), real).item())
        assert found == pytest.approx(float(probability / whole), abs=2e-3), path
    assert crf.decode(scores, real) == [list(max(chain, key=chain.__getitem__))]


def test_crf_agrees_with_counting_all_paths() -> None:
    crf = CRF(3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    scores = torch.randn(2, 4, 3, generator=generator)
    real = torch.tensor([[True] * 4, [True, True, False, False]])
    labels = torch.tensor([[0, 2, 1, 1], [2, 0, 0, 0]])
    expected, best = 0.0, []
    for n, length in enumerate((4, 2)):
        paths = torch.cartesian_prod(*[torch.arange(3)] * length)
        values = []
        for path in paths:
            value = crf.first[path[0]] + crf.last[path[-1]] + sum(scores[n, t, path[t]] for t in range(length))
            values.append(value + sum(crf.transitions[a, b] for a, b in zip(path, path[1:])))
        every = torch.stack(values)
        wanted = (paths == labels[n, :length]).all(1).nonzero()[0, 0]
        expected += float((torch.logsumexp(every, 0) - every[wanted]).detach())
        best.append(paths[every.argmax()].tolist())
    assert float(crf(scores, labels, real).detach()) == pytest.approx(expected, rel=1e-5)
    assert crf.decode(scores, real) == best
