from __future__ import annotations

import errno
import json
import os
import signal
import time

import pytest

from wordmill.cli import common, finetune
from wordmill.cli.app import COMMANDS, Group, main
from wordmill.core.errors import DataError


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for word, entry in COMMANDS.items():
        for below in entry.commands if isinstance(entry, Group) else [""]:
            assert f"{word} {below}".strip() in out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("wordmill 0.")


def test_a_misspelt_command_gets_the_nearest_name(capsys):
    assert main(["docter"]) == 2
    assert capsys.readouterr().err == "error: there is no command 'docter'. Did you mean 'doctor'?\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [("finetune classify x --num_train_epochs 3", "there is no option --num_train_epochs. Here it is --epochs"),
     ("finetune classify x --n_embd 64", "there is no option --n_embd. Here it is a setting, without dashes: model.width=… or "
                                         "model.hidden_size=…"),
     ("finetune x hidden_size=64", "can't read the setting 'hidden_size=64'. Settings name their section: model.width=64 or "
                                   "model.hidden_size=64"),
     ("finetune x ngrams=true", "can't read the setting 'ngrams=true'. Settings name their section: task.ngrams=true"),
     ("finetune x nix=3", "can't read the setting 'nix=3'. There is no setting 'nix'. Settings name their section, such as train.rows=16"),
     ("finetune x --text_column a", "there is no option --text_column. Here it is a setting, without dashes: task.text=…"),
     ("finetune x --fp16", "there is no option --fp16. Here it is --dtype bf16"),
     ("finetune x --early_stopping_patience 3", "there is no option --early_stopping_patience. Here it is patience=…"),
     ("pretrain x --early_stopping_patience 3", "there is no option --early_stopping_patience. Try 'wordmill pretrain --help'"),
     ("pretrain x --warmup_ratio 3", "there is no option --warmup_ratio. Here it is a setting, without dashes: train.schedule.warmup=…"),
     ("pretrain x --epoch 3", "there is no option --epoch. Did you mean --epochs?"),
     ("finetune x --learning-rate 3", "there is no option --learning-rate. Here it is --lr"),
     ("pretrain x --learning_rate 3", "there is no option --learning_rate. Here it is a setting, without dashes: train.optim.lr=…"),
     ("pretrain x --n_layer 6", "there is no option --n_layer. Here it is a setting, without dashes: model.layers=…"),
     ("pretrain x --vocab 3", "there is no option --vocab. Here it is a setting, without dashes: tokenizer.vocab=…"),
     ("pretrain x n_embd=3", "can't read the setting 'n_embd=3'. Settings name their section: model.width=3 or model.hidden_size=3"),
     ("finetune x dropout=0", "can't read the setting 'dropout=0'. Settings name their section: task.dropout=0 or model.dropout=0"),
     ("pretrain README.md train.learning_rate=3", "train: unknown setting 'learning_rate'. It is called 'optim.lr' here"),
     ("pretrain x --nix", "there is no option --nix. Try 'wordmill pretrain --help'")],
)  # fmt: skip
def test_names_from_elsewhere_are_told_as_they_are_here(words, said, capsys):
    assert main(words.split()) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_what_is_said_to_names_from_elsewhere_is_true():
    from wordmill.cli.names import CALLED_ELSEWHERE
    from wordmill.models.config import RecurrentConfig, TransformerConfig
    from wordmill.train.loop import TrainConfig
    from wordmill.train.optim import OptimConfig
    from wordmill.train.schedule import ScheduleConfig

    offered = {option for name in ("pretrain", "finetune") for each in _options(name) for option in each}
    for here in CALLED_ELSEWHERE.values():
        assert here.partition(" ")[0] in offered or here.removesuffix("=…") in finetune.PLAIN
    for config in (TransformerConfig, RecurrentConfig, TrainConfig, OptimConfig, ScheduleConfig):
        for other, own in config.called_elsewhere.items():
            group, _, inner = own.rpartition(".")
            fields = OptimConfig.model_fields if group == "optim" else config.model_fields
            assert inner in fields and other not in config.model_fields


def _options(name):
    from wordmill.cli.app import build

    command = COMMANDS[name]
    assert not isinstance(command, Group)
    return [each.opts for each in build(name, command).params]


def test_a_misspelt_option_gets_the_nearest_name_in_one_line(capsys):
    assert main(["doctor", "--devise", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error == "error: there is no option --devise. Did you mean --device?\n"
    assert error.count("\n") == 1


def test_an_error_that_the_user_can_mend_is_one_line_and_exit_code_2(capsys):
    def broken() -> None:
        raise DataError("not valid JSON", where="a.jsonl:3", fix="Mend it")

    assert common.run(broken) == 2
    assert capsys.readouterr().err == "error: a.jsonl:3: not valid JSON. Mend it\n"


def test_our_own_faults_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        common.run(lambda: 1 / 0)


def test_ctrl_c_is_130(capsys):
    def stopped() -> None:
        raise KeyboardInterrupt

    assert common.run(stopped) == 130


def test_a_number_returned_is_the_exit_code():
    assert common.run(lambda: 1) == 1
    assert common.run(lambda: None) == 0


def test_emit(capsys):
    common.emit(True, {"bpb": 1.5, "文": "字"}, "for people")
    common.emit(False, {}, "for people")
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first) == {"bpb": 1.5, "文": "字"}
    assert second == "for people"


def test_every_reporting_command_takes_json_and_quiet():
    from wordmill.cli.docs import all_commands, help_of

    for name, command in all_commands():
        text = help_of(name, command)
        assert "--quiet" in text, name
        assert "--json" in text, name


def test_sigterm_unwinds_so_that_nothing_half_made_is_left(tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)
    part = tmp_path / ".corpus.part"

    def work():
        part.mkdir()
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            part.rmdir()

    assert common.run(work) == 143
    assert not part.exists() and "SIGTERM" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EFBIG, errno.EDQUOT, errno.ENOTDIR])
def test_what_the_system_refuses_is_one_line_wherever_it_happens(capsys, number):
    def refused():
        raise OSError(number, os.strerror(number), "somewhere/file")

    assert common.run(refused) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: somewhere/file: {os.strerror(number).lower()}") and error.count("\n") == 1

    def fault():
        raise FileNotFoundError(errno.ENOENT, "a fault of ours", "x")

    with pytest.raises(FileNotFoundError):
        common.run(fault)


def test_bytes_that_are_no_text_are_refused_with_their_place(capsys, tmp_path):
    word = os.fsdecode(b"caf\xe9")
    assert main(["generate", "model", word]) == 2
    assert capsys.readouterr().err == "error: argument 3: these bytes are not UTF-8: 'caf\\\\xe9'. Write it in UTF-8\n"
    assert main(["fill", "model", "--device", "cpu", word]) == 2
    assert "argument 5" in capsys.readouterr().err
    (tmp_path / f"{word}.txt").write_text("".join(f"Name {n} of a file may have them.\n" for n in range(60)))
    assert main(["corpus", "build", str(tmp_path / f"{word}.txt"), "-o", str(tmp_path / "c"), "-q"]) == 0
