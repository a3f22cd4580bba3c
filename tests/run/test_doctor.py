"""`tune doctor` on machines with one fault each: every fault is made for real where that can be done without root."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import socket
import sys
import time
import types
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from nothing_tune import discovery
from nothing_tune.errors import UsageError
from nothing_tune.run.doctor import environment, examine, gpus, network, probing, software, storage
from nothing_tune.run.doctor.finding import Finding, guarded
from nothing_tune.run.doctor.needs import refused
from nothing_tune.run.doctor.tested import TESTED

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*software.LIBRARIES, *software.ALLOC, "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        if not name.startswith("HF_H"):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TUNE_RUNS_DIR", str(tmp_path / "runs"))


def one(found: Finding | Iterator[Finding] | list[Finding], name: str = "") -> Finding:
    """The only finding, or the one of a name."""
    all_ = [found] if isinstance(found, Finding) else list(found)
    hits = [f for f in all_ if not name or f.name == name]
    assert len(hits) == 1, all_
    return hits[0]


def test_the_tested_set_is_that_of_constraints() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert {name: pinned[name] for name in TESTED} == TESTED


def test_no_check_raises_and_none_is_without_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    found = examine()
    assert {f.status for f in found} <= {"ok", "warn", "fail", "skip"}
    assert [f for f in found if f.status in ("warn", "fail") and not f.cure] == []
    assert {"software", "GPU", "machine", "storage", "hub", "trackers", "shell"} == {f.group for f in found}

    def ill() -> None:
        raise RuntimeError("the sky fell\nand more")

    monkeypatch.setattr(environment, "CHECKS", tuple((g, n, ill) for g, n, _ in environment.CHECKS))
    found = examine()
    assert len(found) == len(environment.CHECKS)
    assert {f.status for f in found} == {"warn"}
    assert found[0].what == "this could not be looked at: RuntimeError: the sky fell"


def test_a_check_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "LIMIT_S", 0.02)
    monkeypatch.setattr(environment, "CHECKS", (("storage", "runs", lambda: time.sleep(0.5)),))
    assert [(f.status, f.what) for f in examine()] == [("fail", "no answer within 0.02 s")]


def test_another_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert software.python().status == "ok"
    for version, status in (((3, 10), "fail"), ((3, 15), "warn")):
        monkeypatch.setattr(sys, "version_info", (*version, 0))
        assert software.python().status == status


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Puts metadata of packages first on sys.path."""
    for name, version in versions.items():
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(folder))


def test_libraries_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "_bounds", lambda: {"trl": ">=1.16,<2", "rich": ">=14"})
    installed(tmp_path, monkeypatch, peft="0.22.0", trl="0.9.6", rich="15.0.9", numpy="2.4.6")
    found = {f.name: f for f in software.packages()}
    assert (found["peft"].status, found["peft"].what) == (
        "warn",
        "0.22.0 is installed, tested is 0.21.2; it decides what a training does",
    )
    assert found["peft"].cure == "pip install peft==0.21.2"
    assert (found["trl"].status, found["trl"].what) == ("fail", "0.9.6 is installed, nothing-tune needs >=1.16,<2")
    assert not {"rich", "numpy"} & found.keys()


def test_bounds_are_read_from_our_own_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "torch>=2.13",
        "transformers<6,>=5.23",
        "bitsandbytes>=0.50.2; sys_platform == 'linux'",
        "tensorboard>=2.21; extra == 'tensorboard'",
    ]
    monkeypatch.setattr(metadata, "requires", lambda _: lines)
    assert software._bounds() == {"torch": ">=2.13", "transformers": "<6,>=5.23", "bitsandbytes": ">=0.50.2"}
    cases = {"2.13.0+cpu": ">=2.13", "5.23.1": "<6,>=5.23", "3": "==3.0.0"}
    assert all(software._within(here, bounds) for here, bounds in cases.items())
    assert not any(
        software._within(here, bounds) for here, bounds in {"2.12.9": ">=2.13", "6.0.0": "<6,>=5.23"}.items()
    )


def test_libraries_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = software.version
    monkeypatch.setattr(software, "version", lambda name: None if name in ("bitsandbytes", "wandb") else real(name))
    found = {f.name: f for f in software.packages()}
    assert (found["bitsandbytes"].status, found["bitsandbytes"].cure) == (
        "fail",
        f"pip install bitsandbytes=={TESTED['bitsandbytes']}",
    )
    assert found["wandb"].status == "warn"


def script(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "tune"
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_which_tune_path_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(text: str) -> Finding:
        script(tmp_path / "first", text)
        monkeypatch.setenv("PATH", f"{tmp_path}/first")
        return software.tune_on_path()

    theirs = found(f"#!{sys.executable}\nfrom torchtune._cli.tune import main\n")
    assert (theirs.status, theirs.what) == ("warn", f"PATH finds {tmp_path}/first/tune, which is torchtune's")
    assert theirs.cure.startswith("call this one nothing-tune")
    assert "another program's" in found("#!/bin/sh\necho a song\n").what
    assert found(f"#!{sys.executable}\nfrom nothing_tune.cli import main\n").status == "ok"
    elsewhere = found("#!/opt/other/bin/python\nfrom nothing_tune.cli import main\n")
    assert (elsewhere.status, "which belongs to /opt/other/bin/python" in elsewhere.what) == ("warn", True)
    long = found("#!/bin/sh\n'''exec' /opt/a long way/python3.11 \"$0\" \"$@\"\n# nothing_tune\n")
    assert (long.status, "/opt/a long way/python3.11" in long.what) == ("warn", True)
    assert found("#!/usr/bin/env python\nfrom nothing_tune.cli import main\n").status == "ok"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert software.tune_on_path().what == "PATH finds no program tune"


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    wrong = {
        "OMP_NUM_THREADS": ("64", "is 64, and this machine has 4 CPUs: threads wait for each other"),
        "TUNE_RUNDIR": ("x", "is no variable that nothing-tune reads"),
        "TUNE_ATTEMPT": ("3", "is set here, but belongs to the engine's own processes"),
        "PYTORCH_CUDA_ALLOC_CONF": ("expandable_segment:True", "is 'expandable_segment:True', which torch may refuse: expandable_segment"),
        "CUDA_LAUNCH_BLOCKING": ("1", "is set: every GPU call waits for the one before, which is slow"),
    }  # fmt: skip
    for name, (value, what) in wrong.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            found = [f for f in software.variables() if f.name == name]
            assert [(f.status, f.what) for f in found] == [("warn", what)]
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True,roundup_power2_divisions:[256:1,512:2]")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy:3128")
    monkeypatch.setenv("WANDB_MODE", "offline")
    found = list(software.variables())
    assert {f.status for f in found} == {"ok"}
    assert "WANDB_MODE=offline" in one(found, "variables").what
    assert "secret" not in str(found)


class FakeNvml(types.ModuleType):
    """A driver with GPUs, as pynvml shows one."""

    class NVMLError(Exception):
        """What pynvml raises."""

    def __init__(
        self,
        *cards: tuple[str, float, float, tuple[int, int]],
        driver: str = "570.86.10",
        cuda: int = 12080,
        **more: Any,
    ) -> None:
        super().__init__("pynvml")
        self.nvmlInit = self.nvmlShutdown = lambda: None
        self.nvmlDeviceGetCount = lambda: len(cards)
        self.nvmlDeviceGetHandleByIndex = lambda n: cards[n]
        self.nvmlDeviceGetName = lambda c: c[0].encode()
        self.nvmlDeviceGetMemoryInfo = lambda c: types.SimpleNamespace(total=int(c[1] * 1e9), free=int(c[2] * 1e9))
        self.nvmlDeviceGetCudaComputeCapability = lambda c: c[3]
        self.nvmlDeviceGetComputeRunningProcesses: Callable[[Any], list[Any]] = lambda _: []
        self.nvmlSystemGetDriverVersion = lambda: driver
        self.nvmlSystemGetCudaDriverVersion = lambda: cuda
        self.__dict__.update(more)


L4 = ("NVIDIA L4", 24.2, 23.9, (8, 9))
CUDA_BUILD = gpus.Build("2.13.0+cu128", "12.8", None)


def seen(monkeypatch: pytest.MonkeyPatch, nvml: types.ModuleType, build: gpus.Build | None) -> dict[str, Finding]:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(gpus, "torch_build", lambda: build)
    return {f.name: f for f in gpus.gpus()}


def test_a_gpu_that_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    found = seen(monkeypatch, FakeNvml(L4), CUDA_BUILD)
    assert {f.status for f in found.values()} == {"ok"}
    assert found["driver"].what == "570.86.10, supports CUDA 12.8"
    assert found["torch"].what == "2.13.0+cu128, built for CUDA 12.8"
    assert found["gpu 0"].what == "NVIDIA L4: 24.2 GB, 23.9 GB free, compute capability 8.9, bf16; layer gpus/l4"


def test_torch_that_does_not_fit_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = seen(monkeypatch, FakeNvml(L4), gpus.Build("2.13.0+cpu", None, None))["torch"]
    assert (cpu.status, cpu.what) == ("fail", "2.13.0+cpu is built for the CPU alone, and there is a GPU (NVIDIA L4)")
    assert cpu.cure == "pip install --force-reinstall torch==2.13.0 --index-url https://pypi.org/simple"
    old = seen(monkeypatch, FakeNvml(L4, driver="470.57.02", cuda=11040), CUDA_BUILD)["torch"]
    assert (old.status, old.what) == ("fail", "2.13.0+cu128 needs CUDA 12.8, the driver 470.57.02 supports 11.4")
    assert old.cure.startswith("update the driver to 525.60 or newer")
    minor = seen(monkeypatch, FakeNvml(L4, driver="535.1.2", cuda=12020), CUDA_BUILD)["torch"]
    assert (minor.status, minor.what) == ("ok", "2.13.0+cu128, built for CUDA 12.8, which runs on a driver for 12.2")
    untold = FakeNvml(L4, driver="470.57", nvmlSystemGetCudaDriverVersion=None)
    assert seen(monkeypatch, untold, CUDA_BUILD)["torch"].status == "fail"
    assert seen(monkeypatch, FakeNvml(L4), None)["torch"].what == "torch is not installed"


def test_gpus_that_others_use_or_nobody_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = FakeNvml(
        ("Tesla T4", 15.8, 2.0, (7, 5)),
        nvmlDeviceGetComputeRunningProcesses=lambda _: [types.SimpleNamespace(pid=4242, usedGpuMemory=1)],
    )
    found = seen(monkeypatch, busy, CUDA_BUILD)["gpu 0"]
    assert found.status == "warn"
    assert found.what.endswith("no bf16, so fp16; layer gpus/t4; 13.8 GB is held by process 4242")
    assert found.cure.startswith("ps -fp 4242")
    for value, status in {"": "warn", "-1": "warn", "3": "fail", "1": "ok", "0,1": "ok", "GPU-abc": "ok"}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert seen(monkeypatch, FakeNvml(L4, L4), CUDA_BUILD)["visible"].status == status, value
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    unknown = seen(monkeypatch, FakeNvml(("NVIDIA GB999", 500.0, 499.0, (12, 0))), CUDA_BUILD)["gpu 0"]
    assert unknown.what.endswith("layer gpus/cuda")


def test_a_driver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise FakeNvml.NVMLError("Driver/library version mismatch")

    monkeypatch.setattr(discovery, "has_mps", lambda: False)
    none = seen(monkeypatch, FakeNvml(), CUDA_BUILD)["driver"]
    assert none.status in ("skip", "fail")
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([Path("/dev/nvidia0")]))
    found = seen(monkeypatch, FakeNvml(nvmlInit=broken), CUDA_BUILD)["driver"]
    assert (found.status, "Driver/library version mismatch" in found.what) == ("fail", True)


def test_the_torch_build_is_read_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text(
        "__version__ = '9.9.9+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"
    )
    monkeypatch.setattr(
        gpus, "find_spec", lambda _: types.SimpleNamespace(submodule_search_locations=[str(tmp_path / "torch")])
    )
    assert gpus.torch_build() == gpus.Build("9.9.9+cu130", "13.0", None)
    monkeypatch.setattr(gpus, "find_spec", lambda _: None)
    assert gpus.torch_build() is None


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fine = one(storage.runs())
    assert (fine.name, fine.status) == ("runs", "ok")
    assert list(tmp_path.iterdir()) == []  # nothing is made and nothing is left
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUNE_RUNS_DIR", str(tmp_path / "file" / "runs"))
    assert one(storage.runs()).what == f"{tmp_path}/file is a file, and {tmp_path}/file/runs cannot be made"
    monkeypatch.setenv("TUNE_RUNS_DIR", str(tmp_path))
    for free, status in ((100 << 20, "fail"), (3 << 30, "warn"), (50 << 30, "ok")):
        usage = shutil._ntuple_diskusage(1 << 40, 0, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        assert one(storage.runs()).status == status


def test_a_temporary_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/not/there")
    assert one(storage.caches(), "TMPDIR").what == "TMPDIR is /not/there, which is no folder: another one is used"


def test_folders_that_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_RUNS_DIR", str(tmp_path))

    def refuse(number: int) -> Callable[..., Any]:
        def call(*_: Any, **__: Any) -> Any:
            raise OSError(number, os.strerror(number))

        return call

    for name, number, why in (
        ("fsync", errno.ENOSPC, "the disk is full"),
        ("replace", errno.EPERM, "operation not permitted"),
        ("fsync", errno.EROFS, "it is read-only"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse(number))
            found = one(storage.runs())
            assert (found.status, found.what) == ("fail", f"{tmp_path} cannot be written: {why}")
            assert found.cure == "export TUNE_RUNS_DIR=/another/folder"
        assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
        found = one(storage.runs())
        assert (found.status, "it has no file locks" in found.what) == ("warn", True)


def test_a_folder_that_is_full_for_real(tmp_path: Path) -> None:
    """RLIMIT_FSIZE refuses the write as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        why, limits = storage.try_folder(tmp_path), list(storage.limits())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert why == ("file too large", True)
    assert [f.name for f in limits if f.status == "warn"] == ["file size"]
    assert list(tmp_path.iterdir()) == []


def test_limits_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {
        resource.RLIMIT_NOFILE: (256, 65536),
        resource.RLIMIT_FSIZE: (resource.RLIM_INFINITY, resource.RLIM_INFINITY),
    }
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    assert one(storage.limits()) == Finding(
        "machine", "open files", "warn", "at most 256: data loader workers and trackers may need more", "ulimit -n 4096"
    )
    small = shutil._ntuple_diskusage(64 << 20, 0, 64 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: small)
    shared = storage.shared_memory()
    assert shared is None or (shared.status, shared.cure.startswith("docker run --shm-size=8g")) == ("warn", True)
    (tmp_path / "memory.max").write_text(f"{3 << 30}\n")
    (tmp_path / "memory.current").write_text(f"{2 << 30}\n")
    monkeypatch.setattr(storage, "CGROUPS", tmp_path)
    monkeypatch.setattr(storage, "host_memory", lambda: (64 << 30, 60 << 30))
    found = storage.memory()
    assert (found.status, found.what) == (
        "warn",
        "3.0 GiB (the container's limit), 1.0 GiB free: too little to load most models",
    )


def test_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert network.token().what == "there is none: gated models such as Llama cannot be had"
    (tmp_path / "token").write_text("hf_" + "a" * 34 + "\n")
    assert network.token().status == "ok"
    for value, words in {
        "": "but empty",
        "sk-abcdefghijk": "does not look like one",
        '"hf_x"': "blanks or quotes",
        "hf_ab cd": "blanks or quotes",
    }.items():
        monkeypatch.setenv("HF_TOKEN", value)
        found = network.token()
        assert (found.status, words in found.what) == ("warn", True), value
        assert not value or value not in str(found)


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert network.reached().status == "skip"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        assert network.reached().status == "ok"
    found = network.reached()
    assert (found.status, found.what) == (
        "warn",
        "the hub (HF_ENDPOINT) does not answer within 2 s: only the cache is used",
    )


def test_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert one(network.keys(), "wandb").what == "there is no key for it"
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    found = one(network.keys(), "wandb")
    assert (found.status, found.what.startswith("there is a key, but 127.0.0.1:9 does not answer")) == ("warn", True)
    assert "kkk" not in str(found)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert one(network.keys(), "wandb").what == "ready; WANDB_MODE=offline, so nothing is sent"


def told(*events: tuple[str, str, dict[str, Any]], code: int | None = 0, log: tuple[str, ...] = ()) -> list[Finding]:
    said = tuple({"type": kind, "what": what, **fields} for kind, what, fields in events)
    return list(probing.findings(probing.Probe(said, code, log, 120.0)))


BNB = {
    "version": "0.50.2",
    "library": "/x/libbitsandbytes_cpu.so",
    "relative_error": 0.09,
    "device": "cpu",
    "cuda": False,
}
PROBES: list[tuple[list[tuple[str, str, dict[str, Any]]], int | None, str, str, str]] = [
    (
        [("begin", "torch", {}), ("wrong", "torch", {"error": "ImportError: libcudart.so.12"})],
        0,
        "import torch",
        "fail",
        "ImportError: libcudart.so.12",
    ),
    (
        [("begin", "torch", {})],
        -11,
        "import torch",
        "fail",
        "importing torch was ended by signal 11 (SIGSEGV): last words",
    ),
    ([("begin", "torch", {})], None, "import torch", "fail", "importing torch did not end within 120 s: last words"),
    ([], 1, "engine", "fail", "starting the engine ended with code 1: last words"),
    (
        [("wrong", "together", {"error": "ImportError: x", "package": "trl"})],
        0,
        "imports",
        "fail",
        "import trl: ImportError: x",
    ),
    (
        [("found", "bitsandbytes", BNB)],
        0,
        "bitsandbytes",
        "ok",
        "0.50.2, libbitsandbytes_cpu.so; a 4-bit round trip on cpu is off by 9 %, as it should be",
    ),
    (
        [("found", "bitsandbytes", {**BNB, "relative_error": 0.8})],
        0,
        "bitsandbytes",
        "fail",
        "0.50.2, libbitsandbytes_cpu.so; a 4-bit round trip on cpu is off by 80 %",
    ),
    (
        [("found", "bitsandbytes", {**BNB, "cuda": True})],
        0,
        "bitsandbytes",
        "fail",
        "0.50.2, libbitsandbytes_cpu.so: the library for the CPU is loaded, and there is a GPU",
    ),
    (
        [("found", "bitsandbytes", {**BNB, "cuda": True, "library": None, "missing": "libcudart.so.13 not found"})],
        0,
        "bitsandbytes",
        "fail",
        "0.50.2, no library of its own: libcudart.so.13 not found",
    ),
    (
        [("found", "cuda", {"built": "12.8", "available": False, "error": "no driver"})],
        0,
        "CUDA",
        "warn",
        "torch is built for CUDA 12.8 but cannot use it: no driver",
    ),
    (
        [
            (
                "found",
                "cuda",
                {
                    "built": "13.0",
                    "available": True,
                    "arches": ["sm_80", "sm_90"],
                    "cards": [{"name": "V100", "capability": "7.0", "bf16": False}],
                },
            )
        ],
        0,
        "cuda:0",
        "fail",
        "V100, no bf16: compute capability 7.0, and this torch has code for sm_80, sm_90 alone",
    ),
    (
        [("found", "attention", {"right": False, "device": "cuda"})],
        0,
        "attention",
        "fail",
        "sdpa gives wrong numbers on cuda",
    ),
    (
        [("found", "attention", {"right": True, "flash_error": "ImportError: undefined symbol"})],
        0,
        "attention",
        "warn",
        "sdpa works (one way); flash-attn cannot be imported: ImportError: undefined symbol",
    ),
    (
        [("found", "kernels", {"relative_error": float("nan"), "dtype": "bfloat16", "device": "cuda"})],
        0,
        "arithmetic",
        "fail",
        "a gradient in bfloat16 on cuda is off by an unknown part",
    ),
]


def test_what_a_probe_means() -> None:
    for events, code, name, status, what in PROBES:
        found = told(*events, code=code, log=("first", "last words"))
        gravest = [f for f in found if f.status == "fail"] or found
        assert [(f.name, f.status, " ".join(f.what.split())) for f in gravest] == [(name, status, what)]
        assert status == "ok" or all(f.cure for f in gravest), name
    assert probing.runs_on("8.9", ["sm_80"])
    assert not probing.runs_on("8.0", ["sm_89"])
    assert probing.runs_on("12.0", ["sm_80", "compute_90"])
    assert not probing.runs_on("10.0", ["sm_90a"])


def test_a_torch_that_cannot_use_the_gpu_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    event = ("found", "cuda", {"built": "12.8", "available": False, "error": "CUDA unknown error"})
    monkeypatch.setattr(
        gpus, "ask_driver", lambda: gpus.Machine("", "570", "12.8", (gpus.Card(0, "NVIDIA L4", 1, 1, "8.9"),))
    )
    assert one(told(event)).status == "fail"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert one(told(event)).status == "warn"


def test_what_to_mend_first() -> None:
    def finding(name: str, status: str) -> Finding:
        return Finding("x", name, status, "", "")

    found = [finding("a", "ok"), finding("b", "warn"), finding("c", "fail"), finding("d", "fail")]
    assert environment.first(found) == found[2]
    assert environment.first(found[:2]) == found[1]
    assert environment.first(found[:1]) is None


def test_a_recipe_that_cannot_be_read() -> None:
    assert [f.status for f in refused("x", UsageError("there is no recipe x", "nor y"))] == ["fail", "fail"]
    assert guarded("g", "n", lambda: None) == []
