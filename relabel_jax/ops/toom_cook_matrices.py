"""The matrices of Toom-Cook correlation (Winograd's one-dimensional algorithms), exactly.

A tile is `outputs` = m neighbouring values of a stride-1 correlation with `taps` = r weights g over
n = m + r - 1 inputs d:

    y[i] = sum_j d[i + j] g[j],    i = 0 .. m - 1.

The direct sum takes m r multiplications. Toom-Cook takes n:

    y = A^T [ (G g) * (B^T d) ],    * elementwise.

Derivation: the product of two polynomials u(x) g(x), with m and r coefficients, has n coefficients.
Its values at n points determine it (the value at the "point" infinity is the leading coefficient):

    coefficients of u g = C [ (A u) * (G g) ].

A and G evaluate, C interpolates. For a fixed g this maps u by an n x m matrix. The transpose of
this matrix is the correlation above: y = A^T [ (G g) * (C^T d) ], with B^T = C^T. Interpolation at
a finite point p has the denominator N_p, the product of (p - q) over the other finite points q. It
is moved from B to G, so that the entries of B are integers and fractions of the points alone
(Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016; Winograd,
"Arithmetic complexity of computations", 1980).

Since y is linear in g, the same matrices give the gradient by g. For a cotangent e of y,

    dg = G^T [ (A e) * (B^T d) ].

All of this holds for matrices in place of numbers: g[j] becomes a matrix
[channels_in, channels_out], d[i] a row of channels, and each of the n multiplications a matrix
product.
"""

import functools
from collections.abc import Iterable
from fractions import Fraction

POINTS = (
    Fraction(0),
    Fraction(1),
    Fraction(-1),
    Fraction(2),
    Fraction(-2),
    Fraction(1, 2),
    Fraction(-1, 2),
)
"""The finite points. With infinity, n = 8. More points multiply less, but round worse."""

Matrix = tuple[tuple[Fraction, ...], ...]


@functools.cache
def matrices(outputs: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """The matrices for tiles of `outputs` values and a filter of `taps` weights.

    Args:
      outputs: m, values of a tile.
      taps: r, weights of the filter. m + r - 1 must be at most `len(POINTS) + 1` = 8.

    Returns:
      `(A, G, BT)`: Fraction[n, m], Fraction[n, r], Fraction[n, n] with
      `y = A^T [(G g) * (BT d)]`. Row i belongs to point i, the last row to infinity.

    Raises:
      ValueError: a size is below 1, or there are too few points.
    """
    n = outputs + taps - 1
    if outputs < 1 or taps < 1 or n > len(POINTS) + 1:
        raise ValueError(
            f"F({outputs}, {taps}) needs sizes of at least 1 and at most {len(POINTS) + 1} points"
        )
    points = POINTS[: n - 1]
    a, g, bt = [], [], []
    for point in points:
        others = [q for q in points if q != point]
        denominator = Fraction(1)
        for q in others:
            denominator *= point - q
        a.append(tuple(point**i for i in range(outputs)))
        g.append(tuple(point**j / denominator for j in range(taps)))
        bt.append((*_with_roots(others), Fraction(0)))
    a.append((Fraction(0),) * (outputs - 1) + (Fraction(1),))
    g.append((Fraction(0),) * (taps - 1) + (Fraction(1),))
    bt.append(_with_roots(points))
    return tuple(a), tuple(g), tuple(bt)


def _with_roots(roots: Iterable[Fraction]) -> tuple[Fraction, ...]:
    """Coefficients, lowest first, of the product of (x - root)."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        for i, coefficient in enumerate(coefficients):
            shifted[i] -= root * coefficient
        coefficients = shifted
    return tuple(coefficients)
