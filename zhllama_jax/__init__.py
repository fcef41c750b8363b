"""zhllama_jax adapts a LLaMA model to Chinese, in pure JAX, from raw text to a Hugging Face directory.

The road: train a Chinese vocabulary, merge it into LLaMA's, grow the embedding and the head, train the embedding, train LoRA factors with
embedding and head, tune on instructions, fold, export.

Layers; imports run downwards only, and packages of one layer never import each other:

    L6  cli                                        the only place that parses arguments and prints
    L5  adapt                                      the pipeline as a list of cached steps
    L3  train   eval
    L2  data    convert   decode   demo
    L1  tokenizer   model   lora   shard
    L0  arrays  tree  beside  files  lines  templates  published  hub

At rest a model is a Hugging Face directory and what a stage learned is a PEFT adapter directory. In flight weights are nested dicts with
the same paths, `{"params": …, "lora": …}`, and every table over them is a list of `(regex over the path, value)` read by `tree.match`.
"""

__version__ = "0.1.0"
