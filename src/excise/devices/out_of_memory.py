"""Recognises out-of-memory errors of all devices and libraries.

PyTorch raises OutOfMemoryError only for its own allocators on CUDA, ROCm and XPU. MPS, the CPU, libraries of
matrix products and drivers raise RuntimeError with different texts.
"""

from __future__ import annotations

import errno
import re

import torch
from safetensors import SafetensorError

from excise.errors import causes

MEMORY_ADVICE = (
    "quantise the weights with quantization (--quantization bnb_4bit), offload some of them with max_memory "
    "(--max-memory 0=…,cpu=…) and offload_folder (--offload-folder DIR), or allow only shorter answers with "
    "max_new_tokens (--max-new-tokens)"
)
"""Advice for a loaded model that runs out of memory."""

_TEXTS = re.compile(
    r"""
      \bout\ of\ memory\b                     # CUDA, HIP, XPU and MPS; drivers ("CUDA error: out of memory")
    | \bINSUFFICIENT\ MEMORY\b                # Metal, of a command buffer
    | OutOfMemory\b                          # Metal and HIP, in names of errors
    | \binvalid\ buffer\ size:                # MPS, of one tensor that is larger than a buffer may be
    | _STATUS_\w*ALLOC\w*_FAILED\b            # cuBLAS, cuDNN, cuSOLVER, cuSPARSE, hipBLAS
    | (CU|HIP)BLAS_STATUS_NOT_INITIALIZED.*Create\(  # a handle that found no room for its workspace
    | ROCBLAS_STATUS_MEMORY_ERROR | MIOPENSTATUSALLOCFAILED
    | (UR|PI)_(RESULT_)?ERROR_OUT_OF_(DEVICE_MEMORY|HOST_MEMORY|RESOURCES)  # XPU, from its driver
    | \bcan(no|')t\ allocate\ memory\b        # the host: PyTorch on Linux and macOS; the system's own text
    | \bnot\ enough\ memory\b                 # the host: PyTorch on Windows
    | \bunable\ to\ (mmap|allocate)\b.*\b(memory|bytes|shape)\b  # mapped weights; NumPy
    | \bbad(_|\ )alloc(ation)?\b              # C++
    | \bpaging\ file\ is\ too\ small\b        # Windows, on mapping a file
    | \bos\ error\ (12|1455)\b                # Rust's spelling of the last two, in safetensors
    """,
    re.IGNORECASE | re.VERBOSE,
)
_WINDOWS_ERRORS = frozenset((8, 14, 1455))
"""ERROR_NOT_ENOUGH_MEMORY, ERROR_OUTOFMEMORY, ERROR_COMMITMENT_LIMIT."""


def is_out_of_memory(error: BaseException) -> bool:
    """True if `error`, or an error that led to it, says that memory ran out."""
    return any(map(_is_memory_error, causes(error)))


def mentions_out_of_memory(text: str) -> bool:
    """True if a library's message says that memory ran out."""
    return _TEXTS.search(text) is not None


def _is_memory_error(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError) and (
        error.errno == errno.ENOMEM or getattr(error, "winerror", None) in _WINDOWS_ERRORS
    ):
        return True
    # Messages of other classes may contain users' texts, such as prompts.
    return isinstance(error, (RuntimeError, OSError, SafetensorError)) and mentions_out_of_memory(
        str(error)
    )
