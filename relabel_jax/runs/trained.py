"""Reads the weights of a finished run: those of its best epoch."""

from relabel_jax.errors import InputError
from relabel_jax.models import variables as network_variables
from relabel_jax.models.backbone import Backbone
from relabel_jax.models.variables import Variables
from relabel_jax.runs.checkpoints import Checkpoints
from relabel_jax.runs.schema import RunResult
from relabel_jax.runs.workdir import Workdir


def read_trained_variables(
    workdir: Workdir, result: RunResult, network: Backbone, where: str
) -> Variables:
    """Reads the variables after the best epoch of a finished run, on the host.

    Args:
      workdir: the run folder.
      result: the result of the run.
      network: the network of the variables. If its `num_classes` is 0, any number of classes fits.
      where: the name of the run in error messages.

    Raises:
      InputError: the checkpoint is damaged, is not the one that was tested, or has another network.
    """
    epoch = result.best_epoch
    with Checkpoints(workdir, read_only=True) as checkpoints:
        state = checkpoints.restore_arrays(epoch, workdir.tested_state(epoch))
    variables = network_variables.trained(state)
    if not network.num_classes:
        network = network.clone(num_classes=network_variables.num_outputs(network, variables))
    if not network_variables.same_shapes(network, variables):
        raise InputError(
            f"{where}: its checkpoint does not fit the network of its config over "
            f"{network.num_classes} classes; it was trained with another ontology or is damaged"
        )
    return variables
