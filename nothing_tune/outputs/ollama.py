"""The Modelfile: how Ollama runs a GGUF, with the model's own template, its stops, its context and a system prompt.

Its grammar (github.com/ollama/ollama, docs/modelfile and parser/parser.go, read 2026-11): an instruction a line, in any case;
`#` begins a comment line; a value that starts with a quotation mark, or three of them, goes on to the line that ends with the
same; characters that cannot be printed are dropped. `parse` follows it, and every Modelfile that is written is read again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nothing_tune.errors import Problem, UsageError
from nothing_tune.outputs import go_template
from nothing_tune.outputs.go_template import Pieces

INSTRUCTIONS = (
    "from", "parameter", "template", "system", "adapter", "license", "message", "renderer", "parser", "requires", "draft",
)  # fmt: skip
ROLES = ("system", "user", "assistant")
PARAMETERS: dict[str, type] = {
    "num_ctx": int, "num_predict": int, "repeat_last_n": int, "seed": int, "top_k": int, "num_keep": int, "num_batch": int,
    "num_gpu": int, "num_thread": int, "repeat_penalty": float, "temperature": float, "top_p": float, "min_p": float,
    "typical_p": float, "presence_penalty": float, "frequency_penalty": float, "stop": str,
}  # fmt: skip
"""Parameters that Ollama takes and the type of each; `stop` may be given more than once."""
_QUOTES = ('"""', '"')


def modelfile(
    gguf: str,
    pieces: Pieces | None,
    stops: Sequence[str],
    system: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    adds_bos: bool = True,
    notes: Sequence[str] = (),
    comments: Mapping[str, str] | None = None,
) -> str:
    """The text of a Modelfile.

    Args:
        gguf: Path of the model as the Modelfile's folder sees it, such as `../gguf/name-q4_k_m.gguf`.
        pieces: The chat template; None leaves out TEMPLATE, so that Ollama looks for one of its own that is like the GGUF's.
        stops: Texts that end an answer.
        system: System prompt; None or empty for none.
        parameters: Values of `PARAMETERS` other than `stop`.
        adds_bos: Whether the GGUF tells the server to add the BOS token.
        notes: Lines of comment for its head.
        comments: What is said of a parameter, by its name.

    Raises:
        UsageError: Something in it cannot be written in a Modelfile, a parameter is unknown or of the wrong type.
    """
    lines = [*(f"# {note}" for note in notes), f"FROM {gguf}"]
    expected = [("from", gguf)]
    if pieces is not None:
        written = go_template.template(pieces, adds_bos)
        lines.append(f"TEMPLATE {quoted(written, 'the chat template', always=True)}")
        expected.append(("template", written))
    if system:
        lines.append(f"SYSTEM {quoted(system, 'the system prompt', always=True)}")
        expected.append(("system", system))
    for stop in stops:
        lines.append(f"PARAMETER stop {quoted(stop, 'a stop', always=True)}")
        expected.append(("stop", stop))
    for name, value in (parameters or {}).items():
        _check(name, value)
        if comments and name in comments:
            lines.append(f"# {comments[name]}")
        lines.append(f"PARAMETER {name} {value}")
        expected.append((name, str(value)))
    out = "\n".join(lines) + "\n"
    if parse(out) != expected:
        wrong = next((pair[0] for pair in expected if pair not in parse(out)), "it")
        raise UsageError(f"a Modelfile cannot hold this {wrong} as it is", hint="write the Modelfile by hand")
    return out


def quoted(value: str, what: str, always: bool = False) -> str:
    """`value` as a Modelfile holds it.

    Args:
        what: What it is called in the error.
        always: Quote what could stand without as well.

    Raises:
        UsageError: No way of quoting keeps it as it is.
    """
    bare = value.strip() == value and "\n" not in value and not value.startswith('"') and value
    quotes = _QUOTES if "\n" in value else _QUOTES[::-1]
    for form in ((value,) if bare and not always else ()) + tuple(f"{q}{value}{q}" for q in quotes):
        try:
            if parse(f"FROM x\nSYSTEM {form}\n") == [("from", "x"), ("system", value)]:
                return form
        except UsageError:
            continue
    lost = sorted({char for char in value if not _kept(char)})
    why = f"it drops {', '.join(map(ascii, lost))}" if lost else "a line of it ends with quotation marks"
    raise UsageError(
        Problem(f"a Modelfile cannot hold {what} as it is: {why}", hint="change that text, or leave it out")
    )


def parse(text: str) -> list[tuple[str, str]]:
    """The instructions of a Modelfile in order: `(name, value)`, a parameter under its own name, a message as `role: text`.

    Raises:
        UsageError: The text is no Modelfile; the message names the line.
    """
    out: list[tuple[str, str]] = []
    at, end = 0, len(text)
    while at < end:
        if text[at] in " \t\r\n":
            at += 1
            continue
        if text[at] == "#":
            at = _line_end(text, at)
            continue
        name, at = _word(text, at)
        if name.lower() not in INSTRUCTIONS:
            raise _wrong(text, at, f"{name!r} is no instruction")
        name = name.lower()
        lead = ""
        if name == "parameter":
            name, at = _word(text, at + 1)
        elif name == "message":
            lead, at = _word(text, at + 1)
            if lead not in ROLES:
                raise _wrong(text, at, f"{lead!r} is no role")
            lead += ": "
        value, at = _value(text, at)
        out.append((name, lead + value))
    if not any(name == "from" for name, _ in out):
        raise UsageError("the Modelfile has no FROM line")
    return out


def _word(text: str, at: int) -> tuple[str, int]:
    start = at
    while at < len(text) and (text[at].isalnum() or text[at] == "_"):
        at += 1
    if at == start or at == len(text) or text[at] not in " \t":
        raise _wrong(text, at, "an instruction, a space and its value are expected")
    return text[start:at], at


def _value(text: str, at: int) -> tuple[str, int]:
    """The value from `at` on and where it ends: at the first line end where what is read so far is whole."""
    while True:
        stop = _line_end(text, at)
        while True:
            read = "".join(filter(_kept, text[at:stop])).strip(" \t\r\n")
            whole, value = _unquoted(read)
            if whole or stop >= len(text):
                break
            stop = _line_end(text, stop + 1)
        if not whole:
            raise _wrong(text, at, "a quotation mark is never closed")
        return value, stop


def _unquoted(read: str) -> tuple[bool, str]:
    for quote in _QUOTES:
        if read.startswith(quote):
            whole = len(read) >= 2 * len(quote) and read.endswith(quote)
            return whole, read[len(quote) : -len(quote)] if whole else ""
    return True, read


def _line_end(text: str, at: int) -> int:
    found = text.find("\n", at)
    return len(text) if found < 0 else found


def _kept(char: str) -> bool:
    return char.isprintable() or char in "\n\r\t"


def _wrong(text: str, at: int, why: str) -> UsageError:
    return UsageError(f"line {text.count(chr(10), 0, at) + 1} of the Modelfile: {why}")


def _check(name: str, value: Any) -> None:
    kind = PARAMETERS.get(name)
    if kind is None or kind is str:
        raise UsageError(f"{name} is no parameter of a Modelfile", hint=f"one of: {', '.join(PARAMETERS)}")
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
        raise UsageError(
            f"the Modelfile's {name} is {value!r}, it takes {'a number' if kind is float else 'a whole number'}"
        )
