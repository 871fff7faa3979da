"""Reads texts of XLA's programs: cycles, traffic and operations of the step, counted by hand."""
# ruff: noqa: E501

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from relabel_jax.benchmark.chips import Target
from relabel_jax.benchmark.estimates import cases, estimate
from relabel_jax.benchmark.hlo import num_bytes
from relabel_jax.benchmark.steps import Program
from relabel_jax.errors import InputError

# Two members one after another; each does as many steps as an argument says. A step has a loop of
# three turns, a fusion that reads one row of a block, and one that writes one row in place.
TPU = """\
HloModule jit_train, is_scheduled=true, entry_computation_layout={(s32[])->f32[8,128]}

%passes (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %b = f32[8,128]{1,0:T(8,128)} bitcast(%p)
}

%take_row (p0: s16[1000,80000], p1: s32[]) -> bf16[1,80000] {
  %p0 = s16[1000,80000]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %row = s16[1,80000]{1,0:T(8,128)(2,1)} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,80000}
  ROOT %c = bf16[1,80000]{1,0:T(8,128)(2,1)S(1)} convert(%row)
}

%put_row (q0: f32[8,128], q1: f32[1,128], q2: s32[]) -> f32[8,128] {
  %q0 = f32[8,128]{1,0:T(1,128)} parameter(0)
  %q1 = f32[1,128]{1,0:T(1,128)} parameter(1)
  %q2 = s32[] parameter(2)
  %nil = s32[] constant(0)
  ROOT %d = f32[8,128]{1,0:T(1,128)} dynamic-update-slice(%q0, %q1, %q2, %nil)
}

%products (r0: f32[8,128], r1: f32[8,128]) -> f32[8,128] {
  %r0 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %r1 = f32[8,128]{1,0:T(8,128)} parameter(1)
  %f = f32[8,128]{1,0:T(8,128)} fusion(%r0), kind=kLoop, calls=%passes
  %conv = f32[8,128]{1,0:T(8,128)} convolution(%f, %r1), dim_labels=bf_io->bf, feature_group_count=4
  ROOT %ar = f32[8,128]{1,0:T(8,128)} add(%conv, %r1)
}

%turn (t: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %t = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%t), index=0
  %a = f32[8,128]{1,0:T(8,128)} get-tuple-element(%t), index=1
  %n = f32[8,128]{1,0:T(8,128)} negate(%a), backend_config={"window_config":{"estimated_cycles":"100"}}
  ROOT %r = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%i, %n)
}

%three (t.1: (s32[], f32[8,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(3)
  %t.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%t.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

%step (s: (s32[], f32[8,128], s16[1000,80000], s32[])) -> (s32[], f32[8,128]) {
  %s = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, s16[1000,80000]{1,0:T(8,128)(2,1)}, /*index=3*/s32[]{:T(128)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%s), index=0
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%s), index=1
  %block = s16[1000,80000]{1,0:T(8,128)(2,1)} get-tuple-element(%s), index=2
  %gather_fusion = bf16[1,80000]{1,0:T(8,128)(2,1)S(1)} fusion(%block, %j), kind=kLoop, calls=%take_row, backend_config={"window_config":{"estimated_cycles":"50"}}
  %start = (f32[8,128]{1,0:T(8,128)}) tuple(%x)
  %w = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%start), condition=%three, body=%turn
  %y = f32[8,128]{1,0:T(8,128)} get-tuple-element(%w), index=1
  %conv_fusion = f32[8,128]{1,0:T(8,128)} fusion(%y, %x), kind=kOutput, calls=%products, metadata={op_name="jit(train)/while/body/conv"}, backend_config={"window_config":{"estimated_cycles":"700"}}
  %row.1 = f32[1,128]{1,0:T(1,128)} constant({...})
  %update = f32[8,128]{1,0:T(1,128)} fusion(%conv_fusion, %row.1, %j), kind=kLoop, calls=%put_row
  %all-reduce-start = f32[8,128]{1,0:T(8,128)} all-reduce-start(%update), to_apply=%sum
  %all-reduce-done = f32[8,128]{1,0:T(8,128)} all-reduce-done(%all-reduce-start)
  ROOT %out = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%j, %all-reduce-done)
}

%sum (u: f32[], v: f32[]) -> f32[] {
  %u = f32[] parameter(0)
  %v = f32[] parameter(1)
  ROOT %uv = f32[] add(%u, %v)
}

%more (s.1: (s32[], f32[8,128], s16[1000,80000], s32[])) -> pred[] {
  %s.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, s16[1000,80000]{1,0:T(8,128)(2,1)}, s32[]{:T(128)}) parameter(0)
  %k = s32[]{:T(128)} get-tuple-element(%s.1), index=0
  %steps = s32[]{:T(128)} get-tuple-element(%s.1), index=3
  ROOT %less.1 = pred[]{:T(512)} compare(%k, %steps), direction=LT
}

%member (m: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %m = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  ROOT %w.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%m), condition=%more, body=%step
}

ENTRY %main (a0: s32[]) -> f32[8,128] {
  %a0 = s32[]{:T(128)} parameter(0)
  %init = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%a0)
  %w.2 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%init), condition=%three, body=%member, backend_config={"known_trip_count":{"n":"2"}}
  ROOT %z = f32[8,128]{1,0:T(8,128)} get-tuple-element(%w.2), index=1
}
"""


def test_step_of_a_tpu_program():
    step = Program(TPU).step()
    # A member is not a step: its loop turns twice. The inner loop turns three times.
    assert step.cycles == 50 + 3 * 100 + 700
    parts = {part.name: part for part in step.parts}
    array, row = 8 * 128 * 4, 8 * 80000 * 2  # one row of the block is stored as 8
    assert parts["gather_fusion"].num_bytes == row + 4
    assert parts["n"].num_bytes == 3 * 2 * array
    assert parts["n"].cycles == 300
    # The operand that passes through a nested fusion is read as a whole.
    assert parts["conv_fusion"].num_bytes == 3 * array
    assert step.parts[0].name == "conv_fusion"
    assert step.parts[0].source == "jit(train)/while/body/conv"
    assert parts["update"].num_bytes == 2 * 128 * 4 + 4  # in place
    assert step.operations["all-reduce"] == 1
    assert step.grouped_convolutions == 1
    assert step.largest_write == array


def test_names_without_percent_signs():
    """As the files of --xla_dump_to have them, with the shapes of operands."""
    text = TPU.replace("fusion(%y, %x)", "fusion(f32[8,128]{1,0:T(8,128)} %y, f32[8,128] %x)")
    assert Program(text).step() == Program(TPU).step()
    assert Program(TPU.replace("%", "")).step() == Program(TPU).step()
    # Or without instructions that take an element of a tuple.
    short = TPU.replace("fusion(%y, %x)", "fusion(%w#1, %s#1)").replace(
        "(%block, %j)", "(%s#2, %j)"
    )
    assert short != TPU
    assert Program(short).step() == Program(TPU).step()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("f32[]", 4),
        ("pred[3]{0}", 3),
        ("bf16[24,26662,64]{2,0,1:T(8,128)(2,1)}", 24 * 26662 * 128 * 2),
        ("bf16[6,26662,64]{2,0,1:T(8,128)(2,1)}", 8 * 26662 * 128 * 2),
        ("f32[64]{0:T(128)S(1)}", 0),  # not in the main memory
        ("(f32[2]{0}, (u8[5]{0}, s32[]))", 8 + 5 + 4),
        ("token[]", 0),
    ],
)
def test_bytes_of_shapes(shape, expected):
    assert num_bytes(shape) == expected


def test_step_of_a_program_of_this_jax():
    """The parser reads what this machine's compiler writes: a product, eight times by a number."""

    def steps(x, weights, number):
        return jax.lax.fori_loop(0, number, lambda _, x: jnp.sin(x @ weights), x)

    x, weights = jnp.zeros((256, 128)), jnp.zeros((128, 128))
    text = jax.jit(steps).lower(x, weights, 8).compile().as_text()
    step = Program(text).step()
    least = 4 * (2 * 256 * 128 + 128 * 128)
    assert least <= step.num_bytes <= 4 * least
    assert step.cycles == 0
    assert step.operations.get("dot", 0) + step.operations.get("custom-call", 0) >= 1
    text = jax.jit(lambda x: steps(x, weights, 8)).lower(x).compile().as_text()
    with pytest.raises(ValueError, match="no loop"):
        Program(text).step()


def test_cases():
    found = cases([1, 4], precisions=["bf16"], members_by=["map", "vmap"], batch_size=24)
    assert [(case.inputs, case.members, case.members_by, case.chips) for case in found] == [
        (inputs, members, by, chips)
        for chips in (1, 4)
        for inputs, members, by in (
            ("streaming", 1, "map"),
            ("resident", 1, "map"),
            ("streaming", 4, "map"),
            ("streaming", 4, "vmap"),
            ("scores", 1, "map"),
        )
    ]
    # On 4 chips each chip has a member, or a quarter of the only member's batch.
    clips = {(case.members, case.members_by, case.chips): case.clips_a_step for case in found}
    assert clips == {
        **{(1, "map", 1): 24, (1, "map", 4): 24, (4, "map", 1): 24, (4, "vmap", 1): 96},
        **{(4, "map", 4): 96, (4, "vmap", 4): 96},
    }
    with pytest.raises(InputError, match="4 chips cannot share a batch of 6 clips"):
        cases([4], batch_size=6)


@pytest.mark.parametrize("name", ["tpu:v5e", "tpu:v9:2x2", "tpu:v5e:2", "gpu:h100:2x2", ""])
def test_targets_that_do_not_exist(name):
    with pytest.raises(InputError, match="is not a target; expected"):
        Target.parse(name)


def test_missing_library():
    if importlib.util.find_spec("jax_cuda12_plugin"):
        pytest.skip("JAX's plugin for CUDA is installed")
    message = r"gpu:h100: JAX's plugin for CUDA is not installed; run pip .*\[gpu_check\]"
    with pytest.raises(InputError, match=message):
        estimate([Target.parse("gpu:h100")], cases([1]))


def test_a_target_has_its_chips():
    target = Target.parse("tpu:v6e:2x4")
    assert target.num_chips() == 8
    assert target.environment()["TPU_ACCELERATOR_TYPE"] == "v6e-8"
    assert Target.parse("gpu:h200").num_chips() is None
    assert "141000000000" in Target.parse("gpu:h200").gpu_config()
