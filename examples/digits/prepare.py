"""Turn the recordings of the Free Spoken Digit Dataset into sequences of log-mel spectra.

A recording is cut into frames of 25 ms, one every 10 ms. Of each, the power spectrum is summed in 40 bands
that are equally wide on the mel scale, 2595 log10(1 + f / 700 Hz), and the logarithm taken.

    python prepare.py PATH_TO_RECORDINGS        # the folder with 0_jackson_0.wav and so on; writes digits.npz
"""

from __future__ import annotations

import argparse
import re
import wave
from pathlib import Path

import numpy as np

from timelike.errors import DataError, TimelikeError
from timelike.files import replacing

RATE = 8000  # samples per second
FRAME, STEP = 200, 80  # samples: 25 ms and 10 ms
N_FFT = 256
N_BANDS = 40
LOW = 60.0  # Hz; below is hum
FLOOR = 1e-8  # of the power of full scale: silence that was set to 0 stays finite
NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")  # digit, speaker, number of the recording
DEFAULT_OUTPUT = Path(__file__).resolve().parent / "digits.npz"


def mel_bands() -> np.ndarray:
    """Give the weights of the bands: triangles that overlap by half.

    Returns
    -------
    array [N_BANDS, N_FFT // 2 + 1]
        Weight of each frequency of the spectrum in each band.
    """
    top = 2595.0 * np.log10(1.0 + RATE / 2 / 700.0)
    bottom = 2595.0 * np.log10(1.0 + LOW / 700.0)
    corners = 700.0 * (10.0 ** (np.linspace(bottom, top, N_BANDS + 2) / 2595.0) - 1.0)  # Hz
    frequencies = np.fft.rfftfreq(N_FFT, 1.0 / RATE)
    left, middle, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising = (frequencies - left) / (middle - left)
    falling = (right - frequencies) / (right - middle)
    return np.maximum(0.0, np.minimum(rising, falling))


def spectra(samples: np.ndarray, bands: np.ndarray) -> np.ndarray:
    """Compute the log-mel spectra of a recording.

    Parameters
    ----------
    samples : array [n]
        From -1 to 1. What is shorter than a frame is filled with zeros.
    bands : array [N_BANDS, N_FFT // 2 + 1]
        As `mel_bands` gives them.

    Returns
    -------
    array [T, N_BANDS] of float32
        T frames; a rest that does not fill a frame is left out.
    """
    if len(samples) < FRAME:
        samples = np.pad(samples, (0, FRAME - len(samples)))
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::STEP]
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME), N_FFT)) ** 2 / np.hanning(FRAME).sum() ** 2
    return np.log(power @ bands.T + FLOOR).astype(np.float32)


def read_wave(path: Path) -> np.ndarray:
    """Read the samples [n] of a recording, from -1 to 1."""
    try:
        with wave.open(str(path), "rb") as file:
            form = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            content = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise DataError(f"{path}: not a WAV file: {str(error) or 'it ends too early'}") from None
    if form != (1, 2, RATE):
        raise DataError(
            f"{path}: {form[0]} channels of {8 * form[1]} bits, {form[2]} a second; "
            f"one channel of 16 bits, {RATE} a second, is needed"
        )
    return np.frombuffer(content, dtype="<i2") / 32768.0


def prepare(folder: Path, output: Path) -> int:
    """Write the spectra of all recordings in a folder to an .npz file, and give their number."""
    found = sorted((m for p in folder.glob("*.wav") if (m := NAME.fullmatch(p.name))), key=lambda m: m.string)
    if not found:
        raise DataError(f"{folder}: no recordings called like 7_jackson_32.wav")
    bands = mel_bands()
    sequences = [spectra(read_wave(folder / match.string), bands) for match in found]
    speakers = sorted({match[2] for match in found})
    with replacing(output) as aside, aside.open("wb") as file:
        np.savez(
            file,
            values=np.concatenate(sequences),
            offsets=np.cumsum([0, *map(len, sequences)]),
            names=np.array([f"band{k}" for k in range(N_BANDS)]),
            digit=np.array([int(match[1]) for match in found]),
            speaker=np.array([speakers.index(match[2]) for match in found]),
            recording=np.array([int(match[3]) for match in found]),
        )
    return len(found)


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recordings", type=Path, help="the folder of the recordings")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="the file to write (digits.npz)")
    arguments = parser.parse_args()
    try:
        n = prepare(arguments.recordings, arguments.output)
    except TimelikeError as error:
        parser.error(str(error))
    print(f"{arguments.output}: {n:,} recordings")


if __name__ == "__main__":
    main()
