"""HEAR 2021's common API: `hear-validator relabel_jax.hear -m W/base`, and HEAR's evaluation kit.

HEAR's tools import this module by its name; `inference/adapters/hear.py` has the code.
"""

from relabel_jax.inference.adapters.hear import (
    HearModel,
    get_scene_embeddings,
    get_timestamp_embeddings,
    load_model,
)

__all__ = ["HearModel", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]
