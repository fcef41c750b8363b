"""What llama.cpp makes of a GGUF file: run by an interpreter that has llama-cpp-python, and nothing of ours.

Usage: python llama_cpp_answers.py REQUEST.json ANSWER.npz. A request has `model` (the file), `texts` and `prompts` (lists of ids); the
answer has `ids` (those of the texts one behind the other), `lengths` (how many each text has), `logits` [sum of the prompts' lengths, V],
and `special` (bos, eos and padding ids). With `quantize` {"to", "file_type"} the model is also written anew by llama.cpp itself.
"""

import json
import sys

import llama_cpp
import numpy as np


def main(request_path: str, answer_path: str) -> None:
    with open(request_path, encoding="utf-8") as stream:
        request = json.load(stream)
    if "quantize" in request:
        quantize(request["model"], **request["quantize"])
    length = max(map(len, request["prompts"]), default=1)
    # Keys and values in float32 (type 0), and batches that hold a whole prompt. The binding has defaults of its own for YaRN's parameters;
    # -1 leaves them to the file.
    model = llama_cpp.Llama(
        model_path=request["model"],
        n_ctx=max(length, 64),
        n_batch=max(length, 64),
        logits_all=True,
        n_threads=1,
        type_k=0,
        type_v=0,
        yarn_attn_factor=-1.0,
        yarn_beta_fast=-1.0,
        yarn_beta_slow=-1.0,
        verbose=False,
    )
    ids = [model.tokenize(text.encode("utf-8"), add_bos=False, special=False) for text in request["texts"]]
    logits = []
    for prompt in request["prompts"]:
        model.reset()
        model.eval(prompt)
        logits.append(np.array(model.scores[: len(prompt)], np.float32))
    vocabulary = llama_cpp.llama_model_get_vocab(model.model)
    special = [function(vocabulary) for function in (llama_cpp.llama_vocab_bos, llama_cpp.llama_vocab_eos, llama_cpp.llama_vocab_pad)]
    np.savez(
        answer_path,
        ids=np.array([id_ for text in ids for id_ in text], np.int32),
        lengths=np.array([len(text) for text in ids], np.int32),
        logits=np.concatenate(logits) if logits else np.empty((0, 0), np.float32),
        special=np.array(special, np.int32),
    )


def quantize(model: str, to: str, file_type: int) -> None:
    """Writes the model anew as llama.cpp's own tool would."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.nthread = 1
    parameters.allow_requantize = True
    assert llama_cpp.llama_model_quantize(model.encode(), to.encode(), parameters) == 0, "llama.cpp could not quantise the file"


if __name__ == "__main__":
    main(*sys.argv[1:])
