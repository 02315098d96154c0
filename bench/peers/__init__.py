"""One module per library. Each has `peer(threads)`, which gives a `bench.worker.Peer`.

Kept fair: everything is compiled before it is timed, a call returns when its results are there, inputs lie
where the library wants them, and weights are arguments, which no compiler can fold into its code.
"""
