from __future__ import annotations

import errno
import io
import os
import random
import struct
import zlib
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mllm_srec.data.pictures.files import MAX_LENGTH, check_picture, import_pictures, safe_names
from mllm_srec.data.pictures.finder import UnusablePictureError
from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.types import DataError

MAX_PIXELS = 50_000_000


def picture(kind: str = "JPEG", size: tuple[int, int] = (30, 20), mode: str = "RGB", **options) -> bytes:
    content = io.BytesIO()
    pixels = random.Random(0).randbytes(size[0] * size[1] * 3)
    Image.frombytes("RGB", size, pixels).convert(mode).save(content, kind, **options)
    return content.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a few bytes: a decompression bomb."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100_000)))
        + chunk(b"IEND", b"")
    )


def run(
    tmp_path: Path, files: dict[str, bytes], items: dict[str, str | None], max_pixels: int = MAX_PIXELS
) -> tuple[dict[str, str | None], dict[str, int], dict[str, bytes]]:
    """Import; returns image by item, counts by reason, files of the data set."""
    source, target = tmp_path / "raw", tmp_path / "data" / "images"
    source.mkdir(exist_ok=True)
    for name, content in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    report = PrepareReport()
    table = pl.DataFrame(
        {"item_id": list(items), "image": list(items.values())}, {"item_id": pl.String, "image": pl.String}
    )
    result = import_pictures(table, source, target, max_pixels, report)
    assert result["item_id"].to_list() == list(items)
    written = {path.relative_to(target.parent).as_posix(): path.read_bytes() for path in target.rglob("*")}
    images = dict(zip(items, result["image"], strict=True))
    assert {image for image in images.values() if image} == set(written)
    return images, report.counts.get("pictures", {}), written


def test_every_kind_of_picture_is_copied_byte_by_byte(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    frames = [Image.new("P", (9, 9), color) for color in (1, 2, 3)]
    files = {
        "rgb.jpg": picture(),
        "grey.jpeg": picture(mode="L"),
        "cmyk.JPG": picture(mode="CMYK"),
        "turned.jpg": picture(exif=exif),
        "palette.png": picture("PNG", mode="P"),
        "alpha.png": picture("PNG", mode="RGBA"),
        "bits.png": picture("PNG", mode="1"),
        "deep.png": picture("PNG", mode="I;16"),
        "net.webp": picture("WEBP"),
        "moving.gif": picture("GIF", mode="P", save_all=True, append_images=frames),
        "map.bmp": picture("BMP"),
        "old.jpe": picture(),
        "web.jfif": picture(),
        "scan.tif": picture("TIFF", mode="CMYK"),
        "scan16.TIFF": picture("TIFF", mode="I;16"),
        "small.avif": picture("AVIF"),
        "without": picture(),
        "dot.png": picture("PNG", size=(1, 1)),
        "line.png": picture("PNG", size=(200, 1)),
    }
    images, counts, written = run(tmp_path, files, {os.path.splitext(name)[0]: None for name in files})
    true = {".jpeg": ".jpg", ".JPG": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".TIFF": ".tif", "": ".jpg"}
    parts = map(os.path.splitext, files)
    expected = {stem: f"images/{stem}{true.get(suffix, suffix)}" for stem, suffix in parts}
    assert images == expected
    assert counts == {}
    assert written == {expected[os.path.splitext(name)[0]]: content for name, content in files.items()}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "git-lfs"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"></svg>', "SVG"),
        (b"\n<!DOCTYPE html><html>403</html>", "page of the web"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04abc", "archive"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, content, words):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(UnusablePictureError, match="not a picture in a known format") as caught:
        check_picture(tmp_path / "x.jpg", MAX_PIXELS)
    assert words in caught.value.details


def test_avif_where_pillow_lacks_it(tmp_path, monkeypatch):
    (tmp_path / "x.jpg").write_bytes(picture("AVIF"))
    assert check_picture(tmp_path / "x.jpg", MAX_PIXELS) == ".avif"
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF")
    with pytest.raises(UnusablePictureError, match="AVIF, which this Pillow was built without"):
        check_picture(tmp_path / "x.jpg", MAX_PIXELS)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(UnusablePictureError, match="not a file"):
        check_picture(tmp_path / "x.jpg", MAX_PIXELS)


def test_extension_follows_the_true_format(tmp_path):
    images, counts, _ = run(tmp_path, {"a.jpg": picture("PNG"), "b.png": picture("JPEG")}, {"a": None, "b": None})
    assert images == {"a": "images/a.png", "b": "images/b.jpg"}
    assert counts == {}


BROKEN = {
    "empty": (b"", "file of zero bytes"),
    "text": (b"<html>404</html>", "not a picture in a known format"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture in a known format"),
    "floats": (picture("TIFF", mode="F"), "colours are floating-point numbers of unknown range"),
    "half_tiff": (picture("TIFF", size=(300, 200))[:20_000], "broken picture"),
    "half_avif": (picture("AVIF", size=(300, 200))[:8_000], "broken picture"),
    "half": (picture(size=(300, 200))[:20_000], "broken picture"),
    "half_png": (picture("PNG", size=(300, 200))[:20_000], "broken picture"),
    "half_webp": (picture("WEBP", size=(300, 200))[:5_000], "broken picture"),
    "head_only": (picture()[:10], "broken picture"),
    "bomb": (png_header(30_000, 30_000), "more pixels than prepare.max_image_pixels"),
    "large": (png_header(10_000, 6_000), "more pixels than prepare.max_image_pixels"),
    "lying": (png_header(7_000, 7_000), "broken picture"),
    "ribbon": (picture("PNG", size=(201, 1)), "sides differ by more than 200 times"),
    "tower": (picture("PNG", size=(2, 401)), "sides differ by more than 200 times"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_unusable_picture_is_null_and_counted_by_reason(tmp_path, name):
    content, reason = BROKEN[name]
    images, counts, written = run(tmp_path, {"x.jpg": content, "good.png": picture("PNG")}, {"x": None, "good": None})
    assert images == {"x": None, "good": "images/good.png"}
    assert counts == {reason: 1}
    assert list(written) == ["images/good.png"]


def test_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(30_000, 30_000))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("was decoded"))
    with pytest.raises(UnusablePictureError, match=r"more pixels than prepare\.max_image_pixels"):
        check_picture(path, MAX_PIXELS)


@pytest.mark.filterwarnings("error")
def test_limit_of_pixels_is_ours_not_pillows(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    files = {"a.png": picture("PNG", size=(40, 40))}
    assert run(tmp_path, files, {"a": None}, max_pixels=1600)[0] == {"a": "images/a.png"}
    assert Image.MAX_IMAGE_PIXELS == 100
    (tmp_path / "data" / "images" / "a.png").unlink()
    assert run(tmp_path, files, {"a": None}, max_pixels=1599)[1] == {"more pixels than prepare.max_image_pixels": 1}


def test_pictures_are_found_by_id_by_column_and_in_subfolders(tmp_path):
    files = {
        "B01.JPEG": picture(),
        "a/b.png": picture("PNG"),
        "posters/7.gif": picture("GIF"),
        "twice.png": picture("PNG", size=(2, 2)),
        "twice.jpg": picture(size=(3, 3)),
        "nobody.jpg": picture(),
        "notes.txt": b"x",
    }
    items = {"B01": None, "a/b": None, "film": "posters/7.gif", "twice": None, "lone": None, "named": "gone.jpg"}
    images, counts, written = run(tmp_path, files, items)
    slug = safe_names(["a/b"])[0]
    assert images == {
        "B01": "images/B01.jpg",
        "a/b": f"images/{slug}.png",
        "film": "images/film.gif",
        "twice": "images/twice.jpg",
        "lone": None,
        "named": None,
    }
    assert written["images/twice.jpg"] == files["twice.jpg"]
    assert counts == {"no file of that name": 1, "named file is missing": 1, "file that is no item's picture": 2}


def test_id_that_cannot_be_a_file_name_is_found_under_its_safe_name(tmp_path):
    item_id = "http://shop/é?" + "x" * 300
    (name,) = safe_names([item_id])
    assert run(tmp_path, {f"{name}.png": picture("PNG")}, {item_id: None})[0] == {item_id: f"images/{name}.png"}


def test_no_path_leads_out_of_the_folder(tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(picture())
    (tmp_path / "raw_beside").mkdir()
    (tmp_path / "raw_beside" / "x.jpg").write_bytes(picture())
    named = [
        "../secret.jpg",
        str(secret),
        "sub/../../secret.jpg",
        "../raw_beside/x.jpg",
        "..",
        ".",
        "\0",
        "",
        "sub/../in.jpg",
    ]
    items = {"../secret": None, str(secret.with_suffix("")): None, **{str(n): image for n, image in enumerate(named)}}
    images, counts, _ = run(tmp_path, {"in.jpg": picture()}, items)
    assert {item_id for item_id, image in images.items() if image} == {"8"}
    assert counts == {"no file of that name": 3, "path leads out of prepare.images": 6, "named file is missing": 1}


def test_source_that_is_the_target_already(tmp_path):
    folder = tmp_path / "data" / "images"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(picture())
    table = pl.DataFrame({"item_id": ["a"], "image": [None]}, {"item_id": pl.String, "image": pl.String})
    result = import_pictures(table, folder, folder, MAX_PIXELS, PrepareReport())
    assert result["image"].to_list() == ["images/a.jpg"]
    assert (folder / "a.jpg").read_bytes() == picture()


def test_no_folder_and_wrong_folder(tmp_path):
    report = PrepareReport()
    table = pl.DataFrame({"item_id": ["a", "b"], "image": ["a.jpg", None]})
    result = import_pictures(table, None, tmp_path / "images", MAX_PIXELS, report)
    assert result["image"].to_list() == [None, None]
    assert report.counts == {"pictures": {"no folder of pictures": 2}}
    with pytest.raises(DataError, match=r"prepare\.images='.*gone': is not a folder"):
        import_pictures(table, tmp_path / "gone", tmp_path / "images", MAX_PIXELS, report)


def test_order_of_examples_does_not_depend_on_threads(tmp_path):
    (tmp_path / "raw").mkdir()
    table = pl.DataFrame({"item_id": [f"i{n}" for n in range(200)]}).with_columns(image=pl.lit(None, pl.String))
    report = PrepareReport()
    import_pictures(table, tmp_path / "raw", tmp_path / "images", MAX_PIXELS, report)
    assert report.counts == {"pictures": {"no file of that name": 200}}
    assert report.examples["pictures"]["no file of that name"] == ["i0", "i1", "i2", "i3", "i4"]


def test_safe_names_keep_what_is_safe():
    ids = ["B00LW3RQNC", "0001", "a_b-c", "x" * MAX_LENGTH]
    assert safe_names(ids) == ids


def test_a_picture_without_rights_or_target_is_counted_for_that(tmp_path, monkeypatch):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    opened = Image.open

    def refuse(path, **options):
        if "locked" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, **options)

    monkeypatch.setattr(Image, "open", refuse)
    items = dict.fromkeys(["fine", "gone", "locked"])
    images, counts, _ = run(tmp_path, {"fine.jpg": picture(), "locked.jpg": picture()}, items)
    assert images == {"fine": "images/fine.jpg", "gone": None, "locked": None}
    assert counts == {"a link to a file that is not there": 1, "a file that this user may not read": 1}


def test_a_disk_that_fails_is_no_broken_picture(tmp_path, monkeypatch):
    def fail(path, **options):
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DataError, match=r"a\.jpg: cannot be read \(Stale file handle\); see to the disk"):
        run(tmp_path, {"a.jpg": picture()}, {"a": None})


AWKWARD = ["a/b", "a\\b", "a-b", "a.b", ".", "..", "", " ", "con", "CON", "nul", "LPT1", "é", "ü", "日本", "x" * 101,
           "x" * 102, "Abc", "aBC", "abc", "a\0b", "-rf", "\ud83d", "a b", "a  b"]  # fmt: skip


def assert_safe(ids: list[str]) -> None:
    names = safe_names(ids)
    assert len({name.lower() for name in names}) == len(set(ids))
    for name in names:
        assert name.isascii()
        assert 0 < len(name) <= MAX_LENGTH
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
        assert not name.startswith("-")
        assert name.lower() not in {"con", "prn", "aux", "nul", "com1", "lpt1"}


def test_safe_names_of_awkward_ids():
    assert_safe([*AWKWARD, *safe_names(AWKWARD)])
    assert safe_names(AWKWARD) == safe_names(list(AWKWARD))
    assert safe_names(["a/b"])[0].startswith("a-b-")


@given(st.lists(st.text(alphabet="aAbB/.-_é0\0", max_size=6), unique=True, max_size=30))
def test_safe_names_never_collide(ids):
    assert_safe(ids)
