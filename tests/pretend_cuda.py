"""A CUDA device that is pretended on the processor: real values, and a GPU's mistakes as errors.

Within ``pretend_cuda()`` torch answers as on a machine with one CUDA device. A tensor there is a
wrapper, ``PretendTensor``, around one of the processor, ``inner``; every operation passes through
``PretendCuda.run``, which refuses what a GPU would refuse, counts what makes a host wait, records
graphs, and computes the rest on the inner tensors.

To torch's C++ code the wrappers lie on "meta:1", which nobody else uses: a CPU build cannot even
name a CUDA device in its autograd. Python code sees "cuda:0".
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.attention.varlen  # it looks around in torch, which is to be as it is
from torch import Tensor, nn
from torch._C import Generator, TensorBase
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from .pretend_graph import Event, PretendGraph, Stream, active, address, capture, the_device
from .pretend_kernels import REFERENCES

CUDA, HIDDEN, CPU = torch.device("cuda", 0), torch.device("meta", 1), torch.device("cpu")
TOTAL_MEMORY, ALLOCATED = 80 * 2**30, 2**20
INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
# Beside the pointwise ones: what takes a number of the processor, a tensor without dimensions.
TAKES_NUMBERS = INDEXING | {"masked_fill", "masked_fill_", "fill", "fill_"}
# The host has to learn how large the result is, or the result itself.
WAITS = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"}
WAITS |= {"_local_scalar_dense", "equal"}
FLOAT_PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot"}

_device_constructors()  # torch keeps this list of functions: ours are not to be in it


class PretendTensor(Tensor):
    """A tensor on the pretend device; its values are in ``inner``, on the processor."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    @staticmethod
    def __new__(cls, inner, requires_grad=False):
        places = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        kind = {"dtype": inner.dtype, "device": HIDDEN, "requires_grad": requires_grad}
        self = Tensor._make_wrapper_subclass(cls, inner.shape, **places, **kind)
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return the_device().run(func, args, kwargs or {})

    def __getitem__(self, index):
        return super().__getitem__(_index(index))

    def __setitem__(self, index, value):
        super().__setitem__(_index(index), value)

    def get_device(self):
        return 0

    def data_ptr(self):
        return self.inner.data_ptr()

    def untyped_storage(self):
        return self.inner.untyped_storage()

    def tolist(self):
        return self.detach().cpu().tolist()

    def numpy(self, **_):
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
            "tensor to host memory first."
        )

    def __repr__(self, **_):
        return f"PretendTensor({self.inner!r})"

    def __format__(self, spec):
        return format(self.item() if self.dim() == 0 else repr(self), spec)

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            made = PretendTensor(copy.deepcopy(self.inner, memo), self.requires_grad)
            made.__dict__.update({k: v for k, v in self.__dict__.items() if k != "inner"})
            memo[id(self)] = made
        return memo[id(self)]

    def __reduce_ex__(self, protocol):
        the_device().wait("pickling")
        is_parameter = isinstance(self, nn.Parameter)
        inner = nn.Parameter(self.inner, self.requires_grad) if is_parameter else self.inner
        return inner.__reduce_ex__(protocol)


class Mode(TorchDispatchMode):
    """Shows the device every operation, also those that make tensors from nothing."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return the_device().run(func, args, kwargs or {})


class PretendGenerator(Generator):
    """A generator of the processor that calls itself one of the device."""

    device = property(lambda self: CUDA)


class PretendCuda:
    """The device: what it was asked, and the graph that it is recording, if any."""

    def __init__(self) -> None:
        self.syncs = 0  # how often a GPU's host would have waited
        self.waited_for: list[str] = []  # for what
        self.mode = Mode()
        self.graph: PretendGraph | None = None  # that is capturing
        self.generators: dict[int, PretendGenerator] = {}  # by the address that operations see
        self.chance = self.generator()  # of operations that are given no generator
        self._pinned: dict[int, torch.UntypedStorage] = {}  # kept: an address names one storage
        self._pending: list[tuple[Tensor, Tensor]] = []  # host tensors, and what they will hold

    def generator(self) -> PretendGenerator:
        made = PretendGenerator()
        self.generators[made._cdata] = made
        return made

    def wait(self, what: str) -> None:
        """Counts a wait of the host, which ends all copies under way; a capture refuses it."""
        self.refuse_incapture(what)
        self.syncs += 1
        self.waited_for.append(what)
        while self._pending:
            host, values = self._pending.pop(0)
            host.copy_(values)

    def refuse_incapture(self, what: str) -> None:
        if self.graph is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing ({what})")

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation, on whichever device its arguments are."""
        if _is_composed(func):
            with self.mode:  # inference mode hands composed operations down whole
                return func.decompose(*args, **kwargs)
        name, device = func._schema.name.partition("::")[2], kwargs.get("device")
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        here = [x for x in tensors if isinstance(x, PretendTensor)]
        there = [x for x in tensors if not isinstance(x, PretendTensor)]
        on_gpu = bool(here) if device is None else _on_gpu(device)
        self._check_generator(kwargs.get("generator"), on_gpu)
        if not here and not on_gpu:
            return self._on_host(func, name, args, kwargs)
        if any(x.device == HIDDEN for x in there):
            raise NotImplementedError(f"{func} was given a tensor that torch made without values")
        if name in ("_to_copy", "copy_"):
            return self._transfer(func, args, dict(kwargs))
        if name == "scalar_tensor" and device == HIDDEN:
            return func(*args, **kwargs | {"device": CPU})  # x[i] = 1.0 copies none on a GPU either
        if device is None:
            _refuse_mixed(func, name, args, kwargs, there)
        if name in FLOAT_PRODUCTS and not here[0].is_floating_point():
            raise NotImplementedError(f'"{name}_cuda" not implemented for {here[0].dtype}')
        self._wait_for(name, args, kwargs)
        inner_args, inner_kwargs = self._inner((args, kwargs))
        inner_kwargs |= {} if device is None else {"device": CPU if on_gpu else device}
        inner_kwargs.pop("pin_memory", None)
        out = self._compute(func, inner_args, inner_kwargs)
        for x in _written(func, args, kwargs):
            if (x.shape, x.stride()) != (x.inner.shape, x.inner.stride()):  # resized or turned
                TensorBase.data.__set__(x, PretendTensor(x.inner))
        own = {id(x.inner): x for x in here}
        wrap = lambda x: own[id(x)] if id(x) in own else PretendTensor(x)  # noqa: E731
        return tree_map_only(Tensor, wrap, out) if on_gpu else out

    def _inner(self, tree: Any) -> Any:
        def inner(x: Tensor) -> Tensor:
            if isinstance(x, PretendTensor):
                return x.inner
            return x if self.graph is None else x.clone()  # a graph keeps a number as it was

        return tree_map_only(Tensor, inner, tree)

    def _compute(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """An operation on inner tensors; chance comes from a generator of the device."""
        kernel = REFERENCES.get(str(func), func)
        if torch.Tag.nondeterministic_seeded in func.tags and "attention" not in str(func):
            self.refuse_incapture(f"{func}, a random number")
            if kwargs.get("generator") is None:
                state = torch.get_rng_state()
                torch.set_rng_state(self.chance.get_state())
                try:
                    return kernel(*args, **kwargs)
                finally:
                    self.chance.set_state(torch.get_rng_state())
                    torch.set_rng_state(state)
        if self.graph is not None:
            return self.graph.record(kernel, args, kwargs, _written(func, args, kwargs))
        return kernel(*args, **kwargs)

    def _on_host(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """An operation of the processor alone; its pinned memory is memory with a mark."""
        if name == "is_pinned":
            return address(args[0]) in self._pinned
        if name != "_pin_memory" and not kwargs.get("pin_memory"):
            return func(*args, **kwargs)
        kwargs = {k: v for k, v in kwargs.items() if k != "pin_memory"}
        made = args[0].clone() if name == "_pin_memory" else func(*args, **kwargs)
        self._pinned[address(made)] = made.untyped_storage()
        return made

    def _transfer(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """``_to_copy`` and ``copy_``: between processor and device, and on the device."""
        is_new, device = func is torch.ops.aten._to_copy.default, kwargs.get("device")
        target, source = (None, args[0]) if is_new else args[:2]
        from_gpu, to_gpu = isinstance(source, PretendTensor), isinstance(target, PretendTensor)
        if is_new and device is not None:
            to_gpu = _on_gpu(device)
            kwargs["device"] = CPU if to_gpu else device
        elif is_new:
            to_gpu = from_gpu
        is_async = kwargs.pop("non_blocking", False) or (not is_new and len(args) > 2 and args[2])
        if from_gpu != to_gpu:
            self.refuse_incapture(f"{func} between devices")
            host = source if to_gpu else target  # None: torch takes pinned memory for it
            is_async = is_async and (host is None or address(host) in self._pinned)
            if not is_async:
                self.wait(f"{func} {'to' if to_gpu else 'from'} the device")
        out = self._compute(func, self._inner(args[: 1 if is_new else 2]), kwargs)
        if to_gpu:
            return PretendTensor(out) if is_new else target
        if is_async:  # the values come when the host waits; until then nobody may read them
            self._pending.append((out, out.clone()))
            out.fill_(float("nan")) if out.is_floating_point() else out.bitwise_not_()
        return out

    def _wait_for(self, name: str, args: Any, kwargs: dict[str, Any]) -> None:
        is_open = name == "repeat_interleave" and kwargs.get("output_size") is None
        if name in WAITS or is_open:
            self.wait(name)
        indices = [x for x in args[1] if x is not None] if name in INDEXING else []
        is_fill = len(indices) == 1 and len(args) == 3 and not isinstance(args[2], PretendTensor)
        for index in indices:
            if not isinstance(index, PretendTensor):
                self.wait(f"{name} by a tensor of the processor")
            elif index.dtype in (torch.bool, torch.uint8) and not is_fill:
                self.wait(f"{name} by a mask")

    def _check_generator(self, generator: Any, on_gpu: bool) -> None:
        if generator is not None and (generator._cdata in self.generators) != on_gpu:
            wanted, found = ("cuda", "cpu") if on_gpu else ("cpu", "cuda")
            raise RuntimeError(
                f"Expected a '{wanted}' device type for generator but found '{found}'"
            )


def _refuse_mixed(func: Any, name: str, args: Any, kwargs: Any, there: list[Tensor]) -> None:
    """Tensors of the processor beside those of CUDA, where they are no numbers or indices."""
    written = {id(x) for x in _written(func, args, kwargs)}
    takes_numbers = torch.Tag.pointwise in func.tags or name.startswith("_foreach_")
    takes_numbers = takes_numbers or name in TAKES_NUMBERS
    for x in there:
        is_number = takes_numbers and x.dim() == 0 and id(x) not in written
        is_index = name in INDEXING and any(x is index for index in args[1])
        if not is_number and not (is_index and isinstance(args[0], PretendTensor)):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"cuda:0 and {x.device}! ({func})"
            )


def _on_gpu(device: Any) -> bool:
    device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if device.type == "cuda" and device.index not in (None, 0):
        raise RuntimeError("CUDA error: invalid device ordinal")
    return device.type == "cuda" or device == HIDDEN


def _index(index: Any) -> Any:
    """Lists become tensors of the processor here: torch would make them on the hidden device."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    return torch.as_tensor(index) if isinstance(index, list | range | np.ndarray) else index


@cache
def _is_composed(func: Any) -> bool:
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CPU")
    return func._can_decompose() and not has_kernel


@cache
def _writes(func: Any) -> list[tuple[int, str]]:
    arguments = enumerate(func._schema.arguments)
    return [(i, a.name) for i, a in arguments if a.alias_info and a.alias_info.is_write]


def _written(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """The tensors that an operation writes to."""
    found = [args[i] if i < len(args) else kwargs.get(name) for i, name in _writes(func)]
    return [x for x in tree_leaves(found) if isinstance(x, Tensor)]


def _set_data(self: Any, value: Any) -> None:
    """``tensor.data = value``: the tensor stays the same object, also on another device."""
    if isinstance(self, PretendTensor) == isinstance(value, PretendTensor):
        TensorBase.data.__set__(self, value)
        if isinstance(self, PretendTensor):
            self.inner = value.inner.detach()
        return
    made = value.detach()
    if isinstance(self, nn.Parameter):
        made = nn.Parameter(made, self.requires_grad)
    if self.grad is not None:
        made.grad = self.grad.to(value.device)
    kept = {k: v for k, v in self.__dict__.items() if k not in ("inner", "_is_param")}
    made.__dict__.update(kept)
    torch.utils.swap_tensors(self, made)


def _to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``Tensor.to``, told of the device that C++ knows, so that it sees what is there already."""

    def known(x: Any) -> Any:
        is_device = isinstance(x, str | torch.device) or type(x) is int
        return HIDDEN if is_device and _on_gpu(x) else x

    return TensorBase.to(self, *map(known, args), **{k: known(v) for k, v in kwargs.items()})


def _placing(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``torch.tensor`` and the like: C++ would ask for a CUDA device before anyone is asked."""

    def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if device is None or not _on_gpu(device):
            return make(data, *args, device=device, **kwargs)
        requires_grad = kwargs.pop("requires_grad", False)
        return make(data, *args, **kwargs).to(CUDA).requires_grad_(requires_grad)

    return made


class _AnyGenerator(type):
    def __instancecheck__(cls, x: Any) -> bool:
        return isinstance(x, Generator)


class _Generator(metaclass=_AnyGenerator):
    """``torch.Generator``, of either device."""

    def __new__(cls, device: Any = CPU) -> Any:
        return the_device().generator() if _on_gpu(device) else Generator(device=device)


def _patches(device: PretendCuda) -> dict[str, Any]:
    """What replaces the functions of ``torch.cuda``."""
    properties = SimpleNamespace(name="Pretend", major=9, minor=0, total_memory=TOTAL_MEMORY)
    answers = [
        (True, "is_available is_initialized is_bf16_supported"),
        (None, "_lazy_init init set_device empty_cache reset_peak_memory_stats set_stream"),
        (1, "device_count"),
        (0, "current_device"),
        ("Pretend", "get_device_name"),
        ((9, 0), "get_device_capability"),
        (properties, "get_device_properties"),
        ((TOTAL_MEMORY - ALLOCATED, TOTAL_MEMORY), "mem_get_info"),
        (ALLOCATED, "memory_allocated max_memory_allocated memory_reserved max_memory_reserved"),
        (Stream(), "current_stream default_stream"),
        (contextlib.nullcontext(), "stream device"),
        ((0, 1), "graph_pool_handle"),
    ]
    constants = {name: value for value, names in answers for name in names.split()}
    return {name: lambda *_, _value=v, **__: _value for name, v in constants.items()} | {
        "synchronize": lambda *_: device.wait("torch.cuda.synchronize"),
        "is_current_stream_capturing": lambda: device.graph is not None,
        "manual_seed": lambda seed: device.chance.manual_seed(seed) and None,
        "manual_seed_all": lambda seed: device.chance.manual_seed(seed) and None,
        "get_rng_state": lambda *_: device.chance.get_state(),
        "set_rng_state": lambda state, *_: device.chance.set_state(state) and None,
        "default_generators": (device.chance,),
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": PretendGraph,
        "graph": capture,
    }


@contextlib.contextmanager
def pretend_cuda() -> Iterator[PretendCuda]:
    """The pretend device, for as long as the block lasts; afterwards torch is as it was."""
    device = PretendCuda()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _patches(device).items():
            patch.setattr(torch.cuda, name, value)
        for name in ("tensor", "as_tensor", "asarray"):
            patch.setattr(torch, name, _placing(getattr(torch, name)))
        patch.setattr(torch, "Generator", _Generator)
        patch.setattr(torch, "_has_compatible_shallow_copy_type", lambda *_: True)
        patch.setattr(Tensor, "to", _to)
        patch.setattr(Tensor, "cuda", lambda x, device=CUDA, *args: _to(x, device or CUDA, *args))
        patch.setattr(Tensor, "data", property(TensorBase.data.__get__, _set_data))
        active.append(device)
        try:
            with device.mode:
                yield device
        finally:
            active.remove(device)


@pytest.fixture
def cuda() -> Iterator[PretendCuda]:
    """A pretend CUDA device."""
    with pretend_cuda() as device:
        yield device
