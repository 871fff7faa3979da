"""Small recordings and tables of labels, which the tests of scenes share."""

import pathlib

import numpy as np
import soundfile

MIDS = {
    "dog": "/m/0bt9lr",
    "bark": "/m/05tny_",
    "rain": "/m/06mb1",
    "guitar": "/m/0342h",
    "speech": "/m/09x0r",
}


def tone(frequency_hz: float, seconds: float, rate_hz: int) -> np.ndarray:
    """A tone at half of full scale."""
    return 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate_hz)) / rate_hz)


def make_recordings(folder: pathlib.Path, num_groups: int = 8) -> pathlib.Path:
    """Three recordings of each class in each group, and a table of labels; returns the table.

    Each class has another frequency, the recordings have several lengths and rates.
    """
    folder.mkdir(parents=True)
    rows = ["path,mids,group"]
    for group in range(num_groups):
        for number, (name, mid) in enumerate(MIDS.items()):
            for take in range(3):
                rate_hz = (8_000, 22_050, 44_100)[take]
                seconds = (0.05, 1.5, 12.0)[take]
                path = f"{name}/-{name}{group}_{take}.{('wav', 'flac', 'ogg')[take]}"
                (folder / name).mkdir(exist_ok=True)
                sound = tone(300 * (number + 1), seconds, rate_hz)
                soundfile.write(folder / path, sound, rate_hz)
                mids = f"{mid};{MIDS['rain']}" if name == "guitar" else mid
                rows.append(f"{path},{mids},uploader{group}")
    table = folder / "labels.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
    """The content of each file that a user looks at, by its path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".scenes" not in path.parts
    }
