"""The memory of a compiled program, as its compiler plans it."""

from typing import Any


def new_bytes(plan: Any) -> int:
    """Returns the bytes that a call needs on a device besides its arguments.

    These are results that do not take the memory of donated arguments, temporary arrays, and the
    program itself.

    Args:
      plan: the result of `Compiled.memory_analysis`.
    """
    results = plan.output_size_in_bytes - plan.alias_size_in_bytes
    return results + plan.temp_size_in_bytes + plan.generated_code_size_in_bytes
