"""The chat job: JSON lines in, streamed tokens out."""

from __future__ import annotations

import io
import json
from typing import Any

from nothing_tune.engine import chat
from tests.engine.support import MakeRun, train


def talk(path: Any, *requests: Any, base: bool = False) -> list[dict[str, Any]]:
    out = io.StringIO()
    lines = io.StringIO("".join(json.dumps(r) + "\n" for r in requests))
    assert chat.main(path, base=base, lines=lines, out=out) == 0
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_it_streams_a_reply_and_survives_a_bad_request(make_run: MakeRun) -> None:
    run = make_run()
    train(run)
    ask = {"messages": [{"role": "user", "content": "alpha"}], "max_new_tokens": 5}
    greedy, sampled = {**ask, "temperature": 0}, {**ask, "temperature": 1.0, "seed": 3}
    said = talk(run.path, greedy, {"messages": []}, greedy, sampled, sampled)
    assert said[0]["type"] == "ready"
    done = [s for s in said if s["type"] == "done"]
    assert [s["type"] for s in said if s["type"] in ("done", "error")] == ["done", "error", "done", "done", "done"]
    assert done[0]["text"] == done[1]["text"]
    assert done[2]["text"] == done[3]["text"]
    assert 0 < done[0]["tokens"] <= 5
    first = said[1 : said.index(done[0])]
    assert "".join(s["text"] for s in first) == done[0]["text"]
    assert talk(run.path, greedy, base=True)[0]["base"] is True
