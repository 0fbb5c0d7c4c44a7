import json

import numpy as np
import pytest
from PIL import Image

from kqo.errors import ArgumentError
from kqo.interop.images import load_image
from kqo.interop.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

RNG = np.random.default_rng(5)


@pytest.fixture
def pixels():
    return RNG.integers(0, 256, size=(20, 30, 3), dtype=np.uint8)


def test_a_png_of_the_right_size_is_normalized(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    preprocess = Preprocess((20, 30), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    found = load_image(tmp_path / "a.png", preprocess)
    expected = (pixels / 255 - IMAGENET_MEAN) / IMAGENET_STD
    assert found.dtype == np.float32 and found.shape == (1, 3, 20, 30)
    np.testing.assert_allclose(found[0], expected.transpose(2, 0, 1), atol=1e-5)
    np.testing.assert_array_equal(preprocess.picture(found[0]), pixels)


def test_bgr_and_gray(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = load_image(tmp_path / "a.png", Preprocess((20, 30), channels="bgr", scale=1.0))
    np.testing.assert_array_equal(found[0], pixels[:, :, ::-1].transpose(2, 0, 1))
    preprocess = Preprocess((20, 30), channels="gray", scale=1.0)
    gray = load_image(tmp_path / "a.png", preprocess)
    np.testing.assert_array_equal(gray[0, 0], np.asarray(Image.fromarray(pixels).convert("L")))
    assert preprocess.picture(gray[0]).shape == (20, 30, 3)


def test_the_centre_is_cut(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = load_image(tmp_path / "a.png", Preprocess((20, 10), scale=1.0))
    np.testing.assert_array_equal(found[0], pixels[:, 10:20].transpose(2, 0, 1))


def test_the_shorter_side_is_resized_as_torchvision_does(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = load_image(tmp_path / "a.png", Preprocess((16, 16), resize=40, scale=1.0))
    resized = np.asarray(Image.fromarray(pixels).resize((60, 40), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(found[0], resized[12:28, 22:38].transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(64, 8), (8, 64), (1, 1), (33, 33)])
@pytest.mark.parametrize("resize", [None, 4, 50])
def test_any_size_comes_out(tmp_path, pixels, size, resize):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = load_image(tmp_path / "a.png", Preprocess(size, resize=resize))
    assert found.shape == (1, 3, *size) and np.isfinite(found).all()


def test_rotation_of_cameras_is_undone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to show
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    upright = load_image(tmp_path / "a.jpg", Preprocess((30, 20)))
    assert upright.shape == (1, 3, 30, 20)


def test_transparency_palettes_and_sixteen_bits(tmp_path):
    clear = np.zeros((4, 4, 4), dtype=np.uint8)
    clear[..., :3], clear[:2, :, 3] = 200, 255
    Image.fromarray(clear).save(tmp_path / "clear.png")
    found = load_image(tmp_path / "clear.png", Preprocess((4, 4), scale=1.0))
    assert (found[0, :, :2] == 200).all() and (found[0, :, 2:] == 0).all()
    Image.new("RGB", (4, 4), (255, 0, 0)).convert("P").save(tmp_path / "palette.png")
    assert load_image(tmp_path / "palette.png", Preprocess((4, 4)))[0, 0].mean() == 1
    Image.fromarray(np.full((4, 4), 65535, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert (load_image(tmp_path / "deep.png", Preprocess((4, 4))) == 1).all()


def test_arrays(tmp_path, pixels):
    tensor = RNG.normal(size=(3, 20, 30))
    preprocess = Preprocess((20, 30), mean=(9.0,), scale=1.0)
    for shape in ((3, 20, 30), (1, 3, 20, 30)):
        np.save(tmp_path / "a.npy", tensor.reshape(shape))
        found = load_image(tmp_path / "a.npy", preprocess)
        np.testing.assert_array_equal(found[0], tensor.astype(np.float32))
    np.save(tmp_path / "b.npy", pixels)
    found = load_image(tmp_path / "b.npy", preprocess)
    np.testing.assert_array_equal(found[0], pixels.transpose(2, 0, 1) - np.float32(9))


def write_damaged_png(path):
    Image.fromarray(RNG.integers(0, 256, size=(40, 40, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])


@pytest.mark.parametrize(
    ("name", "write", "says"),
    [
        ("missing.png", None, "no file"),
        ("directory", lambda p: p.mkdir(), "no file"),
        ("text.png", lambda p: p.write_text("hello"), "none of them"),
        ("empty.jpg", lambda p: p.write_bytes(b""), "none of them"),
        ("gif.png", lambda p: Image.new("L", (4, 4)).save(p, "GIF"), "none of them"),
        ("cut.png", write_damaged_png, "cannot be read"),
        ("text.npy", lambda p: p.write_text("hello"), "cannot be read"),
        ("empty.npy", lambda p: p.write_bytes(b""), "cannot be read"),
        ("object.npy", lambda p: np.save(p, np.array([{}]), allow_pickle=True), "cannot be read"),
        ("shape.npy", lambda p: np.save(p, np.zeros((3, 8, 9))), r"float64 of shape \(3, 8, 9\)"),
        ("bytes.npy", lambda p: np.save(p, np.zeros((8, 8, 4), np.uint8)), "uint8 of shape"),
        ("ints.npy", lambda p: np.save(p, np.zeros((3, 8, 8), np.int64)), "int64 of shape"),
    ],
)
def test_bad_files_are_errors_of_one_line(tmp_path, name, write, says):
    path = tmp_path / name
    if write:
        write(path)
    with pytest.raises(ArgumentError, match=says) as error:
        load_image(path, Preprocess((8, 8)))
    assert error.value.argument == "image" and "\n" not in str(error.value)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("size", (0, 4)),
        ("size", 224),
        ("size", (1.5, 2)),
        ("resize", 0),
        ("mean", (0.1, 0.2)),
        ("mean", (float("nan"),)),
        ("std", (0.0,)),
        ("std", "abc"),
        ("channels", "hsv"),
        ("scale", 0),
        ("classes", "cat"),
        ("classes", (1, 2)),
        ("outputs", "scores"),
    ],
)
def test_wrong_values_name_the_argument(name, wrong):
    with pytest.raises(ArgumentError) as error:
        Preprocess(**{"size": (8, 8), name: wrong})
    assert error.value.argument == name


def test_plain_values_and_back():
    given = Preprocess((8, 9), 12, (0.5,), (0.25,), "bgr", 1.0, ("a", "b"), "probabilities")
    found = Preprocess.from_dict(json.loads(json.dumps(given.to_dict())))
    assert found == given and hash(found) == hash(given)
    with pytest.raises(ArgumentError, match="colour"):
        Preprocess.from_dict({"size": [1, 1], "colour": 1})
    with pytest.raises(ArgumentError, match="size"):
        Preprocess.from_dict({})


def test_imagenet():
    assert Preprocess.imagenet().resize == 256 and Preprocess.imagenet().shape == (3, 224, 224)
