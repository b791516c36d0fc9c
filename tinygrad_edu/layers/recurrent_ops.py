"""One direction of one recurrent layer over a whole sequence: plain (Elman), LSTM and GRU.

Time is the first axis here, so that a step is one block of memory. Each op has the same three parts: one product of all
inputs with W_ih, a loop over time with one product of the state with W_hh a step, and, going back, one product for each
weight after the loop.

Sequences of a batch may be of different `lengths`. Beyond a sequence's end its state stands still and its output is
zero, so the state after the last step is that at each sequence's own end; and with `reverse` the state stands still
until the end of the sequence is met, so each is read from its own end.
"""

from __future__ import annotations

from ..backend import Array, gemm, namespace, op
from .activation import sigmoid
from .linear import linear, linear_backward

NONLINEARITIES = ("tanh", "relu")


def _real(x: Array, lengths: Array | None) -> Array | None:
    """(T, B, 1), True at the real steps of each sequence; None where all are."""
    if lengths is None:
        return None
    return (namespace(x, lengths).arange(x.shape[0])[:, None] < lengths[None, :])[:, :, None]


def _blank_padding(x: Array, real: Array | None) -> Array:
    """Zeros where x is padding: whatever stands there, NaN too, meets no weight."""
    return x if real is None else namespace(x).where(real, x, 0)


def _states(initial: Array, time: int, reverse: bool) -> tuple[Array, Array, Array]:
    """Room for the states of all steps: (T + 1, B, H), with views of those before and after each step, (T, B, H).

    The state before the first step is `initial`. Read from the end, the first step is the last one.
    """
    states = namespace(initial).empty((time + 1, *initial.shape), dtype=initial.dtype)
    states[time if reverse else 0] = initial
    return (states, *_around(states, reverse))


def _around(states: Array, reverse: bool) -> tuple[Array, Array]:
    """The states before, and after, each step."""
    return (states[1:], states[:-1]) if reverse else (states[:-1], states[1:])


def _last(states: Array, reverse: bool) -> Array:
    """A copy of the state after the last step: a view would keep the whole sequence alive with it."""
    return states[0 if reverse else -1].copy()


def _order(time: int, reverse: bool) -> range:
    """The steps in the order in which they are read."""
    return range(time - 1, -1, -1) if reverse else range(time)


def _split(gates: Array, count: int) -> tuple[Array, ...]:
    """(B, n H) as n views (B, H)."""
    width = gates.shape[-1] // count
    return tuple(gates[..., k * width : (k + 1) * width] for k in range(count))


def _weight_hh_gradient(dgates: Array, before: Array) -> Array:
    r""":math:`dW_{hh} = \sum_t dz_t^\top h_{t-1}`, one product over all steps and sequences."""
    return gemm(dgates.reshape(-1, dgates.shape[-1]).T, before.reshape(-1, before.shape[-1]))


# -- the plain recurrent layer -----------------------------------------------------------------------------


@op
def rnn(
    x: Array,
    h0: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None,
    bias_hh: Array | None,
    lengths: Array | None,
    reverse: bool,
    nonlinearity: str,
) -> tuple[Array, Array, Array]:
    r"""Plain recurrent layer (Elman, 1990).

    .. math:: h_t = \phi(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}), \qquad \phi = \tanh \text{ or } \max(0, \cdot)

    Parameters
    ----------
    x : (T, B, I)
    h0 : (B, H)
    weight_ih, weight_hh : (H, I) and (H, H)
    bias_ih, bias_hh : (H,) each, or None
    lengths : (B,), integers in 1 .. T; None where all sequences have length T
    reverse : read each sequence from its end
    nonlinearity : "tanh" or "relu"

    Returns
    -------
    y : (T, B, H), the states, zero beyond a sequence's end
    hn : (B, H), the state after the last step
    hidden : (T + 1, B, H), all states, kept for the backward pass
    """
    xp = namespace(x, h0, weight_ih, weight_hh)
    real = _real(x, lengths)
    inputs = linear(_blank_padding(x, real), weight_ih, bias_ih)  # (T, B, H)
    hidden, before, after = _states(h0, len(x), reverse)
    for t in _order(len(x), reverse):
        z = inputs[t] + linear(before[t], weight_hh, bias_hh)
        h = xp.tanh(z) if nonlinearity == "tanh" else xp.maximum(z, 0)
        after[t] = h if real is None else xp.where(real[t], h, before[t])
    return _blank_padding(after, real), _last(hidden, reverse), hidden


@op
def rnn_backward(
    dy: Array,
    dhn: Array,
    x: Array,
    weight_ih: Array,
    weight_hh: Array,
    lengths: Array | None,
    reverse: bool,
    nonlinearity: str,
    hidden: Array,
    with_bias: bool,
) -> tuple[Array, Array, Array, Array, Array | None, Array | None]:
    r"""Gradient of :func:`rnn`: backpropagation through time (Werbos, 1990).

    A state is read twice, as output and by the next step, so its gradient is a sum of both. From the last step to the
    first, with :math:`dh_T = dh_n`,

    .. math:: dh_t \mathrel{+}= dy_t, \qquad dz_t = dh_t\,\phi'(z_t), \qquad dh_{t-1} = dz_t W_{hh}

    where :math:`\phi' = 1 - h_t^2` for tanh and :math:`[h_t > 0]` for relu. Every step uses the same weights, so

    .. math:: dW_{ih} = \sum_t dz_t^\top x_t, \quad dW_{hh} = \sum_t dz_t^\top h_{t-1}, \quad
              db_{ih} = db_{hh} = \sum_t dz_t, \quad dx_t = dz_t W_{ih}

    Beyond its end a sequence's dz is zero and dh passes as it is.

    Parameters
    ----------
    dy : (T, B, H), gradient of the output
    dhn : (B, H), gradient of the last state
    hidden : as :func:`rnn` returned it
    with_bias : whether there were biases

    Returns
    -------
    dx : (T, B, I); dh0 : (B, H); dweight_ih, dweight_hh : as the weights; dbias_ih, dbias_hh : (H,) or None
    """
    xp = namespace(dy, hidden)
    real = _real(x, lengths)
    before, after = _around(hidden, reverse)
    dz, dh = xp.empty_like(after), dhn
    for t in reversed(_order(len(x), reverse)):
        dnew = dh + dy[t]
        slope = 1 - after[t] * after[t] if nonlinearity == "tanh" else after[t] > 0
        here = None if real is None else real[t]
        dz[t] = _blank_padding(dnew * slope, here)
        through = gemm(dz[t], weight_hh)
        dh = through if here is None else xp.where(here, through, dh)
    dx, dweight_ih, dbias = linear_backward(dz, _blank_padding(x, real), weight_ih, with_bias)
    return dx, dh, dweight_ih, _weight_hh_gradient(dz, before), dbias, dbias


# -- long short-term memory --------------------------------------------------------------------------------


@op
def lstm(
    x: Array,
    h0: Array,
    c0: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None,
    bias_hh: Array | None,
    lengths: Array | None,
    reverse: bool,
) -> tuple[Array, Array, Array, Array, Array, Array]:
    r"""Long short-term memory (Hochreiter & Schmidhuber, 1997), with the forget gate of Gers et al. (2000).

    The four gates come from one product each of the input and the state, in torch's order i, f, g, o:

    .. math:: z_t = W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}, \qquad
              i = \sigma(z^i), \; f = \sigma(z^f), \; g = \tanh(z^g), \; o = \sigma(z^o)

    .. math:: c_t = f \circ c_{t-1} + i \circ g, \qquad h_t = o \circ \tanh(c_t)

    Parameters
    ----------
    x : (T, B, I)
    h0, c0 : (B, H), state and cell before the first step
    weight_ih, weight_hh : (4H, I) and (4H, H)
    bias_ih, bias_hh : (4H,) each, or None
    lengths, reverse : as in :func:`rnn`

    Returns
    -------
    y : (T, B, H), the states, zero beyond a sequence's end
    hn, cn : (B, H), state and cell after the last step
    hidden, cells : (T + 1, B, H), and gates : (T, B, 4H), all of i, f, g, o, zero beyond a sequence's end; kept for
        the backward pass
    """
    xp = namespace(x, h0, c0, weight_ih, weight_hh)
    real = _real(x, lengths)
    gates = linear(_blank_padding(x, real), weight_ih, bias_ih)  # (T, B, 4H), first without the state's part
    hidden, h_before, h_after = _states(h0, len(x), reverse)
    cells, c_before, c_after = _states(c0, len(x), reverse)
    for t in _order(len(x), reverse):
        z = _split(gates[t] + linear(h_before[t], weight_hh, bias_hh), 4)
        i, f, g, o = sigmoid(z[0]), sigmoid(z[1]), xp.tanh(z[2]), sigmoid(z[3])
        here = None if real is None else real[t]
        gates[t] = _blank_padding(xp.concatenate([i, f, g, o], axis=-1), here)
        c = f * c_before[t] + i * g
        h = o * xp.tanh(c)
        c_after[t] = c if here is None else xp.where(here, c, c_before[t])
        h_after[t] = h if here is None else xp.where(here, h, h_before[t])
    y = _blank_padding(h_after, real)
    return y, _last(hidden, reverse), _last(cells, reverse), hidden, cells, gates


@op
def lstm_backward(
    dy: Array,
    dhn: Array,
    dcn: Array,
    x: Array,
    weight_ih: Array,
    weight_hh: Array,
    lengths: Array | None,
    reverse: bool,
    hidden: Array,
    cells: Array,
    gates: Array,
    with_bias: bool,
) -> tuple[Array, Array, Array, Array, Array, Array | None, Array | None]:
    r"""Gradient of :func:`lstm`.

    From the last step to the first, with :math:`dh_T = dh_n` and :math:`dc_T = dc_n`. The state gets its gradient from
    the output and from the next step, the cell from the state and from the next step's cell:

    .. math:: dh_t \mathrel{+}= dy_t, \qquad dc_t \mathrel{+}= dh_t \circ o \circ (1 - \tanh^2 c_t)

    .. math:: dz^i = dc_t \circ g \circ i(1-i), \quad dz^f = dc_t \circ c_{t-1} \circ f(1-f), \quad
              dz^g = dc_t \circ i \circ (1-g^2), \quad dz^o = dh_t \circ \tanh c_t \circ o(1-o)

    .. math:: dc_{t-1} = dc_t \circ f, \qquad dh_{t-1} = dz_t W_{hh}

    The cell's gradient passes a step through f alone, and no matrix: that is what keeps it alive over many steps.
    The gradients of weights, biases and inputs are those of :func:`rnn_backward`.

    Parameters
    ----------
    dy : (T, B, H), gradient of the output
    dhn, dcn : (B, H), gradients of the last state and cell
    hidden, cells, gates : as :func:`lstm` returned them
    with_bias : whether there were biases

    Returns
    -------
    dx : (T, B, I); dh0, dc0 : (B, H); dweight_ih, dweight_hh : as the weights; dbias_ih, dbias_hh : (4H,) or None
    """
    xp = namespace(dy, gates)
    real = _real(x, lengths)
    h_before, _ = _around(hidden, reverse)
    c_before, c_after = _around(cells, reverse)
    dz, dh, dc = xp.empty_like(gates), dhn, dcn
    for t in reversed(_order(len(x), reverse)):
        i, f, g, o = _split(gates[t], 4)
        tanh_c = xp.tanh(c_after[t])
        dh_new = dh + dy[t]
        dc_new = dc + dh_new * o * (1 - tanh_c * tanh_c)
        dgates = xp.concatenate(
            [
                dc_new * g * i * (1 - i),
                dc_new * c_before[t] * f * (1 - f),
                dc_new * i * (1 - g * g),
                dh_new * tanh_c * o * (1 - o),
            ],
            axis=-1,
        )
        here = None if real is None else real[t]
        dz[t] = _blank_padding(dgates, here)
        through = gemm(dz[t], weight_hh)
        dh = through if here is None else xp.where(here, through, dh)
        dc = dc_new * f if here is None else xp.where(here, dc_new * f, dc)
    dx, dweight_ih, dbias = linear_backward(dz, _blank_padding(x, real), weight_ih, with_bias)
    return dx, dh, dc, dweight_ih, _weight_hh_gradient(dz, h_before), dbias, dbias


# -- gated recurrent unit ----------------------------------------------------------------------------------


@op
def gru(
    x: Array,
    h0: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None,
    bias_hh: Array | None,
    lengths: Array | None,
    reverse: bool,
) -> tuple[Array, Array, Array, Array]:
    r"""Gated recurrent unit (Cho et al., 2014), in torch's form: the reset gate acts after the state's product.

    The products are split in torch's order r, z, n:

    .. math:: a_t = W_{ih} x_t + b_{ih}, \qquad u_t = W_{hh} h_{t-1} + b_{hh}

    .. math:: r = \sigma(a^r + u^r), \qquad z = \sigma(a^z + u^z), \qquad n = \tanh(a^n + r \circ u^n)

    .. math:: h_t = (1 - z) \circ n + z \circ h_{t-1}

    In the paper r multiplies :math:`h_{t-1}` before the product; after it, one product serves all three gates.

    Parameters
    ----------
    x : (T, B, I)
    h0 : (B, H)
    weight_ih, weight_hh : (3H, I) and (3H, H)
    bias_ih, bias_hh : (3H,) each, or None
    lengths, reverse : as in :func:`rnn`

    Returns
    -------
    y : (T, B, H), the states, zero beyond a sequence's end
    hn : (B, H), the state after the last step
    hidden : (T + 1, B, H), and gates : (T, B, 4H), all of r, z, n and u^n, zero beyond a sequence's end; kept for the
        backward pass
    """
    xp = namespace(x, h0, weight_ih, weight_hh)
    real = _real(x, lengths)
    inputs = linear(_blank_padding(x, real), weight_ih, bias_ih)  # (T, B, 3H)
    hidden, before, after = _states(h0, len(x), reverse)
    gates = xp.empty((*x.shape[:2], 4 * h0.shape[1]), dtype=inputs.dtype)
    for t in _order(len(x), reverse):
        (ar, az, an), (ur, uz, un) = _split(inputs[t], 3), _split(linear(before[t], weight_hh, bias_hh), 3)
        r, z = sigmoid(ar + ur), sigmoid(az + uz)
        n = xp.tanh(an + r * un)
        here = None if real is None else real[t]
        gates[t] = _blank_padding(xp.concatenate([r, z, n, un], axis=-1), here)
        h = (1 - z) * n + z * before[t]
        after[t] = h if here is None else xp.where(here, h, before[t])
    return _blank_padding(after, real), _last(hidden, reverse), hidden, gates


@op
def gru_backward(
    dy: Array,
    dhn: Array,
    x: Array,
    weight_ih: Array,
    weight_hh: Array,
    lengths: Array | None,
    reverse: bool,
    hidden: Array,
    gates: Array,
    with_bias: bool,
) -> tuple[Array, Array, Array, Array, Array | None, Array | None]:
    r"""Gradient of :func:`gru`.

    From the last step to the first, with :math:`dh_T = dh_n` and :math:`dh_t \mathrel{+}= dy_t`,

    .. math:: da^n = dh_t \circ (1-z) \circ (1-n^2), \qquad da^z = dh_t \circ (h_{t-1} - n) \circ z(1-z), \qquad
              da^r = da^n \circ u^n \circ r(1-r)

    On the side of the state the first two gates have the same gradients, but n met :math:`r \circ u^n` there:

    .. math:: du = (da^r,\; da^z,\; da^n \circ r), \qquad dh_{t-1} = dh_t \circ z + du\,W_{hh}

    .. math:: dW_{ih} = \sum_t da_t^\top x_t, \quad dW_{hh} = \sum_t du_t^\top h_{t-1}, \quad
              db_{ih} = \sum_t da_t, \quad db_{hh} = \sum_t du_t, \quad dx_t = da_t W_{ih}

    Parameters
    ----------
    dy : (T, B, H), gradient of the output
    dhn : (B, H), gradient of the last state
    hidden, gates : as :func:`gru` returned them
    with_bias : whether there were biases

    Returns
    -------
    dx : (T, B, I); dh0 : (B, H); dweight_ih, dweight_hh : as the weights; dbias_ih, dbias_hh : (3H,) or None
    """
    xp = namespace(dy, gates)
    real = _real(x, lengths)
    before, _ = _around(hidden, reverse)
    da = xp.empty((*x.shape[:2], weight_hh.shape[0]), dtype=gates.dtype)
    du, dh = xp.empty_like(da), dhn
    for t in reversed(_order(len(x), reverse)):
        here = None if real is None else real[t]
        r, z, n, un = _split(gates[t], 4)
        dnew = dh + dy[t]
        dan = dnew * (1 - z) * (1 - n * n)
        daz = dnew * (before[t] - n) * z * (1 - z)
        dar = dan * un * r * (1 - r)
        da[t] = _blank_padding(xp.concatenate([dar, daz, dan], axis=-1), here)
        du[t] = _blank_padding(xp.concatenate([dar, daz, dan * r], axis=-1), here)
        through = dnew * z + gemm(du[t], weight_hh)
        dh = through if here is None else xp.where(here, through, dh)
    dx, dweight_ih, dbias_ih = linear_backward(da, _blank_padding(x, real), weight_ih, with_bias)
    dbias_hh = du.reshape(-1, du.shape[-1]).sum(axis=0) if with_bias else None
    return dx, dh, dweight_ih, _weight_hh_gradient(du, before), dbias_ih, dbias_hh
