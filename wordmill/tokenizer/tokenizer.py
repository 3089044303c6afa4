"""Text to ids and back, whatever kind of tokenizer is behind it.

Text is always text: `<|im_start|>` typed by a person is encoded as the characters it consists of. Only `encode_with_special`, which chat
templates use for what they themselves write, turns such strings into special tokens.

Three ways of encoding give the same ids; the fastest that applies is taken: tiktoken (byte-level BPE, fast.py), a table (byte, char),
`tokenizers` (everything else).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend

from wordmill.core.errors import DataError, ModelError, UsageError
from wordmill.core.files import hash_values, read_json, write_json, write_text
from wordmill.core.lineage import write_lineage
from wordmill.tokenizer import fast
from wordmill.tokenizer.config import Kind
from wordmill.tokenizer.fast import Ids
from wordmill.tokenizer.patterns import ENCODE

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
}
_COMMON = {
    "bos": ("<|endoftext|>", "<s>", "<bos>", "<|begin_of_text|>", "[CLS]"),
    "eos": ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "[SEP]"),
    "pad": ("<|pad|>", "<pad>", "[PAD]"),
    "unk": ("<|unk|>", "<unk>", "[UNK]"),
    "mask": ("<|mask|>", "<mask>", "[MASK]"),
}


class Tokenizer:
    """A trained tokenizer. Make one by `train_tokenizer` or `Tokenizer.load`."""

    def __init__(self, text: str, settings: Mapping[str, Any] | None = None) -> None:
        """`text` is a tokenizer.json, `settings` a tokenizer_config.json. Raises `ModelError` when the former is broken."""
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
        added = self._backend.get_added_tokens_decoder()
        self.special_tokens: dict[str, int] = {token.content: index for index, token in sorted(added.items()) if token.special}
        self._roles = {role: self._role(role) for role in _NAMES}

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def load(cls, place: str | Path) -> Tokenizer:
        """Open a folder (of a tokenizer or a model, ours or anybody's) that holds tokenizer.json, or that file itself.

        Raises `ModelError` when there is none or it can't be read.
        """
        path = Path(place)
        folder, file = (path, path / "tokenizer.json") if path.is_dir() else (path.parent, path)
        if not file.is_file():
            raise ModelError(
                f"no {file.name} here", where=folder, fix="Name the folder of a tokenizer or a model; `wordmill tokenizer train` makes one"
            )
        settings: dict[str, Any] = {}
        try:
            for name in ("special_tokens_map.json", "tokenizer_config.json"):
                if (folder / name).is_file():
                    settings |= read_json(folder / name)
            if "chat_template" not in settings and (folder / "chat_template.jinja").is_file():
                settings["chat_template"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
            return cls(file.read_text(encoding="utf-8"), settings)
        except UnicodeDecodeError as error:
            raise ModelError("not UTF-8 text", where=file) from error
        except DataError as error:
            raise ModelError(error.what, where=error.where) from error
        except ModelError as error:
            raise ModelError(error.what, where=file) from error

    def save(self, folder: str | Path, *, lineage: Mapping[str, Any] | None = None) -> Path:
        """Write tokenizer.json and tokenizer_config.json, which `transformers.AutoTokenizer` opens; with `lineage` wordmill.json too.

        Raises `DiskFullError`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        pretty = json.dumps(self._spec, ensure_ascii=False, indent=1) + "\n"
        write_text(folder / "tokenizer.json", pretty)
        write_json(folder / "tokenizer_config.json", self.settings)
        if lineage is not None:
            write_lineage(folder, **{"tokenizer": {"hash": self.hash, "kind": self.kind, "vocab": self.vocab_size}, **lineage})
        return folder

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._json, self.settings)

    # ── what it is ───────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def _spec(self) -> dict[str, Any]:
        return json.loads(self._json)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the serialised tokenizer and of which tokens are bos, eos, pad, unk and mask (64 hex digits)."""
        return hash_values(self._spec, self._roles)

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
    def chat_template(self) -> str | None:
        """The Jinja template of conversations, if there is one."""
        template = self.settings.get("chat_template")
        return template if isinstance(template, str) else None

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
            encodings = self._backend.encode_batch_fast([_valid(text) for text in texts], add_special_tokens=False)
            return [np.array(encoding.ids, np.uint32) for encoding in encodings]
        threads = threads or cores()
        if threads == 1 or len(texts) < 2:
            return [self._encode_one(text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            groups = list(pool.map(lambda group: [self._encode_one(text) for text in group], _groups(texts, threads)))
        return [ids for group in groups for ids in group]

    def encode_with_special(self, text: str) -> list[int]:
        """Ids of a text in which special tokens are written out. For templates only, never for what a user wrote."""
        ids: list[int] = self._parsing.encode(_valid(text), add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of ids; special tokens are left out, or written as they are called. Bytes that are not UTF-8 become U+FFFD."""
        text: str = self._backend.decode([int(index) for index in ids], skip_special_tokens=skip_special)
        return text

    def required(self, role: str) -> int:
        """The id of a special token by role (bos, eos, pad, unk, mask). Raises `ModelError` when there is none."""
        found = self._roles[role]
        if found is None:
            raise ModelError(f"this tokenizer has no {role} token", fix=f"Name one as {role}_token in tokenizer_config.json")
        return found

    def _encode_one(self, text: str) -> Ids:
        text, quick = _valid(text), self._quick
        if quick is not None:
            parts = [quick(part) for part in self._parts(text)]
            whole = [part for part in parts if part is not None]
            if len(whole) == len(parts):
                return whole[0] if len(whole) == 1 else np.concatenate(whole)
        return np.array(self._backend.encode(text, add_special_tokens=False).ids, np.uint32)

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
    def _parsing(self) -> Backend:
        """A second backend that reads special tokens: a switch on the first would not be safe with threads."""
        backend = Backend.from_str(self._json)
        backend.encode_special_tokens = False
        return backend

    @cached_property
    def _added(self) -> set[str]:
        return {token["content"] for token in self._spec.get("added_tokens", ())}

    def _role(self, role: str) -> int | None:
        named = [self.settings.get(name) for name in _NAMES[role]]
        tokens = [token["content"] if isinstance(token, dict) else token for token in named if token]
        # Where nobody says which token is which (a bare tokenizer.json), the names in common use decide.
        guesses = [] if self.settings else [name for name in _COMMON[role] if name in self.special_tokens]
        ids = [self._backend.token_to_id(token) for token in (*tokens, *guesses)]
        return next((index for index in ids if index is not None), None)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
