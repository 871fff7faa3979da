"""Compares 2-D convolutions of published networks on a CPU: XLA's, the package's, and PyTorch's.

It prints CPU milliseconds of all threads, the least of three rounds, for the outputs and the two
gradients. The forms take turns. Those of JAX run in a loop, as they do in a training program.
Without PyTorch its columns are left out.
"""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from relabel_jax.ops.depthwise import depthwise
from relabel_jax.ops.same_convolution import convolve

# name -> kernel size, height, width, channels, features (0: depthwise), batch
LAYERS = {
    "cnn6, block 1": (5, 1000, 64, 1, 64, 1),
    "cnn6, block 3": (5, 250, 16, 128, 256, 1),
    "cnn6, block 4": (5, 125, 8, 256, 512, 1),
    "cnn14, block 4": (3, 125, 8, 256, 512, 1),
    "cnn14, block 5": (3, 62, 4, 512, 1024, 1),
    "mn04, 5 x 5": (5, 16, 125, 48, 0, 4),
    "mn04, 3 x 3": (3, 8, 63, 80, 0, 4),
    "mn04, 1 x 1": (1, 16, 125, 24, 48, 4),
}
LOOP = 2  # steps of the loop
PARTS = ("outputs", "gradient of inputs", "gradient of kernel")


def of_jax(x: np.ndarray, kernel: np.ndarray, is_own: bool) -> Iterator[Callable[[], object]]:
    """The three parts as compiled programs."""
    groups = x.shape[-1] // kernel.shape[2]

    def xla(x, kernel):
        margins = [(kernel.shape[0] // 2,) * 2] * 2
        names = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), margins, dimension_numbers=names, feature_group_count=groups
        )

    def own(x, kernel):
        return depthwise(x, kernel, 1) if groups > 1 else convolve(x, kernel, (1, 1), None)

    form = own if is_own else xla
    x, kernel = jax.device_put((x, kernel))
    gradient = jax.jit(form)(x, kernel)
    yield in_loop(form, x, kernel)
    yield in_loop(lambda x, k, g: jax.vjp(lambda x: form(x, k), x)[1](g)[0], x, kernel, gradient)
    yield in_loop(lambda x, k, g: jax.vjp(lambda k: form(x, k), k)[1](g)[0], x, kernel, gradient)


def in_loop(function: Callable[..., jax.Array], *arrays: jax.Array) -> Callable[[], object]:
    """A program that sums up a function over `LOOP` steps, each with its own copy of the arrays."""

    @jax.jit
    def program(copies):
        start = jnp.zeros_like(jax.eval_shape(function, *arrays))
        return jax.lax.scan(lambda sum, each: (sum + function(*each), None), start, copies)[0]

    copies = [jnp.stack([array] * LOOP) for array in arrays]
    return lambda: jax.block_until_ready(program(copies))


def of_torch(x: np.ndarray, kernel: np.ndarray) -> Iterator[Callable[[], object]]:
    """The three parts in channels_last."""
    import torch

    groups, size = x.shape[-1] // kernel.shape[2], kernel.shape[0]
    x = torch.from_numpy(x).permute(0, 3, 1, 2)
    last = torch.from_numpy(kernel).permute(3, 2, 0, 1)
    kernel = last.contiguous(memory_format=torch.channels_last)
    gradient = torch.nn.functional.conv2d(x, kernel, padding=size // 2, groups=groups)
    yield lambda: torch.nn.functional.conv2d(x, kernel, padding=size // 2, groups=groups)
    options = ([1, 1], [size // 2] * 2, [1, 1], False, [0, 0], groups)
    for mask in ([True, False, False], [False, True, False]):
        yield lambda mask=mask: torch.ops.aten.convolution_backward(
            gradient, x, kernel, None, *options, mask
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", nargs="+", choices=list(LAYERS), default=list(LAYERS))
    args = parser.parse_args()
    for name in args.layers:
        size, height, width, channels, features, batch = LAYERS[name]
        rng = np.random.default_rng(0)
        x = rng.normal(size=(batch, height, width, channels)).astype(np.float32)
        shape = (size, size, channels, features) if features else (size, size, 1, channels)
        kernel = rng.normal(size=shape).astype(np.float32)
        forms = {
            "XLA": list(of_jax(x, kernel, False)),
            "relabel_jax": list(of_jax(x, kernel, True)),
        }
        with contextlib.suppress(ModuleNotFoundError):
            forms["torch"] = list(of_torch(x, kernel))
        for number, part in enumerate(PARTS):
            seconds: dict[str, list[float]] = {form: [] for form in forms}
            for each in range(4):
                for form, parts in forms.items():
                    start = time.process_time()
                    parts[number]()
                    if each:  # the first call compiles
                        steps = 1 if form == "torch" else LOOP
                        seconds[form].append((time.process_time() - start) / steps)
            cells = "  ".join(f"{form} {1000 * min(each):6.1f}" for form, each in seconds.items())
            print(f"{name:15} {part:19} {cells}", flush=True)


if __name__ == "__main__":
    main()
