"""Every kind of source lists the same images the same way, and says clearly what is wrong with it."""

import io
import json
import tarfile

import pytest

from ditscale.data.sources import archive


def labeled(photos):
    return {name: (content, int(name.startswith("dog"))) for name, content in sorted(photos.items())}


def test_a_folder_of_class_folders(photos, tree, opened, contents):
    folder = tree({**photos, ".DS_Store": b"", "cat/._1.png": b"", "notes.txt": b"x", "__MACOSX/cat/1.png": b""})
    source = opened(folder)
    assert contents(source) == labeled(photos) and source.names == sorted(photos)
    assert source.class_names == ["cat", "dog"] and source.split == "all"
    assert source.notes == ["Skipped 1 file that is not an image"]


@pytest.mark.parametrize("name, mode", [("x.zip", None), ("x.tar", "w"), ("x.tar.gz", "w:gz"), ("x.tar.xz", "w:xz"),
                                        ("x.tar.bz2", "w:bz2"), ("x.tgz", "w:gz")])
def test_archives(photos, tmp_path, name, mode, opened, contents, packed):
    backwards = dict(sorted(photos.items(), reverse=True))
    source = opened(packed(tmp_path / name, backwards, mode))
    assert contents(source) == labeled(photos) and source.class_names == ["cat", "dog"]
    inside = opened(packed(tmp_path / f"inside.{name}", {f"./any/folder/{k}": v for k, v in photos.items()}, mode))
    assert [value for _, value in sorted(contents(inside).items())] == list(labeled(photos).values())


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["cat/1.png", f"{'long' * 30}/{'er' * 20}.png", "k\u00e4tzchen/1.png"])
def test_both_ways_to_list_a_tar_agree(tmp_path, photos, form, name):
    with tarfile.open(tmp_path / "x.tar", "w", format=form) as tar:
        for item in ("./", "./cat", name, "cat/2.png"):
            info = tarfile.TarInfo(item)
            content = photos["cat/1.png"] if item.endswith("png") else b""
            info.size, info.type = len(content), tarfile.REGTYPE if content else tarfile.DIRTYPE
            tar.addfile(info, io.BytesIO(content))
    quick = archive._plain_members(tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar") as tar:
        slow = list(archive._members(tmp_path / "x.tar", tar))
    assert [item[0] for item in slow] == [name, "cat/2.png"]
    assert quick == slow if name == "cat/1.png" else quick is None


def test_a_tar_of_tars(photos, tmp_path, opened, contents, packed):
    """As ImageNet's training images are published."""
    inner = {}
    for kind in ("cat", "dog"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in photos.items():
                if name.startswith(kind):
                    info = tarfile.TarInfo(name.split("/")[1])
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        inner[f"{kind}.tar"] = buffer.getvalue()
    source = opened(packed(tmp_path / "train.tar", inner))
    assert contents(source) == labeled(photos) and source.class_names == ["cat", "dog"]


def test_splits(photos, tree, opened, refused):
    folder = tree({**{f"train/{name}": content for name, content in photos.items()}, "test/dog/1.png": photos["dog/1.png"]})
    assert "has the splits test, train; choose one with --split" in refused(folder)
    assert "--split val: " in refused(folder, split="val")
    assert "split test: class 0, cat, has no image in this split; if that is intended, give --empty-classes" in \
        refused(folder, split="test")
    source = opened(folder, split="test", empty_classes=True)
    assert source.names == ["test/dog/1.png"] and source.split == "test"
    assert source.labels.tolist() == [1] and source.class_names == ["cat", "dog"]    # labels agree between splits
    assert opened(folder, split="train").names == [f"train/{name}" for name in sorted(photos)]
    assert "has no splits" in refused(folder / "test", split="train")


def test_one_class_and_no_class(photos, tree, opened, refused):
    one = opened(tree({"cat/1.png": photos["cat/1.png"]}))
    assert one.classes == 1 and one.class_names == ["cat"] and "one class only, 'cat'" in one.notes[0]
    flat = opened(tree({f"{i}.png": photos[f"cat/{i}.png"] for i in range(3)}, "flat"))
    assert flat.labels.tolist() == [0, 0, 0] and flat.class_names is None and "unconditional" in flat.notes[0]
    assert "1 image is next to the class folders, for example 5.png" in refused(
        tree({"5.png": b"", "cat/1.png": b""}, "mixed"))


@pytest.mark.parametrize("name, content, labels, class_names", [
    ("labels.csv", "name,label\na.png,2\nb/c.png,0\n", [2, 0], None),
    ("labels.csv", "\ufeffName, Label\r\nb/c.png, zebra\r\na.png,ape\r\n\r\n", [0, 1], ["ape", "zebra"]),
    ("dataset.json", '{"labels": [["b/c.png", 7], ["a.png", 1]]}', [1, 7], None),
])
def test_labels_files(photos, tree, tmp_path, name, content, labels, class_names, opened, packed):
    files = {"a.png": photos["cat/1.png"], "b/c.png": photos["cat/2.png"]}
    (tmp_path / name).write_text(content, encoding="utf-8")
    rooted = packed(tmp_path / "root.tar", {f"r/{inner}": content for inner, content in files.items()})
    for path in (tree(files), packed(tmp_path / "x.zip", files), rooted):
        source = opened(path, labels=tmp_path / name, empty_classes=True)
        assert source.labels.tolist() == labels and source.class_names == class_names


def test_the_archive_of_stylegan(photos, tmp_path, opened, packed):
    files = {"00000/img00000000.png": photos["cat/1.png"], "00000/img00000001.png": photos["cat/2.png"]}
    labels = json.dumps({"labels": [["00000/img00000001.png", 3], ["00000/img00000000.png", 5]]}).encode()
    assert opened(packed(tmp_path / "x.zip", {**files, "dataset.json": labels}), empty_classes=True).labels.tolist() == [5, 3]
    none = opened(packed(tmp_path / "y.zip", {**files, "dataset.json": b'{"labels": null}'}))
    assert none.labels.tolist() == [0, 0]


@pytest.mark.parametrize("name, content, message", [
    ("l.csv", "a.png,0\n", "first line must be: name,label"), ("l.csv", "", "first line must be"),
    ("l.csv", "name,label\n", "holds no labels"), ("l.csv", "name,label\na.png,0\na.png,1\n", "names a.png twice"),
    ("l.csv", "name,label\na.png\n", "line 2"), ("l.csv", "name,label\nb.png,0\n", "no label for 1 of 1 images, for example a.png"),
    ("l.csv", "name,label\na.png,0\nb.png,0\n", "1 of its 2 names are not images of .*, for example b.png"),
    ("l.csv", "name,label\na.png,-1\n", "label -1 is not between 0"), ("l.csv", "name,label\na.png,1000000\n", "label 1000000"),
    ("l.json", "{", "not of the form"), ("l.json", '{"labels": [["a.png", [0.5]]]}', "integers"),
    ("l.txt", "", r"are a \.csv"),
])
def test_labels_files_that_do_not_serve(photos, tree, tmp_path, name, content, message, refused):
    import re

    (tmp_path / name).write_text(content)
    assert re.search(message, refused(tree({"a.png": photos["cat/1.png"]}), labels=tmp_path / name))


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_archives_that_do_not_serve(photos, tmp_path, suffix, refused, packed):
    for name in ("../cat/1.png", "cat/../../1.png", "/etc/cat/1.png", "cat\\..\\..\\1.png"):
        assert f"the name '{name}', which points out" in refused(packed(tmp_path / f"a{suffix}", {**photos, name: b""}))
    with pytest.warns() if suffix == ".zip" else pytest.MonkeyPatch.context():
        twice = packed(tmp_path / f"b{suffix}", photos, duplicate="cat/1.png")
    assert "two files of the name cat/1.png" in refused(twice)
    whole = packed(tmp_path / f"c{suffix}", photos).read_bytes()
    (tmp_path / f"d{suffix}").write_bytes(whole[:len(whole) // 2])
    assert "not a complete" in refused(tmp_path / f"d{suffix}")
    (tmp_path / f"e{suffix}").write_bytes(b"")
    assert "not a complete" in refused(tmp_path / f"e{suffix}")


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
def test_compressed_archives_cut_short(photos, tmp_path, mode, refused, packed):
    path = packed(tmp_path / "x.tar.gz", photos, mode)
    path.write_bytes(path.read_bytes()[:-2000])
    assert "not a complete tar archive" in refused(path)


def test_links_in_an_archive(tmp_path, refused):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("cat/1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert "cat/1.png is a link" in refused(tmp_path / "x.tar")


def test_what_is_no_source(tree, tmp_path, refused):
    (tmp_path / "empty").mkdir()
    assert "no images in it" in refused(tmp_path / "empty") and "it is empty" in refused(tmp_path / "empty")
    assert "it holds a.txt, ..." in refused(tree({"a.txt": b""}))
    assert "no such file or folder" in refused(tmp_path / "nowhere")
    (tmp_path / "cats").write_text("this should be a folder")
    assert "not a source of images; give a folder" in refused(tmp_path / "cats")
    assert "no such file or folder" in refused(tmp_path / "cats" / "cat")


def test_a_source_that_changed_has_another_key(photos, tree, opened):
    folder = tree(photos)
    before = opened(folder)
    assert opened(folder).key(slice(0, 6)) == before.key(slice(0, 6)) != before.key(slice(6, 12))
    (folder / "cat" / "1.png").write_bytes(photos["cat/2.png"])
    after = opened(folder)
    assert after.key(slice(0, 6)) != before.key(slice(0, 6)) and after.key(slice(6, 12)) == before.key(slice(6, 12))
