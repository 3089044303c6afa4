"""Answers in place of the next token: a model whose output layer says what a whole text is, or what each of its tokens is.

    tokens ─ base (any model) ─ states ─ (state of the text's first or last token, or their mean) ─ [dense ─ activation ─ norm] ─ logits
    tokens ─ [n-grams (ngrams.py)] ───────────────────────────────────────────────────────────────────────────────────────────── + logits

How the head of each family looks and is called stands in models/families/ (`Family.heads`), so that the folder opens in
`transformers` with the same logits. What transformers has no class for (recurrent models, some pairs of family and head, a CRF, n-grams)
is saved under names of our own. Where an answer is wanted, `Batch.targets` is not `IGNORE`: one place a text for `sequence`, the
first sub-word of each word for `token`.

Shapes: B rows, T tokens, D width, N answers, L labels, W words of the longest text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from wordmill.batches.batch import Batch
from wordmill.core.config import Config
from wordmill.core.errors import ModelError
from wordmill.core.files import read_json, write_atomic, write_json
from wordmill.models import folder as folders
from wordmill.models.blocks import ACTIVATIONS, Linear, Norm
from wordmill.models.config import ModelConfig, TransformerConfig
from wordmill.models.crf import CRF
from wordmill.models.families import family
from wordmill.models.families._base import Head
from wordmill.models.folder import LanguageModel
from wordmill.models.meta import without_weights
from wordmill.models.ngrams import NGrams
from wordmill.models.ops import dropout, picked
from wordmill.models.tensors import WEIGHTS, Stored, open_weights
from wordmill.models.transformer import Transformer

Kind = Literal["sequence", "token", "span"]
POOLING = "classifier_pooling"
"""Where config.json says which states stand for a whole text: ModernBERT's name for it."""
OUT = "wordmill_head"
"""What the head's output layer is called where no class of `transformers` has it."""
GRAMS = "grams."
"""What the names of the tensors of n-grams begin with."""


class HeadConfig(Config):
    """What stands in place of the output layer."""

    kind: Kind
    """sequence: one answer a text; token: one a word; span: where an answer begins and ends."""
    labels: tuple[str, ...]
    """What the logits stand for, in their order: settled once, before training."""
    multi_label: bool = False
    """Whether several labels may hold at once."""
    pooling: Literal["usual", "mean"] = "usual"
    """What stands for a whole text: the token that the family reads, or the mean of all."""
    crf: bool = False
    """Whether the labels of neighbouring words are told together, by a conditional random field."""
    ngrams: bool = False
    """Whether a linear model over n-grams of the tokens speaks beside the network."""
    dropout: float = 0.1
    """Share of the state dropped in training before each layer of the head."""


def head_layout(config: ModelConfig, kind: str, pooling: str = "usual", *, ngrams: bool = False) -> Head:
    """How the head looks on a model of that family; one of our own where `transformers` has no class."""
    if ngrams:  # read as it would be without them, and called ours: transformers would leave them out
        return replace(head_layout(config, kind, pooling), architecture=f"Wordmill{folders.HEAD_KINDS[kind]}", out=OUT)
    found = family(config.family).heads.get(kind) if isinstance(config, TransformerConfig) else None
    ours = Head(f"Wordmill{folders.HEAD_KINDS[kind]}", OUT, reads="last" if config.causal else "mean")
    if pooling == "mean" and kind == "sequence":
        can = found if found is not None and POOLING in found.settings else ours
        return replace(can, reads="mean", settings={**can.settings, POOLING: "mean"})
    return ours if found is None else found


class Headed(nn.Module):
    """A model with a head for a task. Its output layer over the vocabulary is gone."""

    def __init__(self, base: LanguageModel, head: HeadConfig) -> None:
        super().__init__()
        self.base, self.head = base, head
        self.layout = layout = head_layout(base.config, head.kind, head.pooling, ngrams=head.ngrams)
        c, n = base.config, len(head.labels)
        self.dense = Linear(c.width, c.width, bias=layout.dense_bias) if layout.dense else None
        self.norm = None
        if layout.norm and isinstance(c, TransformerConfig):
            self.norm = Norm(c.width, c.norm, c.norm_eps, bias=c.norm_bias)
        self.out = nn.Linear(c.width, n, bias=layout.out_bias)
        self.crf = CRF(n) if head.crf else None
        self.grams: NGrams | None = None
        """Where the head has n-grams: they are fitted, or loaded, when the model is there."""
        self._recent: list[Any] | None = None

    @property
    def config(self) -> ModelConfig:
        """The base's shape."""
        return self.base.config

    def states(self, batch: Batch, only: Tensor | None = None) -> Tensor:
        """The base's states (B, T, D), or (N, D) of the places `only`. An encoder–decoder's decoder reads the text too, one place late, as
        `transformers` has it; for answers about each token its encoder is read alone."""
        base, ids = self.base, batch.input_ids
        if isinstance(base, Transformer) and base.encoder is not None:
            memory = base.encode(ids, batch.positions, batch.documents)
            if self.head.kind != "sequence":
                return picked(memory.hidden, only)
            late = torch.where(batch.positions == 0, base.config.decoder_start_id or 0, ids.roll(1, 1))
            return base(late, batch.positions, batch.documents, memory=memory, only=only)[0]
        named = {"types": batch.types} if batch.types is not None and isinstance(base, Transformer) and base.config.token_types else {}
        return base(ids, batch.positions, batch.documents, only=only, **named)[0]

    def logits(self, states: Tensor) -> Tensor:
        """(…, D) → (…, L)."""
        share = self.head.dropout
        if self.dense is not None:
            states = ACTIVATIONS[self.layout.activation](self.dense(dropout(states, share, self.training)))
        if self.norm is not None:
            states = self.norm(states)
        return self.out(dropout(states, share, self.training))

    def forward(self, batch: Batch) -> Tensor:
        """Logits (N, L) at the places where `batch.targets` is not `IGNORE`, row by row; at least one, as in `Batch.places`."""
        if self._recent and self._recent[0] is batch:
            return cast(Tensor, self._recent[1])
        network, said = self.parts(batch)
        logits = network if self.grams is None or said is None else self.grams.added_to(network, said)
        if self._recent is not None:
            self._recent = [batch, logits]
        return logits

    @contextmanager
    def reading_once(self) -> Iterator[None]:
        """Inside, the same batch read twice is read once: what it costs and what is answered come from the same logits."""
        self._recent = []
        try:
            yield
        finally:
            self._recent = None

    def parts(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The logits of the network, and those of the n-grams, where there are any."""
        places = batch.places
        mean = self.head.kind == "sequence" and self.layout.reads == "mean"
        logits = self.logits(_means(self.states(batch), batch).index_select(0, places) if mean else self.states(batch, places))
        if self.grams is None:
            return logits, None
        texts = text_numbers(batch)
        real = batch.positions.flatten() >= 0
        said = self.grams(batch.input_ids.flatten()[real], texts[real], int(texts[-1]) + 1)
        return logits, said.index_select(0, texts.index_select(0, places))

    def place(self, length: int) -> int:
        """Which token of a text of that length answers for the whole."""
        return length - 1 if self.layout.reads == "last" else 0

    def matrix_parts(self) -> dict[str, tuple[int, ...]]:
        """As the base's."""
        parts = self.base.matrix_parts() if isinstance(self.base, Transformer) else {}
        return {f"base.{name}": sizes for name, sizes in parts.items()}

    def matrix_factors(self) -> dict[str, tuple[float, ...]]:
        """As the base's."""
        factors = self.base.matrix_factors() if isinstance(self.base, Transformer) else {}
        return {f"base.{name}": by for name, by in factors.items()}

    @torch.no_grad()
    def initialise_head(self, seed: int, parts: Mapping[str, Tensor] | None = None) -> None:
        """Draw the head's weights, normal with the model's `init_std`; `parts` holds those that are taken from the pretrained model."""
        generator = torch.Generator().manual_seed(seed)
        std = self.config.init_std if isinstance(self.config, TransformerConfig) else 0.02
        for name, parameter in self.named_parameters():
            if name.startswith("base."):
                continue
            if parts is not None and name in parts:
                parameter.copy_(parts[name])
            elif name.startswith("norm"):
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            elif name.endswith("bias") or name.startswith("crf."):
                parameter.zero_()
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def text_numbers(batch: Batch) -> Tensor:
    """Which text of the batch each place (B·T,) belongs to, rising; padding between texts has numbers of its own."""
    rows = torch.arange(len(batch.positions), device=batch.positions.device)[:, None]
    documents = torch.where(batch.positions < 0, -1, 0) if batch.documents is None else batch.documents.long()
    key = rows * (int(documents.max()) + 2) + documents
    return torch.unique_consecutive(key.flatten(), return_inverse=True)[1]


def _means(states: Tensor, batch: Batch) -> Tensor:
    """For every place (B·T, D) the mean state of its text."""
    texts = text_numbers(batch)
    sizes = torch.bincount(texts).to(states.dtype)
    sums = states.new_zeros(len(sizes), states.shape[-1]).index_add(0, texts, states.flatten(0, 1))
    return (sums / sizes[:, None]).index_select(0, texts)


def with_head(base: LanguageModel, head: HeadConfig, *, seed: int) -> Headed:
    """The model with a head in place of its output layer, which takes over what the family says that it starts from.

    The weights are those of `base`, not copies. All learn.
    """
    own = base.state_dict()
    changes = {"lm_head": False, **({"pooler": False} if isinstance(base.config, TransformerConfig) else {})}
    with without_weights():
        bare = folders.build_model(base.config.replace(**changes))
    bare.load_state_dict({name: own[name] for name, _ in bare.named_parameters()}, assign=True)
    model = Headed(bare, head)
    parts = {
        f"{ours}.{kind}": own[f"{theirs}.{kind}"]
        for ours, theirs in model.layout.takes.items() for kind in ("weight", "bias") if f"{theirs}.{kind}" in own
    }  # fmt: skip
    model.initialise_head(seed, parts)
    return model.to(next(bare.parameters()).dtype).requires_grad_(True)


def head_names(model: Headed) -> dict[str, str]:
    """Names of the head's parameters, and what they are called in the folder."""
    layout = model.layout
    layers = {"out": layout.out, "dense": layout.dense, "norm": layout.norm, "crf": "crf"}
    found = {}
    for name, _ in model.named_parameters():
        part, _, rest = name.partition(".")
        if part != "base":
            found[name] = f"{layers[part]}.{rest}"
    return found


def save_headed(model: Headed, folder: Path, *, dtype: torch.dtype = torch.float32, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write config.json (with `id2label`) and model.safetensors. `weights` replaces the model's own. Raises as `save_model`."""
    folders.check_expressible(model.config)
    folder.mkdir(parents=True, exist_ok=True)
    ours = {name: weight for name, weight in (model.state_dict() if weights is None else weights).items() if not name.startswith(GRAMS)}
    theirs = {called: ours.pop(name) for name, called in head_names(model).items()}
    base = {name.removeprefix("base."): tensor for name, tensor in ours.items()}
    theirs |= {model.layout.prefix + name: tensor for name, tensor in folders.to_family(model.config, base)}
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in theirs.items()}
    if model.grams is not None:
        tensors |= {GRAMS + name: tensor.cpu() for name, tensor in model.grams.state_dict().items()}
    write_atomic(folder / WEIGHTS, lambda part: folders.write_tensors(tensors, part))
    values = folders.config_json(model.config, dtype)
    labels = model.head.labels
    values |= {"architectures": [model.layout.architecture], "id2label": {str(i): label for i, label in enumerate(labels)},
               "label2id": {label: i for i, label in enumerate(labels)}, "classifier_dropout": model.head.dropout,
               **model.layout.settings}  # fmt: skip
    if model.head.kind == "sequence":
        values["problem_type"] = "multi_label_classification" if model.head.multi_label else "single_label_classification"
    write_json(folder / "config.json", values)


def load_headed(folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Headed:
    """The model in a folder that was fine-tuned for a task, here or elsewhere, in evaluation mode; the rest as in `load_model`.

    Raises `ModelError` also for a folder without a head.
    """
    folder = Path(folder)
    config = folders.read_config(folder).replace(lm_head=False)
    stored = open_weights(folder)
    head = read_head(folder, stored)
    with without_weights():
        model = Headed(folders.build_model(config), head)
    own: dict[str, Tensor] = {}
    for name, called in head_names(model).items():
        parameter = model.get_parameter(name)
        tensor = _taken(called, tuple(parameter.shape), stored, folder)
        own[name] = torch.empty(tuple(parameter.shape), dtype=dtype or tensor.dtype)
        tensor.copy_to(own[name], shift=0.0)
    if head.ngrams:
        keys = stored[f"{GRAMS}keys"].shape
        model.grams = NGrams(keys[0] if keys else 0, len(head.labels))
        for name, buffer in model.grams.state_dict().items():
            _taken(GRAMS + name, tuple(buffer.shape), stored, folder).copy_to(buffer, shift=0.0)
        model.grams.to(device)
    prefix = model.layout.prefix
    stored = {name.removeprefix(prefix): tensor for name, tensor in stored.items()}
    model.base = folders.assemble(config, stored, folder, device=device, dtype=dtype)
    model.load_state_dict({name: tensor.to(device) for name, tensor in own.items()}, strict=False, assign=True)
    return model.requires_grad_(False).eval()


def read_head(folder: Path, stored: Mapping[str, Stored]) -> HeadConfig:
    """The head of the model in a folder with the tensors `stored`. Raises `ModelError` where there is none."""
    kind, values = folders.head_kind(folder), read_json(folder / "config.json")
    if kind is None:
        raise ModelError(
            "this model has no head for a task: it is a language model", where=folder, fix="Fine-tune it first: wordmill finetune"
        )
    named = values.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    labels = tuple(str(named[key]) for key in sorted(named, key=int))
    return HeadConfig(kind=cast(Kind, kind), labels=labels, multi_label=values.get("problem_type") == "multi_label_classification",
                      pooling="mean" if values.get(POOLING) == "mean" else "usual", crf="crf.transitions" in stored,
                      ngrams=f"{GRAMS}keys" in stored, dropout=values.get("classifier_dropout") or 0.0)  # fmt: skip


def _taken(name: str, shape: tuple[int, ...], stored: dict[str, Stored], folder: Path) -> Stored:
    """A tensor of the head, taken out of a folder's. Raises `ModelError` where it is missing or has another shape."""
    if name not in stored or stored[name].shape != shape:
        found = f" has shape {stored[name].shape}, expected {shape}" if name in stored else " is missing"
        raise ModelError(f"the tensor {name}{found}", where=folder)
    return stored.pop(name)


def goes_on(model: Headed, before: Headed) -> bool:
    """Whether a head answers the same as another, made alike, so that it can begin with what that has learned."""
    one, other = ((each.head.kind, each.head.labels, each.head.multi_label, replace(each.layout, architecture="", out=""))
                  for each in (model, before))  # fmt: skip
    return one == other


@torch.no_grad()
def take_head(model: Headed, before: Headed) -> None:
    """Begin with another's head, which `goes_on`; with its CRF, where both have one."""
    theirs = dict(before.named_parameters())
    for name, parameter in model.named_parameters():
        if not name.startswith("base.") and name in theirs:
            parameter.copy_(theirs[name])


def has_ngrams(folder: Path) -> bool:
    """Whether n-grams stand beside the network of the model in a folder."""
    return folders.head_kind(folder) is not None and f"{GRAMS}keys" in open_weights(folder)


def load_start(folder: str | Path, *, dtype: torch.dtype | None = None) -> tuple[LanguageModel, Headed | None]:
    """The model in a folder, to be fine-tuned for a task; of one that was fine-tuned before, what stands below its head, and the whole."""
    folder = Path(folder)
    folders.read_config(folder)
    if folders.head_kind(folder) is None:
        return folders.load_model(folder, dtype=dtype), None
    before = load_headed(folder, dtype=dtype)
    return before.base, before


def load_base(folder: str | Path, *, dtype: torch.dtype | None = None) -> LanguageModel:
    """The model alone of `load_start`."""
    return load_start(folder, dtype=dtype)[0]
