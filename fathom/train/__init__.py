"""Training: from a folder of text to a checkpoint, in one process.

    data/       documents → no near-duplicates → held-out split → tokens → pieces → packed rows
    schedule    learning rate and stages by step;    loss    main, MTP and balance losses;    optim/    Muon and AdamW by the table
    run         the run folder: checkpoints that are whole or absent, metrics cut back on resume
    loop        the steps;    evaluate    bits per byte, beside gzip and xz;    command    the verbs `train` and `demo`

A step is a function of (weights, optimizer state, position in the data, step number); nothing else is remembered and nothing is
drawn from a hidden generator. That is why a run that was killed and resumed ends with the same bits.
"""
