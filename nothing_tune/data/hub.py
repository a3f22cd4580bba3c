"""Says in plain words why something could not be had from the Hugging Face hub. Light: it imports nothing of the hub."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from nothing_tune.errors import Problem

LOGIN = "run `hf auth login`, or set HF_TOKEN"
OFFLINE = {
    "OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ConnectionError", "ConnectTimeout", "ReadTimeout",
    "ProxyError", "MaxRetryError", "NameResolutionError",
}  # fmt: skip
"""Names of the errors that mean: the hub was not reached."""


def reachable(timeout_s: float = 5.0) -> bool:
    """Whether the hub's host answers within `timeout_s` seconds; True behind a proxy, which decides by itself.

    The hub's own client tries again and again for about a minute before it gives up.
    """
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    url = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        socket.create_connection(
            (url.hostname or "", url.port or (80 if url.scheme == "http" else 443)), timeout_s
        ).close()
    except OSError:
        return False
    return True


def offline() -> bool:
    """Whether the user has told the hub's libraries to use the local cache alone (HF_HUB_OFFLINE, as they read it)."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def home() -> Path:
    """Where the hub's own libraries keep token and cache: HF_HOME, else huggingface/ in XDG_CACHE_HOME or ~/.cache."""
    given = os.environ.get("HF_HOME")
    return Path(given or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface").expanduser()


def cached_config(name: str) -> Path | None:
    """The newest config.json of a hub model in the local cache; None when it has none."""
    folder = Path(os.environ.get("HF_HUB_CACHE") or home() / "hub") / f"models--{name.replace('/', '--')}" / "snapshots"
    return max(folder.glob("*/config.json"), key=os.path.getmtime, default=None)


def hub_problem(error: BaseException, name: str, key: str, what: str = "model") -> Problem:
    """The problem behind `error`, raised while the `what` called `name` was loaded; `key` is the recipe key that names it.

    Without a key (a command line names it) the hint does not speak of recipes and runs.
    """
    kinds = {type(e).__name__ for e in chain(error)}
    text = " ".join(str(e) for e in chain(error))
    url = f"https://huggingface.co/{'datasets/' if what == 'data set' else ''}{name}"
    if "GatedRepoError" in kinds or "gated repo" in text:
        return Problem(
            f"{what} {name} is gated: its owner asks you to accept the terms first",
            key=key,
            hint=f"accept them at {url}, then {LOGIN}",
        )
    if "RevisionNotFoundError" in kinds:
        return Problem(
            f"{what} {name} has no such revision on the hub", key=key, hint=f"see {url}/tree/main for the ones it has"
        )
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError"} or "is not a valid model identifier" in text:
        return Problem(
            f"there is no {what} {name} on the hub that you may see",
            key=key,
            hint=f"check the name at {url}; if it is private, {LOGIN}",
        )
    if kinds & OFFLINE or "couldn't connect" in text.lower() or "Cannot reach" in text:
        return Problem(
            f"{what} {name} is not in the local cache and huggingface.co cannot be reached",
            key=key,
            hint="connect to the network, or name a local folder",
        )
    hint = "see that its files are whole, or fetch it again" if key else ""
    return Problem(f"{what} {name} cannot be loaded: {words(error)}", key=key, hint=hint)


def words(error: BaseException) -> str:
    """What `error` says, in one line: its first, and those that follow as long as they end in the middle of a sentence.

    At most four lines; the class's name where it says nothing.
    """
    said = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    count = 1
    while said[count - 1].endswith((":", ",")) and count < min(len(said), 4):
        count += 1
    return " ".join(said[:count]).rstrip(":, ")


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and everything that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
