"""Text to ids and back, whatever kind of tokenizer is behind it.

Text is always text: `<|im_start|>` typed by a person is encoded as the characters it consists of (plain.py). Only `encode_with_special`,
which chat templates use for what they themselves write, turns such strings into special tokens; `wrap` adds those that a family of models
wants around a text.

Three ways of encoding give the same ids; the fastest that applies is taken: tiktoken (byte-level BPE, fast.py), a table (byte, char),
`tokenizers` (everything else).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from wordmill.core.errors import DataError, ModelError, UsageError
from wordmill.core.files import hash_values, read_json, write_atomic, write_json, write_text
from wordmill.core.lineage import write_lineage
from wordmill.tokenizer import fast
from wordmill.tokenizer.config import Kind
from wordmill.tokenizer.convert import convert
from wordmill.tokenizer.fast import Ids
from wordmill.tokenizer.patterns import ENCODE
from wordmill.tokenizer.plain import renamed_special, with_special, without_special
from wordmill.tokenizer.wrap import Layout, Wrapped, layout_of, named_ends

LONG_TEXT = 1_000_000
"""Characters above which a text is encoded in parts."""
_SAFE_CUT = re.compile(r"[A-Za-z\u4e00-\u9fff](?=[ \n,.，。、！？])|\n(?=\S)")
"""Places where `ENCODE` cuts whatever stands around them: between a letter and a space or mark, between a line end and a word."""

_NAMES = {
    "bos": ("bos_token", "cls_token"),
    "eos": ("eos_token", "sep_token"),
    "pad": ("pad_token",),
    "unk": ("unk_token",),
    "mask": ("mask_token",),
    "cls": ("cls_token",),
    "sep": ("sep_token",),
}
_COMMON = {
    "bos": ("<|endoftext|>", "<s>", "<bos>", "<|begin_of_text|>", "[CLS]"),
    "eos": ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "[SEP]"),
    "pad": ("<|pad|>", "<pad>", "[PAD]"),
    "unk": ("<|unk|>", "<unk>", "[UNK]"),
    "mask": ("<|mask|>", "<mask>", "[MASK]"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
}
TEMPLATE, MORE_TEMPLATES = "chat_template.jinja", "additional_chat_templates"
"""Where `transformers` 5 keeps chat templates: one file, and a folder of others by name. They go before what tokenizer_config.json says."""


class Tokenizer:
    """A trained tokenizer. Make one by `train_tokenizer` or `Tokenizer.load`."""

    def __init__(self, text: str, settings: Mapping[str, Any] | None = None, templates: Mapping[str, str] | None = None) -> None:
        """`text` is a tokenizer.json, `settings` a tokenizer_config.json, `templates` the chat templates in files of their own, by name.

        Raises `ModelError` when the first is broken.
        """
        try:
            self._backend = Backend.from_str(text)
        except Exception as error:  # the library raises plain Exception
            raise ModelError(f"not a tokenizer.json: {error}") from error
        # A file from elsewhere may ask for cutting and padding; wordmill cuts nothing without saying so.
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        self._json = self._backend.to_str()
        self.settings: dict[str, Any] = dict(settings or {})
        self.templates: dict[str, str] = dict(templates or {})
        added = self._backend.get_added_tokens_decoder()
        self.special_tokens: dict[str, int] = {token.content: index for index, token in sorted(added.items()) if token.special}
        self._roles = {role: self._role(role) for role in _NAMES}

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def load(cls, place: str | Path) -> Tokenizer:
        """Open a folder of a tokenizer or a model, ours or anybody's, or one of its files: tokenizer.json, or a SentencePiece `.model`.

        Where there is no tokenizer.json, it is made from vocab.txt, vocab.json and merges.txt, or a `.model` (convert.py).
        Raises `ModelError` when there is none of them, one can't be read, or its family isn't known.
        """
        path = Path(place)
        folder, file = (path.parent, path) if path.is_file() or path.suffix in (".json", ".model") else (path, path / "tokenizer.json")
        settings: dict[str, Any] = {}
        try:
            for name in ("special_tokens_map.json", "tokenizer_config.json"):
                if (folder / name).is_file():
                    settings |= {key: _token(key, value) for key, value in read_json(folder / name).items()}
            templates = _templates(folder)
            if file.is_file() and file.suffix != ".model":
                return cls(file.read_text(encoding="utf-8"), settings, templates)
        except UnicodeDecodeError as error:
            raise ModelError("not UTF-8 text", where=file) from error
        except DataError as error:
            raise ModelError(error.what, where=error.where) from error
        except ModelError as error:
            raise ModelError(error.what, where=file) from error
        if not folder.exists():
            raise ModelError("no such folder", where=folder, fix="Name the folder of a tokenizer or a model")
        if not path.exists():
            raise ModelError(f"no {file.name} here", where=folder, fix="Name the folder of a tokenizer or a model")
        text, settings = convert(folder, settings, file if file.suffix == ".model" else None)
        return cls(text, settings, templates)

    def save(self, folder: str | Path, *, lineage: Mapping[str, Any] | None = None) -> Path:
        """Write tokenizer.json, tokenizer_config.json and the files of chat templates, which `transformers.AutoTokenizer` opens; with
        `lineage` wordmill.json too.

        Raises `DiskFullError`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        pretty = json.dumps(self._spec, ensure_ascii=False, indent=1) + "\n"
        write_text(folder / "tokenizer.json", pretty)
        write_json(folder / "tokenizer_config.json", self.settings)
        # A template that an earlier tokenizer has left here would be taken for ours.
        for old in (folder / TEMPLATE, *(folder / MORE_TEMPLATES).glob("*.jinja")):
            old.unlink(missing_ok=True)
        for name, template in self.templates.items():
            file = folder / (TEMPLATE if name == "default" else f"{MORE_TEMPLATES}/{name}.jinja")
            file.parent.mkdir(exist_ok=True)
            write_atomic(file, partial(Path.write_bytes, data=template.encode()))
        if lineage is not None:
            write_lineage(folder, **{"tokenizer": {"hash": self.hash, "kind": self.kind, "vocab": self.vocab_size}, **lineage})
        return folder

    def with_special(self, names: Sequence[str]) -> Tokenizer:
        """A tokenizer with further special tokens, whose ids come after all that there are; those that it has stay.

        Raises `ModelError` for a vocabulary with gaps, in which the new ids would fall.
        """
        backend = Backend.from_str(self._json)
        new = [name for name in names if self.token_id(name) is None]
        backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
        if any((backend.token_to_id(name) or 0) < self.vocab_size for name in new):
            raise ModelError("this tokenizer's ids have gaps, into which new special tokens would fall", fix="Take a template without them")
        return type(self)(backend.to_str(), self.settings, self.templates)

    def cut_first(self, pattern: str) -> Tokenizer:
        """A tokenizer that leaves out the spaces at the end of a text and cuts the rest into what matches a regular expression (of
        Oniguruma, as the library reads it) and what stands between, before it goes on with each part as with a text: no token crosses
        their borders."""
        spec, then = json.loads(self._json), self._spec.get("pre_tokenizer")
        steps = [] if then is None else then["pretokenizers"] if then["type"] == "Sequence" else [then]
        cuts = [{"type": "Split", "pattern": {"Regex": regex}, "behavior": how, "invert": False}
                for regex, how in ((r"\s+\z", "Removed"), (pattern, "Isolated"))]  # fmt: skip
        spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*cuts, *steps]}
        return type(self)(json.dumps(spec, ensure_ascii=False), self.settings, self.templates)

    def padded_with(self, index: int) -> Tokenizer:
        """A tokenizer that fills rows up with a token that it has."""
        return type(self)(self._json, {**self.settings, "pad_token": self.token_text(index)}, self.templates)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._json, self.settings, self.templates)

    # ── what it is ───────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def _spec(self) -> dict[str, Any]:
        return json.loads(self._json)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the serialised tokenizer and of which tokens play which part (64 hex digits)."""
        same = {"cls": "bos", "sep": "eos"}  # where these are one token, both were one part when the first hashes were written
        roles = {role: index for role, index in self._roles.items() if role not in same or index not in (None, self._roles[same[role]])}
        return hash_values(self._spec, roles)

    @property
    def kind(self) -> Kind:
        """Which of wordmill's kinds this is, or is like."""
        model = self._spec["model"]
        if model["type"] == "BPE":
            return "bpe" if model["merges"] else "byte"
        kinds: dict[str, Kind] = {"WordPiece": "wordpiece", "Unigram": "unigram", "WordLevel": "char"}
        return kinds[model["type"]]

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id: the rows that an embedding needs, special tokens included."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def bos_id(self) -> int | None:
        """The token before a document ([CLS] for WordPiece), if there is one."""
        return self._roles["bos"]

    @property
    def eos_id(self) -> int | None:
        """The token after a document ([SEP] for WordPiece), if there is one."""
        return self._roles["eos"]

    @property
    def start_id(self) -> int | None:
        """The token before every text that a decoder reads: the start token, or the end token where there is no start token and
        documents are told apart by that one alone."""
        return self.bos_id if self.bos_id is not None else self.eos_id

    @property
    def pad_id(self) -> int | None:
        """The token that fills rows up, if there is one."""
        return self._roles["pad"]

    @property
    def unk_id(self) -> int | None:
        """The token for what the vocabulary lacks; None where nothing is lacking (byte-level kinds)."""
        return self._roles["unk"]

    @property
    def mask_id(self) -> int | None:
        """The token that hides a word in masked language modelling, if there is one."""
        return self._roles["mask"]

    @property
    def cls_id(self) -> int | None:
        """The token at the start of what an encoder reads, in whose place it says what the whole text is, if there is one."""
        return self._roles["cls"]

    @property
    def sep_id(self) -> int | None:
        """The token after each text that an encoder reads, if there is one."""
        return self._roles["sep"]

    @cached_property
    def sentinel_ids(self) -> tuple[int, ...]:
        """The tokens that stand for spans cut out of a text (T5), in the order of their use, `<extra_id_0>` first; () where none are."""
        found: list[int] = []
        while True:
            name = f"<extra_id_{len(found)}>"
            # In mT5's vocabulary they are written with a space before them.
            index = next((n for n in map(self.token_id, (name, f"▁{name}")) if n is not None), None)
            if index is None:
                return tuple(found)
            found.append(index)

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of conversations, if there is one; of several, the one called default."""
        template = self.templates or self.settings.get("chat_template")
        if isinstance(template, list):
            template = {each["name"]: each["template"] for each in template}
        found = template.get("default") if isinstance(template, dict) else template
        return found if isinstance(found, str) else None

    def token_id(self, token: str) -> int | None:
        """The id of a token as it is written in the vocabulary, None when it is not there."""
        return self._backend.token_to_id(token)

    def has_id(self, index: int) -> bool:
        """Whether some token has this id (vocabularies from elsewhere may have gaps)."""
        return self._backend.id_to_token(index) is not None

    def token_bytes(self, index: int) -> bytes:
        """The bytes that a token stands for.

        Raises `UsageError` for an id that doesn't exist, and for kinds whose tokens are not strings of bytes (WordPiece).
        """
        token = self._backend.id_to_token(index)
        if token is None:
            raise UsageError(f"there is no token {index}", fix=f"Ids go from 0 to {self.vocab_size - 1}")
        if token in self._added or self.kind == "char":
            return token.encode()
        found = fast.to_bytes(token) if self.byte_level else None
        if found is None:
            raise UsageError(f"tokens of this {self.kind} tokenizer don't stand for bytes")
        return found

    def token_text(self, index: int) -> str:
        """A token as people read it: its text where it is valid UTF-8, escaped bytes (`\\xe4\\xb8`) where it is a part of a character."""
        if self.byte_level or self.kind == "char":
            return self.token_bytes(index).decode("utf-8", "backslashreplace")
        return str(self._backend.id_to_token(index))

    def token_texts(self) -> list[str]:
        """All tokens as people read them, in the order of their ids; nothing for ids without a token."""
        return ["" if self._backend.id_to_token(index) is None else self.token_text(index) for index in range(self.vocab_size)]

    @cached_property
    def byte_level(self) -> bool:
        """Whether tokens are strings of bytes, so that every text can be written and read back exactly."""
        return "ByteLevel" in json.dumps(self._spec.get("decoder"))

    # ── encoding ─────────────────────────────────────────────────────────────────────────────────────────────

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Ids of a text; whatever stands in it is text. `bos` and `eos` put these tokens around it.

        Raises `ModelError` when one is asked for that the tokenizer doesn't have.
        """
        before = [self.required("bos")] if bos else []
        after = [self.required("eos")] if eos else []
        return [*before, *self._encode_one(text).tolist(), *after]

    def encode_batch(self, texts: Sequence[str], *, threads: int | None = None) -> list[list[int]]:
        """Ids of many texts, in parallel (`threads`: as many as this process may use)."""
        return [ids.tolist() for ids in self.encode_arrays(texts, threads=threads)]

    def encode_arrays(self, texts: Sequence[str], *, threads: int | None = None) -> list[Ids]:
        """As `encode_batch`, giving arrays (n,) uint32: less memory, no lists."""
        if self._quick is None:
            encodings = self._plain.encode_batch_fast([_valid(text) for text in texts], add_special_tokens=False)
            return [np.array(encoding.ids, np.uint32) for encoding in encodings]
        threads = threads or cores()
        if threads == 1 or len(texts) < 2:
            return [self._encode_one(text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            groups = list(pool.map(lambda group: [self._encode_one(text) for text in group], _groups(texts, threads)))
        return [ids for group in groups for ids in group]

    def wrap(self, ids: Sequence[int], pair: Sequence[int] | None = None) -> Wrapped:
        """A text's ids, or those of a pair of texts, with the special tokens that the family puts around them; and the token types.

        `ids` (T,) and `pair` (U,) come from `encode`. The result equals what `transformers` gives for `tokenizer(text, pair)`:
        `[CLS] … [SEP] … [SEP]` with types 0 and 1 for BERT, `… </s>` for T5. Raises `ModelError` for a post-processor that isn't known.
        """
        return self._layout.wrap(ids, pair)

    def wrap_size(self, *, pair: bool = False) -> int:
        """How many tokens `wrap` adds."""
        return len(self._layout.pair) - 2 if pair else len(self._layout.single) - 1

    def encode_places(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids that `encode` gives, and for each the stretch of `text` that it stands for: first character, and one past the last.

        What the tokenizer changes (case, accents, spaces) is followed back to the text as it was given. Parts of one character share its
        place. Raises `UsageError` for a text with halves of characters (surrogates), whose places would be off.
        """
        valid = _valid(text)
        if len(valid) != len(text):
            raise UsageError("the text holds halves of characters (surrogates)", fix="Write each character as one")
        encoding = self._plain.encode(valid, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def encode_with_special(self, text: str) -> list[int]:
        """Ids of a text in which special tokens are written out. For templates only, never for what a user wrote."""
        ids: list[int] = self._parsing.encode(_valid(text), add_special_tokens=False).ids
        return ids

    def encode_masked(self, text: str) -> list[int]:
        """Ids of a text with gaps: the mask token and the sentinels, where written, are these tokens; everything else is text."""
        ids: list[int] = self._gaps.encode(_valid(text), add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of ids; special tokens are left out, or written as they are called. Bytes that are not UTF-8 become U+FFFD."""
        text: str = self._backend.decode([int(index) for index in ids], skip_special_tokens=skip_special)
        return text

    def required(self, role: str, why: str = "") -> int:
        """The id of a special token by role (bos, eos, pad, unk, mask, cls, sep). Raises `ModelError` when there is none; `why`: what it is
        for."""
        found = self._roles[role]
        if found is None:
            what = f"this tokenizer has no {role} token" + (f", {why}" if why else "")
            raise ModelError(what, fix=f"Name one as {role}_token in tokenizer_config.json")
        return found

    def _encode_one(self, text: str) -> Ids:
        text, quick = _valid(text), self._quick
        if quick is not None:
            parts = [quick(part) for part in self._parts(text)]
            whole = [part for part in parts if part is not None]
            if len(whole) == len(parts):
                return whole[0] if len(whole) == 1 else np.concatenate(whole)
        return np.array(self._plain.encode(text, add_special_tokens=False).ids, np.uint32)

    def _parts(self, text: str) -> Iterator[str]:
        """A long text, cut where the pattern cuts anyway, so that memory stays bounded; only for the pattern of which that is known."""
        start = 0
        while self._cuts_safely and len(text) - start > LONG_TEXT:
            found = _SAFE_CUT.search(text, start + LONG_TEXT)
            if found is None:
                break
            yield text[start : found.end()]
            start = found.end()
        yield text[start:] if start else text

    @cached_property
    def _cuts_safely(self) -> bool:
        return self.kind in ("byte", "char") or fast.split_pattern(self._spec) == ENCODE

    @cached_property
    def _quick(self) -> fast.FastBpe | fast.Table | None:
        return fast.table(self._spec) or fast.fast_bpe(self._spec, self._backend)

    @cached_property
    def _plain(self) -> Backend:
        """The backend that encodes text: one that can't write a special token."""
        text = without_special(self._spec)
        if text is None:
            return self._backend
        backend = Backend.from_str(text)
        backend.encode_special_tokens = True
        return backend

    @cached_property
    def _gaps(self) -> Backend:
        """The backend that encodes texts with gaps."""
        gaps = (*self.sentinel_ids, *(() if self.mask_id is None else (self.mask_id,)))
        backend = Backend.from_str(with_special(self._spec, {str(self._backend.id_to_token(index)) for index in gaps}))
        backend.encode_special_tokens = False
        return backend

    @cached_property
    def _layout(self) -> Layout:
        return layout_of(self._spec.get("post_processor"))

    @cached_property
    def _parsing(self) -> Backend:
        """A second backend that reads special tokens: a switch on the first would not be safe with threads."""
        backend = Backend.from_str(self._json)
        backend.encode_special_tokens = False
        return backend

    @cached_property
    def written_special(self) -> tuple[Backend, dict[str, str]]:
        """A backend that reads special tokens under other names, which no text of a person holds, and these names by the usual ones:
        for chat templates, which write special tokens and people's words into one string (chat.py)."""
        text, names = renamed_special(self._spec)
        backend = Backend.from_str(text)
        backend.encode_special_tokens = False
        return backend, names

    @cached_property
    def _added(self) -> set[str]:
        return {token["content"] for token in self._spec.get("added_tokens", ())}

    def _role(self, role: str) -> int | None:
        named = [self.settings.get(name) for name in _NAMES[role]]
        tokens = [token["content"] if isinstance(token, dict) else token for token in named if token]
        # Where nobody says which token is which (a bare tokenizer.json), the names in common use decide.
        guesses: list[str] = []
        if not any(name in self.settings for names in _NAMES.values() for name in names):
            guesses = [name for name in _COMMON[role] if name in self.special_tokens]
            if role in ("cls", "sep"):
                guesses += [token for end, token in named_ends(self._spec.get("post_processor")).items() if end == role]
        ids = [self._backend.token_to_id(token) for token in (*tokens, *guesses)]
        return next((index for index in ids if index is not None), None)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _token(key: str, value: Any) -> Any:
    """A setting as it is; a special token that is written as an object is marked as one, without which `transformers` 5 refuses it."""
    if key.endswith("_token") and isinstance(value, dict) and "content" in value:
        return {"__type": "AddedToken", "special": True, **value}
    return value


def _templates(folder: Path) -> dict[str, str]:
    """The chat templates in files of their own, by name, byte for byte."""
    files = {"default": folder / TEMPLATE, **{path.stem: path for path in sorted((folder / MORE_TEMPLATES).glob("*.jinja"))}}
    return {name: path.read_bytes().decode() for name, path in files.items() if path.is_file()}


def _valid(text: str) -> str:
    """The text, with lone surrogates (which are no characters and have no UTF-8) replaced by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _groups(texts: Sequence[str], threads: int) -> Iterator[Sequence[str]]:
    """Consecutive texts in groups of about equal length: few enough to cost nothing, enough to keep all threads busy to the end."""
    target = max(1, sum(map(len, texts)) // (4 * threads))
    start = size = 0
    for index, text in enumerate(texts):
        size += len(text)
        if size >= target:
            yield texts[start : index + 1]
            start, size = index + 1, 0
    if start < len(texts):
        yield texts[start:]
