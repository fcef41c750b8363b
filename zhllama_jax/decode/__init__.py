"""From weights and a prompt to new tokens and text.

    config      what may be chosen (no JAX): `Sampling`, `Generation`, and which source of a value wins
    sampling    logits -> ids, pure functions of arrays
    loop        prefill and the decoding loop, compiled; knows neither buckets nor strings
    generate    lists of ids -> lists of ids: checks, static shapes, batches; whole (`generate`) or by chunks (`Session`)
    stream      strings: `complete`, `stream`, stop strings, text that never ends inside a character
    throughput  tokens and characters per second

Each module knows only those above it.
"""
