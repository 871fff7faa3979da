"""The page that shows what a network hears: the work of the command `relabel_jax.demo`."""

import base64
import html
import io
import os
import pathlib
from typing import Any

import numpy as np
import soundfile

from relabel_jax.errors import InputError, Rejected, install_command
from relabel_jax.inference.clips import MIN_DURATION_S
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.listen import listen, without_padding
from relabel_jax.inference.nearest import Clips
from relabel_jax.inference.recordings import read_samples

HOST = "127.0.0.1"
_NUM_CLASSES = 10
_NUM_CLIPS = 6
_STYLE = pathlib.Path(__file__).with_name("demo.css")
_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")  # none is downloaded
_COLORS = {  # those of the report's page, by day and in the dark
    "body_background_fill": "#faf8f4",
    "body_background_fill_dark": "#14171a",
    "body_text_color": "#22262b",
    "body_text_color_dark": "#e9e6e0",
    "body_text_color_subdued": "#666d75",
    "body_text_color_subdued_dark": "#9aa1a8",
    "block_background_fill": "#ffffff",
    "block_background_fill_dark": "#1c2024",
    "border_color_primary": "#e5e0d7",
    "border_color_primary_dark": "#30363c",
    "color_accent": "#14766e",
    "error_border_color": "#c96f14",
    "error_background_fill": "#f7ecdf",
    "error_background_fill_dark": "#2b241c",
    "error_text_color": "#22262b",
    "error_text_color_dark": "#e9e6e0",
}


def _cut_wav(embedder: Embedder, path: str, start_s: float) -> bytes:
    """A window as the network hears it, as a WAV file."""
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


def _near_html(embedder: Embedder, clips: Clips, embeddings: np.ndarray) -> str:
    items = []
    for path, start_s, similarity in clips.nearest(embeddings, _NUM_CLIPS):
        try:
            sound = base64.b64encode(_cut_wav(embedder, path, start_s)).decode()
            player = f'<audio controls src="data:audio/wav;base64,{sound}"></audio>'
        except Rejected as error:
            player = f'<p class="about">Cannot be played: {html.escape(str(error))}</p>'
        folder, name = os.path.split(path)
        where = f"{folder}, from {start_s:g} s" if folder else f"From {start_s:g} s"
        items.append(
            f'<li data-path="{html.escape(path)}"><span class="path">{html.escape(name)}</span>'
            f'<span class="score">{similarity:.4f}</span>'
            f'<span class="about">{html.escape(where)}</span>{player}</li>'
        )
    return f'<ol class="near">{"".join(items)}</ol>'


def make_page(embedder: Embedder, clips: Clips | None) -> Any:
    """The page, a `gradio.Blocks`.

    Raises:
      InputError: gradio is not installed, or the classes are not known.
    """
    try:
        import gradio
    except ImportError as error:
        raise InputError(f"the page needs gradio: {install_command('demo')}") from error
    facts, trained = f"{len(embedder.classes)} classes", embedder.trained
    if trained:
        facts += (
            f" of the {trained['side']} side of {trained['root']} · {trained['method']}, labels "
            f"{trained['labeling']} · {trained['num_clips']['train']:,} training clips"
        )
    hint = '<p class="about">Nothing yet: drop a sound above, or record one.</p>'
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
        near = "" if clips is None else _near_html(embedder, clips, sounding)
        return _heard_html(embedder, duration_s, len(embeddings), scores), near_hint + near

    def text(value: str, **options: Any) -> Any:
        return gradio.HTML(value, apply_default_css=False, **options)

    with gradio.Blocks(title="What does it hear?", analytics_enabled=False) as page:
        text(f"<h1>What does it <em>hear</em>?</h1><p>{html.escape(facts)}</p>", elem_id="head")
        sound = gradio.Audio(type="filepath", label="Sound", buttons=[], elem_id="sound")
        with gradio.Row(equal_height=False):
            with gradio.Column(min_width=320):
                text("<h2>Heard</h2>")
                heard = text(hint, elem_id="heard")
            with gradio.Column(min_width=320):
                text("<h2>Nearest clips</h2>")
                near = text(near_hint, elem_id="near")
        sound.change(show, sound, [heard, near], api_visibility="private")
    return page


def serve(page: Any, port: int | None) -> str:
    """Serves the page to this machine and returns its address.

    Raises:
      InputError: the port is taken.
    """
    import gradio  # make_page has found it

    # Gradio asks its own server whether it is up; a proxy would not know it.
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [HOST, os.environ.get(name)]))
    try:
        _, address, _ = page.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            run_history=False,
            footer_links=[],
            css_paths=_STYLE,
            theme=gradio.themes.Base(font=_FONT, radius_size="lg").set(**_COLORS),
        )
    except OSError as error:
        raise InputError(f"--port={port}: is taken or not allowed; give another") from error
    return address
