"""A network for tests of everything else: it compiles in a tenth of the time of the paper's."""

from ml_collections import ConfigDict

from relabel_jax.experiments.config import model_config

OPTIONS = {"hop_s": 0.1, "num_mels": 8, "features": (4, 4), "embedding_size": 6}
FLAGS = (
    "--config.model.name=logmel_cnn",
    *(f"--config.model.{name}={str(value).replace(' ', '')}" for name, value in OPTIONS.items()),
)


def use_in(config: ConfigDict) -> None:
    """Replaces the network of a config."""
    config.model = model_config("logmel_cnn")
    config.model.update(OPTIONS)
