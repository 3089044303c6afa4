"""Names on the Hugging Face hub, without a network: `snapshot_download` is replaced."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from wordmill.core.errors import ModelError
from wordmill.models.hub import OLD_WEIGHTS, WEIGHTS, resolve_model, settled
from wordmill.tasks.finetune import FinetuneConfig
from wordmill.tasks.pretrain import PretrainConfig


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub whose models are the folders of `tmp_path`; what was asked for is in the list returned."""
    calls: list[tuple[str, list[str]]] = []

    def download(name, *, allow_patterns):
        calls.append((name, allow_patterns))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    return calls


def _model(folder: Path, weights: str) -> None:
    folder.mkdir(parents=True)
    (folder / weights).write_bytes(b"")


def test_a_name_is_downloaded_with_settings_tokenizer_and_safetensors_only(hub, tmp_path, monkeypatch):
    _model(tmp_path / "org" / "new", "model.safetensors")
    monkeypatch.chdir(Path("/"))
    assert resolve_model("org/new") == tmp_path / "org" / "new"
    ((name, patterns),) = hub
    assert name == "org/new"
    assert {*WEIGHTS, "config.json", "tokenizer.json", "modules.json"} <= {*patterns}
    assert not any(pattern.endswith((".bin", ".py", ".h5", ".msgpack")) or pattern.startswith("*") for pattern in patterns)


def test_old_weights_are_downloaded_where_there_are_no_others(hub, tmp_path, monkeypatch):
    _model(tmp_path / "org" / "old", "pytorch_model.bin")
    monkeypatch.chdir(Path("/"))
    assert resolve_model("org/old") == tmp_path / "org" / "old"
    assert len(hub) == 2 and {*OLD_WEIGHTS} <= {*hub[1][1]} and not {*WEIGHTS} & {*hub[1][1]}


def test_folders_and_mistyped_paths_never_go_to_the_network(hub, tmp_path):
    _model(tmp_path / "runs" / "model", "model.safetensors")
    assert resolve_model("runs/model") == Path("runs/model")
    for path in ("runs/modle", "nothing", "/no/where", "./a/b", "a/b/c", "../x/y", "~/x"):
        assert resolve_model(path) == Path(path)
    assert hub == []


def test_a_run_folder_is_its_model_folder(hub, tmp_path):
    _model(tmp_path / "runs" / "x" / "model", "model.safetensors")
    (tmp_path / "runs" / "x" / "model" / "config.json").write_text("{}")
    assert resolve_model("runs/x") == resolve_model("runs/x/model") == Path("runs/x/model")
    names = (None, "bert", "runs/x", "runs/x/model", "./runs/y", "org/new")
    assert [settled(name) for name in names] == [None, "bert", "runs/x/model", "runs/x/model", "./runs/y", "org/new"]
    assert FinetuneConfig(task="classify", parent="runs/x").parent == PretrainConfig(parent="runs/x").parent == "runs/x/model"
    (tmp_path / "runs" / "x" / "adapter_config.json").write_text("{}")
    assert resolve_model("runs/x") == Path("runs/x") and hub == []


def test_a_name_on_the_hub_is_a_model_to_fine_tune(hub, tmp_path, monkeypatch):
    _model(tmp_path / "org" / "base", "model.safetensors")
    monkeypatch.chdir(Path("/"))
    config = FinetuneConfig(task="classify", parent="org/base")
    assert config.shaped and not config.scratch and hub == [], "a name alone asks nobody"
    assert config.base == config.base == tmp_path / "org" / "base" and len(hub) == 1
    assert FinetuneConfig(task="classify", parent="bert").scratch


@pytest.mark.parametrize(("error", "part"), [
    (LocalEntryNotFoundError("not cached"), "could not be downloaded"), (OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE"),
    (ConnectionError("no route"), "could not be downloaded"), (HFValidationError("bad name"), "not a name that the hub can have"),
])  # fmt: skip
def test_without_a_network_one_error_names_the_model_and_says_what_to_do(hub, monkeypatch, error, part):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match=part) as caught:
        resolve_model("org/name")
    assert caught.value.where == "org/name" and caught.value.fix


def test_our_own_faults_are_not_taken_for_the_network(hub, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ZeroDivisionError):
        resolve_model("org/name")
