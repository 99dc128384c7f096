"""How often each run of a plan sees its images, and whether that is farther than laws that count images seen were checked."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ditscale.errors import count

if TYPE_CHECKING:
    from ditscale.studies.plan.plan import PlanRow

# Muennighoff et al., 2305.16264, abstract: "training with up to 4 epochs of repeated data yields negligible changes to loss compared to having
# unique data", for language models at a fixed compute. For diffusion transformers no such number is known.
CHECKED = 4.0


def as_epochs(epochs: float | None) -> str:
    """``62.5``, ``1,400``; "" where the images of the data are not known."""
    if epochs is None:
        return ""
    return f"{epochs:.3g}" if epochs < 1000 else f"{epochs:,.0f}"


def epoch_lines(rows: Sequence["PlanRow"]) -> list[str]:
    """A line on runs past ``CHECKED``, and one on runs whose number of unique images is not known; none where there is nothing to say."""
    known = [row for row in rows if row.epochs is not None]
    past = [row.epochs for row in known if row.epochs and row.epochs > CHECKED]
    lines = []
    if past:
        span = as_epochs(min(past)) if min(past) == max(past) else f"{as_epochs(min(past))} to {as_epochs(max(past))}"
        lines.append(f"Epochs (images / unique images of the data's manifest): {count(len(past), 'run')} with {span}. Laws of images seen count "
                     f"every image as a new one, which was checked up to {CHECKED:g} epochs, on language models (2305.16264); for DiT the limit is not known. "
                     "`figure scaling_law --form repeated` tests it on this study.")
    if known and len(known) < len(rows):
        lines.append(f"Epochs are not known for {count(len(rows) - len(known), 'run')}: the data has no manifest here.")
    return lines
