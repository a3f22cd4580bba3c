"""Asks an OpenAI-compatible endpoint: several questions at once, again after faults that pass, and never a row twice.

The client of the `openai` package repeats a request after 408, 409, 429, 5xx, a timeout or a lost connection, waits as long as the
server's Retry-After says (up to two minutes), and otherwise doubling from half a second to eight.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from nothing_tune.engine.generate.questions import Answer, Question
from nothing_tune.engine.generate.schedule import Schedule
from nothing_tune.errors import Problem, RunError, UsageError

GRACE_S = 10.0
"""Longest wait, in seconds, for answers that are on their way when a stop is asked for: they are paid for."""
IN_A_ROW = 20
"""Questions in a row without an answer after which the endpoint counts as gone."""
LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "host.docker.internal")
NEW_NAMES = ("api.openai.com",)
"""Hosts that call the length of an answer `max_completion_tokens`."""
PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
FIRST = 3
"""Questions that are refused for good, before any is answered, after which the endpoint counts as refusing all."""
GO_ON = "the answers so far are kept: the same command goes on"

Give = Callable[[Question, Answer], None]


def client(settings: dict[str, Any]) -> Any:
    """The client for `generate.generator`. `UsageError` when its key is missing."""
    from openai import AsyncOpenAI

    generator = settings["generator"]
    return AsyncOpenAI(
        base_url=generator["base_url"],
        api_key=api_key(generator),
        max_retries=settings["retries"],
        timeout=settings["timeout_s"],
    )


def api_key(generator: dict[str, Any]) -> str:
    """The endpoint's key from its environment variable; a server on this machine needs none."""
    name = generator.get("api_key_env")
    found = os.environ.get(name, "").strip() if name else ""
    host = urlsplit(generator["base_url"]).hostname or ""
    if found or not name or host in LOCAL or host.endswith(".local"):
        return found or "none"
    raise UsageError(
        Problem(
            f"{host} wants a key, and the environment variable {name} is not set",
            key="generate.generator.api_key_env",
            hint=f"export {name}=..., or name another variable with generate.generator.api_key_env (null sends no key)",
        )
    )


async def ask_all(schedule: Schedule, settings: dict[str, Any], give: Give, stop: asyncio.Event) -> None:
    """Asks until the schedule has nothing more, or `stop` is set.

    Args:
        give: Called with each question and what came of it, before its place is given to another.

    Raises:
        UsageError: The endpoint refuses the key, or has no such model.
        RunError: Nothing answers at the address, or nothing answers any more.
    """
    asked = client(settings)
    changed = asyncio.Condition()
    tally = Tally(give)

    async def worker() -> None:
        while not stop.is_set():
            taken = schedule.take()
            if not taken:
                if not schedule.in_flight:
                    return
                async with changed:  # an answer that is not taken makes room for another question
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(changed.wait(), 0.5)
                continue
            question = taken[0]
            try:
                answer = await ask(asked, question, settings)
                tally.add(question, answer)
            finally:
                schedule.done(question)
                async with changed:
                    changed.notify_all()
            tally.check(answer, settings)

    try:
        await _check(asked, settings)
        tasks = [asyncio.create_task(worker()) for _ in range(settings["concurrency"])]
        await _watch(tasks, stop)
        tally.release()
    finally:
        await asked.close()


class Tally:
    """Passes on what came of questions, and sees when an endpoint answers none.

    Until the first answer, faults that would last are held back: an endpoint that refuses all would mark every row.
    """

    def __init__(self, give: Give) -> None:
        self._give = give
        self._held: list[tuple[Question, Answer]] = []
        self._answered = False
        self._in_a_row = 0

    def add(self, question: Question, answer: Answer) -> None:
        """Counts an answer or a fault, and passes it on or holds it back."""
        self._in_a_row = self._in_a_row + 1 if answer.fault else 0
        if answer.fault and answer.lasting and not self._answered:
            self._held.append((question, answer))
            return
        if not answer.fault:
            self._answered = True
            self.release()
        self._give(question, answer)

    def release(self) -> None:
        """Passes on what was held back."""
        held, self._held = self._held, []
        for question, answer in held:
            self._give(question, answer)

    def check(self, last: Answer, settings: dict[str, Any]) -> None:
        """`UsageError` when the first questions were all refused for good, `RunError` when many in a row got no answer."""
        generator = settings["generator"]
        if not self._answered and len(self._held) >= FIRST:
            raise UsageError(
                Problem(
                    f"the endpoint refuses every question: {self._held[-1][1].fault}",
                    key="generate.generator.model",
                    hint=f"look at generate.generator and generate.sampling; {generator['base_url']}/models lists its models",
                )
            )
        if last.fault and self._in_a_row >= IN_A_ROW:
            raise RunError(
                Problem(
                    f"the endpoint left {self._in_a_row} questions in a row without an answer: {last.fault}",
                    key="generate.generator.base_url",
                    hint=f"look at its log; {GO_ON}",
                )
            )


async def _watch(tasks: list[asyncio.Task[None]], stop: asyncio.Event) -> None:
    """Waits for the workers; the first error of one ends all, and a stop ends those that are not done after a grace."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        while not stop.is_set() and (open_ := [t for t in tasks if not t.done()]):
            if any(t.done() and t.exception() for t in tasks):
                break
            await asyncio.wait([*open_, stopping], return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            await asyncio.wait(tasks, timeout=GRACE_S)
    finally:
        stopping.cancel()
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    for error in done:
        if isinstance(error, Exception):
            raise error


async def _check(asked: Any, settings: dict[str, Any]) -> None:
    """Whether anything listens at the address, before questions wait for it. `RunError` when not."""
    url = urlsplit(settings["generator"]["base_url"])
    port = url.port or (443 if url.scheme == "https" else 80)
    if (url.hostname or "") not in LOCAL and any(os.environ.get(name) for name in PROXIES):
        return  # the proxy decides what can be reached
    try:
        async with asyncio.timeout(min(settings["timeout_s"], 10)):
            _, writer = await asyncio.open_connection(url.hostname, port)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    except (OSError, TimeoutError) as error:
        why = "nothing answers" if isinstance(error, TimeoutError) else _why(error)
        host = url.hostname or ""
        cure = "start the server" if host in LOCAL else "look at the address and the network"
        raise RunError(
            Problem(
                f"there is no endpoint at {settings['generator']['base_url']}: {why}",
                key="generate.generator.base_url",
                hint=f"{cure}, or set generate.generator.base_url; docs/generate.md has the addresses of the usual servers",
            )
        ) from error


def _why(error: OSError) -> str:
    if (
        isinstance(error, ConnectionRefusedError)
        or "refused" in str(error).lower()
        or "Multiple exceptions" in str(error)
    ):
        return "the connection is refused"
    return str(error.strerror or error).lower() or "the connection fails"


async def ask(asked: Any, question: Question, settings: dict[str, Any]) -> Answer:
    """One question, with the client's retries. Faults of this one question are answers with a `fault`.

    Raises:
        UsageError: A fault that every question would meet: the key, the model, the address.
    """
    import openai

    generator = settings["generator"]
    try:
        reply = await asked.chat.completions.create(**request(question, generator))
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise UsageError(
            Problem(
                f"the endpoint refuses the key: {said(error)}",
                key="generate.generator.api_key_env",
                hint=f"look at the environment variable {generator.get('api_key_env') or 'that holds it'}; {GO_ON}",
            )
        ) from error
    except openai.NotFoundError as error:
        raise UsageError(
            Problem(
                f"the endpoint does not know {generator['model']} or the address: {said(error)}",
                key="generate.generator.model",
                hint=f"write the name as {generator['base_url']}/models lists it; the address usually ends in /v1",
            )
        ) from error
    except openai.APITimeoutError:
        return Answer(fault=f"no answer within {settings['timeout_s']:g} s")
    except openai.APIConnectionError as error:
        return Answer(fault=f"the connection was lost: {said(error)}")
    except openai.APIStatusError as error:
        lasting = error.status_code < 500 and error.status_code not in (408, 409, 429)
        return Answer(fault=f"status {error.status_code}: {said(error)}", lasting=lasting)
    except (openai.OpenAIError, ValueError) as error:
        return Answer(fault=f"the answer cannot be read: {said(error)}")
    return answer_of(reply)


def request(question: Question, generator: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request; `generator.extra` goes along as it is."""
    sampling = question.sampling
    host = urlsplit(generator["base_url"]).hostname
    length = "max_completion_tokens" if host in NEW_NAMES else "max_tokens"
    fields: dict[str, Any] = {
        "model": generator["model"],
        "messages": list(question.messages),
        "temperature": sampling["temperature"],
        "top_p": sampling["top_p"],
        length: sampling["max_new_tokens"],
    }
    if question.seed is not None:
        fields["seed"] = question.seed
    if generator.get("extra"):
        fields["extra_body"] = generator["extra"]
    return fields


def answer_of(reply: Any) -> Answer:
    """What an endpoint replied, as an answer; a fault where the reply is none."""
    choices = getattr(reply, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        return Answer(fault="the reply holds no answer")
    usage = getattr(reply, "usage", None)
    return Answer(
        str(choices[0].message.content or ""),
        str(choices[0].finish_reason or "stop"),
        int(getattr(usage, "prompt_tokens", 0) or 0),
        int(getattr(usage, "completion_tokens", 0) or 0),
    )


def said(error: BaseException) -> str:
    """What an error says, in one line of at most 200 characters, without anything that looks like a key."""
    from nothing_tune.artifacts.redact import redact_all

    text = " ".join(str(getattr(error, "message", "") or error or type(error).__name__).split())
    return str(redact_all(text))[:200].rstrip(".")
