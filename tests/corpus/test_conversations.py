from __future__ import annotations

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from wordmill.core.errors import DataError
from wordmill.core.progress import Reporter
from wordmill.corpus.conversations import read_conversations

USER, GPT = {"role": "user", "content": "Wie viele?"}, {"role": "assistant", "content": "磨坊: 7."}
SHARE = {"conversations": [{"from": "human", "value": "Wie viele?"}, {"from": "gpt", "value": "磨坊: 7."}]}
ALPACA = {"instruction": "Wie viele?", "input": "", "output": "磨坊: 7."}
PAIR = {"question": "Wie viele?", "answer": "磨坊: 7."}
OPENAI = {"messages": [USER, GPT]}
FORMATS = {"OpenAI": OPENAI, "ShareGPT": SHARE, "Alpaca": ALPACA, "pairs": PAIR}


def as_lines(records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def as_csv(records):
    file = io.StringIO()
    writer = csv.DictWriter(file, list(records[0]))
    writer.writeheader()
    cells = [{k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in record.items()} for record in records]
    writer.writerows(cells)
    return file.getvalue().encode()


def as_parquet(records):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), file)
    return file.getvalue()


LAYOUTS = {
    "jsonl": as_lines,
    "json": lambda records: json.dumps(records, ensure_ascii=False, indent=1).encode(),
    "csv": as_csv,
    "parquet": as_parquet,
}
PACKED = {"": lambda data: data, ".gz": gzip.compress, ".zst": lambda data: zstandard.compress(data)}


def test_answers_marked_as_bad_are_left_out_and_counted(tmp_path):
    turns = [{"role": "user", "content": "why ?"}, {"role": "assistant", "content": "so ."}]
    rows = [{"messages": turns, "label": n % 3 != 0} for n in range(9)]
    path = tmp_path / "kto.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = io.StringIO()
    found = read_conversations([path], reporter=Reporter(stream=said))
    assert len(found.conversations) == 6 and found.dropped == {"marked as a bad answer": 3}
    assert "3 left out: marked as a bad answer 3" in said.getvalue()


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_in_every_layout(tmp_path, capsys, form, layout, packed):
    path = tmp_path / f"talks.{layout}{packed}"
    path.write_bytes(PACKED[packed](LAYOUTS[layout]([FORMATS[form]] * 3)))
    found = read_conversations([path], reporter=Reporter())
    assert [one.messages for one in found.conversations] == [[USER, GPT]] * 3
    named = {"OpenAI": "messages (role", "ShareGPT": "ShareGPT", "Alpaca": "Alpaca", "pairs": "'question' asks, 'answer' answers"}[form]
    assert named in found.formats[str(path)] and named in capsys.readouterr().err
    line = found.conversations[1].where.removeprefix(str(path))
    expected = {"jsonl": ":2", "csv": ":3", "parquet": ":2"}
    assert line == expected[layout] if layout != "json" else line.endswith(", record 2")


def read(tmp_path, record, **settings):
    path = tmp_path / "talk.jsonl"
    path.write_bytes(as_lines([record]))
    return read_conversations([path], **settings)


def one(tmp_path, record):
    return read(tmp_path, record).conversations[0]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Wie viele?", "completion": "磨坊: 7."}, {"Prompt": "Wie viele?", "Response": "磨坊: 7.", "id": 4},
        {"instruction": "Wie viele?", "response": "磨坊: 7."}, {"input": "Wie viele?", "output": "磨坊: 7."},
        {"问题": "Wie viele?", "回答": "磨坊: 7."}, {"prompt": [USER], "completion": [GPT]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Wie viele?"}]}, GPT, USER]},
        {"messages": [{"role": "system", "content": ""}, USER, GPT]},
    ],
)  # fmt: skip
def test_usual_names_and_ways(tmp_path, record):
    assert one(tmp_path, record).messages == [USER, GPT]


def test_system_input_and_history_of_alpaca(tmp_path):
    record = {**ALPACA, "input": "Im Haus.", "system": "Kurz.", "history": [["a", "b"]]}
    assert [(turn["role"], turn["content"]) for turn in one(tmp_path, record).messages] == [
        ("system", "Kurz."), ("user", "a"), ("assistant", "b"), ("user", "Wie viele?\nIm Haus."), ("assistant", "磨坊: 7."),
    ]  # fmt: skip


@pytest.mark.parametrize("column", ["instruction", "input", "output"])
@pytest.mark.parametrize("value", [["a", "b"], {"a": 1}])
def test_lists_and_objects_are_no_texts(tmp_path, column, value):
    with pytest.raises(DataError, match=rf":1: the field '{column}' holds {type(value).__name__}, not text"):
        one(tmp_path, {**ALPACA, column: value})


def test_numbers_and_answers_in_json_are_texts(tmp_path):
    found = one(tmp_path, {**ALPACA, "input": 7, "output": '[{"sacks": 7}]'}).messages
    assert [turn["content"] for turn in found] == ["Wie viele?\n7", '[{"sacks": 7}]']
    parts = [{"type": "text", "text": "Wie viele?"}]
    assert one(tmp_path, {**ALPACA, "instruction": parts, "input": "Im Haus."}).messages[0]["content"] == "Wie viele?\nIm Haus."
    assert one(tmp_path, {**ALPACA, "output": [GPT]}).messages == [USER, GPT]


def test_tools_are_kept(tmp_path):
    tools = json.dumps([{"name": "count", "parameters": {}}])
    call = '{"name": "count", "arguments": {"of": "sacks"}}'
    share = {"conversations": [{"from": "human", "value": "?"}, {"from": "function_call", "value": call},
                               {"from": "observation", "value": "42"}, {"from": "gpt", "value": "42."}], "tools": tools}  # fmt: skip
    openai = {"messages": [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"type": "function", "function": {"name": "count", "arguments": '{"of": "sacks"}'}}]},
        {"role": "tool", "content": "42"}, {"role": "assistant", "content": "42."}], "tools": json.loads(tools)}  # fmt: skip
    first, second = one(tmp_path, share), one(tmp_path, openai)
    assert first.messages == second.messages and first.tools == second.tools
    assert first.tools == [{"type": "function", "function": {"name": "count", "parameters": {}}}]
    assert first.messages[1]["tool_calls"] == [{"type": "function", "function": {"name": "count", "arguments": {"of": "sacks"}}}]


def test_parts_thoughts_and_weights(tmp_path):
    said = [{"type": "reasoning", "value": "Hm."}, {"type": "text", "value": "7"}, {"type": "text", "value": "."}]
    messages = [USER, {"role": "assistant", "content": "x", "weight": 0}, USER, {"role": "assistant", "content": said, "loss_weight": 1.0}]
    found = one(tmp_path, {"messages": messages}).messages
    assert found[1] == {"role": "assistant", "content": "x", "weight": 0}
    assert found[3] == {"role": "assistant", "content": "7.", "reasoning_content": "Hm."}


BAD = {
    "assistant_first": ({"messages": [GPT, USER, GPT]}, "starts with the assistant"),
    "no_assistant": ({"messages": [USER]}, "the assistant says nothing"),
    "unknown_role": ({"messages": [USER, {"role": "narrator", "content": "x"}, GPT]}, "turn 2 is of 'narrator'"),
    "empty_turn": ({"messages": [USER, {"role": "assistant", "content": " \n"}]}, r"turn 2 \(assistant\) is empty"),
    "no_turns": ({"messages": []}, "no turns"),
    "not_text": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, GPT]}, "'image_url'; wordmill reads text"),
    "bad_weight": ({"messages": [USER, {**GPT, "weight": 0.5}]}, "weight 0.5"),
    "no_weight": ({"messages": [USER, {**GPT, "weight": 0}]}, "all answers"),
    "bad_tool_call": ({"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "calls a tool without naming it"),
    "bad_record": ([1], "expected an object, found list"),
}


@pytest.mark.parametrize("reason", BAD)
def test_what_cannot_be_learned_from_is_named_or_counted(tmp_path, capsys, reason):
    record, message = BAD[reason]
    path = tmp_path / "talks.jsonl"
    path.write_bytes(as_lines([OPENAI, record, OPENAI]))
    with pytest.raises(DataError, match=rf"talks.jsonl:2: .*{message}"):
        read_conversations([path])
    found = read_conversations([path], skip_bad=True, reporter=Reporter())
    assert len(found.conversations) == 2 and found.dropped == {reason: 1}
    assert f"{path}:2" in capsys.readouterr().err


def test_turns_after_the_last_answer_are_counted(tmp_path):
    found = read(tmp_path, {"messages": [USER, GPT, USER]})
    assert found.trailing == 1 and found.conversations[0].messages == [USER, GPT]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n', "no conversation is to be found in this record; fields here: text"),
        ("a.jsonl", b'{"chosen": [], "rejected": [], "messages": []}', "preferences"),
        ("a.json", b'[{"question": "a",\n"answer": "b"},\n{"question": }]', "a.json:3: broken JSON"),
        ("a.json", b'[{"question": "a", "answer": "b"}\n{"question": 1}]', "a.json:2: broken JSON"),
        ("a.jsonl", b'{"question": "a", "answer": "b"}\n{"question"', "a.jsonl:2: broken JSON"),
        ("a.jsonl", b"\n", "there is no conversation"),
        ("a.csv", b"question,answer\na,b,c\n", "a.csv:2: 3 columns where the first line has 2"),
        ("a.parquet", b"PAR1", "torn, or not a Parquet file"),
        ("a.txt", b"hello", "holds no records"),
    ],
)
def test_bad_files(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_conversations([tmp_path / name])


def test_a_list_within_an_object_and_objects_one_after_the_other(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "data": [PAIR, PAIR]}, indent=1))
    (tmp_path / "b.json").write_text(json.dumps(PAIR, indent=1) + "\n" + json.dumps(PAIR))
    found = read_conversations([tmp_path / "a.json", tmp_path / "b.json"])
    assert [c.where.rpartition("/")[2] for c in found.conversations] == ["a.json:4, record 1", "a.json:8, record 2", "b.json:1", "b.json:5"]
