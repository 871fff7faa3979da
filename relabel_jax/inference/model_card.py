"""Writes the model card of an exported folder in the format of Hugging Face."""

import json
from typing import Any

from relabel_jax.inference.exported import CLASSES_NAME
from relabel_jax.inference.pretrained import Pretrained, describe_network
from relabel_jax.version import __version__

_LABELINGS = {
    "ol": "original labels (OL): the raters' labels as they are",
    "pel": "parent-expanded labels (PEL): a label implies all of its ancestors",
    "pe_cml": "parent-expanded, children-masked labels (PE-CML): a label implies all of its "
    "ancestors, and where a label has no more specific label below it, its descendants are left "
    "out of loss and metric",
    "hlp": "Hierarchical Label Propagation (HLP): a label implies its nearest used ancestor, and "
    "so on upwards as long as there is exactly one",
    "entailed": "entailed labels: a label implies the ancestors that lie on every path to a root; "
    "its other ancestors, and the descendants of a label that has no more specific label below it, "
    "are left out of loss and metric",
}
_METRICS = (("mAP", "mAP"), ("mean_auc", "mean AUC"), ("d_prime", "d-prime"))


def model_card(
    pretrained: Pretrained, *, license_name: str, title: str, example_name: str | None
) -> str:
    """Returns a model card: YAML between lines of dashes, then Markdown.

    Args:
      pretrained: the network. The names of its classes must be known.
      license_name: licence of the weights, by its name in Hugging Face's model cards.
      title: name of the model.
      example_name: name of the program in the folder that runs the network in PyTorch, if any.
    """
    network, trained = pretrained.network, pretrained.trained
    waveforms = network.waveform_format
    name = describe_network(network)["name"]
    description = getattr(network, "description", f"The network `{name}`.")
    example = f"\nWithout JAX: `{example_name}` runs it in PyTorch.\n" if example_name else ""
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
{_model_index(title, trained)}---

# {title}

{description}

It takes {waveforms.duration_s:g} s of mono at {waveforms.sample_rate_hz / 1000:g} kHz and returns
{network.embedding_size} embedding values and the scores of {network.num_classes} sound classes of
AudioSet's ontology. It was trained by relabel_jax {__version__}.

## Use

```python
import relabel_jax

embedder = relabel_jax.Embedder.load("PATH/TO/THIS/FOLDER")
embedder.embed([samples], rate_hz=44_100)   # float32[1, {network.embedding_size}]
embedder.scores([samples], rate_hz=44_100)  # of embedder.classes
```
{example}
{_training_section(trained)}
## Intended use

Embeddings for your own classifiers of sounds of up to {waveforms.duration_s:g} s (longer sounds are
cut into windows), search in collections of sounds, and pre-training. The scores are not calibrated
probabilities.

## Limits

- Nothing above {waveforms.sample_rate_hz / 2000:g} kHz is heard: recordings are resampled to \
{waveforms.sample_rate_hz / 1000:g} kHz.
- AudioSet's labels are incomplete and uneven, and rare classes were seldom seen. The network knows
  no other classes than the ones above.
- Do not use it for decisions about people, or for alarms on which safety depends.

## Licence

The weights: {license_name}. AudioSet's labels are CC BY 4.0, its ontology (names and paths in
`{CLASSES_NAME}`) is CC BY-SA 4.0; the recordings have licences of their own. The code of
relabel_jax is Apache 2.0.
"""


def _training_section(trained: dict[str, Any]) -> str:
    side = (
        f"the classes outside *{trained['root']}* ({trained['root_mid']})"
        if trained["side"] == "base"
        else f"*{trained['root']}* ({trained['root_mid']}) and its descendants"
    )
    clips, test = trained["num_clips"], trained["test"]
    labeling = trained["labeling"]
    labels = _LABELINGS.get(labeling, f"the labels of a file, under the name `{labeling}`")
    metrics = "\n".join(
        f"| {label} | {'undefined' if test[field] is None else format(test[field], '.4f')} |"
        for field, label in _METRICS
    )
    return f"""## Training

- Labels: {labels}.
- Classes: {side}; {trained["num_labels"]} have a positive in the training clips.
- Clips: {clips["train"]} training, {clips["validation"]} validation, {clips["test"]} test.
- Method `{trained["method"]}`, seed {trained["seed"]}; the epoch with the best validation mAP
  ({trained["best_epoch"]}).

| on the test clips | |
|---|---|
{metrics}

The metrics leave out masked labels. They hold for these clips and labels, and cannot be compared
with figures on AudioSet's own evaluation set.
"""


def _model_index(title: str, trained: dict[str, Any]) -> str:
    """Returns the metric for Hugging Face's pages, or "" if it is undefined."""
    if trained["test"]["mAP"] is None:
        return ""
    return f"""model-index:
- name: {json.dumps(title)}
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
