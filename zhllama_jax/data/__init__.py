"""Layer 2: text and instructions on their way to the device.

    config               what may be chosen
    documents, clean     files -> documents, the worst of them left out
    holdout              which of them are learned from, and which only scored
    instructions         files -> instruction rows and conversations, in all the forms that people hold them in
    chat                 instruction rows -> token ids
    pack                 token ids -> rows of fixed length
    store                rows on disk: a TFDS dataset, ArrayRecord, no TensorFlow
    mixture, shuffle     which row comes when: a pure function of (seed, row number)
    batches              rows -> NumPy batches, by step number
    build                the whole way from files to a store, with counts
    account              what became of the data, in sentences
    preview              the first rows of files, token by token, before anything is built

Nothing here imports JAX: a batch is NumPy until the training loop puts it on devices.
"""
