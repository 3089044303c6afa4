"""How each family's tokenizer is built from its vocabulary files: one entry of `FAMILIES` each.

A family is a function that builds the tokenizer (normaliser, cutting, model, decoder), one that says what stands around a text, the
tokens that play a part when the settings name no others, and the tokens it adds to those in the files.

The ids are those of `transformers` 5 and, for SentencePiece files, of `sentencepiece`, with which the models were trained. Where the two
disagree, `sentencepiece` is followed, for a model knows no other ids: `transformers` 5 leaves out the normaliser of mBART, and keeps
spaces at the end of a text for mBART-50. Llama's files say by `legacy` which of the two is meant for a text that begins with a space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from wordmill.core.errors import ModelError
from wordmill.tokenizer.patterns import QWEN2
from wordmill.tokenizer.sentencepiece import Piece, SentencePiece, Type, merges

SPACE = "▁"
"""What SentencePiece writes for a space."""


@dataclass(frozen=True)
class Bytes:
    """vocab.json and merges.txt."""

    vocab: dict[str, int]
    merges: list[tuple[str, str]]


@dataclass(frozen=True)
class Files:
    """What a folder holds."""

    kind: Literal["wordpiece", "bytes", "sentencepiece"]
    path: Path
    content: dict[str, int] | Bytes | SentencePiece

    @property
    def names(self) -> frozenset[str]:
        """All tokens of the vocabulary (of a `.model`: none, for it is told by nothing)."""
        return frozenset(self.content.vocab if isinstance(self.content, Bytes) else self.content if isinstance(self.content, dict) else ())


@dataclass(frozen=True)
class Special:
    """The tokens that play a part, by role (bos, eos, unk, sep, pad, cls, mask), and all settings."""

    roles: dict[str, str]
    settings: dict[str, Any]

    def __getitem__(self, role: str) -> str:
        if role not in self.roles:
            raise ModelError(f"this family needs a {role} token", fix=f"Name one as {role}_token in tokenizer_config.json")
        return self.roles[role]


@dataclass(frozen=True)
class Family:
    """One family of tokenizers."""

    name: str
    kind: Literal["wordpiece", "bytes", "sentencepiece"]
    """The files it is made from."""
    classes: tuple[str, ...]
    """Its names in tokenizer_config.json (`tokenizer_class`)."""
    model_types: tuple[str, ...]
    """Its models' names in config.json (`model_type`)."""
    build: Callable[[Files, Special], Backend]
    frame: Callable[[Special, Backend], Any]
    """The post-processor, given the built tokenizer."""
    roles: dict[str, str] | None
    """The tokens that play a part where the settings name no others; None: those that the `.model` names."""
    extra: Callable[[Special], Sequence[str]] = lambda special: ()
    """Special tokens beside those of `roles`."""
    types: bool = False
    """Whether its models take token types."""
    told_by: frozenset[str] | None = None
    """Tokens by which a vocabulary is known to be this family's where nobody names it; None: it has to be named."""


# ── WordPiece ───────────────────────────────────────────────────────────────────────────────────────────────────


def _wordpiece(files: Files, special: Special) -> Backend:
    vocab, settings = files.content, special.settings
    assert isinstance(vocab, dict)
    for name, honoured in (("do_basic_tokenize", True), ("never_split", None)):
        if settings.get(name, honoured) not in (honoured, []):
            raise ModelError(f"the setting {name}={settings[name]!r} is not supported", where=files.path.parent / "tokenizer_config.json")
    if special["unk"] not in vocab:
        raise ModelError(f"the vocabulary has no {special['unk']}", fix="vocab.txt of BERT is expected: one token a line, [UNK] among them")
    backend = Backend(models.WordPiece(vocab, unk_token=special["unk"]))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


# ── byte-level BPE ──────────────────────────────────────────────────────────────────────────────────────────────


def _bytes(files: Files, special: Special) -> Backend:
    content = files.content
    assert isinstance(content, Bytes)
    backend = Backend(models.BPE(content.vocab, content.merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(special.settings.get("add_prefix_space")))
    backend.decoder = decoders.ByteLevel()
    return backend


def _qwen2(files: Files, special: Special) -> Backend:
    backend = _bytes(files, special)
    backend.normalizer = normalizers.NFC()
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=bool(special.settings.get("add_prefix_space")), use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"), to_bytes])
    return backend


# ── SentencePiece ───────────────────────────────────────────────────────────────────────────────────────────────


def _model(files: Files) -> SentencePiece:
    assert isinstance(files.content, SentencePiece)
    return files.content


def _unigram(model: SentencePiece, vocab: list[tuple[str, float]], unk_id: int) -> Backend:
    """A Unigram model as T5 and its kin use it: words are cut at spaces, and each gets one in front."""
    if model.algorithm != "unigram":
        raise ModelError(f"this family's SentencePiece models are unigram; this one is {model.algorithm}")
    backend = Backend(models.Unigram(vocab, unk_id=unk_id, byte_fallback=False))
    if model.charsmap:
        backend.normalizer = normalizers.Precompiled(model.charsmap)
    words = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    _add_pieces(backend, model.pieces)
    return backend


def _add_pieces(backend: Backend, pieces: Sequence[Piece], special: Sequence[str] = ()) -> None:
    """Control pieces are special tokens; the user's own symbols are whole wherever they stand in a text."""
    for piece in pieces:
        if piece.type in (Type.CONTROL, Type.USER_DEFINED):
            whole = AddedToken(piece.text, normalized=False, special=piece.type == Type.CONTROL or piece.text in special)
            backend.add_tokens([whole])


def _scored(pieces: Sequence[Piece]) -> list[tuple[str, float]]:
    return [(piece.text, piece.score) for piece in pieces]


def _t5(files: Files, special: Special) -> Backend:
    model = _model(files)
    # Sentinels lie at the end, the first one last.
    return _unigram(model, [*_scored(model.pieces), *((name, 0.0) for name in reversed(_sentinels(special)))], model.unk_id)


def _sentinels(special: Special) -> list[str]:
    return [f"<extra_id_{n}>" for n in range(special.settings.get("extra_ids", 100))]


def _fairseq(files: Files, special: Special, after: Sequence[str]) -> Backend:
    """The layout of fairseq's vocabularies: four tokens of its own instead of the first three pieces, others at the end."""
    model = _model(files)
    if [piece.text for piece in model.pieces[:3]] != ["<unk>", "<s>", "</s>"]:
        raise ModelError("a .model of this family begins with <unk>, <s>, </s>; this one doesn't")
    first = [special.roles.get("bos") or special["cls"], *(special[role] for role in ("pad", "eos", "unk"))]
    vocab = [*((name, 0.0) for name in first), *_scored(model.pieces[3:]), *((name, 0.0) for name in after)]
    return _unigram(model, vocab, unk_id=3)


def _xlm_roberta(files: Files, special: Special) -> Backend:
    return _fairseq(files, special, [special["mask"]])


def _mbart(files: Files, special: Special) -> Backend:
    return _fairseq(files, special, [*MBART_LANGUAGES, special["mask"]])


def _mbart50(files: Files, special: Special) -> Backend:
    return _fairseq(files, special, [*MBART50_LANGUAGES, special["mask"]])


def _bpe(model: SentencePiece) -> Backend:
    if model.algorithm != "bpe":
        raise ModelError(f"this family's SentencePiece models are bpe; this one is {model.algorithm}")
    vocab = {piece.text: index for index, piece in enumerate(model.pieces)}
    unknown = model.roles.get("unk_token")
    return Backend(models.BPE(vocab, merges(model), unk_token=unknown, fuse_unk=True, byte_fallback=model.byte_fallback))


def _llama(files: Files, special: Special) -> Backend:
    model, settings = _model(files), special.settings
    backend = _bpe(model)
    prefix = settings.get("add_prefix_space")
    prefix = True if prefix is None else bool(prefix)
    if settings.get("legacy"):
        # A space in front of every stretch of text, also of one that begins with a space.
        spaces = normalizers.Replace(" ", SPACE)
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces] if prefix else [spaces])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first" if prefix else "never", split=False)
    _decode_bytes(backend, strip=prefix)
    _add_pieces(backend, model.pieces)
    return backend


def _gemma(files: Files, special: Special) -> Backend:
    model = _model(files)
    backend = _bpe(model)
    backend.normalizer = normalizers.Replace(" ", SPACE)
    _decode_bytes(backend, strip=False)
    _add_pieces(backend, model.pieces, ("<start_of_turn>", "<end_of_turn>"))
    return backend


def _decode_bytes(backend: Backend, *, strip: bool) -> None:
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", left=1)] if strip else steps)


def _as_it_is(files: Files, special: Special) -> Backend:
    """A `.model` of no family: SentencePiece's own ids and its own rules, all of which are in the file."""
    model = _model(files)
    if model.algorithm == "bpe":
        backend = _bpe(model)
    else:
        backend = Backend(models.Unigram(_scored(model.pieces), unk_id=model.unk_id, byte_fallback=model.byte_fallback))
    steps: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.remove_extra_whitespaces:
        # Spaces alone: a line end that the normaliser has left is text.
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(" ")] if model.add_dummy_prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    _decode_bytes(backend, strip=model.add_dummy_prefix)
    _add_pieces(backend, model.pieces)
    return backend


# ── what stands around a text ───────────────────────────────────────────────────────────────────────────────────


def _template(single: str, pair: str) -> Callable[[Special, Backend], Any]:
    """A template in which {role} stands for that role's token."""

    def frame(special: Special, backend: Backend) -> Any:
        named = {role: special[role] for role in ("bos", "eos", "cls", "sep") if f"{{{role}}}" in single + pair}
        named |= {"lang": str(special.settings.get("src_lang") or "en_XX")} if "{lang}" in single else {}
        ids = [(token, _id(backend, token)) for token in dict.fromkeys(named.values())]
        return processors.TemplateProcessing(single=single.format(**named), pair=pair.format(**named), special_tokens=ids)

    return frame


def _id(backend: Backend, token: str) -> int:
    index = backend.token_to_id(token)
    if index is None:
        raise ModelError(f"{token!r} has to stand around every text, but the vocabulary lacks it")
    return index


def _roberta_frame(special: Special, backend: Backend) -> Any:
    sep, cls = ((special[role], _id(backend, special[role])) for role in ("sep", "cls"))
    # The last two only say how offsets are counted, which wordmill doesn't use.
    return processors.RobertaProcessing(sep, cls, True, bool(special.settings.get("add_prefix_space")))


def _by_flags(special: Special, backend: Backend) -> Any:
    """As `add_bos_token` and `add_eos_token` say; neither where they are absent."""
    bos, eos = (f"{{{role}}}" if special.settings.get(f"add_{role}_token") and role in special.roles else "" for role in ("bos", "eos"))
    before, after = bos and f"{bos} ", eos and f" {eos}"
    single = f"{before}$A{after}"
    return _template(single, f"{single} {bos and f'{bos}:1 '}$B:1{eos and f' {eos}:1'}")(special, backend)


# ── the list ────────────────────────────────────────────────────────────────────────────────────────────────────

MBART_LANGUAGES = (
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX ro_RO ru_RU si_LK "
    "tr_TR vi_VN zh_CN"
).split()
MBART50_LANGUAGES = [
    *MBART_LANGUAGES,
    *(
        "af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE ta_IN te_IN th_TH "
        "tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI"
    ).split(),
]

_BERT = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
_FAIRSEQ = {
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>", "cls_token": "<s>",
    "mask_token": "<mask>",
}  # fmt: skip
_END = "<|endoftext|>"
_bert_frame = _template("{cls} $A {sep}", "{cls} $A {sep} $B:1 {sep}:1")

FAMILIES = (
    Family(
        "BERT", "wordpiece", ("BertTokenizer",), ("bert",), _wordpiece, _bert_frame, _BERT, types=True, told_by=frozenset(_BERT.values()),
    ),
    Family("DistilBERT", "wordpiece", ("DistilBertTokenizer",), ("distilbert",), _wordpiece, _bert_frame, _BERT),
    Family(
        "GPT-2", "bytes", ("GPT2Tokenizer",), ("gpt2",), _bytes, _by_flags,
        {"unk_token": _END, "bos_token": _END, "eos_token": _END}, told_by=frozenset([_END]),
    ),
    Family(
        "RoBERTa", "bytes", ("RobertaTokenizer", "BartTokenizer"), ("roberta", "bart"), _bytes, _roberta_frame, _FAIRSEQ,
        told_by=frozenset(_FAIRSEQ.values()),
    ),
    Family(
        "Qwen 2", "bytes", ("Qwen2Tokenizer",), ("qwen2", "qwen3"), _qwen2, _by_flags,
        {"unk_token": _END, "eos_token": _END, "pad_token": _END},
    ),
    Family(
        "T5", "sentencepiece", ("T5Tokenizer", "MT5Tokenizer"), ("t5", "mt5"), _t5, _template("$A {eos}", "$A {eos} $B {eos}"),
        {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}, extra=_sentinels,
    ),
    Family(
        "XLM-RoBERTa", "sentencepiece", ("XLMRobertaTokenizer",), ("xlm-roberta",), _xlm_roberta,
        _template("{bos} $A {eos}", "{bos} $A {eos} {eos} $B {eos}"), _FAIRSEQ,
    ),
    Family(
        "mBART", "sentencepiece", ("MBartTokenizer",), ("mbart",), _mbart, _template("$A {eos} {lang}", "$A $B {eos} {lang}"), _FAIRSEQ,
        extra=lambda special: MBART_LANGUAGES,
    ),
    Family(
        "mBART-50", "sentencepiece", ("MBart50Tokenizer",), (), _mbart50, _template("{lang} $A {eos}", "{lang} $A $B {eos}"),
        {role: token for role, token in _FAIRSEQ.items() if role != "bos_token"}, extra=lambda special: MBART50_LANGUAGES,
    ),
    Family(
        "Llama", "sentencepiece", ("LlamaTokenizer",), ("llama", "mistral", "phi3"), _llama, _by_flags,
        {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    ),
    Family(
        "Gemma", "sentencepiece", ("GemmaTokenizer",), ("gemma", "gemma2", "gemma3", "gemma3_text"), _gemma, _by_flags,
        {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "mask_token": "<mask>"},
    ),
    Family("SentencePiece", "sentencepiece", (), (), _as_it_is, _by_flags, None, told_by=frozenset()),
)  # fmt: skip
