"""The passport of a score: every choice that moves the number. Two scores may be compared only if their passports agree."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Passport:
    """How a score came about."""

    metric: str                                                                # fd_<extractor>; only Inception's may be "fid"
    extractor_sha256: str
    reference_sha256: str                                                      # of the file that the reference images come from
    reference_samples: int
    samples: int
    labels: str                                                                # balanced: image i has class i mod classes
    seed: int
    formulation: str
    sampler: str
    sampling_steps: int
    nfe: int                                                                   # model evaluations an image, guidance counted once
    guidance_scale: float
    guidance_channels: str
    guidance_interval: str
    ema_decay: float
    decoder: str                                                               # the VAE; "none" for pixels
    quantise: str                                                              # how images became uint8
    resize: str
    precision: str
    guidance_schedule: str = "constant"
    sampler_options: str = ""                                                  # what else moves the samples, as sorted JSON

    def digest(self) -> str:
        """12 hex that stand for the whole passport. Fields at their default are left out, so that one added later leaves the
        scores that stand as they are."""
        defaults = {field.name: field.default for field in fields(self)}
        stated = {name: value for name, value in asdict(self).items() if value != defaults[name]}
        return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:12]
