"""Supervised fine-tuning: a pretrained model learns to answer, to close its reasoning, to end its turn and to call a tool.

    kinds/          kinds of questions with their right answers, a file each, made by code from seeds
    exchange        one question and its answer; which questions are held out
    conversation    several in a row, with or without a tool, in thinking or chat mode
    own             conversations of your own, from .jsonl files
    learned         token ids, and which of them the model learns to say: only the assistant's
    prepare         all of them → a token store, as pretraining has one
    base            the checkpoint to start from;    phase    what such a run does its own way;    measure    held-out questions, answered and judged

Everything else (packing, steps, checkpoints, resuming) is that of any run.
"""
