"""Counts a training step of an optimized program: cycles, memory traffic, operations.

A step is a turn of the loop over steps, which is the dearest loop whose number of turns is not a
constant. Loops of a constant number of turns inside a step count as often as they turn.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from relabel_jax.benchmark import hlo
from relabel_jax.benchmark.hlo import Instruction, num_bytes

# They move no bytes.
_FREE = {
    *("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *(
        "partition-id",
        "replica-id",
        "opt-barrier",
        "async-done",
        "copy-done",
        "slice-done",
        "all-reduce-done",
    ),
}
_CALLS = {"while", "conditional", "call"}
# They read only as much of an operand as they return.
_PARTIAL = ("dynamic-slice", "gather", "slice")


_BODY = re.compile(r"body=%?([\w.\-]+)")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"?(\d+)')
_LESS = re.compile(r"direction=LT")


class Part(NamedTuple):
    """One instruction of a step: its name, its source, and its cycles and bytes in the step."""

    name: str
    shape: str
    source: str
    cycles: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class Step:
    """The counts of a step.

    Attributes:
      cycles: the sum of the compiler's estimates; 0 if it gives none.
      num_bytes: bytes between the chip and its main memory, padding included.
      parts: the instructions that move bytes or take cycles, dearest first.
      operations: how many instructions have an opcode, fusions included, by opcode.
      grouped_convolutions: how many convolutions have groups of channels or of clips.
      largest_write: the bytes of the largest array that an instruction writes.
    """

    cycles: int
    num_bytes: int
    parts: tuple[Part, ...]
    operations: dict[str, int]
    grouped_convolutions: int
    largest_write: int


class Program:
    """An optimized program.

    Args:
      text: the text of the program.

    Raises:
      ValueError: the text has no entry computation, or no loop of a variable number of turns.
    """

    def __init__(self, text: str):
        self._computations, self._entry = hlo.parse(text)

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
            and self._turns(instruction) is None
            and (found := _BODY.search(instruction.attributes))
        ]
        if not bodies:
            raise ValueError("the program has no loop of a variable number of turns")
        return max(bodies)[1]

    def _turns(self, instruction: Instruction) -> int | None:
        """The turns of a loop; None if they are not constant, and for other instructions."""
        if found := _TURNS.search(instruction.attributes):
            return int(found.group(1))
        # JAX's loops of a constant number of turns count from 0 while the count is less than it.
        if not (found := _CONDITION.search(instruction.attributes)):
            return None
        inside = list(self._inside(found.group(1)))
        by_name = {each.name: each for each in inside}
        for each in inside:
            limit = by_name.get(each.operands[-1]) if each.opcode == "compare" else None
            if limit and limit.opcode == "constant" and _LESS.search(each.attributes):
                return int(re.sub(r"\D", "", limit.attributes.partition(")")[0]))
        return None

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
                turns = self._turns(instruction) or 1
                for name in instruction.called:
                    yield from self._parts(name, times * turns)
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
        if instruction.opcode in _PARTIAL:
            return num_bytes(instruction.shape)
        if instruction.opcode == "dynamic-update-slice":
            return num_bytes(self._shape(computation, instruction.operands[1]))
        if instruction.opcode == "slice-start":
            return num_bytes(hlo.in_memory(hlo.async_result(instruction)))
        fused = self._fused(instruction)
        total = 0
        for number, operand in enumerate(instruction.operands):
            whole = num_bytes(self._shape(computation, operand))
            if fused is not None:
                whole = min(whole, self._read_of(fused, number, whole)[0])
            total += whole
        return total

    def _read_of(self, computation: str, number: int, whole: int) -> tuple[int, bool]:
        """The bytes that a fusion reads of its parameter, and whether it returns the parameter.

        Args:
          computation: the fused computation.
          number: the parameter's number.
          whole: the bytes of the whole parameter.
        """
        instructions = self._computations[computation]
        names = {
            each.name
            for each in instructions
            if each.opcode == "parameter" and each.attributes.startswith(f"({number})")
        }
        total = 0
        for each in instructions:
            if names.isdisjoint(each.operands):
                continue
            if each.opcode == "bitcast":
                names.add(each.name)
            elif each.opcode in _PARTIAL and each.operands[0] in names:
                total += num_bytes(hlo.in_memory(each.shape))
            elif each.opcode == "fusion" and (inner := self._fused(each)):
                for at, operand in enumerate(each.operands):
                    if operand in names:
                        read, returned = self._read_of(inner, at, whole)
                        total += read
                        if returned:
                            names.add(each.name)
            elif each.opcode != "dynamic-update-slice" or each.operands[0] not in names:
                return whole, False
        return total, any(each.is_root and each.name in names for each in instructions)

    def _written(self, instruction: Instruction) -> int:
        """The bytes of its results; of an array that it changes in place, those of the change."""
        if instruction.opcode in ("copy-start", "slice-start", "async-start"):
            return num_bytes(hlo.async_result(instruction))
        fused = self._fused(instruction)
        if instruction.opcode == "dynamic-update-slice" or fused is None:
            in_place = instruction.opcode == "dynamic-update-slice"
            return 0 if in_place else num_bytes(instruction.shape)
        by_name = {x.name: x for x in self._computations[fused]}
        total = num_bytes(instruction.shape)
        root = next(x for x in self._computations[fused] if x.is_root)
        results = (
            [by_name.get(x, root) for x in root.operands] if root.opcode == "tuple" else [root]
        )
        for result in results:
            while result.opcode == "bitcast" and result.operands[0] in by_name:
                result = by_name[result.operands[0]]
            if result.opcode == "dynamic-update-slice":
                total -= num_bytes(result.shape) - num_bytes(self._shape(fused, result.operands[1]))
        return max(0, total)

    def _fused(self, instruction: Instruction) -> str | None:
        is_fusion = instruction.opcode == "fusion" and instruction.called
        return instruction.called[0] if is_fusion else None

    def _shape(self, computation: str, operand: str) -> str:
        """The shape of an operand of an instruction of a computation."""
        name, *indices = operand.split("#")
        shape = self._shapes(computation).get(name, "")
        for index in indices:
            shape = hlo.element(shape, int(index))
        return shape

    @functools.cached_property
    def _shapes(self) -> Callable[[str], dict[str, str]]:
        return functools.cache(
            lambda computation: {x.name: x.shape for x in self._computations[computation]}
        )
