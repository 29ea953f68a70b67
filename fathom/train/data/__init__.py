"""Training data: what is read, what is left out and why, what is held out, and the order in which tokens reach the model.

The way of a document, a file at each step:

    find.py        files and folders → documents (a file, or a line of .jsonl), or a reason to skip
    duplicates.py  documents → those that are not nearly the same as an earlier one
    prepare.py     → held out or not, by hash of the content → tokenizer → tokens in a memory-mapped store
    store.py       the store: token ids and offsets of documents; text of what is held out
    pack.py        store → pieces of a row's length → fill-in-the-middle → rows by best fit, in an order f(seed, epoch)
"""
