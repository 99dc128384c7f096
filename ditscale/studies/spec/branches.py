"""``train.branches``: runs of several lengths that share their beginning.

A key of a study's file alone, like ``train.flops``. With ``train.lr_schedule: wsd`` the rate is constant up to the decay, so a run of
length S is, up to (1 - d) S with d = ``train.lr_decay_share``, the beginning of every longer one. The longest length is the trunk: the run that it
would be without branches, with the same id, which also keeps its training state where the others branch off. Each other length is a run
with a ``parent``, the trunk and that point, which trains only its decay. Its result is that of the run of its length from the beginning.
"""

from collections.abc import Callable
from fractions import Fraction

from ditscale.config import RunConfig, resolve
from ditscale.errors import UserError
from ditscale.studies.spec.lengths import FLOPS, derive
from ditscale.studies.spec.provenance import Settings, Source
from ditscale.training.parent import check_equal_before

BRANCHES, IMAGES = "train.branches", "train.images"
DEFAULT_SHARE = 0.2                                                            # of train.lr_decay_share


def listed(config: dict, settings: dict) -> object:
    """``train.branches`` of a run with these settings on top of the base config; None if it has none."""
    train = config.get("train")
    return settings.get(BRANCHES, train.get("branches") if isinstance(train, dict) else None)


def each_length(config: dict, settings: Settings, source: Source | None, place: str) -> list[Settings]:
    """The lengths that the settings of a run stand for, the trunk's first, as further settings; one empty one where a length is chosen.

    Args:
        source: of ``train.branches``.

    Raises:
        UserError: ``train.branches`` is no list of lengths, or another key also decides the length.
    """
    found = listed(config, settings)
    if found is None or settings.get(IMAGES) is not None:
        return [Settings({}, {})]
    train = config.get("train") or {}
    for key in ("images", FLOPS):
        if (value := settings.get(f"train.{key}", train.get(key))) is not None:    # null: not set
            raise UserError(f"{place}: train.branches decides train.images, and train.{key} {value} is given too; leave one out")
    return [Settings({IMAGES: images}, {IMAGES: source.deciding(BRANCHES)}) for images in sorted(_lengths(found, place), reverse=True)]


def lone_trunk(config: dict, points: list[dict]) -> str:
    """A note on a list of one length, which has no branch; "" where there is none. ``points`` are the settings of the study's runs."""
    lists = [found for point in points if isinstance(found := listed(config, point), list) and len(found) == 1]
    return f"Note: train.branches {lists[0]} has one length, so no run branches off; give two lengths or more, or train.images {lists[0][0]}" if lists else ""


def settled(values: dict, place: str, run_id: Callable[[RunConfig], str]) -> dict:
    """A run's values with ``train.branches`` replaced: a branch has a ``parent``, the trunk the places of its branches.

    Args:
        values: with the run's own length. run_id: names a run.

    Raises:
        UserError: the run's length is not among the branches, a branch point is not a whole number of batches, the schedule has no
            constant part, or the variant's own schedule depends on the length.
    """
    train = values.get("train")
    train = dict(train) if isinstance(train, dict) else {}
    found = train.pop("branches", None)
    if found is None:
        if values.get("parent"):
            raise UserError(f"{place}: parent is set by train.branches; leave it out")
        return derive({**values, "train": train} if train else values, place)
    lengths = _lengths(found, place)
    if train.get("images") not in lengths:
        raise UserError(f"{place}: train.images {train.get('images')} is not in train.branches {lengths}")
    if train.get("lr_schedule") != "wsd":
        raise UserError(f"{place}: train.branches needs train.lr_schedule wsd, whose rate is constant up to the decay; it is "
                        f"{train.get('lr_schedule', 'constant')}")
    points = {images: _point(images, train, place) for images in lengths}
    own, longest = train["images"], max(lengths)
    trunk = derive({**values, "train": {**train, "images": longest}}, place)
    if own == longest:
        places = sorted(point for images, point in points.items() if images != longest)
        return {**trunk, "resources": {**(trunk.get("resources") or {}), "branch_images": places}} if places else trunk
    parent = resolve(trunk, place)
    branch = {**derive({**values, "train": train}, place), "parent": {"run": run_id(parent), "images": points[own]}}
    try:
        check_equal_before(parent, resolve(branch, place))
    except UserError as error:
        raise UserError(f"{place}: {error}".replace(f"{place}: {place}: ", f"{place}: ")) from None
    return branch


def branch_sources(sources: dict) -> dict:
    """The sources of a config's values, with that of ``train.branches`` at the keys that it determines."""
    train = sources.get("train")
    if not isinstance(train, dict) or "branches" not in train:
        return sources
    source = train["branches"].deciding(BRANCHES)
    resources = sources.get("resources") if isinstance(sources.get("resources"), dict) else {}
    return {**sources, "parent": {"run": source, "images": source}, "resources": {**resources, "branch_images": source}}


def _lengths(found, place: str) -> list[int]:
    whole = [int(one) if isinstance(one, float) and one.is_integer() else one for one in found] if isinstance(found, (list, tuple)) else []
    if not whole or not all(type(one) is int and one > 0 for one in whole):
        raise UserError(f"{place}: train.branches is {found!r}; give a list of training lengths in images, for example [25.6e6, 51.2e6]")
    if len(set(whole)) < len(whole):
        raise UserError(f"{place}: train.branches has a length twice: {', '.join(map(str, whole))}")
    return whole


def _point(images: int, train: dict, place: str) -> int:
    """Images at which a run of this length begins its decay."""
    share, batch = train.get("lr_decay_share", DEFAULT_SHARE), train.get("global_batch", 256)
    if not (isinstance(share, (int, float)) and 0 < share < 1 and isinstance(batch, (int, float)) and batch >= 1):
        if share == 1:
            raise UserError(f"{place}: train.lr_decay_share 1 leaves nothing that train.branches could share; give less, for example {DEFAULT_SHARE}")
        return images                                                          # reported when the run is made
    constant = 1 - Fraction(str(share))
    point, step = constant * images, constant.denominator * int(batch)
    if point % int(batch) or images % int(batch):
        nearest = max(1, round(images / step)) * step
        raise UserError(f"{place}: train.branches has {images}, whose decay starts at {float(point):g} images ({float(constant):g} of it); both must be "
                        f"whole batches of {batch}; the nearest that works is {nearest}")
    return int(point)
