"""Saved training states that are either proven whole or not used.

Orbax writes the arrays. It keeps no checksum of them, and what it calls finished may not survive a power cut, so a step counts as
committed only when our manifest stands: every file hashed, everything flushed to the disk, and then, last, `commits/<step>.json`
under its final name. The manifest also says whose state it is: a checkpoint of another run is refused with the difference.

    checkpoints/
      steps/120/…           Orbax: the leaves of the state by name
      commits/120.json      identity, leaves (shape, dtype), files (size, SHA-256), record, and a digest of itself

Deleting goes the other way round: the manifest first.
"""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

import zhllama_jax
from zhllama_jax import beside, files, tree
from zhllama_jax.train import state as state_lib

FORMAT = 1
Say = Callable[[str], None]


class Restored(NamedTuple):
    """A state that was read back, and what was recorded with it."""

    state: state_lib.State
    record: dict[str, Any]


def committed(directory: Path) -> list[int]:
    """Steps that have a manifest in a run's folder of checkpoints, oldest first."""
    return sorted(int(path.stem) for path in (directory / "commits").glob("*.json") if path.stem.isdigit())


class Checkpoints:
    """The saved states of one run.

    Saving goes on in the background; `save` and `close` first wait for the step before and raise what went wrong with it.
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any], *, keep: int, say: Say) -> None:
        """Opens the folder and removes what was never committed.

        Args:
          directory: made if it is missing.
          identity: what a checkpoint must agree with to be of this run, nested JSON.
          keep: newest steps to keep.
          say: tells the user a line.
        """
        self._steps, self._commits = directory.absolute() / "steps", directory.absolute() / "commits"
        self._identity = json.loads(json.dumps(identity))
        self._keep, self._say = keep, say
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        for folder in (self._steps, self._commits):
            folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        self._manager = _manager(self._steps)

    @property
    def digest(self) -> str:
        """SHA-256 of the run's identity: what it leaves behind carries it."""
        return _digest(self._identity)

    def committed(self) -> list[int]:
        """Steps that have a manifest, oldest first."""
        return committed(self._commits.parent)

    def restore(self, like: state_lib.State) -> Restored | None:
        """The newest state that verifies, under the shardings of `like`; None if none was ever committed.

        Damaged steps newer than it are removed, with a line for each. A state is never begun anew in silence.

        Raises:
          ValueError: a committed step is of another run, or there are committed steps and none verifies.
        """
        reasons = []
        for step in reversed(self.committed()):
            try:
                manifest = self._verified(step)
            except (ValueError, OSError) as error:
                reasons.append(f"step {step}: {error}")
                self._say(f"checkpoint of step {step} is not used: {error}")
                continue
            self._check_identity(step, manifest["identity"])
            _check_leaves(step, manifest["leaves"], _describe(like))
            for newer in [other for other in self.committed() if other > step]:
                self._remove(newer)
            return Restored(self._load(step, like), manifest["record"])
        if reasons:
            raise ValueError(f"no checkpoint under {self._steps.parent} is sound ({'; '.join(reasons)}); remove the folder to begin anew")
        return None

    def read(self, step: int, like: state_lib.State) -> state_lib.State:
        """The state of one committed step, under the shardings of `like`.

        Raises:
          ValueError, OSError: it is damaged or gone.
        """
        self.wait()
        try:
            self._verified(step)
        except (ValueError, OSError) as error:
            raise ValueError(f"the checkpoint of step {step} under {self._steps.parent} cannot be read back: {error}") from None
        return self._load(step, like)

    def _load(self, step: int, like: state_lib.State) -> state_lib.State:
        """What Orbax reads of a step that was verified."""
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding) for name, leaf in state_lib.leaves(like).items()
        }
        target = ocp.args.Composite(state=ocp.args.StandardRestore(tree.unflatten(abstract)))
        values = tree.flatten(self._manager.restore(step, args=target)["state"])
        return state_lib.from_leaves(like, {name: values[name] for name in abstract})

    def save(self, step: int, state: state_lib.State, record: Mapping[str, Any], *, spared: Collection[int] = ()) -> None:
        """Begins to save a step; a step that is committed already is left as it is.

        Args:
          step: batches consumed.
          state: copied before this returns, so it may be donated afterwards.
          record: JSON to give back on restore.
          spared: steps that are kept beside the newest ones.

        Raises:
          OSError: the step saved before could not be committed.
        """
        self.wait()
        if step in self.committed():
            return
        leaves = state_lib.leaves(state)
        accepted = self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(tree.unflatten(leaves))))
        if not accepted:
            raise OSError(f"Orbax refused to save step {step} under {self._steps}, which holds steps {self._manager.all_steps()}")
        manifest = {"format": FORMAT, "step": step, "identity": self._identity, "leaves": _describe(state), "record": dict(record)}
        if jax.process_index() == 0:
            self._thread = threading.Thread(target=self._commit, args=(step, manifest, spared), name=f"commit {step}")
            self._thread.start()

    def close(self) -> None:
        """Waits for the last save.

        Raises:
          OSError: it could not be committed.
        """
        try:
            self.wait()
        finally:
            self._manager.close()

    def wait(self) -> None:
        """Waits until the step saved last is committed.

        Raises:
          OSError: it could not be.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise OSError(f"a checkpoint could not be saved under {self._steps}: {failure}") from failure

    def _commit(self, step: int, manifest: dict[str, Any], spared: Collection[int]) -> None:
        """Runs on a thread: waits for Orbax, proves what lies on the disk, and only then says so."""
        try:
            self._manager.wait_until_finished()
            folder = self._steps / str(step)
            beside.sync_tree(folder)
            beside.sync_directory(self._steps)
            listed = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
            manifest["files"] = {name: [path.stat().st_size, files.sha256(path)] for name, path in listed.items()}
            manifest["versions"] = {"zhllama_jax": zhllama_jax.__version__, "jax": jax.__version__, "orbax": ocp.__version__}
            files.write_json(self._commits / f"{step}.json", {**manifest, "digest": _digest(manifest)})
            for old in self.committed()[: -self._keep]:
                if old not in spared:
                    self._remove(old)
        except BaseException as error:
            self._failure = error

    def _remove(self, step: int) -> None:
        """Takes a step back: first the manifest, then the arrays."""
        (self._commits / f"{step}.json").unlink(missing_ok=True)
        beside.sync_directory(self._commits)
        if step in self._manager.all_steps():
            self._manager.delete(step)

    def _sweep(self) -> None:
        """Removes whatever lies among the steps without a manifest: half-written, half-deleted, or foreign."""
        known = {str(step) for step in self.committed()}
        for path in self._steps.iterdir():
            if path.name in known:
                continue
            if path.name.isdigit():
                self._say(f"checkpoint of step {path.name} was never completed and is removed")
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _verified(self, step: int) -> dict[str, Any]:
        """The manifest of a step after its files were hashed again.

        Raises:
          ValueError, OSError: something is missing or differs; the message names it.
        """
        manifest = files.read_json(self._commits / f"{step}.json", what="the manifest of a checkpoint")
        if not isinstance(manifest, dict) or manifest.get("digest") != _digest(manifest):
            raise ValueError("its manifest is damaged")
        if manifest["format"] != FORMAT or manifest["step"] != step:
            raise ValueError(f"its manifest is of format {manifest['format']} and step {manifest['step']}")
        folder = self._steps / str(step)
        for name, (size, digest) in manifest["files"].items():
            path = folder / name
            if path.is_symlink() or not path.is_file():
                raise ValueError(f"{name} is missing")
            if path.stat().st_size != size or files.sha256(path) != digest:
                raise ValueError(f"{name} is not what was saved")
        return manifest

    def _check_identity(self, step: int, found: Mapping[str, Any]) -> None:
        """Refuses a step of another run."""
        ours, theirs = _flat(self._identity), _flat(found)
        missing = "nothing"
        differences = [
            f"{name} was {theirs.get(name, missing)!r} and is {ours.get(name, missing)!r}"
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name, missing) != theirs.get(name, missing)
        ]
        if differences:
            raise ValueError(
                f"{self._steps.parent} holds step {step} of another run: {'; '.join(differences)}. "
                "Choose another output, or remove the folder to begin anew"
            )


def _manager(directory: Path) -> ocp.CheckpointManager:
    """Orbax as we need it: it saves when told to, in the background, deletes nothing by itself, and marks what is complete."""
    atomicity = ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE, allow_legacy_atomic_rename=True)
    options = ocp.CheckpointManagerOptions(
        save_decision_policy=ocp.checkpoint_managers.FixedIntervalPolicy(1),
        enable_async_checkpointing=True,
        async_options=ocp.AsyncOptions(timeout_secs=1200),
        atomicity_options=atomicity,
    )
    return ocp.CheckpointManager(directory, options=options)


def _describe(state: state_lib.State) -> dict[str, Any]:
    """Shape and dtype of every leaf by name."""
    return {name: [list(leaf.shape), leaf.dtype.name] for name, leaf in state_lib.leaves(state).items()}


def _check_leaves(step: int, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuses a state of other leaves, by name: Orbax itself would cast another dtype in silence."""
    differences = [
        f"{name} was {found.get(name, 'not there')} and is {expected.get(name, 'not there')}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    if differences:
        raise ValueError(f"the checkpoint of step {step} does not fit this model and stage: {'; '.join(differences)}")


def _digest(contents: Mapping[str, Any]) -> str:
    """SHA-256 of JSON, of a manifest without its own digest."""
    rest = {key: value for key, value in contents.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested JSON by dotted names."""
    if isinstance(value, Mapping) and value:
        return {name: leaf for key, inner in value.items() for name, leaf in _flat(inner, f"{prefix}{key}.").items()}
    return {prefix.removesuffix("."): value}
