"""The embedded bilingual demo world: a grammar, its facts, and instruction tasks with checkable answers.

`world.write` makes every file that the demo needs, without a download. Pure standard library: no JAX, and nothing of this
project but `files`.

    lexicon       words in two languages and the facts about them
    draw          random choices that stay on one side of the train / held-out split
    scenes        what happens in a document: parts drawn once, told in either language
    english       sentence patterns of the base model's language
    chinese       sentence patterns of the language to adapt to
    speech        what exercises need of a language: questions, lists, yes and no
    instructions  the tasks, their wordings and their answers
    world         the files
"""
