"""The quickstart as a plain Python file: `python scripts/colab/make.py` makes quickstart.ipynb of it; edit this file, never the notebook.

A cell begins with a line `# %%`, a text with `# %% [markdown]`. Lines `# !…` are the notebook's shell lines. `<repository>` becomes the
address in pyproject.toml. The tests run every cell in a kernel, with fewer steps in place of the parameters.
"""

# %% [markdown]
# # LLaMA learns Chinese, in five minutes
#
# This notebook shows the whole way of [zhllama-jax](<repository>), in pure JAX, from raw text to a model directory that other programs
# load: a vocabulary is trained and merged into the tokenizer, the model grows new rows, learns Chinese in two stages, and then learns to
# answer. The method is that of Chinese-LLaMA-Alpaca ([Cui et al., 2023](https://arxiv.org/abs/2304.08177)).
#
# Nothing is downloaded but the package, and no token or account is needed: the texts are a small bilingual world that the package makes
# itself, and the model is a tiny LLaMA that first learns English from it. **Runtime → Run all** takes under five minutes on the free CPU
# runtime. Every step is the one that a real model takes; what changes for a real model stands at the end.

# %%
# @title Install
from pathlib import Path

# In a clone of the repository the package is taken from there. Colab's own jax, flax and numpy stay as they are.
SOURCE = "../.." if Path("../../pyproject.toml").is_file() else "git+<repository>"

# !python -c "import zhllama_jax" 2>/dev/null || pip install -q {SOURCE}

# %% [markdown]
# What is this machine, and what fits on it?

# %%
# !zhllama doctor

# %%
# @title Parameters { display-mode: "form" }
# @markdown Training steps of four rows: the more, the better the model. `zhllama demo` takes more than twice as many tokens.
ENGLISH_STEPS = 240  # @param {type: "integer"}
EMBEDDING_STEPS = 50  # @param {type: "integer"}
CHINESE_STEPS = 360  # @param {type: "integer"}
INSTRUCTION_STEPS = 480  # @param {type: "integer"}
SEED = 0  # @param {type: "integer"}

WORK = Path("runs/quickstart")  # everything is written here

# %% [markdown]
# ## A small world
#
# Documents in English and in Chinese about the same few things, and instructions with their answers. Some combinations of things are held
# out: they occur in no training text, and the evaluation is about them.

# %%
import json

from zhllama_jax.demo import world

texts = world.write(WORK / "world", seed=SEED)
for path in (texts.english, texts.chinese, texts.instructions):
    print(f"{path.name}:")
    for line in path.read_text(encoding="utf-8").split("\n")[:3]:
        print("   ", " | ".join(filter(None, json.loads(line).values())).replace("\n", " ")[:110])

# %% [markdown]
# ## Merging a vocabulary
#
# LLaMA's tokenizer hardly knows Chinese. A character that is not among its pieces is spelled by its UTF-8 bytes, **three tokens for one
# character**. We train the model's own English vocabulary first, as LLaMA's was, then a Chinese one, and put the pieces of the second
# behind those of the first. No old id moves, so the model keeps what it knows.

# %%
# !zhllama tokenizer train --input {texts.english} {texts.symbols} --vocab_size 1024 --model_type bpe --character_coverage 1 \
#     --output {WORK}/english.model --overwrite
# !zhllama tokenizer train --input {texts.chinese} --vocab_size 896 --model_type bpe --output {WORK}/chinese.model --overwrite
# !zhllama tokenizer merge --base {WORK}/english.model --added {WORK}/chinese.model --output {WORK}/merged.model --overwrite

# %%
from zhllama_jax.tokenizer import processor

before = processor.Tokenizer.load(WORK / "english.model")
after = processor.Tokenizer.load(WORK / "merged.model")
for sentence in ("医生在医院工作。", "The doctor works in the hospital."):
    for name, tokenizer in (("before", before), ("after", after)):
        ids = tokenizer.encode(sentence)
        print(f"{name:7}{len(ids):3} tokens:", " ".join(tokenizer.piece(id) for id in ids))

# %% [markdown]
# The English sentence is encoded as before, to the last id. Over the whole text:

# %%
# !zhllama tokenizer report --base {WORK}/english.model --merged {WORK}/merged.model \
#     --text chinese={texts.chinese_held_out} english={texts.english_held_out} --size tiny --output {WORK}/compression --overwrite

# %%
from IPython.display import Image

Image(WORK / "compression" / "compression.png", width=640)

# %% [markdown]
# ## The pipeline
#
# One file says everything: the texts and what of them is held out, the base, the vocabulary, and the stages. Which weights a stage trains
# is a table of rules with a name:
#
# * `embeddings`: the rows of the vocabulary only; the new ones begin as the mean of the old pieces that spelled them.
# * `pretrain_lora`: LoRA factors in every layer, with embedding and head.
# * `sft`: the same weights, on instructions, with loss on the answers alone.
#
# Every step is kept: run the cell again, and only what a change made different is done anew.

# %%
recipe = f"""
output: {WORK}/adapted
seed: {SEED}
sequence_length: 128

texts:
  english: {{files: [{texts.english}], validation_files: [{texts.english_held_out}]}}
  chinese: {{files: [{texts.chinese}], validation_files: [{texts.chinese_held_out}]}}
instructions: {{files: [{texts.instructions}], validation_files: [{texts.instructions_held_out}]}}

base: # a real model: `model: DIRECTORY or hub id`, and nothing else
  tokenizer: {WORK}/english.model
  init: {{size: tiny, max_position_embeddings: 256}}
  training:
    name: english
    texts: {{english: 1}}
    stage: {{preset: full}}
    steps: {ENGLISH_STEPS}
    global_batch: 4
    optimizer: {{learning_rate: 3.0e-3, b2: 0.95}}

vocabulary: {{added: [{WORK}/chinese.model]}}

trainings:
  - name: embeddings
    texts: {{chinese: 1}}
    stage: {{preset: embeddings}}
    steps: {EMBEDDING_STEPS}
    global_batch: 4
    optimizer: {{learning_rate: 5.0e-3, b2: 0.95}}
  - name: pretrain
    texts: {{chinese: 1}}
    stage: {{preset: pretrain_lora, lora: all}}
    lora: {{rank: 16, alpha: 32, dropout: 0}}
    steps: {CHINESE_STEPS}
    global_batch: 4
    optimizer: {{learning_rate: 3.0e-3, b2: 0.95}}
  - name: tune
    adapter: continue
    texts: {{instructions: 0.9, chinese: 0.1}}
    stage: {{preset: sft}}
    lora: {{rank: 16, alpha: 32, dropout: 0}}
    steps: {INSTRUCTION_STEPS}
    global_batch: 4
    optimizer: {{learning_rate: 3.0e-3, b2: 0.95}}

evaluation:
  exam: {texts.instructions_held_out}
  samples: [星期三后面是星期几？, 兔子属于哪一类？, 医生在哪里工作？]
  max_characters: 10000
  max_new_tokens: 16
  equal_compute: false # also trains the model without new pieces, as long again; `zhllama demo` does
  verify_with_transformers: false # a cell below does
"""
(WORK / "recipe.yaml").write_text(recipe, encoding="utf-8")

# %%
# !zhllama adapt --config {WORK}/recipe.yaml

# %% [markdown]
# ## The report
#
# The figure to look at is **bits per character** of held-out text: it compares models whatever their vocabularies. Chinese falls from step
# to step; beside it stands what an n-gram model of characters gets, which a language model has to beat.

# %%
import html

from IPython.display import HTML

report = (WORK / "adapted" / "report.html").read_text(encoding="utf-8")
HTML(f'<div><iframe srcdoc="{html.escape(report)}" width="100%" height="900" style="border: 0"></iframe></div>')

# %% [markdown]
# ## Talking with it
#
# `generate` answers prompts, `chat` keeps a conversation; in a terminal it asks for the next line.

# %%
# !zhllama generate --model {WORK}/adapted/model --prompt "医生在哪里工作？" "苹果属于哪一类？" "星期五后面是星期几？" --temperature 0

# %%
# !printf '兔子属于哪一类？\n星期三后面是星期几？\n' | zhllama chat --model {WORK}/adapted/model --temperature 0

# %% [markdown]
# ## Taking it along
#
# The adapted model is an ordinary Hugging Face directory. `verify` hashes every file, then loads it with the `transformers` library and
# compares the logits. (Colab has `transformers` and `torch`; where they are missing, `pip install torch transformers`.)

# %%
# !ls -sh {WORK}/adapted/model
# !zhllama verify --left {WORK}/adapted/model --transformers

# %%
DOWNLOAD = False  # @param {type: "boolean"}

if DOWNLOAD:
    import shutil

    from google.colab import files

    files.download(shutil.make_archive(str(WORK / "model"), "zip", WORK / "adapted" / "model"))

# %% [markdown]
# ## A real model
#
# **Runtime → Change runtime type** gives a TPU v5e-1 or a T4 for nothing. Install the package there as above and leave the runtime's jax as
# it is: it is the one that fits the device. `zhllama doctor` says which recipes fit its memory, and `--preset` sets what depends on it:
#
# | runtime | preset | |
# |---|---|---|
# | TPU v5e-1, 16 GB | `colab-v5e-1` | the first choice; a 1.1B model sees 100 M tokens in about two hours (computed) |
# | T4, 15 GB | `colab-t4` | has no bfloat16 units, so training multiplies in float32, far slower; generates in float16 |
#
# Models are named by folder or by hub id. For TinyLlama, with Chinese text of your own (`.txt`, or `.jsonl` with a key `text`) in
# `data/pretrain`:
#
# ```bash
# zhllama tokenizer train --input data/pretrain/corpus.jsonl --vocab_size 20000 --output zh.model
# zhllama tokenizer merge --base TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T --added zh.model --output merged.model
# zhllama resize --model TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T --tokenizer merged.model --output tinyllama-1b-zh
# zhllama train --config tinyllama_1b_pretrain --preset colab-v5e-1 --expects.vocab_size 51000
# zhllama merge --model tinyllama-1b-zh --adapter runs/tinyllama_1b_pretrain/adapter --output adapted
# zhllama evaluate perplexity --model adapted --text chinese=held_out.txt
# ```
#
# where 51000 stands for the number of pieces that `merge` printed: the recipe expects the paper's 49,953 and refuses another by mistake.
#
# Or all of it from one file like the one above, with `base: {model: …}`. Keep the results on a mounted Drive: where a runtime is taken
# away, the same command goes on from the last checkpoint. [configs](<repository>/tree/main/configs) has the recipes of the paper for 7B to
# 33B, each with its hardware; `zhllama demo` is this notebook at its full length; `zhllama --help` lists the rest.
