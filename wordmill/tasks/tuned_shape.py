"""The shape of a model that is fine-tuned: the one that it has, or for new weights one that suits the text to learn from, and the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wordmill.core.errors import UsageError
from wordmill.models.config import ModelConfig, RecurrentConfig
from wordmill.models.folder import check_expressible, read_config
from wordmill.tasks.plan import asked_size, parse_count, parse_time
from wordmill.tokenizer import Tokenizer
from wordmill.train import budget

if TYPE_CHECKING:
    from wordmill.tasks.finetune import FinetuneConfig

LABELLER: dict[str, Any] = {"layers": 1, "width": 384, "dropout": 0.5, "token_dropout": 0.15}
"""A recurrent model from scratch that labels texts or words, where nothing is asked for (docs/log.md)."""
NARROW, SCANT = 200, 0.75e-3
"""How wide it is where less time is given than so many seconds for a byte of text: fifteen readings by the usual one take about a
millisecond for each on a core with matrix units, and a narrow one that has read enough knows more than a wide one that hasn't."""
SMALLEST = 128, 2
"""Width and layers of the smallest Transformer that is chosen."""
SMALL_TEXT = 10_000_000
"""Bytes of text to learn from below which a Transformer from scratch that labels is 128 wide and has 2 layers, else 256 and 4."""


def tuned_shape(config: FinetuneConfig, tokenizer: Tokenizer, n_bytes: int, *, writes: bool) -> ModelConfig:
    """The model's shape, dropout set: of the folder, or of a new model of the family for so much text to learn from. Raises `ConfigError`
    for what doesn't fit."""
    assert config.parent is not None
    if config.shaped:
        model = read_config(config.base)
        if model.vocab_size < tokenizer.vocab_size:
            raise UsageError(
                f"the tokenizer has {tokenizer.vocab_size:,} tokens and the model only {model.vocab_size:,}", where=config.parent
            )
        if isinstance(model, RecurrentConfig) and model.bidirectional:
            least = {name: max(LABELLER[name], getattr(model, name)) for name in ("dropout", "token_dropout")}
            return model.replace(**{**least, **config.shape})
        return model.replace(dropout=config.shape.get("dropout", max(0.1, model.dropout)))
    common: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id,
                              "pad_id": tokenizer.pad_id}  # fmt: skip
    if config.parent in budget.RECURRENT:
        labeller = {name: LABELLER[name] for name in ("layers", "dropout", "token_dropout")}
        common |= {"dropout": 0.3} if writes else {"bidirectional": True, "lm_head": False, **labeller}
    else:
        parts = budget.family_shape(config.parent, 64, 1)
        common |= {"dropout": 0.1, **({} if parts.get("positions") == "relative" else {"max_positions": 1024})}
        common |= {"decoder_start_id": tokenizer.required("pad", "from which the decoder starts")} if parts.get("encoder_layers") else {}
    own, rest = budget.sizes(config.shape)
    common |= rest
    if config.size is not None:
        chosen = budget.for_size(config.parent, parse_count(config.size, "--size"), common, own)
    else:
        usual, layers = SMALLEST if not writes and n_bytes < SMALL_TEXT else (256, 4)
        if common.get("bidirectional"):
            scant = config.time is not None and parse_time(config.time) < SCANT * n_bytes
            usual = NARROW if scant else LABELLER["width"]
        shape = budget.family_shape(config.parent, *asked_size(config.shape, usual, layers))
        chosen = budget.model_config(config.parent, {**shape, **common, **own})
    check_expressible(chosen)
    return chosen


def narrowed(config: FinetuneConfig, model: RecurrentConfig) -> bool:
    """Whether a new model is narrower than usual because time is scant."""
    asked = config.size is not None or {"width", "hidden_size"} & set(config.shape)
    return model.bidirectional and not config.shaped and not asked and model.hidden_size == NARROW
