"""Lets a build try the clips again that it rejected."""

from data_prep.listing import warn
from data_prep.plan import Plan
from relabel_jax.data.layout import INDEX_NAME
from relabel_jax.progress import write_line


def reopen_rejects(plan: Plan) -> None:
    """Makes the shards that left out clips undone, and says on stderr what happens.

    A shard is written as a whole, so its other clips are read again too. The index is deleted
    first: if the program is stopped, the data set is unfinished, and the same command without
    `--retry_rejects` finishes it.

    Args:
      plan: the plan, whose folder this process has locked.
    """
    outcomes = ((shard, plan.outcome(shard)) for shard in plan.shards)
    reopened = {shard: outcome for shard, outcome in outcomes if outcome and outcome.rejects}
    num_clips = sum(len(outcome.rejects) for outcome in reopened.values())
    if reopened:
        (plan.data_dir / INDEX_NAME).unlink(missing_ok=True)
    for shard in reopened:
        (plan.data_dir / shard.outcome_name).unlink(missing_ok=True)
        (plan.data_dir / shard.name).unlink(missing_ok=True)
    write_line(f"trying {num_clips:,} rejected clips of {len(reopened):,} shards again")
    if num_missing := plan.without_recording.num_rows:
        warn(
            f"{num_missing:,} clips had no recording when the build began, and stay rejected; if "
            "the recordings are there now, build into a new folder"
        )
