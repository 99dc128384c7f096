"""The block designs of the DiT paper (Sec. 3.2, Fig. 3): how conditioning enters a transformer block. No torch here.

``DESIGNS`` is the list. An entry has a design's name and color, how its blocks take the condition, what one
block computes and keeps, and where its class is. To add one, add its class to this folder and an entry to the list.
"""

from ditscale.models.blocks.design import BlockDesign, CrossAttending

MODULES = "ditscale.models.blocks.modules"

DESIGNS = {design.name: design for design in (
    BlockDesign("adaln_zero", "adaLN-Zero", "#1c1f24", "#e9ebee", f"{MODULES}:AdaLNZeroBlock", modulation_vectors=6, gates=2),
    BlockDesign("adaln", "adaLN", "#8a1f47", "#e0608f", f"{MODULES}:AdaLNBlock", modulation_vectors=4),
    CrossAttending("cross_attention", "cross-attention", "#3a8ac8", "#62aeea", f"{MODULES}:CrossAttentionBlock", condition="sequence"),
    BlockDesign("in_context", "in-context", "#dd9b22", "#f0bd55", f"{MODULES}:InContextBlock", condition="tokens"),
)}
DEFAULT_DESIGN = "adaln_zero"                                                  # of the released models; left out of names
