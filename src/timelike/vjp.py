"""The way back through recurrent layers without autograd: what `vjp` of a layer of `timelike.nn` gives.

Letters: ``B`` sequences, ``H`` units, ``R`` numbers of the hidden state (``H``, but for a projection), ``K``
directions, ``L`` layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

from timelike.autograd import Back, Unchanged
from timelike.layouts import Batch, conform, parts_of

__all__ = [
    "LayerGradients",
    "Pullback",
    "Walked",
    "outside_of_graphs",
    "refuse_forward_mode",
    "refuse_transforms",
]

States: TypeAlias = Tensor | tuple[Tensor, Tensor]


class LayerGradients(NamedTuple):
    """Gradients of a loss by all that a layer takes.

    Attributes
    ----------
    input
        In the layout of the input; None if it was not asked for.
    hx : Tensor or tuple of two
        By the initial states, shaped like them; None where none were given.
    parameters : dict of str to Tensor
        By the names of ``named_parameters()``, of those that require a gradient.
    """

    input: Any
    hx: States | None
    parameters: dict[str, Tensor]


class Walked(NamedTuple):
    """One layer of a stack, walked forward."""

    back: Back
    names: Sequence[str]  # of its weights
    weights: Sequence[Tensor]
    noise: Tensor | None = None  # that its outputs were multiplied with, for the next one


class Pullback:
    """The function that `vjp` of a layer gives: from gradients of what forward gave to those of what it took.

    It may be called any number of times, as long as neither inputs nor outputs are changed in place. The
    weights may be: those that forward used are kept.
    """

    def __init__(
        self, kind: str, batch: Batch, walked: Sequence[Walked], output: Any, states: States, has_hx: bool
    ) -> None:
        self._kind, self._batch, self._walked = kind, batch, walked
        self._output, self._states, self._has_hx = output, states, has_hx
        self._places = Unchanged(*parts_of(output)[1:])

    def __call__(
        self, d_output: Any = None, d_states: Any = None, *, wrt_input: bool = True
    ) -> LayerGradients:
        """Go back through time.

        Parameters
        ----------
        d_output : optional
            Gradient of the loss by the output, in its layout; by default zeros.
        d_states : Tensor or tuple of two, optional
            Gradients by the last states, shaped like them; by default zeros. Of a tuple each may be None.
        wrt_input : bool
            Whether the gradient by the input is wanted.

        Returns
        -------
        LayerGradients

        Raises
        ------
        TypeError, ValueError
            For gradients of another kind, type or shape than what they belong to, or none at all.
        RuntimeError
            If what forward read or gave has been changed in place; changes in inference mode, through
            ``tensor.data`` or by NumPy are not seen.
        """
        if torch.compiler.is_compiling():
            return outside_of_graphs(self, d_output, d_states, wrt_input=wrt_input)  # type: ignore[no-any-return]
        refuse_transforms(self._kind)
        refuse_forward_mode(self._kind)
        self._places.check()
        with torch.no_grad():
            dy = None if d_output is None else self._rows(d_output)
            dh, dc = self._of_states(d_states)
            if dy is None and dh is None and dc is None:
                raise ValueError(
                    f"{self._kind}: gradients are given of neither the output nor the last states"
                )
            return self._back(dy, dh, dc, wrt_input)

    def _back(
        self, dy: Tensor | None, dh: Tensor | None, dc: Tensor | None, wrt_input: bool
    ) -> LayerGradients:
        L = len(self._walked)
        has_cell_state = isinstance(self._states, tuple)
        dhs, dcs = ((s,) * L if s is None or L == 1 else s.chunk(L) for s in (dh, dc))
        parameters: dict[str, Tensor] = {}
        initial: list[tuple[Tensor | None, Tensor | None]] = []
        for layer in reversed(range(L)):
            back, names, weights, noise = self._walked[layer]
            if dy is not None and noise is not None:
                dy = dy * noise
            wanted = [weight.requires_grad for weight in weights]
            needs = (layer > 0 or wrt_input, self._has_hx, self._has_hx and has_cell_state, *wanted)
            dy, dh0, dc0, *d_weights = back(needs, dy, dhs[layer], dcs[layer])
            for name, weight, gradient, want in zip(names, weights, d_weights, wanted, strict=True):
                if want:
                    parameters[name] = torch.zeros_like(weight) if gradient is None else gradient
            initial.insert(0, (dh0, dc0))
        return LayerGradients(self._input(dy) if wrt_input else None, self._hx(initial), parameters)

    def _input(self, dx: Tensor | None) -> Any:
        x, as_given = self._batch.x, self._batch.output
        dx = torch.zeros_like(x) if dx is None else dx
        return dx if as_given is None else as_given(dx)

    def _hx(self, initial: Sequence[tuple[Tensor | None, Tensor | None]]) -> States | None:
        """Give gradients of the initial states, of one layer after the other, as the caller has these."""
        if not self._has_hx:
            return None
        given = self._states if isinstance(self._states, tuple) else (self._states,)
        found = []
        for state, of_layers in zip(given, zip(*initial, strict=True), strict=False):
            L, width = len(of_layers), state.shape[-1]
            shape = (len(state) // L, self._batch.rows.n_sequences, width)
            d = torch.cat([state.new_zeros(shape) if g is None else g for g in of_layers])
            if self._batch.inverse is not None:
                d = d.index_select(1, self._batch.inverse)
            found.append(d.squeeze(1) if self._batch.unbatched else d)
        return (found[0], found[1]) if len(found) == 2 else found[0]

    def _rows(self, d_output: Any) -> Tensor:
        """Check the gradient of the output, and give its rows."""
        if _layout(d_output) != _layout(self._output):
            raise TypeError(
                f"{self._kind}: d_output is {_layout(d_output)}, but the output is {_layout(self._output)}"
            )
        given, own = parts_of(d_output), parts_of(self._output)
        if not all(map(_same, given[1:], own[1:])):
            raise ValueError(f"{self._kind}: d_output has other sequences than the output")
        return self._checked("d_output", given[0], own[0])

    def _of_states(self, d_states: Any) -> tuple[Tensor | None, Tensor | None]:
        """Check gradients of the last states, and give them in the order of the batch's rows."""
        if d_states is None:
            return None, None
        if not isinstance(self._states, tuple):
            return self._of_state("d_states", d_states, self._states), None
        if not isinstance(d_states, (tuple, list)) or len(d_states) != 2:
            raise TypeError(
                f"{self._kind}: d_states is {type(d_states).__name__}, expected a tuple (d_h, d_c)"
            )
        d_h, d_c = d_states
        h, c = self._states
        return self._of_state("d_states[0]", d_h, h), self._of_state("d_states[1]", d_c, c)

    def _of_state(self, name: str, d_state: Any, state: Tensor) -> Tensor | None:
        if d_state is None:
            return None
        checked = self._checked(name, d_state, state)
        if self._batch.unbatched:
            checked = checked.unsqueeze(1)
        return checked if self._batch.order is None else checked.index_select(1, self._batch.order)

    def _checked(self, name: str, given: Any, like: Any) -> Tensor:
        if not isinstance(given, Tensor):
            raise TypeError(f"{self._kind}: {name} is {type(given).__name__}; a Tensor is needed")
        if given.shape != like.shape:
            raise ValueError(
                f"{self._kind}: {name} has shape {tuple(given.shape)}, expected {tuple(like.shape)}"
            )
        return conform(given, name, self._kind, like.dtype, ValueError)


def _layout(batch: Any) -> str:
    if not isinstance(batch, Tensor):
        return type(batch).__name__
    return f"a nested tensor of layout {batch.layout}" if batch.is_nested else "Tensor"


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, Tensor) and isinstance(b, Tensor) and a.equal(b))


def refuse_transforms(kind: str) -> None:
    """Raise `NotImplementedError` within a transform of `torch.func`, which native calls cannot follow."""
    if torch._C._are_functorch_transforms_active():
        raise NotImplementedError(
            f"{kind}: transforms of torch.func (vmap, grad, jvp, ...) are not supported; use torch.autograd"
        )


def refuse_forward_mode(kind: str) -> None:
    """Raise `NotImplementedError` in forward mode: tangents would be lost."""
    if forward_ad._current_level >= 0:
        raise NotImplementedError(f"{kind}.vjp: forward mode is not supported; possible: reverse mode")


@torch._disable_dynamo  # type: ignore[attr-defined]  # torch.compiler.disable, but it does not load the compiler
def outside_of_graphs(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a function between two graphs of `torch.compile`, which cannot look into native calls."""
    return function(*arguments, **options)
