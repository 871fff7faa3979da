"""Applies a function to many items with several processes, in their order."""

import concurrent.futures
import functools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from relabel_jax import interrupts
from relabel_jax.progress import track

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def process_map(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    num_workers: int,
    *,
    what: str,
    unit: str,
) -> Iterator[_Result]:
    """Yields the results in the order of the items, and shows the progress.

    Args:
      function: can be pickled, and is sent to the processes with every few items.
      items: the arguments.
      num_workers: the number of processes; with 1 the work is done in this one.
      what, unit: see `relabel_jax.progress.track`.

    Raises:
      BrokenExecutor: a process was killed. Errors of `function` are raised too.
    """
    progress = functools.partial(track, what=what, unit=unit, total=len(items))
    if num_workers == 1:
        yield from progress(map(function, items))
        return
    with concurrent.futures.ProcessPoolExecutor(
        num_workers, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        try:
            with interrupts.ignored():  # also in the workers, which this process ends
                results = pool.map(function, items, chunksize=8)
            yield from progress(results)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
