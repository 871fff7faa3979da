"""Writes the model card of an exported folder in the format of Hugging Face."""

import json
import re
from typing import Any

from relabel_jax.errors import InputError
from relabel_jax.inference.exported import CLASSES_NAME
from relabel_jax.inference.pretrained import Pretrained, describe_network
from relabel_jax.labels.views import SPLITS
from relabel_jax.runs.schema import PUBLISHED
from relabel_jax.terminal import printable
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
# Characters that Markdown or HTML would take for markup within a line. Underscores within words are
# text.
_MARKUP = re.compile(r"[\\`*\[\]<>&|#$~]|(?<![^\W_])_|_(?![^\W_])")
# Texts that YAML reads as they are, without quotes.
_PLAIN_YAML = re.compile(r"(?!(?:true|false|null|yes|no|on|off|y|n)$)[a-z][\w.-]*", re.ASCII | re.I)
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

    Raises:
      InputError: a fact of the training is not of its type, as in a folder that others wrote.
    """
    network, trained = pretrained.network, pretrained.trained
    _check_facts(trained)
    licence = _text(license_name)
    waveforms = network.waveform_format
    name = describe_network(network)["name"]
    description = getattr(network, "description", f"The network {_code(name)}.")
    example = f"\nWithout JAX: `{example_name}` runs it in PyTorch.\n" if example_name else ""
    return f"""---
license: {_yaml(license_name)}
library_name: relabel_jax
pipeline_tag: audio-classification
tags:
- audio
- audio-classification
- audioset
- embeddings
- jax
{_model_index(title, trained)}---

# {_text(title)}

{description}

It takes {waveforms.duration_s:g} s of mono at {waveforms.sample_rate_hz / 1000:g} kHz and returns
{network.embedding_size} embedding values and the scores of {network.num_classes} sound classes of
AudioSet's ontology. {_origin(trained)}

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

The weights: {licence}. AudioSet's labels are CC BY 4.0, its ontology (names and paths in
`{CLASSES_NAME}`) is CC BY-SA 4.0; the recordings have licences of their own. The code of
relabel_jax is Apache 2.0.
"""


def _check_facts(trained: dict[str, Any]) -> None:
    """Raises InputError if a fact of the training is not of its type."""
    counts = trained["num_clips"] if isinstance(trained["num_clips"], dict) else {}
    test = trained["test"] if isinstance(trained["test"], dict) else {}
    numbers = {f"num_clips.{split}": counts.get(split) for split in SPLITS}
    numbers |= {name: trained[name] for name in ("num_labels", "seed", "best_epoch")}
    texts = {name: trained[name] for name in ("root", "root_mid", "side", "labeling", "method")}
    metrics = {f"test.{field}": test.get(field, "") for field, _ in _METRICS}
    for facts, kinds, what in (
        (numbers, (int,), "a whole number"),
        (texts, (str,), "a text"),
        (metrics, (int, float, type(None)), "a number or null"),
    ):
        for name, value in facts.items():
            if type(value) not in kinds:
                raise InputError(f"the facts of the training: {name} is {value!r}, expected {what}")


def _text(text: str) -> str:
    """The text on one line of Markdown, where none of it is markup."""
    return _MARKUP.sub(r"\\\g<0>", _one_line(text))


def _code(text: str) -> str:
    """The text as code in Markdown, between more backticks than it has in a row."""
    text = _one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _yaml(text: str) -> str:
    """The text as a value of YAML, in quotes where YAML would read something else."""
    return text if _PLAIN_YAML.fullmatch(text) else json.dumps(_one_line(text))


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())


def _origin(trained: dict[str, Any]) -> str:
    if trained["method"] == PUBLISHED:
        return f"Its weights were published by others and imported by\nrelabel_jax {__version__}."
    return f"It was trained by relabel_jax {__version__}."


def _training_section(trained: dict[str, Any]) -> str:
    if trained["method"] == PUBLISHED:
        return f"""## Training

By the authors of the network, as their paper describes.
{_metrics_section(trained["test"]) if trained["num_clips"]["test"] else ""}"""
    root = f"*{_text(trained['root'])}* ({_text(trained['root_mid'])})"
    is_base = trained["side"] == "base"
    side = f"the classes outside {root}" if is_base else f"{root} and its descendants"
    clips, labeling = trained["num_clips"], trained["labeling"]
    labels = _LABELINGS.get(labeling, f"the labels of a file, under the name {_code(labeling)}")
    return f"""## Training

- Labels: {labels}.
- Classes: {side}; {trained["num_labels"]} have a positive in the training clips.
- Clips: {clips["train"]} training, {clips["validation"]} validation, {clips["test"]} test.
- Method {_code(trained["method"])}, seed {trained["seed"]}; the epoch with the best validation mAP
  ({trained["best_epoch"]}).
{_metrics_section(trained["test"])}"""


def _metrics_section(test: dict[str, Any]) -> str:
    metrics = "\n".join(
        f"| {label} | {'undefined' if test[field] is None else format(test[field], '.4f')} |"
        for field, label in _METRICS
    )
    return f"""
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
