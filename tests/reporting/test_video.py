from __future__ import annotations

import av
import numpy as np
import pytest
from PIL import Image

from m3.reporting.video import write_mp4


@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
def test_an_mp4_that_browsers_play(tmp_path, size):
    colors = [(200, 30, 40), (30, 160, 60), (40, 60, 210)]
    write_mp4(tmp_path / "film.mp4", [Image.new("RGB", size, color) for color in colors])
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]
    content = (tmp_path / "film.mp4").read_bytes()
    assert content.find(b"moov") < content.find(b"mdat")  # plays before it is loaded
    with av.open(str(tmp_path / "film.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (64, 48)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 7 + 7 + 24  # 0.35 s, 0.35 s and 1.2 s at 20 a second
    for frame, color in zip((frames[3], frames[10], frames[-1]), colors):
        assert abs(frame.astype(int) - np.array(color)).max() <= 4


def test_the_same_pictures_make_the_same_bytes(tmp_path):
    pictures = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (32, 32, 3), np.uint8)) for n in range(3)]
    for name in ("a.mp4", "b.mp4"):
        write_mp4(tmp_path / name, pictures)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
