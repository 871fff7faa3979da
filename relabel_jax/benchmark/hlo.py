"""Reads the text of XLA's optimized programs.

It is the text of `Compiled.as_text()`, or that of a file that `--xla_dump_to` writes.
"""

import math
import re
from typing import NamedTuple

_BYTES = {"bf16": 2, "f16": 2, "f32": 4, "f64": 8, "pred": 1, "c64": 8, "c128": 16}
_ARRAY = re.compile(r"(?P<dtype>[a-z]+\d*\w*)\[(?P<dims>[\d,<= ]*)\](?:\{(?P<layout>[^}]*)\})?")
_HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+)(?: \(.*)? \{$")
_INSTRUCTION = re.compile(r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_SOURCE = re.compile(r'op_name="([^"]*)"')


class Instruction(NamedTuple):
    """A line of a computation.

    Attributes:
      name, opcode: such as `fusion.4` and `fusion`.
      shape: the text of the shape of its result, with layouts.
      operands: the names of its operands; `NAME#2` is element 2 of a tuple.
      attributes: the rest of the line.
      is_root: whether it is the computation's result.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def cycles(self) -> int:
        """The compiler's estimate, 0 if it gives none."""
        found = _CYCLES.search(self.attributes)
        return int(found.group(1)) if found else 0

    @property
    def source(self) -> str:
        """The operation of the JAX program that it comes from, "" if it is not known."""
        found = _SOURCE.search(self.attributes)
        return found.group(1) if found else ""

    @property
    def called(self) -> tuple[str, ...]:
        """The names of the computations that it calls."""
        branches = _BRANCHES.search(self.attributes)
        names = re.findall(r"[\w.\-]+", branches.group(1)) if branches else []
        return (*_CALLED.findall(self.attributes), *names)


def num_bytes(shape: str) -> int:
    """The bytes of an array or a tuple in the chip's main memory, padding included.

    A TPU stores arrays in tiles, such as `T(8,128)`, so it pads the last axes of the layout. Arrays
    in another memory, such as `S(1)`, count as 0.

    >>> num_bytes("f32[24,1000]{1,0}"), num_bytes("f32[20,1000]{1,0:T(8,128)}")
    (96000, 98304)
    """
    return sum(_array_bytes(found) for found in _ARRAY.finditer(shape))


def _array_bytes(array: re.Match) -> int:
    dtype, layout = array["dtype"], array["layout"] or ""
    if re.search(r"S\([1-9]", layout):
        return 0
    dims = [int(re.sub(r"\D", "", dim)) for dim in array["dims"].split(",") if dim]
    order, _, rest = layout.partition(":")
    tile = re.match(r"T\(([\d,]+)\)", rest)
    if tile and dims:
        # The minor axes come first in a layout and last in a tile.
        sizes = [int(size) for size in reversed(tile[1].split(","))]
        axes = [int(axis) for axis in order.split(",") if axis]
        for axis, size in zip(axes, sizes, strict=False):
            dims[axis] = -(-dims[axis] // size) * size
    bits = re.search(r"\d+", dtype)
    size = _BYTES.get(dtype) or (max(1, int(bits.group()) // 8) if bits else 0)
    return size * math.prod(dims)


def async_result(instruction: Instruction) -> str:
    """The shape of the result of an operation that runs beside others.

    It is a part of a tuple: of `(result, operand, context)` for a copy, and of `((operand, ...),
    result, context)` for others.
    """
    inside = instruction.shape[1:-1]
    if inside.startswith("("):
        inside = inside[_closing(inside, 0) :]
    found = _ARRAY.search(inside)
    return found.group() if found else ""


def element(shape: str, index: int) -> str:
    """The shape of an element of a tuple.

    >>> element("(f32[2]{0:T(128)}, (f32[3,4], s32[]))", 1)
    '(f32[3,4], s32[])'
    """
    begin = depth = count = 0
    inside = shape[1:-1] + ","
    for at, letter in enumerate(inside):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            if count == index:
                return inside[begin:at].strip()
            begin, count = at + 1, count + 1
    raise ValueError(f"{shape} has no element {index}")


def in_memory(shape: str) -> str:
    """The same arrays in the main memory."""
    return re.sub(r"S\(\d+\)", "", shape)


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Returns the instructions of each computation, and the name of the entry computation.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, list[Instruction]] = {}
    entry = ""
    current: list[Instruction] | None = None
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = computations.setdefault(header["name"], [])
            entry = header["name"] if header["entry"] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            current.append(_instruction(found["name"], found["rest"], bool(found["root"])))
    if not entry:
        raise ValueError("the program has no entry computation")
    return computations, entry


def _instruction(name: str, rest: str, is_root: bool) -> Instruction:
    rest = re.sub(r"/\*.*?\*/", "", rest)
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    begin = rest.index("(")
    end = _closing(rest, begin)
    arguments = rest[begin:end]
    is_value = rest[:begin] in ("parameter", "constant")
    # Some texts print each operand's shape before its name.
    operands = () if is_value else _names(arguments[1:-1])
    attributes = arguments + rest[end:] if is_value else rest[end:]
    return Instruction(name, rest[:begin], shape, operands, attributes, is_root)


def _names(arguments: str) -> tuple[str, ...]:
    if "%" in arguments:
        return tuple(re.findall(r"%([\w.\-]+(?:#\d+)*)", arguments))
    plain = re.sub(r"[a-z]+\d*\w*\[[^\]]*\](\{[^}]*\})?", "", arguments)
    return tuple(re.findall(r"[\w.\-]+(?:#\d+)*", plain))


def _closing(text: str, begin: int) -> int:
    """The index after the parenthesis that closes the one at `begin`."""
    depth = 0
    for at in range(begin, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at + 1
    raise ValueError(f"a parenthesis is not closed: {text[:80]}")
