"""Names and the table of sizes."""

import subprocess
import sys

import pytest

from ditscale.errors import UserError
from ditscale.models.sizes import SIZES, Size, parse_model_name, token_grid


def test_paper_sizes():
    """Table 1 of the DiT paper."""
    assert [SIZES[name] for name in ("S", "B", "L", "XL")] == [
        Size(12, 384, 6), Size(12, 768, 12), Size(24, 1024, 16), Size(28, 1152, 16)]
    assert SIZES["tiny"] == Size(12, 192, 3)


def test_heads_divide_width():
    assert all(size.hidden_size % size.num_heads == 0 for size in SIZES.values())


def test_names():
    name = parse_model_name("DiT-XL/2")
    assert (name.size, name.patch_size, str(name)) == ("XL", 2, "DiT-XL/2")


@pytest.mark.parametrize("text", ["DiT-XL", "XL/2", "DiT-XXL/2", "DiT-XL/0", "DiT-xl/2", "", "DiT-XL/2\n"])
def test_bad_names_are_refused(text):
    with pytest.raises(UserError):
        parse_model_name(text)


def test_tokens():
    assert token_grid(32, 2) == 16 and token_grid(256, parse_model_name("DiT-B/16").patch_size) == 16
    with pytest.raises(UserError, match="patch sizes that do: 1, 2, 3, 4, 6, 12"):
        token_grid(12, 8)


def test_sizes_need_no_torch():
    code = "import sys, ditscale.models.sizes, ditscale.models.macs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_sizes_between_the_named_ones():
    name = parse_model_name("DiT-14x448/2")
    assert (name.dims, str(name)) == (Size(14, 448, 7), "DiT-14x448/2")
    for wrong, words in (("DiT-14x450/2", "448 would work"), ("DiT-0x448/2", "depth x width"), ("DiT-14x/2", "depth x width"),
                         ("DiT-2x30/2", "64 would work")):
        with pytest.raises(UserError, match=words):
            parse_model_name(wrong)
