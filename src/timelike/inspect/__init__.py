"""Look inside: gates, gate gradients, where the memory ends, and what the network looks at.

- `trace` gives every value and every gradient of every step, as the kernels computed them.

Every figure is a function ``plot_x(what, ax=None) -> ax``, in `timelike.inspect.figures`.
"""

from timelike.inspect.traces import LayerTrace, Trace, trace

__all__ = ["LayerTrace", "Trace", "trace"]
