"""Devices that no machine has to have: tensors that claim to lie on a GPU and compute on the CPU.

Inside `VirtualDevices` a tensor made on, or moved to, `cuda:N` is a wrapper around a tensor on the CPU. It
says that it lies on that device, is refused beside tensors of other devices as PyTorch refuses it, and each
operation gives the numbers that the CPU gives. What goes from a device to the host is noted, and so is every
operation that makes the host wait. Tensors on `meta` are PyTorch's own.

PyTorch's C++ takes a wrapper for a tensor on the CPU, because a build without CUDA cannot be told otherwise
(it wants a device guard), and so that it takes the CPU's ways through composite operations. Python, and so
excise, transformers and accelerate, sees the device that is claimed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from virtual_cuda import patches, whole_name
from virtual_rules import HOST, INDEXING, READING, SIZED_BY_VALUES, argument_names, aten, place_of


class VirtualTensor(torch.Tensor):
    """A tensor that claims to lie on a device. inner: its numbers, on the CPU."""

    inner: Tensor
    devices: VirtualDevices
    claimed: torch.device

    @staticmethod
    def __new__(cls, data: Tensor, requires_grad: bool = False) -> Tensor:
        """What accelerate calls to make a parameter of the class of the one before it."""
        return torch.nn.Parameter(data, requires_grad)

    @staticmethod
    def around(inner: Tensor, device: torch.device, devices: VirtualDevices) -> VirtualTensor:
        """A wrapper of the same shape and strides."""
        kind = inner.is_inference()
        # A view of a normal tensor is a normal one in inference mode too.
        same = kind == torch.is_inference_mode_enabled()
        with nullcontext() if same else torch.inference_mode(kind):
            made: VirtualTensor = torch.Tensor._make_wrapper_subclass(
                VirtualTensor,
                inner.shape,
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                layout=inner.layout,
                device=HOST,
            )
        made.inner, made.devices, made.claimed = inner, devices, device
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: OpOverload, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        leaves = tree_leaves((args, kwargs))
        devices = next(one.devices for one in leaves if isinstance(one, VirtualTensor))
        return devices.run(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:
        """The one that is claimed."""
        return self.claimed

    @property
    def is_cuda(self) -> bool:
        """True."""
        return True

    @property
    def is_cpu(self) -> bool:
        """False."""
        return False

    def get_device(self) -> int:
        """The number of the GPU."""
        return self.claimed.index

    def __repr__(self, **kwargs: object) -> str:
        return f"VirtualTensor({self.inner!r}, device={str(self.claimed)!r})"

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """As PyTorch: itself if nothing changes."""
        if args and isinstance(args[0], Tensor):
            other = args[0]
            return self.to(other.device, other.dtype, *args[1:], **kwargs)
        args = tuple(map(whole_name, args))
        copy = kwargs.pop("copy", False)
        device, dtype, non_blocking, _layout = torch._C._nn._parse_to(*args, **kwargs)
        wanted = self.devices.known(device) or self.claimed
        if wanted == self.claimed and dtype in (None, self.dtype) and not copy:
            return self
        return aten._to_copy(self, dtype=dtype, device=wanted, non_blocking=non_blocking)

    def cpu(self) -> Tensor:
        """A copy on the host."""
        return self.to(HOST)

    def cuda(self, device: Any = None) -> Tensor:
        """On a GPU, by default the first."""
        return self.to(torch.device("cuda", 0) if device is None else device)

    def type_as(self, other: Tensor) -> Tensor:
        """As PyTorch."""
        return self.to(other)

    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
        """As PyTorch: on the same device."""
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or self.claimed)

    def tolist(self) -> Any:
        """As PyTorch: by way of the host."""
        return self.cpu().tolist()

    def dequantize(self) -> Tensor:
        """Itself. Whoever reads weights tells plain ones by their class, and asks any other for this."""
        return self

    def data_ptr(self) -> int:
        """That of the numbers; tells tied parameters from others."""
        return self.inner.data_ptr()

    def numpy(self, *, force: bool = False) -> Any:
        """As PyTorch: no array shares memory with a device."""
        raise TypeError(f"can't convert {self.claimed} device type tensor to numpy")

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    def __tensor_flatten__(self) -> tuple[list[str], tuple[torch.device, VirtualDevices]]:
        return ["inner"], (self.claimed, self.devices)

    @staticmethod
    def __tensor_unflatten__(
        inner: Mapping[str, Tensor],
        meta: tuple[torch.device, VirtualDevices],
        size: object,
        stride: object,
    ) -> VirtualTensor:
        return VirtualTensor.around(inner["inner"], *meta)


@dataclass
class Crossings:
    """What was seen of the border between host and devices.

    to_host: operations that brought numbers to the host, in order. waits: operations whose result has a size
    that the host had to wait for. to_device: how many tensors went from the host to a device.
    """

    to_host: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    to_device: int = 0


class _Mode(TorchDispatchMode):
    """Sees every operation, so that those without a tensor are seen too."""

    def __init__(self, devices: VirtualDevices) -> None:
        super().__init__()
        self._devices = devices

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        return self._devices.run(func, args, kwargs or {})


class VirtualDevices:
    """A scope in which there are `count` GPUs of `memory` bytes each.

    Only the thread that enters it sees them. Tensors that were made in it stay usable behind it.
    """

    def __init__(self, count: int = 1, memory: int = 2**34) -> None:
        self.count, self.memory = count, memory
        self._open: list[Crossings] = []
        self._stack = ExitStack()

    def __enter__(self) -> VirtualDevices:
        for patch in patches(self.count, self.memory):
            self._stack.enter_context(patch)
        self._stack.enter_context(_Mode(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    @contextmanager
    def watched(self) -> Iterator[Crossings]:
        """Note what crosses the border within."""
        self._open.append(Crossings())
        try:
            yield self._open[-1]
        finally:
            self._open.pop()

    def known(self, device: Any) -> torch.device | None:
        """A device by its whole name: cuda is the first GPU. Raises RuntimeError if there is none such."""
        if device is None:
            return None
        asked = torch.device(device)
        if asked.type != "cuda":
            return asked
        if (asked.index or 0) >= self.count:
            raise RuntimeError("CUDA error: invalid device ordinal")
        return torch.device("cuda", asked.index or 0)

    def run(self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """One operation: checked, run on the CPU, and put where PyTorch would have put its result."""
        if func.overloadpacket is aten.to:
            # Arrives whole in inference mode.
            with _Mode(self):
                return func.decompose(*args, **kwargs)
        given = dict(zip(argument_names(func), args, strict=False)) | dict(kwargs)
        tensors: list[Tensor] = []
        inner = {name: _inner(one, tensors) for name, one in given.items()}
        wanted = self.known(given.get("device"))
        on_device = any(isinstance(one, VirtualTensor) for one in tensors)
        if not on_device and (wanted is None or wanted.type != "cuda"):
            return func(*args, **kwargs)
        place = place_of(func, given, tensors)
        self._note(func, given, on_device, wanted)
        if wanted is not None and wanted.type == "cuda":
            inner["device"] = HOST
            inner.pop("pin_memory", None)
        if func is aten.histc.default and not inner["self"].is_floating_point():
            # A GPU counts whole numbers, a CPU does not.
            result = func(**{**inner, "self": inner["self"].float()}).to(inner["self"].dtype)
        else:
            result = func(**inner)
        target = wanted or place
        if target is None or target.type != "cuda":
            return result
        own = {id(one.inner): one for one in tensors if isinstance(one, VirtualTensor)}
        return self._put(result, target, own)

    def _put(self, result: Any, place: torch.device, own: Mapping[int, VirtualTensor]) -> Any:
        """Results on a device; what was given comes back itself."""
        if isinstance(result, (list, tuple)):
            return type(result)([self._put(one, place, own) for one in result])
        if not isinstance(result, Tensor):
            return result
        return own[id(result)] if id(result) in own else VirtualTensor.around(result, place, self)

    def _note(
        self,
        func: OpOverload,
        given: Mapping[str, Any],
        on_device: bool,
        wanted: torch.device | None,
    ) -> None:
        copied, into = func is aten._to_copy.default, given.get("self")
        into_host = func is aten.copy_.default and not isinstance(into, VirtualTensor)
        by_mask = func in INDEXING and any(
            isinstance(one, VirtualTensor) and one.dtype in (torch.bool, torch.uint8)
            for one in given["indices"]
        )
        for seen in self._open:
            if copied and not on_device:
                seen.to_device += wanted is not None and wanted.type == "cuda"
            elif copied:
                if wanted == HOST:
                    seen.to_host.append(str(func))
            elif on_device and (func in READING or into_host):
                seen.to_host.append(str(func))
            elif on_device and (func in SIZED_BY_VALUES or by_mask):
                seen.waits.append(str(func))


def _inner(given: Any, tensors: list[Tensor]) -> Any:
    """What is given, wrappers replaced by their numbers; `tensors` takes all tensors among it."""
    if isinstance(given, Tensor):
        tensors.append(given)
        return given.inner if isinstance(given, VirtualTensor) else given
    if isinstance(given, (list, tuple)):
        return [_inner(one, tensors) for one in given]
    return given
