"""A model folder, opened: the model, its tokenizer, and everything that the two can do together."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wordmill.batches.vocabulary import Vocabulary
from wordmill.core.device import choose_device, choose_dtype
from wordmill.core.errors import ConfigError, ModelError, UsageError, nearest
from wordmill.core.files import read_json, write_json
from wordmill.core.lineage import FILE as LINEAGE
from wordmill.core.lineage import read_lineage
from wordmill.core.progress import SILENT, Reporter, plural, verb
from wordmill.generate.beam import Beam, BeamConfig, beam_search
from wordmill.generate.embed import BATCH_TOKENS, Embeddings, EmbedSettings, Pooling, embed, read_settings
from wordmill.generate.engine import Reason, run
from wordmill.generate.fill import Filled, decoder_start, fill
from wordmill.generate.pseudo import pseudo_log_likelihood
from wordmill.generate.sampling import SamplingConfig
from wordmill.generate.score import Score, evaluating, score_documents
from wordmill.generate.text import TextStream
from wordmill.models import lora
from wordmill.models.adapters import check_beneath, is_adapter, load_adapter, own_base
from wordmill.models.config import ModelConfig, RecurrentConfig
from wordmill.models.folder import LanguageModel, load_model, save_model
from wordmill.models.hub import resolve_model
from wordmill.tokenizer import Tokenizer

ROWS = 32
"""Most prompts that are answered side by side."""


@dataclass(frozen=True)
class Generation:
    """One answer."""

    prompt: str
    text: str
    """The answer alone, up to a stop text."""
    ids: list[int]
    """The tokens drawn, the end token and those of a stop text included."""
    reason: Reason
    """Why it ended: "eos", "stop", "length" (max_tokens) or "context" (the model has no more positions)."""
    prompt_tokens: int
    """Tokens read, the start token included."""
    seconds_prompt: float
    """Time until the first token of the batch that this prompt was in."""
    seconds: float
    """Time from the first token of that batch to this answer's last; of a beam search, all of its time."""
    score: float | None = None
    """Of a beam search: Σ log p of the tokens drawn in nats, divided by their number ** length_penalty."""

    @property
    def tokens_per_second(self) -> float:
        """Speed after the first token."""
        return (len(self.ids) - 1) / self.seconds if self.seconds > 0 else 0.0

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "prompt": self.prompt,
            "text": self.text,
            "reason": self.reason,
            "tokens": len(self.ids),
            "prompt_tokens": self.prompt_tokens,
            "seconds_prompt": round(self.seconds_prompt, 4),
            "tokens_per_second": round(self.tokens_per_second, 2),
            **({} if self.score is None else {"score": self.score}),
        }


class Loaded:
    """What `wordmill.load(folder)` returns. `model` is the module, `folder` where it came from (None for one in memory)."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, folder: Path | None = None, *, eos: Sequence[int] | None = None) -> None:
        """`eos` are the tokens that end an answer: by default the model's and the tokenizer's end token."""
        if tokenizer.vocab_size > model.config.vocab_size:
            raise ModelError(
                f"the tokenizer has {tokenizer.vocab_size:,} tokens and the model only {model.config.vocab_size:,}",
                where=folder,
                fix="They belong to different models",
            )
        self.model, self.tokenizer, self.folder = model, tokenizer, folder
        ends = eos if eos is not None else (model.config.eos_id, tokenizer.eos_id)
        self.eos = frozenset(id_ for id_ in ends if id_ is not None)

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return next(self.model.parameters()).device

    @property
    def kind(self) -> str:
        """What the model is: "decoder", "encoder", "encoder-decoder" or "recurrent"."""
        return self.config.kind

    @property
    def adapters(self) -> dict[str, float]:
        """The LoRA adapters beside the model by name, and how much each counts (0: switched off)."""
        return lora.active_adapters(self.model)

    def load_adapter(self, folder: str | Path, name: str = "default", weight: float = 1.0) -> None:
        """Put a further adapter beside the model, from a folder or the hub; those that are there go on counting. Errors as in
        `adapters.load_adapter`."""
        if self.folder is not None:
            check_beneath(resolve_model(folder), self.folder)
        load_adapter(self.model, folder, name, weight)

    def use_adapters(self, weights: Mapping[str, float]) -> None:
        """Let these adapters count, each times its weight, and no others; `{}` is the base. Raises `UsageError` for an unknown name."""
        lora.use_adapters(self.model, weights)

    def merge_adapters(self) -> None:
        """Write the adapters that count into the weights, and forget all of them: the same answers, at the base's speed."""
        lora.merge_lora(self.model)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Facts of the tokenizer, by token id."""
        return Vocabulary.of(self.tokenizer)

    @property
    def start_id(self) -> int | None:
        """The token before every text: see `Tokenizer.start_id`."""
        return self.tokenizer.start_id

    @property
    def trained_context(self) -> int | None:
        """The context in tokens that the model was trained with, where its lineage says so; None for others and recurrent models.

        Rotary positions reach further, but what a model was never shown there it does badly: scores are best taken within it.
        """
        if self.folder is None or isinstance(self.config, RecurrentConfig):
            return None
        lineage = read_lineage(self.folder)
        # A fine-tuned model's rows hold several examples, each no longer than `max_tokens`.
        context = (lineage.get("tuned") or {}).get("max_tokens") or (lineage.get("train") or {}).get("context")
        return min(context, self.config.max_positions) if isinstance(context, int) else None

    def encode_prompt(self, text: str) -> list[int]:
        """What the model reads for a prompt: the start token once, then the text; what looks like a special token in it stays text."""
        start = self.start_id
        return [*([] if start is None else [start]), *self.tokenizer.encode(text)]

    def decoder_prompt(self) -> list[int]:
        """What the decoder of an encoder–decoder starts from: its start token, and the first token where the folder forces one."""
        forced = _generation_settings(self.folder).get("forced_bos_token_id")
        return [decoder_start(self.model, "generate"), *([] if forced is None else [int(forced)])]

    def encode_documents(self, texts: Iterable[str]) -> Iterator[list[int]]:
        """The ids of whole documents as in training: start token, text, end token. Raises `ModelError` without such tokens."""
        start, end = self.start_id, self.tokenizer.required("eos")
        batch: list[str] = []
        size = 0
        for text in texts:
            batch.append(text)
            size += len(text)
            if size > 2_000_000:
                yield from ([start, *ids, end] for ids in self.tokenizer.encode_batch(batch))  # type: ignore[misc]
                batch, size = [], 0
        yield from ([start, *ids, end] for ids in self.tokenizer.encode_batch(batch))  # type: ignore[misc]

    def logits(self, ids: Sequence[int] | Sequence[Sequence[int]] | Tensor, mask: Tensor | Sequence[Sequence[int]] | None = None) -> Tensor:
        """Scores of every next token: ids (T,) or (B, T) → (B, T, V).

        `mask` (B, T) is 1 where a token is real and 0 where it is padding, on either side; what stands at padding is without
        meaning. Raises `UsageError` for shapes that don't fit and for more tokens than the model has positions.
        """
        ids = torch.as_tensor(ids, dtype=torch.long, device=self.device)
        ids = ids[None] if ids.ndim == 1 else ids
        if ids.ndim != 2 or ids.numel() == 0:
            raise UsageError(f"ids must be (T,) or (B, T) and not empty, not {tuple(ids.shape)}")
        positions = documents = None
        length = ids.shape[1]
        if mask is not None:
            real = torch.as_tensor(mask, device=self.device).bool()
            if real.shape != ids.shape:
                raise UsageError(f"the mask has the shape {tuple(real.shape)}, the ids {tuple(ids.shape)}")
            count = real.long().cumsum(-1)
            positions = torch.where(real, count - 1, -1)
            length = int(count.max())
            if not bool((real[:, :-1] >= real[:, 1:]).all()):
                # Padding before a token: as a document of its own it is seen by nobody.
                documents = real.int()
        if length > self.config.max_positions:
            raise UsageError(
                f"{length:,} tokens are more than the model's {self.config.max_positions:,} positions", fix="Score in windows: Loaded.score"
            )
        if int(ids.min()) < 0 or int(ids.max()) >= self.config.vocab_size:
            raise UsageError(f"ids must lie in 0…{self.config.vocab_size - 1}")
        with evaluating(self.model):
            hidden, _ = self.model(ids, positions, documents)
            return self.model.logits(hidden)

    def score(self, text: str, *, context: int | None = None, stride: int | None = None) -> Score:
        """What the text costs the model, as a document: nats of all its tokens and of its end token, and its UTF-8 bytes.

        Long texts are scored through a sliding window (see `score_documents`); nothing is cut. A masked model gives a
        pseudo-log-likelihood, marked as such (`Score.pseudo`), of a text that fits its positions. Raises `UsageError` for an
        encoder–decoder, which has no likelihood of a text on its own, and for a window that a masked model has no use for.
        """
        if self.kind == "encoder":
            if context is not None or stride is not None:
                raise UsageError("a masked model scores a text at once and has no window", fix="Leave out context and stride")
            found = next(pseudo_log_likelihood(self.model, self.encode_documents([text]), self.vocabulary))
            return Score(found.nats, len(text.encode()), found.tokens, pseudo=True)
        if self.kind == "encoder-decoder":
            raise UsageError("an encoder–decoder gives likelihoods of targets given sources, none of a text on its own", where=self.folder)
        context = context or self.trained_context
        found = next(score_documents(self.model, self.encode_documents([text]), context=context, stride=stride))
        return Score(found.nats, len(text.encode()), found.tokens)

    def fill(self, text: str, *, top: int = 5) -> Filled:
        """The likeliest words for each gap of a text (`[MASK]`, or the model's own mask token or sentinels): see `fill.fill`."""
        return fill(self.model, self.tokenizer, text, top=top)

    def embed(
        self,
        texts: Sequence[str],
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        truncate: bool = False,
        batch_tokens: int = BATCH_TOKENS,
    ) -> npt.NDArray[np.float32]:
        """Vectors (N, D) of texts; None takes what the folder says, see `embed_settings`. Errors as in `embed.embed`."""
        return self.embeddings(texts, pooling=pooling, normalize=normalize, truncate=truncate, batch_tokens=batch_tokens).vectors

    def embeddings(
        self,
        texts: Sequence[str],
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        truncate: bool = False,
        batch_tokens: int = BATCH_TOKENS,
        reporter: Reporter = SILENT,
    ) -> Embeddings:
        """As `embed`, with how they were made and what was cut. Warns through `reporter` of texts that were cut."""
        if isinstance(texts, str):
            raise UsageError("texts must be a list", where="embed", fix="Write embed([text])")
        settings = self.embed_settings
        settings = replace(settings, pooling=pooling or settings.pooling, normalize=settings.normalize if normalize is None else normalize)
        found = embed(self.model, self.tokenizer, texts, settings, truncate=truncate, batch_tokens=batch_tokens, reporter=reporter)
        if found.cut:
            reporter.warn(f"{found.cut:,} of {plural(len(texts), 'text')} {verb(found.cut, 'were')} too long and lost "
                          f"{plural(found.cut_tokens, 'token')} at the end")
        return found

    @cached_property
    def embed_settings(self) -> EmbedSettings:
        """How this folder's vectors are meant to be made: its sentence-transformers files, else the mean over an encoder's tokens and the
        last token of models that read one way."""
        return read_settings(self.folder, "decoder" if self.kind in ("decoder", "recurrent") else "encoder")

    @overload
    def generate(self, prompt: str, config: SamplingConfig | None = ..., *, reporter: Reporter = ..., **settings: Any) -> str: ...
    @overload
    def generate(
        self, prompt: Sequence[str], config: SamplingConfig | None = ..., *, reporter: Reporter = ..., **settings: Any
    ) -> list[str]: ...
    def generate(
        self, prompt: str | Sequence[str], config: SamplingConfig | None = None, *, reporter: Reporter = SILENT, **settings: Any
    ) -> str | list[str]:
        """The text that follows a prompt, or each of several; of an encoder–decoder, the target that it writes for each source.

        `settings` are those of `SamplingConfig` (max_tokens=100, temperature=0.8, stop=("\\n",), seed=1, …).
        """
        if isinstance(prompt, str):
            return self.generations([prompt], config, reporter=reporter, **settings)[0].text
        return [answer.text for answer in self.generations(prompt, config, reporter=reporter, **settings)]

    def generations(
        self, prompts: Sequence[str], config: SamplingConfig | None = None, *, reporter: Reporter = SILENT, **settings: Any
    ) -> list[Generation]:
        """As `generate`, with what else there is to know of each answer: tokens, why it ended, how long it took.

        Warns through `reporter` of answers that ended because the model has no more positions.
        """
        sampling = self.sampling(settings, config)
        answers: list[Generation] = []
        rows = max(1, ROWS // sampling.beams)
        for first in range(0, len(prompts), rows):
            part = prompts[first : first + rows]
            if sampling.beams > 1:
                answers += self._beamed(part, sampling)
                continue
            work = _Answers(self, part, sampling.replace(seed=sampling.seed + first))
            for _ in work.pieces():
                pass
            answers += work.results()
        cut = sum(answer.reason == "context" for answer in answers)
        if cut:
            reporter.warn(
                f"{cut} of {plural(len(answers), 'answer')} ended at the model's last position ({self.config.max_positions:,}), before "
                f"max_tokens"
            )
        return answers

    def stream(self, prompt: str, config: SamplingConfig | None = None, *, reporter: Reporter = SILENT, **settings: Any) -> Iterator[str]:
        """The same text as `generate`, in pieces as they come. A piece never splits a character, nor shows a part of a stop text.

        Raises `UsageError` for a beam search, whose text is known at its end only.
        """
        sampling = self.sampling(settings, config)
        if sampling.beams > 1:
            raise UsageError("a beam search has no text before its end", where="stream", fix="Use generate")
        work = _Answers(self, [prompt], sampling)
        for _, piece in work.pieces():
            yield piece
        if work.results()[0].reason == "context":
            reporter.warn(f"the answer ended at the model's last position ({self.config.max_positions:,}), before max_tokens")

    def sampling(self, settings: dict[str, Any], config: SamplingConfig | None = None) -> SamplingConfig:
        """Settings over those of `config`, or over the defaults: temperature 0 where nothing is to be drawn (beams), and for
        encoder–decoders, from which one wants the best answer and not a lively one. Raises `ConfigError` for one that doesn't fit."""
        stop = settings.get("stop")
        if isinstance(stop, str):
            settings = {**settings, "stop": (stop,)}
        if config is not None:
            return config.replace(**settings) if settings else config
        greedy = self.kind == "encoder-decoder" or settings.get("beams", 1) != 1
        return SamplingConfig.of({**({"temperature": 0.0} if greedy else {}), **settings}, where="generate")

    def _beamed(self, prompts: Sequence[str], config: SamplingConfig) -> list[Generation]:
        start = time.perf_counter()
        ids, sources = self.encode_inputs(prompts)
        how = BeamConfig(beams=config.beams, length_penalty=config.length_penalty, max_tokens=config.max_tokens)
        found = beam_search(self.model, ids, how, eos=sorted(self.eos), sources=sources)
        seconds = time.perf_counter() - start

        def answer(prompt: str, read: Sequence[int], beam: Beam) -> Generation:
            text = self.tokenizer.decode(beam.ids)
            return Generation(prompt, text, beam.ids, beam.reason, len(read), 0.0, seconds, beam.score)

        return [answer(*parts) for parts in zip(prompts, sources or ids, (beams[0] for beams in found), strict=True)]

    def encode_inputs(self, prompts: Sequence[str]) -> tuple[list[list[int]], list[list[int]] | None]:
        """What the model goes on from, for each prompt, and, of an encoder–decoder, what its encoder reads: the prompts.

        Raises `ConfigError` for a prompt that is no text.
        """
        if any(not isinstance(prompt, str) for prompt in prompts):
            raise ConfigError("a prompt is a text", where="generate", fix="For token ids use wordmill.generate.engine.run")
        if self.kind != "encoder-decoder":
            return [self.encode_prompt(prompt) for prompt in prompts], None
        start = self.decoder_prompt()
        return [start for _ in prompts], [self.tokenizer.wrap(self.tokenizer.encode(prompt)).ids for prompt in prompts]

    def save(self, folder: str | Path) -> None:
        """Write a model folder: the weights in their present dtype (adapters that count merged into them), the tokenizer, and the lineage
        where there is one."""
        folder = Path(folder)
        weight = next(self.model.parameters())
        save_model(self.model, folder, dtype=weight.dtype)
        self.tokenizer.save(folder)
        if self.folder is not None and (self.folder / LINEAGE).exists() and self.folder.resolve() != folder.resolve():
            write_json(folder / LINEAGE, read_lineage(self.folder))

    def __getattr__(self, name: str) -> Any:
        """Verbs of other kinds of models, refused with the reason."""
        needs = {"predict": "a model fine-tuned for a task"}
        if name in needs:
            raise UsageError(
                f"this model is a language model and can't {name}: that takes {needs[name]}", where=self.__dict__.get("folder")
            )
        raise AttributeError(
            f"{type(self).__name__!r} has no attribute {name!r}. {nearest(name, [x for x in dir(type(self)) if x[0] != '_'])}"
        )


class _Answers:
    """The answers to a batch of prompts while they grow."""

    def __init__(self, loaded: Loaded, prompts: Sequence[str], config: SamplingConfig) -> None:
        self.loaded, self.prompts, self.config = loaded, list(prompts), config
        self.ids, self.sources = loaded.encode_inputs(prompts)
        # An encoder–decoder writes a text of its own, which nothing stands before.
        self.texts = [TextStream(loaded.tokenizer, ids if self.sources is None else [], config.stop) for ids in self.ids]
        self.made: list[list[int]] = [[] for _ in prompts]
        self.reasons: list[Reason] = ["length"] * len(self.prompts)
        self.ends = [0.0] * len(self.prompts)
        self.started = self.first = time.perf_counter()

    def pieces(self) -> Iterator[tuple[int, str]]:
        """(row, text) as it becomes certain."""
        dropped: set[int] = set()
        self.started = time.perf_counter()
        steps = run(self.loaded.model, self.ids, self.config, eos=tuple(self.loaded.eos), dropped=dropped, sources=self.sources)
        for number, step in enumerate(steps):
            if number == 0:
                self.first = time.perf_counter()
            for row, token, reason in step:
                self.made[row].append(token)
                text = self.texts[row]
                piece = "" if reason == "eos" else text.add(token)
                if text.stopped is None and reason is not None:
                    piece += text.end()
                if text.stopped is not None:
                    dropped.add(row)
                    reason = "stop"
                if reason is not None:
                    self.reasons[row], self.ends[row] = reason, time.perf_counter()
                if piece:
                    yield row, piece

    def results(self) -> list[Generation]:
        """The answers, when `pieces` is used up."""
        rows = zip(self.prompts, self.texts, self.made, self.reasons, self.sources or self.ids, self.ends, strict=True)
        return [
            Generation(prompt, text.text, made, reason, len(ids), self.first - self.started, end - self.first)
            for prompt, text, made, reason, ids, end in rows
        ]


def load(folder: str | Path, *, device: str = "auto", dtype: str | None = None) -> Loaded:
    """Open a model folder, or a model of the Hugging Face hub by its name (`org/name`; see `resolve_model`). An adapter's folder opens
    with the base that it names, as `Loaded.folder`, and the adapter beside it.

    `device` is "auto", "cpu", "cuda" or "cuda:1"; `dtype` "fp32", "bf16", "auto" (bfloat16 where the device computes it much
    faster: twice as fast in generating), or None for that of the weights on disk. Raises `ModelError` when the folder is missing,
    incomplete or of another kind, `UsageError` for a device that isn't there.
    """
    chosen = choose_device(device)
    return load_on(resolve_model(folder), chosen, None if dtype is None else choose_dtype(dtype, chosen, reading=True))


def load_on(folder: Path, device: torch.device, dtype: torch.dtype | None) -> Loaded:
    """As `load`, for a folder, a device and a dtype that are settled; None keeps the dtype of the weights on disk."""
    base = own_base(folder) if is_adapter(folder) else folder
    model = load_model(base, device=device, dtype=dtype)
    if base is not folder:
        load_adapter(model, folder)
    words = folder if (folder / "tokenizer_config.json").exists() else base
    tokenizer = Tokenizer.load(words)
    trained = read_lineage(base).get("tokenizer")
    if isinstance(trained, str) and trained != tokenizer.hash:
        raise ModelError("this is not the tokenizer that the model was trained with: its ids mean other words", where=words,
                         fix="Put back the tokenizer files that came with the model (wordmill.json holds their hash)")  # fmt: skip
    return Loaded(model, tokenizer, base, eos=_end_tokens(base, model))


def _end_tokens(folder: Path, model: LanguageModel) -> list[int] | None:
    """What generation_config.json, else config.json, names as end tokens (chat models name several)."""
    named = _generation_settings(folder).get("eos_token_id", model.config.eos_id)
    if named is None:
        return None
    return list(named) if isinstance(named, list) else [int(named)]


def _generation_settings(folder: Path | None) -> dict[str, Any]:
    """What generation_config.json says; older folders say it in config.json."""
    if folder is None:
        return {}
    path = folder / "generation_config.json"
    if path.exists():
        return read_json(path)
    return {name: value for name, value in read_json(folder / "config.json").items() if name == "forced_bos_token_id"}


def generate(
    model: str | Path | Loaded, prompt: str | Sequence[str], config: SamplingConfig | None = None, **settings: Any
) -> str | list[str]:
    """Open a model folder (unless it is open already) and continue a prompt, or each of several: see `Loaded.generate`."""
    loaded = model if isinstance(model, Loaded) else load(model)
    return loaded.generate(prompt, config, **settings)
