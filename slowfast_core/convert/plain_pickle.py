"""A pickle reader that builds only numbers, text and containers, and imports nothing.

A pickle is a program for a stack machine, and `pickle.Unpickler` calls any function that the program names. Restricting
the names is not enough: a `numpy.dtype` with a state from a file corrupts memory, the hash of a deeply nested tuple
overflows the C stack, and a few opcodes can fill the memory. This machine calls only functions from a table of its
caller, checks every key before hashing it, and limits its work in proportion to the size of the file.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any

MIN_OPERATIONS = 4_000_000  # limit for a small pickle; large ones may add one operation per 4 bytes
LARGEST_NUMBER = 64  # bytes of an integer
LONGEST_NUMBER = 200  # characters of a number that is written as text
LAST_PROTOCOL = 5
EMPTY_SET_SIZE = 216  # bytes; objects of other single opcodes take a third
MOST_ARGUMENTS = 16  # of a call, and parts of a state
SCALARS = (str, bytes, int, float, bool, type(None))

Calls = Mapping[str, Callable[..., Any]]


class PickleError(Exception):
    """The pickle is damaged, or contains more than numbers, text, arrays and containers."""


class RefusedError(PickleError):
    """The pickle names something outside the table; the message is the name."""


class Budget:
    """Limits the bytes that the calls of one pickle may copy; normal content takes about the size of its file."""

    def __init__(self, size: int) -> None:
        self.left = 8 * size + 2**24

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise PickleError("far larger than its file")


class StandIn:
    """A placeholder that the pickle gives a state later; `built` then replaces it."""

    built: Any = None

    def build(self, state: Any) -> Any:
        raise NotImplementedError


class Name:
    """A name in the table, before it is called."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class PickleReader:
    """Reads the pickle that starts at `position` of `data`.

    `calls` maps the allowed full names to the functions that are called instead. `persistent` loads content outside
    the pickle.
    """

    def __init__(
        self,
        data: bytes,
        calls: Calls,
        budget: Budget,
        position: int = 0,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.data, self.position = data, position
        self.calls, self.budget, self.persistent = calls, budget, persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Read the pickle, and set `position` to its end. Raises PickleError."""
        data, operations, stop = self.data, OPERATIONS, pickle.STOP[0]
        try:
            for _ in range(MIN_OPERATIONS + len(data) // 4):
                code = data[self.position]
                self.position += 1
                if code == stop:
                    return self.stack.pop()
                operations[code](self)
        except (LookupError, ValueError, TypeError, ArithmeticError, struct.error) as error:
            raise PickleError(type(error).__name__) from None
        raise PickleError("too many objects")

    # Arguments of operations.

    def take(self, size: int) -> bytes:
        start, self.position = self.position, self.position + size
        if self.position > len(self.data):
            raise PickleError("truncated")
        return self.data[start : self.position]

    def line(self) -> bytes:
        end = self.data.index(b"\n", self.position)
        start, self.position = self.position, end + 1
        return self.data[start:end]

    def number(self, format_: str) -> Any:
        (value,) = struct.unpack_from(format_, self.data, self.position)
        self.position += struct.calcsize(format_)
        return value

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    # Operations.

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def duplicate(self) -> None:
        self.stack.append(self.stack[-1])

    def text_number(self) -> None:
        """Protocol 0; `01` and `00` are booleans."""
        line = self.line()
        if line in (b"00", b"01"):
            self.stack.append(line == b"01")
        else:
            self.stack.append(int(_short(line).removesuffix(b"L")))

    def text_float(self) -> None:
        self.stack.append(float(_short(self.line())))

    def long(self, format_: str) -> None:
        size = self.number(format_)
        if not 0 <= size <= LARGEST_NUMBER:
            raise PickleError("a number with too many digits")
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def quoted(self) -> None:
        """Read a `str` of Python 2, written as its `repr`; each byte becomes a character."""
        line = self.line()
        if len(line) < 2 or line[0] != line[-1] or line[0] not in b"'\"":
            raise PickleError("an open quote")
        text = line[1:-1].decode("unicode_escape")
        text.encode("latin-1")
        self.stack.append(text)

    def sized(self, format_: str, decoded: Callable[[bytes], Any]) -> None:
        self.stack.append(decoded(self.take(self.number(format_))))

    def unicode_line(self) -> None:
        self.stack.append(self.line().decode("raw-unicode-escape"))

    def tuple_of(self, size: int) -> None:
        stack = self.stack
        if len(stack) < size:
            raise PickleError("an empty stack")
        items = tuple(stack[-size:])
        del stack[-size:]
        stack.append(items)

    def dictionary(self) -> None:
        items = self.since_mark()
        found: dict[Any, Any] = {}
        self.put_items(found, items)
        self.stack.append(found)

    def collected(self, kind: Callable[[list[Any]], Any]) -> None:
        items = self.since_mark()
        self.stack.append(kind(items))

    def append(self) -> None:
        value = self.stack.pop()
        self.list_on_top().append(value)

    def extend(self) -> None:
        items = self.since_mark()
        self.list_on_top().extend(items)

    def list_on_top(self) -> list[Any]:
        if type(self.stack[-1]) is not list:
            raise PickleError("items of an object that is not a list")
        found: list[Any] = self.stack[-1]
        return found

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.put_items(self.stack[-1], [key, value])

    def set_items(self) -> None:
        items = self.since_mark()
        self.put_items(self.stack[-1], items)

    def put_items(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, dict):
            raise PickleError("items of an object that is not a mapping")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self.checked_key(key, len(target))] = value

    def empty_set(self) -> None:
        self.budget.spend(EMPTY_SET_SIZE)
        self.stack.append(set())

    def add_items(self) -> None:
        items = self.since_mark()
        if type(self.stack[-1]) is not set:
            raise PickleError("items of an object that is not a set")
        self.stack[-1].update(self.checked_key(item, len(self.stack[-1])) for item in items)

    def frozen(self, items: list[Any]) -> frozenset[Any]:
        self.budget.spend(EMPTY_SET_SIZE)
        return frozenset(self.checked_key(item, number) for number, item in enumerate(items))

    def checked_key(self, key: Any, among: int) -> Any:
        """Return a key that is hashed quickly and does not allow many collisions in a file.

        Tuples allow collisions, so each is charged for a comparison with all other keys.
        """
        if type(key) is tuple and all(type(item) in SCALARS for item in key):
            self.budget.spend(among + len(key))
        elif type(key) not in SCALARS:
            raise PickleError("a key that is not text")
        if type(key) is int and not -(2**63) <= key < 2**64:
            raise PickleError("a key with too many digits")
        return key

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        value = self.memo[index]
        if isinstance(value, StandIn) and value.built is not None:
            value = value.built
        self.stack.append(value)

    def global_line(self) -> None:
        module, name = self.line().decode(), self.line().decode()
        self.name(module, name)

    def global_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(module) is not str or type(name) is not str:
            raise PickleError("a name that is not text")
        self.name(module, name)

    def name(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        known = full.replace("numpy._core.", "numpy.core.")
        if known not in self.calls:
            raise RefusedError(full)
        self.stack.append(Name(known))

    def call(self) -> None:
        arguments = self.stack.pop()
        name = self.stack.pop()
        if type(name) is not Name or type(arguments) is not tuple or len(arguments) > MOST_ARGUMENTS:
            raise PickleError("a call of an object that is not a name")
        self.stack.append(self.calls[name.name](*arguments))

    def build(self) -> None:
        """Set the state of an object. The state of a mapping consists of attributes, which are ignored."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, StandIn):
            if type(state) is not tuple or len(state) > MOST_ARGUMENTS:
                raise PickleError("a state that does not belong to an array")
            target.built = target.build(state)
            self.stack[-1] = target.built
        elif not isinstance(target, dict):
            raise PickleError("a state of an object without state")

    def load_outside(self, key: Any) -> None:
        if self.persistent is None:
            raise PickleError("content outside the pickle")
        self.stack.append(self.persistent(key))

    def protocol(self) -> None:
        if self.number("B") > LAST_PROTOCOL:
            raise PickleError("a newer protocol")

    def refuse(self) -> None:
        """Refuse an object of a class: names on the stack are functions, not classes."""
        raise PickleError("an object of a class")


def _short(line: bytes) -> bytes:
    if len(line) > LONGEST_NUMBER:
        raise PickleError("a number with too many digits")
    return line


def _latin(data: bytes) -> str:
    """Decode bytes of Python 2, as with `encoding="latin-1"`."""
    return data.decode("latin-1")


Machine = PickleReader
OPERATIONS: dict[int, Callable[[PickleReader], None]] = {
    pickle.PROTO[0]: Machine.protocol,
    pickle.FRAME[0]: lambda machine: machine.number("<Q"),  # only a hint for reading; the operations follow directly
    pickle.MARK[0]: Machine.mark,
    pickle.POP[0]: Machine.pop,
    pickle.POP_MARK[0]: lambda machine: machine.since_mark().clear(),
    pickle.DUP[0]: Machine.duplicate,
    pickle.NONE[0]: lambda machine: machine.stack.append(None),
    pickle.NEWTRUE[0]: lambda machine: machine.stack.append(True),
    pickle.NEWFALSE[0]: lambda machine: machine.stack.append(False),
    pickle.INT[0]: Machine.text_number,
    pickle.LONG[0]: Machine.text_number,
    pickle.FLOAT[0]: Machine.text_float,
    pickle.BININT[0]: lambda machine: machine.stack.append(machine.number("<i")),
    pickle.BININT1[0]: lambda machine: machine.stack.append(machine.number("B")),
    pickle.BININT2[0]: lambda machine: machine.stack.append(machine.number("<H")),
    pickle.BINFLOAT[0]: lambda machine: machine.stack.append(machine.number(">d")),
    pickle.LONG1[0]: lambda machine: machine.long("B"),
    pickle.LONG4[0]: lambda machine: machine.long("<i"),
    pickle.STRING[0]: Machine.quoted,
    pickle.UNICODE[0]: Machine.unicode_line,
    pickle.BINSTRING[0]: lambda machine: machine.sized("<I", _latin),
    pickle.SHORT_BINSTRING[0]: lambda machine: machine.sized("B", _latin),
    pickle.BINUNICODE[0]: lambda machine: machine.sized("<I", bytes.decode),
    pickle.SHORT_BINUNICODE[0]: lambda machine: machine.sized("B", bytes.decode),
    pickle.BINUNICODE8[0]: lambda machine: machine.sized("<Q", bytes.decode),
    pickle.BINBYTES[0]: lambda machine: machine.sized("<I", bytes),
    pickle.SHORT_BINBYTES[0]: lambda machine: machine.sized("B", bytes),
    pickle.BINBYTES8[0]: lambda machine: machine.sized("<Q", bytes),
    pickle.BYTEARRAY8[0]: lambda machine: machine.sized("<Q", bytes),
    pickle.READONLY_BUFFER[0]: lambda machine: None,
    pickle.EMPTY_TUPLE[0]: lambda machine: machine.stack.append(()),
    pickle.TUPLE1[0]: lambda machine: machine.tuple_of(1),
    pickle.TUPLE2[0]: lambda machine: machine.tuple_of(2),
    pickle.TUPLE3[0]: lambda machine: machine.tuple_of(3),
    pickle.TUPLE[0]: lambda machine: machine.collected(tuple),
    pickle.EMPTY_LIST[0]: lambda machine: machine.stack.append([]),
    pickle.LIST[0]: lambda machine: machine.collected(list),
    pickle.APPEND[0]: Machine.append,
    pickle.APPENDS[0]: Machine.extend,
    pickle.EMPTY_DICT[0]: lambda machine: machine.stack.append({}),
    pickle.DICT[0]: Machine.dictionary,
    pickle.SETITEM[0]: Machine.set_item,
    pickle.SETITEMS[0]: Machine.set_items,
    pickle.EMPTY_SET[0]: Machine.empty_set,
    pickle.ADDITEMS[0]: Machine.add_items,
    pickle.FROZENSET[0]: lambda machine: machine.collected(machine.frozen),
    pickle.PUT[0]: lambda machine: machine.put(int(_short(machine.line()))),
    pickle.BINPUT[0]: lambda machine: machine.put(machine.number("B")),
    pickle.LONG_BINPUT[0]: lambda machine: machine.put(machine.number("<I")),
    pickle.MEMOIZE[0]: lambda machine: machine.put(len(machine.memo)),
    pickle.GET[0]: lambda machine: machine.get(int(_short(machine.line()))),
    pickle.BINGET[0]: lambda machine: machine.get(machine.number("B")),
    pickle.LONG_BINGET[0]: lambda machine: machine.get(machine.number("<I")),
    pickle.GLOBAL[0]: Machine.global_line,
    pickle.STACK_GLOBAL[0]: Machine.global_stack,
    pickle.REDUCE[0]: Machine.call,
    pickle.BUILD[0]: Machine.build,
    pickle.BINPERSID[0]: lambda machine: machine.load_outside(machine.stack.pop()),
    pickle.NEWOBJ[0]: Machine.refuse,
}
