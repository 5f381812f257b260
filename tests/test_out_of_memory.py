"""Memory that runs out, as every device and library says it; while running, and while loading."""

from __future__ import annotations

import errno
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers.core_model_loading import MergeModulelist

from conftest import tiny_tokenizer
from excise.checkpoint.source import resolve
from excise.cli.main import main
from excise.devices.memory import DeviceMemory
from excise.devices.out_of_memory import is_out_of_memory
from excise.engine.batch_size import with_halving
from excise.errors import ModelError, OutOfMemoryError
from excise.models import load, memory_fit, weights
from excise.models.attempt import Attempts
from excise.models.options import LoadOptions
from zoo import tiny

GIB = 2**30
SHORTAGES: dict[str, BaseException] = {
    "CUDA": torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.5 GiB"
    ),
    "CUDA driver": RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
    "HIP": torch.OutOfMemoryError("HIP out of memory. Tried to allocate 20.00 MiB."),
    "HIP driver": RuntimeError("HIP error: hipErrorOutOfMemory"),
    "XPU": torch.OutOfMemoryError("XPU out of memory. Tried to allocate 512.00 MiB."),
    "XPU driver": RuntimeError(
        "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"
    ),
    "XPU resources": RuntimeError("UR backend returns:40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"),
    "XPU, older": RuntimeError("Native API returns: -5 (PI_ERROR_OUT_OF_RESOURCES)"),
    "MPS": RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB, max allowed: 18 GB)."),
    "MPS buffer": RuntimeError("Invalid buffer size: 19.45 GiB"),
    "Metal": RuntimeError(
        "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
    ),
    "cuBLAS": RuntimeError(
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    ),
    "cuBLAS handle": RuntimeError(
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
    ),
    "hipBLAS": RuntimeError(
        "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`"
    ),
    "cuSOLVER": RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `…`"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuDNN 9": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    "host, Linux": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "host, Windows": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:116] data. DefaultCPUAllocator: not enough memory: you tried to "
        "allocate 8589934592 bytes."
    ),
    "Python": MemoryError(),
    "NumPy": MemoryError("Unable to allocate 8.00 GiB for an array with shape (1073741824,)"),
    "C++": RuntimeError("std::bad_alloc"),
    "C++, Windows": RuntimeError("bad allocation"),
    "system": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "mapped file": RuntimeError("unable to mmap 4943162240 bytes from file <m.bin>: … memory (12)"),
    "safetensors": SafetensorError("Error while mapping: Cannot allocate memory (os error 12)"),
    "paging file": OSError("The paging file is too small for this operation to complete"),
}
OTHERS: dict[str, BaseException] = {
    "shapes": RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    "kernel": RuntimeError("CUDA error: device-side assert triggered"),
    "cuBLAS": RuntimeError(
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`"
    ),
    "disk": OSError(errno.ENOSPC, "No space left on device"),
    "text of a user": ValueError("no such prompt: 'my phone is out of memory'"),
}


@pytest.fixture(params=SHORTAGES.values(), ids=SHORTAGES)
def shortage(request: pytest.FixtureRequest) -> BaseException:
    """One of the ways to say that memory ran out."""
    error: BaseException = request.param
    return error


def raising(error: BaseException) -> Callable[..., Any]:
    def work(*arguments: object, **named: object) -> None:
        # As it comes the first time: raised again, it would carry the context of the time before.
        raise error.with_traceback(None)

    return work


def test_every_way_of_saying_it_is_known(shortage: BaseException) -> None:
    assert is_out_of_memory(shortage)


@pytest.mark.parametrize("error", OTHERS.values(), ids=OTHERS)
def test_other_errors_are_not_taken_for_it(error: BaseException) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)):
        with_halving(4, raising(error), lambda slots: None)


def test_what_was_raised_from_it_is_it() -> None:
    def wrapped(*, hidden: bool) -> BaseException:
        try:
            try:
                raise torch.OutOfMemoryError("no")
            except RuntimeError as error:
                raise ValueError("could not convert") from (None if hidden else error)
        except ValueError as error:
            return error

    assert is_out_of_memory(wrapped(hidden=False))
    assert not is_out_of_memory(wrapped(hidden=True))


def test_a_batch_is_halved_whatever_says_it(shortage: BaseException) -> None:
    def work(slots: int) -> str:
        if slots > 5:
            raise shortage
        return "done"

    told: list[int] = []
    assert with_halving(32, work, told.append) == ("done", 4)
    assert told == [16, 8, 4]
    with pytest.raises(OutOfMemoryError, match="a single prompt at a time"):
        with_halving(2, raising(shortage), lambda slots: None)


class Loads:
    """Stands in for loading: fails for some data types, and notes what was tried and with which error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: dict[str, BaseException]) -> None:
        self.tried: list[str] = []
        real = Attempts._model

        def model(attempts: Attempts, dtype: str) -> Any:
            self.tried.append(dtype)
            if dtype in failing:
                raise failing[dtype]
            return real(attempts, dtype)

        monkeypatch.setattr(Attempts, "_model", model)
        memory = DeviceMemory(torch.device("cpu"), "CPU, 2 threads", 4 * GIB, 3 * GIB)
        monkeypatch.setattr(memory_fit, "device_memory", lambda device: memory)


def test_a_model_that_does_not_fit_is_loaded_once(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, shortage: BaseException
) -> None:
    # The checkpoint is stored in float32: nothing smaller than float16 is left to try.
    loads = Loads(monkeypatch, {"float16": shortage})
    with pytest.raises(OutOfMemoryError) as caught:
        load.load(
            resolve(str(model_folder)),
            LoadOptions(dtypes=("float16", "auto", "bfloat16", "float32")),
        )
    assert loads.tried == ["float16"]
    message = str(caught.value)
    for part in (
        "does not fit into memory as float16: its weights take",
        "3.0 GiB free of 4.0 GiB on CPU, 2 threads",
        "--quantization bnb_4bit",
        "--max-memory",
        "--offload-folder",
    ):
        assert part in message
    assert "--dtype" not in message
    assert "\n" not in message


def test_a_smaller_type_is_tried_and_a_larger_one_is_not(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(monkeypatch, {"auto": SHORTAGES["CUDA"], "float32": SHORTAGES["CUDA"]})
    loaded = load.load(
        resolve(str(model_folder)), LoadOptions(dtypes=("auto", "float32", "bfloat16"))
    )
    assert loads.tried == ["auto", "bfloat16"]
    assert loaded.dtype == "bfloat16"
    assert loaded.attempts == (f"auto: {SHORTAGES['CUDA']}",)


def test_a_type_that_fails_and_a_larger_one_that_does_not_fit(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = {"float16": ValueError("logits are not numbers"), "float32": SHORTAGES["MPS"]}
    loads = Loads(monkeypatch, failing)
    with pytest.raises(
        OutOfMemoryError, match=r"as float32.*float16: logits are not.*MPS.*--dtype bfloat16"
    ):
        load.load(resolve(str(model_folder)), LoadOptions(dtypes=("float16", "float32")))
    assert loads.tried == ["float16", "float32"]


def test_how_much_is_needed(model_folder: Path) -> None:
    source = resolve(str(model_folder))
    stored = sum(
        tensor.numel()
        for tensor in load.load(source, LoadOptions(dtypes=("float32",))).model.parameters()
    )
    assert memory_fit._weights_bytes(source, "float32", None) == 4 * stored
    assert memory_fit._weights_bytes(source, "auto", None) == 4 * stored
    assert memory_fit._weights_bytes(source, "bfloat16", None) == 2 * stored
    assert memory_fit._weights_bytes(source, "bfloat16", "fp8") == 4 * stored


def test_how_much_is_needed_of_types_of_every_kind(model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    codes = {"codes": torch.zeros(6, dtype=torch.uint32), "scales": torch.zeros(2)}
    save_file(codes, folder / "model.safetensors")
    source = resolve(str(folder))
    assert memory_fit._weights_bytes(source, "bfloat16", None) == 6 * 4 + 2 * 2
    # Of a type that has no name here, half a byte each: bytes are counted too many, not too few.
    entry = {"dtype": "F4", "shape": [16], "data_offsets": [0, 8]}
    header = json.dumps({"codes": entry}).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(8)
    (folder / "model.safetensors").write_bytes(content)
    assert memory_fit._weights_bytes(source, "bfloat16", None) == 16


def test_memory_that_runs_out_is_no_weight_that_cannot_be_read(
    shortage: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(shortage, RuntimeError):
        pytest.skip("layers raise RuntimeError")
    layer = torch.nn.Linear(4, 4)
    monkeypatch.setattr(torch.nn.Linear, "forward", raising(shortage))
    with pytest.raises(RuntimeError) as caught:
        weights._through_identity(layer, layer.weight)
    assert caught.value is shortage


@pytest.mark.parametrize(
    ("device", "limits", "named"),
    [
        ("cuda:7", None, "device=cuda:7"),
        ("nothing", None, "device=nothing"),
        ("auto", {"cpu": GIB, 9: GIB}, "max_memory=9="),
    ],
)
def test_a_device_that_is_not_there(
    model_folder: Path, device: str, limits: dict[int | str, int] | None, named: str
) -> None:
    with pytest.raises(ModelError, match=rf"{named}.*has cpu"):
        load.load(resolve(str(model_folder)), LoadOptions(device=device, max_memory=limits or {}))


def test_memory_that_runs_out_anywhere_else_is_one_line(
    shortage: BaseException,
    empty_directory: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from excise.cli import inspect_command

    monkeypatch.setattr(inspect_command, "inspect", raising(shortage))
    assert main(["inspect", "model"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("excise: memory ran out (")
    assert told.count("\n") == 1
    assert "--quantization" in told


def test_memory_that_runs_out_while_experts_are_fused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny("mixtral").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load.load(resolve(str(tmp_path)), LoadOptions(dtypes=("float32",))).attempts == ()
    loads = Loads(monkeypatch, {})
    monkeypatch.setattr(MergeModulelist, "convert", raising(SHORTAGES["CUDA"]))
    with pytest.raises(OutOfMemoryError, match=r"CUDA out of memory\. Tried to allocate 2\.00 GiB"):
        load.load(resolve(str(tmp_path)), LoadOptions(dtypes=("bfloat16", "float32")))
    assert loads.tried == ["bfloat16"]
