from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops, ImageDraw
from support.frames import frames_of, without

from m3.core import palette
from m3.core.frames import Frames, PairChain
from m3.core.joints import JOINT_NAMES
from m3.core.types import PairInfo
from m3.reporting import figures
from m3.reporting.figures import Panel
from m3.reporting.files import write_png
from m3.reporting.video import write_gif
from m3.vocabularies.joints import INTERPRETER as JOINTS
from m3.vocabularies.joints import draw_skeleton
from m3.vocabularies.picture import INTERPRETER as PICTURE
from m3.vocabularies.text import INTERPRETER as TEXT


def standing_person() -> np.ndarray:
    """(13, 2) joints on a canvas of 64 px: the person's left side lies on the right."""
    return np.array(
        [[32, 8], [40, 16], [24, 16], [44, 26], [20, 26], [46, 36], [18, 36], [37, 36], [27, 36], [38, 48], [26, 48],
         [38, 60], [26, 60]], float,
    )  # fmt: skip


def frames(num_samples: int = 2, num_horizons: int = 3) -> Frames:
    shape = num_samples, num_horizons + 1
    colors = np.arange(np.prod(shape)).reshape(*shape, 1, 1, 1) * 15 + 20
    canvas = np.broadcast_to(colors, (*shape, 64, 64, 3)).astype(np.uint8)
    xy = np.broadcast_to(standing_person(), (*shape, 13, 2)).copy()
    return frames_of(np.ones(shape, bool), canvas, xy)


def panels(**shown: Frames) -> list[Panel]:
    return figures.panels(list(shown.items()), {"tok_rgb": PICTURE, "coords": JOINTS}, canvas_size=64)


def drawn(is_visible: np.ndarray, size: int = 256) -> np.ndarray:
    black = Image.new("RGB", (size, size))
    return np.asarray(draw_skeleton(black, standing_person() * size / 64, is_visible)).astype(int)


def test_limbs_lie_where_the_joints_are_in_the_colors_of_their_side():
    picture = drawn(np.ones(13, bool))
    for a, b, color in [
        ("left_hip", "left_knee", palette.LEFT),
        ("right_elbow", "right_wrist", palette.RIGHT),
        ("left_shoulder", "right_shoulder", palette.MIDDLE),
    ]:
        x, y = (standing_person()[[JOINT_NAMES.index(a), JOINT_NAMES.index(b)]].mean(0) * 4).round().astype(int)
        assert abs(picture[y, x] - color).max() < 12, (a, b, picture[y, x])


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
    out = draw_skeleton(picture, standing_person() * 2, np.ones(13, bool))
    assert out.getpixel((3, 3)) == (10, 200, 90) and out.size == (128, 128)
    assert ImageChops.difference(picture, out).getbbox() is not None


def test_cells_show_their_frame_or_gray():
    (some,) = panels(predicted=frames())
    some.frames.is_present[1, 3] = False
    assert some.cell(0, 2, 128).getpixel((2, 2)) == (50, 50, 50)
    empty = some.cell(1, 3, 128)
    assert empty.size == (128, 128) and empty.getpixel((2, 2)) == (236, 236, 233)


def test_a_skeleton_without_its_picture_is_drawn_on_a_blank_cell():
    (some,) = panels(predicted=without(frames(), "tok_rgb"))
    cell = np.asarray(some.cell(0, 2, 128))
    assert (cell[2, 2] == 32).all() and (cell != 32).any()


def test_overlays_are_on_the_first_picture_and_each_further_one_has_its_own_panel():
    found = figures.views({"coords": JOINTS, "tok_rgb": PICTURE, "tok_depth": PICTURE})
    assert found == [("", [("tok_rgb", PICTURE), ("coords", JOINTS)]), (", tok_depth", [("tok_depth", PICTURE)])]
    assert figures.views({"coords": JOINTS}) == [("", [("coords", JOINTS)])]
    words = figures.views({"captions": TEXT, "coords": JOINTS, "tok_rgb": PICTURE})
    assert words == [("", [("tok_rgb", PICTURE), ("coords", JOINTS)]), (", captions", [("captions", TEXT)])]
    assert figures.views({"captions": TEXT}) == [(", captions", [("captions", TEXT)])]
    some = frames()
    depth = Frames({**some.values, "tok_depth": 255 - some.values["tok_rgb"]}, some.is_present)
    interpreters = {"tok_rgb": PICTURE, "coords": JOINTS, "tok_depth": PICTURE}
    picture, other = figures.panels([("predicted", depth)], interpreters, canvas_size=64)
    assert (picture.name, other.name) == ("predicted", "predicted, tok_depth")
    assert picture.cell(0, 2, 128).getpixel((2, 2)) == (50, 50, 50)
    assert (np.asarray(other.cell(0, 2, 128)) == 205).all()  # no skeleton


def test_sheet_has_a_row_for_the_prediction_and_one_for_the_truth():
    predicted, truth = frames(), frames()
    truth.values["tok_rgb"][:] = 255 - truth.values["tok_rgb"]
    sheet = figures.rollout_sheet(panels(predicted=predicted, truth=truth), ["golf swing", "jump"], cell_px=96)
    pixels = np.asarray(sheet)
    left = sheet.width - 4 * (96 + 6) - 2 * 6
    for n in range(2):
        for horizon in range(4):
            level = (n * 4 + horizon) * 15 + 20
            x = left + horizon * (96 + 6) + 3
            column = pixels[:, x, 0].tolist()
            assert column.count(level) >= 90 and column.count(255 - level) >= 90
            assert column.index(level) < column.index(255 - level)  # the truth below


def test_labels_of_rows_are_whole(monkeypatch):
    """No letter begins left of the sheet, however long its label and small its cells."""
    written = []
    text = ImageDraw.ImageDraw.text

    def record(pen, place, words, **options):
        written.append((words, pen.textbbox(place, words, font=options["font"], anchor=options["anchor"])))
        text(pen, place, words, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    depth = Frames({**frames().values, "tok_depth": frames().values["tok_rgb"]}, frames().is_present)
    interpreters = {"tok_rgb": PICTURE, "coords": JOINTS, "tok_depth": PICTURE}
    for cell_px in (48, 128, 256):
        written.clear()
        figures.rollout_sheet(figures.panels([("predicted", depth)], interpreters, 64), ["a", "b"], cell_px)
        assert [words for words, _ in written].count("predicted\ntok_depth") == 2
        assert all(box[0] >= 0 for _, box in written)


def test_stacked_cells_have_the_panels_below_each_other():
    predicted, truth = frames(), frames()
    truth.values["tok_rgb"][:] = 255 - truth.values["tok_rgb"]
    stacks = figures.stacked_cells(panels(predicted=predicted, truth=truth), 1, cell_px=96)
    assert [name for name, _ in stacks] == ["reference", "+1", "+2", "+3"]
    for horizon, (_, stack) in enumerate(stacks):
        level = (4 + horizon) * 15 + 20
        assert stack.size == (96, 2 * 96 + 6) and stack.getpixel((2, 2)) == (level, level, level, 255)
        assert stack.getpixel((2, 98))[3] == 0 and stack.getpixel((2, 104))[0] == 255 - level


def test_animation_and_files(tmp_path):
    predicted, truth = frames(3), frames(3)
    animation = figures.rollout_animation(panels(predicted=predicted, truth=truth), ["a", "b", "c"], cell_px=96)
    assert len(animation) == 4 and len({picture.size for picture in animation}) == 1
    write_gif(tmp_path / "rollout.gif", animation)
    write_png(tmp_path / "rollout.png", animation[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rollout.gif", "rollout.png"]
    with Image.open(tmp_path / "rollout.gif") as gif:
        assert gif.n_frames == 4 and gif.info["loop"] == 0 and gif.size == animation[0].size
        gif.seek(3)
        shown = np.asarray(gif.convert("RGB")).astype(int)
        assert abs(shown - np.asarray(animation[3])).mean() < 6


def test_shown_samples_are_long_and_of_different_actions():
    def chain(action: str, length: int) -> PairChain:
        return PairChain(tuple(range(length)), (PairInfo("k", "c", 0, 1, action, None),) * length)

    chains = [chain("jump", 6), chain("jump", 6), chain("bowl", 3), chain("golf_swing", 6), chain("bowl", 6)]
    assert figures.choose_samples(chains, 3) == [0, 3, 4]
    assert figures.choose_samples(chains, 9) == [0, 3, 4, 1, 2]
    assert chains[3].title == "golf swing · clip c, frame 0"
