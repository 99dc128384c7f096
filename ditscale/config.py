"""The run config: typed defaults <- YAML <- ``key=value``. An unknown key is an error that suggests the nearest one.

A run's *science* (what determines its result) is everything except ``resources`` and file paths; its hash is part of the run id.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ditscale.diffusion.nfe import check_interval, sampling_of
from ditscale.diffusion.registry import by_name as formulations
from ditscale.errors import UserError
from ditscale.evaluation.guidance_options import SampleChoice, check_guidance
from ditscale.evaluation.metrics.names import extractor_name
from ditscale.evaluation.metrics.table import known
from ditscale.models.options import PARAMETRIZATION, ModelConfig
from ditscale.models.sizes import parse_model_name, token_grid
from ditscale.objectives import VARIANTS
from ditscale.section import UNIONS, Count, Counts, Numbers, Section, union, validate
from ditscale.training.optimizers import OPTIMIZERS, AdamW
from ditscale.training.parent import Parent, check_parent

# The formulation, the training variant and the optimizer: each kind has its own options. At run time these come from
# the registries; a type checker needs them written out, and tests/test_config.py checks that both are equal.
if TYPE_CHECKING:
    from ditscale.diffusion.ddpm_options import DdpmConfig
    from ditscale.diffusion.edm_options import EdmConfig
    from ditscale.diffusion.flow_options import FlowConfig
    from ditscale.objectives import BaselineConfig, DiscriminativeConfig, MaskedConfig, MdtConfig, SprintConfig, TreadConfig
    from ditscale.training.optimizers import Muon, Sgd

    FormulationConfig = DdpmConfig | EdmConfig | FlowConfig
    ObjectiveConfig = BaselineConfig | MaskedConfig | MdtConfig | DiscriminativeConfig | TreadConfig | SprintConfig
    OptimizerConfig = AdamW | Sgd | Muon
else:
    FormulationConfig = union("formulation", formulations())
    ObjectiveConfig = union("objective", VARIANTS)
    OptimizerConfig = union("optimizer", OPTIMIZERS)


NO_DATA = "(imported weights: no data)"                                        # data.path of imported weights


class DataConfig(Section):
    name: str                                                                  # part of a run's identity; the path is not
    path: str = Field(min_length=1)                                            # a .beton file
    resolution: Count = Field(gt=0)                                              # pixels (or latent cells) per side
    channels: Count = Field(gt=0)
    classes: Count = Field(gt=0)
    flip: bool | Literal["mirror"] = False                                     # mirror half of the images; not for digits. mirror:
                                                                               # mirror the latents, if no flips are stored
    latent_scale: Numbers | None = None                                        # latents become (latent - shift) x scale: one
    latent_shift: Numbers | None = None                                        # number, or one per channel; None: the encoder's

    @model_validator(mode="after")
    def _check_latents(self):
        for name in ("latent_scale", "latent_shift"):
            value = getattr(self, name)
            if value is not None and len(value) not in (1, self.channels):
                raise UserError(f"data.{name} has {len(value)} numbers for data.channels {self.channels}; "
                                "give one number, or one per channel")
        if self.latent_scale is not None and min(self.latent_scale) <= 0:
            raise UserError(f"data.latent_scale {min(self.latent_scale)} must be above 0; Stable Diffusion's is 0.18215")
        return self


class TrainConfig(Section):
    images: Count = Field(gt=0)                                                  # training length, in images seen
    global_batch: Count = Field(default=256, gt=0)                             # DiT: 256
    lr: float = Field(default=1e-4, gt=0)                                      # DiT: 1e-4, constant
    warmup_images: Count = Field(default=0, ge=0)                              # linear warm-up of the learning rate
    lr_schedule: Literal["constant", "cosine", "wsd"] = "constant"             # after the warm-up; cosine and wsd end at lr_end
    lr_end: float = Field(default=0.0, ge=0)
    lr_decay: Literal["linear", "one_minus_sqrt"] = "linear"                   # wsd: how the rate falls
    lr_decay_share: float = Field(default=0.2, gt=0, le=1)                     # wsd: over the last part of training
    optimizer: OptimizerConfig = AdamW()                                       # each kind with its own options
    betas: tuple[float, float] = Field(default=(0.9, 0.999), strict=False)
    weight_decay: float = Field(default=0.0, ge=0)
    weight_decay_form: Literal["coupled", "independent"] = "coupled"           # a step's decay is weight_decay times: lr, as in torch;
                                                                               # or lr / train.lr: the schedule without the rate
    grad_clip: float = Field(default=0.0, ge=0)                                # maximum gradient norm; 0: no clipping
    grad_sums: Literal["precision", "fp32"] = "precision"                      # of gradients over micro batches; fp32: ZeRO 2 and 3
    ema_decay: float = Field(default=0.9999, ge=0, lt=1)                       # per step; DiT: 0.9999
    ema_decays: Numbers = ()                                                   # further averages with other constant decays
    ema_lengths: Numbers = ()                                                  # EDM2's power-function tracks, for example 0.05 and 0.1
    precision: Literal["bf16", "fp32"] = "bf16"
    checkpoint_every_images: Count = Field(gt=0)

    @model_validator(mode="after")
    def _check_values(self):
        for beta in self.betas:
            if not 0 <= beta < 1:
                raise UserError(f"train.betas has {beta}; give two numbers from 0 to below 1, for example [0.9, 0.999]")
        self.optimizer.check(self)
        if self.lr_end > self.lr:
            raise UserError(f"train.lr_end {self.lr_end:g} is above train.lr {self.lr:g}; a schedule ends at or below it")
        if self.lr_end and self.lr_schedule == "constant":
            raise UserError(f"train.lr_end {self.lr_end:g} has no effect with train.lr_schedule constant; leave it out, or choose cosine or wsd")
        if self.lr_schedule != "wsd" and (self.lr_decay, self.lr_decay_share) != ("linear", 0.2):
            raise UserError(f"train.lr_decay and train.lr_decay_share are for train.lr_schedule wsd; it is {self.lr_schedule}")
        decay_starts = self.images * (1 - self.lr_decay_share)
        if self.lr_schedule == "wsd" and self.warmup_images > decay_starts:
            raise UserError(f"train.warmup_images {self.warmup_images} reaches into the decay of wsd, which starts at image {decay_starts:.0f}; "
                            "shorten one of them")
        if self.weight_decay_form == "independent" and not self.weight_decay:
            raise UserError("train.weight_decay_form independent has no effect with train.weight_decay 0")
        if self.grad_sums == "fp32" and self.precision == "fp32":
            raise UserError("train.grad_sums fp32 is for train.precision bf16; with fp32 the sums are already in fp32, so leave it out")
        for name, limit in (("ema_decays", 1.0), ("ema_lengths", 0.28)):
            for value in getattr(self, name):
                if not 0 < value < limit:
                    raise UserError(f"train.{name} has {value}; give numbers above 0 and below {limit:g}")
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise UserError(f"train.{name} has a number twice: {', '.join(map(str, getattr(self, name)))}")
        return self


class SamplingConfig(Section):
    """How images are made from a model."""

    sampler: Literal["heun", "euler", "ddpm", "ddim", "sde"] = "heun"           # heun and euler work with every formulation
    sampling_steps: Count = Field(gt=0)
    respacing: Literal["even", "ddim"] | Counts = "even"                       # ddpm; or iDDPM's counts, one per section
    timesteps: Counts | None = None                                            # ddpm: exactly these, from 0..999
    eta: float = Field(default=0.0, ge=0, le=1)                                # ddim: share of ddpm's noise
    churn: float = Field(default=0.0, ge=0)                                    # edm: S_churn
    churn_interval: tuple[float, float] = Field(default=(0.0, 1e6), strict=False)  # edm: S_tmin, S_tmax
    churn_noise: float = Field(default=1.0, gt=0)                              # edm: S_noise
    sde_diffusion: Literal["sigma", "sin2", "kl"] = "sigma"                    # sde: w(t)
    sde_norm: float = Field(default=0.5, gt=0)                                 # sde: SiT's diffusion norm; released SiT, REPA: 1
    sde_last_step: float = Field(default=0.04, gt=0, lt=1)                     # sde: from this level one step leads to clean
    sde_last: Literal["velocity", "mean", "tweedie"] = "velocity"              # sde: that step; released SiT, REPA: mean
    heun_last: Literal["euler", "heun"] = "euler"                              # heun on flow: the last step; SiT's heun2: heun
    guidance_scale: float = Field(default=1.0, ge=0)                           # 1: no guidance
    guidance_channels: Literal["all", "first3"] = "all"                        # first3: the released DiT
    guidance_interval: tuple[float, float] | None = Field(default=None, strict=False)  # noise levels with guidance; None: all
    guidance_schedule: Literal["constant", "power_cosine"] = "constant"        # power_cosine: MDT
    guidance_power: float = Field(default=4.0, gt=0)                           # of power_cosine; MDT: 4
    guide: str | None = Field(default=None, min_length=1)                      # RUN or RUN@IMAGES, in place of the null class: autoguidance
    labels: Literal["balanced", "random"] | Count = "balanced"                 # of image i: i mod classes, drawn, or this class
    average: str = "ema"                                                       # weights: ema, ema-power-0.05, length-0.07, masters
    vae: str | None = None                                                     # decodes latents: a folder, or a hub name
    rounding: Literal["nearest", "floor"] = "nearest"                          # to uint8; floor: ADM, MDT, MaskDiT, REPA
    batch: Count = Field(default=256, gt=0)                                    # images at once; moves a value by 1 of 255 at most

    def check(self, run: "RunConfig") -> None:
        """Refuses settings that do not fit the run.

        Raises:
            UserError: guidance without an unconditional model, a class that does not exist, or a sampler, an option or an interval
                that does not fit the run's formulation.
        """
        if self.guidance_scale != 1 and run.model.class_dropout_prob == 0 and self.guide is None:
            raise UserError("evaluation.guidance_scale other than 1 needs model.class_dropout_prob above 0: "
                            "without label dropout there is no unconditional model to guide with")
        if isinstance(self.labels, int) and not 0 <= self.labels < run.data.classes:
            raise UserError(f"evaluation.labels {self.labels} is not a class of the run; give 0 to {run.data.classes - 1}")
        sampling_of(self).check(run.formulation)
        run.formulation.check_sampling(sampling_of(self))
        check_interval(run.formulation, self.guidance_interval)


class MeasureConfig(Section):
    """How images are scored, whatever made them."""

    metric: str = "fd_digits_cnn"                                              # fid (only Inception), or fd_<extractor>
    also: tuple[Annotated[str, AfterValidator(known)], ...] = Field(default=(), strict=False)  # further metrics
    extractor_path: str | None = None                                          # weights of the feature network
    reference_path: str = Field(min_length=1)                                  # real images, or their statistics (.npz)

    @model_validator(mode="after")
    def _check_metric(self):
        extractor_name(self.metric)
        return self


class ValidationConfig(Section):
    """The validation loss on held-out images, with the same draws for every run."""

    path: str = Field(min_length=1)                                            # held-out images, a .beton file of the same kind
    images: Count = Field(4096, gt=1)                                          # draws; images repeat if the file has fewer
    levels: Literal["stratified", "uniform"] = "stratified"                    # quantiles of the noise level: middles, or drawn
    seed: Count = Field(0, ge=0, lt=2**63)                                     # of all draws; the same for all runs of a study
    every_images: Count | None = Field(None, gt=0)                             # also between checkpoints


class EvaluationConfig(SamplingConfig, MeasureConfig, SampleChoice):
    """How a run is scored."""

    every_images: Count | None = Field(default=None, gt=0)                     # which checkpoints; default: all. The last always
    validation: ValidationConfig | None = None                                 # the validation loss, at every checkpoint


class ImportedConfig(Section):
    """Weights that another project trained. Of their training nothing is known, so such a run states no section ``train``."""

    like: str                                                                  # whose: one of models.peers.LIKES
    images_seen: Count | None = Field(default=None, ge=0)                      # None: not known
    latents: bool                                                              # what the model makes; else pixels
    sampling: SamplingConfig                                                   # as that project samples


class ResourcesConfig(Section):
    accelerators_per_run: Count = Field(default=1, gt=0, le=1_000_000)         # ranks: GPUs, or CPU processes
    runs_per_accelerator: Count = Field(default=1, gt=0, le=1_000)             # runs that share a GPU, or the GPUs of a run, at a time
    micro_batch: Literal["auto"] | Count | None = None                         # images per forward on one rank; default: all;
                                                                               # auto: what fits, by the memory model
    deepspeed: str = "zero1"                                                   # the strategy: zero0 to zero3, or a DeepSpeed JSON
    loader: Literal["auto", "ffcv", "mmap"] = "auto"
    evaluate: Literal["in_training", "separately"] = "in_training"             # separately: in a second job after training
    log_every_images: Count = Field(default=2048, gt=0)
    keep_checkpoints: Count = Field(default=2, gt=0)                           # full training states to keep; EMA weights are all kept
    keep_every_images: Count | None = Field(default=None, gt=0)                # also keep those at multiples of it permanently
    branch_images: Counts = ()                                                 # save them here, for branches; see train.branches of a study
    time_limit_minutes: float | None = Field(default=None, gt=0)               # per start; the run stops in time to be resumed
    time_margin_minutes: float = Field(default=3.0, ge=0)                      # how long before; also before a job's limit
    skip_limit: Count = Field(default=10, gt=0)                                # successive steps with a bad gradient before rolling back
    compile: bool = False                                                      # torch.compile of each block
    profile_steps: tuple[Count, Count] | None = Field(default=None, strict=False)  # [100, 105]: profile these steps with torch's profiler
    checkpoint_activations: bool = False                                       # recompute each block in the backward pass


class RunConfig(Section):
    """The complete resolved config of one run."""

    seed: Count = Field(default=0, ge=0, lt=2**63)
    model: ModelConfig
    data: DataConfig
    formulation: FormulationConfig
    objective: ObjectiveConfig
    train: TrainConfig
    evaluation: EvaluationConfig | None = None
    resources: ResourcesConfig = ResourcesConfig()
    imported: ImportedConfig | None = None
    parent: Parent | None = None                                               # a branch: the run whose training it continues

    @model_validator(mode="before")
    @classmethod
    def _fill_what_imports_lack(cls, values):
        """So that code finds every section; nothing of it is written down, and no number of it is used."""
        if isinstance(values, dict) and values.get("imported") and isinstance(values.get("data"), dict):
            values = {"train": {"images": 1, "global_batch": 1, "checkpoint_every_images": 1}, **values}
            values["data"] = {"name": "not known", "path": NO_DATA, **values["data"]}
        return values

    @model_validator(mode="after")
    def _fit_formulation(self):
        fitted = self.formulation.for_inputs(self.data.channels * self.data.resolution**2)
        object.__setattr__(self, "formulation", fitted)                        # sections are frozen
        return self

    @model_validator(mode="after")
    def _check_arithmetic(self):
        dims = parse_model_name(self.model.name).dims
        self.objective.check(dims, self.tokens, self.train.images)
        self.objective.check_switches(self.model.switches, dims)
        if self.model.parametrization != "standard":
            self.train.optimizer.check_parametrization(self.model.parametrization)
        ranks, batch = self.resources.accelerators_per_run, self.train.global_batch
        if batch % ranks:
            raise UserError(f"train.global_batch {batch} does not divide by {ranks} ranks (resources.accelerators_per_run); "
                            f"{batch - batch % ranks or ranks} or {batch + ranks - batch % ranks} would")
        micro = self.resources.micro_batch
        if isinstance(micro, int) and micro < 1:
            raise UserError(f"resources.micro_batch is {micro}; give a number of images, or auto")
        if isinstance(micro, int) and batch // ranks % micro:
            raise UserError(f"resources.micro_batch {micro} does not divide the {batch // ranks} images of a rank "
                            f"(train.global_batch {batch} over {ranks} ranks)")
        limit, margin = self.resources.time_limit_minutes, self.resources.time_margin_minutes
        if limit is not None and margin >= limit:
            raise UserError(f"resources.time_margin_minutes {margin} leaves no time of resources.time_limit_minutes {limit}")
        self.objective.check_run(self)
        if self.train.images < batch:
            raise UserError(f"train.images {self.train.images} is less than one batch (train.global_batch {batch})")
        self._check_profile(self.train.images // batch)
        every, saved = self.evaluation and self.evaluation.every_images, self.train.checkpoint_every_images
        if every and every % saved:
            raise UserError(f"evaluation.every_images {every} is not a multiple of train.checkpoint_every_images {saved}: "
                            "only checkpoints are scored")
        check_parent(self)
        if self.imported:
            self.imported.sampling.check(self)
        if self.evaluation:
            self.evaluation.check(self)
            check_guidance(self.evaluation, self)
            self._check_validation(self.evaluation)
        return self

    def _check_validation(self, evaluation: EvaluationConfig) -> None:
        every = evaluation.validation and evaluation.validation.every_images
        if every and evaluation.average != "ema":
            raise UserError(f"evaluation.validation.every_images {every} needs evaluation.average ema, the average that training has in memory; it is "
                            f"{evaluation.average}")
        if every and self.resources.evaluate == "separately":
            raise UserError(f"evaluation.validation.every_images {every} needs resources.evaluate in_training: a job that evaluates "
                            "separately has only checkpoints")

    def _check_profile(self, steps: int) -> None:
        first, last = self.resources.profile_steps or (0, 1)
        if not 0 <= first < last <= steps:
            raise UserError(f"resources.profile_steps [{first}, {last}] is not a range of steps of this run, which has {steps}; "
                            "give two increasing numbers in that range, for example [100, 105]")

    @property
    def tokens(self) -> int:
        """Tokens per image in the model. Raises UserError if the patch size does not divide the resolution."""
        return token_grid(self.data.resolution, parse_model_name(self.model.name).patch_size) ** 2

    @property
    def micro_batch(self) -> int:
        """Images per forward on one rank; for ``auto`` all images of a rank until ``fit_micro_batch`` sets it."""
        micro = self.resources.micro_batch
        return micro if isinstance(micro, int) else self.train.global_batch // self.resources.accelerators_per_run

    def science(self) -> dict:
        """The config without resources and paths: what determines the result.

        Default values are left out, so that an option added later does not rename existing runs. As a consequence,
        a default, once released, never changes. A renamed key keeps its first name here, so that its runs keep their ids.
        """
        places: dict[str, Any] = {
            "resources": True, "data": {"path"}, "objective": self.objective.paths,
            "evaluation": {"extractor_path", "reference_path", "vae", "guide", "batch", "every_images", "also", "validation"}}
        if self.model.is_standard:
            places["model"] = set(PARAMETRIZATION)
        values = self.model_dump(mode="json", exclude=places, exclude_defaults=True)
        first = {(part, key): older for part, kinds in UNIONS.items() for kind in kinds.values() for older, key in kind.older_keys.items()}
        return {part: {first.get((part, key), key): value for key, value in options.items()} if isinstance(options, dict) else options
                for part, options in values.items()}

    def science_hash(self) -> str:
        """8 hex digits of the canonical science config."""
        canonical = json.dumps(self.science(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]

    def recipe(self) -> str:
        """8 hex digits of what determines a run's result except its seed; saving and scoring are left out."""
        return self._recipe_without({})

    def series(self) -> str:
        """8 hex digits of a recipe without its model's size and parametrization, and without its learning rate: a sweep over rates is one series."""
        return self._recipe_without({"model": ("name", *PARAMETRIZATION), "train": ("lr",)})

    def _recipe_without(self, left_out: dict[str, tuple[str, ...]]) -> str:
        science = self.science()
        science.pop("seed", None)
        science.pop("evaluation", None)
        science.pop("parent", None)                                            # a branch equals the run that was not branched
        science["train"].pop("checkpoint_every_images", None)
        for part, keys in left_out.items():
            science[part] = {key: value for key, value in science[part].items() if key not in keys}
        return hashlib.sha256(json.dumps(science, sort_keys=True).encode()).hexdigest()[:8]


def resolve(values: dict, source: str) -> RunConfig:
    """Validates nested values.

    Raises:
        UserError: the first error, with the key, the value and what would work.
    """
    return validate(RunConfig, values, source)
