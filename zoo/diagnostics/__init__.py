"""(model, data) -> pictures and numbers that show how a model represents its data.

`examine` does everything that a model's abilities allow; each diagnostic is a function of its own as well.
"""

from zoo.abilities import decode, latents, reconstruct
from zoo.diagnostics.catalogue import DIAGNOSTICS, Diagnostic, Finding, Subject
from zoo.diagnostics.chains import Chains, Landscape, chains, landscape, plot_chains, plot_landscape
from zoo.diagnostics.codes import Refinement, Usage, codebook_usage, plot_usage, refinement
from zoo.diagnostics.diagnosis import OVERVIEW, Diagnosis, examine
from zoo.diagnostics.generators import (
    Translation,
    class_grid,
    mixing_grid,
    slerp,
    translation_rows,
    truncation_rows,
    walk,
)
from zoo.diagnostics.latents import (
    Arithmetic,
    Scatter,
    analogies,
    attribute_arithmetic,
    closest_classes,
    interpolation,
    latent_scatter,
    plot_scatter,
)
from zoo.diagnostics.posterior import Collapse, plot_collapse, posterior_collapse
from zoo.diagnostics.trajectories import Inversion, inversion, plot_inversion, plot_trajectories

__all__ = [
    "DIAGNOSTICS",
    "OVERVIEW",
    "Arithmetic",
    "Chains",
    "Collapse",
    "Diagnosis",
    "Diagnostic",
    "Finding",
    "Inversion",
    "Landscape",
    "Refinement",
    "Scatter",
    "Subject",
    "Translation",
    "Usage",
    "analogies",
    "attribute_arithmetic",
    "chains",
    "class_grid",
    "closest_classes",
    "codebook_usage",
    "decode",
    "examine",
    "interpolation",
    "inversion",
    "landscape",
    "latent_scatter",
    "latents",
    "mixing_grid",
    "plot_chains",
    "plot_collapse",
    "plot_inversion",
    "plot_landscape",
    "plot_scatter",
    "plot_trajectories",
    "plot_usage",
    "posterior_collapse",
    "reconstruct",
    "refinement",
    "slerp",
    "translation_rows",
    "truncation_rows",
    "walk",
]
