"""What the names in the pickles of `torch.save` mean: storages, tensors on them, sizes and devices; none runs code."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

_MOST_DIMENSIONS = 64
_LARGEST_SIZE = 2**48


class Storage(NamedTuple):
    """Numbers of one type that tensors share."""

    dtype: torch.dtype
    content: torch.UntypedStorage

    @property
    def length(self) -> int:
        return self.content.nbytes() // self.dtype.itemsize


def description_of(identifier: object) -> tuple[torch.dtype, str, int]:
    """Type, key and length of the storage that a persistent identifier names."""
    match identifier:
        case ("storage", torch.dtype() as dtype, str() as key, str(), int() as length, *more) if more in ([], [None]):
            return dtype, key, length
    raise ValueError("it refers to a storage in an unknown way")


def storage_of(content: memoryview) -> torch.UntypedStorage:
    """The bytes as what tensors lie on, not copied where they are aligned."""
    if not len(content):
        return torch.empty(0).untyped_storage()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        numbers = torch.frombuffer(content, dtype=torch.uint8)
    if numbers.data_ptr() % 16:
        if content.readonly:
            raise ValueError("one of its records begins where no tensor can; save it again")
        numbers = numbers.clone()
    return numbers.untyped_storage()


def tensor_of(
    storage: object,
    offset: object,
    shape: object,
    stride: object,
    requires_grad: object = None,
    hooks: object = None,
    metadata: object = None,
) -> Tensor | None:
    """A view of the storage's numbers."""
    if storage is None:  # not read yet
        return None
    shape, stride = _integers(shape), _integers(stride)
    if not isinstance(storage, Storage) or type(offset) is not int or len(shape) != len(stride) or metadata:
        raise ValueError("it describes a tensor in an unknown way")
    if len(shape) > _MOST_DIMENSIONS or any(not 0 <= size < _LARGEST_SIZE for size in (offset, *shape, *stride)):
        raise ValueError("it has a tensor of an absurd shape")
    if not math.prod(shape):
        return torch.empty(shape, dtype=storage.dtype)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if last >= storage.length:
        raise ValueError(f"it has a tensor of shape {tuple(shape)} that reaches beyond its storage")
    return torch.empty(0, dtype=storage.dtype).set_(storage.content, offset, shape, stride)


def tensor_of_type(
    storage: object, offset: object, shape: object, stride: object, grad: object, hooks: object, dtype: object,
    metadata: object = None,
) -> Tensor | None:  # fmt: skip
    """The same of a type that has no storage of its own."""
    if not isinstance(dtype, torch.dtype):
        raise ValueError("it has a tensor of an unknown type")
    storage = storage._replace(dtype=dtype) if isinstance(storage, Storage) else storage
    return tensor_of(storage, offset, shape, stride, metadata=metadata)


def _integers(value: object) -> list[int]:
    if not isinstance(value, tuple) or any(type(each) is not int for each in value):
        raise ValueError("it describes a shape in an unknown way")
    return list(value)


def _parameter(data: object, *more: object) -> object:
    return data


def _of_type(function: Callable[..., object], kind: object, arguments: object, state: object) -> object:
    if function not in (tensor_of, tensor_of_type) or not isinstance(arguments, tuple):
        raise ValueError("it has a tensor of an unknown kind")
    return function(*arguments)


def _without_numbers(*more: object) -> object:
    raise ValueError("it has a tensor without numbers, as those on the device meta are")


def _ordered(items: object = ()) -> dict[object, object]:
    if items:
        raise ValueError("it fills a dictionary in an unknown way")
    return {}


def _size(items: object) -> torch.Size:
    return torch.Size(_integers(items))


def _device(*parts: object) -> torch.device:
    kind, index = (*parts, None)[:2]
    if not isinstance(kind, str) or not (index is None or type(index) is int):
        raise ValueError("it names a device in an unknown way")
    return torch.device(kind) if index is None else torch.device(kind, index)


_NUMBERS = (
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64",
    "complex128", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2",
)  # fmt: skip
_STORAGES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
}  # fmt: skip
KNOWN: Mapping[str, object] = {
    "collections.OrderedDict": _ordered,
    "torch.Size": _size,
    "torch.device": _device,
    "torch.Tensor": "Tensor",
    "torch.nn.parameter.Parameter": "Parameter",
    "torch.storage.UntypedStorage": torch.uint8,
    "torch._utils._rebuild_tensor": tensor_of,
    "torch._utils._rebuild_tensor_v2": tensor_of,
    "torch._utils._rebuild_tensor_v3": tensor_of_type,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_meta_tensor_no_storage": _without_numbers,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    **{f"torch.{name}": getattr(torch, name) for name in _NUMBERS},
    **{f"torch.{name}Storage": dtype for name, dtype in _STORAGES.items()},
    **{f"torch.cuda.{name}Storage": dtype for name, dtype in _STORAGES.items()},
}
