"""Puts the members of an archive together to samples: a recording with its `KEY.json` or `KEY.cls`.

A member `KEY.EXT` belongs to the sample `KEY`, which may have folders. The second `KEY.EXT` of an
archive begins another sample, as in archives that were joined, and so does a later member of a
sample that is complete. `KEY.audio.flac` and
`KEY.labels.json` belong together if no other recording claims the labels.

The id of a clip is in `KEY.json`, if anywhere: `video_id`, `ytid`, `youtube_id`, `clip_id` or `id`.
Otherwise it is the last part of `KEY`. The plain `id` counts only if it is a string and does not
replace a YouTube id by something else.

The labels in `KEY.json` are a list, or the first of the fields `labels`, `label`, `label_id` and
`label_ids` of an object, or `class_labels`, `class_label` and `class_names` of its `original_data`.
Each label is a mid, a display name or a class number. One string may hold several mids, separated
by commas or semicolons. A vector with a value for each class, or an object that maps names to
values, is good too. `KEY.cls` holds one label.
"""

import collections
import dataclasses
import json
import mimetypes
import os
import posixpath
import re
from collections.abc import Iterator
from typing import Any

from data_prep.sources import Entry, Labels, Recording
from relabel_jax.audio.places import EXTENSIONS
from relabel_jax.errors import Rejected

MAX_SIDECAR_BYTES = 1 << 20
_SIDECARS = (".json", ".cls")
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip", ".7z", ".rar", ".parquet", ".h5", ".hdf5", ".hdf")
_MIDS = re.compile(r"(/[mgt]/\w+)(\s*[,;]\s*/[mgt]/\w+)*")
_IDS = ("video_id", "ytid", "youtube_id", "clip_id")
_LABELS = ("labels", "label", "label_id", "label_ids")
_ORIGINAL_LABELS = ("class_labels", "class_label", "class_names")
_YOUTUBE_ID = re.compile(r"Y?[\w-]{11}([_-][\d.]+){0,2}")  # may have times
_RUNNING = re.compile(r"\D*\d{3,}")  # numbered: 000017, sample_000017
_FIELD = re.compile(r"(.+)\.[A-Za-z]\w*")  # KEY.audio, KEY.labels
# Only Python's own table: those of the system differ between machines.
_TYPES = mimetypes.MimeTypes()


@dataclasses.dataclass(frozen=True)
class Sidecar:
    """The content of the file beside a recording: its labels, and the id of its clip or ""."""

    labels: Labels | Rejected = ()
    clip_id: str = ""


@dataclasses.dataclass(eq=False)
class _Sample:
    key: str
    members: set[str] = dataclasses.field(default_factory=set)  # extensions
    recording: Recording | None = None
    sidecar: Sidecar | None = None


class Samples:
    """The samples of an archive, in the order of their recordings."""

    def __init__(self, path: str):
        self._path = path
        self._samples: list[_Sample] = []
        self._latest: dict[str, _Sample] = {}  # by key
        self._last_key = ""
        self._archives: list[str] = []

    def __len__(self) -> int:
        """The number of recordings."""
        return sum(sample.recording is not None for sample in self._samples)

    def add(self, name: str, place: str) -> "_Sample | None":
        """Adds a member.

        Args:
          name: its name in the archive, which may have surrogate escapes.
          place: finds the member in the archive again, for `Recording.member`.

        Returns:
          The sample if it needs the content of this member, see `set_sidecar`; else None.
        """
        key, extension = os.path.splitext(name)
        extension = extension.lower()
        base = posixpath.basename(key)
        if not base or base.startswith("._"):  # macOS writes ._NAME beside NAME
            return None
        if name.lower().endswith(_ARCHIVES):
            self._archives.append(text(name))
            return None
        is_sidecar = extension in _SIDECARS
        if not is_sidecar and not _is_recording(extension):
            return None
        sample = self._latest.get(key)
        if (
            sample is None
            or extension in sample.members
            or (key != self._last_key and sample.recording and sample.sidecar)
        ):
            sample = self._latest[key] = _Sample(key)
            self._samples.append(sample)
        self._last_key = key
        sample.members.add(extension)
        if is_sidecar:
            return sample if sample.sidecar is None else None
        if sample.recording is None:  # the first format if there are several
            sample.recording = Recording(self._path, f"{place}:{text(name)}")
        return None

    def set_sidecar(self, sample: "_Sample", content: bytes | None, name: str) -> None:
        """Reads the file beside a recording; `content` is None if it is too long."""
        where = f"{self._path}: {text(name)}"
        if content is None:
            sample.sidecar = Sidecar(Rejected("bad_labels", f"{where} is too long"))
        else:
            sample.sidecar = _read_sidecar(content, name.lower().endswith(".json"), where)

    def entries(self) -> Iterator[Entry]:
        """Yields the recordings, and one entry for the archives inside this one."""
        fields = self._sidecars_of_fields()
        used = {sample.key for sample in self._samples if sample.recording is not None}
        names = collections.Counter(map(posixpath.basename, used))
        for sample in self._samples:
            if sample.recording is None:
                continue
            key, sidecar = fields.get(sample, (sample.key, sample.sidecar))
            sidecar = sidecar or Sidecar()
            name = text(posixpath.basename(key))
            clip_id = _clip_id(name, sidecar.clip_id)
            if clip_id == sidecar.clip_id or _is_youtube_id(name):
                yield Entry(clip_id, clip_id, sample.recording, sidecar.labels)
                continue
            # Keys in different folders are different clips, so their last part is not a name.
            is_unique = names[posixpath.basename(sample.key)] == 1
            full_key = text(key)
            yield Entry(
                name if is_unique else full_key,
                name,
                sample.recording,
                sidecar.labels,
                key=full_key,
            )
        if self._archives:
            what = "archive" if len(self._archives) == 1 else "archives"
            yield Entry(
                "",
                "",
                Rejected(
                    "nested",
                    f"{self._path}: holds {len(self._archives)} {what} ({self._archives[0]}), "
                    "which cannot be read in place: unpack this file",
                ),
            )

    def _sidecars_of_fields(self) -> dict[_Sample, tuple[str, Sidecar]]:
        """Returns the common key and the sidecar of recordings like `KEY.audio.flac`."""
        alone: dict[str, list[_Sample]] = {}
        claims: dict[str, list[_Sample]] = {}
        for sample in self._samples:
            found = _FIELD.fullmatch(sample.key)
            keys = {sample.key, found.group(1)} if found else {sample.key}
            if sample.recording is not None and sample.sidecar is not None:
                continue
            for key in keys:
                (claims if sample.recording is not None else alone).setdefault(key, []).append(
                    sample
                )
        return {
            claims[key][0]: (key, found[0].sidecar)
            for key, found in alone.items()
            if len(found) == 1 and len(claims.get(key, ())) == 1 and found[0].sidecar is not None
        }


def text(name: str) -> str:
    """Returns a member's name as UTF-8, with escapes if the name is not UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def split_labels(label: str) -> list[str]:
    """Splits a string with one label or several mids."""
    return re.split(r"\s*[,;]\s*", label) if _MIDS.fullmatch(label) else [label]


def _is_recording(extension: str) -> bool:
    kind = _TYPES.types_map[1].get(extension, "")
    return extension in EXTENSIONS or kind.startswith(("audio/", "video/"))


def _is_youtube_id(name: str) -> bool:
    return bool(_YOUTUBE_ID.fullmatch(name)) and not _RUNNING.fullmatch(name)


def _clip_id(key: str, found: str) -> str:
    """Returns the id of a clip by its key and by the id in its JSON, which may be ""."""
    if not found or (_is_youtube_id(key) and not _YOUTUBE_ID.fullmatch(found)):
        return key
    return found


def _read_sidecar(content: bytes, is_json: bool, where: str) -> Sidecar:
    try:
        line = content.decode("utf-8-sig").strip()
        found = json.loads(line) if is_json or line.isdecimal() else line
    except (ValueError, RecursionError) as error:
        return Sidecar(Rejected("bad_labels", f"{where}: {error}"))
    clip_id = ""
    if isinstance(found, dict):
        clip_id = next(
            (str(found[field]) for field in _IDS if isinstance(found.get(field), str | int)), ""
        )
        if not clip_id and isinstance(found.get("id"), str):
            clip_id = found["id"]
        found = _labels_of(found)
    if isinstance(found, str):
        found = split_labels(found)
    if isinstance(found, int | float):
        found = [found]
    is_labels = (
        all(isinstance(each, int | float) for each in found.values())
        if isinstance(found, dict)
        else isinstance(found, list) and {type(each) for each in found} <= {str, int, float, bool}
    )
    if not is_labels:
        return Sidecar(Rejected("bad_labels", f"{where} is not a list of labels"), clip_id)
    return Sidecar(found, clip_id)


def _labels_of(found: dict[str, Any]) -> Any:
    """Returns the labels of an object; an empty list if it has none."""
    for field in _LABELS:
        if field in found:
            return found[field]
    original = found.get("original_data")
    if isinstance(original, dict):
        for field in _ORIGINAL_LABELS:
            if field in original:
                labels = original[field]
                # LAION's script writes the description of a class beside its name.
                if isinstance(labels, list):
                    return [each[0] if isinstance(each, list) and each else each for each in labels]
                return labels
    return []
