"""What names a model, as the folder that it is in: a model folder, the run folder around it, or a name on the Hugging Face hub, downloaded
once, then found in the hub's cache. The only place that may touch the network, and only when the user gives such a name."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from wordmill.core.errors import ModelError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SETTINGS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "chat_template.jinja",
    "additional_chat_templates/*.jinja", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "wordmill.json", "adapter_config.json",
)  # fmt: skip
"""Files of settings and of tokenizers that we read."""
WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
OLD_WEIGHTS = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")
"""Downloaded only where there are no `WEIGHTS`."""


def resolve_model(name: str | Path) -> Path:
    """The folder of a model: `name` itself or, of a run folder, its `model`; else the hub's `org/name`, downloaded unless it is in the
    cache already.

    A name whose first part is a folder here is a path, whatever it looks like: a folder mistyped must not go to the network. Only settings,
    tokenizer and weights are downloaded, no code. HF_HUB_OFFLINE, HF_HOME and HF_TOKEN mean what they always mean. A path that isn't there
    is given back as it is, for whoever opens it to say so. Raises `ModelError` for a hub name that can't be had.
    """
    path = Path(name)
    if path.exists() or not is_hub_name(str(name)):
        return _inside(path)
    return _downloaded(path.as_posix())


def settled(name: str | None) -> str | None:
    """The name of a model as settings keep it: of a run folder that of its `model`, so that both names are one."""
    if name is None:
        return None
    found = _inside(Path(name))
    return name if found == Path(name) else str(found)


def _inside(path: Path) -> Path:
    """A run folder's model folder; any other path as it is."""
    alone = any((path / name).exists() for name in ("config.json", "adapter_config.json"))
    return path / "model" if not alone and (path / "model" / "config.json").exists() else path


@cache
def _downloaded(hub: str) -> Path:
    """The folder of a hub's model; the hub is asked once in a process."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = Path(huggingface_hub.snapshot_download(hub, allow_patterns=[*SETTINGS, *WEIGHTS]))
        if not any(folder.glob("*.safetensors")):
            folder = Path(huggingface_hub.snapshot_download(hub, allow_patterns=[*SETTINGS, *OLD_WEIGHTS]))
    except GatedRepoError as error:
        raise _unreachable(hub, "this model asks for an agreement first", "Accept it on the hub's page, then set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise _unreachable(hub, "no such folder here, no such model on the hub", "Check the name; a private one needs HF_TOKEN") from error
    except HFValidationError as error:
        raise _unreachable(hub, "no such folder here, and not a name that the hub can have", "Check the name") from error
    except LocalEntryNotFoundError as error:
        raise _offline(hub) from error
    except OSError as error:  # of the connection, of HF_HUB_OFFLINE, of the hub itself (HfHubHTTPError)
        raise _offline(hub) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore", "requests"):  # which of them, depends on the hub's version
            raise
        raise _offline(hub) from error
    return folder


def is_hub_name(name: str) -> bool:
    """Whether a path that isn't there can be meant as a name on the hub: two plain words, the first of them no folder here."""
    return _NAME.fullmatch(name) is not None and not Path(name.partition("/")[0]).exists()


def _offline(hub: str) -> ModelError:
    return _unreachable(
        hub,
        "no such folder here, and the hub's model of this name could not be downloaded: no network, or HF_HUB_OFFLINE is set, and it is "
        "not in the cache",
        "Connect once, or give the path of a model folder",
    )


def _unreachable(hub: str, what: str, fix: str) -> ModelError:
    return ModelError(what, where=hub, fix=fix)
