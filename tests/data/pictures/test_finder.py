"""Names of pictures as people write them, against files as they have them."""

import os
import unicodedata

import pytest

from mllm_srec.data.pictures.files import safe_names
from mllm_srec.data.pictures.finder import PictureFinder, UnusablePictureError
from mllm_srec.types import DataError


@pytest.fixture
def finder_of(tmp_path):
    """Make a finder of empty files and items."""

    def make(files, items):
        folder = tmp_path / "img"
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).touch()
        images = list(items.values()) if isinstance(items, dict) else None
        finder = PictureFinder(str(folder), list(items), safe_names(list(items)), images)
        return lambda item, image=None: finder.find(item, image, safe_names([item])[0])

    return make


CASE, DEEPER = "file found in other case", "file found in a sub-folder"
ACCENTS, SUFFIX = "file found with accents written otherwise", "file found with another suffix"


@pytest.mark.parametrize(
    ("files", "item", "image", "file", "difference"),
    [
        (["p.jfif"], "p", None, "p.jfif", None),
        (["p.jpe", "p.png"], "p", None, "p.jpe", None),
        (["p"], "p", None, "p", None),
        (["7.5"], "7.5", None, "7.5", None),
        (["7.5.jpg"], "7.5", None, "7.5.jpg", None),
        (["p.jpg"], "p.jpg", None, "p.jpg", None),
        (["P.JPG"], "p", None, "P.JPG", CASE),
        (["a/b/p.jpg"], "p", None, "a/b/p.jpg", DEEPER),
        (["a/p.png", "a/p.jpg"], "p", None, "a/p.jpg", DEEPER),
        (["a/P.png"], "p", None, "a/P.png", DEEPER),
        ([unicodedata.normalize("NFD", "café.jpg")], unicodedata.normalize("NFC", "café"), None,
         unicodedata.normalize("NFD", "café.jpg"), ACCENTS),
        ([unicodedata.normalize("NFD", "Café.jpg")], "i", unicodedata.normalize("NFC", "café.png"),
         unicodedata.normalize("NFD", "Café.jpg"), CASE),
        (["sub/p.jpg"], "i", "sub\\p.jpg", "sub/p.jpg", None),
        (["sub/p.jpg"], "i", ".\\sub\\p.jpg", "sub/p.jpg", None),
        (["sub/p.jpg"], "i", " sub/p.jpg ", "sub/p.jpg", None),
        (["sub/p.jpg"], "i", "img/sub/p.jpg", "sub/p.jpg", None),
        (["p.jpg"], "i", "p", "p.jpg", None),
        (["sub/p.jpg"], "i", "sub/p", "sub/p.jpg", None),
        (["p.JPG"], "i", "p.jpg", "p.JPG", CASE),
        (["Sub/P.JPG"], "i", "sub\\p", "Sub/P.JPG", CASE),
        (["p.png"], "i", "p.jpg", "p.png", SUFFIX),
        (["sub/p.png"], "i", "sub\\p.jpg", "sub/p.png", SUFFIX),
        (["sub/p.jpg"], "i", "p.jpg", "sub/p.jpg", DEEPER),
        (["back\\slash.jpg"], "i", "back\\slash.jpg", "back\\slash.jpg", None),
        *((["i.jpg", "nan.jpg"], "i", word, "i.jpg", None) for word in ("nan", "NaN", "", "  ", "None", "<NA>")),
    ],
)  # fmt: skip
def test_a_name_that_can_mean_one_file_only(finder_of, files, item, image, file, difference):
    assert finder_of(files, [item])(item, image) == (file, difference)


@pytest.mark.parametrize(
    ("files", "image", "reason"),
    [
        ([], None, "no file of that name"),
        (["i.heic"], None, "a file with a suffix that is not read: i.heic"),
        (["deep/I.svg"], None, "a file with a suffix that is not read: deep/I.svg"),
        (["a/i.jpg", "b/i.jpg"], None, "several files of that name: a/i.jpg, b/i.jpg"),
        (["I.jpg"], "nothing.jpg", "named file is missing"),
        (["P.jpg", "p.JPEG"], "p.png", "several files of that name"),
        (["p.heic"], "p", "a file with a suffix that is not read: p.heic"),
        ([], "https://m.example/i.jpg", "an address, not a file name"),
        ([], "//m.example/i.jpg", "an address, not a file name"),
        ([], "data:image/png;base64,AAAA", "an address, not a file name"),
        (["p.jpg"], "../p.jpg", "path leads out of prepare.images"),
        (["p.jpg"], "..\\p.jpg", "path leads out of prepare.images"),
        (["p.jpg"], "/etc/p.jpg", "path leads out of prepare.images"),
    ],
)
def test_a_reason_that_is_true(finder_of, tmp_path, files, image, reason):
    (tmp_path / "img").mkdir()
    (tmp_path / "p.jpg").touch()
    if image == "..\\p.jpg":
        reason = "named file is missing|path leads out of prepare.images"
    with pytest.raises(UnusablePictureError, match=reason):
        finder_of(files, ["i"])("i", image)


def test_an_address_leaves_it_to_the_id(finder_of):
    file, difference = finder_of(["i.jpg"], ["i"])("i", "https://m.example/x.jpg")
    assert file == "i.jpg"
    assert difference.startswith("an address, not a file name")


def test_nobody_gets_the_picture_of_another_item(finder_of):
    """Ids that differ only in case, and files that are somebody's exactly."""
    find = finder_of(["a.jpg", "sub/b.jpg", "Cc.jpg"], ["a", "A", "b", "sub/b", "cc", "CC"])
    assert find("a") == ("a.jpg", None)
    assert find("sub/b") == ("sub/b.jpg", None)
    for item in ("A", "b", "cc", "CC"):
        with pytest.raises(UnusablePictureError, match="no file of that name"):
            find(item)


def test_a_name_never_means_a_file_that_another_item_has(finder_of):
    files = ["shoes/1.jpg", "B.jpg", "hats/2.jpg", "C.jpg"]
    items = {
        "x": "1.jpg",
        "y": "shoes\\1",
        "b": "b.jpg",
        "B": None,
        "2": None,
        "z": "hats/2.png",
        "c": "c.png",
        "d": "C",
    }
    find = finder_of(files, items)
    assert find("y", items["y"]) == ("shoes/1.jpg", None)
    assert find("B") == ("B.jpg", None)
    for item in ("x", "b"):
        with pytest.raises(UnusablePictureError, match="named file is missing"):
            find(item, items[item])
    assert find("z", items["z"]) == ("hats/2.jpg", SUFFIX)
    assert find("d", items["d"]) == ("C.jpg", None)
    assert find("c", items["c"]) == ("C.jpg", CASE)  # one path, written in two ways


def test_an_item_without_a_name_gets_no_file_that_a_name_means(finder_of):
    find = finder_of(["sub/p.jpg"], {"p": "nan", "q": "sub/p.jpg"})
    assert find("q", "sub/p.jpg") == ("sub/p.jpg", None)
    with pytest.raises(UnusablePictureError, match="no file of that name"):
        find("p", "nan")


def test_links_are_followed_and_a_loop_ends(finder_of, tmp_path):
    (tmp_path / "img/real").mkdir(parents=True)
    os.symlink(tmp_path / "img", tmp_path / "img/real/loop")
    os.symlink(tmp_path / "img/real", tmp_path / "img/named")
    find = finder_of(["real/p.jpg"], ["p", "q"])
    assert find("q", "named/p.jpg") == ("named/p.jpg", None)
    assert PictureFinder(str(tmp_path / "img"), ["p"], ["p"]).files == ["real/p.jpg"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    def no_listing(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr("os.scandir", no_listing)
    with pytest.raises(DataError, match=r"prepare\.images: .* cannot be read"):
        PictureFinder(str(tmp_path), [], [])


def test_names_are_looked_up_and_not_tried(tmp_path, monkeypatch):
    """No call of the file system for a name: in a network folder of half a million pictures each has its price."""
    items = [f"i{n}" for n in range(20_000)]
    names = safe_names(items)
    files = [f"{n % 50}/I{n}.JPG" for n in range(20_000)]
    monkeypatch.setattr("mllm_srec.data.pictures.finder._listed", lambda folder: (files, ()))
    asked = []
    monkeypatch.setattr("os.path.isfile", asked.append)
    finder = PictureFinder(str(tmp_path / "img"), items, names)
    found = [finder.find(item, None, name) for item, name in zip(items, names, strict=True)]
    assert found == [(f"{n % 50}/I{n}.JPG", DEEPER) for n in range(20_000)]
    named = [finder.find(item, f"img\\{n % 50}\\i{n}.jpg", item) for n, item in enumerate(items)]
    assert len({file for file, _ in named}) == 20_000
    assert not asked
