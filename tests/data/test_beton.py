import os

import numpy as np
import pytest

from ditscale.data.beton import FIELD, HEADER, BetonFile, field_specs, stream_beton, write_beton
from ditscale.data.ffcv_import import build_beton
from ditscale.data.kinds import kind_of
from ditscale.data.manifest import stored_blake2b
from ditscale.errors import UserError


def test_reads_back_bit_for_bit(stored):
    file = BetonFile(stored.path)
    assert file.num_samples == 45 and list(file.fields) == ["image", "label"]
    assert file.fields["image"].shape == (2, 224, 219) and file.fields["image"].dtype == np.uint8
    chosen = np.random.default_rng(1).integers(0, 45, (3, 20))
    assert (file.read("image", chosen) == stored.images[chosen]).all()
    assert (file.read("label", chosen) == stored.labels[chosen]).all()
    assert file.read("image", np.arange(0)).shape == (0, 2, 224, 219)
    file.read("image", [4])[:] = 0                                             # a copy, not the file
    assert (file.read("image", [4]) == stored.images[[4]]).all()


def test_fields_of_every_kind(tmp_path):
    random = np.random.default_rng(0)
    fields = {"label": np.arange(1000), "mean": random.normal(size=(1000, 4, 3)).astype(np.float32),
              "bits": random.integers(-2**15, 2**15, (1000, 7)).astype(np.int16), "one": np.arange(1000.0)[:, None]}
    write_beton(tmp_path / "mixed.beton", fields, page_size=4096)              # 58 samples a page
    file = BetonFile(tmp_path / "mixed.beton")
    for name, values in fields.items():
        read = file.read(name, np.arange(1000)[::-1])
        assert read.dtype == values.dtype and read.tobytes() == values[::-1].tobytes()
    with pytest.raises(UserError, match="no field 'lable'; did you mean 'label'"):
        file.read("lable", [0])


def test_a_sample_larger_than_a_page_gets_larger_pages(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 5000), dtype=np.uint8)
    write_beton(tmp_path / "large.beton", {"image": images}, page_size=4096)
    assert (BetonFile(tmp_path / "large.beton").read("image", np.arange(3)) == images).all()


def test_integers_alone(tmp_path):
    write_beton(tmp_path / "labels.beton", {"label": np.arange(7)})
    assert BetonFile(tmp_path / "labels.beton").read("label", np.arange(7)).tolist() == list(range(7))


@pytest.mark.parametrize("cuts", [[], [1], [21], [21, 42], [7, 8, 30, 44]])    # a page holds 21 samples
def test_a_streamed_file_has_the_same_bytes(stored, source, tmp_path, cuts):
    batches = ({"image": part} for part in np.split(source["image"], cuts))
    stream_beton(tmp_path / "x.beton", field_specs("x", source), 45, {"label": source["label"]}, batches)
    assert (tmp_path / "x.beton").read_bytes() == stored.path.read_bytes()


def test_streamed_fields_side_by_side(tmp_path):
    random = np.random.default_rng(0)
    fields = {"a": random.normal(size=(100, 3)), "label": np.arange(100), "b": random.integers(0, 9, (100, 2), np.int16)}
    write_beton(tmp_path / "whole.beton", fields, page_size=256)
    batches = ({"a": fields["a"][i:i + 13], "b": fields["b"][i:i + 13]} for i in range(0, 100, 13))
    stream_beton(tmp_path / "x.beton", field_specs("x", fields), 100, {"label": fields["label"]}, batches, page_size=256)
    assert (tmp_path / "x.beton").read_bytes() == (tmp_path / "whole.beton").read_bytes()
    with pytest.raises(ValueError, match="100 samples"):
        stream_beton(tmp_path / "y.beton", field_specs("x", fields), 100, {"label": fields["label"]},
                     [{"a": fields["a"][:50], "b": fields["b"][:50]}], page_size=256)
    assert sorted(os.listdir(tmp_path)) == ["whole.beton", "x.beton"]


def test_ffcv_writes_the_same_bytes(stored, ffcv_backend, tmp_path, capfd):
    path = tmp_path / "made" / "here.beton"
    assert build_beton(path, {"image": stored.images, "label": stored.labels}) == "ffcv"
    assert path.read_bytes() == stored.path.read_bytes()
    assert (BetonFile(path).read("image", np.arange(45)) == stored.images).all()
    assert os.listdir(path.parent) == ["here.beton"]
    assert capfd.readouterr() == ("", "")                                      # no progress bar


@pytest.mark.parametrize("fields, message", [
    ({"a": np.zeros((2, 3), np.float16)}, "float16.*view"),
    ({"a": np.zeros(2, np.float32)}, "shape \\(2,\\)"),
    ({"a": np.zeros((2, 3, 0), np.uint8)}, "shape \\(2, 3, 0\\)"),
    ({"a": np.zeros(0, np.int64)}, "at least 1"),
    ({"a": np.zeros(2, np.int64), "b": np.zeros(3, np.int64)}, "same number"),
    ({"a name of 17 char": np.zeros(2, np.int64)}, "1 to 16 ASCII"),
])
def test_what_cannot_be_stored_is_refused(tmp_path, fields, message):
    for write in (write_beton, build_beton):
        with pytest.raises(UserError, match=message):
            write(tmp_path / "x.beton", fields)
    assert not os.listdir(tmp_path)


def refused(path) -> str:
    """The message with which the file is refused: one line with its path."""
    with pytest.raises(UserError) as caught:
        BetonFile(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_cut_short_anywhere_is_refused(stored, tmp_path):
    whole = stored.path.read_bytes()
    tables_end = HEADER.itemsize + 2 * FIELD.itemsize + 45 * 16
    table_at = int(np.frombuffer(whole, HEADER, count=1)[0]["allocations_at"])
    path = tmp_path / "short.beton"
    for length in (0, 1, 23, 24, 500, tables_end - 1, tables_end, 1 << 21, (1 << 21) + 7, 5_000_000, table_at - 1,
                   table_at, table_at + 24, len(whole) - 1):
        path.write_bytes(whole[:length])
        message = refused(path)
        assert f"ends after {length} bytes" in message and "build it again" in message


def test_what_is_not_a_beton_is_refused(tmp_path):
    assert "no such file; build it first" in refused(tmp_path / "missing.beton")
    assert "is a folder" in refused(tmp_path)
    for content in (b"", b"{}", b"\xff\xd8\xff\xe0" * 1000, bytes(10_000), os.urandom(50_000),
                    b"\x02\x00" + bytes(9_998), b"\x02\x00\x01\x00" + b"\xff" * 9_998):
        path = tmp_path / "other.beton"
        path.write_bytes(content)
        refused(path)


def test_damage_is_refused(stored, tmp_path):
    def damaged(start, new):
        content = bytearray(stored.path.read_bytes())
        content[start:start + len(new)] = new
        path = tmp_path / "damaged.beton"
        path.write_bytes(content)
        return refused(path)

    whole = stored.path.read_bytes()
    table = HEADER.itemsize + 2 * FIELD.itemsize
    allocations_at = int(np.frombuffer(whole, HEADER, count=1)[0]["allocations_at"])
    assert "format version 2" in damaged(0, b"\x01")
    assert "stopped before the end" in damaged(16, bytes(8))
    assert "FFCV's type 2" in damaged(HEADER.itemsize, b"\x02")                # an RGB image
    assert "does not describe an array" in damaged(HEADER.itemsize + 17, b"\xff" * 500)
    assert "outside its pages" in damaged(table, b"\xff" * 8)
    assert "outside its pages" in damaged(table, allocations_at.to_bytes(8, "little"))
    assert "disagree" in damaged(table, (2**21 + 1).to_bytes(8, "little"))
    assert "disagree" in damaged(allocations_at + 16, bytes(8))
    assert "disagree" in damaged(table, whole[table + 16:table + 24])          # the first sample's bytes are the second's
    assert "not a power of two" in damaged(4, b"\x01")
    path = tmp_path / "long.beton"
    path.write_bytes(whole + b"\n")
    assert "1 bytes follow" in refused(path)


def test_a_flipped_byte_in_the_tables_is_found(tmp_path):
    """At open, or by the hash of the content; else it lies in an unused byte and changes nothing that is read."""
    fields = {"image": np.random.default_rng(0).integers(0, 256, (5, 1, 2, 2), dtype=np.uint8), "label": np.arange(5)}
    path = tmp_path / "x.beton"
    write_beton(path, fields)
    whole = path.read_bytes()
    content, tables_end = stored_blake2b(BetonFile(path)), HEADER.itemsize + 2 * FIELD.itemsize + 5 * 16
    allocations_at = int(np.frombuffer(whole, HEADER, count=1)[0]["allocations_at"])
    at_open = by_hash = 0
    for place in (*range(tables_end), *range(allocations_at, len(whole))):
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(bytes([whole[place] ^ 0x10]))
        try:
            opened = BetonFile(path)
            kind_of(opened)
        except UserError:
            at_open += 1
        else:
            if stored_blake2b(opened) != content:
                by_hash += 1
            else:
                assert HEADER.itemsize + 1 <= place < tables_end - 80          # padding of names and arguments
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(whole[place:place + 1])
    assert at_open >= 24 + 40 + 5 * 24 and by_hash == 5 * 8                    # the labels have nothing else to agree with


@pytest.mark.parametrize("writer", ["ffcv", "numpy"])
def test_a_write_that_fails_leaves_the_old_file(stored, tmp_path, writer, request, files_limited_to):
    if writer == "ffcv":
        request.getfixturevalue("ffcv_backend")
    path = tmp_path / "kept.beton"
    path.write_bytes(b"old")
    write = build_beton if writer == "ffcv" else write_beton
    with files_limited_to(3 << 20), pytest.raises(UserError, match=f"{path} .*(large|whole)"):
        write(path, {"image": stored.images, "label": stored.labels})
    assert os.listdir(tmp_path) == ["kept.beton"] and path.read_bytes() == b"old"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_beton(tmp_path / "file" / "x.beton", {"label": np.arange(3)})
