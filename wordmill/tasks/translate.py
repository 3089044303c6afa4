"""`translate`: a text in another language, scored by BLEU and chrF."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from wordmill.core.config import Config
from wordmill.core.errors import DataError
from wordmill.core.progress import SILENT, Reporter, plural, verb
from wordmill.corpus.sources import COMPRESSIONS
from wordmill.evaluate.bootstrap import Outcomes
from wordmill.tasks.examples import Record, Records, read_examples, read_text
from wordmill.tasks.pairs import Pairs, PairsConfig
from wordmill.tasks.texts import BleuOutcomes, bleu_signature, require_bleu, side_by_side

TABLES = {"csv", "tsv", "json", "jsonl", "ndjson", "parquet"}
"""Endings of files with records; a file of any other ending may hold a sentence a line, in one language."""
CODE = re.compile(r"[a-z]{2}([-_][A-Za-z]{2,4})?|cmn|yue|eng|deu|fra|spa|jpn|kor|rus|ara|por|ita|nld|pol|tur|vie|ces|ukr|hin|ind|swe|fin")
LANGUAGES = {name: code for code, *names in (line.split() for line in """
    ar arabic ara
    bg bulgarian
    bn bengali
    cs czech ces
    da danish
    de german deutsch deu
    el greek
    en english eng 英文 英语
    es spanish español spa
    fa persian
    fi finnish fin
    fr french français fra
    he hebrew
    hi hindi hin
    hu hungarian
    id indonesian ind
    it italian ita
    ja japanese jpn 日文 日语
    ko korean kor
    nl dutch nld
    no norwegian
    pl polish pol
    pt portuguese por
    ro romanian
    ru russian rus
    sv swedish swe
    ta tamil
    th thai
    tr turkish tur
    uk ukrainian ukr
    ur urdu
    vi vietnamese vie
    yue cantonese
    zh chinese mandarin cmn 中文 汉语
    """.strip().splitlines()) for name in names}  # fmt: skip
"""The codes of languages by what else they are called."""
NO_CODES = frozenset({"id", "no", "nr", "to", "is", "as", "by", "in", "ok"})
"""Names of columns that look like languages and seldom are."""
WIDE = re.compile(r"[\u3040-\u30ff]"), re.compile(r"[\u3400-\u9fff]"), re.compile(r"[\uac00-\ud7af\u1100-\u11ff]"), re.compile(
    r"[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff]")  # fmt: skip
"""Kana, Chinese characters, Hangul, and the scripts of South-East Asia that write no spaces."""


class TranslateConfig(PairsConfig):
    """Settings of `translate`."""

    tokenize: Literal["13a", "zh", "ja-mecab", "ko-mecab", "intl", "char", "none"] | None = None
    """How BLEU cuts texts into words (sacrebleu's names); None: by the script of the targets: zh for Chinese, char for Japanese, Korean
    and others that 13a doesn't cut, else 13a."""


class Translate(Pairs):
    """A text in another language."""

    name: ClassVar[str] = "translate"
    said: ClassVar[str] = "translation"
    Settings: ClassVar[type[Config]] = TranslateConfig
    sources: ClassVar[tuple[str, ...]] = ("source", "src", "source_text", "input", "original", "text", "sentence")
    targets: ClassVar[tuple[str, ...]] = ("target", "tgt", "target_text", "translation", "reference", "output")
    settings: TranslateConfig

    # ── data ─────────────────────────────────────────────────────────────────────────────────────────────────

    def read(self, paths: Sequence[str | Path], *, learn: bool = False, reporter: Reporter = SILENT) -> Records:
        """Tables and JSON as for every task; or files with a sentence a line, two by two: train.en train.de. A single one has no
        translations: it can be translated. Raises `DataError` for files of which the lines don't correspond."""
        files = [Path(path) for path in paths]
        lines = [of_lines(path, alone=len(files) == 1) for path in files]
        if not any(lines):
            return _nested(read_examples(files, reporter=reporter))
        if not all(lines) or (len(files) > 1 and len(files) % 2):
            raise DataError(f"{', '.join(path.name for path in files)}: files with a sentence a line come two by two, source and target",
                            where=files[lines.index(True)], fix="Give both, for example train.en train.de")  # fmt: skip
        found = Records(kind="lines", files=[str(path) for path in files])
        for number in range(0, len(files), 2):
            pair = files[number : number + 2]
            names = self._names(pair)
            if found.fields and found.fields != names:
                raise DataError(f"these are {' and '.join(names)}, those before {' and '.join(found.fields)}", where=pair[0],
                                fix="Give pairs of the same two languages, in the same order")  # fmt: skip
            found.fields = names
            found.records += _aligned(pair, names, reporter)
        if not found.records:
            raise DataError("there is no example in this file", where=files[0])
        return found

    def _names(self, pair: Sequence[Path]) -> list[str]:
        """What the columns of files with a sentence a line are called: by the files' endings, where these are languages; by what the model
        knows, where it was trained on columns of other names. Raises `DataError` for other languages than the model's, and for a file
        that stands alone and is in the language that it writes."""
        endings, columns = [_ending(path) for path in pair], list(self.spec.get("columns", {}).values())
        if not columns:
            return endings if len(set(endings)) == len(endings) else ["source", "target"]
        names, way = _placed(endings, columns), f"translates {columns[0]} into {columns[1]}"
        if len(set(names)) < len(pair):
            raise DataError(f"this is {' and '.join(endings)}, and the model {way}", where=pair[0])
        if names == columns[1:]:
            raise DataError(f"this is {endings[0]}, which the model writes and does not read: it {way}", where=pair[0],
                            fix=f"Give the file in {columns[0]}, and to evaluate on, both")  # fmt: skip
        return names

    def look(self, splits: Mapping[str, Records], reporter: Reporter) -> None:
        """As `Pairs`; then how BLEU is to cut the targets."""
        require_bleu("13a")
        super().look(splits, reporter)
        asked = self.settings.tokenize
        some = (self.target(record) for record in splits["train"].records[:2000])
        name, why = bleu_tokenizer(some) if asked is None else (str(asked), "as asked")
        require_bleu(name)
        self.spec["tokenize"] = name
        reporter.note(f"BLEU's tokenizer: {name} ({why})")

    def find(self, train: Records, source: str | None, target: str | None, reporter: Reporter) -> tuple[str | None, str | None]:
        """By name; else by names of languages, the first being the source; without names the first two columns of text."""
        source, target = super().find(train, source, target, reporter)
        if source is not None and target is not None:
            return source, target
        alike = [name for name in train.fields if CODE.fullmatch(name) or name.lower() in LANGUAGES]
        languages = alike if len(alike) <= 2 else [name for name in alike if name not in NO_CODES]
        texts = self.texts_in(train)
        chosen = languages if len(languages) == 2 or source or target else []
        if not chosen and not languages and not train.headed:
            chosen = [name for name in train.fields if name in texts][:2]
        free = [name for name in chosen if name not in (source, target)]
        both = source is None and target is None
        if both and len(free) == 2:
            reporter.note(f"from {free[0]!r} into {free[1]!r}, as they stand in the file; the other way: "
                          f"task.source={free[1]} task.target={free[0]}")  # fmt: skip
            return free[0], free[1]
        other = free[0] if len(free) == 1 else None
        return source or other, target or other

    def is_answer(self, name: str) -> bool:
        """By the language too: zh where the model was trained on a column "Chinese"."""
        source, target = (language(column) for column in self.spec["columns"].values())
        return super().is_answer(name) or source != target == language(name) is not None

    # ── use ──────────────────────────────────────────────────────────────────────────────────────────────────

    def outcomes(self, records: Sequence[Record], answers: Sequence[Any]) -> Outcomes:
        """See task.py."""
        return BleuOutcomes([self.target(record) for record in records], [answer.text for answer in answers], self.spec["tokenize"])

    def baselines(self, train: Sequence[Record], test: Sequence[Record], reporter: Reporter) -> dict[str, Outcomes]:
        """The source as it is."""
        copies = [" ".join(self.source(record).split()) for record in test]
        return {"copy": BleuOutcomes([self.target(record) for record in test], copies, self.spec["tokenize"])}

    def details(self, records: Sequence[Record], answers: Sequence[Any]) -> dict[str, Any]:
        """As `Written`; and what these BLEU scores may be compared with."""
        return {**super().details(records, answers), "bleu_signature": bleu_signature(self.spec["tokenize"])}

    def pages(self, records: Sequence[Record], answers: Sequence[Any]) -> str:
        """The worst translations, and some as they come."""
        outcomes = self.outcomes(records, answers)
        assert isinstance(outcomes, BleuOutcomes)
        return side_by_side([self.source(r) for r in records], outcomes.references, outcomes.answers, outcomes.each(), "chrF")


def bleu_tokenizer(texts: Iterable[str]) -> tuple[str, str]:
    """sacrebleu's tokenizer for texts of that script, and why."""
    some = "".join(texts)
    letters = max(1, sum(char.isalpha() for char in some))
    kana, han, hangul, spaceless = (len(pattern.findall(some)) for pattern in WIDE)
    if kana + han > 0.4 * letters and kana > 0.05 * letters:
        return "char", "Japanese by characters; words: task.tokenize=ja-mecab, with pip install 'sacrebleu[ja]'"
    if han > 0.4 * letters:
        return "zh", "the targets are Chinese"
    if hangul > 0.4 * letters:
        return "char", "Korean by characters; words: task.tokenize=ko-mecab, with pip install 'sacrebleu[ko]'"
    if spaceless > 0.4 * letters:
        return "char", "the targets are written without spaces"
    return "13a", "words and punctuation"


def language(name: str) -> str | None:
    """The code of the language that a column or the ending of a file is named by; None: it names none that is known."""
    low = name.lower()
    return LANGUAGES.get(low) or (re.split("[-_]", low)[0] if CODE.fullmatch(name) else None)


def _placed(endings: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The columns of the model that files with these endings belong to: by name, by the languages that both are named by, else by their
    order. Empty for files in other languages."""
    if set(endings) <= set(columns):
        return list(endings)
    known = {code: column for column in columns if (code := language(column)) is not None}
    if language(columns[0]) == language(columns[1]):
        known = {}
    spoken = [language(ending) for ending in endings]
    if len(known) == len(columns) and any(code is not None and code not in known for code in spoken):
        return []
    found = [known.get(code) if code is not None else None for code in spoken]
    free = [column for column in columns if column not in found]
    return [column or free.pop(0) for column in found]


def of_lines(path: Path, *, alone: bool) -> bool:
    """Whether a file holds a sentence a line, in one language: by its ending; a .txt file is one unless its first line has a tab, and
    unless it stands alone."""
    ending = _ending(path)
    if ending in TABLES or not path.is_file():
        return False
    if ending != "txt":
        return bool(CODE.fullmatch(ending))
    return not alone and "\t" not in read_text(path, compression=_compression(path)).partition("\n")[0]


def _compression(path: Path) -> str | None:
    return COMPRESSIONS.get(path.name.lower().rpartition(".")[2])


def _ending(path: Path) -> str:
    """The last ending of a name but for that of a compression: en of train.en.gz."""
    parts = path.name.split(".")
    if parts[-1].lower() in COMPRESSIONS:
        parts.pop()
    return parts[-1] if len(parts) > 1 else ""


def _aligned(files: Sequence[Path], names: Sequence[str], reporter: Reporter) -> list[Record]:
    """The lines of one file, or of two that correspond line by line. Raises `DataError` when they have different numbers of lines."""
    lines = [read_text(path, _compression(path)).removesuffix("\n").split("\n") for path in files]
    if len({len(part) for part in lines}) > 1:
        raise DataError(f"{files[0]} has {plural(len(lines[0]), 'line')} and {files[1]} has {len(lines[1]):,}: they can't be "
                        f"translations of each "
                        "other line by line", where=files[1], fix="Give two files whose lines correspond")  # fmt: skip
    rows = [(n, row) for n, row in enumerate(zip(*lines, strict=True), 1) if any(text.strip() for text in row)]
    empty = len(lines[0]) - len(rows)
    if empty:
        reporter.note(f"{files[0].name}: {plural(empty, 'empty line')} {verb(empty, 'are')} left out")

    def file(row: Sequence[str]) -> Path:
        """Where to look for a row: in the file that has a gap there, if one has."""
        return next((path for path, text in zip(files, row, strict=True) if not text.strip()), files[-1])

    return [Record(dict(zip(names, row, strict=True)), f"{file(row)}:{n}") for n, row in rows]


def _nested(records: Records) -> Records:
    """Records whose texts stand together in one field ({"translation": {"en": …, "de": …}}), with fields of their own."""
    field = next((name for name in ("translation", "translations") if name in records.fields), None)
    if field is None or not all(isinstance(record.values.get(field), dict) for record in records.records):
        return records
    made = [Record({**{k: v for k, v in r.values.items() if k != field}, **r.values[field]}, r.where) for r in records.records]
    fields = list(dict.fromkeys(name for record in made for name in record.values))
    return Records(made, fields, records.kind, records.headed, records.files)
