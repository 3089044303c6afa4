"""Training a tokenizer: text in, a `Tokenizer` out.

The learning itself is the `tokenizers` library's; here is what goes into it (which text, in which pieces) and what comes out
(a tokenizer.json that encodes as wordmill, `transformers` and llama.cpp all do).
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Protocol

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from wordmill.core.errors import ConfigError, DataError
from wordmill.core.progress import SILENT, Reporter, human_bytes
from wordmill.tokenizer.config import BERT, TokenizerConfig, suggest_vocab
from wordmill.tokenizer.fast import byte_to_char
from wordmill.tokenizer.patterns import EACH_CHARACTER, ENCODE, SCRIPT_RUNS, TRAIN
from wordmill.tokenizer.tokenizer import Tokenizer

CHUNK = 50_000
"""Characters given to the trainer at a time: it keeps some 30 bytes a character while it cuts a text."""


class CorpusLike(Protocol):
    """What is needed of a corpus (`wordmill.corpus.Corpus`)."""

    def bytes(self, split: str) -> int:
        """UTF-8 bytes of a split's text."""

    def texts(self, split: str) -> Iterator[str]:
        """The texts of a split."""


def train_on_corpus(corpus: CorpusLike, config: TokenizerConfig, *, reporter: Reporter = SILENT) -> Tokenizer:
    """Train on the training documents of a corpus, and on nothing else of it. Raises as `train_tokenizer`."""
    return train_tokenizer(corpus.texts("train"), config, total_bytes=corpus.bytes("train"), reporter=reporter)


def train_tokenizer(
    texts: Iterable[str], config: TokenizerConfig, *, total_bytes: int | None = None, reporter: Reporter = SILENT
) -> Tokenizer:
    """Learn a vocabulary from texts, which are read once, as a stream (wordpiece: kept, to count its characters first).

    The same texts give the same tokenizer, but for unigram: there the library adds up in a varying order, and rare tokens may differ.

    `total_bytes` (UTF-8), where it is known, spreads the sample evenly over a text larger than `config.sample_bytes`, gives the
    progress bar its end, and saves keeping the text when `config.vocab` is None.
    Raises `DataError` when the text is empty or can't give `config.vocab` tokens (unless `config.allow_smaller`), `ConfigError` when the
    vocabulary has no room for the bytes and the special tokens.
    """
    chunks: Iterable[str] = _sample(texts, config.sample_bytes, total_bytes, reporter)
    vocab = config.vocab
    if vocab is None:
        if total_bytes is None:
            chunks = list(chunks)
            total_bytes = sum(len(chunk.encode()) for chunk in chunks)
        # A char vocabulary is bounded by the text.
        vocab = 2**20 if config.kind == "char" else max(suggest_vocab(total_bytes), _smallest(config))
        if config.kind in ("bpe", "unigram", "wordpiece"):
            reporter.note(f"vocabulary: {vocab:,} tokens, from {human_bytes(total_bytes)} of text")
    elif vocab < _smallest(config) and config.kind != "byte":
        raise ConfigError(f"{vocab} tokens are too few for {config.kind}: it needs {_smallest(config)}", where="vocab")
    first = next(iterator := iter(chunks), None)
    if first is None:
        raise DataError("there is no text to train a tokenizer on")
    size = min(total_bytes, config.sample_bytes) if total_bytes else None
    with reporter.task("training the tokenizer", total=size, unit="bytes") as task:

        def counted() -> Iterator[str]:
            for chunk in chain([first], iterator):
                task.advance(len(chunk.encode()))
                yield chunk

        backend = _TRAINERS[config.kind](counted(), config, vocab)
    tokenizer = Tokenizer(_canonical(backend, config), _settings(config))
    _check_size(tokenizer, config, vocab, reporter)
    return tokenizer


def _sample(texts: Iterable[str], budget: int, total: int | None, reporter: Reporter) -> Iterator[str]:
    """The texts in chunks, about `budget` bytes of them at most: spread evenly where the total is known, the first where not."""
    share = min(1.0, budget / total) if total else 1.0
    if share < 1.0:
        reporter.note(f"training on a sample: {human_bytes(budget)} of {human_bytes(total or 0)}")
    used = 0
    for number, chunk in enumerate(chain.from_iterable(map(_chunks, texts))):
        if share < 1.0 and zlib.crc32(str(number).encode()) >= share * 2**32:
            continue
        if total is None and used > budget:
            reporter.note(f"training on a sample: the first {human_bytes(used)}")
            return
        used += len(chunk.encode()) if total is None else 0
        yield chunk


def _chunks(text: str) -> Iterator[str]:
    """A text in parts of at most `CHUNK` characters, cut at line ends or spaces where there are any."""
    start = 0
    while len(text) - start > CHUNK:
        cut = max(text.rfind("\n", start + 1, start + CHUNK), text.rfind(" ", start + 1, start + CHUNK))
        end = cut if cut > start else start + CHUNK
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _smallest(config: TokenizerConfig) -> int:
    return len(config.special) + (1 if config.kind in ("char", "wordpiece") else 256)


# ── one function a kind: chunks of text → a trained backend ──────────────────────────────────────────────────────


def _bpe(chunks: Iterator[str], config: TokenizerConfig, vocab: int) -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = _bytes_cut_by(TRAIN)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, min_frequency=config.min_count, special_tokens=list(config.special),
        initial_alphabet=byte_to_char(), show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(chunks, trainer)
    return _byte_level(backend)


def _unigram(chunks: Iterator[str], config: TokenizerConfig, vocab: int) -> Backend:
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = _bytes_cut_by(TRAIN)
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab, special_tokens=list(config.special), initial_alphabet=byte_to_char(), show_progress=False
    )
    try:
        backend.train_from_iterator(chunks, trainer)
    except Exception as error:  # the library raises plain Exception, when nothing can be cut out of the text
        raise DataError(f"no Unigram vocabulary can be made from this text: {error}", fix="Give more text") from error
    return _byte_level(backend)


def _wordpiece(chunks: Iterator[str], config: TokenizerConfig, vocab: int) -> Backend:
    backend = Backend(models.WordPiece(unk_token=BERT["unk"]))
    backend.normalizer = normalizers.BertNormalizer(lowercase=config.lowercase)
    # BERT's cuts (spaces, marks, single Han characters), and those between digits and between scripts.
    scripts = pre_tokenizers.Split(Regex(rf"\p{{N}}|{SCRIPT_RUNS}"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), scripts])
    texts = list(chunks)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(backend.normalizer.normalize_str(text))
    found = [char for char in sorted(counts, key=lambda char: (-counts[char], char)) if not char.isspace()]
    # A character takes two places, at the start of a word and within one; the rarest have to go when there is no room.
    kept = found[: max(1, (vocab - len(config.special)) // 2)]
    # Named here, characters within words get their ids in this order; left to itself the library takes the order of a hash table,
    # and two trainings on the same text differ.
    within = [f"##{char}" for char in sorted(kept) if not "\u4e00" <= char <= "\u9fff"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab, min_frequency=config.min_count, special_tokens=[*config.special, *within], show_progress=False,
        initial_alphabet=kept, limit_alphabet=len(kept),
    )  # fmt: skip
    backend.train_from_iterator(texts, trainer)
    backend.decoder = decoders.WordPiece()
    return backend


def _byte(chunks: Iterator[str], config: TokenizerConfig, vocab: int) -> Backend:
    backend = Backend(models.BPE(vocab={token: n for n, token in enumerate((*config.special, *byte_to_char()))}, merges=[]))
    return _byte_level(backend, pattern=None)


def _char(chunks: Iterator[str], config: TokenizerConfig, vocab: int) -> Backend:
    counts: Counter[str] = Counter()
    for chunk in chunks:
        counts.update(chunk)
    room = vocab - len(config.special)
    kept = sorted(counts, key=lambda char: (-counts[char], char))[:room]
    backend = Backend(models.WordLevel(vocab={token: n for n, token in enumerate((*config.special, *kept))}, unk_token=config.roles["unk"]))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(EACH_CHARACTER), "isolated")
    backend.decoder = decoders.Fuse()
    return backend


_TRAINERS: dict[str, Callable[[Iterator[str], TokenizerConfig, int], Backend]] = {
    "bpe": _bpe, "unigram": _unigram, "wordpiece": _wordpiece, "byte": _byte, "char": _char,
}  # fmt: skip


# ── what they share ─────────────────────────────────────────────────────────────────────────────────────────────


def _bytes_cut_by(pattern: str | None) -> Any:
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), to_bytes]) if pattern else to_bytes


def _byte_level(backend: Backend, pattern: str | None = ENCODE) -> Backend:
    backend.pre_tokenizer = _bytes_cut_by(pattern)
    backend.decoder = decoders.ByteLevel()
    return backend


def _canonical(backend: Backend, config: TokenizerConfig) -> str:
    """The tokenizer.json of a trained backend, with our special tokens alone as added ones, and with what stands around a text."""
    spec = json.loads(backend.to_str())
    # Where a token holds the space before a word, the mask stands for both: it takes in the space that is written before it.
    spaced = config.roles.get("mask") if config.kind in ("bpe", "unigram") else None
    spec["added_tokens"] = [
        {"id": n, "content": token, "single_word": False, "lstrip": token == spaced, "rstrip": False, "normalized": False, "special": True}
        for n, token in enumerate(config.special)
    ]
    spec["post_processor"] = json.loads(_frame(config).__getstate__())
    return json.dumps(spec, ensure_ascii=False)


def _frame(config: TokenizerConfig) -> Any:
    """What `transformers` puts around a text, and wordmill by `Tokenizer.wrap`."""
    roles = config.roles
    if config.purpose == "denoising":
        end = roles["eos"]
        single, pair, used = f"$A {end}", f"$A {end} $B {end}", [end]
    elif "cls" in roles:
        start, end = roles["cls"], roles["sep"]
        single, pair, used = f"{start} $A {end}", f"{start} $A {end} $B:1 {end}:1", [start, end]
    else:
        # A single text is preceded by the end of another, as in wordmill's own scoring and generation.
        start = roles["bos"]
        single, pair, used = f"{start} $A", f"{start} $A {start} $B:1", [start]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=[(token, config.special.index(token)) for token in used])


def _settings(config: TokenizerConfig) -> dict[str, Any]:
    """tokenizer_config.json, as `transformers` reads it."""
    # Token types go to BERT alone: other models refuse them.
    types = ["token_type_ids"] if config.kind == "wordpiece" and config.purpose != "denoising" else []
    more = [*config.sentinel_names, *config.extra_special] if config.sentinel_names else []
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", *types, "attention_mask"],
        **{f"{role}_token": token for role, token in config.roles.items()},
        **({"extra_special_tokens": more} if more else {}),
    }


def _check_size(tokenizer: Tokenizer, config: TokenizerConfig, wanted: int, reporter: Reporter) -> None:
    size = tokenizer.vocab_size
    if config.kind in ("byte", "char") or size >= wanted:
        return
    what = f"this text gives a {config.kind} vocabulary of {size:,} tokens, not the {wanted:,} asked for"
    if not config.allow_smaller:
        fix = f"Ask for {size} or fewer (--vocab {size}; in pretrain and finetune tokenizer.vocab={size}), or give more text"
        raise DataError(what, where="vocab", fix=fix)
    reporter.note(f"{what}: going on with {size:,}")
