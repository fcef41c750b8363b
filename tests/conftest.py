"""The strict harness: eight CPU devices, no silent rank promotion, no network; and the tiny fixtures that several test files share.

Everything is set by environment variables before jax is imported, so child processes inherit it and tests without jax never pay for it.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Nearly all time goes into compiling programs that run once; the machine code may be poor, the programs are the same.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import io
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reference import fake_hub

REPOSITORY = Path(__file__).resolve().parents[1]

ENGLISH = [
    "The quick brown fox jumps over the lazy dog.",
    "A small model learns a small world, one sentence at a time.",
    "Rivers run to the sea and the sea is never full.",
    "She reads the letter twice and writes a short answer.",
    "Counting from one to ten is easy: 1 2 3 4 5 6 7 8 9 10.",
    "def add(a, b):\n    return a + b",
]
CHINESE = [
    "敏捷的棕色狐狸跳过了懒狗。",
    "小模型学习一个小世界,一次一句话。",
    "江河都往海里流,海却不满。",
    "她把信读了两遍,写了一个简短的回答。",
    "从一数到十很容易:一二三四五六七八九十。",
    "今天天气很好,我们去公园散步。",
]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real text and tokenizers beside the repository; tests that need it are skipped where it is absent."""
    path = REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no shared data at {path}")
    return path


def train_pieces(sentences: list[str], *, vocab_size: int, model_type: str) -> bytes:
    """A serialized SentencePiece model with LLaMA's specials and byte fallback, trained on `sentences`."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=vocab_size,
        model_type=model_type,
        byte_fallback=True,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


@pytest.fixture(scope="session")
def english_pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA-like BPE `.model` file of a few hundred pieces that knows no Chinese character."""
    path = tmp_path_factory.mktemp("english") / "tokenizer.model"
    path.write_bytes(train_pieces([line for text in ENGLISH for line in text.split("\n")], vocab_size=340, model_type="bpe"))
    return path


@pytest.fixture(scope="session")
def chinese_pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A unigram `.model` file trained on a few Chinese sentences."""
    path = tmp_path_factory.mktemp("chinese") / "zh.model"
    path.write_bytes(train_pieces(CHINESE * 4, vocab_size=360, model_type="unigram"))
    return path


@pytest.fixture
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_hub.Hub]:
    """A hub on this machine, which huggingface_hub takes for the real one, and an empty cache at `tmp_path / "cache"`."""
    constants = pytest.importorskip("huggingface_hub.constants")
    file_download = pytest.importorskip("huggingface_hub.file_download")

    served = fake_hub.Hub()
    settings = {
        "ENDPOINT": served.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": served.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(file_download, name, value, raising=False)  # where older versions have copies
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield served
    served.close()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of this repository."""
    folder = tmp_path_factory.mktemp("built")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=REPOSITORY, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a new environment with the wheel; what the package needs is that of the present environment."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [wheel] = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    # A path in a .pth file only adds a folder: the editable install in it, a .pth file itself, is not followed.
    (packages / "present.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder / "bin"
