"""Vocabulary: train SentencePiece models, merge them into LLaMA's, use and judge the result. No JAX.

    proto       the model file as a message: parsing, checks, canonical bytes
    processor   text <-> ids, streaming; text can never produce a control id
    train       SentencePiece training from text files, reproducible to the byte
    scripts     Unicode scripts as ranges of characters
    pieces      what a merge adds: pieces of SentencePiece models and word lists
    reach       which pieces a merge can reach, and the order of new ones that reaches most
    invariance  proof that a merge leaves text of other scripts as it was
    merge       base + new pieces, in the reference's way or in one that leaves other scripts alone
    ranked      BPE as transformers does it, by ranks, and where its ids differ
    align       which base pieces spell a new one
    analyse     what a merge bought: compression, reach, invariance, cost
    draw        the same as a picture

Scope: LLaMA's tokenizer, a SentencePiece BPE model with byte fallback. Another kind is refused.
"""
