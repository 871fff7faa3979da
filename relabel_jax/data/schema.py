"""What one record of the data set holds.

The schema is a TFDS `FeaturesDict`, so that a data set opens with
`tfds.builder_from_directory(DATA)` in any framework, without TensorFlow.
"""

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto.tf_example_generated_pb2 import Example

SAMPLE_RATE_HZ = 8_000
DURATION_S = 10
WAVEFORM_SAMPLES = SAMPLE_RATE_HZ * DURATION_S


def record_features(num_classes: int) -> tfds.features.FeaturesDict:
    """The schema of one clip over an ontology of `num_classes` classes.

    - `clip_id`: the id in the segments file.
    - `waveform`: int16[80000], mono, 8 kHz, zero-padded at the end.
    - `ol`, `pel`: bool[num_classes], the original and the parent-expanded labels.
    - `masked`: bool[num_classes], what PE-CML leaves out of the loss.
    """
    multi_hot = tfds.features.Tensor(shape=(num_classes,), dtype=np.bool_, encoding="bytes")
    return tfds.features.FeaturesDict(
        {
            "clip_id": tfds.features.Text(),
            "waveform": waveform_feature(),
            "ol": multi_hot,
            "pel": multi_hot,
            "masked": multi_hot,
        }
    )


def waveform_feature() -> tfds.features.Tensor:
    """The waveform alone. Raw bytes: seven times as fast to decode as TFDS's default encoding."""
    return tfds.features.Tensor(shape=(WAVEFORM_SAMPLES,), dtype=np.int16, encoding="bytes")


def serialize_record(
    clip_id: str, waveform: np.ndarray, ol: np.ndarray, pel: np.ndarray, masked: np.ndarray
) -> bytes:
    """One record, of the types of `record_features`.

    What `record_features(...).serialize_example` gives, but in a third of the time, as every field
    is bytes; and its fields are in one order, where TFDS leaves that to protobuf's hash table:
    other bytes in every process.
    """
    example = Example()
    for name, value in (
        ("clip_id", clip_id.encode()),
        ("waveform", waveform.tobytes()),
        ("ol", ol.tobytes()),
        ("pel", pel.tobytes()),
        ("masked", masked.tobytes()),
    ):
        example.features.feature[name].bytes_list.value.append(value)
    return example.SerializeToString(deterministic=True)
