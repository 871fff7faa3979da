"""The model card of a network whose facts, name and licence mean harm."""

import re

import numpy as np
import pytest

from relabel_jax.errors import InputError
from relabel_jax.inference.model_card import model_card
from relabel_jax.inference.pretrained import Pretrained
from relabel_jax.models.waveform_cnn import WaveformCNN
from relabel_jax.ops.formulation import Formulation

yaml = pytest.importorskip("yaml")
HARM = [
    "a\n---\n# Injected",
    "x: [1, 2]\nlicense: mit",
    "<script>alert(1)</script>",
    "![x](http://evil.example/x.png)",
    "a | b `code` *bold* __bold__",
    "\x1b[2Jcleared",
    "\u2028---",
    "no",
    "# heading",
    "``",
]


def card(license_name="cc-by-4.0", title="my_network", **facts):
    trained = {
        "root": "Human sounds",
        "root_mid": "/m/0dgw9r",
        "side": "base",
        "labeling": "pe_cml",
        "method": "base",
        "seed": 0,
        "best_epoch": 3,
        "num_clips": {"train": 81, "validation": 9, "test": 6},
        "num_labels": 30,
        "test": {"mAP": 0.25, "mean_auc": None, "d_prime": 1.5},
    }
    network = WaveformCNN(num_classes=3, formulation=Formulation.resolve())
    variables = {"params": np.zeros(1, np.float32)}
    pretrained = Pretrained(network, variables, (), trained | facts)
    return model_card(pretrained, license_name=license_name, title=title, example_name=None)


def test_usual_names_are_as_they_were():
    text = card()
    assert "\nlicense: cc-by-4.0\n" in text
    assert "\n# my_network\n" in text
    assert "the classes outside *Human sounds* (/m/0dgw9r); 30 have" in text
    assert "- Method `base`, seed 0" in text


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize(
    "field", ["license_name", "title", "root", "root_mid", "labeling", "method"]
)
def test_no_field_is_more_than_text(field, harm):
    usual, text = card(), card(**{field: harm})
    assert text.count("\n") == usual.count("\n")
    head, body = text.removeprefix("---\n").split("\n---\n", 1)
    expected, usual_body = usual.removeprefix("---\n").split("\n---\n", 1)
    found, expected = yaml.safe_load(head), yaml.safe_load(expected)
    assert isinstance(found.pop("license"), str)
    assert isinstance(found["model-index"][0].pop("name"), str)
    del expected["license"], expected["model-index"][0]["name"]
    assert found == expected
    assert not re.search("[\x00-\x09\x0b-\x1f\u2028]", text)
    for markup in ("<script", "![x]", "](http", "**", "| b"):
        unescaped = re.sub(r"`+.*?`+", "", re.sub(r"\\.", "x", body))
        assert unescaped.count(markup) == usual_body.count(markup)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"seed": "0\n# x"}, "seed is .* expected a whole number"),
        ({"num_clips": [1]}, "num_clips.train is None, expected a whole number"),
        (
            {"test": {"mAP": "0\nx: 1", "mean_auc": 0, "d_prime": 0}},
            "test.mAP is .* a number or null",
        ),
        ({"root": None}, "root is None, expected a text"),
    ],
)
def test_facts_of_other_types(facts, message):
    with pytest.raises(InputError, match=message):
        card(**facts)
