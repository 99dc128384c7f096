"""The list of formulations. To add one, add its files here, and a line."""

from ditscale.diffusion.ddpm_options import DdpmConfig
from ditscale.diffusion.edm_options import EdmConfig
from ditscale.diffusion.flow_options import FlowConfig
from ditscale.diffusion.options import FormulationOptions

FORMULATIONS: list[type[FormulationOptions]] = [DdpmConfig, EdmConfig, FlowConfig]


def name_of(options: type[FormulationOptions]) -> str:
    """The name of a formulation in a config: the only value of its ``name``."""
    return options.model_fields["name"].annotation.__args__[0]                 # of a Literal


def by_name() -> dict[str, type[FormulationOptions]]:
    """Each formulation's options by its name."""
    return {name_of(options): options for options in FORMULATIONS}
