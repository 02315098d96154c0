"""Look inside: gates, gate gradients, where the memory ends, and what stands in its way.

- `trace` gives every value and every gradient of every step, as the kernels computed them;
- `gradient_flow`, `memory`, `jacobians`, `saturation` say how far back the gradient reaches;
- `diagnose` says in plain words what is wrong, what to do about it, and by which numbers;
- `Watch` says all that of every so many steps of a training, to `TensorBoard` and wherever one likes;
- `integrated_gradients`, `gradient_times_input`, `occlusion` say what a score comes from, step by step;
- `permutation_importance` says which variables the network would be worse without;
- `write_page` puts a trace into one page to walk through, forward and back, number by number;
  `inspect_events` does so for events of files, `example_page` for a worked example.

Every figure is a function ``plot_x(what, ax=None) -> ax``, in `timelike.inspect.figures`
and `timelike.inspect.attribution_figures`.
"""

from timelike.inspect.attribution import Attribution, gradient_times_input, integrated_gradients
from timelike.inspect.diagnosis import Diagnosis, Examination, Finding, diagnose, examine
from timelike.inspect.events import inspect_events
from timelike.inspect.example import example_page
from timelike.inspect.flow import (
    GradientFlow,
    Memory,
    Saturation,
    gradient_flow,
    jacobians,
    largest_singular_values,
    memory,
    saturation,
)
from timelike.inspect.importance import (
    Occlusion,
    PermutationImportance,
    occlusion,
    permutation_importance,
)
from timelike.inspect.layertrace import LayerTrace
from timelike.inspect.page import write_page
from timelike.inspect.traces import Trace, trace
from timelike.inspect.watch import Look, TensorBoard, Watch

__all__ = [
    "Attribution",
    "Diagnosis",
    "Examination",
    "Finding",
    "GradientFlow",
    "LayerTrace",
    "Look",
    "Memory",
    "Occlusion",
    "PermutationImportance",
    "Saturation",
    "TensorBoard",
    "Trace",
    "Watch",
    "diagnose",
    "examine",
    "example_page",
    "gradient_flow",
    "gradient_times_input",
    "inspect_events",
    "integrated_gradients",
    "jacobians",
    "largest_singular_values",
    "memory",
    "occlusion",
    "permutation_importance",
    "saturation",
    "trace",
    "write_page",
]
