"""Reads the texts of labels: mids, display names or class numbers, however they are separated."""

import ast
import collections
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from relabel_jax.errors import InputError
from relabel_jax.labels.ontology import Ontology

# Mids and class numbers have no blanks, so that blanks may separate them.
_MIDS_OR_NUMBERS = re.compile(r"(?:/\w+/\w+|[0-9]+)(?:[\s,;|]+(?:/\w+/\w+|[0-9]+))*")


def parse_label_sets(
    texts: pa.Array,
    ontology: Ontology,
    source: object,
    class_mids: Sequence[str] | None = None,
) -> tuple[sparse.csr_array, dict[str, np.ndarray]]:
    """Parses texts of labels.

    Args:
      texts: string array [sets], each `mid,mid,...`; an empty text has no labels. Display names and
        class numbers are also read, and the separators `;`, `|` and blanks.
      ontology: the ontology with the mids.
      source: the file of the texts, for messages.
      class_mids: the mids of the class numbers.

    Returns:
      bool[sets, classes] with sorted indices, and by unknown label the rows of the sets that have
      it.

    Raises:
      InputError: a label is a class number, but there are no `class_mids`; or a text of display
        names has two meanings.
    """
    sets, unknown = _parse_mids(texts, ontology)
    if not unknown:
        return sets, unknown
    reader = _Reader(ontology, class_mids)
    plain = texts.to_pylist()
    try:
        for row in np.unique(np.concatenate(list(unknown.values()))).tolist():
            plain[row] = ",".join(reader.labels(plain[row]))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    return _parse_mids(pa.array(plain, pa.string()), ontology)


def _parse_mids(
    texts: pa.Array, ontology: Ontology
) -> tuple[sparse.csr_array, dict[str, np.ndarray]]:
    """Parses texts `mid,mid,...` as `parse_label_sets` does, without any other form."""
    mids = pc.split_pattern(texts, ",")
    used = mids.flatten().dictionary_encode()
    classes = [ontology.index.get(mid, -1) for mid in used.dictionary.to_pylist()]
    columns = np.array(classes, np.int32)[np.asarray(used.indices)]
    rows = np.repeat(np.arange(len(texts), dtype=np.int32), np.diff(np.asarray(mids.offsets)))
    known = columns >= 0
    sets = sparse.csr_array(
        (np.ones(known.sum(), bool), (rows[known], columns[known])), (len(texts), len(ontology))
    )
    sets.sum_duplicates()  # the same label twice in a row is one label
    is_unknown = (columns < 0) & (np.asarray(pc.binary_length(texts))[rows] > 0)
    numbers = np.asarray(used.indices)
    unknown = {
        mid: np.unique(rows[is_unknown & (numbers == number)])
        for number, mid in enumerate(used.dictionary.to_pylist())
        if classes[number] < 0
    }
    return sets, {mid: of_mid for mid, of_mid in unknown.items() if len(of_mid)}


class _Reader:
    """Finds the labels of texts that are not mids with commas alone."""

    def __init__(self, ontology: Ontology, class_mids: Sequence[str] | None):
        self._class_mids = class_mids
        named = list(zip(ontology.display_names, ontology.mids, strict=True))
        counts = collections.Counter(_folded(name) for name, _ in named)
        folded = {_folded(name): mid for name, mid in named}
        self._mids = {name: mid for name, mid in folded.items() if counts[name] == 1}
        self._mids |= dict(named) | {mid: mid for mid in ontology.mids}

    def labels(self, text: str) -> list[str]:
        """The mids of a text. Labels that are not in the ontology stay as they are."""
        text = text.strip()
        if text.startswith("[") and text.endswith("]"):
            return [label for each in _list(text) for label in self.labels(each)]
        if _MIDS_OR_NUMBERS.fullmatch(text):
            return [self._mid(label) for label in re.split(r"[\s,;|]+", text)]
        parts = [part.strip() for part in re.split(r"[;|]", text) if part.strip()]
        if len(parts) > 1:
            return [label for part in parts for label in self.labels(part)]
        names = [part.strip() for part in text.split(",")]
        ways = self._ways(names)
        if len(ways) > 1:
            raise InputError(
                f"the labels {text!r} may mean {' or '.join(map(str, ways[:2]))}; separate them by "
                "semicolons, or write mids"
            )
        return ways[0] if ways else [self._mid(name) for name in names]

    def _ways(self, parts: Sequence[str]) -> list[list[str]]:
        """The ways to join parts to labels, because display names may contain commas."""
        ways: list[list[list[str]]] = [[[]]]  # by the number of parts
        for end in range(1, len(parts) + 1):
            found = [
                [*way, mid]
                for begin in range(end)
                if (mid := self._find(", ".join(parts[begin:end]))) is not None
                for way in ways[begin]
            ]
            ways.append(found[:2])
        return ways[-1]

    def _mid(self, label: str) -> str:
        """The mid of a label that is a mid, a name or a class number; else the label itself."""
        if (mid := self._find(label)) is not None or not label.isdecimal():
            return mid or label
        if self._class_mids is None:
            raise InputError(
                f"the label {label!r} is a class number; expected mids or display names. The "
                "command build reads class numbers with --class_indices=class_labels_indices.csv"
            )
        if int(label) >= len(self._class_mids):
            raise InputError(
                f"the label {label!r} is not a class number of the {len(self._class_mids)} in "
                "--class_indices"
            )
        return self._class_mids[int(label)]

    def _find(self, label: str) -> str | None:
        """The mid of a label that is a mid or a name."""
        return self._mids.get(label) or self._mids.get(_folded(label))


def _folded(label: str) -> str:
    """A display name without capital letters and without blanks after commas."""
    return re.sub(r",\s+", ",", label).casefold()


def _list(text: str) -> list[str]:
    """The texts of a list as Python or JSON writes it; the whole text if it is none."""
    try:
        labels = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return [text.strip("[]")]
    return [str(label) for label in labels]
