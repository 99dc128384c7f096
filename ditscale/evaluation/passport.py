"""The passport of a score: every setting that affects it. Two scores can be compared only if their passports agree."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields

# How a score was measured; the other fields say how the images were made.
MEASURED = ("metric", "extractor_sha256", "resize", "precision", "reference_sha256", "reference_samples", "samples")
CHOSEN = ("guidance_scale", "guidance_interval")                               # by a search, which selected_on states in their place
SEED = "seed"                                                                  # samples with other seeds are repetitions of one score


@dataclass(frozen=True)
class Passport:
    """How a score was obtained. Unknown fields, for example for images from a folder, are None."""

    metric: str                                                                # fd_<extractor>; only Inception's may be "fid"
    extractor_sha256: str
    reference_sha256: str                                                      # of the source of the reference statistics
    reference_samples: int | None
    samples: int
    resize: str
    precision: str
    labels: str | None = None                                                  # balanced: image i has class i mod classes
    seed: int | None = None
    formulation: str | None = None
    sampler: str | None = None
    sampling_steps: int | None = None
    nfe: int | None = None                                                     # model evaluations per image, guidance counted once
    guidance_scale: float | None = None
    guidance_channels: str | None = None
    guidance_interval: str | None = None
    ema_decay: float | None = None                                             # of a constant decay; otherwise see average
    decoder: str | None = None                                                 # the VAE; "none" for pixels
    quantise: str | None = None                                                # how images became uint8
    guidance_schedule: str = "constant"
    sampler_options: str = ""                                                  # other options that change the samples, as sorted JSON
    average: str = "decay"                                                     # of the weights: decay, masters, length 0.07
    levels: str = ""                                                           # of a validation loss: their distribution, and the formulation's options
    guide: str = ""                                                            # another model: RUN-ID@IMAGES AVERAGE; "" for the null class
    selected_on: str = ""                                                      # what chose the guidance, as sorted JSON; "" if nothing did
    normalization: str = ""                                                    # of a validation loss: 12 hex digits of the latents' shift and scale

    def digest(self) -> str:
        """12 hex digits that identify the whole passport. Fields at their default are left out, so that a field added later does not
        change existing ids."""
        return digest(asdict(self))


def digest(stated: dict, *, without: tuple[str, ...] = ()) -> str:
    """12 hex digits of a passport's fields; with ``without=(SEED,)`` the same for all repetitions of a score.

    Where the guidance was searched, that search counts and not its result: models are then compared each at its own best guidance, and never with one
    whose guidance was stated.
    """
    defaults = {field.name: field.default for field in fields(Passport)}
    without = (*without, *_chosen(stated))
    kept = {name: value for name, value in stated.items() if name not in without and value != defaults.get(name)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def _chosen(stated: dict) -> tuple[str, ...]:
    return CHOSEN if stated.get("selected_on") else ()


def differences(a: dict, b: dict) -> list[tuple[str, object, object]]:
    """The fields in which two passports differ, as (name, a's, b's), except the seed and what a search chose in both; None is "not stated"."""
    defaults = {field.name: field.default for field in fields(Passport) if isinstance(field.default, str)}
    chosen = set(_chosen(a)) & set(_chosen(b))                                 # both were searched: their results may differ
    names = [field.name for field in fields(Passport) if field.name != SEED and field.name not in chosen]
    values = [(name, a.get(name, defaults.get(name)), b.get(name, defaults.get(name))) for name in names]
    return [each for each in values if each[1] != each[2]]
