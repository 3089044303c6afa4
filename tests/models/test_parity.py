"""Every family against `transformers`: the same logits, hidden states and gradients from the same weights, and the way back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.models.reference import CASES, auto_class, pair, run_ours, run_theirs, tokens
from wordmill.models.config import TransformerConfig
from wordmill.models.families import families
from wordmill.models.folder import load_model, save_model, weight_list
from wordmill.models.transformer import Transformer


def source_of(model: Transformer, rows: int = 2, length: int = 30) -> Tensor | None:
    return tokens(rows, length, seed=7) if model.config.kind == "encoder-decoder" else None


def check_states(ours: list[Tensor], theirs: tuple[Tensor, ...], real: Tensor | None = None) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(*((a, b) if real is None else (a[real], b[real])), atol=1e-5, rtol=1e-5)


def test_every_family_has_a_case() -> None:
    assert {kind for kind, _ in CASES.values()} == set(families()) - {"wordmill-transformer"}


@pytest.mark.parametrize("case", CASES)
def test_logits_and_hidden_states(case: str) -> None:
    theirs, ours, _ = pair(case)
    ids, source = tokens(2, 40), source_of(ours)
    with torch.no_grad():
        expected = run_theirs(theirs, ids, source=source)
        logits, states, encoder = run_ours(ours, ids, source=source)
    torch.testing.assert_close(logits, expected.logits, atol=1e-5, rtol=1e-5)
    assert expected.logits.std() > 0.1, "logits that say something"
    check_states(states, expected.decoder_hidden_states if encoder else expected.hidden_states)
    if encoder:
        check_states(encoder, expected.encoder_hidden_states)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("case", CASES)
def test_padding(case: str, side: str) -> None:
    theirs, ours, _ = pair(case)
    lengths = (24, 9, 17)
    mask = torch.stack([torch.arange(24) < n for n in lengths])
    mask = (mask if side == "right" else mask.flip(1)).long()
    ids = torch.where(mask > 0, tokens(3, 24), 1)
    whole = ours.config.kind == "encoder-decoder"
    with torch.no_grad():
        if whole:  # the decoders of `transformers` count positions over padding on the left, so there only the source is padded
            target = tokens(3, 12, seed=5)
            expected, got = run_theirs(theirs, target, source=ids, source_mask=mask), run_ours(ours, target, source=ids, source_mask=mask)
            if side == "left" and ours.config.positions == "learned":
                pytest.skip("BART's source positions count padding")
        else:
            expected, got = run_theirs(theirs, ids, mask), run_ours(ours, ids, mask)
    real = torch.ones(3, 12, dtype=torch.bool) if whole else mask.bool()
    torch.testing.assert_close(got[0][real], expected.logits[real], atol=1e-5, rtol=1e-5)
    check_states(got[1], expected.decoder_hidden_states if whole else expected.hidden_states, real)


@pytest.mark.parametrize("case", CASES)
def test_packed_documents_are_as_if_alone(case: str) -> None:
    theirs, ours, _ = pair(case)
    lengths, padding = (11, 1, 17), 3
    whole = ours.config.kind == "encoder-decoder"
    pack = tokens(1, sum(lengths) + padding, seed=3)
    positions = torch.cat([*map(torch.arange, lengths), torch.full((padding,), -1)])[None]
    documents = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)] + [torch.full((padding,), 9)])[None]
    sources = (6, 13, 4)
    source = tokens(1, sum(sources), seed=4)
    memory = None
    with torch.no_grad():
        if whole:
            memory = ours.encode(source, torch.cat([*map(torch.arange, sources)])[None],
                                 torch.cat([torch.full((n,), i) for i, n in enumerate(sources)])[None])  # fmt: skip
        got = ours.logits(ours(pack, positions, documents, memory=memory)[0])
        assert bool(got.isfinite().all()), "padding sees something, and spoils nothing"
        for i, ids in enumerate(pack[:, : sum(lengths)].split(lengths, 1)):
            alone = run_theirs(theirs, ids, source=source.split(sources, 1)[i] if whole else None).logits
            torch.testing.assert_close(got[documents == i], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_gradients(case: str) -> None:
    theirs, ours, folder = pair(case)
    ours = load_model(folder).requires_grad_(True)
    ids, source = tokens(2, 30), source_of(ours)
    theirs.zero_grad()
    run_theirs(theirs, ids, source=source).logits.square().mean().backward()
    run_ours(ours, ids, source=source)[0].square().mean().backward()
    expected = {name: p.grad for name, p in theirs.named_parameters(remove_duplicate=False) if p.grad is not None}
    mapping = weight_list(ours.config)
    assert mapping is not None
    seen: set[int] = set()
    for weight in mapping:
        gradient = ours.get_parameter(weight.ours).grad
        assert gradient is not None, weight.ours
        for name, part in zip(weight.theirs, gradient.split(weight.sizes) if weight.sizes else (gradient,), strict=True):
            if name == "final_logits_bias":  # theirs is no parameter
                continue
            seen.add(expected[name].data_ptr())
            torch.testing.assert_close(part.t() if weight.transpose else part, expected[name], atol=1e-4, rtol=1e-4)
    assert seen == {x.data_ptr() for x in expected.values()}, "no parameter of theirs without one of ours"
    theirs.zero_grad()


@pytest.mark.parametrize("case", [case for case in CASES if "bert" not in CASES[case][0]])
def test_with_a_cache(case: str) -> None:
    theirs, ours, _ = pair(case)
    ids, source = tokens(2, 24), source_of(ours)
    with torch.no_grad():
        expected = run_theirs(theirs, ids, source=source).logits
        memory = None if source is None else ours.encode(source)
        state, got = ours.new_state(2, 24), []
        for first, last in ((0, 7), (7, 8), (8, 9), (9, 20), *((n, n + 1) for n in range(20, 24))):
            hidden, state = ours(ids[:, first:last], None, None, state, memory=memory if first == 0 else None)
            got.append(ours.logits(hidden))
    torch.testing.assert_close(torch.cat(got, 1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_the_way_back(case: str, tmp_path: Path) -> None:
    theirs, ours, _ = pair(case)
    save_model(ours, tmp_path)
    again, info = auto_class(CASES[case][0]).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    ids, source = tokens(2, 40), source_of(ours)
    with torch.no_grad():
        expected, got = run_theirs(theirs, ids, source=source).logits, run_theirs(again.eval(), ids, source=source).logits
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    back = load_model(tmp_path)
    assert back.config == ours.config
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), ours.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", [name for name in families() if name != "wordmill-transformer"])
def test_a_model_from_scratch_opens_elsewhere(name: str, tmp_path: Path) -> None:
    """`Family.parts` and a size make a model of the family."""
    sizes = {"vocab_size": 97, "width": 48, "layers": 2, "heads": 4, "kv_heads": 4, "head_size": 12, "ffn_size": 64}
    if name.startswith("gemma"):
        sizes["embedding_scale"] = 48**0.5
    model = Transformer(TransformerConfig(**{**families()[name].parts, "family": name, **sizes}))
    model.initialise(0, zero_outputs=False)
    save_model(model.eval(), tmp_path)
    theirs, info = auto_class(name).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    ids, source = tokens(2, 30), source_of(model)
    with torch.no_grad():
        torch.testing.assert_close(
            run_ours(model, ids, source=source)[0], run_theirs(theirs.eval(), ids, source=source).logits, atol=1e-5, rtol=1e-5
        )


def test_sinusoidal_post_norm_relu_runs_forward_and_learns(tmp_path: Path) -> None:
    """The Transformer of 2017 is one of the configs, as a decoder and whole, and its folder comes back."""
    sizes = {"vocab_size": 31, "width": 16, "layers": 2, "heads": 2, "kv_heads": 2, "head_size": 8, "ffn_size": 32}
    kind = families()["wordmill-transformer"]
    for encoder_layers in (0, 2):
        model = Transformer(TransformerConfig(family=kind.name, **kind.parts, **sizes, encoder_layers=encoder_layers))
        model.initialise(0, zero_outputs=False)
        memory = model.encode(torch.arange(9)[None]) if encoder_layers else None
        hidden, _ = model(torch.arange(12)[None], memory=memory)
        model.logits(hidden).square().sum().backward()
        assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())
        save_model(model, tmp_path / str(encoder_layers))
        back = load_model(tmp_path / str(encoder_layers))
        assert back.config == model.config
        memory = None if memory is None else replace(memory, hidden=memory.hidden.detach())
        torch.testing.assert_close(back(torch.arange(12)[None], memory=memory)[0], hidden.detach())
