"""`wordmill tokenizer train`, `wordmill tokenizer show` and `wordmill tokenizer encode`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordmill.cli.common import JsonOption, QuietOption, SeedOption, emit, reporter
from wordmill.core.progress import plural

if TYPE_CHECKING:
    from wordmill.tokenizer import Tokenizer

Folder = Annotated[Path, typer.Argument(help="A folder of a tokenizer or a model, or a tokenizer.json.", show_default=False)]


def train(
    corpus: Annotated[Path, typer.Argument(help="A corpus folder.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")],
    vocab: Annotated[str, typer.Option("--vocab", help="Tokens in the vocabulary, or auto: by the size of the text.")] = "auto",
    kind: Annotated[str, typer.Option("--kind", help="bpe, wordpiece, unigram, byte or char.")] = "bpe",
    lowercase: Annotated[bool, typer.Option("--lowercase", help="Lower-case all text (wordpiece only).")] = False,
    purpose: Annotated[str, typer.Option("--purpose", help="causal, masked or denoising: which special tokens there are.")] = "causal",
    sentinels: Annotated[int | None, typer.Option("--sentinels", help="Sentinels, for denoising (100).", show_default=False)] = None,
    special: Annotated[list[str] | None, typer.Option("--special", help="One more special token; repeatable.")] = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a tokenizer on the training documents of a corpus, and report on its validation documents.

    Digits are always tokens of their own, and no token mixes two scripts. The folder opens in transformers.AutoTokenizer.
    Training needs no random numbers: --seed changes nothing.

    Example: wordmill tokenizer train corpus/ -o tok/ --vocab 8192
    """
    from wordmill.core.files import new_folder
    from wordmill.corpus import Corpus
    from wordmill.tokenizer import TokenizerConfig, report, train_on_corpus

    config = TokenizerConfig.of(
        {
            "kind": kind,
            "vocab": _vocab(vocab, kind),
            "allow_smaller": vocab == "auto",
            "lowercase": lowercase,
            "purpose": purpose,
            "sentinels": sentinels,
            "extra_special": tuple(special or ()),
        },
        where="tokenizer train",
    )
    opened, shown = Corpus.open(corpus), reporter(quiet)
    folder = new_folder(out)
    tokenizer = train_on_corpus(opened, config, reporter=shown)
    # Without validation documents the report is on the training ones, and says so.
    split = "validation" if opened.count("validation") else "train"
    values = report(tokenizer, opened.documents(split))
    tokenizer.save(folder, lineage={"corpus": opened.hash, "settings": config.plain(), "report": {"split": split, **values}})
    result = {"folder": str(folder), **_facts(tokenizer), "report": {"split": split, **values}}
    hint = f"next: wordmill pretrain {quote(str(corpus))} --tokenizer {quote(str(folder))} -o runs/NAME"
    emit(json, result, f"{_summary(tokenizer, values | {'split': split})}\n{hint}")


def show(folder: Folder, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Show a tokenizer: kind, size, special tokens, and the report made when it was trained.

    Example: wordmill tokenizer show tok/
    """
    from wordmill.core.lineage import read_lineage
    from wordmill.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    values = read_lineage(folder).get("report") if folder.is_dir() else None
    emit(json, {"folder": str(folder), **_facts(tokenizer), "report": values}, _summary(tokenizer, values))


def encode(
    folder: Folder,
    text: Annotated[str, typer.Argument(help="The text; - reads standard input.", show_default=False)],
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show the tokens of a text with their ids.

    Text that looks like a special token is text, as it always is.

    Example: wordmill tokenizer encode tok/ "The mill grinds 42 words."
    """
    from wordmill.core.files import standard_lines
    from wordmill.tokenizer import Tokenizer
    from wordmill.tokenizer.report import visible

    tokenizer = Tokenizer.load(folder)
    text = "".join(standard_lines()) if text == "-" else text
    ids = tokenizer.encode(text)
    tokens = [tokenizer.token_text(index) for index in ids]
    lines = [f"{index:>{len(str(tokenizer.vocab_size))}}  {visible(token)}" for index, token in zip(ids, tokens)]
    size = len(text.encode("utf-8", "replace"))
    lines.append(f"{plural(len(ids), 'token')}, {plural(size, 'byte')}" + (f", {size / len(ids):.2f} bytes per token" if ids else ""))
    emit(json, {"ids": ids, "tokens": tokens, "bytes": size}, "\n".join(lines))


def _vocab(vocab: str, kind: str) -> int | None:
    from wordmill.core.errors import UsageError

    if vocab == "auto":
        return None
    if kind == "byte":
        raise UsageError("a byte tokenizer has the 256 bytes and its special tokens, no other number", where="--vocab", fix="Leave it out")
    try:
        return int(vocab.replace(",", "").replace("_", ""))
    except ValueError:
        raise UsageError(f"not a number of tokens: {vocab!r}", where="--vocab", fix="For example --vocab 8192, or --vocab auto") from None


def _facts(tokenizer: Tokenizer) -> dict[str, Any]:
    roles = {f"{role}_id": getattr(tokenizer, f"{role}_id") for role in ("bos", "eos", "pad", "unk", "mask", "cls", "sep")}
    return {"kind": tokenizer.kind, "vocab": tokenizer.vocab_size, "hash": tokenizer.hash, "special": tokenizer.special_tokens, **roles}


def _summary(tokenizer: Tokenizer, values: dict[str, Any] | None) -> str:
    from wordmill.tokenizer import report_text

    sentinels = set(tokenizer.sentinel_ids[1:-1])
    shown = {name: index for name, index in tokenizer.special_tokens.items() if index not in sentinels}
    special = ", ".join(f"{name} {index}" for name, index in shown.items())
    head = f"{tokenizer.kind} tokenizer, {tokenizer.vocab_size:,} tokens; special: {special or 'none'}"
    return f"{head}\non {values['split']} text:\n{report_text(values)}" if values else head
