"""Makes the page of the command `relabel_jax.demo`, which shows what a network hears."""

import base64
import hashlib
import html
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import soundfile

from relabel_jax.errors import InputError, Rejected, install_command
from relabel_jax.inference.clips import MIN_DURATION_S
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.listen import listen, without_padding
from relabel_jax.inference.nearest import Clips
from relabel_jax.inference.recordings import read_samples
from relabel_jax.runs.schema import PUBLISHED

_NUM_CLASSES = 10
_NUM_CLIPS = 6
_NUM_EXAMPLES = 4
_FEW_CLIPS = 10_000  # a network trained on fewer clips is shown as a toy
_ROUNDING = 1e-4  # the most by which a sound's similarity with itself differs from 1


def _cut_wav(embedder: Embedder, path: str, start_s: float) -> bytes:
    """Returns a window as the network hears it, as the bytes of a WAV file."""
    waveforms = embedder.waveform_format
    samples = np.concatenate(list(read_samples(path, waveforms, start_s + waveforms.read_s)))
    start = round(start_s * waveforms.sample_rate_hz)
    window = samples[start : start + waveforms.num_samples]
    file = io.BytesIO()
    soundfile.write(file, window, waveforms.sample_rate_hz, format="WAV")
    return file.getvalue()


def _heard_html(embedder: Embedder, duration_s: float, num_windows: int, scores: np.ndarray) -> str:
    about = f"{duration_s:.1f} s"
    if num_windows > 1:
        about += (
            f", the mean over {num_windows} windows of {embedder.waveform_format.duration_s:g} s"
        )
    rows = []
    for number in np.argsort(-scores, kind="stable")[:_NUM_CLASSES]:
        sound = embedder.classes[number]
        name = f"<b>{html.escape(sound.display_name)}</b>"
        ways = [" &gt; ".join([*map(html.escape, way[:-1]), name]) for way in sound.paths]
        rows.append(
            f'<tr data-mid="{html.escape(sound.mid)}">'
            f'<td class="path">{"<br>".join(ways)}</td><td class="score">{scores[number]:.3f}'
            f'<i style="--score: {scores[number]:.4f}"></i></td></tr>'
        )
    return f'<p class="about">{about}</p><table class="heard">{"".join(rows)}</table>'


def nearest_others(
    embedder: Embedder, clips: Clips, path: str, embeddings: np.ndarray
) -> tuple[list[tuple[str, float, float]], bool]:
    """Finds the recordings nearest to a sound, without the sound itself.

    A recording is the sound itself if their similarity is 1 within rounding and they have the same
    samples. Its path may differ, because the page works on a copy.

    Args:
      embedder: the network.
      clips: the embedded folder.
      path: the sound.
      embeddings: float32[windows, embedding_size] of the sound.

    Returns:
      The recordings as from `Clips.nearest`, and whether the sound itself was left out.
    """
    known: dict[str, bool] = {}

    def is_same(other: str, similarity: float) -> bool:
        if similarity < 1 - _ROUNDING:
            return False
        if other not in known:
            known[other] = _digest(embedder, other) == _digest(embedder, path)
        return known[other]

    number = _NUM_CLIPS + 1
    while True:
        found = clips.nearest(embeddings, number)
        others = [each for each in found if not is_same(each[0], each[2])]
        if len(others) >= _NUM_CLIPS or len(found) < number:
            return others[:_NUM_CLIPS], len(others) < len(found)
        number *= 2  # the folder has copies of the sound


def _digest(embedder: Embedder, path: str) -> bytes:
    """Returns a digest of a recording's samples, or b"" if it cannot be read."""
    digest = hashlib.sha256()
    try:
        for samples in read_samples(path, embedder.waveform_format):
            digest.update(samples.tobytes())
    except Rejected:
        return b""
    return digest.digest()


def format_similarities(similarities: Sequence[float]) -> list[str]:
    """Formats numbers with the fewest decimals that tell them apart, from 2 to 6."""
    distinct = len({f"{each:.6f}" for each in similarities})
    for decimals in range(2, 7):
        shown = [f"{each:.{decimals}f}" for each in similarities]
        if len(set(shown)) == distinct:
            break
    return shown


def _near_html(embedder: Embedder, clips: Clips, path: str, embeddings: np.ndarray) -> str:
    others, has_itself = nearest_others(embedder, clips, path, embeddings)
    items = []
    shown = format_similarities([similarity for _, _, similarity in others])
    for (path, start_s, _), similarity in zip(others, shown, strict=True):
        try:
            sound = base64.b64encode(_cut_wav(embedder, path, start_s)).decode()
            label = f"{html.escape(os.path.basename(path))}, from {start_s:g} s"
            source = f"data:audio/wav;base64,{sound}"
            player = f'<audio controls aria-label="{label}" src="{source}"></audio>'
        except Rejected as error:
            player = f'<p class="about">Cannot be played: {html.escape(str(error))}</p>'
        folder, name = os.path.split(path)
        where = f"{folder}, from {start_s:g} s" if folder else f"From {start_s:g} s"
        items.append(
            f'<li data-path="{html.escape(path)}"><span class="path">{html.escape(name)}</span>'
            f'<span class="score">{similarity}</span>'
            f'<span class="about">{html.escape(where)}</span>{player}</li>'
        )
    note = ""
    if has_itself:
        note = '<p class="about">The folder has this sound, which is left out here.</p>'
    return f'{note}<ol class="near">{"".join(items)}</ol>'


def _examples(clips: Clips | None) -> list[str]:
    """Chooses recordings from the whole length of the folder, among those that still exist."""
    if clips is None:
        return []
    paths = list(dict.fromkeys(clips.paths))
    chosen = np.linspace(0, len(paths) - 1, min(_NUM_EXAMPLES, len(paths))).astype(int)
    return [paths[number] for number in chosen if os.path.isfile(paths[number])]


def toy_note(trained: Mapping[str, Any]) -> str:
    """Returns a sentence for a network that was trained on few clips, otherwise ""."""
    is_own = bool(trained) and trained["method"] != PUBLISHED
    if not is_own or trained["num_clips"]["train"] >= _FEW_CLIPS:
        return ""
    how = "fine-tuned" if trained["method"] == "finetune" else "trained"
    return (
        f"This network is a toy: it was {how} on only {trained['num_clips']['train']:,} clips. "
        "Expect wrong classes, and similarities that mean little."
    )


def make_page(embedder: Embedder, clips: Clips | None) -> Any:
    """Makes the page, a `gradio.Blocks`.

    Raises:
      InputError: gradio is not installed, or the classes are not known.
    """
    try:
        import gradio
    except ImportError as error:
        raise InputError(f"the page needs gradio: {install_command('demo')}") from error
    facts, trained = f"{len(embedder.classes)} classes", embedder.trained
    if trained and trained["method"] == PUBLISHED:
        facts += " · published weights"
    elif trained:
        facts += (
            f" of the {trained['side']} side of {trained['root']} · {trained['method']}, labels "
            f"{trained['labeling']} · {trained['num_clips']['train']:,} training clips"
        )
    examples = _examples(clips)
    hint = "Nothing yet: drop a sound above, or record one"
    hint = f'<p class="about">{hint}{", or choose an example" if examples else ""}.</p>'
    toy = f'<p class="toy">{note}</p>' if (note := toy_note(trained)) else ""
    if clips is None:
        near_hint = (
            '<p class="about">Embed a folder with <code>python -m relabel_jax.embed</code> and '
            "start this page with <code>--embeddings=FILE</code>.</p>"
        )
    else:
        near_hint = (
            f'<p class="about">Among {len(clips.paths):,} windows, by cosine similarity.</p>'
        )

    def show(path: str | None) -> tuple[str, str]:
        if path is None:
            return hint, near_hint
        try:
            duration_s, embeddings, scores = listen(embedder, path)
        except Rejected as error:
            why = f"{os.path.basename(path)}: {error}".rstrip(".")
            what = f"Give a sound of {MIN_DURATION_S} s or more, as WAV, FLAC, Ogg or MP3."
            return f'<p class="error" role="alert">{html.escape(why)}. {what}</p>', near_hint
        sounding = without_padding(embedder, duration_s, embeddings)
        near = "" if clips is None else _near_html(embedder, clips, path, sounding)
        return _heard_html(embedder, duration_s, len(embeddings), scores), near_hint + near

    def text(value: str, **options: Any) -> Any:
        return gradio.HTML(value, apply_default_css=False, **options)

    with gradio.Blocks(title="What does it hear?", analytics_enabled=False) as page:
        title = "<h1>What does it <em>hear</em>?</h1>"
        text(f"{title}<p>{html.escape(facts)}</p>{toy}", elem_id="head")
        sound = gradio.Audio(type="filepath", label="Sound", buttons=[], elem_id="sound")
        if examples:
            gradio.Examples(
                [[path] for path in examples],
                sound,
                label="Examples from the embedded folder",
                example_labels=[os.path.basename(path) for path in examples],
                elem_id="examples",
                api_visibility="private",
            )
        with gradio.Row(equal_height=False):
            with gradio.Column(min_width=320):
                text("<h2>Heard</h2>")
                heard = text(hint, elem_id="heard")
            with gradio.Column(min_width=320):
                text("<h2>Nearest clips</h2>")
                near = text(near_hint, elem_id="near")
        sound.change(show, sound, [heard, near], api_visibility="private")
    return page
