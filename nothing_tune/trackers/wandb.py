"""Weights & Biases. The run's own id is its id there, so that a resumed run continues the same one.

Settings of a recipe's `tracking`: project, entity, group, tags, notes, mode (`online`, `offline`). Offline files are in
`tracking/wandb` of the run directory; `wandb sync` sends them later.
"""

from __future__ import annotations

import configparser
import contextlib
import http.client
import netrc
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from nothing_tune.errors import Problem

HOST = "https://api.forge.coreweave.com"
"""The server of wandb 0.31 where none is named."""
NETRC_HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")
"""Names under which `wandb login` has left the key for that server."""
FINISHED = "finished"
"""A file in the folder of offline files that are whole."""
INIT_S = 30
"""How long Weights & Biases may take to begin a run, in seconds."""
UPLOAD_S = 300
"""How long it may take to upload what is left at the end of a run, in seconds; then the run counts as not sent."""


class _Run:
    settles = "at the end"

    def __init__(self, run: Any, offline: bool) -> None:
        self._run = run
        self._first = int(run.starting_step)
        """Steps below are there from before."""
        self._marker = Path(run.dir).parent / FINISHED if offline else None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if step < self._first:
            return
        named = {f"eval/{k[5:]}" if k.startswith("eval_") else f"train/{k}": v for k, v in metrics.items()}
        self._run.log(named, step=step)

    def summary(self, values: Mapping[str, Any]) -> None:
        self._run.summary.update({f"result/{k}": v for k, v in values.items()})

    def finish(self) -> None:
        import wandb

        self._run.finish()
        wandb.teardown()  # the end of its service, which writes offline files on after `finish`
        if self._marker is not None:
            self._marker.touch()


def check(settings: Mapping[str, Any], env: Mapping[str, str]) -> list[Problem]:
    """The package, and online a key: WANDB_API_KEY, or where `wandb login` leaves it."""
    if find_spec("wandb") is None:
        return [
            Problem(
                "tracking.tracker is wandb, but the package wandb is not installed",
                key="tracking.tracker",
                hint="pip install wandb, or add tracking.tracker=none",
            )
        ]
    key = env.get("WANDB_API_KEY") or env.get("WANDB_IDENTITY_TOKEN_FILE")
    if _offline(settings, env) or key or _logged_in(env):
        return []
    return [
        Problem(
            "tracking.tracker is wandb, but there is no key for it",
            key="tracking.tracker",
            hint="run `wandb login`, or set WANDB_API_KEY; or add tracking.mode=offline or tracking.tracker=none",
        )
    ]


def unreachable(settings: Mapping[str, Any], env: Mapping[str, str], timeout: float) -> str | None:
    """Asks the server for anything, through the proxy that the environment names, and takes any answer for a yes."""
    if _offline(settings, env):
        return None
    address = _address(env)
    try:
        request = urllib.request.Request(address, method="HEAD")
        urllib.request.build_opener().open(request, timeout=timeout).close()
    except urllib.error.HTTPError:
        return None  # an answer
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, ssl.SSLError):
            return None  # wandb knows certificates of its own
        return f"{urlparse(address).netloc or address} does not answer ({reason})"
    return None


def start(settings: Mapping[str, Any], run_id: str, name: str, config: Mapping[str, Any], folder: Path) -> _Run:
    """Begins the run, or continues it where it exists."""
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    offline = _offline(settings, os.environ)
    if offline:
        _set_aside(folder)
    watched = {"x_stats_pid": settings["pid"]} if settings.get("pid") else {}
    run = wandb.init(
        id=run_id,
        resume="allow",
        name=name,
        project=settings.get("project") or None,
        entity=settings.get("entity") or None,
        group=settings.get("group") or None,
        tags=list(settings.get("tags") or []) or None,
        notes=settings.get("notes") or None,
        mode=settings.get("mode") or None,
        config=dict(config),
        dir=str(folder),
        settings=wandb.Settings(
            console="off",
            silent=True,
            init_timeout=INIT_S,
            finish_timeout=UPLOAD_S,
            finish_timeout_raises=True,
            **watched,
        ),
    )
    return _Run(run, offline)


def _set_aside(folder: Path) -> None:
    """Renames offline files that were not finished, so that `wandb sync` passes them over: all they hold is logged again."""
    for path in (folder / "wandb").glob("offline-run-*"):
        if path.is_dir() and not (path / FINISHED).exists():
            path.rename(path.with_name(f"unfinished-{path.name}"))


def _offline(settings: Mapping[str, Any], env: Mapping[str, str]) -> bool:
    return (settings.get("mode") or env.get("WANDB_MODE") or "online") in ("offline", "disabled", "dryrun")


def _logged_in(env: Mapping[str, str]) -> bool:
    """Whether a netrc file names the host, as `wandb login` writes it, or wandb's own settings file holds a key."""
    host = urlparse(_address(env)).netloc
    home = _home(env)
    for path in (Path(env["NETRC"]) if env.get("NETRC") else None, home / ".netrc", home / "_netrc"):
        if path is None or not path.is_file():
            continue
        with contextlib.suppress(netrc.NetrcParseError, OSError):
            known = netrc.netrc(str(path))
            if any(known.authenticators(name) for name in (NETRC_HOSTS if host in NETRC_HOSTS else (host,))):
                return True
    return _setting("api_key", env) is not None


def _address(env: Mapping[str, str]) -> str:
    """The server: the environment's, else that of wandb's settings file, else the public one."""
    return env.get("WANDB_BASE_URL") or _setting("base_url", env) or HOST


def _setting(name: str, env: Mapping[str, str]) -> str | None:
    """A value of wandb's own settings file."""
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read(Path(env.get("WANDB_CONFIG_DIR") or _home(env) / ".config" / "wandb") / "settings")
    except (configparser.Error, OSError, UnicodeDecodeError):
        return None
    return next((settings[part][name] for part in settings.sections() if name in settings[part]), None)


def _home(env: Mapping[str, str]) -> Path:
    return Path(env.get("HOME") or os.path.expanduser("~"))
