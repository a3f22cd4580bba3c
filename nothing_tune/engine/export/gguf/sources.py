"""The converter's sources: one pinned source tree of llama.cpp, from the source package of llama-cpp-python.

The wheel holds the library but not the scripts that write GGUF files, and the `gguf` of the package index is not the one that these
scripts import. So both are taken together from the source package of the very version that is installed, once, through the user's
own pip settings, and only the parts that are needed are kept.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from nothing_tune.artifacts.files import cache_root
from nothing_tune.errors import LaunchError, StorageError, UsageError

VERSION = "0.3.36"
"""Version of llama-cpp-python that the extra `gguf` pins; library and sources must be of it."""
ARCHIVE_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
"""Of llama_cpp_python-0.3.36.tar.gz, 76,589,250 bytes, as the package index serves it (2026-11-21)."""
TREE_SHA256 = "36f46473b91e8b9bdb7c7e2a5b0ac17912a6bd4a2e5de719fec0cbb53e848cb1"
"""`digest` of the parts that are used."""
VARIABLE = "TUNE_LLAMA_CPP"
INSTALL = "pip install 'nothing-tune[gguf]'   (builds llama.cpp: about 4 minutes, needs a C++ compiler)"

_SCRIPTS = ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py", "LICENSE")
_FOLDERS = ("conversion", "gguf-py/gguf")
_DOWNLOAD_S = 1800


def tree() -> Path:
    """The folder of llama.cpp's converter, which fits the installed library.

    Looked for where `TUNE_LLAMA_CPP` says (a checkout of llama.cpp, an unpacked source package or its archive), then in the cache,
    else downloaded with pip.

    Raises:
        UsageError: llama-cpp-python is not installed or of another version, or `TUNE_LLAMA_CPP` names something else.
        LaunchError: The sources cannot be downloaded.
        StorageError: The cache cannot be written.
    """
    installed()
    named = os.environ.get(VARIABLE)
    if named:
        return _named(Path(named).expanduser())
    home = cache_root() / f"llama-cpp-python-{VERSION}"
    if _whole(home):
        return home
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{home}.lock"):
            if not _whole(home):
                _obtain(home)
    except OSError as error:
        raise StorageError(
            f"cannot keep the converter in {home.parent}: {error.strerror or error}",
            hint="free some space, or name another folder: export TUNE_CACHE_DIR=/path",
        ) from error
    return home


def installed() -> str:
    """Version of the installed library.

    Raises:
        UsageError: It is missing, or not the pinned one.
    """
    try:
        found = importlib.metadata.version("llama_cpp_python")
    except importlib.metadata.PackageNotFoundError:
        raise UsageError("GGUF files need llama-cpp-python, which is not installed", hint=INSTALL) from None
    if found != VERSION:
        raise UsageError(f"llama-cpp-python {found} is installed, and the converter belongs to {VERSION}", hint=INSTALL)
    return found


def digest(folder: Path) -> str:
    """One sha256 over the names and contents of the files in `folder` that are used."""
    whole = hashlib.sha256()
    for path in _parts(folder):
        name = path.relative_to(folder).as_posix()
        whole.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def _parts(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in sorted(_SCRIPTS) if (folder / name).is_file())
    for name in _FOLDERS:
        yield from sorted((folder / name).glob("*.py"), key=lambda path: path.name)


def _whole(folder: Path) -> bool:
    return (folder / _SCRIPTS[0]).is_file() and digest(folder) == TREE_SHA256


def _named(path: Path) -> Path:
    """What `TUNE_LLAMA_CPP` names; an archive is unpacked into the cache."""
    if path.is_file():
        home = cache_root() / f"llama-cpp-python-{VERSION}"
        if not _whole(home):
            home.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{home}.lock"):
                _unpack(path, home)
        return home
    for folder in (path, path / "vendor" / "llama.cpp"):
        if (folder / _SCRIPTS[0]).is_file():
            if digest(folder) == TREE_SHA256:
                return folder.absolute()
            raise UsageError(
                f"{VARIABLE}={path} is another llama.cpp than that of llama-cpp-python {VERSION}, which is installed",
                hint=f"unset {VARIABLE}, or name the source package of {VERSION}",
            )
    raise UsageError(
        f"{VARIABLE}={path} is no llama.cpp: it has no {_SCRIPTS[0]}",
        hint=f"name an unpacked source package of llama-cpp-python {VERSION}, or its .tar.gz",
    )


def _obtain(home: Path) -> None:
    by_hand = (
        f"where there is a network: pip download --no-deps --no-binary llama-cpp-python llama-cpp-python=={VERSION}; "
        f"here: export {VARIABLE}=/path/to/llama_cpp_python-{VERSION}.tar.gz"
    )
    with tempfile.TemporaryDirectory(prefix="llama-", dir=home.parent) as folder:
        command = [
            sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-deps",
            "--no-binary", "llama-cpp-python", "--dest", folder, f"llama-cpp-python=={VERSION}",
        ]  # fmt: skip
        environment = {**os.environ, "TMPDIR": folder}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, errors="replace", timeout=_DOWNLOAD_S,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise LaunchError("pip did not bring the converter's sources within half an hour", hint=by_hand) from None
        found = sorted(Path(folder).glob("*.tar.gz"))
        if "No module named pip" in done.stderr:
            raise LaunchError(
                "the converter's sources are not here, and this environment has no pip to bring them",
                hint=f"python -m ensurepip, then again; or {by_hand}",
            )
        if done.returncode or not found:
            said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            words = next((line for line in reversed(said) if "ERROR" in line), said[-1] if said else "no words")
            if "No space left" in done.stderr:
                raise OSError(28, "No space left on device")
            raise LaunchError(f"pip could not bring the converter's sources: {words.strip()}", hint=by_hand)
        _unpack(found[0], home)


def _unpack(archive: Path, home: Path) -> None:
    """Checks `archive` and puts the parts that are needed at `home`, all at once."""
    with open(archive, "rb") as handle:
        if hashlib.file_digest(handle, "sha256").hexdigest() != ARCHIVE_SHA256:
            raise UsageError(
                f"{archive.name} is not the source package of llama-cpp-python {VERSION}: its sha256 differs",
                hint=f"sha256 {ARCHIVE_SHA256} is the one that belongs to it",
            )
    inside = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
    with tempfile.TemporaryDirectory(prefix="llama-", dir=home.parent) as folder:
        with tarfile.open(archive) as tar:
            wanted = [m for m in tar if m.isfile() and m.name.startswith(inside) and _needed(m.name[len(inside) :])]
            tar.extractall(folder, members=wanted, filter="data")
        made = Path(folder) / inside
        if not _whole(made):
            raise UsageError(f"{archive.name} does not hold the converter that belongs to this version", hint=INSTALL)
        shutil.rmtree(home, ignore_errors=True)  # torn or changed
        os.replace(made, home)


def _needed(name: str) -> bool:
    head, _, tail = name.rpartition("/")
    return name in _SCRIPTS or (head in _FOLDERS and tail.endswith(".py"))
