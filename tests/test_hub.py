"""Names: what is a path and what an address, what is fetched, and what each refusal says. The hub is a server of this machine."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reference import fake_hub
from zhllama_jax import hub

INDEX = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
MODEL = {
    "config.json": "{}",
    "generation_config.json": '{"top_k": 3}',
    "tokenizer.model": "pieces",
    "tokenizer_config.json": '{"legacy": true}',
    "model.safetensors.index.json": json.dumps(INDEX),
    "model-00001-of-00002.safetensors": "first",
    "model-00002-of-00002.safetensors": "second",
    "README.md": "a card",
    "pytorch_model-00001-of-00001.bin": "the same as a pickle",
    "consolidated.safetensors": "the same once more",
    "original/consolidated.00.pth": "and again",
}
READ = [name for name in MODEL if name.startswith(("config", "generation", "tokenizer", "model"))]


PYTORCH = {
    "config.json": "{}",
    "pytorch_model.bin.index.json": json.dumps({"weight_map": {name: f"pytorch_model-0000{name}-of-00002.bin" for name in "12"}}),
    "pytorch_model-00001-of-00002.bin": "first",
    "pytorch_model-00002-of-00002.bin": "second",
}


def publish(server: fake_hub.Hub, name: str, files: dict[str, str], **choices: object) -> fake_hub.Repository:
    repository = fake_hub.Repository({file: text.encode() for file, text in files.items()}, **choices)  # type: ignore[arg-type]
    server.repositories[name] = repository
    return repository


def resolve(name: str, what: hub.What = "model") -> Path:
    return hub.resolve(name, what, say=lambda line: None)


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("team/llama-7b", hub.Address("team/llama-7b")),
        ("team/llama-2.7b_hf@v1.0", hub.Address("team/llama-2.7b_hf", "v1.0")),
        ("team/llama@refs/pr/3", hub.Address("team/llama", "refs/pr/3")),
        ("team/llama/tokenizer.model", hub.Address("team/llama", None, "tokenizer.model")),
        ("team/llama/old/zh.model@abc", hub.Address("team/llama", "abc", "old/zh.model")),
        *[
            (path, None)
            for path in (
                "llama", "./team/llama", "../llama", "/team/llama", "~/llama", "team/llama/", "runs/stage1/adapter", "team//llama", "",
                "team/zh.model", "lists/words.txt", "team/config.JSON", "team/llama@", "team/llama@../x", "team/../llama", "te am/llama",
                "team/a--b", "team\\llama", "团队/模型", "hf://team/llama", "https://huggingface.co/team/llama",
            )
        ],
    ],
)  # fmt: skip
def test_what_looks_like_a_path_is_no_address(name: str, meaning: hub.Address | None) -> None:
    assert hub.address(name) == meaning


def test_what_is_here_wins(hub_server: fake_hub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(hub_server, "team/llama", MODEL)
    (tmp_path / "team" / "llama").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("team/llama") == Path("team/llama")
    assert hub_server.requests == []


def test_a_folder_that_hides_what_was_fetched_is_noted(hub_server: fake_hub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only then: every path of two parts could be the name of something on the hub."""
    publish(hub_server, "team/llama", MODEL)
    resolve("team/llama")
    for name in ("llama", "other"):
        (tmp_path / "team" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    for name in ("team/llama", "team/other", "./team/llama", str(tmp_path / "team" / "llama")):
        hub.resolve(name, "model", say=said.append)
    assert said == ["note: team/llama is the folder here; for the one of the Hugging Face hub, which is in its cache, say team/llama@main"]


@pytest.mark.parametrize("what", ["model", "adapter", "either", "shape"])
def test_a_file_in_the_place_of_a_folder_is_called_one(what: hub.What, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"model\.safetensors is a file: expected the folder of an? (model|adapter)"):
        resolve(str(tmp_path / "model.safetensors"), what)
    assert resolve(str(tmp_path / "model.safetensors"), "tokenizer")


def test_what_a_killed_command_was_replacing_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import os, signal
from pathlib import Path
from zhllama_jax import beside
with beside.place(Path("team/llama").resolve()) as side:
    (side / "new").mkdir()
    os.rename("team/llama", side / "former")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "team" / "llama").mkdir(parents=True)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    monkeypatch.chdir(tmp_path)
    (former,) = (tmp_path / "team").glob(".llama.*.tmp/former")
    for name in ("team/llama", "./team/llama"):
        with pytest.raises(FileNotFoundError, match=rf"was killed, and what stood there is kept in {former}: rename it back$"):
            resolve(name)


def test_an_empty_name_is_told_to_be_empty() -> None:
    with pytest.raises(FileNotFoundError, match=r"^\(an empty name\) not found: no such folder here"):
        resolve("")


@pytest.mark.parametrize("name", ["nowhere", "./team/llama", "runs/stage1/adapter", "team/llama/tokenizer.model"])
def test_a_path_is_never_asked_for(name: str, hub_server: fake_hub.Hub) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        resolve(name)
    assert str(caught.value) == f"{name} not found: no such folder here, and no hub id (owner/name, or owner/name@revision)"
    assert hub_server.requests == []


@pytest.mark.parametrize("name", ["team/lama", "team/lama/tokenizer.model"])
def test_a_slip_in_a_path_is_not_asked_for(name: str, hub_server: fake_hub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`runs/stage1` with a typing error would otherwise become a stranger's model; a revision says that the hub is meant."""
    publish(hub_server, "team/lama", MODEL)
    (tmp_path / "team" / "llama").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"^{name} not found: team is a folder here, .* say {name}@main$"):
        resolve(name, "tokenizer")
    assert hub_server.requests == []
    assert resolve(f"{name}@main", "tokenizer").read_text() == "pieces"


def test_only_what_is_read_is_fetched_and_only_once(hub_server: fake_hub.Hub) -> None:
    repository = publish(hub_server, "team/llama", MODEL)
    folder = resolve("team/llama")
    assert sorted(path.name for path in folder.iterdir()) == sorted(READ)
    assert all((folder / name).read_text() == MODEL[name] for name in READ)
    assert hub.id_of(folder) == f"team/llama@{repository.commit}"
    assert sorted(hub_server.fetched()) == sorted(f"team/llama/{name}" for name in READ)
    assert resolve("team/llama") == folder
    assert resolve(f"team/llama@{repository.commit}") == folder
    assert len(hub_server.fetched()) == len(READ)
    assert all("zhllama-jax/" in agent for _, path, agent in hub_server.requests if "team/llama" in path)


def test_weights_come_after_a_look_at_the_rest(hub_server: fake_hub.Hub) -> None:
    publish(hub_server, "team/llama", MODEL)

    def refuse(folder: Path) -> None:
        assert (folder / "config.json").is_file()
        raise ValueError("another kind of model")

    with pytest.raises(ValueError, match="another kind"):
        hub.resolve("team/llama", "model", say=lambda line: None, look=refuse)
    assert not [file for file in hub_server.fetched() if file.endswith(".safetensors")]


@pytest.mark.parametrize(
    ("what", "name", "found", "fetched"),
    [
        ("shape", "team/llama", ".", ["config.json"]),
        ("tokenizer", "team/llama", "tokenizer.model", ["tokenizer.model"]),
        ("tokenizer", "team/llama/old/zh.model", "old/zh.model", ["old/zh.model"]),
        ("adapter", "team/lora", ".", ["adapter_config.json", "adapter_model.safetensors", "tokenizer.model"]),
        ("either", "team/lora", ".", ["adapter_config.json", "adapter_model.safetensors", "tokenizer.model"]),
        ("adapter", "team/old-lora", ".", ["adapter_config.json", "adapter_model.bin"]),
        ("model", "team/ours", ".", ["config.json", "model.safetensors", "zhllama.json", "README.md"]),
        ("model", "team/pytorch", ".", list(PYTORCH)),
        ("model", "team/small", ".", ["config.json", "pytorch_model.bin"]),
        ("model", "team/both", ".", ["config.json", "model.safetensors"]),
    ],
)
def test_what_is_fetched_follows_from_what_is_wanted(
    what: hub.What, name: str, found: str, fetched: list[str], hub_server: fake_hub.Hub
) -> None:
    """Of a directory of ours everything that its manifest lists, so that it can be verified."""
    publish(hub_server, "team/llama", {**MODEL, "old/zh.model": "former pieces"})
    adapter = {"adapter_config.json": "{}", "adapter_model.safetensors": "factors", "adapter_model.bin": "", "tokenizer.model": "pieces"}
    publish(hub_server, "team/lora", adapter)
    publish(hub_server, "team/old-lora", {"adapter_config.json": "{}", "adapter_model.bin": "factors", "optimizer.pt": ""})
    publish(hub_server, "team/pytorch", {**PYTORCH, "optimizer.bin": "", "README.md": ""})
    publish(hub_server, "team/small", {"config.json": "{}", "pytorch_model.bin": "weights", "training_args.bin": ""})
    publish(hub_server, "team/both", {**PYTORCH, "model.safetensors": "weights"})
    listed = {"files": {"config.json": {}, "README.md": {}, "model.safetensors": {}, "gone.txt": {}}}
    ours = {"config.json": "{}", "README.md": "a card", "model.safetensors": "weights", "zhllama.json": json.dumps(listed), "notes.txt": ""}
    publish(hub_server, "team/ours", ours)
    path = resolve(name, what)
    repository = "/".join(name.split("/")[:2])
    assert hub.id_of(path) == f"{repository}{'' if found == '.' else '/' + found}@{hub_server.repositories[repository].commit}"
    assert sorted(hub_server.fetched()) == sorted(f"{repository}/{file}" for file in fetched)
    assert resolve(str(hub.id_of(path)), what) == path


def test_a_revision_names_its_own_files(hub_server: fake_hub.Hub) -> None:
    publish(hub_server, "team/llama", MODEL, tags=("v1", "refs/pr/3"))
    assert resolve("team/llama@v1") == resolve("team/llama") == resolve("team/llama@refs/pr/3")
    before = resolve("team/llama")
    publish(hub_server, "team/llama", {**MODEL, "config.json": '{"vocab_size": 2}'})
    assert resolve("team/llama") != before
    assert (before / "config.json").read_text() == "{}"


def says(server: fake_hub.Hub, message: str) -> str:
    return message.replace("{hub}", server.endpoint)


@pytest.mark.parametrize(
    ("token", "name", "message"),
    [
        (
            None,
            "team/gated",
            "team/gated is gated: accept its licence at {hub}/team/gated, make a token at {hub}/settings/tokens and set it as",
        ),
        ("hf_known", "team/gated", "may not read it: accept its licence at {hub}/team/gated with the token's account"),
        (None, "team/private", "no such folder, and {hub} has no model of this name that is public; if it is private, set HF_TOKEN"),
        (None, "team/unknown", "no such folder, and {hub} has no model of this name that is public; if it is private, set HF_TOKEN"),
        ("hf_known", "team/unknown", "no such folder, and {hub} has no model of this name that your token may see"),
        (
            "hf_invented",
            "team/gated",
            "{hub} does not let your token (HF_TOKEN, or the one of `hf auth login`) read team/gated: make a new one at",
        ),
        (None, "team/llama@v9", "team/llama has no revision 'v9': {hub}/team/llama/commits lists its branches and commits"),
    ],
)
def test_a_refusal_says_what_to_do(
    token: str | None, name: str, message: str, hub_server: fake_hub.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(hub_server, "team/llama", MODEL)
    publish(hub_server, "team/gated", MODEL, gated=True)
    publish(hub_server, "team/private", MODEL, private=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(OSError) as caught:
        resolve(name)
    assert says(hub_server, message) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_interrupted_download_keeps_what_is_there(hub_server: fake_hub.Hub) -> None:
    publish(hub_server, "team/llama", MODEL)
    hub_server.lost.add("model-00002-of-00002.safetensors")
    with pytest.raises(OSError, match=r"^team/llama: model-00002-of-00002.safetensors could not be fetched \(.*\): try again, the files"):
        resolve("team/llama")
    hub_server.lost.clear()
    before = set(hub_server.fetched())
    resolve("team/llama")
    assert set(hub_server.fetched()) - before == {"team/llama/model-00002-of-00002.safetensors"}
    assert len(hub_server.fetched()) == len(READ)


def test_a_token_opens_what_is_gated_and_private(hub_server: fake_hub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(hub_server, "team/gated", MODEL, gated=True)
    publish(hub_server, "team/private", MODEL, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_granted")
    assert resolve("team/gated").is_dir()
    assert resolve("team/private").is_dir()


@pytest.mark.parametrize(
    ("what", "files", "message"),
    [
        (
            "model",
            {"config.json": "{}", "consolidated.00.pth": "", "flax_model.msgpack": ""},
            "holds no weights that are read from the hub (consolidated.00.pth, flax_model.msgpack are not): expected model.safetensors or "
            "pytorch_model.bin, or shards and their index: fetch it into a folder of this machine, and give that",
        ),
        ("model", {"config.json": "{}"}, "team/x holds no weights: expected model.safetensors or pytorch_model.bin, or shards and"),
        (
            "model",
            {**PYTORCH, "pytorch_model-00002-of-00002.bin": None},
            "pytorch_model-00002-of-00002.bin named by pytorch_model.bin.index.json not there: the upload is incomplete",
        ),
        ("model", {**MODEL, "model-00002-of-00002.safetensors": None}, "model-00002-of-00002.safetensors named by"),
        ("model", {"README.md": ""}, "team/x has no config.json, so it is no model that this program reads"),
        ("shape", {"README.md": ""}, "team/x has no config.json, so it is no model that this program reads"),
        (
            "model",
            {"adapter_config.json": '{"base_model_name_or_path": "team/base"}', "adapter_model.safetensors": ""},
            "team/x is an adapter, not a model: give its base model, which it says is team/base, and this one as an adapter",
        ),
        ("adapter", {"adapter_config.json": "{}"}, "holds no weights: expected adapter_model.safetensors or adapter_model.bin"),
        ("adapter", MODEL, "team/x has no adapter_config.json, so it is no adapter that this program reads"),
        ("tokenizer", {"tokenizer.json": "{}"}, "team/x has a tokenizer.json but no tokenizer.model"),
        ("tokenizer", {"config.json": "{}"}, "team/x has no tokenizer.model, so it is no tokenizer that this program reads"),
    ],
)
def test_what_is_not_there_is_named(what: hub.What, files: dict[str, str | None], message: str, hub_server: fake_hub.Hub) -> None:
    publish(hub_server, "team/x", {name: text for name, text in files.items() if text is not None})
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        resolve("team/x", what)
    assert message in str(caught.value)
    assert not [file for file in hub_server.fetched() if file.endswith((".safetensors", ".bin"))]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Sets HF_HUB_OFFLINE, as far as a library that has read it already can be told."""
    constants = pytest.importorskip("huggingface_hub.constants")
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("how", ["offline", "gone", "broken"])
def test_the_cache_serves_by_name_without_the_hub(how: str, hub_server: fake_hub.Hub, offline: Callable[[], None]) -> None:
    publish(hub_server, "team/llama", MODEL, tags=("v1",))
    folder = resolve("team/llama")
    resolve("team/llama@v1")
    cut_off(how, hub_server, offline)
    count = len(hub_server.requests)
    assert resolve("team/llama") == resolve("team/llama@v1") == resolve(f"team/llama@{folder.name}") == folder
    assert resolve("team/llama", "tokenizer") == folder / "tokenizer.model"
    assert how == "broken" or len(hub_server.requests) == count


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("offline", "and HF_HUB_OFFLINE is set: unset it to fetch the model"),
        ("gone", "and {hub} does not answer ("),
        ("broken", "and {hub} does not answer ("),
    ],
)
def test_without_hub_and_cache_one_sentence_says_both(
    how: str, message: str, hub_server: fake_hub.Hub, offline: Callable[[], None], tmp_path: Path
) -> None:
    publish(hub_server, "team/llama", MODEL)
    cut_off(how, hub_server, offline)
    with pytest.raises(OSError) as caught:
        resolve("team/llama")
    begin = f"team/llama is neither a folder here nor in the hub's cache {tmp_path / 'cache'}, "
    assert str(caught.value).startswith(begin)
    assert says(hub_server, message) in str(caught.value)


@pytest.mark.parametrize("lost", ["model-00002-of-00002.safetensors", "config.json", "model.safetensors.index.json"])
def test_a_half_filled_cache_is_not_taken_for_a_model(lost: str, hub_server: fake_hub.Hub, offline: Callable[[], None]) -> None:
    publish(hub_server, "team/llama", MODEL)
    folder = resolve("team/llama")
    (folder / lost).unlink()
    cut_off("offline", hub_server, offline)
    with pytest.raises(OSError, match=r"the hub's cache lacks .* of commit .*, and HF_HUB_OFFLINE is set: fetch the rest once"):
        resolve("team/llama")


def cut_off(how: str, server: fake_hub.Hub, offline: Callable[[], None]) -> None:
    if how == "offline":
        offline()
    elif how == "gone":
        server.close()
    else:
        server.broken = True


def test_what_is_fetched_is_told_and_what_is_kept_is_not(
    hub_server: fake_hub.Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And nothing else comes to standard error or standard output, where that is no terminal."""
    publish(hub_server, "team/llama", MODEL)
    publish(hub_server, "team/large", {"config.json": "{}", "model.safetensors": "0" * 2_400_000})
    monkeypatch.setattr(hub, "TOLD_BYTES", 1_000_000)
    said: list[str] = []
    hub.resolve("team/llama", "model", say=said.append)
    small, weights = said
    assert small.startswith("fetching team/llama (commit ") and f", 5 files, 134 bytes) from {hub_server.endpoint} to " in small
    assert ", 2 files, 11 bytes) from " in weights
    hub.resolve("team/llama", "model", say=said.append)
    assert len(said) == 2
    said.clear()
    hub.resolve("team/large", "model", say=said.append)
    _, begun, file, done = said
    assert begun.startswith("fetching team/large (commit ")
    assert f", 1 file, 2 MB) from {hub_server.endpoint} to " in begun
    assert (file, done) == ("file 1 of 1: model.safetensors, 2 MB", "fetched team/large")
    assert capfd.readouterr() == ("", "")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"^team/llama is not here, and .* needs .*: pip install huggingface_hub \(the extra `hub`\)$"):
        resolve("team/llama")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"/c/hub/models--team--llama-7b/snapshots/{'a1' * 20}", f"team/llama-7b@{'a1' * 20}"),
        (f"models--team--x/snapshots/{'0' * 40}/old/zh.model", f"team/x/old/zh.model@{'0' * 40}"),
        ("/c/models--team--x/snapshots/main", None),
        ("team/llama", None),
    ],
)
def test_a_path_in_the_cache_bears_its_commit(path: str, name: str | None) -> None:
    assert hub.id_of(path) == name
    assert name is None or hub.address(name) is not None
    assert hub.pinned({"model": path, "adapters": (path, "other"), "seed": 3}) == {
        "model": name or path,
        "adapters": [name or path, "other"],
        "seed": 3,
    }


@pytest.mark.parametrize("file", ["words.txt", "data/train.jsonl", "data", "zh.model"])
def test_what_cannot_be_read_back_by_name_keeps_its_path(file: str) -> None:
    path = f"/c/hub/models--team--x/snapshots/{'0' * 40}/{file}"
    pinned = hub.pinned([path])
    assert pinned == [path if file != "zh.model" else f"team/x/zh.model@{'0' * 40}"]


PROGRAM = """
import sys
from zhllama_jax import hub
print(hub.resolve(sys.argv[1], "tokenizer", say=sys.stderr.write).read_text())
"""


def test_the_environment_is_respected(hub_server: fake_hub.Hub, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_TOKEN and HF_HOME say where, who and whereto; HF_HUB_OFFLINE that nothing is asked."""
    publish(hub_server, "team/gated", MODEL, gated=True)
    base = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    home = {**base, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub_server.endpoint}

    def run(**settings: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", PROGRAM, "team/gated"]
        return subprocess.run(words, env={**home, **settings}, capture_output=True, text=True, timeout=120, check=False)

    assert "PermissionError: team/gated is gated: accept its licence" in run().stderr
    assert run(HF_TOKEN="hf_granted").stdout == "pieces\n"
    assert (tmp_path / "home" / "hub" / "models--team--gated").is_dir()
    count = len(hub_server.requests)
    assert run(HF_HUB_OFFLINE="1").stdout == "pieces\n"
    assert len(hub_server.requests) == count
    hub_server.close()
    assert run().stdout == "pieces\n"
    shutil.rmtree(tmp_path / "home")
    assert "HF_HUB_OFFLINE is set" in run(HF_HUB_OFFLINE="1").stderr
