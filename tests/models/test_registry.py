"""Networks by name and by module path, their options, and bad configs."""

import pathlib
import re
import textwrap

import jax
import pytest

from relabel_jax.errors import InputError
from relabel_jax.models import registry
from relabel_jax.models.logmel_cnn import LogMelCNN
from relabel_jax.models.variables import shapes
from relabel_jax.models.waveform_cnn import WaveformCNN

OWN = """
    import flax.linen as nn
    from relabel_jax.audio.waveform_format import WaveformFormat
    from relabel_jax.models.backbone import Outputs

    class Net(nn.Module):
        num_classes: int
        width: int = 3
        waveform_format = WaveformFormat(16_000, 0.5)
        embedding_size = 4

        def embed(self, waveforms, train=False): ...
        def head(self, embeddings, train=False): ...

    class NoHead(nn.Module):
        num_classes: int
        waveform_format = WaveformFormat()
        embedding_size = 4
        def embed(self, waveforms, train=False): ...

    number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The module `own_networks` of a user."""
    (tmp_path / "own_networks.py").write_text(textwrap.dedent(OWN))
    (tmp_path / "broken_networks.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)


def test_built_in_networks():
    cnn = registry.build({"name": "waveform_cnn", "features": [8] * 9}, 5)
    assert isinstance(cnn, WaveformCNN)
    assert (cnn.num_classes, cnn.features, cnn.embedding_size) == (5, (8,) * 9, 128)
    logmel = registry.build({"name": "logmel_cnn", "sample_rate_hz": 16_000}, 5)
    assert isinstance(logmel, LogMelCNN)
    assert logmel.waveform_format.num_samples == 160_000
    for name in registry.NETWORKS:
        assert registry.build({"name": name, **registry.default_options(name)}, 2) == (
            registry.build({"name": name}, 2)
        )


@pytest.mark.slow
def test_the_table_of_networks():
    """The documentation has the parameters of each network for AudioSet's 527 classes."""
    text = (pathlib.Path(__file__).parents[2] / "docs" / "training.md").read_text()
    table = dict(re.findall(r"^\| `(\w+)` \| .* \| ([\d,]+) \| [\w ,]+ \|$", text, re.MULTILINE))
    counts = {}
    for name in registry.NETWORKS:
        params = shapes(registry.build({"name": name}, 527))["params"]
        counts[name] = f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
    assert table == counts


def test_a_network_of_ones_own(own):
    assert registry.default_options("own_networks:Net") == {"width": 3}
    network = registry.build({"name": "own_networks:Net", "width": 7}, 2)
    assert (network.width, network.num_classes) == (7, 2)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "cnn15"}, "'cnn15' is none of waveform_cnn, .*, ast_base; name your own network"),
        ({"name": "cnn6", "sample_rate_hz": 44_100}, "for 8000, 16000, 32000 Hz, got 44100"),
        ({"name": "cnn14", "duration_s": 0.2}, "duration_s: 0.2 s are too short, .* needs 0.31 s"),
        ({"name": "cnn10", "formulation": "dct"}, "'dct' is none of auto, fft, matmul"),
        ({"name": "mn04", "sample_rate_hz": 8_000}, "mn04 has no such option"),
        ({"name": "ast_tiny", "num_heads": 5}, "5 heads cannot share 192 channels evenly"),
        ({"name": "nowhere:Net"}, "nowhere:Net: cannot import it: ModuleNotFoundError: No module"),
        ({"name": "own_networks:Nut"}, "cannot import it: AttributeError: .*Nut"),
        ({"name": "broken_networks:Net"}, "cannot import it: ZeroDivisionError: division by zero"),
        ({"name": "own_networks:number"}, "is not a flax.linen.Module class"),
        ({"name": "own_networks:NoHead"}, "own_networks:NoHead: lacks head"),
        ({"name": "own_networks:Net", "depth": 1}, "config.model.depth: .* no such option, it has"),
        ({"name": "waveform_cnn", "features": [1]}, "config.model.features: expected 9 numbers"),
    ],
)
def test_refused(own, model, message):
    with pytest.raises(InputError, match=message) as caught:
        registry.build(model, 2)
    assert "\n" not in str(caught.value)
