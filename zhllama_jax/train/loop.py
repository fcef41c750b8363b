"""The training run, as a page to be read downwards: `run` sets the scene in order of need, `_train` is the loop."""

import contextlib
import dataclasses
import functools
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from zhllama_jax import arrays, files, tree
from zhllama_jax.data import batches
from zhllama_jax.model import llama
from zhllama_jax.shard import mesh as mesh_lib
from zhllama_jax.shard import place
from zhllama_jax.train import checkpoint, feed, flops, guard, log, optimizer, profile, stages, takeover, watch
from zhllama_jax.train import config as config_lib
from zhllama_jax.train import meter as meter_lib
from zhllama_jax.train import state as state_lib
from zhllama_jax.train import step as step_lib

CONFIG = "config.yaml"


class Sizes(NamedTuple):
    """How long the run is and how a global batch is cut.

    Attributes:
      steps: updates in all.
      batch: rows of a global batch.
      accumulation: micro-batches one after another.
      length: tokens per row.
    """

    steps: int
    batch: int
    accumulation: int
    length: int


class Best(NamedTuple):
    """The step with the lowest finite held-out loss so far; None before there was one."""

    step: int | None = None
    loss: float | None = None


class Scene(NamedTuple):
    """What the loop works with and does not change."""

    experiment: config_lib.Experiment
    sizes: Sizes
    mesh: Mesh
    recipe: step_lib.Recipe
    frozen: arrays.Tree
    source: batches.Batches
    held_out: list[feed.HeldOut]
    saved: checkpoint.Checkpoints
    journal: log.Journal
    flops_per_token: float


def run(experiment: config_lib.Experiment) -> dict[str, Any]:
    """Trains one stage, or goes on with it where a former process stopped, and writes what was learnt.

    A run may begin in four ways: a finished one is left as it is; an unfinished one goes on after its newest sound checkpoint; a
    new one starts from a model directory and adapters; or from random weights.

    Returns:
      What `result.json` holds: `model` and `adapters` (the ordered list to fold), and the stage's figures.

    Raises:
      FileNotFoundError, ValueError, OSError: something is missing, does not fit or cannot be written, in one sentence.
      guard.Diverged: loss or gradient was not finite for too long.
      guard.Interrupted: a signal came; the state is saved, and the process exits with 75.
    """
    output = Path(experiment.output)
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            stack.enter_context(guard.lock(output))
        journal = stack.enter_context(_journal(experiment))

        # Where it runs, what it starts from and what it reads; whatever can be wrong is found here.
        mesh = mesh_lib.make(experiment.mesh.data, experiment.mesh.fsdp, experiment.mesh.tensor)
        start = takeover.begin(experiment, say=journal.say)
        place.check_heads(mesh, num_kv_heads=start.config.num_kv_heads)
        plan = stages.plan(experiment.choice, start.weights)
        takeover.check_trainable(experiment.choice, plan.mask)
        batch, accumulation = _cut(experiment, mesh, context=start.config.context)
        journal.connect()
        begun = bool(checkpoint.committed(output / "checkpoints"))
        data = feed.open_data(experiment.data, start.tokenizer, output / "data", rebuild=not begun, say=journal.say)
        source, steps = _stream(experiment, data, batch)
        for line in feed.portions(data, source, steps=steps):
            journal.say(line)
        sizes = Sizes(steps, batch, accumulation, data.length)

        # What learns: the mask parts the tree, and only the trainable part is ever differentiated.
        table = stages.table(experiment.choice, start.config, experiment.lora)
        journal.say(f"stage {experiment.choice.preset}: {str(table).splitlines()[-1]}")
        rate = optimizer.schedule(experiment.schedule, peak=experiment.optimizer.learning_rate, steps=sizes.steps)
        tx = optimizer.make(experiment.optimizer, rate, plan.trainable)
        trainable, frozen = _parted(start.weights, plan, mesh, experiment.dtype)
        state = state_lib.init(trainable, tx, mesh)
        del trainable

        # Go on after the newest sound checkpoint, if there is one; whose it is, is checked first.
        identity = {"settings": experiment.identity(), "start": start.identity(), "data": data.identity, "sizes": _order(sizes)}
        saved = checkpoint.Checkpoints(output / "checkpoints", identity, keep=experiment.checkpoint.keep, say=journal.say)
        stack.callback(saved.close)
        restored = saved.restore(state)
        best = Best()
        if restored is not None:
            state, best = restored.state, Best(*restored.record["best"])
            result = takeover.finished(output, run=saved.digest) if int(state.step) == sizes.steps else None
            journal.say(f"{output} is finished" if result else f"goes on after step {int(state.step):,} of {sizes.steps:,}")
            if result is not None:
                return result
        takeover.make_way(experiment, anew=restored is None)

        chunk = experiment.loss_chunk * mesh_lib.batch_shards(mesh)
        files.atomic_write(output / CONFIG, experiment.to_yaml())
        recipe = step_lib.Recipe(start.config, tx, rate, _options(experiment, mesh), experiment.seed, chunk)
        cost = flops.per_token(start.config, tree.flatten(start.weights), plan.mask, length=sizes.length)
        start = takeover.trimmed(start)
        scene = Scene(experiment, sizes, mesh, recipe, frozen, source, data.held_out, saved, journal, cost)
        state, best = _train(scene, state, best)

        # What was learnt, in the form that the next stage takes.
        if experiment.validation.keep == "best":
            if best.step is None:
                journal.say("no held-out loss was finite: the last step is written")
            elif best.step != sizes.steps:
                state = saved.read(best.step, state)
        learnt = {"trainable": table.trainable, "parameters": table.total, "percent": round(table.percent, 4), "template": _template(data)}
        figures = {**log.summary(output), **learnt, "validation_best": best._asdict() if best.step else None, "run": saved.digest}
        result = takeover.finish(
            experiment, start, jax.device_get(state.trainable), prompt=data.prompt, step=_entry(experiment, sizes), figures=figures
        )
        journal.say(f"wrote {result['adapters'][-1] if result['adapters'] else result['model']}")
        return result


def _train(scene: Scene, state: state_lib.State, best: Best) -> tuple[state_lib.State, Best]:
    """Runs the steps that are left; returns the last state and the best step."""
    experiment, steps = scene.experiment, scene.sizes.steps
    first = int(state.step)
    train_step = _compile(scene, state)
    scene.journal.begin(first, total=steps)
    meter = meter_lib.Meter(
        scene.journal, every=experiment.log_every, last=steps, flops_per_token=scene.flops_per_token, max_nonfinite=experiment.max_nonfinite
    )
    score = _scorer(scene)
    placed = feed.train_batches(scene.source, scene.mesh, start=first, stop=steps, accumulation=scene.sizes.accumulation)
    profiled = profile.profiler(experiment.profile_steps, Path(experiment.output), after=first, say=scene.journal.say)
    with guard.listen() as signals, contextlib.closing(placed), profiled as profiler:
        for step, batch in enumerate(placed, start=first + 1):
            if profiler.begins(step):
                with meter.paused():
                    profiler.begin(step, state)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                state, metrics = train_step(state, scene.frozen, batch)
            meter.add(step, metrics)
            if profiler.ends(step):
                with meter.paused():
                    profiler.end(step, state)

            if scene.held_out and _is_due(step, experiment.validation.every, steps):
                with meter.paused():
                    scores = score(state.trainable)
                    loss = feed.together(list(scores.values()))
                    improved = math.isfinite(loss) and (best.loss is None or loss < best.loss)
                    best = Best(step, loss) if improved else best
                    scene.journal.validation(step, {name: score._asdict() for name, score in scores.items()}, best=improved)

            stopping = signals.stop_at(step)
            must_save = stopping or step == steps or (experiment.validation.keep == "best" and best.step == step)
            if must_save or _is_due(step, experiment.checkpoint.every, steps):
                with meter.paused():
                    meter.settle()
                    if must_save or not meter.streak:
                        _save(scene, step, state, best, doubtful=meter.streak > 0)
            if stopping:
                break
        meter.flush()
    if signals.received is not None:  # also where it came after the last step, while that was validated or saved
        scene.saved.wait()
        scene.journal.say(f"{signals.received} received: saved after step {int(state.step):,}; the same command goes on from there")
        raise guard.Interrupted
    return state, best


def _journal(experiment: config_lib.Experiment) -> contextlib.AbstractContextManager[log.Journal]:
    """The run's log."""
    speaks, settings = jax.process_index() == 0, dataclasses.asdict(experiment)
    return log.journal(
        Path(experiment.output), speaks=speaks, tensorboard=experiment.tensorboard, wandb=experiment.wandb, settings=settings
    )


def _save(scene: Scene, step: int, state: state_lib.State, best: Best, *, doubtful: bool) -> None:
    """Saves a step; a doubtful one, after steps that were not finite, does not push out those from before them."""
    spared = {best.step} if scene.experiment.validation.keep == "best" and best.step is not None else set()
    if doubtful:
        scene.saved.wait()
        spared |= set(scene.saved.committed())
    scene.saved.save(step, state, {"best": best}, spared=spared)


def _is_due(step: int, every: int, last: int) -> bool:
    """Whether something done every `every` steps (0: never) and after the last is done after `step`."""
    return step == last or (every > 0 and step % every == 0)


def _cut(experiment: config_lib.Experiment, mesh: Mesh, *, context: int) -> tuple[int, int]:
    """(rows of a global batch, micro-batches that a device runs for it), before any data is built.

    Raises:
      FileNotFoundError: a store is missing.
      ValueError: sizes that do not divide, rows longer than the model's context, or `keep: best` without held-out rows.
    """
    length, holds_out = feed.promised(experiment.data)
    experiment.data.check_length(length, context=context)
    if experiment.validation.keep == "best" and not holds_out:
        raise ValueError("validation.keep: best needs held-out rows: give a source held_out or validation_files")
    batch = experiment.batch_rows(length)
    return batch, experiment.accumulation(batch=batch, devices=mesh_lib.batch_shards(mesh))


def _stream(experiment: config_lib.Experiment, data: feed.Opened, batch: int) -> tuple[batches.Batches, int]:
    """The stream of batches, and how many of them the run takes.

    Raises:
      ValueError: more steps than the data allow, or a profile of steps that there are not.
    """
    steps = experiment.num_steps(rows=data.num_rows, length=data.length)
    shares = [source.share for source in experiment.data.sources]
    source = batches.Batches(
        data.sources, global_batch=batch, seed=experiment.seed, shares=shares, taken=data.taken, separate=experiment.data.separate
    )
    if problems := watch.check(experiment.profile_steps, steps=steps):
        raise ValueError("; ".join(problems))
    if source.num_steps is not None and steps > source.num_steps:
        raise ValueError(
            f"{steps:,} steps of {batch} rows are more than the {source.num_steps:,} that the data have under share.max_epochs: raise it, "
            f"or train for --steps {source.num_steps}"
        )
    return source, steps


def _template(data: feed.Opened) -> str | None:
    return data.prompt.template if data.prompt else None


def _parted(weights: arrays.Tree, plan: stages.Plan, mesh: Mesh, dtype: str) -> tuple[arrays.Tree, arrays.Tree]:
    """(trainables in float32, the frozen rest in the dtype of the computation), on the mesh.

    Norms and the adapters' constants stay as they are: they are small, and the model computes with them in float32.
    """

    def cast(path: str, leaf: Any) -> Any:
        if plan.mask[path]:
            return leaf.astype(jnp.float32)
        return leaf if path.endswith(("norm/weight", "/scale")) else leaf.astype(dtype)

    trainable, frozen = tree.partition(tree.map_with_path(cast, weights), plan.mask)
    return place.weights(trainable, mesh), place.weights(frozen, mesh)


def _options(experiment: config_lib.Experiment, mesh: Mesh) -> llama.Options:
    """How the model computes."""
    dropout = experiment.lora.dropout if experiment.choice.lora_targets else 0.0
    return llama.Options(
        dtype=jnp.dtype(experiment.dtype),
        remat=experiment.remat,
        unroll=experiment.unroll,
        lora_dropout=dropout,
        sharding=place.tokens(mesh),
    )


def _compile(scene: Scene, state: state_lib.State) -> step_lib.Step:
    """The compiled step; says how long that took."""
    if int(state.step) == scene.sizes.steps:
        return step_lib.train(scene.recipe)  # nothing is left to do
    began = time.monotonic()
    batch = feed.abstract_batch(scene.mesh, batch=scene.sizes.batch, accumulation=scene.sizes.accumulation, length=scene.sizes.length)
    compiled = step_lib.compiled(step_lib.train(scene.recipe), state).lower(state, scene.frozen, batch).compile()
    scene.journal.say(f"compiled in {time.monotonic() - began:.1f} s: {scene.sizes.batch} rows of {scene.sizes.length} tokens a step")
    return compiled


def _scorer(scene: Scene) -> Any:
    """A function from trainables to the score of every held-out source by name."""
    evaluate = jax.jit(step_lib.evaluate(scene.recipe))
    rows = scene.sizes.batch // scene.sizes.accumulation
    separate, max_rows = scene.experiment.data.separate, scene.experiment.validation.max_rows

    def score(trainable: arrays.Tree) -> dict[str, feed.Score]:
        of_batch = functools.partial(evaluate, trainable, scene.frozen)
        return {
            held_out.name: feed.score(held_out, of_batch, scene.mesh, batch=rows, separate=separate, max_rows=max_rows)
            for held_out in scene.held_out
        }

    return score


def _order(sizes: Sizes) -> dict[str, int]:
    """What of the sizes decides the numbers: not how a batch is cut into micro-batches."""
    return {"steps": sizes.steps, "batch": sizes.batch, "length": sizes.length}


def _entry(experiment: config_lib.Experiment, sizes: Sizes) -> dict[str, Any]:
    """This stage's line in the history of what it made."""
    return {
        "step": "train",
        "stage": experiment.choice.preset,
        "steps": sizes.steps,
        "tokens": sizes.steps * sizes.batch * sizes.length,
        "learning_rate": experiment.optimizer.learning_rate,
        "seed": experiment.seed,
    }
