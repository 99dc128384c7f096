"""A site is a small YAML file that says how runs are started on a cluster. Its ``launcher`` says which keys it has.

Nothing of it is part of a run's identity. ``sweeps/sites/`` has an example of each kind.
"""

from ditscale.errors import UserError
from ditscale.section import validate
from ditscale.studies.launchers import DEFAULT, MODULES, launcher
from ditscale.studies.launchers.protocol import SiteSettings
from ditscale.yamlfile import read_yaml


def load_site(path) -> SiteSettings:
    """Read a site's file, as the section of its launcher. Raises UserError: the key, the value and what would work."""
    values = read_yaml(path)
    sections = {name: section for name in MODULES if (section := launcher(name).settings)}
    chosen = values.get("launcher", DEFAULT) if isinstance(values, dict) else DEFAULT
    if not isinstance(chosen, str) or chosen not in sections:
        raise UserError(f"{path}: 'launcher' is {chosen!r}: should be {' or '.join(map(repr, sections))}")
    section = sections[chosen]
    for key in values if isinstance(values, dict) else ():
        owners = [name for name, other in sections.items() if key in other.model_fields]
        if owners and key not in section.model_fields:
            raise UserError(f"{path}: {key} is for launcher: {', '.join(owners)}{section.elsewhere}")
    return validate(section, values, str(path))
