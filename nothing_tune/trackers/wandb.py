"""Weights & Biases. The run's own id is its id there, so that a resumed run continues the same one.

Settings of a recipe's `tracking`: project, entity, group, tags, notes, mode (`online`, `offline`). Offline files are in
`tracking/wandb` of the run directory; `wandb sync` sends them later.
"""

from __future__ import annotations

import configparser
import netrc
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from nothing_tune.errors import Problem

HOST = "https://api.wandb.ai"


class _Run:
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        named = {f"eval/{k[5:]}" if k.startswith("eval_") else f"train/{k}": v for k, v in metrics.items()}
        self._run.log(named, step=step)

    def finish(self) -> None:
        self._run.finish()


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
    mode = settings.get("mode") or env.get("WANDB_MODE") or "online"
    if (
        mode in ("offline", "disabled", "dryrun")
        or env.get("WANDB_API_KEY")
        or env.get("WANDB_IDENTITY_TOKEN_FILE")
        or _logged_in(env)
    ):
        return []
    return [
        Problem(
            "tracking.tracker is wandb, but there is no key for it",
            key="tracking.tracker",
            hint="run `wandb login`, or set WANDB_API_KEY; or add tracking.mode=offline or tracking.tracker=none",
        )
    ]


def start(settings: Mapping[str, Any], run_id: str, name: str, config: Mapping[str, Any], folder: Path) -> _Run:
    """Begins the run, or continues it where it exists."""
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
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
        settings=wandb.Settings(console="off", silent=True, init_timeout=30),
    )
    return _Run(run)


def _logged_in(env: Mapping[str, str]) -> bool:
    """Whether a netrc file names the host, as `wandb login` writes it, or wandb's own settings file holds a key."""
    host = urlparse(env.get("WANDB_BASE_URL") or HOST).hostname or ""
    home = Path(env.get("HOME") or os.path.expanduser("~"))
    for path in (Path(env["NETRC"]) if env.get("NETRC") else None, home / ".netrc", home / "_netrc"):
        if path is None or not path.is_file():
            continue
        try:
            if netrc.netrc(str(path)).authenticators(host):
                return True
        except (netrc.NetrcParseError, OSError):
            continue
    settings = configparser.ConfigParser()
    try:
        settings.read(Path(env.get("WANDB_CONFIG_DIR") or home / ".config" / "wandb") / "settings")
    except (configparser.Error, OSError, UnicodeDecodeError):
        return False
    return any(settings.has_option(section, "api_key") for section in settings.sections())
