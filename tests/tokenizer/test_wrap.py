"""Special tokens around texts, for every post-processor, against the library that applies them to texts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import processors

from wordmill.core.errors import ModelError
from wordmill.tokenizer import Tokenizer
from wordmill.tokenizer.wrap import BARE, layout_of

TEMPLATE = processors.TemplateProcessing(
    single="[CLS] $A:1 [SEP]", pair="[CLS] $B:2 [SEP] $A:0 [SEP]:3 [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
)
BYTE_LEVEL = processors.ByteLevel(trim_offsets=True)
PROCESSORS = {
    "none": None,
    "bytes": BYTE_LEVEL,
    "bert": processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
    "roberta": processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2)),
    "template": TEMPLATE,
    "sequence": processors.Sequence([BYTE_LEVEL, TEMPLATE]),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_ids_and_types_are_those_of_the_library(tokenizers, name):
    backend = Backend.from_str(tokenizers["wordpiece"]._json)
    if PROCESSORS[name] is None:
        spec = json.loads(backend.to_str())
        backend = Backend.from_str(json.dumps({**spec, "post_processor": None}))
    else:
        backend.post_processor = PROCESSORS[name]
    ours = Tokenizer(backend.to_str())
    texts = ["The mill", "", "磨坊 words"]
    for first in texts:
        single = backend.encode(first)
        assert ours.wrap(ours.encode(first)) == (single.ids, single.type_ids)
        assert ours.wrap_size() == len(single.ids) - len(ours.encode(first))
        for second in texts:
            pair = backend.encode(first, second)
            assert ours.wrap(ours.encode(first), ours.encode(second)) == (pair.ids, pair.type_ids)
            assert ours.wrap_size(pair=True) == len(pair.ids) - len(ours.encode(first)) - len(ours.encode(second))


def test_the_names_in_a_post_processor_decide_where_nobody_says(tokenizers):
    backend = Backend.from_str(tokenizers["bpe"]._json)
    backend.post_processor = processors.RobertaProcessing(("<|im_end|>", 3), ("<|im_start|>", 2))
    bare = Tokenizer(backend.to_str())
    assert (bare.cls_id, bare.sep_id) == (2, 3)
    named = Tokenizer(backend.to_str(), {"cls_token": "<|pad|>"})
    assert (named.cls_id, named.sep_id) == (1, None)


@pytest.mark.parametrize(
    "processor", [{"type": "New"}, {"type": "Sequence", "processors": [json.loads(TEMPLATE.__getstate__())] * 2}], ids=["unknown", "two"]
)
def test_what_is_not_known_is_an_error(processor: dict[str, Any]):
    with pytest.raises(ModelError, match="not supported"):
        layout_of(processor)
    assert layout_of(None) == BARE
