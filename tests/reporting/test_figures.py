from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops

from m3.core import palette
from m3.core.frames import Chain, Frames
from m3.core.joints import JOINT_NAMES
from m3.core.types import PairInfo
from m3.reporting import figures as pictures
from m3.reporting import video as movies


def standing_person() -> np.ndarray:
    """(13, 2) joints on a canvas of 64 px: the person's left side lies on the right."""
    return np.array(
        [[32, 8], [40, 16], [24, 16], [44, 26], [20, 26], [46, 36], [18, 36], [37, 36], [27, 36], [38, 48], [26, 48],
         [38, 60], [26, 60]], float,
    )  # fmt: skip


def frames(num_samples: int = 2, num_horizons: int = 3) -> Frames:
    shape = num_samples, num_horizons + 1
    colours = np.arange(np.prod(shape)).reshape(*shape, 1, 1, 1) * 15 + 20
    canvas = np.broadcast_to(colours, (*shape, 64, 64, 3)).astype(np.uint8)
    xy = np.broadcast_to(standing_person(), (*shape, 13, 2)).copy()
    return Frames(canvas, xy, np.ones((*shape, 13), bool), np.ones(shape, bool))


def drawn(is_visible: np.ndarray, size: int = 256) -> np.ndarray:
    black = Image.new("RGB", (size, size))
    return np.asarray(pictures.draw_skeleton(black, standing_person() * size / 64, is_visible)).astype(int)


def test_limbs_lie_where_the_joints_are_in_the_colours_of_their_side():
    picture = drawn(np.ones(13, bool))
    for a, b, colour in [
        ("left_hip", "left_knee", palette.LEFT),
        ("right_elbow", "right_wrist", palette.RIGHT),
        ("left_shoulder", "right_shoulder", palette.MIDDLE),
    ]:
        x, y = (standing_person()[[JOINT_NAMES.index(a), JOINT_NAMES.index(b)]].mean(0) * 4).round().astype(int)
        assert abs(picture[y, x] - colour).max() < 12, (a, b, picture[y, x])


def test_lines_are_anti_aliased():
    picture = drawn(np.ones(13, bool))
    shades = {tuple(pixel) for pixel in picture.reshape(-1, 3)}
    assert len(shades) > 40


def test_invisible_joints_and_their_limbs_are_not_drawn():
    nothing = drawn(np.zeros(13, bool))
    assert (nothing == 0).all()
    is_visible = np.ones(13, bool)
    is_visible[JOINT_NAMES.index("left_ankle")] = False
    picture, whole = drawn(is_visible), drawn(np.ones(13, bool))
    differs = (picture != whole).any(-1)
    y, x = differs.nonzero()
    assert len(y) and y.min() >= 48 * 4 - 8 and x.min() > 34 * 4  # the shin below the left knee, nothing else
    assert (picture[240 - 6 :, 140:170] == 0).all()


def test_the_skeleton_leaves_the_rest_of_the_picture_alone():
    picture = Image.new("RGB", (128, 128), (10, 200, 90))
    out = pictures.draw_skeleton(picture, standing_person() * 2, np.ones(13, bool))
    assert out.getpixel((3, 3)) == (10, 200, 90) and out.size == (128, 128)
    assert ImageChops.difference(picture, out).getbbox() is not None


def test_cells_show_their_frame_or_grey():
    some = frames()
    some.is_present[1, 3] = False
    assert pictures.cell(some, 0, 2, 128).getpixel((2, 2)) == (50, 50, 50)
    empty = pictures.cell(some, 1, 3, 128)
    assert empty.size == (128, 128) and empty.getpixel((2, 2)) == (236, 236, 233)


def test_sheet_has_a_row_for_the_prediction_and_one_for_the_truth():
    predicted, truth = frames(), frames()
    truth.pictures[:] = 255 - truth.pictures
    sheet = pictures.rollout_sheet(pictures.panels(predicted, truth), ["golf swing", "jump"], cell_px=96)
    pixels = np.asarray(sheet)
    for n in range(2):
        for horizon in range(4):
            level = (n * 4 + horizon) * 15 + 20
            x = 48 + horizon * (96 + 6) + 3
            column = pixels[:, x, 0].tolist()
            assert column.count(level) >= 90 and column.count(255 - level) >= 90
            assert column.index(level) < column.index(255 - level)  # the truth below


def test_animation_and_files(tmp_path):
    predicted, truth = frames(3), frames(3)
    animation = pictures.rollout_animation(pictures.panels(predicted, truth), ["a", "b", "c"], cell_px=96)
    assert len(animation) == 4 and len({picture.size for picture in animation}) == 1
    movies.write_gif(tmp_path / "rollout.gif", animation)
    pictures.write_png(tmp_path / "rollout.png", animation[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rollout.gif", "rollout.png"]
    with Image.open(tmp_path / "rollout.gif") as gif:
        assert gif.n_frames == 4 and gif.info["loop"] == 0 and gif.size == animation[0].size
        gif.seek(3)
        shown = np.asarray(gif.convert("RGB")).astype(int)
        assert abs(shown - np.asarray(animation[3])).mean() < 6


def test_shown_samples_are_long_and_of_different_actions():
    def chain(action: str, length: int) -> Chain:
        return Chain(tuple(range(length)), (PairInfo("k", "c", 0, 1, action, None),) * length)

    chains = [chain("jump", 6), chain("jump", 6), chain("bowl", 3), chain("golf_swing", 6), chain("bowl", 6)]
    assert pictures.choose_samples(chains, 3) == [0, 3, 4]
    assert pictures.choose_samples(chains, 9) == [0, 3, 4, 1, 2]
    assert chains[3].title == "golf swing · clip c, frame 0"
