"""`tune export`: makes what others can load, and proves that it is what was trained. The engine does it, as a job."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from nothing_tune.cli import console, options
from nothing_tune.errors import UsageError

EXAMPLES = (
    ("tune export latest", "what the recipe's export section names; the adapter where it names nothing"),
    ("tune export latest --merge --gguf q4_k_m", "the whole model, and one for llama.cpp and Ollama"),
    ("tune export latest --gguf q8_0,q5_k_m --ollama --dry-run", "what it would make, and how large"),
    ("tune export latest --checkpoint 40 --vllm", "another checkpoint, with commands that serve it"),
    ("tune export --verify latest", "prove again what was exported"),
)
EXITS = (0, 2, 4, 5, 7, 71, 74, 77, 130)
STEP = re.compile(r"^(handed-over|best|last|\d+)$")


def command(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN_ID",
            help="The run: an id, the start of one, a path, or `latest`. With --verify also a folder of exports.",
            autocompletion=options.complete_runs,
            show_default=False,
        ),
    ] = None,
    adapter: Annotated[bool, typer.Option("--adapter", help="The adapter, with tokenizer and card.")] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="The whole model: the adapter merged into the 16-bit base.")
    ] = False,
    gguf: Annotated[
        list[str] | None,
        typer.Option(
            "--gguf",
            metavar="TYPES",
            help="GGUF of these types: f16, bf16, q8_0, q5_k_m, q4_k_m, …",
            show_default=False,
        ),
    ] = None,
    gguf_adapter: Annotated[
        bool, typer.Option("--gguf-adapter", help="The adapter alone as GGUF, for llama.cpp beside its base.")
    ] = False,
    ollama: Annotated[bool, typer.Option("--ollama", help="A Modelfile for Ollama.")] = False,
    vllm: Annotated[bool, typer.Option("--vllm", help="Commands and YAML that serve it with vLLM.")] = False,
    push: Annotated[
        str | None,
        typer.Option(
            "--push", metavar="ORG/NAME", help="Upload to the hub, to a private repository.", show_default=False
        ),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make the repository of --push public.")] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            metavar="best|last|N",
            help="Export this checkpoint instead of what the run handed over.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Write there instead of into the run.", show_default=False),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option("--system", metavar="TEXT", help="System prompt of the Modelfile.", show_default=False),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Prove again what is there, and make nothing.")] = False,
    no_proof: Annotated[bool, typer.Option("--no-proof", help="Make it without proving it; the card says so.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be made, and make nothing.")] = False,
    runs_dir: options.RunsDir = None,
    json: options.Json = False,
) -> None:
    """Says what will be made, has it made and proved, and tells how it is used."""
    from nothing_tune.artifacts import find_run, runs_root
    from nothing_tune.cli.export import making
    from nothing_tune.run import export

    name, types = _split(words, gguf)
    if verify:
        making.verify(_verified(name, runs_root(runs_dir)), json)
        return
    run = find_run(name, runs_root(runs_dir))
    if checkpoint is not None and not STEP.match(checkpoint):
        raise UsageError(f"--checkpoint: {checkpoint!r} is no checkpoint", hint="best, last or the number of a step")
    asked = _wanted(run, adapter, merge, types, gguf_adapter, ollama, vllm, push)
    wanted = replace(
        asked,
        private=asked.private and not public,
        prove=asked.prove and not no_proof,
        system=asked.system if system is None else system,
    )
    found = export.outlook(run, export.filled(wanted), checkpoint or _which(run), to)
    if dry_run and json:
        console.out_json({"dry_run": True, **found.to_json()})
        return
    if not dry_run:
        export.refuse_unable(found.wanted)
        export.refuse_full(found)
    page = making.Page(found, json)
    page.open(dry_run)
    if dry_run:
        if found.wanted.push:
            making.listing(found, page)
        return
    making.make(found, page)


def _split(words: list[str] | None, gguf: list[str] | None) -> tuple[str, list[str]]:
    """`(run, GGUF types)`: types may follow each other with commas, or as further words behind --gguf."""
    from nothing_tune.outputs.quantizations import TYPES

    names = [w for w in words or () if w.lower() not in TYPES]
    spread = [w for w in words or () if w.lower() in TYPES]
    if spread and not gguf:
        raise UsageError(f"{spread[0]} is a GGUF type", hint=f"--gguf {','.join(spread)}")
    if len(names) != 1:
        what = "which run? none is named" if not names else f"two runs are named: {names[0]} and {names[1]}"
        raise UsageError(what, hint="tune export latest")
    return names[0], checked(",".join([*(gguf or ()), *spread]).split(","))


def checked(types: list[str]) -> list[str]:
    """Names of GGUF types as they are written, each once; `UsageError` with all that llama.cpp has not, or that are not made here."""
    from nothing_tune.outputs import quantizations

    tried = [console.outcome(lambda name=name: quantizations.find(name).name) for name in types if name.strip()]  # type: ignore[misc]
    if wrong := [problem for _, error in tried if error for problem in error.problems]:
        raise UsageError(*wrong)
    return list(dict.fromkeys(name for name, _ in tried if name))


def _wanted(
    run: Any,
    adapter: bool,
    merge: bool,
    types: list[str],
    gguf_adapter: bool,
    ollama: bool,
    vllm: bool,
    push: str | None,
) -> Any:
    """What the options ask for; without any, what the run's recipe names, and the adapter where that is nothing."""
    from nothing_tune.outputs import Wanted

    plan = run.plan()
    own = Wanted.of(plan.get("values") or {})
    asked = Wanted(adapter, merge, tuple(types), gguf_adapter, ollama, vllm, push or "")
    kept = replace(asked, private=own.private, prove=own.prove, system=own.system)
    alone = replace(kept, adapter=True) if plan.get("peft") else replace(kept, merged=True)
    return kept if asked else own or alone


def _which(run: Any) -> str:
    """The checkpoint that the recipe names; what was handed over where it names none."""
    section = (run.plan().get("values") or {}).get("export") or {}
    return str(section.get("checkpoint") or "handed-over")


def _verified(name: str, root: Path) -> list[Path]:
    """The folders of exports that `name` means: a folder itself, or all of a run."""
    from nothing_tune.artifacts import find_run
    from nothing_tune.outputs import manifest

    path = Path(name)
    if path.is_dir() and not (path / "plan.json").is_file():
        if not any(path.glob(f"**/{manifest.NAME}")):
            raise UsageError(f"{path} holds no export: it has no {manifest.NAME}", hint="tune export RUN_ID makes one")
        return [path.absolute()]
    run = find_run(name, root)
    found = sorted({p.parent.parent for p in run.path.glob(f"exports/*/*/{manifest.NAME}")})
    if not found:
        raise UsageError(f"run {run.id} has no exports", hint=f"tune export {run.id} makes one")
    return found
