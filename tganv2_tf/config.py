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
from tganv2_tf.options import Variants, option, require
from tganv2_tf.systems import SYSTEMS, config_class
from tganv2_tf.systems.tganv2.config import ModelConfig

MODEL_OPTIONS = Variants(
    "system", "the system to train; the others are those of the paper's Table 2", {s: config_class(s) for s in SYSTEMS}
)
POLICIES = ("color", "translation", "cutout")  # of --diffaugment


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
        "adversarial loss",
        "non_saturating",
        ("non_saturating", "minimax", "hinge", "relativistic"),
        group="Objective",
        system="tganv2",
    )
    score: str = option(
        "sum = one score per clip, summed over levels (paper); separate = one per level (authors' code)",
        "sum",
        ("sum", "separate"),
        system="tganv2",
    )
    n_dis: int = option("discriminator updates per generator update", 1, system="tganv2")
    r1_weight: float = option("strength of the gradient penalty on real clips; 0 = none", 16.0, system="tganv2")
    r1_level_factor: float = option(
        "factor of --r1_weight from each level to the next; below 1 = weaker at higher resolutions (not in the paper)",
        1.0,
        system="tganv2",
    )
    penalize_fakes: bool = option(
        "apply the same penalty to generated clips (R2; arXiv 2501.05441); r1_penalty is the sum",
        False,
        system="tganv2",
    )
    r1_every_steps: int = option(
        "steps between penalties, which are scaled by it (lazy regularization); 0 = none", 1, system="tganv2"
    )
    diffaugment: str = option(
        f"augmentations of all clips that the discriminators see: any of {','.join(POLICIES)}", "", system="tganv2"
    )
    generator_learning_rate: float = option("Adam step size of the generator", 1e-4, group="Optimisation")
    discriminator_learning_rate: float = option("Adam step size of the discriminators", 1e-4)
    learning_rate_decay: str = option("linear = down to 0 at the last step", "linear", ("linear", "none"))
    adam_beta1: float = option("decay of Adam's first moment", 0.0)
    adam_beta2: float = option("decay of Adam's second moment", 0.9)
    adam_epsilon: float = option("Adam's epsilon, outside the bias correction", 8e-8)
    gradient_clip_norm: float = option("clip each network's global gradient to this norm; 0 = no clipping", 0.0)
    gradient_accumulation_steps: int = option(
        "microbatches per replica and step, computed one after the other, to save memory", 1, system="tganv2"
    )
    recompute: bool = option(
        "recompute the generator's levels and the discriminators' blocks on fakes in the backward pass, to save memory",
        False,
        system="tganv2",
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
        system="tganv2",
    )
    gradients: str = option(
        "fast = fewer passes through the networks; plain = by the definition in models/objective.py, slower, not with "
        "mixed_float16; both compute the same numbers",
        "fast",
        ("fast", "plain"),
        system="tganv2",
    )
    jit_compile: bool = option("compile the step with XLA; requires --distribution=one_device", False, system="tganv2")
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
        for name in ("adam_epsilon", "r1_level_factor"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a number above 0")
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
        system="tganv2",
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
    """Configuration of a run: `model`, `data`, `train`, and `eval` for evaluations during training.

    `model` has the settings of the system's networks, an instance of a subclass of `SystemConfig`.
    """

    model: Any = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        for part in (self.train, self.eval):
            for field in dataclasses.fields(part):
                only, value = field.metadata["system"], getattr(part, field.name)
                if only not in ("", self.system):
                    require(value == field.default, field.name, value, f"with --system={only} only, not {self.system}")
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

    @property
    def system(self) -> str:
        """Name of the system, as in `--system`."""
        return self.model.system

    @property
    def r1_weights(self) -> list[float]:
        """Strength of the gradient penalty at each level."""
        return [self.train.r1_weight * self.train.r1_level_factor**n for n in range(self.model.pyramid.num_levels)]

    def as_dict(self) -> dict[str, Any]:
        """Returns all settings, and the name of the system."""
        return {"system": self.system, **dataclasses.asdict(self)}

    def to_json(self) -> str:
        """Returns the content of `config.json`."""
        return json.dumps(self.as_dict(), indent=2) + "\n"

    def flags(self) -> list[str]:
        """Returns the flags of all settings that differ from the defaults."""
        given = [] if self.system == SYSTEMS[0] else [f"--system={self.system}"]
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
        try:
            loaded = {"system": SYSTEMS[0], "eval": {}, **json.loads(text)}  # missing in runs of older versions
            system = loaded.pop("system")
            parts = {"model": config_class(system), "data": DataConfig, "train": TrainConfig, "eval": EvalConfig}
            made: dict[str, Any] = {}
            for name, part in parts.items():
                made[name] = part(**{key: tuple(v) if isinstance(v, list) else v for key, v in loaded[name].items()})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"config.json cannot be read: {error}") from error
        return cls(**made)
