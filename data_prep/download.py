"""Downloads one file with retries, a known hash, and a limit of its size."""

import pathlib
import urllib.parse
from typing import NamedTuple

from relabel_jax.errors import InputError
from relabel_jax.progress import Progress

MAX_BYTES = 1 << 30
"""The most bytes of a download: ten times those of AudioSet's largest file."""

_RETRIED_STATUSES = {408, 425, 429, 500, 502, 503, 504}
MAX_TIMEOUT_S = 1e6
_CHUNK_BYTES = 1 << 18
# A gzipped file must arrive as it is.
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "relabel_jax"}


class Source(NamedTuple):
    """The address of a file, gzipped if it ends in `.gz`, and the file's hash if it is known."""

    url: str
    sha256: str | None = None


class _Refused(Exception):
    """The server's answer, which another attempt would not change."""


def download(
    source: Source, path: pathlib.Path, retries: int, timeout_s: float, max_bytes: int
) -> None:
    """Downloads a file to `path`, whose folder exists; the numbers are those of `metadata`.

    Raises:
      InputError: pooch or requests is not installed; the address is not one of the web; the server
        refuses, keeps failing or sends more bytes than it should; the file's hash is not the known
        one.
      OSError: the file cannot be written.
    """
    try:
        import pooch
        import requests
    except ImportError as error:
        raise InputError(
            f"downloading needs {error.name}: pip install pooch requests; or take the files from a "
            "folder (--from_dir)"
        ) from error
    url = source.url
    check_address(url)

    # pooch.HTTPDownloader leaves the connection open when it fails, and retries a 404 too.
    def get(url: str, output_file: str, caller: pooch.Pooch) -> None:
        with requests.get(url, stream=True, timeout=timeout_s, headers=_HEADERS) as answer:
            if not answer.ok and answer.status_code not in _RETRIED_STATUSES:
                raise _Refused(f"{answer.status_code} {answer.reason}")
            answer.raise_for_status()
            said = answer.headers.get("Content-Length", "")
            total = int(said) if said.isdecimal() else None
            done = 0
            with (
                Progress(path.name, total, "B") as progress,
                open(output_file, "wb") as file,
            ):
                for chunk in answer.iter_content(_CHUNK_BYTES):
                    done += len(chunk)
                    if done > max_bytes:
                        raise _Refused(f"with more than {max_bytes:,} bytes")
                    file.write(chunk)
                    progress.update(len(chunk))

    server = pooch.Pooch(
        path=path.parent,
        base_url="",
        registry={path.name: source.sha256},
        urls={path.name: url},
        retry_if_failed=retries,
    )
    try:
        server.fetch(path.name, downloader=get)
    except _Refused as error:
        raise InputError(
            f"{url}: the server answers {error}; give another address, or a folder that has the "
            "file (--from_dir)"
        ) from error
    except requests.RequestException as error:
        raise InputError(
            f"{url}: given up after {retries + 1} attempts: {error}; try the same command later, "
            "or take the files from a folder (--from_dir)"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{url}: its SHA-256 is not {source.sha256}; try the same command later, or take the "
            "files from a folder (--from_dir), where their headers alone are checked"
        ) from error


def check_address(url: str) -> None:
    """Raises InputError if the text is not a web address."""
    try:
        parts = urllib.parse.urlparse(url)
        _ = parts.port  # raises for what is no number
        is_address = parts.scheme in ("http", "https") and (parts.hostname or "").encode("idna")
    except ValueError:  # a wrong port, or a host with wrong brackets or dots
        is_address = False
    if not is_address:
        raise InputError(f"{url}: not a web address; expected https://HOST/FILE")
