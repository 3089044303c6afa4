"""`wordmill corpus build`, `wordmill corpus show` and `wordmill corpus stats`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from wordmill.cli.common import JsonOption, QuietOption, SeedOption, emit, reporter
from wordmill.core.progress import plural

Folder = Annotated[Path, typer.Argument(help="A corpus folder.", show_default=False)]


def build(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SRC...", help="Files and folders to read; - is standard input.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")],
    field: Annotated[str | None, typer.Option("--field", help="The JSON key, column or column number that holds the text.")] = None,
    keep: Annotated[str, typer.Option("--keep", help="Other fields to keep as metadata: title,url")] = "",
    validation: Annotated[
        list[str] | None, typer.Option("--validation", help="A share of the documents (0.05), or a file or folder; repeatable.")
    ] = None,
    split_text: Annotated[str, typer.Option("--split-text", help="A document in a text file: auto, file, line or paragraph.")] = "auto",
    min_characters: Annotated[int, typer.Option("--min-characters", help="Drop shorter documents.")] = 1,
    encoding: Annotated[str | None, typer.Option("--encoding", help="The encoding of all files, where detecting it fails.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count broken records and files, and go on.")] = False,
    rejects: Annotated[Path | None, typer.Option("--rejects", help="Write what was dropped, with its reason, to this .jsonl file.")] = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn files and folders of text into a corpus folder.

    Reads .txt .md .py .json .jsonl .csv .tsv .parquet, each also with .gz or .zst. Detects encodings, normalises (NFC, line ends),
    drops duplicates, splits by the hash of the text, and says what was dropped and why.

    Example: wordmill corpus build my_texts/ more.jsonl.gz --field body -o corpus/
    """
    from wordmill.corpus import CorpusConfig, build_corpus

    share, files = _validation(validation or [])
    settings: dict[str, Any] = {"field": field, "encoding": encoding, "split_text": split_text, "min_characters": min_characters}
    settings |= {"keep_fields": tuple(filter(None, map(str.strip, keep.split(",")))), "skip_bad": skip_bad, "seed": seed}
    config = CorpusConfig.of(settings | ({"validation": share} if share is not None else {}), where="corpus build")
    corpus = build_corpus(sources, out, config, validation=files, rejects=rejects, reporter=reporter(quiet))
    counts = "; ".join(f"{split} {plural(corpus.count(split), 'document')}" for split in ("train", "validation"))
    hint = f"next: wordmill tokenizer train {quote(str(corpus.folder))} -o tok/"
    emit(json, {"folder": str(corpus.folder), **corpus.info}, f"{corpus.folder}: {counts}\n{hint}")


def show(
    folder: Folder,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="How many documents.")] = 3,
    split: Annotated[str, typer.Option("--split", help="train or validation.")] = "train",
    characters: Annotated[int, typer.Option("--characters", min=1, help="How much of each.")] = 400,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show a corpus: its counts, and the first few documents.

    Example: wordmill corpus show corpus/ -n 5 --split validation
    """
    from dataclasses import asdict
    from itertools import islice

    from wordmill.corpus import Corpus

    corpus = Corpus.open(folder)
    documents = list(islice(corpus.documents(split), count))
    counts = {name: {"documents": corpus.count(name), "bytes": corpus.bytes(name)} for name in ("train", "validation")}
    lines = [f"{name}: {plural(part['documents'], 'document')}, {plural(part['bytes'], 'byte')}" for name, part in counts.items()]
    for document in documents:
        text = document.text[:characters] + (" …" if len(document.text) > characters else "")
        about = " ".join(f"{key}={value}" for key, value in document.metadata.items())
        head = " · ".join(filter(None, (document.source, about, document.language, plural(len(document.text), "character"))))
        lines += ["", f"── {head}", text.rstrip("\n")]
    rows = [asdict(document) for document in documents]
    emit(json, {"folder": str(folder), "hash": corpus.hash, "splits": counts, "documents": rows}, "\n".join(lines))


def stats(
    folder: Folder,
    verify: Annotated[bool, typer.Option("--verify", help="Compare the hash of every shard first.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Count documents, bytes, lengths, languages and sources of a corpus.

    Example: wordmill corpus stats corpus/ --json
    """
    from wordmill.corpus import Corpus, corpus_stats

    result = corpus_stats(Corpus.open(folder, verify=verify), reporter=reporter(quiet))
    emit(json, result.plain(), result.text())


def _validation(values: list[str]) -> tuple[float | None, list[Path]]:
    """A share, when that is all that was given, or files."""
    if len(values) == 1:
        try:
            return float(values[0]), []
        except ValueError:
            pass
    return None, [Path(value) for value in values]
