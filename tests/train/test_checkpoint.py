"""Checkpoints: what comes back is what was saved, or the step before, or an error; never something else."""

import functools
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zhllama_jax.shard import mesh as mesh_lib
from zhllama_jax.shard import place
from zhllama_jax.train import checkpoint
from zhllama_jax.train import state as state_lib

IDENTITY = {"settings": {"optimizer": {"learning_rate": 2e-4}, "seed": 0}, "start": {"tokenizer": "abc"}}
ADAM = optax.adam(1e-3)


@functools.cache
def make(value: float, *, rows: int = 128, shape: tuple = ()) -> state_lib.State:
    """A state whose leaves hold random numbers around `value`."""
    mesh = mesh_lib.make(*(shape or (1, 1, 1)))
    key = jax.random.key(int(value))
    weights = {"params": {"lm_head": {"base": value + jax.random.normal(key, (rows, 8))}, "norm": {"weight": jnp.full(8, value)}}}
    state = state_lib.init(place.weights(weights, mesh), ADAM, mesh)
    return state._replace(step=jnp.int32(value))


def saved(directory, steps=(1, 2, 3), **choices) -> list[str]:
    """Saves some steps; returns what was said."""
    lines: list[str] = []
    checkpoints = checkpoint.Checkpoints(directory, IDENTITY, **{"keep": 5, "say": lines.append, **choices})
    for step in steps:
        checkpoints.save(step, make(float(step)), {"best": [step, 0.5]})
    checkpoints.close()
    return lines


def restore(directory, *, identity=None, like=None) -> tuple:
    """(what was restored, what was said)."""
    lines: list[str] = []
    checkpoints = checkpoint.Checkpoints(directory, identity or IDENTITY, keep=5, say=lines.append)
    try:
        return checkpoints.restore(like or make(0.0)), lines
    finally:
        checkpoints.close()


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A folder with steps 1, 2, 3, to be copied."""
    directory = tmp_path_factory.mktemp("three")
    saved(directory)
    return directory


@pytest.fixture
def folder(three, tmp_path):
    return shutil.copytree(three, tmp_path / "run")


def test_the_newest_step_comes_back_bit_for_bit(folder) -> None:
    restored, lines = restore(folder)
    jax.tree.map(np.testing.assert_array_equal, restored.state, make(3.0))
    assert restored.record == {"best": [3, 0.5]}
    assert not lines


def test_nothing_saved_is_none(tmp_path) -> None:
    assert restore(tmp_path) == (None, [])


def test_a_state_comes_back_under_another_mesh(folder) -> None:
    restored, _ = restore(folder, like=make(0.0, shape=(2, 2, 2)))
    jax.tree.map(np.testing.assert_array_equal, restored.state, make(3.0))
    assert restored.state.trainable["params"]["lm_head"]["base"].addressable_shards[0].data.shape == (64, 4)


def payloads(folder, step: int) -> list:
    """The files of a step that the manifest lists."""
    return sorted(path for path in (folder / "steps" / str(step)).rglob("*") if path.is_file())


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path) -> None:
    path.write_bytes(b"")


def truncate(path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def append(path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def link(path) -> None:
    shutil.copy(path, path.parent.parent / "aside")
    path.unlink()
    path.symlink_to(path.parent.parent / "aside")


@pytest.mark.parametrize("damage", [flip, empty, truncate, append, os.unlink, link])
def test_any_damage_is_found_and_the_step_before_is_used(folder, damage) -> None:
    files = payloads(folder, 3)
    assert len(files) > 5
    victim = max(files, key=lambda path: path.stat().st_size)
    damage(victim)
    restored, lines = restore(folder)
    jax.tree.map(np.testing.assert_array_equal, restored.state, make(2.0))
    assert len(lines) == 1 and "step 3 is not used" in lines[0] and victim.name in lines[0]
    assert not (folder / "steps" / "3").exists(), "else Orbax would refuse to save the step again"


def test_every_file_of_a_step_is_watched(three, tmp_path) -> None:
    for number in range(len(payloads(three, 3))):
        copy = shutil.copytree(three, tmp_path / str(number))
        flip(payloads(copy, 3)[number])
        reader = checkpoint.Checkpoints(copy, IDENTITY, keep=5, say=print)
        with pytest.raises(ValueError, match="is not what was saved"):
            reader._verified(3)
        reader.close()


def test_a_damaged_manifest_is_found(folder) -> None:
    path = folder / "commits" / "3.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    restored, lines = restore(folder)
    assert int(restored.state.step) == 2 and "manifest is damaged" in lines[0]


def test_a_run_goes_on_from_the_fallback_and_saves_the_step_again(folder) -> None:
    flip(payloads(folder, 3)[0])
    checkpoints = checkpoint.Checkpoints(folder, IDENTITY, keep=5, say=lambda line: None)
    assert int(checkpoints.restore(make(0.0)).state.step) == 2
    checkpoints.save(3, make(3.0), {"best": [3, 0.5]})
    checkpoints.close()
    assert int(restore(folder)[0].state.step) == 3


def test_nothing_sound_is_an_error_not_a_new_start(folder) -> None:
    for step in (1, 2, 3):
        flip(payloads(folder, step)[0])
    with pytest.raises(ValueError, match=r"no checkpoint under .* is sound .*step 3.*step 2.*step 1.*remove the folder"):
        restore(folder)


def test_what_was_never_committed_is_no_checkpoint(folder) -> None:
    """A kill between Orbax's commit and ours, half a deletion, folders of other origin."""
    (folder / "commits" / "3.json").unlink()
    (folder / "steps" / "999").mkdir()
    (folder / "steps" / "4.orbax-checkpoint-tmp").mkdir()
    (folder / "steps" / "notes").write_text("?")
    restored, lines = restore(folder)
    assert int(restored.state.step) == 2
    assert sorted(path.name for path in (folder / "steps").iterdir()) == ["1", "2"]
    assert any("999" in line for line in lines)


def test_old_steps_go_and_the_best_stays(tmp_path) -> None:
    checkpoints = checkpoint.Checkpoints(tmp_path, IDENTITY, keep=2, say=lambda line: None)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, make(float(step)), {"best": [1, 0.5]}, spared=[1])
    checkpoints.close()
    assert checkpoints.committed() == [1, 3, 4]
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == ["1", "3", "4"]


def test_one_step_is_read_back_by_its_number_if_it_is_sound(folder) -> None:
    checkpoints = checkpoint.Checkpoints(folder, IDENTITY, keep=5, say=print)
    jax.tree.map(np.testing.assert_array_equal, checkpoints.read(1, make(0.0)), make(1.0))
    flip(max(payloads(folder, 1), key=lambda path: path.stat().st_size))
    with pytest.raises(ValueError, match=r"step 1 under .* cannot be read back: .* is not what was saved"):
        checkpoints.read(1, make(0.0))
    checkpoints.close()


def test_another_run_is_refused_by_what_differs(folder) -> None:
    other = {"settings": {"optimizer": {"learning_rate": 3e-4}, "seed": 0}, "start": {"tokenizer": "xyz"}}
    with pytest.raises(ValueError, match=r"learning_rate was 0.0002 and is 0.0003; start.tokenizer was 'abc' and is 'xyz'"):
        restore(folder, identity=other)


def test_another_shape_or_dtype_is_refused_by_leaf(folder) -> None:
    with pytest.raises(ValueError, match=r"trainable/params/lm_head/base was \[\[128, 8\], 'float32'\] and is \[\[256, 8\], 'float32'\]"):
        restore(folder, like=make(0.0, rows=256))
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if leaf.ndim else leaf, make(0.0))
    with pytest.raises(ValueError, match="bfloat16"):
        restore(folder, like=half)


def test_saving_a_committed_step_again_changes_nothing(folder) -> None:
    before = (folder / "commits" / "3.json").read_bytes()
    saved(folder, steps=(3,))
    assert (folder / "commits" / "3.json").read_bytes() == before


def test_a_failure_in_the_background_is_raised_by_the_next_call(tmp_path, monkeypatch) -> None:
    checkpoints = checkpoint.Checkpoints(tmp_path, IDENTITY, keep=2, say=lambda line: None)
    monkeypatch.setattr(checkpoint.beside, "sync_tree", lambda folder: (_ for _ in ()).throw(OSError("No space left on device")))
    checkpoints.save(1, make(1.0), {})
    with pytest.raises(OSError, match="No space left on device"):
        checkpoints.save(2, make(2.0), {})
    monkeypatch.undo()
    checkpoints.close()
    assert checkpoints.committed() == []


def test_donated_buffers_may_change_while_a_save_is_under_way(tmp_path) -> None:
    checkpoints = checkpoint.Checkpoints(tmp_path, IDENTITY, keep=2, say=lambda line: None)
    state = jax.tree.map(jnp.copy, make(1.0))
    expected = jax.device_get(state)
    checkpoints.save(1, state, {})
    jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)(state)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, restore(tmp_path)[0].state, expected)


def test_the_manifest_says_what_it_holds(three) -> None:
    manifest = json.loads((three / "commits" / "3.json").read_text())
    assert manifest["leaves"]["opt_state/0/nu/params/norm/weight"] == [[8], "float32"]
    assert manifest["versions"]["jax"] == jax.__version__
