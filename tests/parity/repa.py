"""REPA: outputs, both losses, the projector, ODE and SDE, with and without its guidance interval."""

from reference import TIGHT, Row, as_given, given_noise, image_means, load, peer_model

from ditscale.diffusion.guidance import Guided
from ditscale.diffusion.samplers import sample
from ditscale.models.dit import run
from ditscale.models.taps import Head
from ditscale.objectives.auxiliary.repa.alignment import alignment


def compare(path):
    """Rows for one file."""
    file = load(path)
    peer = peer_model("repa", file, int(file["dims"][6]))
    flow, t, labels = peer.formulation, file["t"], file["labels"]
    output = peer.model(*flow.model_inputs(file["data"], t), labels)
    yield Row("output_of_data_at_t", output, file["output_of_data_at_t"], TIGHT)
    output = peer.model(*flow.model_inputs(flow.add_noise(file["data"], file["noise"], t), t), labels)
    loss = image_means(flow.loss(output, file["data"], file["noise"], t)["mse"])
    yield Row("denoising_loss", loss, file["denoising_loss"], TIGHT)
    project = projector(peer, file)
    yield Row("projected", project(file["data"]), file["projected"], TIGHT)
    aligned = alignment(project(flow.add_noise(file["data"], file["noise"], t)), file["alignment_target"])
    yield Row("projection_loss", aligned, file["projection_loss"], TIGHT)
    for name, options in {"euler": {"sampler": "euler"}, "euler_heun": {"sampler": "heun"},
                          "sde": {"sampler": "sde", "sde_norm": 1.0, "sde_last": "mean"}}.items():
        yield Row(name, drawn(peer, file, 1.0, **options), file[name], TIGHT)
        if f"{name}_cfg_interval" in file:
            guided = drawn(peer, file, file["cfg_scale"].item(), **options)
            yield Row(f"{name}_cfg_interval", guided, file[f"{name}_cfg_interval"], TIGHT)


def projector(peer, file):
    """Images to projected tokens of their block: ditscale's head and taps with the projector's weights."""
    names = {name.split("projectors.0.")[1]: value for name, value in file["weights"].items() if "projectors.0." in name}
    widths = (names["0.weight"].shape[1], *(names[f"{number}.weight"].shape[0] for number in (0, 2, 4)))
    head = Head(widths)
    head.load_state_dict(names)

    def project(images):
        condition = peer.model.condition(peer.formulation.model_inputs(images, file["t"])[1], file["labels"])
        tokens, _ = run(peer.model.blocks[:2], peer.model.embed(images), condition.tokens, condition.c)
        return head(tokens)
    return project


def drawn(peer, file, scale, **options):
    """Images in fp64 but for the network, as theirs; guidance where t is at most ``guidance_high``, on all channels."""
    guided = Guided(peer.model, scale, int(file["dims"][3]), interval=(0.0, as_given(file["guidance_high"])))
    with given_noise(file["step_noise"].double()):
        return sample(guided, peer.formulation, file["start_noise"].double(), file["sample_labels"], seed=0,
                      positions=file["sample_labels"], steps=len(file["step_noise"]), **options)
