"""The training loop: draw, noise, predict, step, average, and periodically log and save."""

import time
from functools import partial

from torch.utils.checkpoint import checkpoint as recomputed

from ditscale import randomness
from ditscale.config import ResourcesConfig, RunConfig
from ditscale.data.loader import StreamLoader
from ditscale.data.prefetch import on_device
from ditscale.data.prepare import make_prepare
from ditscale.errors import TrainingFailed
from ditscale.models.blocks import DESIGNS
from ditscale.models.dit import DiT
from ditscale.objectives.from_config import build_model, feature_batches, make_objective
from ditscale.objectives.objective import CleanBatch, Objective
from ditscale.ranks import World
from ditscale.rundir import RunDir, keep_lines, read_lines
from ditscale.training.checkpoint import checkpoint
from ditscale.training.checkpoint.folders import drop_outdated
from ditscale.training.ema.ema import Averages, Teacher
from ditscale.training.guard import Guard
from ditscale.training.movement import Movement
from ditscale.training.noise_scale import NoiseScale
from ditscale.training.parent import start_images
from ditscale.training.profiling import Profiler
from ditscale.training.schedule import is_logged, is_saved, learning_rate, reached
from ditscale.training.telemetry import Telemetry
from ditscale.training.zero import zero
from ditscale.training.zero.layout import Layout


def train(config: RunConfig, run: RunDir, world: World, *, stop=lambda: False, after_checkpoint=lambda: None,
          between=lambda images_seen, weights: None, between_every_images: int | None = None,
          last_good_images: int | None = None) -> bool:
    """Trains until ``train.images``; returns True if finished, False if ``stop()`` ended it early (a checkpoint is saved).

    A run that was stopped or killed continues from its newest undamaged checkpoint; with ``last_good_images`` from the newest that
    has seen no more. ``after_checkpoint`` is called on every rank after each checkpoint and once at the start of a resumed run:
    it runs evaluation. If it returns False (on all ranks), training ends there. ``between`` is called on every rank at each
    ``between_every_images`` without a checkpoint, with a function that gathers the averaged weights on rank 0; it computes the
    validation loss. ``stop`` is called once after each step.

    Raises:
        TooManySkipped: the gradient was not finite ``resources.skip_limit`` times in a row.
        TrainingFailed: a branch has no training state; checkpoint/branch.py takes its parent's.
    """
    # The model and its state
    settings = config.train
    objective, prepare = make_objective(config), make_prepare(config.data)
    streams = {**objective.streams, **prepare.streams}
    state = _make_state(config, objective, world)
    engine, averages, teacher = state.engine, state.averages, state.teacher
    guard = Guard(engine, state.layout, world.device, settings.grad_clip)
    images_seen, steps = checkpoint.restore(run, state, world, last_good_images)
    if images_seen < start_images(config):
        raise TrainingFailed(f"{run.path} has no complete training state at or after its branch point, {start_images(config):,} images; launch again to "
                             "start from its parent's")
    if world.is_main:
        keep_lines(run.metrics, lambda line: line["images_seen"] <= images_seen)
    stopping = images_seen > 0 and after_checkpoint() is False

    # Batches from there on, and telemetry
    loader = StreamLoader(config.data.path, seed=config.seed, global_batch=settings.global_batch, micro_batch=config.micro_batch,
                         rank=world.rank, world_size=world.size, start_images=images_seen, end_images=settings.images,
                         backend=config.resources.loader, pick=prepare.pick)
    if world.is_main:
        run.update_record(loader={"backend": loader.backend, "fallback_reason": loader.reason})
    telemetry, movement = Telemetry(run, world, config, objective.warning), Movement(state.layout, averages.main)
    noise_scale = NoiseScale(engine, state.layout, config, world)
    noise_scale.take_up(read_lines(run.metrics) if world.is_main else [])
    timed, profiler = telemetry.timed, Profiler(run, world, config)
    batch, last_step = settings.global_batch, settings.images // settings.global_batch
    batches = on_device(feature_batches(loader, config), world.device)

    try:
        while steps < last_step and not stopping:
            profiler.step(steps)
            lr = learning_rate(config, images_seen)
            for group in engine.made.optimizer.param_groups:
                group["lr"] = lr * group["lr_multiplier"]

            # Gradients of one batch, and the step
            noise_scale.start(steps)
            for _ in range(engine.gradient_accumulation_steps()):
                with timed("data", host=True):
                    raw, labels, positions, *features = next(batches)
                with timed("random"):
                    draws = randomness.draw(config.seed, positions, streams)
                    images = prepare(raw, draws)
                with timed("forward"):
                    terms = objective(engine, CleanBatch(images, labels, images_seen, *features), draws)
                with timed("backward"):
                    zero.backward(engine, terms.loss)
                with timed("optimizer"):
                    if engine.is_gradient_accumulation_boundary():
                        guard.inspect(images_seen, noise_scale.look)
                        noise_scale.measure(images_seen + batch)
                        if is_logged(config, images_seen + batch):
                            movement.before()
                    engine.step()
                telemetry.add(terms)
            steps += 1
            before, images_seen = images_seen, images_seen + batch
            telemetry.images += batch

            # Averages and the teacher
            with timed("ema"):
                averages.update(before, images_seen)
                telemetry.moved = movement.after()
                if teacher:
                    teacher.update(objective.teacher_momentum_at(images_seen))
                objective.after_step(world.mean)

            # Logs and checkpoints
            stopping = world.any(bool(stop()))
            saving = is_saved(config, images_seen) or stopping
            if saving or is_logged(config, images_seen):
                found = guard.read()
                telemetry.flush(images_seen, lr=lr, found=found, more=noise_scale.read())
                guard.check(found, config.resources.skip_limit, at_the_end=steps == last_step)
            if saving:
                started = time.perf_counter()
                checkpoint.save(run, state, world, images_seen=images_seen, steps=steps)
                if world.is_main and not guard.is_skipping:
                    drop_outdated(run, config, images_seen)
                stopping = stopping or after_checkpoint() is False
                telemetry.pause(time.perf_counter() - started)
            elif between_every_images and reached(images_seen, between_every_images, batch):
                started = time.perf_counter()
                between(images_seen, averages.gather)
                telemetry.pause(time.perf_counter() - started)
    finally:
        profiler.close()
        loader.close()
        telemetry.close()
        zero.destroy(engine)
    return steps == last_step


def _make_state(config: RunConfig, objective: Objective, world: World) -> checkpoint.TrainingState:
    """The engine and all state that a step changes; sets the objective's teacher and moves its buffers to the device."""
    for name, value in objective.buffers.items():
        objective.buffers[name] = value.to(world.device)
    engine = zero.make_engine(prepare_blocks(build_model(config).to(world.device), config.resources), config, world.size)
    layout = Layout(engine)
    config.train.optimizer.bind(engine.made.optimizer, layout)
    zero.optimizer_state(engine, layout, config.train.optimizer)
    averages, teacher = Averages(layout, config.train), None
    if objective.has_teacher:
        teacher = Teacher(layout, build_model(config).to(world.device), zero.forward_dtype(config))
        objective.teacher = teacher.model
    return checkpoint.TrainingState(engine, config.train.optimizer, layout, averages, teacher, objective.buffers)


def prepare_blocks(model: DiT, resources: ResourcesConfig) -> DiT:
    """Compiles each block, or recomputes it in the backward pass instead of keeping its activations, according to ``resources``.

    Blocks of one kind share one graph, so compiling 28 takes as long as compiling one, and ZeRO-3 can still fetch
    parameters in between.
    """
    classes = tuple(design.block for design in DESIGNS.values())
    for block in model.modules():
        if isinstance(block, classes):
            if resources.compile:
                block.compile()
            if resources.checkpoint_activations:
                block.forward = partial(recomputed, block.forward, use_reentrant=False)
    return model
