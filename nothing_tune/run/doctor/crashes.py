"""Runs that ended, or stand, through no word of their own: hung, killed, lost, or with an error of a library."""

from __future__ import annotations

import re

from nothing_tune.run.doctor import cause
from nothing_tune.run.doctor.cause import FAIL, MARCO, OURS, WARN, Cause, Cures
from nothing_tune.run.doctor.record import Record

STANDS_S, STANDS_STEPS = 300.0, 20.0
"""A live run counts as standing still after so many seconds, and so many usual steps, without one."""


def hung(r: Record) -> Cause | None:
    """A run that stood still, was killed for it, or stands still now."""
    events, what = r.events.get("hang", []), str(r.problem.get("what") or "")
    if what.startswith("the training hangs"):
        return Cause(
            "hung",
            FAIL,
            what,
            cause.said(cause.where(r), *_hangs(r), *cause.log_lines(r)),
            _HANG_WHY,
            _hang_cures(r),
            OURS,
        )
    progress, usual = r.status.get("progress"), r.status.get("step_s")
    if r.state == "running" and isinstance(progress, int | float):
        still = r.now - progress
        if still > max(STANDS_S, STANDS_STEPS * float(usual or 0.0)):
            evidence = cause.said(
                f"no step for {cause.age(still)}",
                f"a step usually takes {usual:.1f} s" if isinstance(usual, int | float) else "",
                *cause.log_lines(r),
            )
            return Cause(
                "stands-still",
                WARN,
                f"it lives, and stands still at step {r.step}",
                evidence,
                _HANG_WHY,
                _hang_cures(r),
                OURS,
            )
    if events:
        return Cause(
            "hung-before",
            WARN,
            f"it stood still {cause.plural(len(events), 'time')} and was continued",
            tuple(_hangs(r)),
            _HANG_WHY,
            _hang_cures(r),
            OURS,
        )
    return None


_HANG_WHY = "a data loader worker, a network disk or another rank that does not answer; rarely the GPU"


def _hangs(r: Record) -> list[str]:
    return [
        f"step {e.get('step')}: no sign of life for {cause.age(float(e.get('seconds') or 0))}"
        for e in r.events.get("hang", [])[-3:]
    ]


def _hang_cures(r: Record) -> tuple[tuple[str, str], ...]:
    return (
        (f"grep -n 'File \"' {r.run.path / 'engine.log'} | tail", "where every thread stood"),
        (f"tune resume {r.name} training.dataloader_num_workers=0", "without workers"),
        (f"tune resume {r.name} monitor.hang_minutes=120", "where steps or evaluations really take that long"),
    )


def killed(r: Record) -> Cause | None:
    """A worker that a signal ended, or that left no result."""
    what = str(r.problem.get("what") or "")
    by_signal = re.search(r"killed by signal (\d+)(?: \((\w+)\))?", what)
    number = int(by_signal[1]) if by_signal else r.result.get("signal")
    silent = re.search(r"ended with code (\d+) and left no result", what)
    if silent and int(silent[1]) > 128:
        number = int(silent[1]) - 128
    if not isinstance(number, int) or r.code in (71, 75, 130):
        return None
    if number == 9:
        why = "the kernel out of memory, a container's limit, a scheduler, or someone's kill -9"
        cures = [
            ("dmesg -T | grep -i -E 'killed process|oom'", "says whether it was the kernel"),
            ("tune doctor", "says how much memory this machine, or its container, has"),
            (cause.resume(r), cause.goes_on(r)),
            (f"tune resume {r.name} training.dataloader_num_workers=0", "needs less memory of the machine"),
        ]
        rule = "killed"
    else:
        known = {
            11: "a library crashed (SIGSEGV)",
            7: "the disk or /dev/shm was full (SIGBUS)",
            6: "a library gave up (SIGABRT)",
            4: "a library is built for another CPU (SIGILL)",
        }
        why = known.get(number, "something outside ended it")
        cures = [
            ("tune doctor", "tries the libraries one by one"),
            (f"tail -50 {r.run.path / 'engine.log'}", "their last words"),
            (cause.resume(r), cause.goes_on(r)),
        ]
        if number == 7:
            cures.insert(0, ("docker run --shm-size=8g", "or training.dataloader_num_workers=0"))
        rule = "crashed"
    return Cause(
        rule,
        FAIL,
        what or f"the worker was killed by signal {number}",
        cause.said(cause.where(r), cause.peak(r), *cause.log_lines(r)),
        why,
        tuple(cures),
        OURS,
    )


def lost(r: Record) -> Cause | None:
    """No heartbeat, no result: the machine or all of its processes are gone."""
    if r.state != "lost" or not (r.attempts or r.logs or r.events):
        return None
    beat = r.status.get("heartbeat")
    ago = f"last heartbeat {cause.age(r.now - beat)} ago" if isinstance(beat, int | float) else "there is no heartbeat"
    host = f"on {r.status['host']}" if r.status.get("host") else ""
    why = "supervisor and worker were ended at once: kill -9, the kernel out of memory, a machine taken back or switched off"
    cures = (
        (cause.resume(r), cause.goes_on(r)),
        ("dmesg -T | grep -i -E 'killed process|oom'", "on that machine: whether the kernel killed it"),
    )
    return Cause(
        "lost",
        FAIL,
        "it ended without a word",
        cause.said(f"{ago} {host}".strip(), cause.where(r), *cause.log_lines(r)),
        why,
        cures,
        OURS,
    )


PATTERNS: tuple[tuple[str, str, str, str, str], ...] = (
    (
        r"device-side assert triggered|index out of bounds.*indexSelect|IndexKernel",
        "token-ids",
        "a token id lies outside the model's vocabulary, or a label outside its classes",
        "export CUDA_LAUNCH_BLOCKING=1",
        "shows the line; a tokenizer with tokens that the model does not have is the usual cause",
    ),
    (
        r"no kernel image is available|CUDA driver version is insufficient|libcudart|forward compatibility was attempted",
        "driver",
        "torch and the driver or the GPU do not fit together",
        "tune doctor",
        "says which of them is too old",
    ),
    (
        r"insufficient shared memory|Bus error|unable to open shared memory object|unable to write to file </torch",
        "shared-memory",
        "/dev/shm is full: data loader workers talk through it",
        "docker run --shm-size=8g",
        "or training.dataloader_num_workers=0",
    ),
    (
        r"Too many open files",
        "open-files",
        "the limit on open files was reached",
        "ulimit -n 65536",
        "in the shell that starts the run",
    ),
    (
        r"NCCL (?:error|WARN)|ncclUnhandled|ncclSystemError|Watchdog caught collective",
        "ranks",
        "the ranks lost each other",
        "export NCCL_DEBUG=INFO",
        "says why; one rank may have failed first",
    ),
    (
        r"GatedRepoError|is gated|401 Client Error|403 Forbidden",
        "gated",
        "the hub does not give the model or the data to you",
        "hf auth login",
        "after accepting the terms on the model's page",
    ),
    (
        r"cannot be reached|ConnectionError|Max retries exceeded|NameResolutionError",
        "network",
        "the network was not there when it was needed",
        "tune doctor",
        "looks at hub and trackers",
    ),
    (
        r"ModuleNotFoundError: No module named '([\w.]+)'|ImportError: ",
        "import",
        "a package is missing or does not fit the others",
        "tune doctor",
        "says which",
    ),
    (
        r"ECC error|Xid|GPU has fallen off the bus|uncorrectable",
        "gpu-fault",
        "the GPU itself is faulty",
        "nvidia-smi -q -d ECC",
        "or take another machine; tune resume goes on there",
    ),
    (
        r"Target modules? .* not found|No modules were targeted|not found in the base model",
        "target-modules",
        "the adapter's target modules are not in this model",
        "peft.target_modules=all-linear",
        "fits every decoder",
    ),
)
"""Pattern of an error's text -> rule, what it means, command, what that does. Looked for in the problem, then in the end of engine.log."""


def failed(r: Record) -> Cause | None:
    """Any other failure: what it said, and what that usually means."""
    if r.state not in ("failed", "stopped", "preempted") or not r.problem or r.code in (0, 65, 70, 71, 74, 75, 130):
        return None
    what = str(r.problem.get("what"))
    if what.startswith("the training hangs") or killed(r) is not None:
        return None
    if what.startswith("a bug in nothing-tune"):
        log = r.run.path / "engine.log"
        reported = (
            (f"tail -50 {log}", "what to put into a report of it"),
            ("pip install --upgrade nothing-tune", "it may be mended"),
            (cause.resume(r), "goes on afterwards"),
        )
        return Cause(
            "bug",
            FAIL,
            what,
            cause.said(cause.where(r), *cause.log_lines(r)),
            "a mistake of ours, not of yours",
            reported,
            OURS,
        )
    trace = str((r.result.get("error") or {}).get("traceback") or "")
    errors = [line for line in r.tail[-60:] if re.search(r"error|assert|fatal", line, re.IGNORECASE)]
    for text in (what, trace, "\n".join(errors)):
        for pattern, rule, means, command, does in PATTERNS:
            if re.search(pattern, text):
                first = cause.again(r, command) if re.match(r"[a-z_]+\.\S+=", command) else command
                mended = ((first, does), (cause.resume(r), "once that is mended"))
                return Cause(rule, FAIL, what, cause.said(cause.where(r), *cause.log_lines(r)), means, mended, OURS)
    hint = str(r.problem.get("hint") or "")
    key = str(r.problem.get("key") or "")
    cures: Cures = (
        *(((cause.command_of(hint), hint),) if hint else ()),
        (f"tail -50 {r.run.path / 'engine.log'}", "the libraries' own words"),
        (cause.resume(r), "once it is mended"),
    )
    if key.startswith("data") or r.phase == "data":
        cures = ((f"tune data inspect {r.run.path / 'recipe.yaml'}", "shows the rows as the model sees them"), *cures)
    return Cause(
        "failed",
        FAIL,
        what,
        cause.said(cause.where(r), f"key {key}" if key else "", *cause.log_lines(r)),
        "",
        cause.distinct(list(cures)),
        MARCO if key.startswith("data") else OURS,
    )


def unexplained(r: Record) -> Cause | None:
    """Failed, and nothing says why."""
    if r.state != "failed" or r.problem or r.code in (65, 70, 71, 74):
        return None
    cures = ((f"tail -50 {r.run.path / 'engine.log'}", "the libraries' own words"), (cause.resume(r), cause.goes_on(r)))
    return Cause(
        "failed",
        FAIL,
        f"it failed with code {r.code if r.code is not None else 'unknown'} and left no reason",
        cause.said(cause.where(r), *cause.log_lines(r)),
        "",
        cures,
        OURS,
    )
