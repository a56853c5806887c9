"""Values in the CPU's memory, and their binding to the inputs and outputs of a session."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import dtypes
from .errors import InvalidArgument, RuntimeException, Unimplemented

if TYPE_CHECKING:
    from .session import InferenceSession

_ONNX_NAMES = {
    "f32": "float", "f64": "double", "f16": "float16", "bf16": "bfloat16",
    "str": "string", "bool": "bool",
    "i8": "int8", "u8": "uint8", "i16": "int16", "u16": "uint16", "i32": "int32", "u32": "uint32",
    "i64": "int64", "u64": "uint64", "c64": "complex64", "c128": "complex128",
}  # fmt: skip


def type_name(dtype: str) -> str:
    """ONNX's name of a tensor type, such as "tensor(float)", of one of wnn's."""
    return f"tensor({_ONNX_NAMES.get(dtype, 'float')})"


def only_cpu(device_type: str) -> None:
    """Unimplemented for any other device than the CPU."""
    if device_type.lower() != "cpu":
        raise Unimplemented(
            f"[wnn.ort] found device {device_type!r}; expected 'cpu'; run the model on the CPU"
        )


class OrtDevice:
    """A device; there is the CPU."""

    def __init__(self, device_type: str = "cpu", device_id: int = 0) -> None:
        only_cpu(device_type)
        self._id = device_id

    @staticmethod
    def make(device_type: str, device_id: int = 0, vendor_id: int = -1) -> OrtDevice:
        return OrtDevice(device_type, device_id)

    def device_type(self) -> str:
        return "cpu"

    def device_id(self) -> int:
        return self._id


class OrtValue:
    """A tensor or a sequence of tensors. element: wnn's dtype, where the array holds bits of it."""

    def __init__(self, value: Any, element: str | None = None) -> None:
        self._value = value
        self._element = element

    @staticmethod
    def ortvalue_from_numpy(
        array: np.ndarray, device_type: str = "cpu", device_id: int = 0, vendor_id: int = -1
    ) -> OrtValue:
        """A value that shares the array's memory."""
        only_cpu(device_type)
        return OrtValue(np.asarray(array))

    @staticmethod
    def ortvalue_from_numpy_with_onnx_type(data: np.ndarray, onnx_element_type: int) -> OrtValue:
        """A value of a type that numpy lacks, over an array of its bits (uint16 for bfloat16)."""
        name = dtypes.NAME[onnx_element_type]
        if data.dtype.itemsize != dtypes.ITEMSIZE[name]:
            raise InvalidArgument(
                f"[wnn.ort] found an array of {data.dtype} for {type_name(name)}; expected "
                f"{dtypes.ITEMSIZE[name]} bytes for an element; pass its bits"
            )
        return OrtValue(data.view(dtypes.NUMPY[name]), name)

    @staticmethod
    def ortvalue_from_shape_and_type(
        shape: Sequence[int],
        element_type: Any,
        device_type: str = "cpu",
        device_id: int = 0,
        vendor_id: int = -1,
        memory_info: None = None,
    ) -> OrtValue:
        """A value with unspecified contents; element_type: a numpy dtype or an ONNX number."""
        only_cpu(device_type)
        name = element_name(element_type)
        return OrtValue(np.empty(tuple(shape), dtypes.NUMPY[name]), name)

    @staticmethod
    def from_dlpack(data: Any) -> OrtValue:
        """A value that shares the memory of an object with DLPack's methods."""
        return OrtValue(np.from_dlpack(data))

    def __dlpack__(self, **options: Any) -> Any:
        return self.numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.numpy().__dlpack_device__()

    def numpy(self) -> np.ndarray:
        """The array, without a copy; RuntimeException for what is no tensor."""
        if not self.is_tensor():
            raise RuntimeException(
                f"[wnn.ort] found {self.data_type()}; expected a tensor; take it by run()"
            )
        return self._value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is None:  # numpy 1 does not know it
            return np.asarray(self._value, dtype)
        return np.array(self._value, dtype, copy=copy)

    def shape(self) -> list[int]:
        return list(self._value.shape)

    def data_type(self) -> str:
        if self.is_tensor_sequence():
            return f"seq({OrtValue(self._value[0]).data_type() if self._value else 'tensor'})"
        return type_name(self._name())

    def element_type(self) -> int:
        return dtypes.CODE[self._name()]

    def _name(self) -> str:
        return self._element or dtypes.name_of(self._value.dtype)

    def tensor_size_in_bytes(self) -> int:
        return self._value.nbytes

    def data_ptr(self) -> int:
        return self._value.ctypes.data

    def device_name(self) -> str:
        return "cpu"

    def has_value(self) -> bool:
        return self._value is not None

    def is_tensor(self) -> bool:
        return isinstance(self._value, np.ndarray)

    def is_sparse_tensor(self) -> bool:
        return False

    def is_tensor_sequence(self) -> bool:
        return isinstance(self._value, list)

    def update_inplace(self, data: np.ndarray | OrtValue) -> None:
        """Copies data into this value's memory; InvalidArgument unless shape and type fit."""
        array = plain(data)
        if array.shape != self._value.shape or array.dtype != self._value.dtype:
            raise InvalidArgument(
                f"[wnn.ort] found {array.dtype}{list(array.shape)} for a value of "
                f"{self._value.dtype}{self.shape()}; expected the same; make another OrtValue"
            )
        self._value[...] = array


def element_name(element_type: Any) -> str:
    """wnn's dtype for a numpy dtype or an ONNX number."""
    if isinstance(element_type, int):
        return dtypes.NAME[element_type]
    return dtypes.name_of(np.dtype(element_type))


def plain(value: Any) -> Any:
    """What a session computes on, of an OrtValue or anything else."""
    return value._value if isinstance(value, OrtValue) else value


def array_at(address: int, element_type: Any, shape: Sequence[int]) -> np.ndarray:
    """The memory at an address, as an array; its owner must keep it."""
    dtype = dtypes.NUMPY[element_name(element_type)]
    n = math.prod(shape) * dtype.itemsize
    if not n:
        return np.empty(tuple(shape), dtype)
    return np.frombuffer((ctypes.c_byte * n).from_address(address), dtype).reshape(tuple(shape))


class IOBinding:
    """Inputs and outputs for `InferenceSession.run_with_iobinding`, by name.

    Bound inputs are read where they are, and outputs that are bound to memory are written there.
    """

    def __init__(self, session: InferenceSession) -> None:
        self._session = session
        self._inputs: dict[str, OrtValue] = {}
        self._outputs: dict[str, OrtValue | None] = {}
        self._made: list[OrtValue] = []

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        self.bind_ortvalue_input(name, OrtValue(np.asarray(array)))

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        self._inputs[self._known(name, self._session.get_inputs())] = ortvalue

    def bind_input(
        self,
        name: str,
        device_type: str,
        device_id: int,
        element_type: Any,
        shape: Sequence[int],
        buffer_ptr: int,
    ) -> None:
        """Binds the memory at an address."""
        only_cpu(device_type)
        self.bind_ortvalue_input(name, OrtValue(array_at(buffer_ptr, element_type, shape)))

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        """Asks for an output, in the memory at an address, or else in memory of its own."""
        only_cpu(device_type)
        if buffer_ptr is None:
            return self._bind(name, None)
        if element_type is None or shape is None:
            raise InvalidArgument(
                f"[wnn.ort] found an address for output {name!r} without a type or shape; "
                "expected all three; pass element_type and shape"
            )
        return self._bind(name, OrtValue(array_at(buffer_ptr, element_type, shape)))

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        self._bind(name, ortvalue)

    def _bind(self, name: str, value: OrtValue | None) -> None:
        self._outputs[self._known(name, self._session.get_outputs())] = value

    def _known(self, name: str, among: Sequence) -> str:
        if name not in [p.name for p in among]:
            raise InvalidArgument(
                f"[wnn.ort] found no {name!r} to bind; expected one of "
                f"{[p.name for p in among]}; correct the name"
            )
        return name

    def get_outputs(self) -> list[OrtValue]:
        """The outputs of the last run, in the order in which they were bound."""
        return self._made

    def copy_outputs_to_cpu(self) -> list:
        """The outputs of the last run, as arrays of their own."""
        return [np.copy(v.numpy()) if v.is_tensor() else plain(v) for v in self._made]

    def clear_binding_inputs(self) -> None:
        self._inputs.clear()

    def clear_binding_outputs(self) -> None:
        self._outputs.clear()
        self._made = []

    def synchronize_inputs(self) -> None:
        """The CPU needs none."""

    def synchronize_outputs(self) -> None:
        """The CPU needs none."""
