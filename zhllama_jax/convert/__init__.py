"""Weights in and out: Hugging Face model directories, PEFT adapters, and what binds them together.

`names` is the one table between our paths and Hugging Face's tensor names; `safetensors_io` reads and writes the files behind a strict
check of their headers, `torch_io` those of PyTorch without running what is in them (`torch_zip` is their archive, `torch_pickle` their
description), both with shards behind a `shard_index`; `manifest` says by digest what a directory holds, and holds what is read against
it. On these stand `llama_hf` (model directories) with `vocabulary` (their own tokenizers, rows without a piece) and `carry` (licences and
the like), `llama_meta` (Meta's release, described by `meta_params`), `peft` (adapter directories), `fold` (base + adapters, streamed)
and `verify` (are two directories the same model?).
"""
