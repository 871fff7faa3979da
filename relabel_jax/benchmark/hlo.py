"""Reads XLA's optimized programs: the cycles, the memory traffic and the operations of a step.

The text is that of `Compiled.as_text()` or of a file that `--xla_dump_to` writes. A step is a turn
of the loop over steps, which is the dearest loop whose number of turns is not a constant. Loops of
a constant number of turns inside a step count as often as they turn.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

_BYTES = {"bf16": 2, "f16": 2, "f32": 4, "f64": 8, "pred": 1, "c64": 8, "c128": 16}
_ARRAY = re.compile(r"(?P<dtype>[a-z]+\d*\w*)\[(?P<dims>[\d,<= ]*)\](?:\{(?P<layout>[^}]*)\})?")
_HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+)(?: \(.*)? \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_BODY = re.compile(r"body=%?([\w.\-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_TURNS = re.compile(r'"known_trip_count":\{"n":"?(\d+)')
_SOURCE = re.compile(r'op_name="([^"]*)"')
# They move no bytes.
_FREE = {
    *("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("partition-id", "replica-id", "opt-barrier", "async-done", "copy-done", "all-reduce-done"),
}
_CALLS = {"while", "conditional", "call"}
# They read only as much of an operand as they return.
_PARTIAL = ("dynamic-slice", "gather", "slice")


class Instruction(NamedTuple):
    """A line of a computation.

    Attributes:
      name, opcode: such as `fusion.4` and `fusion`.
      shape: the text of the shape of its result, with layouts.
      operands: the names of its operands.
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


class Part(NamedTuple):
    """One instruction of a step: its name, its source, and its cycles and bytes in the step."""

    name: str
    shape: str
    source: str
    cycles: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step consists of.

    Attributes:
      cycles: the sum of the compiler's estimates; 0 if it gives none.
      num_bytes: what the step reads from and writes to the memory, padding included.
      parts: the instructions that move bytes or take cycles, dearest first.
      operations: how many instructions have an opcode, fusions included, by opcode.
      grouped_convolutions: how many convolutions have groups of channels or of clips.
      largest_write: the bytes of the largest array that an instruction writes anew.
    """

    cycles: int
    num_bytes: int
    parts: tuple[Part, ...]
    operations: dict[str, int]
    grouped_convolutions: int
    largest_write: int


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


class Program:
    """An optimized program.

    Args:
      text: the text of the program.

    Raises:
      ValueError: the text has no entry computation, or no loop of a variable number of turns.
    """

    def __init__(self, text: str):
        self._computations: dict[str, list[Instruction]] = {}
        self._entry = ""
        current: list[Instruction] | None = None
        for line in text.splitlines():
            header = _HEADER.match(line)
            if header and not line.startswith("HloModule"):
                current = self._computations.setdefault(header["name"], [])
                self._entry = header["name"] if header["entry"] else self._entry
            elif line.startswith("}"):
                current = None
            elif current is not None and (found := _INSTRUCTION.match(line)):
                current.append(_instruction(found["name"], found["rest"], "ROOT " in line[:12]))
        if not self._entry:
            raise ValueError("the program has no entry computation")

    def step(self) -> Step:
        """Counts a step of the loop over steps."""
        body = self._step_body()
        parts = sorted(self._parts(body, 1), key=lambda part: (-part.cycles, -part.num_bytes))
        inside = list(self._inside(body))
        operations: dict[str, int] = {}
        for instruction in inside:
            opcode = instruction.opcode.removesuffix("-start")
            operations[opcode] = operations.get(opcode, 0) + 1
        groups = [
            int(count)
            for instruction in inside
            for count in re.findall(r"(?:feature|batch)_group_count=(\d+)", instruction.attributes)
        ]
        return Step(
            cycles=sum(part.cycles for part in parts),
            num_bytes=sum(part.num_bytes for part in parts),
            parts=tuple(parts),
            operations=operations,
            grouped_convolutions=sum(count > 1 for count in groups),
            largest_write=max((self._written(x) for x in self._steps_of(body)), default=0),
        )

    def _step_body(self) -> str:
        bodies = [
            (self._cost(found.group(1)), found.group(1))
            for instruction in self._inside(self._entry)
            if instruction.opcode == "while"
            and not _TURNS.search(instruction.attributes)
            and (found := _BODY.search(instruction.attributes))
        ]
        if not bodies:
            raise ValueError("the program has no loop of a variable number of turns")
        return max(bodies)[1]

    def _cost(self, computation: str) -> tuple[int, int]:
        parts = list(self._parts(computation, 1))
        return sum(part.cycles for part in parts), sum(part.num_bytes for part in parts)

    def _inside(self, computation: str) -> Iterator[Instruction]:
        """Yields all instructions that a computation executes, those of fusions included."""
        for instruction in self._computations[computation]:
            yield instruction
            for name in instruction.called:
                yield from self._inside(name)

    def _steps_of(self, computation: str) -> Iterator[Instruction]:
        """Yields the instructions that write results to memory, also in loops and branches."""
        for instruction in self._computations[computation]:
            if instruction.opcode in _CALLS:
                for name in instruction.called:
                    yield from self._steps_of(name)
            elif instruction.opcode not in _FREE:
                yield instruction

    def _parts(self, computation: str, times: int) -> Iterator[Part]:
        for instruction in self._computations[computation]:
            if instruction.opcode in _CALLS:
                turns = _TURNS.search(instruction.attributes)
                for name in instruction.called:
                    yield from self._parts(name, times * (int(turns.group(1)) if turns else 1))
            elif instruction.opcode not in _FREE:
                moved = self._written(instruction) + self._read(computation, instruction)
                yield Part(
                    instruction.name,
                    re.sub(r"\{[^}]*\}", "", instruction.shape),
                    instruction.source,
                    times * instruction.cycles,
                    times * moved,
                )

    def _read(self, computation: str, instruction: Instruction) -> int:
        """The bytes of its operands, or of the slices that it takes of them."""
        shapes = self._shapes(computation)
        if instruction.opcode in _PARTIAL:
            return num_bytes(instruction.shape)
        if instruction.opcode == "dynamic-update-slice":
            return num_bytes(shapes.get(instruction.operands[1], ""))
        fused = self._fused(instruction)
        total = 0
        for number, operand in enumerate(instruction.operands):
            whole = num_bytes(shapes.get(operand, ""))
            total += whole if fused is None else min(whole, self._read_of(fused, number, whole))
        return total

    def _read_of(self, computation: str, number: int, whole: int) -> int:
        """The bytes that a fusion reads of its parameter of this number."""
        names = {
            each.name
            for each in self._computations[computation]
            if each.opcode == "parameter" and each.attributes.startswith(f"({number})")
        }
        total = 0
        for each in self._computations[computation]:
            if names.isdisjoint(each.operands):
                continue
            if each.opcode == "bitcast":
                names.add(each.name)
            elif each.opcode in _PARTIAL and each.operands[0] in names:
                total += num_bytes(re.sub(r"S\(\d+\)", "", each.shape))
            elif each.opcode == "fusion" and (inner := self._fused(each)):
                total += sum(
                    self._read_of(inner, at, whole)
                    for at, operand in enumerate(each.operands)
                    if operand in names
                )
            elif each.opcode != "dynamic-update-slice" or each.operands[0] not in names:
                return whole
        return total

    def _written(self, instruction: Instruction) -> int:
        """The bytes of its results; of an array that it changes in place, those of the change."""
        fused = self._fused(instruction)
        if instruction.opcode == "dynamic-update-slice" or fused is None:
            in_place = instruction.opcode == "dynamic-update-slice"
            return 0 if in_place else num_bytes(instruction.shape)
        shapes, by_name = self._shapes(fused), {x.name: x for x in self._computations[fused]}
        total = num_bytes(instruction.shape)
        root = next(x for x in self._computations[fused] if x.is_root)
        results = [by_name[x] for x in root.operands] if root.opcode == "tuple" else [root]
        for result in results:
            while result.opcode == "bitcast" and result.operands[0] in by_name:
                result = by_name[result.operands[0]]
            if result.opcode == "dynamic-update-slice":
                total -= num_bytes(result.shape) - num_bytes(shapes.get(result.operands[1], ""))
        return max(0, total)

    def _fused(self, instruction: Instruction) -> str | None:
        is_fusion = instruction.opcode == "fusion" and instruction.called
        return instruction.called[0] if is_fusion else None

    @functools.cached_property
    def _shapes(self) -> Callable[[str], dict[str, str]]:
        return functools.cache(
            lambda computation: {x.name: x.shape for x in self._computations[computation]}
        )


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
        return tuple(re.findall(r"%([\w.\-]+)", arguments))
    plain = re.sub(r"[a-z]+\d*\w*\[[^\]]*\](\{[^}]*\})?", "", arguments)
    return tuple(re.findall(r"[\w.\-]+", plain))


def _closing(text: str, begin: int) -> int:
    """The index after the parenthesis that closes the one at `begin`."""
    depth = 0
    for at in range(begin, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at + 1
    raise ValueError(f"a parenthesis is not closed: {text[:80]}")
