"""Averages of the weights along a run: validation, probes and the final model look at them.

Symbols
    w_t   weights that the optimizer updates, after step t (t from 1)
    x_t   average, x_0 = w_0 (the initial weights)
    c_t   weight of the newest point: x_t = (1 - c_t) x_{t-1} + c_t w_t

An average costs memory for one more copy of the weights, and another one while it is looked at.
"""
