r"""Writes a trained network in forms that other frameworks read.

  python -m relabel_jax.export --checkpoint=W/base --output_dir=OUT --format=safetensors
  python -m relabel_jax.export --checkpoint=W/base --output_dir=OUT \
      --format=huggingface,stablehlo,onnx --license=cc-by-4.0

Every form has config.json (sizes, sample rate, facts of the training) and classes.json (mid,
display_name and ontology paths of each score), and is the same function: float32[batch, 80000],
10 s of mono at 8 kHz with the full scale 1, to (embeddings float32[batch, 128], scores
float32[batch, classes]).

  safetensors  model.safetensors, which Embedder.load reads too, and example_pytorch.py
  huggingface  the same with a model card (README.md): a folder to push
  stablehlo    model.stablehlo, of jax.export; any batch; cpu, cuda and tpu
  onnx         model.onnx; any batch; needs pip install 'relabel-jax[onnx]'
"""

import importlib.resources
import json
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from relabel_jax import __version__
from relabel_jax.data.schema import SAMPLE_RATE_HZ, WAVEFORM_SAMPLES
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file, reading, write_json
from relabel_jax.inference.pretrained import (
    CLASSES_NAME,
    CONFIG_NAME,
    FORMAT,
    FORMAT_VERSION,
    WEIGHTS_NAME,
    Pretrained,
    SoundClass,
    flat_variables,
)
from relabel_jax.models.waveform_cnn import STRIDES, TAPS

FORMATS = ("safetensors", "huggingface", "stablehlo", "onnx")
STABLEHLO_NAME = "model.stablehlo"
ONNX_NAME = "model.onnx"
EXAMPLE_NAME = "example_pytorch.py"
_PLATFORMS = ("cpu", "cuda", "tpu")
_NAMES = ("embeddings", "scores")


def export(
    pretrained: Pretrained,
    output_dir: str | pathlib.Path,
    formats: Sequence[str],
    *,
    license_name: str = "other",
) -> list[str]:
    """Writes the forms and returns the names of the files.

    Args:
      pretrained: of `load_pretrained`.
      output_dir: a new or empty folder.
      formats: of `FORMATS`.
      license_name: of the weights, as Hugging Face's model cards name licences.

    Raises:
      InputError: a format is not known or its library not installed, the folder is not empty, or
        the names of the classes are not known.
    """
    for each in formats:
        if each not in FORMATS:
            raise InputError(f"--format={each}: is none of {', '.join(FORMATS)}")
    output_dir = pathlib.Path(output_dir)
    with reading(output_dir):
        exists = output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir()))
    if exists:
        raise InputError(f"{output_dir}: exists already; give an empty or a new --output_dir")
    to_onnx = _to_onnx() if "onnx" in formats else None
    if pretrained.classes is None:
        raise InputError(
            "--checkpoint: its classes are not known, for its data set has moved; give the data "
            "set's ontology.json as --ontology"
        )
    write_json(output_dir / CLASSES_NAME, [_json(each) for each in pretrained.classes])
    if {"safetensors", "huggingface"} & set(formats):
        flat = flat_variables(pretrained.variables)
        content = safetensors.numpy.save(
            {name: np.ascontiguousarray(array, np.float32) for name, array in flat.items()}
        )
        _write(output_dir / WEIGHTS_NAME, content)
        example = importlib.resources.files("relabel_jax.inference").joinpath("export_example.txt")
        _write(output_dir / EXAMPLE_NAME, example.read_bytes())
    if "stablehlo" in formats:
        _write(output_dir / STABLEHLO_NAME, stablehlo(pretrained))
    if to_onnx is not None:
        _write(output_dir / ONNX_NAME, to_onnx(pretrained))
    if "huggingface" in formats:
        card = model_card(pretrained, license_name, output_dir.resolve().name)
        _write(output_dir / "README.md", card.encode())
    write_json(output_dir / CONFIG_NAME, _config(pretrained))
    return sorted(path.name for path in output_dir.iterdir())


def network_function(pretrained: Pretrained) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """The network as a function of float32[batch, 80000] of full scale 1, weights included."""
    # Plain convolutions: the others are forms for JAX on a CPU.
    network = pretrained.network.clone(formulation="lax")

    def run(waveforms):
        # The network divides by 32768, as its waveforms are int16; a power of 2, so this is exact.
        embeddings = network.apply(pretrained.variables, waveforms * 32768, method="embed")
        return embeddings, network.apply(pretrained.variables, embeddings, method="score")

    return run


def stablehlo(pretrained: Pretrained) -> bytes:
    """A serialized `jax.export.Exported` for any batch, for CPU, CUDA and TPU."""
    waveforms = jax.ShapeDtypeStruct(
        jax.export.symbolic_shape(f"batch, {WAVEFORM_SAMPLES}"), np.float32
    )
    exported = jax.export.export(jax.jit(network_function(pretrained)), platforms=_PLATFORMS)
    return bytes(exported(waveforms).serialize())


def _to_onnx() -> Callable[[Pretrained], bytes]:
    try:
        import jax2onnx
    except ModuleNotFoundError as error:
        raise InputError(
            "--format=onnx: needs jax2onnx: pip install 'relabel-jax[onnx]'"
        ) from error

    # It warns of every shape that it has not been told.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)

    def convert(pretrained: Pretrained) -> bytes:
        model = jax2onnx.to_onnx(
            network_function(pretrained),
            inputs=[("batch", WAVEFORM_SAMPLES)],
            **{"model_name": FORMAT, "input_names": ["waveforms"], "output_names": list(_NAMES)},
        )
        return model.SerializeToString()

    return convert


def _config(pretrained: Pretrained) -> dict[str, Any]:
    network = pretrained.network
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "relabel_jax_version": __version__,
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "num_samples": WAVEFORM_SAMPLES,
        "taps": list(TAPS),
        "strides": list(STRIDES),
        "filters": list(network.filters),
        "dense_units": list(network.dense_units),
        "norm_order": network.norm_order,
        "batch_norm_epsilon": 1e-3,
        "num_classes": network.num_classes,
        "trained": pretrained.trained,
    }


def _json(each: SoundClass) -> dict[str, Any]:
    return {"mid": each.mid, "display_name": each.display_name, "paths": each.paths}


def _write(path: pathlib.Path, content: bytes) -> None:
    with complete_file(path) as temporary:
        temporary.write_bytes(content)


def model_card(pretrained: Pretrained, license_name: str, name: str) -> str:
    """A model card in Hugging Face's form: YAML between lines of dashes, then Markdown."""
    trained = pretrained.trained
    test = trained["test"]
    side = (
        f"the classes outside *{trained['root']}* ({trained['root_mid']})"
        if trained["side"] == "base"
        else f"*{trained['root']}* ({trained['root_mid']}) and its descendants"
    )
    labeling = {
        "ol": "original labels (OL): the raters' labels as they are",
        "pel": "parent-expanded labels (PEL): a label brings all of its ancestors",
        "pe_cml": "parent-expanded, children-masked labels (PE-CML): a label brings all of its "
        "ancestors, and where nothing more specific was chosen below it, its descendants are "
        "left out of loss and metric",
    }[trained["labeling"]]
    clips = trained["num_clips"]
    metrics = "\n".join(
        f"| {label} | {'undefined' if test[field] is None else format(test[field], '.4f')} |"
        for field, label in (("mAP", "mAP"), ("mean_auc", "mean AUC"), ("d_prime", "d-prime"))
    )
    index = "" if test["mAP"] is None else _model_index(name, trained)
    return f"""---
license: {license_name}
library_name: relabel_jax
pipeline_tag: audio-classification
tags:
- audio
- audio-classification
- audioset
- embeddings
- jax
{index}---

# {name}

Nine convolutions on the raw waveform (10 s of mono at 8 kHz), {pretrained.network.dense_units[-1]}
embedding values and the scores of {pretrained.network.num_classes} sound classes of AudioSet's
ontology: the network of "Automatic re-labeling of Google AudioSet for improved quality of learned
features and pre-training" (Grzywalski and Botteldooren), trained by relabel_jax {__version__}.

## Use

```python
import relabel_jax

embedder = relabel_jax.Embedder.load("PATH/TO/THIS/FOLDER")
embedder.embed([samples], rate_hz=44_100)   # float32[1, {pretrained.network.dense_units[-1]}]
embedder.scores([samples], rate_hz=44_100)  # of embedder.classes
```

Without JAX: `{EXAMPLE_NAME}` runs it in PyTorch.

## Training

- Labels: {labeling}.
- Classes: {side}; {trained["num_labels"]} have a positive in the training clips.
- Clips: {clips["train"]} training, {clips["validation"]} validation, {clips["test"]} test.
- Method `{trained["method"]}`, seed {trained["seed"]}; the epoch with the best validation mAP
  ({trained["best_epoch"]}).

| on the test clips | |
|---|---|
{metrics}

The metrics leave out what is masked. They are of these clips and labels, and not comparable with
figures on AudioSet's own evaluation set.

## Intended use

Embeddings for classifiers of one's own on sounds of up to 10 s (longer ones by windows), search in
collections of sounds, and pre-training. The scores are not calibrated probabilities.

## Limits

- Nothing above 4 kHz is heard: recordings are resampled to 8 kHz.
- AudioSet's labels are incomplete and uneven; rare classes were seldom seen. Classes outside the
  ones above are unknown to the network.
- Not for decisions about people, nor for alarms on which safety depends.

## Licence

The weights: {license_name}. AudioSet's labels are CC BY 4.0, its ontology (names and paths in
`{CLASSES_NAME}`) is CC BY-SA 4.0; the recordings have licences of their own. The code of
relabel_jax is Apache 2.0.
"""


def _model_index(name: str, trained: dict[str, Any]) -> str:
    return f"""model-index:
- name: {json.dumps(name)}
  results:
  - task:
      type: audio-classification
    dataset:
      name: {json.dumps(f"{trained['num_clips']['test']} clips with AudioSet labels")}
      type: audioset
    metrics:
    - type: mAP
      value: {trained["test"]["mAP"]}
"""
