"""Converts JAX functions to ONNX graphs.

`to_onnx` traces a function and walks through its jaxpr. Values that do not depend on the inputs are
computed during the conversion and become constants. Every other primitive becomes one ONNX operator
or a few, by the rules in `onnx_rules.py`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend
import numpy as np
import onnx
from onnx import helper, numpy_helper

from relabel_jax.errors import InputError

OPSET = 20
_IR_VERSION = 9  # the version of the file format that came with this operator set

_CALLS = {
    "checkpoint",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "jit",
    "pjit",
    "remat",
    "remat2",
}
"""Primitives that evaluate another jaxpr once."""

Shape = tuple[Any, ...]
"""Sizes along the axes: ints, or the symbolic sizes of `jax.export`."""


class UnsupportedPrimitive(Exception):
    """A primitive has parameters that a rule does not handle; the message says which."""


@dataclasses.dataclass(frozen=True)
class Value:
    """A value of the jaxpr during the conversion.

    Attributes:
      content: the array if the value is known now, else its name in the graph.
      shape: the shape of `content`. An axis of size 1 may stand for a longer axis of the jaxpr's
        value: ONNX's elementwise operators broadcast as NumPy's do.
    """

    content: np.ndarray | str
    shape: Shape

    @classmethod
    def known(cls, array: Any) -> "Value":
        """A value that is known during the conversion."""
        array = np.asarray(array)
        return cls(array, array.shape)


Rule = Callable[..., Value]
"""`rule(graph, equation, *values)` adds nodes and returns the value of the equation's result."""


class Graph:
    """An ONNX graph that is being built."""

    def __init__(self, inputs: Mapping[str, jax.ShapeDtypeStruct]):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._sizes = {  # by symbolic size, an input and its axis of this size
            size: (name, axis)
            for name, each in inputs.items()
            for axis, size in enumerate(each.shape)
            if not isinstance(size, int)
        }

    def add(self, operator: str, *inputs: np.ndarray | str, **attributes: Any) -> str:
        """Adds a node with one output.

        Args:
          operator: of the ONNX operator set `OPSET`.
          inputs: names in the graph, or constants.
          **attributes: the attributes of the operator.

        Returns:
          The name of the output.
        """
        names = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        output = f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], **attributes))
        return output

    def add_output(self, name: str, content: np.ndarray | str) -> None:
        """Adds a node that gives a value the name of an output of the graph."""
        self.add("Identity", content)
        self.nodes[-1].output[0] = name

    def full(self, value: Value, shape: Shape) -> np.ndarray | str:
        """The content of a value, broadcast to a shape of the same rank."""
        if value.shape == shape:
            return value.content
        if isinstance(value.content, np.ndarray) and is_static(shape):
            return np.broadcast_to(value.content, shape)
        # "Expand" leaves the axes as they are where the new size is 1.
        sizes = [
            np.array([1 if has == size else size], np.int64)
            if isinstance(size, int) or has == size
            else self._runtime_size(size)
            for has, size in zip(value.shape, shape, strict=True)
        ]
        return self.add("Expand", value.content, self.add("Concat", *sizes, axis=0))

    def _runtime_size(self, size: Any) -> str:
        if size not in self._sizes:
            raise UnsupportedPrimitive(f"a broadcast to the size {size}")
        name, axis = self._sizes[size]
        return self.add("Shape", name, start=axis, end=axis + 1)

    def _constant(self, array: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(array).reshape(array.shape)
        return name

    def remove_unused(self, outputs: Sequence[str]) -> None:
        """Removes the nodes and constants that the outputs do not depend on."""
        needed = {*outputs}
        kept = []
        for node in reversed(self.nodes):
            if needed & {*node.output}:
                kept.append(node)
                needed |= {*node.input}
        self.nodes = kept[::-1]
        self.constants = {name: each for name, each in self.constants.items() if name in needed}


def is_static(shape: Shape) -> bool:
    """Whether all sizes of a shape are known."""
    return all(isinstance(size, int) for size in shape)


def to_onnx(
    function: Callable[..., Sequence[jax.Array]],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    outputs: Sequence[str],
    rules: Mapping[str, Rule],
    name: str,
) -> onnx.ModelProto:
    """Converts a function of arrays to an ONNX model.

    Args:
      function: returns a sequence of arrays.
      inputs: by name, shape and dtype of its arguments. Sizes may be symbols of
        `jax.export.symbolic_shape`.
      outputs: the names of its results.
      rules: by name of the JAX primitive, how it is converted.
      name: of the graph.

    Raises:
      InputError: the function uses a primitive that no rule converts.
    """
    program = jax.make_jaxpr(function)(*inputs.values())
    graph = Graph(inputs)
    arguments = [Value(name, each.shape) for name, each in inputs.items()]
    constants = [Value.known(each) for each in program.consts]
    results = _convert(graph, rules, program.jaxpr, constants, arguments)
    for output, aval, value in zip(outputs, program.out_avals, results, strict=True):
        graph.add_output(output, graph.full(value, aval.shape))
    graph.remove_unused(outputs)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            name,
            [_value_info(key, each) for key, each in inputs.items()],
            [_value_info(*each) for each in zip(outputs, program.out_avals, strict=True)],
            [numpy_helper.from_array(each, key) for key, each in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="relabel_jax",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _convert(
    graph: Graph,
    rules: Mapping[str, Rule],
    jaxpr: jax.extend.core.Jaxpr,
    constants: Sequence[Value],
    arguments: Sequence[Value],
) -> list[Value]:
    """Adds the nodes of a jaxpr to the graph and returns the values of its results."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))

    def read(atom: Any) -> Value:
        if isinstance(atom, jax.extend.core.Literal):
            literal: Any = atom
            return Value.known(np.asarray(literal.val, literal.aval.dtype))
        return values[atom]

    for equation in jaxpr.eqns:
        primitive, known = equation.primitive.name, [read(each) for each in equation.invars]
        if primitive in _CALLS:
            called: Any = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
            inner = getattr(called, "jaxpr", called)  # a ClosedJaxpr has constants, a Jaxpr none
            inner_constants = [Value.known(each) for each in getattr(called, "consts", ())]
            results = _convert(graph, rules, inner, inner_constants, known)
        elif _is_known(equation, known):
            results = _compute(graph, equation, known)
        elif primitive == "optimization_barrier":
            results = known
        elif primitive in rules:
            try:
                results = [rules[primitive](graph, equation, *known)]
            except UnsupportedPrimitive as error:
                raise InputError(
                    f"--format=onnx: the network uses JAX's primitive {primitive} with {error}, "
                    "which this export cannot convert; use --format=stablehlo"
                ) from error
        else:
            raise InputError(
                f"--format=onnx: the network uses JAX's primitive {primitive}, which this export "
                "cannot convert; use --format=stablehlo"
            )
        values |= zip(equation.outvars, results, strict=True)
    return [read(each) for each in jaxpr.outvars]


def _is_known(equation: Any, values: Sequence[Value]) -> bool:
    """Whether the results can be computed now. `dim_as_value` gives a size that is a symbol."""
    return (
        equation.primitive.name != "dim_as_value"
        and all(isinstance(each.content, np.ndarray) for each in values)
        and all(is_static(each.aval.shape) for each in (*equation.invars, *equation.outvars))
    )


def _compute(graph: Graph, equation: Any, values: Sequence[Value]) -> list[Value]:
    arrays = [
        graph.full(value, atom.aval.shape)
        for value, atom in zip(values, equation.invars, strict=True)
    ]
    results = equation.primitive.bind(*arrays, **equation.params)
    if not equation.primitive.multiple_results:
        results = [results]
    return [Value.known(each) for each in results]


def _value_info(name: str, value: Any) -> onnx.ValueInfoProto:
    sizes = [size if isinstance(size, int) else str(size) for size in value.shape]
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
    return helper.make_tensor_value_info(name, dtype, sizes)
