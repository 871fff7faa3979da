"""Compiles the training programs for a chip that is not there, and reads the compiler's figures.

`main` runs in a child process of `estimates.py`, which sets the variables that must be set before
JAX starts. It prints a line of JSON for each program.
"""

import json
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from relabel_jax.benchmark import steps
from relabel_jax.benchmark.chips import Target
from relabel_jax.benchmark.programs import RECIPE
from relabel_jax.models import front_ends, registry
from relabel_jax.models.backbone import Backbone
from relabel_jax.models.flop import forward_flop, train_flop
from relabel_jax.models.variables import shapes, waveform_batch
from relabel_jax.models.waveform_cnn import WaveformCNN
from relabel_jax.ops import tpu_flags
from relabel_jax.ops.formulation import Formulation
from relabel_jax.train.device_grid import whole_grid
from relabel_jax.train.memory import new_bytes
from relabel_jax.train.population import Layout, predict_population, train_population
from relabel_jax.train.rows import Rows, tiled_shape
from relabel_jax.train.step import init_state


class Case(NamedTuple):
    """A program to compile.

    Attributes:
      inputs: `streaming`, `resident`, or `scores` for evaluation with streamed inputs.
      members: the runs of the population.
      members_by: `map` or `vmap`.
      chips: the number of chips, which are all used.
      precision: one of `PRECISIONS`; None for a network that has no such option. Its factors are
        rounded as JAX's default is on the chip.
      formulation: one of `FORMULATIONS`, or `auto` for the fastest on the chip.
      network: a name of `registry.NETWORKS`, with its default options.
      batch_size: clips a step and run.
      num_classes: outputs of the network.
      steps_per_call: steps that one call does.
      resident_clips: clips on each chip, if the inputs are resident.
    """

    inputs: str
    members: int
    members_by: str
    chips: int
    precision: str | None
    formulation: str = "auto"
    network: str = registry.DEFAULT
    batch_size: int = 24
    num_classes: int = 527
    steps_per_call: int = 8
    resident_clips: int = 20000

    @property
    def grid(self) -> tuple[int, int]:
        """The rows of chips, which divide the members, and the chips of a row."""
        return whole_grid(self.members, self.chips)

    @property
    def clips_a_step(self) -> int:
        """Clips that all chips train on in one turn of the loop over steps."""
        rows, _ = self.grid
        at_once = 1 if self.members_by == "map" else self.members // rows
        return rows * at_once * self.batch_size

    def built_for(self, device: Any) -> Backbone:
        """Returns the network in its fastest form on a device, or in the form that is named."""
        if self.network == registry.DEFAULT:
            assert self.precision is not None
            formulation = Formulation.resolve(self.formulation, device)
            return WaveformCNN(self.num_classes, precision=self.precision, formulation=formulation)
        model = {"name": self.network}
        if "formulation" in registry.default_options(self.network):
            model["formulation"] = front_ends.fastest_formulation(device.platform)
        return registry.build(model, self.num_classes)


def devices(target: Target, chips: int) -> np.ndarray:
    """Returns descriptions of the first chips of a target, which can be compiled for.

    Raises:
      RuntimeError: the libraries do not know the target.
    """
    if target.is_tpu:
        found = topologies.get_topology_desc(platform="tpu", topology_name=target.topology_name)
    else:
        found = topologies.get_topology_desc(
            platform="cuda", target_config=target.gpu_config(), topology=f"1x1x{chips}"
        )
    return np.array(found.devices[:chips])


def lower(target: Target, case: Case) -> jax.stages.Lowered:
    """Lowers the project's own program of this case. Needs no data and no device."""
    mesh = Mesh(devices(target, case.chips).reshape(case.grid), ("member", "data"))
    layout = Layout(mesh, case.members_by)

    def array(shape: tuple[int, ...], dtype: Any, *axes: str | None) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=layout.sharding(*axes))

    network = case.built_for(mesh.devices.flat[0])
    members, steps, batch = case.members, case.steps_per_call, case.batch_size
    samples = network.waveform_format.num_samples
    state = jax.eval_shape(lambda variables: init_state(variables, RECIPE), shapes(network))
    states = jax.tree.map(
        lambda leaf: array((members, *leaf.shape), leaf.dtype, "member"),
        state.variables if case.inputs == "scores" else state,
    )
    resident: Any = None
    inputs = array((steps, batch, samples), np.int16, None, "data")
    if case.inputs == "resident":
        row = tiled_shape((samples,), np.dtype(np.int16))
        blocks: Any = (array((case.resident_clips, *row), np.int16),)
        resident = Rows(blocks, (samples,))
        inputs = array((steps, batch), np.int32, None, "data")
    num_steps = array((), np.int32)
    if case.inputs == "scores":
        return predict_population.lower(
            network, layout, "scores", states, resident, inputs, num_steps
        )
    labels = array((members, steps, batch, case.num_classes), np.bool_, "member", None, "data")
    return train_population.lower(
        *(network, RECIPE, layout, states, resident, (inputs,)),
        *(array((members,), np.int32, "member"), labels, labels, num_steps),
        array((members,), np.uint32, "member"),
    )


def figures(target: Target, case: Case) -> dict[str, Any]:
    """Compiles one case.

    Returns:
      The case, and either `error` (the first line of the compiler's message) or the figures.
    """
    start = time.perf_counter()
    row: dict[str, Any] = {"target": target.name, **case._asdict()}
    try:
        compiled = lower(target, case).compile()
    except jax.errors.JaxRuntimeError as error:
        return row | {"error": str(error).splitlines()[0]}
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None  # the compilers of all targets tell both
    assert text is not None
    return (
        row
        | {
            "compile_s": time.perf_counter() - start,
            "argument_bytes": memory.argument_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
            "memory_bytes": memory.argument_size_in_bytes + new_bytes(memory),
        }
        | of_step(target, case, steps.Program(text).step())
    )


def of_step(target: Target, case: Case, step: steps.Step) -> dict[str, Any]:
    """The figures of one step, for one chip."""
    chip = target.chip
    network = case.built_for(devices(target, 1)[0])
    count = forward_flop if case.inputs == "scores" else train_flop
    of_clip = count(network, shapes(network), waveform_batch(network))
    flop = of_clip * case.clips_a_step // case.chips
    floors = {
        "arithmetic": flop / chip.flop_per_s[case.precision or target.default_precision],
        "memory": step.num_bytes / chip.bandwidth,
    }
    seconds = step.cycles / chip.clock_hz if step.cycles and chip.clock_hz else None
    return {
        "clips_a_step": case.clips_a_step,
        "flop_a_step": flop,
        "bytes_a_step": step.num_bytes,
        "roofline_ms": 1000 * max(floors.values()),
        "roofline_by": max(floors, key=lambda name: floors[name]),
        "all_reduces": step.operations.get("all-reduce", 0),
        "grouped_convolutions": step.grouped_convolutions,
        "largest_write_bytes": step.largest_write,
        "cycles_a_step": step.cycles or None,
        "estimated_ms": 1000 * seconds if seconds else None,
        "dearest": [part._asdict() for part in step.parts[:3]],
    }


def main() -> None:
    """Compiles the cases of argv[1], `{"target": NAME, "cases": [FIELDS, ...]}`."""
    tpu_flags.keep_small_batches()
    order = json.loads(sys.argv[1])
    target = Target.parse(order["target"])
    for case in order["cases"]:
        print(json.dumps(figures(target, Case(**case))), flush=True)
