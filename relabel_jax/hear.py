"""HEAR 2021's common API: `hear-validator relabel_jax.hear -m W/base`, and HEAR's evaluation kit.

HEAR's tools import this module by its name. The code is in `inference/adapters/hear.py`.

`load_model(path)` loads the workdir of a finished training or an exported folder. Then
`get_scene_embeddings(audio, model)` returns an embedding for each sound, and
`get_timestamp_embeddings(audio, model)` one every 50 ms. Needs PyTorch: pip install '.[torch]'.
"""

from relabel_jax.inference.adapters.hear import (
    HearModel,
    get_scene_embeddings,
    get_timestamp_embeddings,
    load_model,
)

__all__ = ["HearModel", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]
