"""What a model is, takes and costs: arithmetic on a configuration. No weights, no torch, no network.

    count, size, flops    parameters, bytes of weights and state, FLOPs; summary puts them together
    layout                every buffer of the inference state: the model allocates what the planner adds up
    chips, profile        devices as data; a model boiled down to the numbers that a deployment depends on
    serving, search, cost one layout's memory and speed; all layouts, cheapest first; money and break-even
    training, step        a run on a cluster; the memory of one step of our trainer, operator by operator
    tables, plot, page    the same for a terminal, a picture, and a browser (arithmetic.js repeats serving, cost and search)
"""
