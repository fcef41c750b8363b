"""Packed rows on disk: a TFDS dataset in ArrayRecord, written and read without TensorFlow.

A store is one directory: `dataset_info.json`, `features.json`, `metadata.json`, one file per split
and `checksums.json`, the size and sha256 of the split's file. Rows are read by number in about
0.1 ms, in any order. The metadata name the tokenizer by its sha256, so that rows of another
vocabulary cannot be trained on by mistake.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from zhllama_jax import files
from zhllama_jax.data import pack

FORMAT = "1.0.0"

_FEATURE_KEYS = ("pythonClassName", "featuresDict", "features", "tokens", "loss_mask", "segment_ids", "tensor")
_FEATURE_CLASSES = (
    "tensorflow_datasets.core.features.features_dict.FeaturesDict",
    "tensorflow_datasets.core.features.tensor_feature.Tensor",
)
CHECKSUMS = "checksums.json"
_DATA = "packed_rows-*.array_record-*"
_FILES = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


class Store:
    """The rows of one split, by number; a `batches.Rows`.

    Attributes:
      directory: where the store lies.
      split: which of its splits this is.
      metadata: what was recorded when it was written.
    """

    def __init__(self, directory: Path, split: str, metadata: dict[str, Any], source: Any) -> None:
        """Use `open_store`."""
        self.directory, self.split, self.metadata = directory, split, metadata
        self._source = source

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._source)

    def __getitem__(self, index: int) -> pack.Row:
        """Row `index`, from 0 (negative numbers count from the end).

        Raises:
          IndexError: there is no such row.
          ValueError: the row cannot be read.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self.directory} ({self.split})")
        try:
            record = self._source[index % len(self)]
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{self.directory} is damaged: row {index % len(self)} of its split {self.split!r} cannot be read ({error}); "
                "build the data again"
            ) from None
        tokens = record["tokens"].astype(np.uint32)
        return pack.Row(tokens, np.unpackbits(record["loss_mask"], count=len(tokens)), record["segment_ids"])

    @property
    def length(self) -> int:
        """T: tokens that a model reads per row."""
        return int(self.metadata["length"])


class _Info(tfds.core.DatasetInfo):
    """A description that nobody looks up elsewhere."""

    def initialize_from_bucket(self) -> None:
        """TFDS would look for a dataset of this name in its bucket, and leave an empty temporary folder behind for it."""


class PackedRows(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The TFDS builder: splits of rows in the order given, streamed shard by shard.

    (TFDS's `GeneratorBasedBuilder` collects a split in memory and, beyond 1 GB, needs TensorFlow.)
    """

    VERSION = tfds.core.Version(FORMAT)
    # Nothing is downloaded; looking for a list of checksums would need importlib_resources, which TFDS does not declare.
    url_infos = None

    def __init__(self, splits: Mapping[str, Iterable[pack.Row]], metadata: dict[str, Any], data_dir: Path) -> None:
        """Describes the dataset; `download_and_prepare` writes it."""
        self._rows, self._given, self._recorded = splits, metadata, tfds.core.MetadataDict(metadata)
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        width = self._recorded["length"] + 1
        dtype = np.uint16 if self._recorded["vocab_size"] <= 65_535 else np.uint32
        features = {
            "tokens": tfds.features.Tensor(shape=(width,), dtype=dtype, encoding="bytes"),
            "loss_mask": tfds.features.Tensor(shape=((width + 7) // 8,), dtype=np.uint8, encoding="zlib"),
            "segment_ids": tfds.features.Tensor(shape=(width,), dtype=np.uint16, encoding="zlib"),
        }
        return _Info(
            builder=self,
            description="Token ids in rows of fixed length, with loss mask (bits) and segments.",
            features=tfds.features.FeaturesDict(features),
            metadata=self._recorded,
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Any]]:
        return {split: [lambda rows=rows: self._records(rows)] for split, rows in self._rows.items()}

    def _records(self, rows: Iterable[pack.Row]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        dtype, vocab_size = self.info.features["tokens"].np_dtype, self._recorded["vocab_size"]
        width = self._recorded["length"] + 1
        for number, row in enumerate(rows):
            if len(row.tokens) != width:
                raise ValueError(f"row {number} has {len(row.tokens)} tokens instead of {width}")
            if int(row.tokens.max()) >= vocab_size:
                raise ValueError(f"row {number} holds the id {row.tokens.max()}, but the vocabulary has {vocab_size:,}")
            yield (
                number,
                {
                    "tokens": row.tokens.astype(dtype),
                    "loss_mask": np.packbits(row.loss_mask.astype(bool)),
                    "segment_ids": row.segment_ids.astype(np.uint16),
                },
            )
        self._recorded.update(self._given)

    def _log_download_bytes(self) -> None:
        """Says nothing: TFDS would print to standard output, which belongs to the command."""

    def _log_download_done(self) -> None:
        """Says nothing."""


def write(
    directory: str | Path, splits: Mapping[str, Iterable[pack.Row]], *, metadata: dict[str, Any], overwrite: bool = False
) -> dict[str, Store]:
    """Writes a store with the given splits; it appears under its name when it is whole.

    Args:
      directory: the store's directory, which must not exist (or be empty) unless `overwrite`.
      splits: rows by split name ("train", "validation"), each read once, one split after the other.
      metadata: JSON; holds at least `tokenizer_sha256`, `vocab_size` and `length`. It is written when the rows have been
        read, so counts may be filled in until then.
      overwrite: replace a former store.

    Returns:
      The opened splits.

    Raises:
      ValueError: the directory exists, metadata are missing, a split is empty, an id lies outside of the vocabulary, or a
        row has another length.
    """
    missing = [key for key in ("tokenizer_sha256", "vocab_size", "length") if key not in metadata]
    if missing:
        raise ValueError(f"a store's metadata must hold {', '.join(missing)}")
    with files.new_directory(directory, ours=written, overwrite=overwrite) as temporary:
        builder = PackedRows(splits, metadata, temporary / "build")
        tfds.disable_progress_bar()
        builder.download_and_prepare()
        empty = [split for split in splits if not builder.info.splits[split].num_examples]
        if empty:
            raise ValueError(f"nothing to write to {directory}: no rows for {' and '.join(empty)}")
        for path in Path(builder.data_dir).iterdir():
            path.rename(temporary / path.name)
        _remove_empty(temporary / "build")
        recorded = {path.name: {"bytes": path.stat().st_size, "sha256": files.sha256(path)} for path in sorted(temporary.glob(_DATA))}
        files.write_json(temporary / CHECKSUMS, recorded)
    return {split: open_store(directory, split) for split in splits}


def open_store(directory: str | Path, split: str = "train", *, tokenizer_sha256: str | None = None) -> Store:
    """Opens one split of a store.

    Nothing of a directory is imported or run: class names that TFDS would import are checked first.

    Args:
      directory: what `write` made.
      split: the split's name.
      tokenizer_sha256: of the tokenizer that the model uses; another one in the metadata is an error. None asks for none.

    Raises:
      FileNotFoundError: no store is there.
      ValueError: it is none of ours, was made with another tokenizer, has no such split, or one whose file is gone or of another
        size than when it was written.
    """
    directory = Path(directory)
    metadata = read_metadata(directory)
    if tokenizer_sha256 is not None and metadata["tokenizer_sha256"] != tokenizer_sha256:
        raise ValueError(
            f"{directory} was tokenised with another tokenizer (sha256 {metadata['tokenizer_sha256'][:12]}…, "
            f"vocabulary {metadata['vocab_size']:,}) than the one in use ({tokenizer_sha256[:12]}…): build the data again"
        )
    info = files.read_json(directory / "dataset_info.json", what="a store's dataset_info.json", max_bytes=16 << 20)
    try:
        ours = (info["name"], info["fileFormat"]) == ("packed_rows", "array_record")
        splits = [entry["name"] for entry in info["splits"] if entry["filepathTemplate"] == _FILES]
        ours = ours and len(splits) == len(info["splits"])
    except (TypeError, KeyError):
        ours = False
    if not ours:
        raise ValueError(f"{directory} is no store of ours and was not opened: see its dataset_info.json")
    if split not in splits:
        raise ValueError(f"{directory} has no split {split!r}, only {', '.join(map(repr, splits))}")
    if damaged := damage(directory, split):
        raise ValueError(f"{directory} is damaged: {damaged}; build the data again")
    source = tfds.builder_from_directory(directory).as_data_source(split)
    return Store(directory, split, metadata, source)


def read_metadata(directory: str | Path) -> dict[str, Any]:
    """The metadata of a store, after a check that it is one of ours.

    Raises:
      FileNotFoundError: no store is there.
      ValueError: it is none of ours.
    """
    directory = Path(directory)
    features = files.read_json(directory / "features.json", what="the features of a store of packed rows", max_bytes=1 << 20)
    strange = sorted(set(_strange(features)))
    if strange:
        raise ValueError(f"{directory} is no store of ours and was not opened: its features.json has {', '.join(strange)}")
    metadata = files.read_json(directory / "metadata.json", what="the metadata of a store of packed rows", max_bytes=64 << 20)
    if not isinstance(metadata, dict) or not {"tokenizer_sha256", "vocab_size", "length"} <= set(metadata):
        raise ValueError(f"{directory} is no store of ours: its metadata.json lacks tokenizer_sha256, vocab_size or length")
    return metadata


def written(directory: Path) -> Collection[str]:
    """The names of all that was written into a store, be it damaged; a `files.Listing`.

    Raises:
      FileNotFoundError, ValueError: it is no store of ours.
    """
    if not (directory / CHECKSUMS).is_file():
        raise ValueError(f"{directory} holds files and no {CHECKSUMS}")
    read_metadata(directory)
    return {*_recorded(directory), "dataset_info.json", "features.json", "metadata.json", CHECKSUMS}


def damage(directory: str | Path, split: str | None = None, *, contents: bool = False) -> str:
    """What of a store's data files is not as it was written, in words; nothing if all is well.

    Args:
      directory: a store.
      split: the split to look at; None for all.
      contents: read the files and compare their digests too, not sizes alone.

    Raises:
      FileNotFoundError, ValueError: the store has no record of its files.
    """
    directory = Path(directory)
    wanted = _recorded(directory)
    if split is not None:
        wanted = {name: entry for name, entry in wanted.items() if name.startswith(f"packed_rows-{split}.")}
    if not wanted:
        return f"{CHECKSUMS} names no file of split {split!r}"
    for name, (size, digest) in wanted.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is gone"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
        if contents and files.sha256(path) != digest:
            return f"{name} has another content than was written"
    return ""


def _recorded(directory: Path) -> dict[str, tuple[int, str]]:
    """Bytes and sha256 of a store's data files when they were written, by name."""
    recorded = files.read_json(directory / CHECKSUMS, what="the sizes and digests of a store's data files", max_bytes=16 << 20)
    try:
        return {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in recorded.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{directory / CHECKSUMS} does not list the bytes and sha256 of data files: build the data again") from None


def _strange(features: Any) -> Iterator[str]:
    """Whatever in a features.json is none of ours. TFDS would import the module of any class that is named there."""
    if not isinstance(features, dict):
        yield type(features).__name__
        return
    for key, value in features.items():
        if key not in _FEATURE_KEYS:
            yield f"the key {key!r}"
        elif key == "pythonClassName":
            if value not in _FEATURE_CLASSES:
                yield f"the class {value!r}"
        elif key != "tensor":
            yield from _strange(value)


def _remove_empty(directory: Path) -> None:
    """Removes TFDS's now empty folders; anything left in one is an error, not a loss."""
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir()
    directory.rmdir()
