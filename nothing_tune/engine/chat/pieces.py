"""Text out of tokens as they come: no broken characters, nothing of a stop text, nothing after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

BROKEN = "\ufffd"
"""What a decoder writes for bytes that are no whole character yet."""
LONGEST = 8
"""Tokens that one character may take before it counts as really broken: UTF-8 has at most four bytes, byte tokens one each."""


class Pieces:
    """Turns tokens into pieces of text. `stopped` turns true when a stop text was met; `text` is all that was given out."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        """`decode` gives the text of tokens, special tokens left out; `stop` are texts that end the answer."""
        self.decode = decode
        self.stop = [word for word in stop if word]
        self.stopped = False
        self.text = ""
        self._ids: list[int] = []
        self._start = self._read = 0
        self._held = ""

    def add(self, token: int) -> str:
        """The text that is certain now that `token` has come; empty while a character or a stop text is half there."""
        self._ids.append(token)
        before, now = self.decode(self._ids[self._start : self._read]), self.decode(self._ids[self._start :])
        waiting = len(self._ids) - self._read
        if now.endswith(BROKEN) and waiting < LONGEST:
            return ""
        self._start, self._read = self._read, len(self._ids)
        return self._give(now[len(before) :], False)

    def end(self) -> str:
        """What was held back, once no token follows; broken characters stay broken."""
        before, now = self.decode(self._ids[self._start : self._read]), self.decode(self._ids[self._start :])
        self._start = self._read = len(self._ids)
        return self._give(now[len(before) :], True)

    def _give(self, text: str, last: bool) -> str:
        if self.stopped:
            return ""
        held = self._held + text
        places = [place for place in (held.find(word) for word in self.stop) if place >= 0]
        if places:
            self.stopped, out, self._held = True, held[: min(places)], ""
        else:
            keep = 0 if last else max((_overlap(held, word) for word in self.stop), default=0)
            out, self._held = held[: len(held) - keep], held[len(held) - keep :]
        self.text += out
        return out


def _overlap(text: str, word: str) -> int:
    """Length of the longest end of `text` that `word` begins with."""
    return next((n for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n])), 0)
