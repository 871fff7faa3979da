"""How JAX's primitives become ONNX operators: the rules of `onnx_graph.to_onnx`.

A rule takes the graph, the equation of the jaxpr and the values of its operands.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper

from relabel_jax.inference.onnx_graph import Graph, Rule, Shape, UnsupportedPrimitive, Value

_Content = np.ndarray | str

_ELEMENTWISE = {
    "abs": "Abs",
    "add": "Add",
    "and": "And",
    "ceil": "Ceil",
    "cos": "Cos",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "not": "Not",
    "or": "Or",
    "pow": "Pow",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "stop_gradient": "Identity",
    "sub": "Sub",
    "tanh": "Tanh",
}
"""Primitives that are one ONNX operator on the same operands."""


def _elementwise(build: Callable[..., str]) -> Rule:
    """A rule for operators that broadcast their operands.

    Args:
      build: `build(graph, equation, *operands)` adds the nodes and returns the name of the result.
    """

    def rule(graph: Graph, equation: Any, *values: Value) -> Value:
        result = build(graph, equation, *(each.content for each in values))
        return Value(result, _broadcast_shape([each.shape for each in values]))

    return rule


def _broadcast_shape(shapes: list[Shape]) -> Shape:
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(
        next((size for size in sizes if not isinstance(size, int) or size != 1), 1)
        for sizes in zip(*padded, strict=True)
    )


def _one_operator(operator: str) -> Rule:
    return _elementwise(lambda graph, _, *operands: graph.add(operator, *operands))


def _on_full(build: Callable[..., str]) -> Rule:
    """A rule for operators that need every operand in its full shape.

    Args:
      build: `build(graph, equation, *operands)` adds the nodes and returns the name of the result.
    """

    def rule(graph: Graph, equation: Any, *values: Value) -> Value:
        operands = [
            graph.full(value, atom.aval.shape)
            for value, atom in zip(values, equation.invars, strict=True)
        ]
        return Value(build(graph, equation, *operands), equation.outvars[0].aval.shape)

    return rule


def _like(equation: Any, number: float) -> np.ndarray:
    """A scalar of the dtype of the first operand."""
    return np.array(number, equation.invars[0].aval.dtype)


def _int64(values: Any) -> np.ndarray:
    return np.array(values, np.int64)


def _cast(graph: Graph, equation: Any, x: _Content) -> str:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(equation.params["new_dtype"]))
    return graph.add("Cast", x, to=dtype)


def _select(graph: Graph, equation: Any, which: _Content, *cases: _Content) -> str:
    if equation.invars[0].aval.dtype != bool or len(cases) != 2:
        raise UnsupportedPrimitive("integers that select")
    return graph.add("Where", which, cases[1], cases[0])


def _integer_pow(graph: Graph, equation: Any, x: _Content) -> str:
    return graph.add("Pow", x, _like(equation, equation.params["y"]))


def _broadcast_in_dim(graph: Graph, equation: Any, value: Value, *dynamic: Value) -> Value:
    """Inserts axes of size 1. The operators that use the result broadcast along them."""
    if dynamic and not all(isinstance(each.content, np.ndarray) for each in dynamic):
        raise UnsupportedPrimitive("a size that is computed")
    axes = equation.params["broadcast_dimensions"]
    rank = len(equation.params["shape"])
    sizes = dict(zip(axes, value.shape, strict=True))
    shape = tuple(sizes.get(axis, 1) for axis in range(rank))
    if isinstance(value.content, np.ndarray):
        return Value.known(value.content.reshape(shape))
    new = [axis for axis in range(rank) if axis not in axes]
    return Value(
        graph.add("Unsqueeze", value.content, _int64(new)) if new else value.content, shape
    )


def _reshape(graph: Graph, equation: Any, x: _Content) -> str:
    if equation.params["dimensions"] is not None:
        raise UnsupportedPrimitive("another order of the axes")
    sizes = equation.outvars[0].aval.shape
    unknown = [axis for axis, size in enumerate(sizes) if not isinstance(size, int)]
    if len(unknown) > 1:
        raise UnsupportedPrimitive("several unknown sizes")
    return graph.add("Reshape", x, _int64([-1 if i in unknown else n for i, n in enumerate(sizes)]))


def _slice(graph: Graph, equation: Any, x: _Content) -> str:
    params, shape = equation.params, equation.invars[0].aval.shape
    starts, limits = params["start_indices"], params["limit_indices"]
    steps = params["strides"] or (1,) * len(shape)
    axes = [i for i, n in enumerate(shape) if (starts[i], limits[i], steps[i]) != (0, n, 1)]
    chosen = [[each[i] for i in axes] for each in (starts, limits, steps)]
    if not all(isinstance(number, int) for each in chosen for number in each):
        raise UnsupportedPrimitive("an unknown position")
    return graph.add("Slice", x, *map(_int64, chosen[:2]), _int64(axes), _int64(chosen[2]))


def _gather(graph: Graph, equation: Any, x: _Content, positions: _Content) -> str:
    """Converts an index or a slice with constant positions along one axis, as in `x[:, 0]`."""
    numbers, shape = equation.params["dimension_numbers"], equation.invars[0].aval.shape
    if not isinstance(positions, np.ndarray) or len(numbers.start_index_map) != 1:
        raise UnsupportedPrimitive("positions that are computed or of several axes")
    (axis,) = numbers.start_index_map
    starts, size = positions[..., 0].astype(np.int64), equation.params["slice_sizes"][axis]
    kept = [i for i in range(len(shape)) if i not in numbers.collapsed_slice_dims]
    if numbers.operand_batching_dims or any(
        equation.params["slice_sizes"][i] != shape[i] for i in kept if i != axis
    ):
        raise UnsupportedPrimitive("slices of several axes")
    if starts.size and not 0 <= starts.min() <= starts.max() <= shape[axis] - size:
        raise UnsupportedPrimitive("positions out of bounds")
    if kept == [*range(len(shape))] == [*numbers.offset_dims]:
        return graph.add("Slice", x, _int64([starts]), _int64([starts + size]), _int64([axis]))
    if [*numbers.offset_dims] != [i if i < axis else i - 1 + starts.ndim for i in kept]:
        raise UnsupportedPrimitive("another order of the axes")
    return graph.add("Gather", x, starts, axis=axis)


def _pad(graph: Graph, equation: Any, x: _Content, value: _Content) -> str:
    low, high, interior = zip(*equation.params["padding_config"], strict=True)
    if any(interior):
        raise UnsupportedPrimitive("padding between elements")
    return graph.add("Pad", x, _int64([*low, *high]), value)


def _reduce(operator: str) -> Rule:
    def build(graph: Graph, equation: Any, x: _Content) -> str:
        axes = _int64(equation.params["axes"])
        return graph.add(operator, x, axes, keepdims=0, noop_with_empty_axes=1)

    return _on_full(build)


def _dot_general(graph: Graph, equation: Any, x: _Content, y: _Content) -> str:
    (x_contracted, y_contracted), (x_batch, y_batch) = equation.params["dimension_numbers"]
    x_rank, y_rank = (len(each.aval.shape) for each in equation.invars)
    if equation.outvars[0].aval.dtype != equation.invars[0].aval.dtype:
        raise UnsupportedPrimitive("a result of another dtype")
    if (x_batch, x_contracted, y_contracted, y_rank) == ((), (x_rank - 1,), (0,), 2):
        return graph.add("MatMul", x, y)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    of_x = [next(letters) for _ in range(x_rank)]
    of_y = [next(letters) for _ in range(y_rank)]
    for i, j in zip((*x_contracted, *x_batch), (*y_contracted, *y_batch), strict=True):
        of_y[j] = of_x[i]
    of_result = [
        *(of_x[i] for i in x_batch),
        *(each for i, each in enumerate(of_x) if i not in (*x_batch, *x_contracted)),
        *(each for i, each in enumerate(of_y) if i not in (*y_batch, *y_contracted)),
    ]
    terms = "".join(of_x), "".join(of_y), "".join(of_result)
    return graph.add("Einsum", x, y, equation="{},{}->{}".format(*terms))


def _convolution(graph: Graph, equation: Any, x: _Content, kernel: _Content) -> str:
    params = equation.params
    x_axes, kernel_axes, result_axes = params["dimension_numbers"]
    if params["batch_group_count"] != 1 or any(each != 1 for each in params["lhs_dilation"]):
        raise UnsupportedPrimitive("dilated inputs or groups along the batch")
    low, high = zip(*params["padding"], strict=True)
    if min(*low, *high) < 0:
        raise UnsupportedPrimitive("negative padding")
    result = graph.add(
        "Conv",
        _transposed(graph, x, x_axes),
        _transposed(graph, kernel, kernel_axes),
        strides=params["window_strides"],
        pads=[*low, *high],
        dilations=params["rhs_dilation"],
        group=params["feature_group_count"],
    )
    return _transposed(graph, result, np.argsort(result_axes))


def _transposed(graph: Graph, x: _Content, axes: Any) -> Any:
    if isinstance(x, np.ndarray):
        return x.transpose(axes)
    return graph.add("Transpose", x, perm=[int(each) for each in axes])


def _pool(operator: str, **attributes: int) -> Rule:
    """The rule of a pooling; ONNX has means in place of sums."""

    def build(graph: Graph, equation: Any, x: _Content) -> str:
        params = equation.params
        if any(each != 1 for each in (*params["base_dilation"], *params["window_dilation"])):
            raise UnsupportedPrimitive("dilations")
        window, strides, padding = (
            params[each] for each in ("window_dimensions", "window_strides", "padding")
        )
        unchanged = [
            axis
            for axis, each in enumerate(zip(window, strides, padding, strict=True))
            if each == (1, 1, (0, 0))
        ]
        # ONNX pools along all axes after the second.
        if len(unchanged) < 2:
            raise UnsupportedPrimitive("fewer than two axes that are not pooled")
        pooled = [axis for axis in range(len(window)) if axis not in unchanged[:2]]
        axes = [*unchanged[:2], *pooled]
        low, high = zip(*(padding[axis] for axis in pooled), strict=True)
        result = graph.add(
            operator,
            _transposed(graph, x, axes),
            kernel_shape=[window[axis] for axis in pooled],
            strides=[strides[axis] for axis in pooled],
            pads=[*low, *high],
            **attributes,
        )
        if operator == "AveragePool":
            result = graph.add("Mul", result, _like(equation, math.prod(window)))
        return _transposed(graph, result, np.argsort(axes))

    return _on_full(build)


RULES: dict[str, Rule] = {
    **{name: _one_operator(operator) for name, operator in _ELEMENTWISE.items()},
    "clamp": _elementwise(lambda g, _, low, x, high: g.add("Min", g.add("Max", x, low), high)),
    "convert_element_type": _elementwise(_cast),
    "copy": _one_operator("Identity"),
    "erfc": _elementwise(lambda g, e, x: g.add("Sub", _like(e, 1), g.add("Erf", x))),
    "expm1": _elementwise(lambda g, e, x: g.add("Sub", g.add("Exp", x), _like(e, 1))),
    "integer_pow": _elementwise(_integer_pow),
    "log1p": _elementwise(lambda g, e, x: g.add("Log", g.add("Add", x, _like(e, 1)))),
    "ne": _elementwise(lambda g, _, x, y: g.add("Not", g.add("Equal", x, y))),
    "rsqrt": _elementwise(lambda g, _, x: g.add("Reciprocal", g.add("Sqrt", x))),
    "select_n": _elementwise(_select),
    "square": _elementwise(lambda g, _, x: g.add("Mul", x, x)),
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _on_full(lambda g, e, *xs: g.add("Concat", *xs, axis=e.params["dimension"])),
    "conv_general_dilated": _on_full(_convolution),
    "dot_general": _on_full(_dot_general),
    "gather": _on_full(_gather),
    "pad": _on_full(_pad),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_prod": _reduce("ReduceProd"),
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_window_max": _pool("MaxPool"),
    "reduce_window_sum": _pool("AveragePool", count_include_pad=1),
    "reshape": _on_full(_reshape),
    "slice": _on_full(_slice),
    "squeeze": _on_full(lambda g, e, x: g.add("Squeeze", x, _int64(e.params["dimensions"]))),
    "transpose": _on_full(lambda g, e, x: _transposed(g, x, e.params["permutation"])),
}
"""By name of the JAX primitive, its rule."""
