"""TFDS reads the records as they were written."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from relabel_jax.data.schema import clip_id_and_waveform, record_features, serialize_record


@given(
    clip_id=st.text(st.characters(codec="utf-8")),
    num_classes=st.integers(1, 9),
    num_samples=st.sampled_from([1, 48_000, 80_000]),
    seed=st.integers(0, 99),
)
def test_a_record_is_what_tfds_writes(clip_id, num_classes, num_samples, seed):
    rng = np.random.default_rng(seed)
    ol, pel, masked = rng.random((3, num_classes)) < 0.5
    waveform = rng.integers(-32768, 32768, num_samples, np.int16)
    waveform[rng.integers(num_samples) :] = 0
    record = {"clip_id": clip_id, "waveform": waveform, "ol": ol, "pel": pel, "masked": masked}
    serialized = serialize_record(**record)
    features = record_features(num_classes, num_samples)
    by_tfds = ExampleSerializer(features.get_serialized_info()).get_tf_example(
        features.encode_example(record)
    )
    assert serialized == by_tfds.SerializeToString(deterministic=True)
    decoded = features.deserialize_example_np(serialized)
    assert decoded.pop("clip_id") == clip_id.encode()
    for name, value in decoded.items():
        np.testing.assert_array_equal(value, record[name], strict=True)
    found_id, found = clip_id_and_waveform(serialized)
    assert found_id == clip_id.encode()
    np.testing.assert_array_equal(found, waveform, strict=True)
