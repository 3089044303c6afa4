"""Denoising, infilling and prefix rows: nothing lost, nothing twice, sizes kept, a pure function of the step."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import TEXT
from wordmill.batches.batch import IGNORE
from wordmill.batches.corrupt import DenoiseConfig, InfillConfig, MaskConfig, draw_spans, infill, permute_sentences, split_spans
from wordmill.batches.corrupted import DenoisedRows, InfilledRows, MaskedRows, PrefixRows, objective_rows
from wordmill.batches.pack import PackedRows
from wordmill.batches.pieces import row_generator
from wordmill.batches.vocabulary import SENTINEL, Vocabulary
from wordmill.core.errors import ConfigError, UsageError
from wordmill.tokenizer import TokenizerConfig, train_tokenizer
from wordmill.train.objectives import OBJECTIVES

BOS, EOS, PAD, MASK, FIRST = 1, 2, 3, 4, 5
SENTINELS = np.arange(FIRST, FIRST + 60)
TEXT_IDS = 100
"""Ids of text begin here; 0 marks documents in the stores of these tests."""
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=12)


def _vocabulary(sentinels=SENTINELS, mask: int | None = MASK) -> Vocabulary:
    size = 60_000
    special, none = np.arange(size) < TEXT_IDS, np.zeros(size, np.bool_)
    sentence = np.arange(size) % 7 == 0
    return Vocabulary(size, BOS, EOS, PAD, mask, sentinels, special, np.arange(TEXT_IDS, size), none, none, none, none, sentence, ())


@pytest.fixture
def numbered(make_store):
    """A store whose tokens of text are all different."""

    def make(lengths):
        store = make_store(lengths)
        tokens = np.arange(TEXT_IDS, TEXT_IDS + len(store.tokens), dtype=np.uint32)
        tokens[store.offsets] = 0
        object.__setattr__(store, "tokens", tokens)
        return store

    return make


def _text(store):
    return sorted(int(i) for i in store.tokens if i >= TEXT_IDS)


def _pieces(ids, positions):
    """The pieces of one row."""
    n = int((positions >= 0).sum())
    assert (positions[n:] == -1).all()
    begins = np.flatnonzero(positions[:n] == 0)
    parts = np.split(ids[:n], begins[1:]) if n else []
    assert positions[:n].tolist() == [i for part in parts for i in range(len(part))]
    return [part.tolist() for part in parts]


def _epoch(rows):
    for row in range(rows.rows_per_epoch):
        step, i = divmod(row, rows.rows)
        yield rows.batch(step, i, i + 1)


def _together(source, target):
    """The original piece from T5's two sides; checks the sentinels' order and the ends on the way."""
    assert source[-1] == EOS and (not target or target[-1] == EOS)
    spans: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token in SENTINELS:
            spans[token] = []
        else:
            spans[list(spans)[-1]].append(token)
    marks = [token for token in source if token in SENTINELS]
    assert marks == list(spans) == SENTINELS[: len(marks)].tolist(), "the same sentinels on both sides, in order, each once"
    assert all(spans.values()), "no span is empty"
    return [token for piece in (spans.get(t, [t]) for t in source[:-1]) for token in piece]


@SETTINGS
@given(n=st.integers(1, 200), noise=st.floats(0.02, 0.9), mean=st.floats(1, 20), seed=st.integers(0, 10**6))
def test_source_and_target_together_are_the_piece(n, noise, mean, seed):
    ids, sentinels = np.arange(n), np.arange(1000, 1300)
    starts, lengths = draw_spans(n, DenoiseConfig(noise=noise, mean_span=mean), row_generator(seed, 0))
    assert (lengths >= 1).all() and lengths.sum() < n and (starts[1:] > starts[:-1] + lengths[:-1]).all()
    source, target = split_spans(ids, (starts, lengths), sentinels)
    assert sorted([*source, *target]) == sorted([*ids, *sentinels[: len(starts)], *sentinels[: len(starts)]])
    assert len(source) == n - lengths.sum() + len(starts) and len(target) == lengths.sum() + len(starts)


def test_noise_and_spans_follow_their_settings():
    """In expectation also for pieces of a few tokens; every place is hidden equally often but for the borders."""
    for n, config in ((7, DenoiseConfig()), (100, DenoiseConfig()), (100, DenoiseConfig(noise=0.5, mean_span=8))):
        hidden, spans, places = [], [], np.zeros(n)
        for seed in range(2000):
            starts, lengths = draw_spans(n, config, row_generator(seed, 5))
            hidden.append(lengths.sum())
            spans.append(len(starts))
            for start, length in zip(starts, lengths):
                places[start : start + length] += 1
        assert np.mean(hidden) == pytest.approx(n * config.noise, abs=0.05)
        if n == 100:
            assert np.mean(spans) == pytest.approx(n * config.noise / config.mean_span, abs=0.06)
            assert places[20:80].min() > 0.75 * places.mean()


@SETTINGS
@given(lengths=LENGTHS, context=st.integers(8, 70), seed=st.integers(0, 9), noise=st.sampled_from([0.15, 0.5]))
def test_an_epoch_of_denoising_holds_every_token_once(numbered, lengths, context, seed, noise):
    store = numbered(lengths)
    rows = DenoisedRows(store, context, 3, seed, _vocabulary(), DenoiseConfig(noise=noise))
    found = []
    for batch in _epoch(rows):
        ids, targets, positions = (x[0].numpy() for x in (batch.input_ids, batch.targets, batch.positions))
        sources = _pieces(batch.source.input_ids[0].numpy(), batch.source.positions[0].numpy())
        asked = dict(enumerate(_pieces(targets, positions)))
        if batch.documents is not None:
            numbers = batch.documents[0][positions >= 0].numpy()[positions[positions >= 0] == 0]
            assert batch.source.documents[0].max() == len(sources) - 1
            asked = dict(zip(numbers.tolist(), asked.values(), strict=True))
        given = _pieces(ids, positions)
        assert [[PAD, *target[:-1]] for target in asked.values()] == given, "the decoder is given its target one place later"
        assert (targets[positions < 0] == IGNORE).all() and (targets[positions >= 0] != IGNORE).all()
        found += [token for number, source in enumerate(sources) for token in _together(source, asked.get(number, []))]
    assert sorted(found) == _text(store)


@SETTINGS
@given(lengths=LENGTHS, context=st.integers(8, 70), seed=st.integers(0, 9), permute=st.booleans())
def test_an_epoch_of_infilling_asks_for_every_token_once(numbered, lengths, context, seed, permute):
    store = numbered(lengths)
    rows = InfilledRows(store, context, 3, seed, _vocabulary(), InfillConfig(permute_sentences=permute))
    found = []
    for batch in _epoch(rows):
        assert batch.input_ids.shape[1] == context, "never wider"
        positions = batch.positions[0].numpy()
        targets = _pieces(batch.targets[0].numpy(), positions)
        sources = _pieces(batch.source.input_ids[0].numpy(), batch.source.positions[0].numpy())
        assert [[EOS, *target[:-1]] for target in targets] == _pieces(batch.input_ids[0].numpy(), positions)
        for source, target in zip(sources, targets, strict=True):
            assert source[0] == target[0] == BOS and source[-1] == target[-1] == EOS and len(source) <= len(target)
            shown = [token for token in source if token != MASK]
            assert set(shown) <= set(target) and len(set(shown)) == len(shown)
            assert permute or shown == sorted(shown, key=target.index), "what is shown is in order"
            found += target[1:-1]
    assert sorted(found) == _text(store)


def test_infilling_hides_its_share_in_spans_of_poisson_lengths():
    ids, config = np.arange(200), InfillConfig()
    kept, masks = [], []
    for seed in range(500):
        shown = infill(ids, config, MASK + 1000, row_generator(seed, 1))
        masks.append(int((shown == MASK + 1000).sum()))
        kept.append(len(shown) - masks[-1])
    assert np.mean(kept) == 140 and 19 < np.mean(masks) < 22
    short = [len(infill(ids[:3], config, 1000, row_generator(seed, 2))) for seed in range(500)]
    assert max(short) <= 3


def test_sentences_change_places_and_stay_whole():
    ids, vocabulary = np.arange(700, 740), _vocabulary()
    ends = [701, 708, 715, 722, 729, 736]
    assert vocabulary.ends_sentence[np.array(ends) - 1].all()
    seen = set()
    for seed in range(30):
        found = permute_sentences(ids, vocabulary, row_generator(seed, 0)).tolist()
        assert sorted(found) == ids.tolist()
        starts = [at for at in range(40) if at == 0 or found[at] != found[at - 1] + 1]
        assert {found[at] for at in starts} <= {700, *ends}
        seen.add(tuple(found))
    assert len(seen) > 20


@SETTINGS
@given(lengths=LENGTHS, context=st.integers(1, 40), seed=st.integers(0, 9))
def test_prefix_rows_are_plain_rows_whose_prefix_is_not_asked_for(make_store, lengths, context, seed):
    store = make_store(lengths)
    plain, rows = PackedRows(store, context, 3, seed), PrefixRows(store, context, 3, seed)
    for step in range(2):
        a, b = plain.batch(step), rows.batch(step)
        assert torch.equal(a.input_ids, b.input_ids) and torch.equal(a.positions, b.positions)
        for i in range(3):
            begins = [*torch.nonzero(a.positions[i] == 0)[:, 0].tolist(), int((a.positions[i] >= 0).sum())]
            for begin, end in zip(begins, begins[1:]):
                known = int(b.prefix[i, begin:end].sum())
                assert 1 <= known <= end - begin and bool(b.prefix[i, begin : begin + known].all())
                assert (b.targets[i, begin : begin + known - 1] == IGNORE).all()
                assert torch.equal(b.targets[i, begin + known - 1 : end], a.targets[i, begin + known - 1 : end])
        assert not b.prefix[a.positions < 0].any()


def test_rows_by_the_name_of_the_objective(numbered, tiny_tokenizer):
    store = numbered([100])
    tokenizer = train_tokenizer([TEXT] * 4, TokenizerConfig(vocab=400, extra_special=("<|mask|>", *map(SENTINEL.format, range(9)))))
    kinds = {"clm": PackedRows, "prefix": PrefixRows, "mlm": MaskedRows, "denoise": DenoisedRows, "infill": InfilledRows}
    for name, kind in kinds.items():
        rows = objective_rows(name, store, 32, 2, 0, tokenizer, limit=5)
        assert type(rows) is kind and rows.limit == 5 and name in OBJECTIVES
    assert objective_rows("mlm", store, 32, 2, 0, tokenizer, {"rate": 0.3}).config.rate == 0.3
    assert objective_rows("infill", store, 32, 2, 0, tokenizer, start=7).batch(0).input_ids[0, 0] == 7
    with pytest.raises(ConfigError, match=r"corruption: unknown setting 'rat'. Did you mean 'rate'"):
        objective_rows("mlm", store, 32, 2, 0, tokenizer, {"rat": 0.3})
    with pytest.raises(ConfigError, match="clm corrupts nothing"):
        objective_rows("clm", store, 32, 2, 0, tokenizer, {"rate": 0.3})
    with pytest.raises(UsageError, match="mlm has no decoder"):
        objective_rows("mlm", store, 32, 2, 0, tokenizer, start=7)
    with pytest.raises(UsageError, match="no objective 'mln'. Did you mean 'mlm'"):
        objective_rows("mln", store, 32, 2, 0, tokenizer)


def _kinds(store, **settings):
    vocabulary = _vocabulary()
    yield MaskedRows(store, 20, 3, 5, vocabulary, MaskConfig(), **settings)
    yield DenoisedRows(store, 20, 3, 5, vocabulary, DenoiseConfig(), **settings)
    yield InfilledRows(store, 20, 3, 5, vocabulary, InfillConfig(permute_sentences=True), **settings)
    yield PrefixRows(store, 20, 3, 5, **settings)


def _tensors(batch):
    source = () if batch.source is None else (batch.source.input_ids, batch.source.positions, batch.source.documents)
    return (batch.input_ids, batch.targets, batch.positions, batch.documents, batch.prefix, *source)


def _equal(a, b) -> bool:
    return all((x is None and y is None) or torch.equal(x, y) for x, y in zip(_tensors(a), _tensors(b), strict=True))


def test_a_step_is_a_function_of_seed_and_step(numbered):
    store = numbered([9, 30, 2, 41, 17])
    for first, second in zip(_kinds(store), _kinds(store), strict=True):
        expected = {step: second.batch(step) for step in range(5)}
        for step in (4, 0, 3, 0):
            assert _equal(first.batch(step), expected[step])
            part, whole = first.batch(step, 1, 3), expected[step]
            n = part.targets.shape[1]
            assert torch.equal(part.targets, whole.targets[1:3, :n]) and (whole.targets[1:3, n:] == IGNORE).all()
        assert not _equal(first.batch(0), first.batch(first.rows_per_epoch)), "another epoch is corrupted in another way"


def test_a_limit_ends_the_rows_and_a_share_without_rows_is_padding(numbered):
    store = numbered([9, 30, 2, 41, 17])
    for rows in _kinds(store, limit=4):
        assert rows.batch(0).n_targets > 0 and rows.batch(2).n_targets == 0
        assert (rows.batch(1).targets[1:] == IGNORE).all()
        empty = rows.batch(0, 2, 2)
        assert empty.input_ids.shape[0] == 1 and empty.n_targets == 0 and (empty.positions == -1).all()


def test_rows_of_common_text_have_fixed_sizes_with_little_padding(numbered):
    """Documents of one to some hundreds of tokens: one row in a hundred may be longer than planned, a tenth of all places padding."""
    lengths = np.random.default_rng(0).lognormal(3.6, 1.2, 500).astype(int) + 1
    store, sizes, padding, places = numbered(lengths), Counter(), 0, 0
    rows = DenoisedRows(store, 256, 1, 0, _vocabulary(), DenoiseConfig())
    for batch in _epoch(rows):
        sizes[(batch.source.input_ids.shape[1], batch.input_ids.shape[1])] += 1
        padding += batch.n_padding
        places += batch.input_ids.numel() + batch.source.input_ids.numel()
    assert sizes[(256, rows.context)] > 0.99 * rows.rows_per_epoch
    assert padding < 0.1 * places
    assert rows.places > 256 and rows.context < 100


def test_micro_batches_keep_source_and_documents_together(numbered):
    batch = DenoisedRows(numbered([9, 30, 2, 41, 17]), 20, 6, 5, _vocabulary(), DenoiseConfig()).batch(0)
    assert batch.documents is not None
    for start in range(0, 6, 2):
        part = batch.rows(start, start + 2)
        assert (part.documents is None) == (part.source.documents is None)
        assert torch.equal(part.source.input_ids, batch.source.input_ids[start : start + 2])
        assert part.to(torch.device("cpu")).source.positions.shape == part.source.positions.shape


def test_what_cannot_be_honoured_is_refused(numbered):
    store = numbered([100])
    with pytest.raises(UsageError, match="needs up to 4 sentinels, the tokenizer has 3"):
        DenoisedRows(store, 64, 1, 0, _vocabulary(SENTINELS[:3]), DenoiseConfig())
    for kind, config in ((MaskedRows, MaskConfig()), (InfilledRows, InfillConfig())):
        with pytest.raises(UsageError, match="no mask token"):
            kind(store, 64, 1, 0, _vocabulary(mask=None), config)
        with pytest.raises(UsageError, match="too short"):
            kind(store, 2, 1, 0, _vocabulary(), config)
    for kind, values in ((MaskConfig, {"rate": 0}), (MaskConfig, {"mask_share": 0.95}), (MaskConfig, {"segmenter": "jieba"}),
                         (DenoiseConfig, {"mean_span": 0.5}), (DenoiseConfig, {"noise": 1}), (InfillConfig, {"mean_span": 0})):  # fmt: skip
        with pytest.raises(ConfigError):
            kind.of(values)
