"""What a stage starts from, and what it leaves behind.

A stage starts from a model directory and the adapters of former stages, in order. Their rows replace rows. What becomes of their LoRA
factors is the stage's choice:

    fresh     there are none
    continue  the last adapter's go on being trained
    extend    they go on, and further kernels get new ones
    fold      all of them are added to the base in memory, and new ones begin

It leaves an adapter directory. After continue and extend that takes the place of the last adapter in the list; after fresh and fold
it stands at the end. Stage full leaves a model directory.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zhllama_jax import arrays, files, hub, tree
from zhllama_jax.convert import host, llama_hf, manifest, peft, source, stack
from zhllama_jax.lora import adapters, merge
from zhllama_jax.lora import config as lora_config
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama
from zhllama_jax.tokenizer import processor
from zhllama_jax.train import config as config_lib
from zhllama_jax.train import succession

Say = Callable[[str], None]
ADAPTER, MODEL, RESULT = "adapter", "model", "result.json"


class Start(NamedTuple):
    """Where a stage begins.

    Attributes:
      config: the model's shape.
      weights: collections `params` and, for stages with LoRA, `lora`; on the host, as stored.
      tokenizer: the model's.
      lora: of the factors, for the written adapter; None without any.
      former: adapters that stand before the one to be written.
      replaced: the adapter whose place it takes, or None.
      fingerprint: of the base's weights; None for random ones.
      prompt: how instructions were put to the model so far.
      history: the steps that made the model or the replaced adapter.
      dtype: in which the base is stored.
    """

    config: model_config.LlamaConfig
    weights: arrays.Tree
    tokenizer: processor.Tokenizer
    lora: lora_config.LoraConfig | None
    former: list[peft.Adapter]
    replaced: peft.Adapter | None
    fingerprint: str | None
    prompt: manifest.Prompt | None
    history: list[dict[str, Any]]
    dtype: str

    def identity(self) -> dict[str, Any]:
        """What a checkpoint of this start must agree with."""
        listed = [*self.former, *([self.replaced] if self.replaced else [])]
        return {
            "base": self.fingerprint,
            "adapters": [adapter.digest for adapter in listed],
            "tokenizer": self.tokenizer.sha256,
            "vocab_size": self.config.vocab_size,
            "base_vocab_size": self.config.base_rows,
        }


def begin(experiment: config_lib.Experiment, *, say: Say) -> Start:
    """Reads what the experiment starts from.

    Raises:
      FileNotFoundError: a directory is missing.
      ValueError: adapters that do not belong together or to the model, or a take-over that their contents do not allow.
    """
    check_output(experiment, early=True)
    if isinstance(experiment.model, config_lib.NewModel):
        return _random(experiment, experiment.model)
    stage, directory = experiment.choice, Path(experiment.model)
    if experiment.expects is not None:
        experiment.expects.check(source.load_config(directory), where=experiment.model)
    checkpoint = host.load(directory, digest=True)
    loaded = [peft.fitted(peft.load(path), checkpoint.config) for path in experiment.adapters]
    fingerprint = checkpoint.fingerprint
    for note in checkpoint.notes + [note for adapter in loaded for note in adapter.notes]:
        say(f"note: {note}")
    for note in stack.check(checkpoint.config, loaded, fingerprint=fingerprint, base=directory):
        say(f"note: {note}")
    tokenizer = stack.choose_tokenizer(directory, loaded, checkpoint.config)
    llama_hf.check_tokenizer(checkpoint.config, tokenizer)
    replaced = _replaced(experiment, loaded, checkpoint.params)
    former = loaded[:-1] if replaced else loaded
    params = checkpoint.params
    for adapter in loaded:
        params = peft.place_rows(checkpoint.config, params, adapter)
    params = _folded(params, [adapter.lora for adapter in former if adapter.lora], dtype=experiment.dtype, say=say)
    weights: arrays.Tree = {"params": params}
    lora = experiment.lora.targeting(stage.lora_targets) if stage.lora_targets else None
    if lora is not None:
        weights["lora"] = _factors(params, lora, experiment, replaced)
        adapters.check(params, weights["lora"])
    prompts = [checkpoint.prompt, *(adapter.prompt for adapter in loaded)]
    return Start(
        config=checkpoint.config,
        weights=weights,
        tokenizer=tokenizer,
        lora=lora,
        former=former,
        replaced=replaced,
        fingerprint=fingerprint,
        prompt=next((prompt for prompt in reversed(prompts) if prompt), None),
        history=(replaced.history if replaced else []) if not stage.full else checkpoint.history,
        dtype=tree.flatten(checkpoint.params)["norm/weight"].dtype.name,
    )


def check_output(experiment: config_lib.Experiment, *, early: bool = False) -> None:
    """Refuses a run whose results would take the place of what it reads, or of what no run wrote; `begin` asks too.

    Where a result stands there already an `early` question is put off: of a finished run nothing is written, whatever lies beside it.

    Raises:
      ValueError, OSError: see `files.free_directory`.
    """
    if early and (Path(experiment.output) / RESULT).is_file():
        return
    model = experiment.model
    stores = [source.store for source in experiment.data.sources if source.store is not None]
    inputs = [model if isinstance(model, str) else model.tokenizer, *experiment.adapters, *stores]
    for name, ours in {ADAPTER: manifest.adapter_files, MODEL: manifest.model_files}.items():
        files.free_directory(Path(experiment.output) / name, ours=ours, overwrite=True, inputs=inputs)


def make_way(experiment: config_lib.Experiment, *, anew: bool) -> None:
    """Asks what `check_output` may have put off, and, of a run that begins anew, removes the result of one whose checkpoints are gone.

    Raises:
      ValueError, OSError: see `check_output`.
    """
    check_output(experiment)
    if anew and jax.process_index() == 0:
        (Path(experiment.output) / RESULT).unlink(missing_ok=True)


def trimmed(start: Start) -> Start:
    """The start without the weights that `finish` does not look at, so that the host need not hold the base beside the devices."""
    params = {name: start.weights["params"][name] for name in model_config.MATRICES if start.replaced and name in start.replaced.rows}
    return start._replace(weights={**start.weights, "params": params})


def check_trainable(stage: config_lib.Stage, mask: Mapping[str, bool]) -> None:
    """Refuses trainables that an adapter directory cannot hold.

    Raises:
      ValueError: with their paths.
    """
    outside = [
        path
        for path, learns in mask.items()
        if learns and not path.startswith(("lora/", *(f"params/{name}/" for name in model_config.MATRICES)))
    ]
    if outside and not stage.full:
        raise ValueError(f"stage {stage.preset} trains {', '.join(outside)}, which no adapter can hold: use stage full, or freeze them")


def finish(
    experiment: config_lib.Experiment,
    start: Start,
    trainable: arrays.Tree,
    *,
    prompt: manifest.Prompt | None,
    step: dict[str, Any],
    figures: dict[str, Any],
) -> dict[str, Any]:
    """Writes what was learnt and, last, `result.json`, whose contents it returns.

    Args:
      experiment: the stage.
      start: what it began with.
      trainable: the trained leaves, with the collections on top, on the host.
      prompt: how instructions were put to the model in this stage; None for plain text.
      step: this stage's entry in the history.
      figures: further figures for the result.
    """
    output = Path(experiment.output)
    history = [*start.history, step]
    if experiment.choice.full:
        params = tree.combine(trainable)["params"]
        llama_hf.save(
            output / MODEL,
            config=start.config,
            params=params,
            tokenizer=start.tokenizer,
            dtype=start.dtype,
            prompt=prompt or start.prompt,
            history=history,
            overwrite=True,
        )
        result = {"model": str(output / MODEL), "adapters": []}
    else:
        _save_adapter(output / ADAPTER, experiment, start, trainable, prompt=prompt, history=history)
        former = list(experiment.adapters[:-1] if start.replaced else experiment.adapters)
        result = {"model": str(experiment.model), "adapters": [*former, str(output / ADAPTER)]}
    result |= {**step, **figures}
    files.write_json(output / RESULT, result)
    return result


def finished(output: Path, *, run: str) -> dict[str, Any] | None:
    """The result that the run of this digest left, if what it wrote still stands in `output`; None where `finish` has to be done again."""
    try:
        result = files.read_json(output / RESULT, what="the result of a run")
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(result, dict) or result.get("run") != run:
        return None
    written = Path(result["adapters"][-1] if result["adapters"] else result["model"])
    place = output / (ADAPTER if result["adapters"] else MODEL)
    return result if written == place and (place / manifest.FILE).is_file() else None


def _save_adapter(
    directory: Path,
    experiment: config_lib.Experiment,
    start: Start,
    trainable: arrays.Tree,
    *,
    prompt: manifest.Prompt | None,
    history: list[dict[str, Any]],
) -> None:
    """Writes LoRA factors and trained rows; rows of a replaced adapter that were not trained again are handed on."""
    params, lora = start.weights["params"], {}
    if "lora" in start.weights:
        constants = {path: leaf for path, leaf in tree.flatten(start.weights["lora"]).items() if path.endswith("/scale")}
        lora = tree.unflatten({**constants, **tree.flatten(trainable.get("lora", {}))})
    rows: dict[str, dict[str, Any]] = {}
    for matrix in model_config.MATRICES:
        carried = _touched(start.config, start.replaced, matrix)
        trained = trainable.get("params", {}).get(matrix, {})
        rows[matrix] = {**{block: params[matrix][block] for block in carried}, **trained}
    assert start.fingerprint is not None, "an adapter has a base"
    peft.save(
        directory,
        config=start.config,
        lora=lora,
        rows=rows,
        lora_config=start.lora,
        base=hub.id_of(str(experiment.model)) or str(experiment.model),
        base_fingerprint=start.fingerprint,
        requires=[adapter.digest for adapter in start.former],
        tokenizer=start.tokenizer,
        prompt=prompt or (start.replaced.prompt if start.replaced else None),
        history=history,
        overwrite=True,
    )


def _touched(config: model_config.LlamaConfig, adapter: peft.Adapter | None, matrix: str) -> list[str]:
    """The blocks of a vocabulary matrix of which an adapter holds rows."""
    if adapter is None or matrix not in adapter.rows:
        return []
    return [block.name for block in config.blocks if block.holds(adapter.rows[matrix].ids).any()]


def _random(experiment: config_lib.Experiment, model: config_lib.NewModel) -> Start:
    """A model of random weights."""
    tokenizer = processor.Tokenizer.load(model.tokenizer)
    tokenizer.require_llama()
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    config = model.init.llama(vocab_size=tokenizer.vocab_size, **ids)
    return Start(
        config=config,
        weights={"params": llama.init(config, jax.random.key(experiment.seed))},
        tokenizer=tokenizer,
        lora=None,
        former=[],
        replaced=None,
        fingerprint=None,
        prompt=None,
        history=[],
        dtype="float32",
    )


def _replaced(experiment: config_lib.Experiment, loaded: list[peft.Adapter], params: arrays.Tree) -> peft.Adapter | None:
    """The adapter whose factors go on being trained; None if new ones begin.

    Raises:
      ValueError: the adapters do not allow the take-over.
    """
    listed = [succession.Former(str(adapter.directory), adapter.lora_config if adapter.lora else None) for adapter in loaded]
    # A regex is compared as the kernels that it stands for.
    targets = tuple(path.rpartition("/")[2] for path in adapters.targets(params, experiment.choice.lora_targets))
    wanted = experiment.lora.targeting(targets) if targets else None
    return loaded[-1] if succession.goes_on(experiment.adapter, wanted, listed) else None


def _factors(
    params: arrays.Tree, lora: lora_config.LoraConfig, experiment: config_lib.Experiment, replaced: peft.Adapter | None
) -> arrays.Tree:
    """The stage's LoRA factors: new ones, but for those taken over, which keep their rank and scale."""
    key = jax.random.fold_in(jax.random.key(experiment.seed), 1)
    found = tree.flatten(jax.device_get(adapters.init(key, tree.abstract(params), lora)))
    taken = tree.flatten(replaced.lora) if replaced else {}
    for path in [path for path in taken if path.endswith("/a")]:
        a_LIR, b_LRO = taken[path], taken[f"{path[:-1]}b"]
        absent_LR = ~(a_LIR.any(axis=1) | b_LRO.any(axis=2))
        if absent_LR.any():
            # Of a layer, or a rank, that the adapter left out, both are zero and would stay so: neither has a gradient. With an A of its
            # own it can learn, and adds nothing yet.
            again = dataclasses.replace(lora, rank=a_LIR.shape[2], targets=(path.removesuffix("/a"),))
            new_LIR = tree.flatten(jax.device_get(adapters.init(key, tree.abstract(params), again)))[path]
            taken[path] = np.where(absent_LR[:, None, :], new_LIR, a_LIR)
    return tree.unflatten({**found, **taken})


def _folded(params: arrays.Tree, loras: list[arrays.Tree], *, dtype: str, say: Say) -> arrays.Tree:
    """The weights with the factors of former adapters added in float32; says what is lost if they are then rounded."""
    if not loras:
        return params
    paths = {path.removesuffix("/a") + "/kernel" for lora in loras for path in tree.flatten(lora) if path.endswith("/a")}
    before = tree.map_with_path(lambda path, leaf: np.asarray(leaf, np.float32) if path in paths else leaf, params)
    after = jax.device_get(merge.fold(before, *loras))
    if dtype != "float32":
        say(_rounding(tree.flatten(before), tree.flatten(after), paths, dtype))
    return after


def _rounding(before: Mapping[str, Any], after: Mapping[str, Any], paths: set[str], dtype: str) -> str:
    """How much of the adapters' change is lost when the sums are rounded."""
    lost = sum(float(np.sum(np.square(after[path] - np.asarray(jnp.asarray(after[path], dtype), np.float32)))) for path in paths)
    change = sum(float(np.sum(np.square(after[path] - before[path]))) for path in paths)
    share = 100 * (lost / change) ** 0.5 if change else 0.0
    return f"folding into {dtype}: rounding differs from the exact sum by {share:.2f} % of the size of the adapters' change"
