"""Rows of every format as they are found, and the canonical rows that become of them."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def system(text: str) -> Row:
    return {"role": "system", "content": text}


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def assistant(text: str, *calls: Row, **more: Any) -> Row:
    return {"role": "assistant", "content": text, **({"tool_calls": list(calls)} if calls else {}), **more}


def tool(text: str, **more: Any) -> Row:
    return {"role": "tool", "content": text, **more}


def call(name: str, arguments: Row, **more: Any) -> Row:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def function(name: str, **more: Any) -> Row:
    return {"type": "function", "function": {"name": name, **more}}


def said(*pairs: tuple[str, Any]) -> list[Row]:
    """Turns of ShareGPT."""
    return [{"from": speaker, "value": value} for speaker, value in pairs]


PAIR = [user("a"), assistant("b")]
"""The shortest conversation."""
CALLED = [user("a"), assistant("", call("f", {"x": 1})), tool("2"), assistant("b")]
"""One with a call."""

CONVERSIONS: list[tuple[str, str, Row, Row]] = [
    # the format, what the case shows, the raw row, the canonical row
    ("messages", "the shortest", {"messages": PAIR}, {"messages": PAIR}),
    (
        "messages",
        "plain columns",
        {"messages": PAIR, "id": 3, "level": "A1", "ok": True, "p": 0.5, "n": None, "l": [1]},
        {"messages": PAIR, "id": 3, "level": "A1", "ok": True, "p": 0.5},
    ),
    ("messages", "a system message", {"messages": [system("s"), *PAIR]}, {"messages": [system("s"), *PAIR]}),
    (
        "messages",
        "an empty system message is a system message",
        {"messages": [system(""), *PAIR]},
        {"messages": [system(""), *PAIR]},
    ),
    (
        "messages",
        "a developer",
        {"messages": [{"role": "developer", "content": "s"}, *PAIR]},
        {"messages": [{"role": "developer", "content": "s"}, *PAIR]},
    ),
    (
        "messages",
        "nulls of a table",
        {"messages": [{**m, "tool_calls": None, "name": None, "weight": None} for m in PAIR], "tools": None},
        {"messages": PAIR},
    ),
    (
        "messages",
        "text in parts",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": " b", "image_url": None}],
                },
                assistant("c"),
            ]
        },
        {"messages": [user("a b"), assistant("c")]},
    ),
    (
        "messages",
        "calls",
        {"messages": CALLED, "tools": [function("f")]},
        {"messages": CALLED, "tools": [function("f")]},
    ),
    (
        "messages",
        "a call without content",
        {"messages": [user("a"), {"role": "assistant", "tool_calls": [call("f", {})]}]},
        {"messages": [user("a"), assistant("", call("f", {}))]},
    ),
    (
        "messages",
        "a call with words",
        {"messages": [user("a"), assistant("b", call("f", {}))]},
        {"messages": [user("a"), assistant("b", call("f", {}))]},
    ),
    (
        "messages",
        "bare calls",
        {
            "messages": [
                user("a"),
                {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"x": 1}}]},
            ]
        },
        {"messages": [user("a"), assistant("", call("f", {"x": 1}))]},
    ),
    (
        "messages",
        "arguments that are null",
        {"messages": [user("a"), assistant("", call("f", {"x": 1, "y": None, "z": {"u": None}}))]},
        {"messages": [user("a"), assistant("", call("f", {"x": 1, "y": None, "z": {"u": None}}))]},
    ),
    (
        "messages",
        "no arguments",
        {"messages": [user("a"), assistant("", {"function": {"name": "f", "arguments": None}})]},
        {"messages": [user("a"), assistant("", call("f", {}))]},
    ),
    (
        "messages",
        "ids and names",
        {
            "messages": [
                user("a"),
                assistant("", call("f", {}, id="1")),
                tool("2", tool_call_id="1", name="f"),
                assistant("b"),
            ]
        },
        {
            "messages": [
                user("a"),
                assistant("", call("f", {}, id="1")),
                tool("2", tool_call_id="1", name="f"),
                assistant("b"),
            ]
        },
    ),
    (
        "messages",
        "thoughts",
        {"messages": [user("a"), assistant("b", reasoning_content="r", thinking="t")]},
        {"messages": [user("a"), assistant("b", reasoning_content="r", thinking="t")]},
    ),
    (
        "messages",
        "tools as JSON text",
        {"messages": PAIR, "tools": '[{"type": "function", "function": {"name": "f"}}]'},
        {"messages": PAIR, "tools": [function("f")]},
    ),
    (
        "messages",
        "tools as a list of JSON texts",
        {"messages": PAIR, "tools": ['{"name": "f"}']},
        {"messages": PAIR, "tools": [function("f")]},
    ),
    (
        "messages",
        "bare tools, filled up by a table",
        {
            "messages": PAIR,
            "tools": [{"name": "f", "parameters": {"properties": {"x": {"type": "string"}, "y": None}}}],
        },
        {"messages": PAIR, "tools": [function("f", parameters={"properties": {"x": {"type": "string"}}})]},
    ),
    (
        "messages",
        "parameters of a tool as JSON text",
        {"messages": PAIR, "tools": [{"name": "f", "parameters": '{"type": "object", "default": null}'}]},
        {"messages": PAIR, "tools": [function("f", parameters={"type": "object"})]},
    ),
    ("messages", "no tools", {"messages": PAIR, "tools": []}, {"messages": PAIR}),
    ("messages", "no tools as text", {"messages": PAIR, "tools": ""}, {"messages": PAIR}),
    (
        "messages",
        "as JSON text, in csv",
        {"messages": '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]', "tools": ""},
        {"messages": PAIR},
    ),
    ("messages", "the assistant twice", {"messages": [*PAIR, assistant("c")]}, {"messages": [*PAIR, assistant("c")]}),
    ("messages", "the assistant first", {"messages": [assistant("b"), *PAIR]}, {"messages": [assistant("b"), *PAIR]}),
    ("messages", "the user last", {"messages": [*PAIR, user("c")]}, {"messages": [*PAIR, user("c")]}),
    (
        "messages",
        "two results",
        {"messages": [user("a"), assistant("", call("f", {}), call("g", {})), tool("1"), tool(""), assistant("b")]},
        {"messages": [user("a"), assistant("", call("f", {}), call("g", {})), tool("1"), tool(""), assistant("b")]},
    ),
    (
        "messages",
        "space is kept",
        {"messages": [user(" a\n"), assistant("\tb ")]},
        {"messages": [user(" a\n"), assistant("\tb ")]},
    ),
    (
        "openai",
        "arguments as JSON text",
        {
            "messages": [
                user("a"),
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1, "y": null}'}}
                    ],
                },
                tool("2", tool_call_id="c1"),
                assistant("b"),
            ],
            "parallel_tool_calls": False,
            "tools": [function("f")],
        },
        {
            "messages": [
                user("a"),
                assistant("", call("f", {"x": 1, "y": None}, id="c1")),
                tool("2", tool_call_id="c1"),
                assistant("b"),
            ],
            "tools": [function("f")],
        },
    ),
    (
        "openai",
        "weights",
        {"messages": [user("a"), assistant("b", weight=0), user("c"), assistant("d", weight=1)]},
        {"messages": [user("a"), assistant("b", weight=0), user("c"), assistant("d", weight=1)]},
    ),
    (
        "openai",
        "a weight as a fraction",
        {"messages": [user("a"), assistant("b", weight=1.0)]},
        {"messages": [user("a"), assistant("b", weight=1)]},
    ),
    (
        "openai",
        "functions",
        {
            "messages": [
                user("a"),
                {"role": "assistant", "function_call": {"name": "f", "arguments": '{"x": 1}'}},
                {"role": "function", "name": "f", "content": "2"},
                assistant("b"),
            ],
            "functions": [{"name": "f", "description": "d"}],
            "function_call": "auto",
        },
        {
            "messages": [user("a"), assistant("", call("f", {"x": 1})), tool("2", name="f"), assistant("b")],
            "tools": [function("f", description="d")],
        },
    ),
    (
        "openai",
        "a tool is chosen",
        {"messages": PAIR, "tools": [function("f")], "tool_choice": "none", "level": "B2"},
        {"messages": PAIR, "tools": [function("f")], "level": "B2"},
    ),
    (
        "prompt-completion",
        "texts",
        {"prompt": "a", "completion": "b", "id": "x"},
        {"prompt": "a", "completion": "b", "id": "x"},
    ),
    ("prompt-completion", "an empty prompt", {"prompt": "", "completion": "b"}, {"prompt": "", "completion": "b"}),
    (
        "prompt-completion",
        "messages",
        {"prompt": [system("s"), user("a")], "completion": [assistant("b")]},
        {"prompt": [system("s"), user("a")], "completion": [assistant("b")]},
    ),
    (
        "prompt-completion",
        "tools",
        {"prompt": CALLED[:1], "completion": CALLED[1:], "tools": '[{"name": "f"}]'},
        {"prompt": CALLED[:1], "completion": CALLED[1:], "tools": [function("f")]},
    ),
    (
        "prompt-completion",
        "a result opens the completion",
        {"prompt": CALLED[:2], "completion": CALLED[2:]},
        {"prompt": CALLED[:2], "completion": CALLED[2:]},
    ),
    (
        "prompt-completion",
        "OpenAI's input",
        {"prompt": {"messages": [user("a")], "tools": [function("f")]}, "completion": [assistant("b")]},
        {"prompt": [user("a")], "completion": [assistant("b")], "tools": [function("f")]},
    ),
    ("text", "a text", {"text": " a\n", "author": None, "year": 1990}, {"text": " a\n", "year": 1990}),
    ("alpaca", "an instruction", {"instruction": "a", "input": "", "output": "b"}, {"messages": PAIR}),
    ("alpaca", "no input", {"instruction": "a", "output": "b"}, {"messages": PAIR}),
    ("alpaca", "null input", {"instruction": "a", "input": None, "output": "b"}, {"messages": PAIR}),
    (
        "alpaca",
        "input",
        {"instruction": "a", "input": "i", "output": "b", "id": 1},
        {"messages": [user("a\n\ni"), assistant("b")], "id": 1},
    ),
    (
        "alpaca",
        "input alone",
        {"instruction": "", "input": "i", "output": "b"},
        {"messages": [user("i"), assistant("b")]},
    ),
    (
        "alpaca",
        "as published, with the rendered text",
        {"instruction": "a", "input": "", "output": "b", "text": "### Instruction:\na\n\n### Response:\nb"},
        {"messages": PAIR},
    ),
    (
        "alpaca",
        "Dolly",
        {"instruction": "a", "context": "c", "response": "b", "category": "qa"},
        {"messages": [user("a\n\nc"), assistant("b")], "category": "qa"},
    ),
    ("alpaca", "system", {"instruction": "a", "output": "b", "system": "s"}, {"messages": [system("s"), *PAIR]}),
    (
        "alpaca",
        "system_prompt",
        {"instruction": "a", "response": "b", "system_prompt": "s"},
        {"messages": [system("s"), *PAIR]},
    ),
    ("alpaca", "empty system", {"instruction": "a", "output": "b", "system": " "}, {"messages": PAIR}),
    (
        "alpaca",
        "history",
        {"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]},
        {"messages": [system("s"), *PAIR, user("c"), assistant("d")]},
    ),
    ("alpaca", "no history", {"instruction": "a", "output": "b", "history": []}, {"messages": PAIR}),
    (
        "sharegpt",
        "human and gpt",
        {"conversations": said(("human", "a"), ("gpt", "b")), "id": "q"},
        {"messages": PAIR, "id": "q"},
    ),
    (
        "sharegpt",
        "other names",
        {"conversation": said(("User", "a"), ("Bard", "b"), ("user", "c"), ("bot", "d"))},
        {"messages": [*PAIR, user("c"), assistant("d")]},
    ),
    (
        "sharegpt",
        "a system turn",
        {"conversations": said(("system", "s"), ("human", "a"), ("chatgpt", "b"))},
        {"messages": [system("s"), *PAIR]},
    ),
    (
        "sharegpt",
        "a system column",
        {"conversations": said(("human", "a"), ("gpt", "b")), "system": "s"},
        {"messages": [system("s"), *PAIR]},
    ),
    (
        "sharegpt",
        "an empty system column",
        {"conversations": said(("human", "a"), ("gpt", "b")), "system": ""},
        {"messages": PAIR},
    ),
    (
        "sharegpt",
        "gpt first",
        {"conversations": said(("gpt", "b"), ("human", "a"), ("gpt", "b"))},
        {"messages": [assistant("b"), *PAIR]},
    ),
    ("sharegpt", "role and content", {"conversations": PAIR}, {"messages": PAIR}),
    ("sharegpt", "role and content with calls", {"conversations": CALLED}, {"messages": CALLED}),
    ("sharegpt", "under messages", {"messages": said(("human", "a"), ("gpt", "b"))}, {"messages": PAIR}),
    (
        "sharegpt",
        "weights, which count for gpt only",
        {"conversations": [{"from": "human", "value": "a", "weight": 0}, {"from": "gpt", "value": "b", "weight": 1.0}]},
        {"messages": [user("a"), assistant("b", weight=1)]},
    ),
    (
        "sharegpt",
        "a call",
        {
            "conversations": said(
                ("human", "a"),
                ("function_call", '{"name": "f", "arguments": {"x": 1}}'),
                ("observation", "2"),
                ("gpt", "b"),
            ),
            "tools": '[{"name": "f"}]',
        },
        {"messages": CALLED, "tools": [function("f")]},
    ),
    (
        "sharegpt",
        "a call with arguments as text",
        {
            "conversations": said(
                ("human", "a"),
                ("function_call", '{"name": "f", "arguments": "{\\"x\\": 1}"}'),
                ("function_response", "2"),
                ("gpt", "b"),
            )
        },
        {"messages": CALLED},
    ),
    (
        "sharegpt",
        "a call as an object",
        {
            "conversations": said(
                ("human", "a"), ("tool_call", {"name": "f", "arguments": {"x": 1}}), ("tool", "2"), ("gpt", "b")
            )
        },
        {"messages": CALLED},
    ),
    (
        "sharegpt",
        "words, then two calls",
        {
            "conversations": said(
                ("human", "a"),
                ("gpt", "w"),
                ("function_call", '{"name": "f"}'),
                ("function_call", '{"name": "g"}'),
                ("observation", "1"),
                ("observation", "2"),
                ("gpt", "b"),
            )
        },
        {"messages": [user("a"), assistant("w", call("f", {}), call("g", {})), tool("1"), tool("2"), assistant("b")]},
    ),
    (
        "sharegpt",
        "two calls as a list",
        {"conversations": said(("human", "a"), ("function_call", '[{"name": "f"}, {"name": "g"}]'))},
        {"messages": [user("a"), assistant("", call("f", {}), call("g", {}))]},
    ),
    (
        "sharegpt",
        "as JSON text, in csv",
        {"conversations": '[{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]'},
        {"messages": PAIR},
    ),
    (
        "glaive",
        "a chat",
        {"system": "SYSTEM: s", "chat": "USER: a\n\n\nASSISTANT: b <|endoftext|>"},
        {"messages": [system("s"), *PAIR]},
    ),
    ("glaive", "version 1", {"sample": "SYSTEM: s\nUSER: a\nASSISTANT: b"}, {"messages": [system("s"), *PAIR]}),
    (
        "transcript",
        "a whole one as text",
        {"transcript": "GEORGE: a\nJERRY: b", "episode": 4},
        {"messages": PAIR, "episode": 4},
    ),
    (
        "transcript",
        "a whole one as a list",
        {"dialogue": [{"speaker": "GEORGE", "text": "a"}, {"speaker": "Jerry", "text": "b"}]},
        {"messages": PAIR},
    ),
]
"""Transcripts are joined, with JERRY as the wanted speaker."""
