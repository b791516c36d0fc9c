"""Where arrays live: the device switch, the dispatch from ops to kernels, random numbers.

Nothing above this package names NumPy or CuPy. A layer asks ``xp = namespace(x)`` and speaks to that.
"""

from .device import (
    Array,
    array,
    asarray,
    check_device,
    cuda_available,
    current_device,
    device_of,
    empty,
    empty_like,
    full,
    namespace,
    ones,
    register_namespace,
    same_memory,
    synchronize,
    to_device,
    to_host,
    use,
    zeros,
    zeros_like,
)
from .dispatch import Op, kernel, kernels_enabled, op, reference_ops, registered_ops
from .gemm import gemm
from .mode import inference, is_inference, is_outline, outline
from .random import Generator, default_generator, manual_seed, outlined, random_uniform, uniform_at
from .special import erf

__all__ = [
    "Array",
    "Generator",
    "Op",
    "array",
    "asarray",
    "check_device",
    "cuda_available",
    "current_device",
    "default_generator",
    "device_of",
    "empty",
    "empty_like",
    "erf",
    "full",
    "gemm",
    "inference",
    "is_inference",
    "is_outline",
    "kernel",
    "kernels_enabled",
    "manual_seed",
    "namespace",
    "ones",
    "op",
    "outline",
    "outlined",
    "random_uniform",
    "reference_ops",
    "register_namespace",
    "registered_ops",
    "same_memory",
    "synchronize",
    "to_device",
    "to_host",
    "uniform_at",
    "use",
    "zeros",
    "zeros_like",
]
