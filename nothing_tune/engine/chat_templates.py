"""Chooses the chat template that training renders with, so that only the assistant's words are learned.

The rule: the model's own template if it marks the assistant's words (`{% generation %}`); else the training version
that TRL ships for it; else ours for its family, in `templates/`, or one of TRL's, which must render the very same text as
the model's own; else a clear error. What is handed over after training always carries the model's own template.

What the template cannot show (functions, tool calls, their results) is told in `Choice`, and `tool_text` writes it as text.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nothing_tune.engine import template_probes, tool_text
from nothing_tune.errors import Problem, UsageError

FOLDER = Path(__file__).parent / "templates"
MARKERS = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
_NOW = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")

_TURNS = [
    {"role": "user", "content": "One, please."},
    {"role": "assistant", "content": "Here is one."},
    {"role": "user", "content": " Two?\n"},
    {"role": "assistant", "content": "Two it is. "},
]
PROBES: list[dict[str, Any]] = [
    {"messages": _TURNS},
    {"messages": _TURNS[:3]},
    {"messages": _TURNS[:1], "add_generation_prompt": True},
    {"messages": [{"role": "system", "content": "Be brief."}, *_TURNS]},
    {"messages": [{"role": "system", "content": "Be brief."}, *_TURNS[:3]], "add_generation_prompt": True},
]
"""Conversations that two templates must render alike to count as the same; where the model's own refuses, ours may too."""
ROWS = 64
"""Rows of the data, from its start, on which a template of ours must also render the model's own text."""


@dataclass(frozen=True)
class Choice:
    """Which template trains and which is handed over.

    Attributes:
        text: The template that training renders with, its day fixed; None when rows are no conversations.
        own: The template that the adapter's tokenizer carries; None when the model has none and needs none.
        source: Where the training template comes from, for the events: `the model`, `trl`, `chatml`, ...
        added: Tokens that were added to the tokenizer, in order.
        tools: `template` when it shows functions, tool calls and results; `text` when `tool_text` must write them as text.
        roles: Which of the roles system, developer and tool it shows.
        call_ids: Whether it demands an id of nine letters and digits in every tool call.
    """

    text: str | None
    own: str | None
    source: str
    added: tuple[str, ...] = ()
    tools: str = "template"
    roles: frozenset[str] = frozenset({"system", "developer", "tool"})
    call_ids: bool = False


def choose(
    tokenizer: Any,
    wanted: str | None,
    conversational: bool,
    masked: bool,
    rows: Sequence[Mapping[str, Any]] = (),
    date: str | None = None,
) -> Choice:
    """Chooses for `tokenizer`, to which ChatML's tokens are added where ChatML is used.

    Args:
        tokenizer: The model's tokenizer; its own template counts. Changed when ChatML is chosen.
        wanted: `chatml`, a file that holds a template, or None for the model's own.
        conversational: Whether the rows are conversations at all.
        masked: Whether only the assistant's words are learned.
        rows: Canonical rows of the data on which a template is tried besides `PROBES`.
        date: What templates that print the day get, such as `26 Jul 2024`; None is today.

    Raises:
        UsageError: No template with markers can be found, or the end of the turn would not be learned.
    """
    with_tools = any(row.get("tools") for row in rows)
    if not conversational:
        return Choice(None, _own(tokenizer), "none needed")
    if wanted is None and _own(tokenizer) is None:
        wanted = "chatml"
    if wanted == "chatml":
        text = _chatml(tokenizer)
        added = tuple(t for t in CHATML_TOKENS if t not in tokenizer.get_vocab())
        if added:
            tokenizer.add_tokens(list(added), special_tokens=True)
        tokenizer.eos_token = CHATML_TOKENS[1]
        tokenizer.chat_template = MARKERS.sub("", text)
        return _proved(tokenizer, Choice(text, MARKERS.sub("", text), "chatml", added), masked, date)
    if wanted is not None:
        path = Path(wanted).expanduser()
        if not path.is_file():
            raise UsageError(
                Problem(
                    f"there is no chat template at {path.absolute()}",
                    key="data.chat_template",
                    hint="name a .jinja file, or chatml",
                )
            )
        tokenizer.chat_template = path.read_text(encoding="utf-8")
    own = _own(tokenizer, with_tools)
    assert own is not None
    _refuse_mistakes(tokenizer, own, wanted)
    if not masked or MARKERS.search(own):
        return _proved(tokenizer, Choice(own, own, wanted or "the model"), masked, date)
    from trl.chat_template_utils import get_training_chat_template

    with contextlib.suppress(ValueError):  # TRL ships none
        shipped = get_training_chat_template(tokenizer)
        if shipped is not None:
            return _proved(tokenizer, Choice(shipped, own, "trl"), masked, date)
    shown = _shown(tokenizer, Choice(own, own, ""), own, False)
    tried = [_as_rendered(shown, row) for row in rows]
    for source, text in _candidates():
        if same(tokenizer, own, text, tried, tools=shown.tools == "template"):
            return _proved(tokenizer, Choice(text, own, source), masked, date)
    raise UsageError(
        Problem(
            f"{_named(wanted)} does not mark the assistant's words, and none of ours renders the same text",
            key="data.chat_template",
            hint="set data.chat_template to a file with {% generation %} around them, or training.assistant_only_loss=false",
        )
    )


def _refuse_mistakes(tokenizer: Any, own: str, wanted: str | None) -> None:
    """`UsageError` with file and line where `own`, of the file `wanted` or the model's, is not Jinja."""
    from jinja2 import TemplateSyntaxError

    try:
        template_probes.rendered(tokenizer, own, _TURNS)
    except TemplateSyntaxError as error:
        path = Path(wanted).expanduser() if wanted else Path(str(tokenizer.name_or_path)) / "chat_template.jinja"
        where = f"{path.absolute()}:{error.lineno}" if path.is_file() else f"line {error.lineno}"
        cure = "mend it, or set data.chat_template to chatml" + ("" if wanted else " or to a file of your own")
        whose = "the chat template" if wanted else "the model's chat template"
        what = f"{whose} is not Jinja: {where}: {error.message}"
        raise UsageError(Problem(what, key="data.chat_template", hint=cure)) from error
    except Exception:  # what it refuses is told of the rows
        return


def _named(wanted: str | None) -> str:
    return f"the chat template {wanted}" if wanted else "the model's chat template"


def same(tokenizer: Any, own: str, other: str, rows: Sequence[Mapping[str, Any]] = (), tools: bool = False) -> bool:
    """Whether `other` renders every probe and row that `own` can render, at least one, to the same text; with `tools` also
    conversations with tool calls."""
    rendered = 0
    for probe in [*PROBES, *(template_probes.CONVERSATIONS if tools else ()), *rows]:
        expected = render(tokenizer, own, probe)
        if expected is None:
            continue
        rendered += 1
        if render(tokenizer, other, probe) != expected:
            return False
    return rendered > 0


def render(tokenizer: Any, template: str, row: Mapping[str, Any]) -> str | None:
    """`row` (`messages`, or `prompt` and `completion`; `tools`) as `template` renders it; None when the template refuses it."""
    tools = row.get("tools")
    try:
        return template_probes.rendered(
            tokenizer,
            template,
            row["messages"] if "messages" in row else row["prompt"] + row["completion"],
            json.loads(tools) if isinstance(tools, str) else tools,
            prompt=bool(row.get("add_generation_prompt")),
        )[0]
    except Exception:  # a template raises whatever it likes
        return None


def _candidates() -> Iterator[tuple[str, str]]:
    """`(source, template)` of our templates and then of TRL's training versions, by name."""
    for path in sorted(FOLDER.glob("*.jinja")):
        yield path.stem, path.read_text(encoding="utf-8")
    spec = importlib.util.find_spec("trl")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(root).glob("chat_templates/*_training.jinja")):
            yield "trl", path.read_text(encoding="utf-8")


def _chatml(tokenizer: Any) -> str:
    """ChatML; it begins with the tokenizer's own first token where the tokenizer puts one before every text."""
    text = (FOLDER / "chatml.jinja").read_text(encoding="utf-8")
    first = tokenizer.bos_token_id
    begins = first is not None and tokenizer("x")["input_ids"][:1] == [first]
    return "{{- bos_token }}" + text if begins else text


def _proved(tokenizer: Any, choice: Choice, masked: bool, date: str | None) -> Choice:
    """`choice` with what it shows, once the end of the assistant's turn is known to be learned: a model that never learns
    it never stops."""
    assert choice.own is not None
    assert choice.text is not None
    choice = _shown(tokenizer, replace(choice, text=_dated(choice.text, date)), choice.own, masked)
    if not masked:
        return choice
    from trl.chat_template_utils import is_chat_template_stop_token_trained

    if not is_chat_template_stop_token_trained(tokenizer, chat_template=choice.text):
        raise UsageError(
            Problem(
                "the chat template leaves the end of the assistant's turn out of what is learned, so the model would not learn to stop",
                key="data.chat_template",
                hint="move the end-of-turn token inside {% generation %} in the template, or set training.assistant_only_loss=false",
            )
        )
    return choice


def _shown(tokenizer: Any, choice: Choice, own: str, masked: bool) -> Choice:
    """`choice` with what both the model's own template, which answers later, and the one that trains show."""
    other = choice.text is not None and choice.text != own
    shows = template_probes.abilities(tokenizer, own, written=other)
    if masked or other:
        shows = shows.both(template_probes.abilities(tokenizer, choice.text or own, masked))
    return replace(choice, tools=shows.tools, roles=shows.roles, call_ids=shows.call_ids)


def _as_rendered(choice: Choice, row: Mapping[str, Any]) -> dict[str, Any]:
    tools = row.get("tools")
    given = json.loads(tools) if isinstance(tools, str) else tools
    said = row["messages"] if "messages" in row else [*row["prompt"], *row["completion"]]
    messages, tools = tool_text.rendered_by(choice, said, given)
    return {"messages": messages, "tools": tools}


def _own(tokenizer: Any, with_tools: bool = False) -> str | None:
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = (template.get("tool_use") if with_tools else None) or template.get("default")
    return template or None


def _dated(text: str, date: str | None) -> str:
    """Fixes the day that some templates print, so that a run which is resumed tomorrow sees the same rows."""
    day = time.strptime(date, "%d %b %Y") if date else time.localtime()
    return _NOW.sub(lambda found: json.dumps(time.strftime(found[2], day)), text)
