"""Configuration of a run: frozen dataclasses, validated on creation. Each field is a flag of the same name.

Defaults are the paper's (arXiv 1811.09245), or the authors' implementation's if the paper does not specify them.
Complete recipes are in `flags/`.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import Any

from tganv2_tf.errors import ConfigError
from tganv2_tf.pyramid import FIRST_LEVEL_BLOCKS, PyramidSpec

POLICIES = ("color", "translation", "cutout")  # of --diffaugment


def option(
    help: str,
    default: Any = dataclasses.MISSING,
    choices: tuple[str, ...] = (),
    group: str = "",
    destination: str = "",
) -> Any:
    """Defines a dataclass field that is also a flag.

    Args:
      help: One line with the meaning and units.
      default: Default value; a flag without one is required.
      choices: Valid values of a text flag.
      group: Heading in `--help` for this field and the following ones; empty keeps the previous heading.
      destination: `file` or `folder` if the flag names the output of the command. `cli.run` then checks that it
        can be written before the command starts.
    """
    metadata = {"help": help, "choices": choices, "group": group, "destination": destination}
    return dataclasses.field(default=default, metadata=metadata)


def require(condition: bool, name: str, value: Any, valid: str) -> None:
    """Raises ConfigError with the flag's name, its value and the valid values if `condition` is false."""
    if not condition:
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
        raise ConfigError(f"--{name}={shown}: valid: {valid}")


def parse_policy(text: str) -> tuple[str, ...]:
    """Parses a policy: `color,translation` -> ("color", "translation"), in the order of application; "" -> ().

    Raises:
      ConfigError: a name is unknown or repeated.
    """
    if not text.strip():
        return ()
    names = tuple(name.strip() for name in text.split(","))
    if not set(names) <= set(POLICIES) or len(set(names)) < len(names):
        raise ConfigError(f"--diffaugment={text}: valid: any of {','.join(POLICIES)}, each at most once; empty = none")
    return names


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape of the networks."""

    resolution: int = option("height and width of the videos in pixels", 192)
    num_frames: int = option("frames of a training clip", 16)
    z_dim: int = option("dimensions of the latent", 256)
    frame_strides: tuple[int, ...] = option(
        "frame stride of the subsampling layer after each level but the last", (2, 2, 2)
    )
    batch_strides: tuple[int, ...] = option(
        "batch stride of the subsampling layer after each level but the last", (2, 2, 2)
    )
    lstm_channels: int = option("channels of the base map and of the convolutional LSTM", 1024)
    lstm_layers: int = option("number of stacked convolutional LSTMs", 1)
    lstm_forget_bias: float = option("initial bias of the forget gate; above 0 the latent lasts for more frames", 0.0)
    self_modulation: bool = option(
        "compute scale and shift of the generator's batch norms from the latent (arXiv 1810.01365); not in the paper",
        False,
    )
    up_channels: tuple[int, ...] = option(
        "channels of each up block: three at level 1, one per later level", (512, 256, 128, 64, 32, 32)
    )
    discriminator_channels: tuple[int, ...] = option(
        "channels of each residual block of a discriminator", (64, 128, 256, 512, 1024)
    )
    spectral_norm: bool = option("divide the discriminators' weights by their largest singular value", True)
    grow_length_one_axes: bool = option(
        "pad length-one axes before pooling, as the authors' code does, probably by mistake", False
    )
    conditional: bool = option("generate videos of a given class; the data set must have labels", False)
    num_classes: int = option("number of classes of a conditional model; 0 = that of the data set", 0)

    def __post_init__(self) -> None:
        # With one frame the recurrence would not run, and its weights would have no gradient.
        require(self.num_frames >= 2, "num_frames", self.num_frames, "a whole number of at least 2")
        for name in ("z_dim", "lstm_channels", "lstm_layers"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        blocks = self.pyramid.num_up_blocks
        require(
            len(self.up_channels) == blocks and min(self.up_channels) >= 1,
            "up_channels",
            self.up_channels,
            f"{blocks} positive numbers: {FIRST_LEVEL_BLOCKS} for level 1, one for each later level",
        )
        require(
            bool(self.discriminator_channels) and min(self.discriminator_channels) >= 1,
            "discriminator_channels",
            self.discriminator_channels,
            "at least one positive number",
        )
        require(
            self.num_classes >= 0 and (self.conditional or not self.num_classes),
            "num_classes",
            self.num_classes,
            "a whole number of at least 0" if self.conditional else "0 without --conditional",
        )

    @property
    def pyramid(self) -> PyramidSpec:
        """Sizes of the levels."""
        return PyramidSpec(self.num_frames, self.resolution, self.frame_strides, self.batch_strides)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Training data."""

    data_dir: str = option("folder of the shards and their manifest.json", "")
    data_prep: str = option("data_prep command that creates the data, shown in messages if they are missing", "")
    flip: bool = option("mirror half of the clips", True)
    normalization: str = option(
        "bytes to [-1, 1]: paper = x / 127.5 - 1, official = (x - 128) / 128", "paper", ("paper", "official")
    )
    shuffle_buffer: int = option("clips per shuffled block; three blocks of JPEG clips are in memory", 1024)
    frame_step: int = option("distance between successive frames of a clip, in frames of the video", 1)
    windows_per_record: int = option("clips sampled per record read; larger values reduce disk reads", 1)
    skip_corrupt_records: bool = option("skip, log and count damaged records instead of ending the run", False)

    def __post_init__(self) -> None:
        valid = "a local folder, s3://BUCKET/FOLDER or http(s)://HOST/FOLDER"
        scheme = self.data_dir.partition("://")[0] if "://" in self.data_dir else ""
        require(scheme in ("", "s3", "http", "https"), "data_dir", self.data_dir, valid)
        for name in ("shuffle_buffer", "frame_step", "windows_per_record"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Training."""

    model_dir: str = option("folder of the run: config, checkpoints, TensorBoard events", "", group="The run")
    train_steps: int = option("generator updates of the whole run", 100_000)
    global_batch_size: int = option("clips per step at level 1 (N_1), over all replicas", 64)
    seed: int = option("seed of initial weights, latents, offsets and data order", 0)
    init_from: str = option("run or checkpoint whose networks initialise a new run", "")
    loss: str = option(
        "adversarial loss", "non_saturating", ("non_saturating", "minimax", "hinge", "relativistic"), group="Objective"
    )
    score: str = option(
        "sum = one score per clip, summed over levels (paper); separate = one per level (authors' code)",
        "sum",
        ("sum", "separate"),
    )
    n_dis: int = option("discriminator updates per generator update", 1)
    r1_weight: float = option("strength of the gradient penalty on real clips; 0 = none", 16.0)
    penalize_fakes: bool = option(
        "apply the same penalty to generated clips (R2; arXiv 2501.05441); r1_penalty is the sum", False
    )
    r1_every_steps: int = option("steps between penalties, which are scaled by it (lazy regularization); 0 = none", 1)
    diffaugment: str = option(
        f"augmentations of all clips that the discriminators see: any of {','.join(POLICIES)}", ""
    )
    generator_learning_rate: float = option("Adam step size of the generator", 1e-4, group="Optimisation")
    discriminator_learning_rate: float = option("Adam step size of the discriminators", 1e-4)
    learning_rate_decay: str = option("linear = down to 0 at the last step", "linear", ("linear", "none"))
    adam_beta1: float = option("decay of Adam's first moment", 0.0)
    adam_beta2: float = option("decay of Adam's second moment", 0.9)
    adam_epsilon: float = option("Adam's epsilon, outside the bias correction", 8e-8)
    gradient_clip_norm: float = option("clip each network's global gradient to this norm; 0 = no clipping", 0.0)
    gradient_accumulation_steps: int = option(
        "microbatches per replica and step, computed one after the other, to save memory", 1
    )
    recompute: bool = option(
        "recompute the generator's levels and the discriminators' blocks on fakes in the backward pass, to save memory",
        False,
    )
    ema_decay: float = option("decay per step of the averaged generator's weights; 0 = no averaging", 0.999)
    distribution: str = option(
        "mirrored = all devices of this machine; one_device; multi_worker = all machines that TF_CONFIG or Slurm "
        "names; ray = the workers of a Ray cluster",
        "mirrored",
        ("mirrored", "one_device", "multi_worker", "ray"),
        group="Devices and speed",
    )
    mixed_precision: str = option(
        "dtype policy of the networks; weights, norms, losses, penalty and videos are always float32",
        "float32",
        ("float32", "mixed_bfloat16", "mixed_float16"),
    )
    gradients: str = option(
        "fast = fewer passes through the networks; plain = by the definition in models/objective.py, slower, not with "
        "mixed_float16; both compute the same numbers",
        "fast",
        ("fast", "plain"),
    )
    jit_compile: bool = option("compile the step with XLA; requires --distribution=one_device", False)
    deterministic: bool = option(
        "use only bit-reproducible operations: a run then ends with the same weights however often it was stopped",
        False,
    )
    steps_per_execution: int = option("steps per execution of the graph; all intervals must be multiples of it", 1)
    profile_steps: tuple[int, ...] = option("first and last step to profile into TensorBoard, such as 20,25", ())
    max_restarts: int = option(
        "maximum restarts from the newest checkpoint, with other random numbers, after non-finite losses; 0 = end the "
        "run",
        0,
    )
    log_every_steps: int = option("steps between two rows of scalars; 0 = never", 50, group="Logs and checkpoints")
    preview_every_steps: int = option("steps between two animated previews; 0 = never", 1000)
    num_previews: int = option("fixed latents in the previews", 16)
    checkpoint_every_steps: int = option("steps between two checkpoints; 0 = only when the run ends or stops", 1000)
    keep_checkpoints: int = option("number of newest checkpoints to keep", 3)
    keep_checkpoint_every_steps: int = option("keep checkpoints at multiples of this step permanently; 0 = none", 0)
    eval_every_steps: int = option(
        "steps between evaluations of checkpoints with --classifier; 0 = none", 0, group="Scores during training"
    )
    best_score: str = option(
        "score that selects the checkpoint kept in RUN/best", "inception_score", ("inception_score", "c3d_fid")
    )

    def __post_init__(self) -> None:
        for name in (
            "global_batch_size",
            "train_steps",
            "n_dis",
            "gradient_accumulation_steps",
            "steps_per_execution",
            "keep_checkpoints",
            "num_previews",
        ):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        for name in (
            "r1_weight",
            "generator_learning_rate",
            "discriminator_learning_rate",
            "gradient_clip_norm",
            "seed",
            "max_restarts",
            *(name for name in vars(self) if name.endswith("_every_steps")),
        ):
            require(getattr(self, name) >= 0, name, getattr(self, name), "a number of at least 0")
        for name in ("adam_beta1", "adam_beta2", "ema_decay"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "a number of at least 0 and below 1")
        local = "://" not in self.model_dir or self.model_dir.startswith("s3://")
        require(local, "model_dir", self.model_dir, "a local folder, or s3://BUCKET/FOLDER")
        penalized = bool(self.r1_weight) or not self.penalize_fakes
        require(penalized, "penalize_fakes", self.penalize_fakes, "with --r1_weight above 0 only")
        # Float16 needs loss scaling, which plain gradients do not implement.
        fast = self.gradients == "fast" or self.mixed_precision != "mixed_float16"
        require(fast, "gradients", self.gradients, "fast with --mixed_precision=mixed_float16")
        require(self.seed < 2**31, "seed", self.seed, "a whole number below 2147483648")
        parse_policy(self.diffaugment)
        require(self.adam_epsilon > 0, "adam_epsilon", self.adam_epsilon, "a number above 0")
        # XLA compiles the step of one device, which cannot contain reductions over replicas.
        require(
            not self.jit_compile or self.distribution == "one_device",
            "jit_compile",
            "true",
            f"with --distribution=one_device only, not {self.distribution}",
        )
        for name in ("train_steps", *(f"{what}_every_steps" for what in ("log", "preview", "checkpoint"))):
            require(
                getattr(self, name) % self.steps_per_execution == 0,
                name,
                getattr(self, name),
                f"a multiple of --steps_per_execution={self.steps_per_execution}",
            )
        saved = self.checkpoint_every_steps
        flag = f"--checkpoint_every_steps={saved}"
        for name in ("keep_checkpoint_every_steps", "eval_every_steps"):
            every, valid = getattr(self, name), f"a multiple of {flag}, or 0" if saved else f"0 with {flag}"
            require(not every or (saved > 0 and every % saved == 0), name, every, valid)
        if self.profile_steps:
            ordered = len(self.profile_steps) == 2 and list(self.profile_steps) == sorted(self.profile_steps)
            inside = ordered and self.profile_steps[0] >= 1 and self.profile_steps[1] <= self.train_steps
            text = f"two numbers FIRST,LAST from 1 to --train_steps={self.train_steps}, or empty"
            require(inside, "profile_steps", self.profile_steps, text)

    def is_due(self, step: int, every: int) -> bool:
        """Returns whether an action is due after `step`: every `every` steps and at the last step; 0 is never."""
        return every > 0 and (step % every == 0 or step == self.train_steps)

    @property
    def augmentations(self) -> tuple[str, ...]:
        """The names in `diffaugment`, in the order of their application."""
        return parse_policy(self.diffaugment)


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Scores. The defaults are the paper's and the authors' protocol."""

    classifier: str = option(
        "C3D for inception_score and c3d_fid: a file of tganv2_tf.train_classifier, or the authors' "
        "conv3d_deepnetA_ucf.npz with --c3d_mean",
        "",
    )
    c3d_mean: str = option("the authors' mean2.npz, with their weights in --classifier", "")
    protocol: str = option(
        "input of the classifier: official = the video as it is (authors' code), paper = resized to 128x128 first",
        "official",
        ("official", "paper"),
    )
    num_samples: int = option("generated videos per repetition", 2048)
    repetitions: int = option("repetitions, for mean and standard deviation", 10)
    real_passes: int = option("clips sampled per record of real videos", 10)
    eval_batch_size: int = option("videos that are generated and scored at once", 16)
    recalibration_batches: int = option(
        "batches for recomputing the scored generator's batch-norm statistics; 0 = keep those of training",
        0,
    )
    cache_dir: str = option("folder for features of real clips; none = compute them each time", "~/.cache/tganv2_tf")

    def __post_init__(self) -> None:
        require(self.num_samples >= 6, "num_samples", self.num_samples, "a whole number of at least 6")  # 5 neighbours
        for name in ("repetitions", "real_passes", "eval_batch_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        value = self.recalibration_batches
        require(value >= 0, "recalibration_batches", value, "a whole number of at least 0")
        require(not self.c3d_mean or bool(self.classifier), "c3d_mean", self.c3d_mean, "with --classifier only")


@dataclasses.dataclass(frozen=True)
class Config:
    """Configuration of a run: `model`, `data`, `train`, and `eval` for evaluations during training."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        require(
            not self.train.eval_every_steps or bool(self.eval.classifier),
            "eval_every_steps",
            self.train.eval_every_steps,
            "0 without --classifier; `python -m tganv2_tf.train_classifier` trains one",
        )
        parts = self.train.gradient_accumulation_steps
        divisor = self.model.pyramid.levels[-1].clip_stride * parts
        require(
            self.train.global_batch_size % divisor == 0,
            "global_batch_size",
            self.train.global_batch_size,
            f"a multiple of {divisor}, the product of --batch_strides"
            + (" and --gradient_accumulation_steps" if parts > 1 else ""),
        )

    def to_json(self) -> str:
        """Returns the content of `config.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def flags(self) -> list[str]:
        """Returns the flags of all settings that differ from the defaults."""
        given = []
        for part in (self.model, self.data, self.train, self.eval):
            for field in dataclasses.fields(part):
                value = getattr(part, field.name)
                if value != field.default:
                    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                    given.append(f"--{field.name}={shlex.quote(text.lower() if isinstance(value, bool) else text)}")
        return given

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Parses the output of `to_json`.

        Raises:
          ConfigError: The text is not valid JSON, a field is unknown or missing, or a value is invalid.
        """
        parts = {"model": ModelConfig, "data": DataConfig, "train": TrainConfig, "eval": EvalConfig}
        try:
            loaded = {"eval": {}, **json.loads(text)}  # missing in runs of older versions
            made = {}
            for name, part in parts.items():
                made[name] = part(**{key: tuple(v) if isinstance(v, list) else v for key, v in loaded[name].items()})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"config.json cannot be read: {error}") from error
        return cls(**made)
