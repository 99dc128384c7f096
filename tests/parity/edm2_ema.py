"""EDM2's power-function averages: exponents, tracks, and averages of other lengths rebuilt from snapshots."""

from types import SimpleNamespace

import torch
from reference import TIGHT, Row, load

from ditscale.training.ema.ema import Averages
from ditscale.training.ema.profiles import Profile, combine, gamma_of, track_name


def compare(path):
    """Rows for one file: ``weights`` (steps + 1, n) in training, of which tracks, snapshots and rebuilt averages are made."""
    file = load(path)
    lengths, asked, batch = file["lengths"].tolist(), file["out_lengths"].tolist(), file["batch"].item()
    yield Row("exponents of the tracks' lengths", exponents(lengths), file["gamma_of_lengths"], TIGHT)
    yield Row("exponents of other lengths", exponents(asked), file["gamma_of_out"], TIGHT)
    taken, of_length = file["snapshot_images"].tolist(), file["snapshot_lengths"].tolist()
    kept = tracked(file["weights"], batch, sorted({*of_length, *asked}))
    yield Row("tracks at each snapshot", torch.stack([kept[key] for key in zip(taken, of_length)]), file["snapshots"], TIGHT)
    for images in file["out_images"].tolist():
        truth = torch.stack([kept[images, length] for length in asked])
        yield Row(f"averages tracked at every step, at {images} images", truth, file[f"tracked_directly_{images}"], TIGHT)
        weights, rebuilt = rebuild(file, images)
        yield Row(f"coefficients of snapshots at {images} images", weights.T, file[f"coefficients_{images}"], TIGHT)
        yield Row(f"sums of the coefficients at {images} images", weights.sum(1), torch.ones(len(asked)), TIGHT)
        yield Row(f"rebuilt averages at {images} images", rebuilt, file[f"rebuilt_{images}"], TIGHT)


def exponents(lengths):
    return torch.tensor([gamma_of(length) for length in lengths], dtype=torch.float64)


def tracked(weights, batch, lengths):
    """(images, length) to the average that a run keeps, (n,)."""
    master = weights[0].clone()
    train = SimpleNamespace(ema_decay=0.9999, ema_decays=(), ema_lengths=lengths)
    averages, found = Averages(SimpleNamespace(masters=[master]), train), {}
    for step, now in enumerate(weights[1:], start=1):
        master.copy_(now)
        averages.update((step - 1) * batch, step * batch)
        found |= {(step * batch, length): averages.tracks[track_name(length)].flats[0].clone() for length in lengths}
    return found


def rebuild(file, images):
    """Coefficients (lengths, snapshots up to ``images``) and the averages of those lengths (lengths, n), fp64."""
    taken, of_length = file["snapshot_images"].tolist(), file["snapshot_lengths"].tolist()
    known = [i for i, at in enumerate(taken) if at <= images]
    profiles = [Profile(taken[i], gamma_of(of_length[i])) for i in known]
    weights = torch.stack([torch.from_numpy(combine(profiles, Profile(images, gamma_of(length)))[0])
                           for length in file["out_lengths"].tolist()])
    return weights, weights @ file["snapshots"][known].double()
