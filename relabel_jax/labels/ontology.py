"""AudioSet's ontology as boolean matrices.

The ontology is a directed acyclic graph of 632 classes below 7 roots; 38 classes have several
parents. Each relation is one boolean matrix, so that labelings, sides and audits are array algebra.

>>> ontology = Ontology.from_text('''[
...     {"id": "/m/04rlf", "name": "Music", "child_ids": ["/m/04szw", "/m/02mscn"]},
...     {"id": "/m/04szw", "name": "Musical instrument", "child_ids": ["/m/0l14qv"]},
...     {"id": "/m/02mscn", "name": "Christmas music", "child_ids": ["/m/0l14qv"]},
...     {"id": "/m/0l14qv", "name": "Jingle bell", "child_ids": []}]''')
>>> bell = ontology.find("jingle bell")  # a mid, or a name without regard to case
>>> ontology.mids[bell], ontology.display_names[ontology.index["/m/04szw"]]
('/m/0l14qv', 'Musical instrument')
>>> np.flatnonzero(ontology.ancestors(bell))
array([0, 1, 2])
>>> [ontology.display_names[root] for root in ontology.roots]
['Music']
>>> for path in ontology.paths(bell):
...     print(" > ".join(ontology.display_names[i] for i in path))
Music > Musical instrument > Jingle bell
Music > Christmas music > Jingle bell
"""

import collections
import csv
import dataclasses
import difflib
import functools
import graphlib
import pathlib
from collections.abc import Sequence

import numpy as np

from relabel_jax.errors import InputError
from relabel_jax.labels.ontology_json import children, json_text, read_nodes, read_text

# Facts of AudioSet's ontology.json alone (no descriptions, no examples), and whether AudioSet's
# segments use the class as a label. Its licence is in NOTICE.
_AUDIOSET_TABLE = pathlib.Path(__file__).with_name("audioset_ontology.csv")
_MAX_PATHS_LENGTH = 2_000_000  # AudioSet's paths have 3,000 classes in all


@dataclasses.dataclass(frozen=True, eq=False)
class Ontology:
    """A class ontology. Class `i` is row and column `i` of every matrix, in the file's order.

    Attributes:
      mids: machine ids, such as `/m/09x0r`.
      display_names: names, such as `Speech`.
      is_parent: bool[classes, classes]; `is_parent[p, c]` is True where p is a parent of c.
      is_abstract: bool[classes]; classes that only group others, which raters were never offered.
      is_blacklisted: bool[classes]; classes withheld from the raters.
      text: the JSON of the ontology, so that a data set can carry its own.

    Raises:
      InputError: a mid or name occurs twice, or the relation has a cycle or too many paths.
    """

    mids: tuple[str, ...]
    display_names: tuple[str, ...]
    is_parent: np.ndarray
    is_abstract: np.ndarray
    is_blacklisted: np.ndarray
    text: str = dataclasses.field(repr=False)

    def __post_init__(self):
        for field, values in (("id", self.mids), ("name", self.display_names)):
            for value, count in collections.Counter(values).items():
                if count > 1:
                    raise InputError(
                        f"ontology: the {field} {value!r} occurs {count} times; it must be unique"
                    )
        _ = self.is_ancestor  # raises for a cycle now, not on first use
        self._check_paths()

    @classmethod
    @functools.cache
    def audioset(cls) -> "Ontology":
        """AudioSet's ontology, from the table that comes with the package.

        Its `text` has the form of AudioSet's `ontology.json` with empty descriptions and examples.
        """
        nodes = [
            {
                "id": row["mid"],
                "name": row["display_name"],
                "description": "",
                "citation_uri": "",
                "positive_examples": [],
                "child_ids": row["child_mids"].split(),
                "restrictions": row["restrictions"].split(),
            }
            for row in _audioset_rows()
        ]
        return cls.from_text(json_text(nodes))

    @classmethod
    def read(cls, path: str | pathlib.Path | None = None) -> "Ontology":
        """The ontology of a JSON file, or AudioSet's own if no file is given.

        Raises:
          InputError: as `from_json`.
        """
        return cls.audioset() if path is None else cls.from_json(path)

    @classmethod
    def from_json(cls, path: str | pathlib.Path) -> "Ontology":
        """Reads AudioSet's `ontology.json`: a list of objects with `id`, `name`, maybe `child_ids`.

        Raises:
          InputError: the file cannot be read, has another form, or names a child that is not in it.
        """
        text = read_text(path)
        try:
            return cls.from_text(text)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    @classmethod
    def from_text(cls, text: str) -> "Ontology":
        """Reads the ontology from JSON text.

        Raises:
          InputError: as `from_json`.
        """
        nodes = read_nodes(text)
        mids = tuple(node["id"] for node in nodes)
        index = {mid: i for i, mid in enumerate(mids)}
        is_parent = np.zeros((len(mids), len(mids)), bool)
        for parent, node in enumerate(nodes):
            for child_mid in children(node):
                if not isinstance(child_mid, str) or child_mid not in index:
                    raise InputError(
                        f"ontology: {node['id']} ({node['name']}) has the child {child_mid!r}, "
                        "which is not in the file"
                    )
                is_parent[parent, index[child_mid]] = True
        restrictions = [node.get("restrictions") or [] for node in nodes]
        return cls(
            mids=mids,
            display_names=tuple(node["name"] for node in nodes),
            is_parent=is_parent,
            is_abstract=np.array(["abstract" in r for r in restrictions]),
            is_blacklisted=np.array(["blacklist" in r for r in restrictions]),
            text=text,
        )

    def _check_paths(self) -> None:
        """Raises InputError if the paths, which may double at each level, do not fit in memory."""
        counts, lengths = [0] * len(self), [0] * len(self)
        for child in self.parents_first:
            parents = np.flatnonzero(self.is_parent[:, child]).tolist()
            counts[child] = sum(counts[parent] for parent in parents) or 1
            lengths[child] = sum(lengths[parent] for parent in parents) + counts[child]
        if sum(lengths) > _MAX_PATHS_LENGTH:
            worst = int(np.argmax(np.array(counts, object)))
            number = f"{counts[worst]:,}" if counts[worst] < 10**12 else "over 10^12"
            raise InputError(
                "ontology: the paths from the roots to all classes do not fit into memory; "
                f"{self.mids[worst]} alone has {number}; leave out parents"
            )

    def __len__(self) -> int:
        return len(self.mids)

    @functools.cached_property
    def index(self) -> dict[str, int]:
        """The class numbers by mid."""
        return {mid: i for i, mid in enumerate(self.mids)}

    @functools.cached_property
    def is_ancestor(self) -> np.ndarray:
        """bool[classes, classes]; `is_ancestor[a, c]` is True if a is above c.

        The relation is strict: no class is its own ancestor.
        """
        closure = self.is_parent.copy()
        for parent in reversed(self.parents_first):
            closure[parent] |= closure[self.is_parent[parent]].any(axis=0)
        return closure

    @functools.cached_property
    def is_entailed_ancestor(self) -> np.ndarray:
        """bool[classes, classes]; True at [a, c] if every path from c up to a root contains a.

        The relation is strict. In the terms of graph theory, a is a dominator of c. A class that
        has two parents in two branches without a common root has none.
        """
        dominates = np.zeros_like(self.is_parent)
        for child in self.parents_first:
            parents = np.flatnonzero(self.is_parent[:, child])
            if len(parents):
                with_parents = dominates[:, parents]
                with_parents[parents, np.arange(len(parents))] = True
                dominates[:, child] = with_parents.all(axis=1)
        return dominates

    @functools.cached_property
    def is_hlp_ancestor(self) -> np.ndarray:
        """bool[classes, classes]; True at [a, c] if Hierarchical Label Propagation adds a to c.

        From a class upwards the rule goes to the nearest used ancestors, through unused classes,
        as long as there is exactly one; it stops where there are several. AudioSet's 527 used
        classes have 731 such pairs, which are those of the table that arXiv 2503.21826 publishes.
        """
        adds = np.zeros_like(self.is_parent)
        nearest = np.zeros_like(self.is_parent)  # the nearest used ancestors of each class
        for child in self.parents_first:
            parents = self.is_parent[:, child]
            nearest[:, child] = nearest[:, parents & ~self.is_used].any(axis=1)
            nearest[:, child] |= parents & self.is_used
            if nearest[:, child].sum() == 1:
                (above,) = np.flatnonzero(nearest[:, child])
                adds[:, child] = adds[:, above]
                adds[above, child] = True
        return adds

    @functools.cached_property
    def is_used(self) -> np.ndarray:
        """bool[classes]; the classes that raters use as labels.

        Of AudioSet's classes, these are the 527 that are labels of its segments. Any other class is
        used unless it is abstract or blacklisted.
        """
        in_audioset = {row["mid"]: row["used"] == "yes" for row in _audioset_rows()}
        default = ~(self.is_abstract | self.is_blacklisted)
        return np.array([in_audioset.get(mid, default[i]) for i, mid in enumerate(self.mids)], bool)

    @functools.cached_property
    def parents_first(self) -> tuple[int, ...]:
        """The class numbers in an order in which every class comes after all of its parents."""
        parents = {i: np.flatnonzero(column).tolist() for i, column in enumerate(self.is_parent.T)}
        try:
            return tuple(graphlib.TopologicalSorter(parents).static_order())
        except graphlib.CycleError as error:
            cycle = [self.mids[i] for i in sorted(set(error.args[1]))]
            raise InputError(
                f"ontology: child_ids form a cycle through {', '.join(cycle[:5])}; "
                "expected an acyclic graph"
            ) from error

    @functools.cached_property
    def roots(self) -> tuple[int, ...]:
        """The class numbers of the classes without a parent."""
        return tuple(np.flatnonzero(~self.is_parent.any(axis=0)).tolist())

    def find(self, name_or_mid: str) -> int:
        """The number of the class with this mid or display name; names in any case.

        Raises:
          InputError: there is no such class; the message proposes similar names.
        """
        if name_or_mid in self.index:
            return self.index[name_or_mid]
        folded = name_or_mid.casefold()
        matches = [i for i, name in enumerate(self.display_names) if name.casefold() == folded]
        exact = [i for i in matches if self.display_names[i] == name_or_mid]
        if len(exact or matches) == 1:
            return (exact or matches)[0]
        near = difflib.get_close_matches(name_or_mid, self.display_names, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise InputError(
            f"the ontology has no class {name_or_mid!r}; give a mid or a display name{hint}"
        )

    def restricted_to(self, mids: Sequence[str]) -> "Ontology":
        """The ontology of these classes, in this order, and of the relations between them.

        Raises:
          KeyError: a mid that is not in the ontology.
        """
        nodes = read_nodes(self.text)
        kept = [nodes[self.index[mid]] for mid in mids]
        return Ontology.from_text(
            json_text(
                node | {"child_ids": [child for child in children(node) if child in mids]}
                for node in kept
            )
        )

    def descendants(self, of: int) -> np.ndarray:
        """bool[classes]: the strict descendants of class number `of`."""
        return self.is_ancestor[of]

    def ancestors(self, of: int) -> np.ndarray:
        """bool[classes]: the strict ancestors of class number `of`."""
        return self.is_ancestor[:, of]

    @functools.cached_property
    def ancestor_sets(self) -> tuple[frozenset[int], ...]:
        """The strict ancestors of every class, as sets of class numbers."""
        return tuple(frozenset(np.flatnonzero(column).tolist()) for column in self.is_ancestor.T)

    @functools.cached_property
    def descendant_sets(self) -> tuple[frozenset[int], ...]:
        """The strict descendants of every class, as sets of class numbers."""
        return tuple(frozenset(np.flatnonzero(row).tolist()) for row in self.is_ancestor)

    def paths(self, to: int) -> list[tuple[int, ...]]:
        """All paths from a root to class number `to`, as class numbers with both ends included."""
        paths: list[tuple[int, ...]] = []
        upwards: list[tuple[int, ...]] = [
            (to,)
        ]  # paths from a class that may have parents, the last one first
        while upwards:
            path = upwards.pop()
            parents = np.flatnonzero(self.is_parent[:, path[0]]).tolist()
            if not parents:
                paths.append(path)
            upwards += [(parent, *path) for parent in reversed(parents)]
        return paths


@functools.cache
def _audioset_rows() -> list[dict[str, str]]:
    with open(_AUDIOSET_TABLE, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
