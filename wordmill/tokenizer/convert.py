"""Folders without a tokenizer.json: the older files, made into one.

    vocab.txt                  WordPiece: BERT and DistilBERT
    vocab.json + merges.txt    byte-level BPE: GPT-2, RoBERTa and BART, Qwen 2 and 3
    *.model                    SentencePiece: T5 and mT5, XLM-RoBERTa, mBART, Llama and Mistral, Gemma, or none of these

These files hold the vocabulary alone. How text is cut, which ids come first and what stands around a text is known by the family, which
tokenizer_config.json (`tokenizer_class`) or config.json (`model_type`) names; `FAMILIES` lists them, `families.py` builds them.
Where nobody names one, a `.model` is taken as it is (it says everything itself), and other files only where their special tokens leave
no doubt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from wordmill.core.errors import DataError, ModelError, nearest
from wordmill.core.files import read_json
from wordmill.tokenizer.families import FAMILIES, Bytes, Family, Files, Special
from wordmill.tokenizer.sentencepiece import SentencePiece, read_sentencepiece

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LOOKED_FOR = "tokenizer.json, vocab.txt, vocab.json with merges.txt, or a SentencePiece .model"
SENTENCEPIECE_NAMES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
NO_FAMILY = ("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend")
"""Classes that say nothing about the family."""


def convert(folder: Path, settings: Mapping[str, Any], model: Path | None = None) -> tuple[str, dict[str, Any]]:
    """The tokenizer.json and the completed settings (tokenizer_config.json) of a folder that has only older files.

    `settings` are those that the folder gives, `model` a `.model` to take whatever its name is. The ids are those that `transformers` 5
    gives (see families.py for where it departs from what a model was trained with).
    Raises `ModelError` when there is nothing to read, a file is broken, the family isn't known, or a setting can't be honoured.
    """
    files = _find(folder, model)
    family = _family(folder, settings, files)
    usual = family.roles if family.roles is not None else files.content.roles if isinstance(files.content, SentencePiece) else {}
    roles = {role: _plain(settings[role]) if role in settings else usual.get(role) for role in ROLES}
    special = Special({role.removesuffix("_token"): token for role, token in roles.items() if token}, dict(settings))
    extra = list(family.extra(special))
    try:
        backend = family.build(files, special)
        _add_tokens(backend, _added(folder, settings, roles, extra))
        backend.post_processor = family.frame(special, backend)
    except (DataError, ModelError) as error:
        raise ModelError(error.what, where=error.where or files.path, fix=error.fix) from error
    except Exception as error:  # `tokenizers` raises plain Exception, for merges of tokens that don't exist for example
        raise ModelError(f"no tokenizer can be made of these files: {error}", where=files.path) from error
    completed = {
        "model_input_names": ["input_ids", *(["token_type_ids"] if family.types else []), "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **({"extra_special_tokens": extra} if extra and not {"extra_special_tokens", "additional_special_tokens"} & set(settings) else {}),
        **settings,
        **{role: settings.get(role) or token for role, token in roles.items()},
        # transformers rebuilds the parts of other classes by rules of its own; this one takes tokenizer.json as it is.
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return backend.to_str(), completed


def _find(folder: Path, model: Path | None) -> Files:
    """The files to read: a SentencePiece model, vocab.json with merges.txt, or vocab.txt, in this order."""
    found = [folder / name for name in SENTENCEPIECE_NAMES if (folder / name).is_file()]
    found = [model] if model else found[:1] or sorted(path for path in folder.glob("*.model") if path.is_file())
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ModelError(f"several SentencePiece models: {names}", where=folder, fix="Name the one to take")
    if found:
        return Files("sentencepiece", found[0], read_sentencepiece(found[0]))
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        path = folder / "vocab.json"
        vocab, merges = _read(read_json, path), _lines(folder / "merges.txt")
        if not all(isinstance(index, int) for index in vocab.values()):
            raise ModelError("not a vocabulary: every token needs a number", where=path)
        pairs = []
        for number, line in enumerate(merges, 1):
            if not line or (number == 1 and line.startswith("#version")):
                continue
            left, _, right = line.partition(" ")
            if not left or not right or " " in right:
                raise ModelError("not a merge: two tokens with a space between were expected", where=f"{folder / 'merges.txt'}:{number}")
            pairs.append((left, right))
        return Files("bytes", path, Bytes(vocab, pairs))
    if (folder / "vocab.txt").is_file():
        # A token twice keeps its last number, and the numbers of others don't move.
        return Files("wordpiece", folder / "vocab.txt", {token: number for number, token in enumerate(_lines(folder / "vocab.txt"))})
    raise ModelError(
        f"no tokenizer here: looked for {LOOKED_FOR}",
        where=folder,
        fix="Name the folder of a tokenizer or a model; `wordmill tokenizer train` makes one",
    )


def _family(folder: Path, settings: Mapping[str, Any], files: Files) -> Family:
    named = str(settings.get("tokenizer_class") or "")
    name = named.removesuffix("Fast") if named not in NO_FAMILY else ""
    model_type = str(_read(read_json, folder / "config.json").get("model_type") or "") if (folder / "config.json").is_file() else ""
    if name:
        found = [family for family in FAMILIES if name in family.classes]
        if not found:
            known = sorted(name for family in FAMILIES for name in family.classes)
            raise ModelError(
                f"tokenizer_class {named!r} without a tokenizer.json is not supported",
                where=folder / "tokenizer_config.json",
                fix=f"{nearest(name, known)}. Or save it with transformers, which writes tokenizer.json",
            )
    else:
        found = [family for family in FAMILIES if model_type in family.model_types and family.kind == files.kind]
    if not found and model_type:
        raise ModelError(
            f"a tokenizer of the model type {model_type!r} can't be made from {files.path.name}",
            where=folder / "config.json",
            fix="Name the family as tokenizer_class in tokenizer_config.json, or save it with transformers, which writes tokenizer.json",
        )
    if not found:
        # Nobody says. A `.model` on its own is complete; of other files the special tokens tell.
        told = [family for family in FAMILIES if family.kind == files.kind and family.told_by is not None]
        found = [family for family in told if family.told_by is not None and family.told_by <= files.names]
    if len(found) != 1 or found[0].kind != files.kind:
        what = f"a {found[0].name} tokenizer is not made from {files.path.name}" if len(found) == 1 else "nothing says which family this is"
        raise ModelError(what, where=files.path, fix="Add tokenizer_class to tokenizer_config.json, or tokenizer.json")
    return found[0]


def _added(
    folder: Path, settings: Mapping[str, Any], roles: Mapping[str, str | None], extra: list[str]
) -> list[tuple[AddedToken, int | None]]:
    """The tokens that are found in a text before it is cut, with the ids that the files give them."""
    tokens: dict[str, tuple[AddedToken, int | None]] = {}
    special = [token for token in roles.values() if token]
    listed = settings.get("extra_special_tokens") or []
    listed = list(listed.values()) if isinstance(listed, Mapping) else listed
    given = [*listed, *(settings.get("additional_special_tokens") or ()), *extra]
    decoder = settings.get("added_tokens_decoder")
    if decoder:
        for index, token in sorted(decoder.items(), key=lambda item: int(item[0])):
            tokens[token["content"]] = (_token(token), int(index))
    elif (folder / "added_tokens.json").is_file():
        known = {*special, *map(_plain, given)}
        for token, index in sorted(_read(read_json, folder / "added_tokens.json").items(), key=lambda item: item[1]):
            tokens[token] = (AddedToken(token, special=token in known, normalized=token not in known), index)
    for token in (*(settings.get(role) or roles[role] for role in ROLES), *given):
        if token and _plain(token) not in tokens:
            made = _token(token if isinstance(token, dict) else {"content": token})
            made.special = True
            tokens[made.content] = (made, None)
    return list(tokens.values())


def _add_tokens(backend: Backend, tokens: list[tuple[AddedToken, int | None]]) -> None:
    for token, index in tokens:
        backend.add_tokens([token])
        found = backend.token_to_id(token.content)
        if index is not None and found != index:
            raise ModelError(
                f"the added token {token.content!r} should have id {index}, but the vocabulary gives it {found}",
                fix="The files do not belong together, or one is incomplete",
            )


def _token(values: Mapping[str, Any]) -> AddedToken:
    flags = {name: bool(values.get(name, False)) for name in ("lstrip", "rstrip", "single_word", "normalized")}
    return AddedToken(str(values["content"]), special=bool(values.get("special", True)), **flags)


def _plain(token: Any) -> str | None:
    """The text of a token that is written as such or as an object."""
    content = token.get("content") if isinstance(token, Mapping) else token
    return str(content) if content else None


def _lines(path: Path) -> list[str]:
    """Lines without their ends; only line ends part lines, for vocabularies hold the other separators of Unicode as tokens."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError("not UTF-8 text", where=path) from error
    return text.removesuffix("\n").split("\n")


def _read(reader: Any, path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = reader(path)
    except (DataError, UnicodeDecodeError) as error:
        raise ModelError(error.what if isinstance(error, DataError) else "not UTF-8 text", where=path) from error
    return found
