"""Data sets as they are published: WebDataset's shards, Kaggle's ImageNet, the devkit, Tiny-ImageNet. Labels are read, or asked for."""

import json
import tarfile

import numpy as np
import pytest

WNIDS = ("n01440764", "n01443537", "n02102040")


@pytest.fixture
def png(photos):
    """Distinct images, by number."""
    return list(photos.values())


def shard(png, numbers, suffix=".cls", label=lambda number: number % 3, folder=""):
    """Files of a shard: images with what says their class."""
    def said(number):
        return json.dumps(label(number)).encode() if suffix == ".json" else str(label(number)).encode()
    return {f"{folder}{number:06d}{ending}": content for number in numbers
            for ending, content in ((suffix, said(number)), (".png", png[number]), (".txt", b"a caption"))}


@pytest.mark.parametrize("suffix, label", [(".cls", lambda n: n % 3), (".cls", lambda n: f" {n % 3}\n"), (".cls", lambda n: f"{n % 3}.0"),
                                           (".json", lambda n: {"label": n % 3, "url": "x"}), (".json", lambda n: {"cls": f"{n % 3}", "a": [1]})])
@pytest.mark.parametrize("name", ["shard-000000.tar", "data.zip", "shard.tar.gz"])
def test_webdataset_in_one_archive(png, tmp_path, suffix, label, name, opened, contents, packed):
    path = packed(tmp_path / name, shard(png, range(6), suffix, label), "w:gz" if name.endswith("gz") else "w")
    source = opened(path)
    assert contents(source) == {f"{n:06d}.png": (png[n], n % 3) for n in range(6)}
    assert source.classes == 3 and source.class_names is None and source.notes == ["Skipped 6 files that are not images"]


def test_a_folder_of_shards(png, tmp_path, opened, contents, refused, packed):
    (tmp_path / "shards").mkdir()
    for number in range(3):
        packed(tmp_path / "shards" / f"imagenet-train-{number:04d}.tar", shard(png, range(3 * number, 3 * number + 3)))
    packed(tmp_path / "shards" / "imagenet-validation-0000.tar", shard(png, range(9, 12)))
    assert "has the splits train, validation; choose one" in refused(tmp_path / "shards")
    source = opened(tmp_path / "shards", split="train")
    assert [content for content, _ in contents(source).values()] == png[:9] and source.labels.tolist() == [n % 3 for n in range(9)]
    assert source.split == "train" and source.names[0] == "train/imagenet-train-0000/000000.png"
    assert opened(tmp_path / "shards", split="validation").labels.tolist() == [0, 1, 2]
    before = source.key(slice(0, 3))
    packed(tmp_path / "shards" / "imagenet-train-0000.tar", shard(png, range(3), label=lambda n: 2 - n))
    assert opened(tmp_path / "shards", split="train").key(slice(0, 3)) != before


def test_words_in_shards_are_classes(png, tmp_path, opened, packed):
    (tmp_path / "s").mkdir()
    packed(tmp_path / "s" / "00000.tar", shard(png, range(6), ".json", lambda n: {"label": WNIDS[n % 3]}))
    source = opened(tmp_path / "s")
    assert source.class_names == list(WNIDS) and source.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_folder_of_one_archive_a_class(png, tmp_path, opened, contents, packed):
    for split, numbers in (("train", range(4)), ("val", range(4, 6))):
        (tmp_path / "in" / split).mkdir(parents=True)
        for place, wnid in enumerate(WNIDS[:2]):
            packed(tmp_path / "in" / split / f"{wnid}.tar", {f"{wnid}_{n}.png": png[n] for n in numbers if n % 2 == place})
    source = opened(tmp_path / "in", split="train")
    assert source.class_names == list(WNIDS[:2]) and source.labels.tolist() == [0, 0, 1, 1]
    assert contents(source)["train/n01440764/n01440764_2.png"] == (png[2], 0)


@pytest.mark.parametrize("files, words", [
    (lambda png: {k: v for k, v in shard(png, range(3)).items() if k != "000001.cls"}, "no label for 1 of 3 images, for example 000001.png"),
    (lambda png: shard(png, range(3), label=lambda n: ""), "000000.cls holds ''"),
    (lambda png: shard(png, range(3), label=lambda n: "0 1" if n else n), "some labels are numbers, for example 0, and 2 are words, for example '0 1'"),
    (lambda png: shard(png, range(3), ".json", lambda n: {"url": "x", "caption": "y"}), "000000.json holds caption, url and no label"),
    (lambda png: shard(png, range(3), ".json", lambda n: {"label": 1, "cls": 2}), "holds several labels, label 1, cls 2"),
    (lambda png: shard(png, range(3), ".json", lambda n: {"label": [1, 2]}), "has no class: label is [1, 2]"),
    (lambda png: shard(png, range(3), ".json", lambda n: [1]), "000000.json is not a JSON object"),
    (lambda png: shard(png, range(3)) | {"000001.seg.png": png[4]}, "more than one image of the key 000001"),
    (lambda png: shard(png, range(3), label=lambda n: n + 1), "class 0 has no image, labels are 1 to 3"),
])
def test_shards_that_do_not_serve(png, tmp_path, files, words, refused, packed):
    for path in (packed(tmp_path / "x.tar", files(png)), tmp_path / "s"):
        (tmp_path / "s").mkdir(exist_ok=True)
        packed(tmp_path / "s" / "x-0000.tar", files(png))
        assert words in refused(path).replace("x-0000/", "")


def test_shards_without_labels_are_asked_about(png, tmp_path, opened, refused, packed):
    (tmp_path / "s").mkdir()
    for number in range(2):
        packed(tmp_path / "s" / f"{number:05d}.tar", {f"{number}{n}.png": png[n] for n in range(3)})
    assert "its shards hold no labels, neither .cls nor .json; use --unlabeled" in refused(tmp_path / "s")
    source = opened(tmp_path / "s", unlabeled=True)
    assert source.labels.tolist() == [0] * 6 and source.class_names is None and source.classes == 1
    (tmp_path / "s" / "00001.tar").write_bytes(b"x" * 5000)
    assert "00001.tar: not a complete tar archive" in refused(tmp_path / "s")


def test_class_folders_with_json_beside_the_images(png, tree, opened):
    """Crawled images in class folders: what lies beside them says no class."""
    source = opened(tree({f"{kind}/{n}{end}": content for n, kind in enumerate(("cat", "dog"))
                          for end, content in ((".png", png[n]), (".json", b'{"url": "x"}'))}))
    assert source.class_names == ["cat", "dog"] and source.labels.tolist() == [0, 1]


def kaggle(png):
    """Kaggle's ILSVRC with two training images a class and one to validate; its ids are in another order than the images."""
    where = "ILSVRC/Data/CLS-LOC"
    files = {f"{where}/train/{wnid}/{wnid}_{n}.JPEG": png[3 * n + place] for place, wnid in enumerate(WNIDS) for n in range(2)}
    files |= {f"{where}/val/ILSVRC2012_val_{n + 1:08d}.JPEG": png[6 + n] for n in range(3)}
    files |= {f"{where}/test/ILSVRC2012_test_{n + 1:08d}.JPEG": png[9 + n] for n in range(2)}
    solution = "ImageId,PredictionString\n" + "".join(
        f"ILSVRC2012_val_{n + 1:08d},{WNIDS[2 - n]} 85 1 499 272 {WNIDS[2 - n]} 0 0 1 1 \n" for n in (2, 0, 1))
    return files | {"LOC_val_solution.csv": solution.encode(), "LOC_synset_mapping.txt": b"n01440764 tench\n",
                    "ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml": b"<x/>"}


@pytest.mark.parametrize("packing", ["folder", "zip"])
def test_kaggles_layout(png, tree, tmp_path, packing, opened, contents, refused, packed):
    path = tree(kaggle(png)) if packing == "folder" else packed(tmp_path / "imagenet.zip", kaggle(png))
    assert "has the splits test, train, val; choose one" in refused(path)
    train, val = (opened(path, split=split) for split in ("train", "val"))
    assert train.class_names == val.class_names == list(WNIDS)
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2] and val.labels.tolist() == [2, 1, 0] and val.split == "val"
    assert [content for content, _ in contents(val).values()] == png[6:9]
    assert "test images, whose labels were never published; --unlabeled" in refused(path, split="test")
    assert opened(path, split="test", unlabeled=True).labels.tolist() == [0, 0]


def devkit(tmp_path, numbers=(201, 3, 44)):
    """The devkit's two files: ILSVRC2012's numbers, which are not in the order of the ids."""
    from scipy.io import savemat

    rows = np.zeros(5, dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("words", object)])
    for row, (number, wnid) in zip(rows, [(201, WNIDS[0]), (44, WNIDS[1]), (3, WNIDS[2]), (1001, "n00001740"), (1002, "n00002137")]):
        row["ILSVRC2012_ID"], row["WNID"], row["words"] = number, wnid, "x"
    folder = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    savemat(folder / "meta.mat", {"synsets": rows.reshape(-1, 1)})
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in numbers))
    with tarfile.open(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        tar.add(folder.parent, "ILSVRC2012_devkit_t12")
    return folder.parent


def test_the_devkits_ground_truth_for_the_flat_val_tar(png, tmp_path, opened, refused, packed):
    val = packed(tmp_path / "ILSVRC2012_img_val.tar", {f"ILSVRC2012_val_{n + 1:08d}.JPEG": png[n] for n in range(3)})
    said = refused(val)
    assert "--labels LOC_val_solution.csv (Kaggle's) or --labels ILSVRC2012_devkit_t12.tar.gz" in said and "--unlabeled" in said
    kit = devkit(tmp_path)
    truth = kit / "data" / "ILSVRC2012_validation_ground_truth.txt"
    for labels in (kit, tmp_path / "ILSVRC2012_devkit_t12.tar.gz", truth):
        source = opened(val, labels=labels)
        assert source.class_names == list(WNIDS) and source.labels.tolist() == [0, 2, 1]
    assert opened(val, unlabeled=True).labels.tolist() == [0, 0, 0]
    (kit / "data" / "meta.mat").rename(tmp_path / "away.mat")
    assert "no meta.mat in it" in refused(val, labels=truth)
    (kit / "data" / "meta.mat").write_bytes(b"MATLAB 5.0 no")
    assert "is not ImageNet's" in refused(val, labels=kit)
    (tmp_path / "cut.tar.gz").write_bytes((tmp_path / "ILSVRC2012_devkit_t12.tar.gz").read_bytes()[:60])
    assert "cannot be read as ImageNet's devkit" in refused(val, labels=tmp_path / "cut.tar.gz")


def test_kaggles_solution_for_the_flat_val_tar(png, tmp_path, opened, packed):
    val = packed(tmp_path / "val.tar", {f"ILSVRC2012_val_{n + 1:08d}.JPEG": png[n] for n in range(3)})
    (tmp_path / "LOC_val_solution.csv").write_bytes(kaggle(png)["LOC_val_solution.csv"])
    assert opened(val, labels=tmp_path / "LOC_val_solution.csv").labels.tolist() == [2, 1, 0]


def tiny(png, val=WNIDS):
    files = {f"train/{wnid}/images/{wnid}_{n}.JPEG": png[2 * place + n] for place, wnid in enumerate(WNIDS) for n in range(2)}
    files |= {f"val/images/val_{n}.JPEG": png[6 + n] for n in range(len(val))} | {"test/images/test_0.JPEG": png[11]}
    return files | {"val/val_annotations.txt": "".join(f"val_{n}.JPEG\t{wnid}\t0\t0\t63\t63\n" for n, wnid in enumerate(val)).encode(),
                    "wnids.txt": b"n01440764\n", f"train/{WNIDS[0]}/{WNIDS[0]}_boxes.txt": b"x"}


@pytest.mark.parametrize("above", ["", "tiny-imagenet-200/"])
def test_tiny_imagenet(png, tree, above, opened, contents, refused):
    path = tree({above + name: content for name, content in tiny(png, val=(WNIDS[1], WNIDS[0], WNIDS[2], WNIDS[1])).items()})
    train, val = (opened(path, split=split) for split in ("train", "val"))
    assert train.class_names == val.class_names == list(WNIDS)
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2] and val.labels.tolist() == [1, 0, 2, 1]
    assert [content for content, _ in contents(val).values()] == png[6:10]
    assert "the images of split test are in no class folders" in refused(path, split="test")
    assert opened(path, split="test", unlabeled=True).labels.tolist() == [0]
    alone = opened(path / above / "val")
    assert alone.class_names == list(WNIDS) and alone.labels.tolist() == [1, 0, 2, 1]


def test_a_split_that_lacks_a_class_is_an_error_unless_asked_for(png, tree, opened, refused):
    path = tree(tiny(png, val=(WNIDS[1],) * 3))
    assert opened(path, split="train").classes == 3
    said = refused(path, split="val")
    assert "class 0, n01440764, has no image in this split, nor have 1 more of 3; if that is intended, give --empty-classes" in said
    assert opened(path, split="val", empty_classes=True).labels.tolist() == [1, 1, 1]


@pytest.mark.parametrize("line, words", [("val_9.JPEG n01440764", "line 4 is not an image's name"), ("val_9.JPEG\t", "line 4"),
                                         ("val_0.JPEG\tn2", "line 4"), ("other.JPEG\tn1", "1 of its 4 names are not images of")])
def test_annotations_that_do_not_serve(png, tree, line, words, refused):
    files = tiny(png)
    files["val/val_annotations.txt"] += line.encode()
    assert words in refused(tree(files), split="val")


def test_references_and_samples_need_no_labels(png, tree):
    """Images to be scored are taken as before, in the same order, whatever their labels."""
    from ditscale.evaluation.images import open_images

    for files in (kaggle(png), tiny(png)):
        path = tree(dict.fromkeys(files, png[0]), f"as{len(files)}")
        assert open_images(path, split="val").count == 3
    path = tree({f"ILSVRC2012_val_{n + 1:08d}.JPEG": png[0] for n in range(3)}, "flat")
    assert open_images(path).count == 3 and open_images(path).labels is None
    path = tree({"train/cat/1.png": png[0], "train/dog/1.png": png[0], "val/dog/2.png": png[0]}, "folders")
    assert open_images(path, split="val").labels.tolist() == [1]


LABEL_FILES = [("name,label\na,1\nb,0\n", [1, 0], None), ("name,label\na.png,1.0\nb.png,0.0\n", [1, 0], None),
               ("filename,class\na.png,1\nb.png,0\n", [1, 0], None), (",name,label\n0,a.png,1\n1,b.png,0\n", [1, 0], None),
               ("image_id;target\na;1\nb;0\n", [1, 0], None), ("id\tlabel\na.png\tcat\nb.png\tape\n", [1, 0], ["ape", "cat"]),
               ("path,split,class\na.png,x,1\nb.png,y,0\n", [1, 0], None), ("label,file,name\n1,z,a.png\n0,z,b.png\n", [1, 0], None)]


@pytest.mark.parametrize("content, labels, names", LABEL_FILES)
def test_labels_files_as_others_write_them(png, tree, tmp_path, content, labels, names, opened):
    (tmp_path / "l.csv").write_text(content)
    for files in ({"a.png": png[0], "b.png": png[1]}, {"img/x/a.png": png[0], "img/x/b.png": png[1]}):
        source = opened(tree(files, f"s{len(str(files))}"), labels=tmp_path / "l.csv")
        assert source.labels.tolist() == labels and source.class_names == names


@pytest.mark.parametrize("content, words", [
    ("a.png,1\nb.png,0\n", "it is: a.png,1"), ("name,class,label,labels,target\n", "holds no labels"),
    ("file,path,label\na,b,1\n", "it is: file,path,label"), ("name,class,target\na,b,1\n", "it is: name,class,target"),
    ("name,label\nx.png,1\ny.png,0\n", "no label for 2 of 2 images, for example a.png; its first name is 'x.png'"),
    ("name,label\na.png,1\nb.png,2\n", "class 0 has no image, labels are 1 to 2; labels that start at 1 are the usual cause: --first-label 1"),
    ("name,label\na.png,0\nb.png,2\n", "class 1 has no image in this split; if that is intended, give --empty-classes"),
    ("name,label\na.png,0\nb.png,n/a\n", "some labels are numbers, for example 0, and 1 are words, for example 'n/a'"),
    ("name,label\na.png,0\nb.png,0.5\n", "some labels are numbers, for example 0, and 1 are words, for example '0.5'"),
    ("name,label\na.png,-1\nb.png,-1\n", "label -1 is not between 0 and 999999; splits without labels are published so: --unlabeled"),
    ("name,label\na.png,0\nb.png\n", "line 3 is not a name and a label: b.png"),
])
def test_what_stands_in_a_labels_file_is_shown(png, tree, tmp_path, content, words, refused):
    (tmp_path / "l.csv").write_text(content)
    assert words in refused(tree({"a.png": png[0], "b.png": png[1]}), labels=tmp_path / "l.csv")


def test_labels_from_1_and_none_at_all(png, tree, tmp_path, opened, refused):
    (tmp_path / "l.csv").write_text("name,label\na.png,2\nb.png,1\n")
    path = tree({"a.png": png[0], "b.png": png[1]})
    assert opened(path, labels=tmp_path / "l.csv", first_label=1).labels.tolist() == [1, 0]
    assert opened(path, labels=tmp_path / "l.csv", empty_classes=True).labels.tolist() == [2, 1]
    assert "--labels" in refused(path, labels=tmp_path / "l.csv", unlabeled=True)
    (tmp_path / "l.csv").write_text("name,label\na.png,0\nb.png,1\n")
    assert "label 0 with --first-label 1" in refused(path, labels=tmp_path / "l.csv", first_label=1)
    assert "cannot be read" in refused(path, labels=tmp_path / "none.csv")


@pytest.mark.parametrize("labels, first, expected", [(np.array([0.0, 1.0, 1.0]), 0, [0, 1, 1]), (np.array([1, 2, 2]), 1, [0, 1, 1]),
                                                     (np.array(["b", "a", "b"]), 0, [1, 0, 1])])
def test_labels_of_arrays(tmp_path, labels, first, expected, opened):
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 4, 4, 3), np.uint8), labels=labels)
    assert opened(tmp_path / "x.npz", first_label=first).labels.tolist() == expected


@pytest.mark.parametrize("labels", [[-1, -1, -1], [0, 5, 2**40], [0, 1, 0.5]])
def test_unlabeled_arrays_and_rows(png, tmp_path, labels, opened, refused):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    np.savez(tmp_path / "x.npz", images=np.zeros((3, 4, 4, 3), np.uint8), labels=labels)
    pq.write_table(pa.table({"image": [{"bytes": content, "path": ""} for content in png[:3]], "label": labels}), tmp_path / "x.parquet")
    for name in ("x.npz", "x.parquet"):
        assert str(max(labels) if min(labels) == 0 and max(labels) > 5 else 0.5 if 0.5 in labels else -1) in refused(tmp_path / name)
        assert opened(tmp_path / name, unlabeled=True).labels.tolist() == [0, 0, 0]


def test_the_command_builds_what_it_says(png, tmp_path, packed):
    from click.testing import CliRunner

    from ditscale.cli import main
    from ditscale.data.manifest import read_manifest

    path = packed(tmp_path / "x.tar", shard(png, range(6), label=lambda n: 1 + n % 3))
    command = ["data", "build", str(path), str(tmp_path / "o.beton"), "--size", "8", "--workers", "1"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2 and "--first-label 1" in done.stderr and not list(tmp_path.glob("*o.beton*"))
    done = CliRunner().invoke(main, [*command, "--first-label", "1"])
    assert done.exit_code == 0, done.output
    assert "3 classes" in done.stdout and read_manifest(tmp_path / "o.beton").class_counts == [2, 2, 2]
    again = CliRunner().invoke(main, [*command, "--first-label", "1"])
    assert again.exit_code == 0 and "already there, checked" in again.stdout
    other = CliRunner().invoke(main, [*command, "--unlabeled"])
    assert other.exit_code == 2 and "exists already with other images or labels" in other.stderr
