"""Why a run ended as it did: one small function each, with those of `crashes`, in the order in which they are asked."""

from __future__ import annotations

import re
from collections.abc import Callable

from nothing_tune.artifacts.runs import LOST_AFTER_S
from nothing_tune.run.doctor import cause
from nothing_tune.run.doctor.cause import ADVICE, CALLS, FAIL, OURS, STUDIO, WARN, Cause, Cures
from nothing_tune.run.doctor.crashes import failed, hung, killed, lost, unexplained
from nothing_tune.run.doctor.record import Record

NO_PROGRESS = 2
"""Attempts in a row that end where they began before that is worth a word."""


def damaged(r: Record) -> Cause | None:
    """plan.json, without which nothing can go on."""
    if r.plan:
        if not r.damaged:
            return None
        files = [f"{file}: {why}" for file, why in r.damaged.items()]
        what = f"{cause.plural(len(files), 'file')} of the run cannot be read"
        cures = (
            (f"tune runs verify {r.name}", "reads all of it and says what a resume would do"),
            (cause.resume(r), "makes status and result anew"),
        )
        return Cause(
            "damaged-files", WARN, what, tuple(files), "a disk that was full or failed, or a hand in it", cures, OURS
        )
    why = r.damaged.get("plan.json", "it is not there")
    recipe = r.run.path / "recipe.yaml"
    anew: Cures = ((f"tune train {recipe}", "the same recipe as a new run"),) if recipe.is_file() else ()
    return Cause(
        "no-plan",
        FAIL,
        f"plan.json cannot be read: {why}",
        (),
        "the run was never made to its end, or the disk damaged it",
        anew,
        OURS,
    )


def never_started(r: Record) -> Cause | None:
    """A run directory that no engine has written to."""
    if not r.plan or r.attempts or r.logs or r.events or r.result or r.held:
        return None
    if r.state in ("stopped",):
        return Cause("waits", ADVICE, "it was made and not started", (), "", ((cause.resume(r), "starts it"),), OURS)
    beat = r.status.get("heartbeat") or r.status.get("created")
    if isinstance(beat, int | float) and r.now - beat < LOST_AFTER_S:
        return None
    return Cause(
        "never-started", FAIL, "the engine was never started on it, or died before its first word", cause.log_lines(r),
        "the process that made the run was ended, or Python or a library cannot be started here",
        ((cause.resume(r), "starts it"), ("tune doctor", "looks at Python and the libraries")), OURS,
    )  # fmt: skip


def refused(r: Record) -> Cause | None:
    """Exit code 65: what the run was started with has changed."""
    if r.code != 65:
        return None
    problems = (r.result.get("error") or {}).get("problems") or []
    evidence = tuple(str(p.get("what")) for p in problems if isinstance(p, dict))
    cures = [
        (cause.command_of(str(p.get("hint") or "")), str(p.get("hint") or ""))
        for p in problems
        if isinstance(p, dict) and p.get("hint")
    ]
    versions = [e for e in evidence if re.match(r"[\w-]+ was \S+ and is \S+$", e)]
    if versions:
        cures.append(
            (
                f"tune resume {r.name} --allow-version-drift",
                "goes on with the versions that are here; the result may differ",
            )
        )
    cures.append((f"tune runs fork {r.name}", "a child run that starts from the checkpoint with what is here now"))
    changed = "library versions" if versions and len(versions) == len(evidence) else "data, settings or versions"
    what = f"it was not continued: {changed} are not those that it was started with"
    why = "the result would no longer be that of one training; the run itself is as it was"
    return Cause("refused", FAIL, what, evidence, why, cause.distinct(cures), OURS)


def diverged(r: Record) -> Cause | None:
    """Loss or gradient is not finite: exit code 70, unless the same error came three times."""
    what, steps = str(r.problem.get("what") or ""), r.events.get("non_finite", [])
    if r.code == 70 and what.startswith("the same error"):
        return None
    lost = [log for log in r.logs if log.lost]
    if r.code != 70 and not steps and not (lost and not r.training.get("fp16") and lost[-1].step == r.logs[-1].step):
        return None
    ended = r.code == 70
    rows = [
        f"{e.get('what') or 'the loss'} at step {e.get('step')}{': ' + at if (at := cause.places(e.get('rows'))) else ''}"
        for e in steps[-3:]
    ]
    hint = str(r.problem.get("hint") or "") if ended else ""
    slower = cause.halved(cause.rate(r))
    warm = int(r.training.get("warmup_steps") or 0)
    look = (
        ((f"look at {at}", "rows of the step where it began"),)
        if steps and (at := cause.places(steps[0].get("rows")))
        else ()
    )
    clip = float(r.training.get("max_grad_norm") or 1.0)
    good = f", from checkpoint-{r.saved[-1]}, which is good" if r.saved else ""
    cures = (
        *look,
        (cause.again(r, slower), f"half the learning rate{good}"),
        (cause.again(r, f"training.warmup_steps={max(2 * warm, 50)}", restart=True), f"more warmup, now {warm}"),
        (cause.again(r, f"training.max_grad_norm={clip / 2:g}"), f"clips the gradient harder, now {clip:g}"),
    )  # fmt: skip
    why = "the learning rate is too high for this model, the warmup too short, or a row is broken"
    if r.training.get("fp16"):
        why += "; fp16 overflows above 65,504, which bf16 does not"
        cures = (*cures, (cause.again(r, "training.bf16=true", "training.fp16=false"), "on a GPU that has bf16"))
    named = f": {what}" if what else ""
    left_out = (
        f"{cause.plural(len(steps) or len(lost), 'step')} had a loss or gradient that was not finite and were left out"
    )
    return Cause(
        "diverged", FAIL if ended else WARN,
        f"the loss or the gradient is not finite{named}" if ended else left_out,
        cause.said(*rows, cause.losses(r), cause.norms(r), *([hint] if hint and not rows else [])), why, cures, STUDIO,
    )  # fmt: skip


def loop(r: Record) -> Cause | None:
    """The same error at the same step three times."""
    what = str(r.problem.get("what") or "")
    if not what.startswith("the same error"):
        return None
    evidence = tuple(
        f"attempt {a['attempt']} at step {a.get('step') or 0}: {a.get('error')}"
        for a in r.attempts[-3:]
        if a.get("error")
    )
    cures = (
        (f"tail -50 {r.run.path / 'engine.log'}", "the whole error"),
        (cause.resume(r), "once the cause is mended"),
    )
    return Cause(
        "crash-loop",
        FAIL,
        what,
        (*evidence, *cause.log_lines(r)),
        "what is wrong does not depend on luck: a row, a setting, a file",
        cures,
        OURS,
    )


def out_of_memory(r: Record) -> Cause | None:
    """Exit code 71, of the GPU or of the machine."""
    if r.code != 71:
        return None
    what = str(r.problem.get("what") or "out of memory")
    if "the system ran out of memory" in what:
        cures: Cures = (
            (f"tune resume {r.name} training.dataloader_num_workers=0", "each worker holds a copy of what it reads"),
            ("tune doctor", "says how much memory this machine, or its container, has"),
            (cause.resume(r), "goes on at the newest checkpoint"),
        )
        why = "the memory of the machine, not of the GPU: the kernel killed the process that had most"
        return Cause("host-memory", FAIL, what, cause.said(cause.where(r), cause.peak(r)), why, cures, OURS)
    tried = [f"tried: {a.get('what')}" for a in r.adjustments]
    t = r.training
    cures = _ladder(r)
    gpu = r.plan.get("gpu") or {}
    room = f"the GPU has {gpu['memory_gb']:g} GB" if isinstance(gpu.get("memory_gb"), int | float) else ""
    batch = f"micro batch {t.get('per_device_train_batch_size', 8)}, rows of up to {t.get('max_length') or 'any number of'} tokens"
    why = "model, activations of the longest rows and the optimizer do not fit together"
    return Cause(
        "out-of-memory",
        FAIL,
        what,
        cause.said(cause.where(r), *tried, batch, room, cause.peak(r)),
        why,
        cures,
        f"{STUDIO}; {CALLS}",
    )


def _ladder(r: Record) -> tuple[tuple[str, str], ...]:
    """What needs less memory, gentlest first; what is done already is left out, and the rows of a step stay."""
    t, out = r.training, []
    micro, steps = int(t.get("per_device_train_batch_size") or 8), int(t.get("gradient_accumulation_steps") or 1)
    if micro > 1:
        settings = ("training.per_device_train_batch_size=1", f"training.gradient_accumulation_steps={steps * micro}")
        out.append((cause.again(r, *settings), f"one row at once, still {steps * micro} a step"))
    on = t.get("activation_checkpointing", t.get("gradient_checkpointing"))
    if on is False:
        out.append(
            (
                cause.again(r, "training.activation_checkpointing=true"),
                "recomputes activations: a fifth to a third slower, much smaller",
            )
        )
    longest = t.get("max_length")
    if isinstance(longest, int) and longest > 256:
        out.append(
            (
                cause.again(r, f"training.max_length={longest // 2}"),
                f"shorter rows; tune data inspect {r.plan.get('name') or 'RECIPE'} says what that cuts",
            )
        )
    if not r.plan.get("quantization"):
        out.append((cause.again(r, "--with quantization/nf4"), "the base in 4 bit: a quarter of its memory"))
    rank = (r.plan.get("peft") or {}).get("r")
    if isinstance(rank, int) and rank > 8:
        out.append((cause.again(r, f"peft.r={rank // 2}"), f"a smaller adapter, rank {rank} now"))
    out.append(("export PYTORCH_ALLOC_CONF=expandable_segments:True", "less memory lost between blocks"))
    out.append(("tune list gpus", "a GPU with more memory, or a smaller model: tune list models"))
    return tuple(out)


def disk_full(r: Record) -> Cause | None:
    """Exit code 74."""
    told = cause.of_kind(r.events.get("warning", []), "what", "disk is full", "No space left")
    silent = (
        [line for line in r.tail[-40:] if "No space left on device" in line] if r.state in ("lost", "failed") else []
    )
    if r.code != 74 and not told and not silent:
        return None
    ended = r.code == 74 or bool(silent)
    what = str(r.problem.get("what") or "") if ended else told[-1]
    cures = (
        (f"df -h {r.run.path}", "what is left"),
        ("tune runs rm RUN_ID", "removes runs that nobody needs; --json of tune runs lists them"),
        (cause.resume(r), cause.goes_on(r)),
        (f"tune resume {r.name} training.save_total_limit=2", "keeps fewer checkpoints"),
    )
    what = what or "the disk is full or cannot be written"
    return Cause(
        "disk",
        FAIL if ended else WARN,
        what,
        cause.said(*told[:2], cause.where(r)),
        "checkpoints, caches or something else filled it",
        cures,
        OURS,
    )


def preempted_for_nothing(r: Record) -> Cause | None:
    """Attempt after attempt that ends where it began."""
    row = 0
    for attempt in reversed(r.attempts):
        outside = (
            attempt.get("state") in ("preempted", "stopped")
            or not attempt.get("ended")
            or attempt.get("signal") in (9, 15)
        )
        begun, ended = attempt.get("from_step") or 0, attempt.get("step") or 0
        if not outside or (attempt is r.attempts[-1] and r.held) or max(r.saved, default=0) > begun:
            break
        if attempt.get("ended") and ended > begun and attempt.get("exit_code") == 75:
            break
        row += 1
    if row < NO_PROGRESS:
        return None
    last = r.attempts[-row:]
    evidence = tuple(
        f"attempt {a['attempt']}: from step {a.get('from_step') or 0} to {a.get('step') or 0}, {a.get('state') or 'ended without a word'}"
        for a in last[-4:]
    )
    cures = (
        (f"tune resume {r.name} checkpoint.max_loss_minutes=2", "saves every 2 minutes"),
        (f"tune resume {r.name} --deadline 50m", "stops in time to save, where the time is known"),
        (f"tune resume {r.name} training.save_steps=10", "saves every 10 steps"),
    )
    why = "it is ended before its next checkpoint is written: starting takes too long, or it saves too rarely"
    return Cause(
        "no-progress", FAIL, f"{cause.plural(row, 'attempt')} in a row saved nothing new", evidence, why, cures, OURS
    )


def ended_from_outside(r: Record) -> Cause | None:
    """Stopped by a person, a scheduler or a deadline: nothing is wrong."""
    if r.code not in (75, 130) or r.state not in ("preempted", "stopped"):
        return None
    what = str(r.problem.get("what") or ("stopped by the user" if r.code == 130 else "ended from outside (SIGTERM)"))
    last = r.attempts[-1] if r.attempts else {}
    why = ""
    if "SIGTERM" in what and last and not last.get("ended") and last.get("exit_code") is None:
        what = "its supervisor ended without a word, and the worker then saved and stopped"
        why = "the supervisor alone was ended: kill -9, or the kernel out of memory"
    goes_on = cause.goes_on(r)
    if r.held and r.held.get("pid"):
        goes_on = f"{goes_on}, once process {r.held['pid']} has ended"
    return Cause(
        "ended-from-outside", ADVICE, what, cause.said(cause.where(r)), why, ((cause.resume(r), goes_on),), OURS
    )


ENDINGS: tuple[Callable[[Record], Cause | None], ...] = (
    damaged, never_started, refused, loop, diverged, out_of_memory, disk_full, hung, killed, lost, failed, unexplained,
    preempted_for_nothing, ended_from_outside,
)  # fmt: skip
