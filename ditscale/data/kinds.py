"""Detects whether a training file holds pixels or latents, and checks it against the config."""

import numpy as np

from ditscale.data.beton import BetonFile
from ditscale.data.manifest import manifest_path, read_manifest
from ditscale.errors import UserError

MIRROR = "mirror"                                                              # data.flip of latents whose flips are not stored
FIELDS = {"pixels": "image", "latents": "moments"}                             # if each flip is stored


def kind_of(file: BetonFile) -> str:
    """"pixels" or "latents": what a training file holds.

    Raises:
        UserError: it is neither, so it cannot be trained on.
    """
    image, moments, label = (file.fields.get(name) for name in ("image", "moments", "label"))
    if label is not None and label.is_int:
        if image is not None and image.dtype == np.uint8 and len(image.shape) == 3:
            return "pixels"
        if moments is not None and moments.dtype == np.int16 and len(moments.shape) == 5 and max(moments.shape[:2]) <= 2:
            return "latents"
    has = ", ".join(f"'{name}' ({spec.dtype} {spec.shape})" for name, spec in file.fields.items())
    raise UserError(f"{file.path}: needs fields 'image' (uint8, channels x height x width) or 'moments' (int16, 2 x 2 x channels "
                    f"x height x width, or 1 for a 2), and 'label' (integer); it has {has}")


def image_shape(file: BetonFile) -> tuple[int, int, int]:
    """Channels, height and width of what a model sees: pixels or latent cells."""
    channels, height, width = file.fields[FIELDS[kind_of(file)]].shape[-3:]
    return channels, height, width


def check_shape(key: str, file: BetonFile, data) -> None:
    """Raises UserError if the file under ``key`` has other channels or another size than the section ``data`` of a config."""
    kind, shape, wanted = kind_of(file), image_shape(file), (data.channels, data.resolution, data.resolution)
    if shape != wanted:
        fits = f"data.channels: {shape[0]} and data.resolution: {shape[1]} would work" if shape[1] == shape[2] else "a model needs squares"
        raise UserError(f"{key}: {file.path} holds {kind} of shape {shape}, but data.channels and data.resolution make {wanted}; {fits}")


def check_data(key: str, file: BetonFile, data) -> None:
    """Raises UserError if the file under ``key`` is not what the section ``data`` of a config says."""
    kind = kind_of(file)
    check_shape(key, file, data)
    if kind == "pixels":
        named = next((name for name in ("latent_scale", "latent_shift") if getattr(data, name) is not None), None)
        if named:
            raise UserError(f"data.{named} is for latent files; {file.path} holds pixels, which are scaled to [-1, 1]")
        if data.flip == MIRROR:
            raise UserError(f"data.flip: {MIRROR} is for latent files; {file.path} holds pixels, for which data.flip is true or false")
    else:
        _check_latents(key, file, data, read_manifest(file.path).encoder)
    labels = file.read("label", np.arange(file.num_samples))
    if labels.min() < 0 or labels.max() >= data.classes:
        raise UserError(f"{key}: {file.path} has labels {labels.min()} to {labels.max()}, but data.classes is {data.classes}")


def _check_latents(key: str, file: BetonFile, data, encoder) -> None:
    """Raises UserError if a file of latents is not what its manifest says, or stores no flips and flips are requested."""
    if not encoder:
        raise UserError(f"{key}: the manifest of {file.path} does not say which encoder made it; build it with "
                        "`ditscale data encode`")
    flips, numbers = file.fields["moments"].shape[:2]
    if encoder["has_std"] and numbers == 1 or (encoder.get("flips", "stored") == "stored") != (flips == 2):
        raise UserError(f"{key}: {file.path} holds moments of shape {file.fields['moments'].shape}, which its manifest does not state; build "
                        "it again")
    if data.flip is True and flips == 1:
        how = "some images were mirrored before they were encoded" if encoder.get("flips") == "random" else "no flips are stored"
        raise UserError(f"data.flip: {file.path} holds each image once ({how}); data.flip: false leaves it so, and data.flip: {MIRROR} "
                        "mirrors half of the latents themselves, which is near to what the encoder makes of a mirrored image, not equal")
    if data.flip == MIRROR and flips == 2:
        raise UserError(f"data.flip: {MIRROR}: {file.path} holds latents of the mirrored images; data.flip: true takes those")


def check_classes(key: str, file: BetonFile, data) -> None:
    """Raises UserError if a training file has another number of classes than the section ``data``: by its manifest; without
    one, if all labels are equal while ``data`` states several classes."""
    if manifest_path(file.path).exists():
        classes, says = read_manifest(file.path).classes, "its manifest says"
    else:
        labels = file.read("label", np.arange(file.num_samples))
        is_one = data.classes > 1 and labels.min() == labels.max()
        classes, says = (1, "all its labels are equal") if is_one else (data.classes, "")
    if classes != data.classes:
        unlabeled = "; it was built without labels, or of one class" if classes == 1 else ""
        raise UserError(f"{key}: {file.path} holds {classes:,} class{'es' * (classes != 1)}, {says}, but data.classes is "
                        f"{data.classes:,}{unlabeled}; set data.classes to {classes}, or build the data again with the labels meant")
