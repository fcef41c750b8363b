"""Weights in and out: model directories of every format, PEFT adapters, and what binds them together.

`names` is the one table between our paths and Hugging Face's tensor names. Each format has a reader that presents its tensors under these
names (`readers`) and a writer that takes them one at a time: `safetensors_io` behind a strict check of headers, `torch_io` for PyTorch's
files without running what is in them (`torch_zip` is their archive, `torch_pickle` their description), both with shards behind a
`shard_index`; `llama_hf` (Hugging Face), `llama_meta` (Meta's release, described by `meta_params`) and `gguf_io` (llama.cpp; `gguf_file` is
its container, `gguf_quant` and `gguf_others` its number formats, `gguf_meta` and `gguf_vocab` what it says about model and tokenizer,
`modelfile` what stands beside it) are whole models; `peft` is adapters, with their settings (`peft_config`) and their tensors in every
layout (`peft_tensors`; `peft_write` writes one). `manifest` says by digest what a directory holds, and holds what is read against it.

`source` opens a model of any format, `host` takes it into memory, a `view` is a model as it will be (made `ahead` of its use), and `target`
writes one. On these stand `rewrite` (any format in, adapters folded in, any format out), `extend` (a larger vocabulary), `fold` (the same
in memory), `stack` (do base and adapters belong together?), `certificate` (what was proved of an output, with `streamed` logits) and
`verify` (are two the same model?). `vocabulary` knows rows that no piece has, `carry` what else a directory holds.
"""
