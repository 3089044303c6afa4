"""`tag`: a label for each word: named entities, or any other.

Each word's first sub-word (a space before it counts as none) answers for the word: words are trained on, counted and scored, never
sub-words. Spans come back with offsets into the very text that was given.

Shapes: N sentences, W words, L tags.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from wordmill.batches.batch import IGNORE, Batch
from wordmill.batches.examples import Encoded, in_pieces
from wordmill.core.config import Config
from wordmill.core.errors import DataError, UsageError, nearest
from wordmill.core.progress import SILENT, Reporter, plural, verb
from wordmill.evaluate.bootstrap import Outcomes
from wordmill.models.config import RecurrentConfig
from wordmill.models.crf import CRF, count_moves
from wordmill.models.folder import LanguageModel
from wordmill.models.heads import HeadConfig, Headed, with_head
from wordmill.tasks.doubts import tell_shared
from wordmill.tasks.examples import Record, Records, text_of
from wordmill.tasks.labels import EntityOutcomes, LabelOutcomes, html_table
from wordmill.tasks.r_drop import check_dropped, twice
from wordmill.tasks.spans import (
    Sentence,
    Span,
    bio,
    check_plain,
    cuts_words,
    cutting_words,
    is_entity_tag,
    is_wide,
    joined,
    line_of,
    listed,
    read_spans,
    scheme_of,
    sentence_of_spans,
    spans_of,
    words_of,
)
from wordmill.tasks.task import Task, Tools, padded, stand_in, target_counts
from wordmill.tokenizer import Tokenizer
from wordmill.train.objectives import LossSum

WORDS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "labels", "ner", "pos_tags", "pos")
TEXTS = ("text", "sentence", "content")
SPANS = ("spans", "entities", "label", "labels", "annotations", "ents")
ANY = "any"
"""The scheme of a tagger from elsewhere, which may be any."""
SHOWN = 15
"""Sentences that went most wrong, in the report."""
DECODED = 256
"""Sentences whose tags a CRF tells at a time."""


Word = tuple[list[int], int]
"""The tokens of a word, and which of them answers for it."""


class TagConfig(Config):
    """Settings of `tag`."""

    tokens: str | None = None
    """The field with the words; None: found by looking."""
    tags: str | None = None
    """The field with their tags; None: found by looking."""
    text: str | None = None
    """The field with the text, where there are spans; None: found by looking."""
    spans: str | None = None
    """The field with the spans; None: found by looking."""
    scheme: Literal["auto", "bio", "bioes", "iob1", "io", "plain"] = "auto"
    """How entities are written in the tags; plain: a tag is a label of one word. auto: found by looking."""
    crf: bool | None = None
    """Whether tags are told together, by a conditional random field. None: entities by LSTM and GRU. `transformers` has no part for it."""
    max_labels: int = Field(default=500, ge=2)
    """More tags than this are taken for a mistake."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the state dropped in training before the output layer."""
    r_drop: float = Field(default=0.0, ge=0, le=100)
    """Weight of R-Drop: as in `classify`."""


class Tag(Task):
    """A tag for each word."""

    name: ClassVar[str] = "tag"
    keyed: ClassVar[str] = "sentence"
    lack: ClassVar[str] = "no word"
    scarce: ClassVar[int] = 3
    shared: ClassVar[str] = "sentences with an entity"
    by_shape: ClassVar[bool] = True
    Settings: ClassVar[type[Config]] = TagConfig
    settings: TagConfig

    def __init__(self, settings: Mapping[str, Any] | None = None, spec: dict[str, Any] | None = None) -> None:
        super().__init__(settings, spec)
        self._pieces: dict[str, Word] = {}
        self._sentences: dict[int, tuple[Record, Sentence]] = {}
        self._moves: Tensor | None = None
        self._alike = True

    # ── data ─────────────────────────────────────────────────────────────────────────────────────────────────

    def look(self, splits: Mapping[str, Records], reporter: Reporter) -> None:
        """Where words and tags stand, and in which scheme; see task.py."""
        train = splits["train"]
        self.spec = {"fields": self._fields(train)}
        reporter.note("fields: " + ", ".join(f"{role} in {name!r}" for role, name in self.spec["fields"].items()))
        self._written(train)
        self.spec["scheme"] = self._scheme(train, reporter) if "tokens" in self.spec["fields"] else "bio"
        labels = sorted({tag for record in train.records for tag in self.sentence(record).tags} - {"O"})
        if self.spec["scheme"] != "plain":
            kinds = sorted({label[2:] for label in labels})
            labels = ["O", *(f"{mark}-{kind}" for kind in kinds for mark in "BI")]
        elif any("O" in self.sentence(record).tags for record in train.records):
            labels = ["O", *labels]
        if len(labels) < 2:
            raise DataError("no word of these examples has a tag other than O: there is nothing to learn", where=train.files[0])
        if len(labels) > self.settings.max_labels:
            what = f"{len(labels):,} distinct tags: is this the right field?"
            raise DataError(what, where=train.files[0], fix="Raise task.max_labels if it is")
        self.spec["labels"] = labels
        found = self.counts(train.records)
        what = "tags" if self.spec["scheme"] == "plain" else "entities"
        words = sum(len(self.sentence(record).words) for record in train.records)
        told = ", ".join(f"{label} {count:,}" for label, count in list(found.items())[:12])
        reporter.note(f"{plural(words, 'word')} in {plural(len(train), 'sentence')}; {what}: {told}{' …' if len(found) > 12 else ''}")
        for records in splits.values():
            self.check(records, reporter)
        self._suspicious(splits, reporter)

    def _written(self, records: Records) -> None:
        """How the words are written: each character one, or spaces between them."""
        fields = self.spec["fields"]
        if "tokens" in fields:
            some = [word for record in records.records[:500] for word in listed(record, fields["tokens"])]
            characters = sum(len(word) == 1 for word in some) > 0.9 * len(some) and any(map(is_wide, "".join(some)))
        else:
            some = [str(record.values.get(fields["text"]) or "") for record in records.records[:500]]
            characters = sum(map(is_wide, "".join(some))) > 0.3 * max(1, len("".join(some)))
        self.spec |= {"characters": characters, "between": "" if characters else " "}

    @staticmethod
    def of_labels(labels: Sequence[str]) -> dict[str, Any]:
        """What is known of a tagger from elsewhere: its labels. Where words and tags stand is found in the files that it is used on."""
        scheme = ANY if all(map(is_entity_tag, labels)) else "plain"
        return {"elsewhere": True, "fields": {}, "between": " ", "characters": False, "scheme": scheme, "labels": list(labels)}

    def _find(self, records: Records) -> None:
        """For a tagger from elsewhere, where words and tags, or texts and spans, stand in these records, by usual names."""
        if not self.spec.get("elsewhere"):
            return
        usual = {"tokens": WORDS, "tags": TAGS, "text": TEXTS, "spans": SPANS}
        found = {role: next((name for name in names if name in records.fields), names[0]) for role, names in usual.items()}
        if found["tokens"] not in records.fields and found["text"] not in records.fields:
            raise DataError(f"found neither words nor texts; fields: {', '.join(records.fields)}", where=records.files[0],
                            fix="Call the words tokens and their tags tags, or the text text and its spans spans")  # fmt: skip
        words = found["tokens"] in records.fields
        self.spec["fields"] = {role: found[role] for role in (("tokens", "tags") if words else ("text", "spans"))}
        self._written(records)

    def _fields(self, train: Records) -> dict[str, str]:
        """Which fields hold words and tags, or text and spans. Raises `DataError` when none do."""
        s, names = self.settings, train.fields
        for role in ("tokens", "tags", "text", "spans"):
            asked = getattr(s, role)
            if asked and asked not in names:
                raise DataError(f"there is no field {asked!r}; fields: {', '.join(names)}", where=train.files[0],
                                fix=f"Set it by task.{role}=NAME. {nearest(asked, names)}")  # fmt: skip

        def first(asked: str | None, usual: Sequence[str]) -> str | None:
            return asked or next((name for name in usual if name in names), None)

        pairs = [{"tokens": first(s.tokens, WORDS), "tags": first(s.tags, TAGS)},
                 {"text": first(s.text, TEXTS), "spans": first(s.spans, SPANS)}]  # fmt: skip
        for found in sorted(pairs, key=lambda pair: not any(getattr(s, role) for role in pair)):  # what is asked for comes first
            if all(found.values()):
                return {role: str(name) for role, name in found.items()}
        raise DataError(f"found neither words with tags, nor a text with spans; fields: {', '.join(names)}", where=train.files[0],
                        fix="Name them: task.tokens=… task.tags=…, or task.text=… task.spans=…")  # fmt: skip

    def idle(self, records: Sequence[Record] = ()) -> dict[str, str]:
        """See task.py."""
        fields = self.spec["fields"]
        if "tokens" in fields:
            return dict.fromkeys(("text", "spans"), f"words with their tags are read ({fields['tokens']}, {fields['tags']})")
        return dict.fromkeys(("tokens", "tags", "scheme"), f"texts with spans are read ({fields['text']}, {fields['spans']})")

    def _scheme(self, train: Records, reporter: Reporter) -> str:
        """The scheme of the tags. Raises `DataError` for entities that nothing marks the beginning of."""
        column = self.spec["fields"]["tags"]
        for record in train.records:
            _one_each(listed(record, self.spec["fields"]["tokens"]), listed(record, column), record.where)
        found = scheme_of([listed(record, column) for record in train.records])
        if self.settings.scheme != "auto":
            return self.settings.scheme
        if found == "plain":
            check_plain(train.records, column)
        if found == "io":
            first = next((r, n) for r in train.records for n, tag in enumerate(listed(r, column)) if tag != "O")
            raise DataError("no tag begins with B-, so nobody can tell where one entity ends and the next begins", where=line_of(*first),
                            fix="Mark beginnings with B-, or say task.scheme=io: neighbours of one kind are one entity")  # fmt: skip
        reporter.note(f"scheme of the tags: {found}" + (", learned as bio" if found in ("bioes", "iob1") else ""))
        return found

    def sentence(self, record: Record) -> Sentence:
        """The record's text, words and BIO tags. Raises `DataError` for a record that has no such thing."""
        known = self._sentences.get(id(record))
        if known is not None and known[0] is record:
            return known[1]
        made = self._sentence(record)
        self._sentences[id(record)] = (record, made)
        return made

    def _sentence(self, record: Record) -> Sentence:
        fields, values = self.spec["fields"], record.values
        words = values.get(fields.get("tokens", "tokens"))
        if isinstance(words, list) and fields.get("text") not in values:
            if not all(isinstance(word, str) and word for word in words):
                raise DataError("a word is not a text, or empty", where=record.where)
            text, places = joined(words, self.spec["between"])
            column = fields.get("tags", "tags")
            if values.get(column) is None:
                return Sentence(text, places, ())
            tags = listed(record, column)
            _one_each(words, tags, record.where)
            if self.spec["scheme"] == "plain":
                return Sentence(text, places, tuple(tags))
            for n, tag in enumerate(tags):
                if not is_entity_tag(tag):
                    raise DataError(f"the tag {tag!r} is neither O nor of the form B-KIND", where=line_of(record, n))
            return Sentence(text, places, tuple(bio(spans_of(tags), len(tags))))
        given = values.get(fields.get("text", "text"))
        if given is None:
            raise DataError("this record has neither words nor a text", where=record.where)
        whole = text_of(given, "the text", record.where, "Write a text")
        spans = values.get(fields.get("spans", "spans"))
        if spans is None:
            return Sentence(whole, words_of(whole, characters=self.spec["characters"]), ())
        found = read_spans(spans, whole, record.where)
        return sentence_of_spans(whole, found, characters=self.spec["characters"])[0]

    def check(self, records: Records, reporter: Reporter) -> None:
        """See task.py."""
        self._find(records)
        known = set(self.spec["labels"])
        if self.spec["scheme"] != "plain":  # entities are compared as BIO, whatever the scheme of the labels
            known |= {f"{mark}-{label[2:]}" for label in known - {"O"} for mark in "BI"} | {"O"}
        for record in records.records:
            sentence = self.sentence(record)
            if not sentence.tags and sentence.words:
                raise DataError("this sentence has no tags", where=record.where, fix="Label it, or take it out")
            for n, tag in enumerate(sentence.tags):
                if tag not in known:
                    few = ", ".join(self.spec["labels"][:12]) + " …" * (len(self.spec["labels"]) > 12)
                    raise DataError(f"the tag {tag!r} is not among those trained on ({few})",
                                    where=line_of(record, n), fix="The model could never say it: add training examples of it")  # fmt: skip

    def lacks(self, record: Record) -> bool:
        """See task.py."""
        return not self.sentence(record).words

    def _suspicious(self, splits: Mapping[str, Records], reporter: Reporter) -> None:
        seen: dict[str, str] = {}
        for name, records in splits.items():
            self.tell_lacking(records.records, name, reporter)
            tell_shared(map(self.key, records.records), seen, name, self.keyed, reporter)
            if "spans" in self.spec["fields"]:
                column = self.spec["fields"]["spans"]
                texts = [(r.where, text, read_spans(r.values[column], text, r.where))
                         for r in records.records for text in [self.sentence(r).text]]  # fmt: skip
                over = sum(sentence_of_spans(text, spans, characters=True)[1] for _, text, spans in texts)
                if over:
                    reporter.warn(f"{plural(over, 'span')} of {name} {verb(over, 'overlap')} a longer one, and {verb(over, 'are')} left "
                                  f"out: a word has one tag")
                torn = [(where, text[a:b]) for where, text, spans in texts for a, b, _ in spans if cuts_words(text, a, b)]
                if torn and not self.spec["characters"]:
                    how = f"{verb(len(torn), 'begin')} or {verb(len(torn), 'end')}"
                    reporter.warn(f"{plural(len(torn), 'span')} of {name} {how} inside a word, which is cut there (first: {torn[0][0]}, "
                                  f"{torn[0][1][:60]!r}): in use nobody cuts it. Are the offsets right?")  # fmt: skip

    def inputs(self, records: Records) -> list[Record]:
        """See task.py."""
        self._find(records)
        for record in records.records:
            self.sentence(record)
        return records.records

    @property
    def alone(self) -> str | None:
        """See task.py."""
        return str(self.spec["fields"].get("text", "text"))

    def is_answer(self, name: str) -> bool:
        """See task.py."""
        return name in (self.spec["fields"].get("tags", "tags"), self.spec["fields"].get("spans", "spans"))

    def as_record(self, value: str | Mapping[str, Any], where: str) -> Record:
        """A text, a list of words, or a mapping with one of them."""
        fields = self.spec["fields"]
        if isinstance(value, str):
            return Record({fields.get("text", "text"): value}, where)
        if isinstance(value, list | tuple) and all(isinstance(word, str) for word in value):
            return Record({fields.get("tokens", "tokens"): list(value)}, where)
        if isinstance(value, Mapping) and {fields.get("text", "text"), fields.get("tokens", "tokens")} & set(value):
            return Record(dict(value), where)
        raise UsageError("an input is a text, or a list of words", where=where)

    def key(self, record: Record) -> str:
        """The text."""
        return " ".join(self.sentence(record).text.split())

    def stratum(self, record: Record) -> str:
        """Whether there is an entity, where tags are those of entities: few sentences of many may have one."""
        return str(any(tag != "O" for tag in self.sentence(record).tags)) if self.spec["scheme"] != "plain" else ""

    def texts(self, record: Record) -> list[str]:
        """The text."""
        return [self.sentence(record).text]

    def equip(self, tokenizer: Tokenizer) -> Tokenizer:
        """See `cutting_words`."""
        tokenizer, self._alike = cutting_words(tokenizer, [one for _, one in self._sentences.values()], self.spec["characters"])
        return tokenizer

    def settle(self, tools: Tools, records: Sequence[Record], reporter: Reporter) -> None:
        """Whether there is a CRF. Raises `UsageError` for R-Drop where nothing is dropped."""
        check_dropped(self.settings.r_drop, self.settings.dropout, tools.config)
        usual = self.spec["scheme"] != "plain" and isinstance(tools.config, RecurrentConfig)
        self.spec["crf"] = usual if self.settings.crf is None else self.settings.crf
        if usual and self.settings.crf is None:
            reporter.note("tags are told together, by a CRF (task.crf=false: each by itself)")
        if not self._alike and not isinstance(tools.config, RecurrentConfig):
            reporter.note("each word is read by itself, with the space before it: transformers would cut a whole text into other tokens")

    def encode(self, record: Record, tools: Tools, *, answer: bool) -> Encoded:
        """The sentence's sub-words, those of each word told apart. A sentence of more than `max_tokens` comes with its `pieces`.
        Nothing is left out but the end of a single word longer than that, which is counted."""
        sentence, room = self.sentence(record), tools.max_tokens - tools.tokenizer.wrap_size()
        labels = {label: n for n, label in enumerate(self.spec["labels"])}
        wanted = [labels[tag] for tag in sentence.tags] if answer else [0] * len(sentence.words)
        words: list[Word] = []
        cut = before = 0
        for _, end in sentence.words:
            # The space before a word belongs to its first sub-word in vocabularies of bytes; others drop it.
            found, answers = self._split(sentence.text[before:end], tools)
            before, cut = end, cut + max(0, len(found) - room)
            words.append((found[:room], min(answers, room - 1)))
        whole = _wrapped(words, wanted, 0, len(words), tools)
        parts = windows([len(word) for word, _ in words], room)
        if len(parts) == 1:
            return replace(whole, cut=cut)
        pieces = tuple(_wrapped(words[a:b], wanted[a:b], first - a, last - a, tools) for a, first, last, b in parts)
        return replace(whole, cut=cut, pieces=pieces)

    def _split(self, text: str, tools: Tools) -> Word:
        """A word with the space before it: at least one token, and the first that holds more than space answers for the word: what reads
        from left to right knows nothing of a word before it."""
        found = self._pieces.get(text)
        if found is None:
            tokenizer = tools.tokenizer
            ids = tokenizer.encode(text) or [stand_in(tokenizer, f"the word {text!r}")]
            space = tokenizer.encode(text[: len(text) - len(text.lstrip())])  # it may be a token that says that it is unknown
            first = len(space) if ids[: len(space)] == space else 0
            texts = [tokenizer.token_text(index).replace("\u2581", " ") for index in ids]  # some vocabularies write a space so
            holds = (n for n in range(first, len(ids)) if texts[n].strip())
            found = self._pieces[text] = ids, next(holds, 0)
        return found

    def target_text(self, target: int, example: Encoded) -> str | None:
        """The tag."""
        return str(self.spec["labels"][target])

    def counts(self, records: Sequence[Record]) -> dict[str, int]:
        """Entities by kind (words by tag, where tags are plain), the most frequent first."""
        if self.spec["scheme"] == "plain":
            return dict(Counter(tag for record in records for tag in self.sentence(record).tags).most_common())
        return dict(Counter(span.label for record in records for span in spans_of(self.sentence(record).tags)).most_common())

    # ── model ────────────────────────────────────────────────────────────────────────────────────────────────

    def build(self, base: LanguageModel, seed: int) -> Headed:
        """The base with a head for each token."""
        crf = bool(self.spec.get("crf", self.settings.crf))  # a tagger that was told of it in its settings alone is an older one
        head = HeadConfig(kind="token", labels=tuple(self.spec["labels"]), crf=crf, dropout=self.settings.dropout)
        model = with_head(base, head, seed=seed)
        if self._moves is not None:
            often = self._moves[:, :-1].sum(0) + 1.0
            if model.out.bias is not None:
                model.out.bias.data.copy_((often / often.sum()).log())
            if model.crf is not None:
                model.crf.start_from(self._moves)
        return model

    def weigh(self, records: Sequence[Record]) -> None:
        """Count which tag follows which: the output layer and a CRF start from it. Most words are no entity, and to learn that alone takes
        a tagger from new weights a hundred steps."""
        at = {label: n for n, label in enumerate(self.spec["labels"])}
        self._moves = count_moves(([at[tag] for tag in self.sentence(record).tags] for record in records), len(at))

    def objective(self, model: Headed, batch: Batch, state: Any = None) -> LossSum:
        """−Σ log p(tag) over words; with a CRF −log p(tags of the sentence), which is a sum over its words too. With R-Drop the mean of two
        readings, and how far apart each word's own scores are."""
        logits, n = model(batch).float(), batch.n_targets
        if not n:  # a process without words still takes part in the exchange of gradients
            crf = 0.0 if model.crf is None else sum(p.sum() for p in model.crf.parameters())
            return LossSum((logits.sum() + crf) * 0.0, 0)
        weight = self.settings.r_drop if model.training else 0.0
        return LossSum(twice(logits, lambda: model(batch).float(), weight, lambda x: _loss(model, x, batch)), n)

    # ── use ──────────────────────────────────────────────────────────────────────────────────────────────────

    def answers(self, model: Headed, batch: Batch) -> list[Any]:
        """The scores of all tags (W, L) for the words of each sentence, or of each piece of one."""
        counts = target_counts(batch)
        if not sum(counts):
            return [torch.zeros(0, len(self.spec["labels"])) for _ in counts]
        return list(model(batch).float().cpu().split(counts))

    def respond(
        self, model: nn.Module, tools: Tools, records: Sequence[Record], *, reporter: Reporter = SILENT, encoded: Sequence[Encoded] = ()
    ) -> list[Any]:
        """Tags' numbers (W,) and how sure the model is of each (W,), of each sentence. Scores of pieces are put together first, so that
        tags are told over the whole sentence."""
        examples = encoded or [self.encode(record, tools, answer=False) for record in records]
        read, owners = in_pieces(examples)
        parts: list[list[Tensor]] = [[] for _ in examples]
        for owner, scores in zip(owners, super().respond(model, tools, records, reporter=reporter, encoded=read), strict=True):
            parts[owner].append(scores)
        return self._told([torch.cat(found) for found in parts], cast(Headed, model).crf)

    @torch.no_grad()
    def _told(self, scores: Sequence[Tensor], crf: CRF | None) -> list[Any]:
        """The best tags of each sentence, and their probabilities among the tags of the word."""
        found: list[Any] = [(s.argmax(-1).numpy(), s.softmax(-1).amax(-1).numpy()) for s in scores]
        if crf is None:
            return found
        device, allowed = crf.transitions.device, self._allowed().to(crf.transitions.device)
        order = sorted((n for n, s in enumerate(scores) if len(s)), key=lambda n: len(scores[n]))
        for start in range(0, len(order), DECODED):
            group = order[start : start + DECODED]
            counts = [len(scores[n]) for n in group]
            whole, real = padded(torch.cat([scores[n] for n in group]).to(device), counts)
            for n, path in zip(group, crf.decode(whole, real, allowed), strict=True):
                tags = torch.tensor(path)
                found[n] = (tags.numpy(), scores[n].softmax(-1).gather(1, tags[:, None])[:, 0].numpy())
        return found

    def _allowed(self) -> Tensor:
        """Which tag may follow which (L + 1, L), the last row for the start: an I- only what it goes on from."""
        labels = self.spec["labels"]
        found = torch.ones(len(labels) + 1, len(labels), dtype=torch.bool)
        if self.spec["scheme"] != "plain":
            for n, label in enumerate(labels):
                if label.startswith("I-"):
                    found[:, n] = torch.tensor([*(before[2:] == label[2:] for before in labels), False])
        return found

    def _tags(self, sentence: Sentence, answer: Any) -> list[str]:
        """A tag for every word of the sentence."""
        assert len(answer[0]) == len(sentence.words)
        return [self.spec["labels"][int(n)] for n in answer[0]]

    def outcomes(self, records: Sequence[Record], answers: Sequence[Any]) -> Outcomes:
        """Entities that are right in border and kind; words, where tags are plain."""
        pairs = [(self.sentence(r), self._tags(self.sentence(r), a)) for r, a in zip(records, answers, strict=True)]
        as_bio = self.spec["scheme"] == ANY
        return self._outcomes([(list(sentence.tags), bio(spans_of(said), len(said)) if as_bio else said) for sentence, said in pairs])

    def _outcomes(self, pairs: Sequence[tuple[list[str], list[str]]]) -> Outcomes:
        if self.spec["scheme"] == "plain":
            place = {label: n for n, label in enumerate(self.spec["labels"])}
            truth, said = (np.array([place[tag] for pair in pairs for tag in pair[side]]) for side in (0, 1))
            return LabelOutcomes(self.spec["labels"], truth, said)
        kinds = sorted({label[2:] for label in self.spec["labels"] if label != "O"})
        return EntityOutcomes.of(kinds, [(spans_of(truth), spans_of(said)) for truth, said in pairs],
                                 [(sum(a == b for a, b in zip(*pair, strict=True)), len(pair[0])) for pair in pairs])  # fmt: skip

    def say(self, record: Record, answer: Any) -> dict[str, Any]:
        """Spans with offsets into the text, and the tags of words."""
        sentence = self.sentence(record)
        tags = self._tags(sentence, answer)
        words = [sentence.text[a:b] for a, b in sentence.words]
        told: dict[str, Any] = {"text": sentence.text, "words": words, "tags": tags}
        if self.spec["scheme"] == "plain":
            return told
        spans = []
        for span in spans_of(tags):
            start, end = sentence.words[span.first][0], sentence.words[span.last - 1][1]
            sure = [float(p) for p in answer[1][span.first : span.last]]
            spans.append({"start": start, "end": end, "text": sentence.text[start:end], "label": span.label,
                          "probability": round(min(sure, default=0.0), 6)})  # fmt: skip
        return {"spans": spans, **told}

    def baselines(self, train: Sequence[Record], test: Sequence[Record], reporter: Reporter) -> dict[str, Outcomes]:
        """Each word's most frequent tag; unknown words get the most frequent of all."""
        seen: dict[str, Counter[str]] = {}
        for record in train:
            sentence = self.sentence(record)
            for (a, b), tag in zip(sentence.words, sentence.tags, strict=True):
                seen.setdefault(sentence.text[a:b], Counter())[tag] += 1
        usual = {word: tags.most_common(1)[0][0] for word, tags in seen.items()}
        most = sum(seen.values(), Counter()).most_common(1)[0][0]
        pairs = []
        for record in test:
            sentence = self.sentence(record)
            pairs.append((list(sentence.tags), [usual.get(sentence.text[a:b], most) for a, b in sentence.words]))
        return {"most frequent tag": self._outcomes(pairs)}

    def details(self, records: Sequence[Record], answers: Sequence[Any]) -> dict[str, Any]:
        """By kind."""
        found = self.outcomes(records, answers)
        assert isinstance(found, EntityOutcomes | LabelOutcomes)
        return {"by_class": found.by_class()} if isinstance(found, EntityOutcomes) else found.details()

    def pages(self, records: Sequence[Record], answers: Sequence[Any]) -> str:
        """A table by kind, and the sentences with the most mistakes."""
        table = html_table(self.details(records, answers)["by_class"], "kind")
        if self.spec["scheme"] == "plain":
            return f"<h2>By tag</h2>{table}"
        rows = []
        for record, answer in zip(records, answers, strict=True):
            sentence = self.sentence(record)
            truth, said = ({*spans_of(tags)} for tags in (sentence.tags, self._tags(sentence, answer)))
            if truth != said:
                rows.append((len(truth ^ said), _told(sentence, truth - said), _told(sentence, said - truth), sentence.text[:300]))
        rows.sort(key=lambda row: -row[0])
        lines = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>" for row in rows[:SHOWN]]
        head = "<tr><th>missed</th><th>said wrongly</th><th>text</th></tr>"
        worst = f'<h2>Most wrong</h2><div class="card"><table>{head}{"".join(lines)}</table></div>' if lines else ""
        return f"<h2>By kind</h2>{table}{worst}"


def _told(sentence: Sentence, spans: set[Span]) -> str:
    return "; ".join(f"{sentence.text[sentence.words[s.first][0] : sentence.words[s.last - 1][1]]} ({s.label})" for s in sorted(spans))


def _one_each(words: Sequence[str], tags: Sequence[str], where: str) -> None:
    if len(words) != len(tags):
        raise DataError(f"{plural(len(words), 'word')} and {plural(len(tags), 'tag')}", where=where, fix="Each word needs one tag")


def _wrapped(words: Sequence[Word], wanted: Sequence[int], first: int, last: int, tools: Tools) -> Encoded:
    """Words as the family wraps a text; words `first`…`last` are asked for, at the token that answers for each."""
    tokenizer = tools.tokenizer
    ids = [index for word, _ in words for index in word]
    marks = tokenizer.wrap([-1 - n for n in range(len(ids))]).ids
    place = {-1 - index: n for n, index in enumerate(marks) if index < 0}
    whole = np.array([ids[-1 - index] if index < 0 else index for index in marks] or [tokenizer.eos_id or 0], np.int64)
    targets, at = np.full(len(whole), IGNORE, np.int64), 0
    for n, (word, answers) in enumerate(words):
        if first <= n < last:
            targets[place[at + answers]] = wanted[n]
        at += len(word)
    return Encoded(whole, targets)


def windows(sizes: Sequence[int], room: int) -> list[tuple[int, int, int, int]]:
    """Windows over words of `sizes` tokens, each of at most `room` tokens, as word numbers (a, first, last, b): words a…b are read and
    words first…last are asked for. Each word is asked for once, and has up to a quarter of the room of words on either side."""
    ends = np.cumsum([0, *sizes])
    if ends[-1] <= room:
        return [(0, 0, len(sizes), len(sizes))]
    found, first = [], 0
    while first < len(sizes):
        # What stands before takes a quarter at most; then as many words as fit; the last quarter of them is only looked at.
        a = int(np.searchsorted(ends, ends[first] - room // 4))
        if ends[first + 1] - ends[a] > room:
            a = first
        b = int(np.searchsorted(ends, ends[a] + room, side="right")) - 1
        last = len(sizes) if b == len(sizes) else max(first + 1, int(np.searchsorted(ends, ends[b] - room // 4, side="right")) - 1)
        found.append((a, first, last, b))
        first = last
    return found


def _loss(model: Headed, logits: Tensor, batch: Batch) -> Tensor:
    """Of logits (N, L) of all words of a batch, in nats, summed over the words."""
    targets = batch.targets.flatten()
    targets = targets[targets != IGNORE]
    if model.crf is None:
        return F.cross_entropy(logits, targets, reduction="sum")
    counts = [count for count in target_counts(batch) if count]
    scores, real = padded(logits, counts)
    return model.crf(scores, padded(targets[:, None], counts)[0][..., 0], real)
