"""Chooses the chat template that training renders with, so that only the assistant's words are learned.

The rule: the model's own template if it marks the assistant's words (`{% generation %}`); else the training version
that TRL ships for it; else ours for its family, in `templates/`, which must render the very same text as the model's
own; else a clear error. What is handed over after training always carries the model's own template.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nothing_tune.errors import Problem, UsageError

FOLDER = Path(__file__).parent / "templates"
MARKERS = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")

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
        train: The template to give the tokenizer while rows are tokenized; None leaves it to TRL or to the model's own.
        own: The template that the adapter's tokenizer carries; None when the model has none and needs none.
        source: Where the training template comes from, for the events: `the model`, `trl`, `chatml`, ...
        added: Tokens that were added to the tokenizer, in order.
    """

    train: str | None
    own: str | None
    source: str
    added: tuple[str, ...] = ()


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
        rows: Rows of the data on which a template is tried besides `PROBES`.
        date: What templates that print the day get, such as `26 Jul 2024`; None is today.

    Raises:
        UsageError: No template with markers can be found, or the end of the turn would not be learned.
    """
    if not conversational:
        return Choice(None, _own(tokenizer), "none needed")
    if wanted is None and _own(tokenizer) is None:
        wanted = "chatml"
    if wanted == "chatml":
        text = (FOLDER / "chatml.jinja").read_text(encoding="utf-8")
        added = tuple(t for t in CHATML_TOKENS if t not in tokenizer.get_vocab())
        if added:
            tokenizer.add_tokens(list(added), special_tokens=True)
        tokenizer.eos_token = CHATML_TOKENS[1]
        tokenizer.chat_template = MARKERS.sub("", text)
        return _proved(tokenizer, Choice(text, MARKERS.sub("", text), "chatml", added), masked)
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
    own = _own(tokenizer)
    assert own is not None
    if not masked or MARKERS.search(own):
        return _proved(tokenizer, Choice(None, own, wanted or "the model"), masked)
    from trl.chat_template_utils import get_training_chat_template

    with contextlib.suppress(ValueError):  # TRL ships none
        shipped = get_training_chat_template(tokenizer)
        if shipped is not None:
            return _proved(tokenizer, Choice(None, own, "trl"), masked, shipped)
    for path in sorted(FOLDER.glob("*.jinja")):
        text = path.read_text(encoding="utf-8")
        if same(tokenizer, own, text, rows):
            return _proved(tokenizer, Choice(_dated(text, date), own, path.stem), masked)
    raise UsageError(
        Problem(
            "the model's chat template does not mark the assistant's words, and none of ours renders the same text",
            key="data.chat_template",
            hint="set data.chat_template to a file with {% generation %} around them, or training.assistant_only_loss=false",
        )
    )


def same(tokenizer: Any, own: str, other: str, rows: Sequence[Mapping[str, Any]] = ()) -> bool:
    """Whether `other` renders every probe and row that `own` can render, at least one, to the same text."""
    rendered = 0
    for probe in [*PROBES, *rows]:
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
        text = tokenizer.apply_chat_template(
            row["messages"] if "messages" in row else row["prompt"] + row["completion"],
            tools=json.loads(tools) if isinstance(tools, str) else tools,
            add_generation_prompt=bool(row.get("add_generation_prompt")),
            chat_template=template,
            tokenize=False,
        )
    except Exception:  # a template raises whatever it likes
        return None
    return str(text)


def _proved(tokenizer: Any, choice: Choice, masked: bool, text: str | None = None) -> Choice:
    """`choice`, once the end of the assistant's turn is known to be learned: a model that never learns it never stops."""
    if not masked:
        return choice
    from trl.chat_template_utils import is_chat_template_stop_token_trained

    if not is_chat_template_stop_token_trained(tokenizer, chat_template=text or choice.train):
        raise UsageError(
            Problem(
                "the chat template leaves the end of the assistant's turn out of what is learned, so the model would not learn to stop",
                key="data.chat_template",
                hint="move the end-of-turn token inside {% generation %} in the template, or set training.assistant_only_loss=false",
            )
        )
    return choice


def _own(tokenizer: Any) -> str | None:
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template or None


def _dated(text: str, date: str | None) -> str:
    """Fixes the day that some templates print, so that a run which is resumed tomorrow sees the same rows."""
    if "strftime_now" not in text:
        return text
    return '{%- set date_string = "' + (date or time.strftime("%d %b %Y")) + '" %}' + text
