"""Builds the arrays of a pickle safely: replacements for the functions that numpy calls to unpickle them.

numpy's own `dtype` does not check the flags and fields in a pickle, so it is never created from one: here, a dtype is
one of CODES and a byte order, and an array is created only if its shape fits its bytes. Arrays of other dtypes, such as
text, remain placeholders.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slowfast_core.convert.plain_pickle import Budget, Calls, PickleError, RefusedError, StandIn

CODES = ("b1", "?", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
ORDERS = "<>=|"
MAX_DIMENSIONS = 32


@dataclass
class DType(StandIn):
    """A dtype; `code` is for example `f4`, and codes that are not in CODES are unknown."""

    code: str
    order: str = "="

    @classmethod
    def named(cls, code: Any, *_: Any) -> DType:
        text = code.decode("latin-1") if type(code) is bytes else code
        if type(text) is not str:
            raise PickleError("a dtype without a code")
        order = text[0] if text[:1] and text[0] in ORDERS else ""
        return cls(text.removeprefix(order), order or "=")

    def build(self, state: Any) -> DType:
        """Take the order from (version, byte order, subtype, names, fields, ...); a dtype with fields is unknown."""
        _, order, *parts = state
        order = order.decode("latin-1") if type(order) is bytes else order
        if type(order) is not str or len(order) != 1 or order not in ORDERS or any(part for part in parts[:3]):
            return DType("V")
        self.order = order
        return self

    @property
    def is_plain(self) -> bool:
        return self.code in CODES

    def as_numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


@dataclass
class Array(StandIn):
    """A placeholder of an array, which remains if its dtype is unknown."""

    budget: Budget

    def build(self, state: Any) -> Any:
        """Build from (version, shape, dtype, Fortran order, bytes); files from before 2006 have no version."""
        *_, shape, dtype, fortran, raw = state
        if type(dtype) is not DType:
            raise PickleError("an array without a dtype")
        if not dtype.is_plain:
            return self
        return filled(raw, dtype, shape, "F" if fortran else "C", self.budget)


def filled(raw: Any, dtype: DType, shape: Any, order: Any, budget: Budget) -> NDArray[Any]:
    """An array with its own memory. Raises PickleError if `shape` does not fit the bytes."""
    content = raw.encode("latin-1") if type(raw) is str else raw
    if type(content) is not bytes or type(shape) is not tuple or len(shape) > MAX_DIMENSIONS:
        raise PickleError("an array without bytes or a shape")
    if not all(type(side) is int and side >= 0 for side in shape):
        raise PickleError("an array with an invalid shape")
    kind = dtype.as_numpy()
    if math.prod(shape) * kind.itemsize != len(content) or max(shape, default=0) > 2**48:
        raise PickleError("an array whose shape does not fit its bytes")
    budget.spend(len(content) + 200)
    return np.frombuffer(content, kind).copy().reshape(shape, order="F" if order == "F" else "C")


class Numpy:
    """The numpy calls that a pickle may make; all share one budget."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def calls(self) -> Calls:
        return {
            "numpy.ndarray": self.no_call,
            "numpy.dtype": DType.named,
            "numpy.core.multiarray._reconstruct": self.reconstruct,
            "numpy.core.multiarray.scalar": self.scalar,
            "numpy.core.numeric._frombuffer": self.from_buffer,
            "collections.OrderedDict": self.ordered,
            "collections.Counter": self.counter,
            "_codecs.encode": self.encode,
            "__builtin__.bytes": self.no_bytes,
        }

    def no_call(self, *_: Any) -> None:
        raise RefusedError("numpy.ndarray")

    def reconstruct(self, *_: Any) -> Array:
        """Ignore the arguments, which are always the class, (0,) and b"b"."""
        return Array(self.budget)

    def scalar(self, dtype: Any, raw: Any = None) -> Any:
        """A numpy scalar as a Python number."""
        if type(dtype) is not DType:
            raise PickleError("a number without a dtype")
        return filled(raw, dtype, (), "C", self.budget).item() if dtype.is_plain else Array(self.budget)

    def from_buffer(self, raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Any:
        """Build an array of protocol 5; `axes` is the order of axes in memory if it is neither C nor Fortran."""
        if type(dtype) is not DType:
            raise PickleError("an array without a dtype")
        if not dtype.is_plain:
            return Array(self.budget)
        array = filled(raw, dtype, shape, order, self.budget)
        return array.transpose(axes) if order == "K" and axes is not None else array

    def ordered(self, items: Any = ()) -> OrderedDict[Any, Any]:
        """Python 2 passes the items as pairs; Python 3 sets them one by one."""
        self.budget.spend(100 * len(items))
        found: OrderedDict[Any, Any] = OrderedDict()
        for key, value in items:
            found[_name(key)] = value
        return found

    def counter(self, items: Any = ()) -> Counter[Any]:
        """Used for the milestones of a learning rate schedule."""
        if not isinstance(items, dict):
            raise PickleError("a counter without a mapping")
        self.budget.spend(100 * len(items))
        return Counter(items)

    def encode(self, text: Any, encoding: Any) -> bytes:
        """Python 3 writes bytes to old protocols with this call; no other codec is allowed."""
        if encoding not in ("latin1", "latin-1"):
            raise RefusedError(f"_codecs.encode with {str(encoding)[:40]!r}")
        if type(text) is not str:
            raise PickleError("bytes without text")
        self.budget.spend(len(text))
        return text.encode("latin-1")

    def no_bytes(self) -> bytes:
        """Python 3 writes empty bytes to old protocols with this call; arguments could fill the memory."""
        return b""


def _name(key: Any) -> str | int:
    if type(key) is not str and not (type(key) is int and abs(key) < 2**63):
        raise PickleError("a key that is not text")
    return key
