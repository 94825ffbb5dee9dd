"""Input x gradient (Shrikumar et al. 2016), and its SmoothGrad variant as an option."""

from __future__ import annotations

from wcx.methods.gradient import Gradient


class InputXGradient(Gradient):
    """phi = x * gradient of sum_s v_s y_s, elementwise, x in the model's input space. Options as for `Gradient`."""

    times_input = True
