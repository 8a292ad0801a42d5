"""Counts multiply-adds and bytes of memory of a TensorFlow graph without running it.

TensorFlow's profiler does not support gradients of 3D convolutions, and it counts operations that are never run, e.g.
gradients with respect to a network's input.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Container, Iterable, Sequence

import tensorflow as tf

# Positions, among an operation's inputs or outputs, of the tensors that have the shapes of the convolution's output and
# of its kernel. A convolution and its two gradients have the same number of multiply-adds.
CONVOLUTIONS = {
    "Conv2D": (("outputs", 0), ("inputs", 1)),
    "Conv2DBackpropInput": (("inputs", 2), ("inputs", 1)),
    "Conv2DBackpropFilter": (("inputs", 2), ("outputs", 0)),
    "Conv3D": (("outputs", 0), ("inputs", 1)),
    "Conv3DBackpropInputV2": (("inputs", 2), ("inputs", 1)),
    "Conv3DBackpropFilterV2": (("inputs", 2), ("outputs", 0)),
}
# Matrix products, with the attribute that says whether the first matrix is transposed.
MATRIX_PRODUCTS = {"MatMul": "transpose_a", "BatchMatMulV2": "adj_x"}
# Other products, and operations that contain subgraphs.
NOT_COUNTED = re.compile(r"Conv|MatMul|Einsum|PartitionedCall|(If|While|Case)$")

# Operations whose output shares the memory of the input; a slice only if it covers the whole input.
VIEWS = ("EnsureShape", "ExpandDims", "Identity", "IdentityN", "Reshape", "Squeeze", "StridedSlice")
# Operations whose outputs are not allocated by the step.
VARIABLES = ("ReadVariableOp", "VarHandleOp")
# Operations that read only static shapes, not values.
SHAPE_READERS = ("OnesLike", "Rank", "Shape", "ShapeN", "Size", "ZerosLike")


def executed(outputs: Iterable[tf.Tensor]) -> set[tf.Operation]:
    """Returns the operations that must run to compute these outputs."""
    pending, found = [tensor.op for tensor in outputs], set()
    while pending:
        op = pending.pop()
        if op not in found:
            found.add(op)
            pending += [*(tensor.op for tensor in op.inputs), *op.control_inputs]
    return found


def _shape(op: tf.Operation, place: tuple[str, int]) -> list[int]:
    tensors, index = place
    return getattr(op, tensors)[index].shape.as_list()


def multiply_adds(outputs: Iterable[tf.Tensor]) -> int:
    """Counts multiply-adds of the convolutions and matrix products that must run to compute these outputs.

    Taps that meet padding are included. Other operations, such as norms, activations and sums, are not.

    Raises:
      ValueError: The graph contains a kind of product that is not supported.
    """
    total = 0
    for op in executed(outputs):
        if op.type in CONVOLUTIONS:
            output, kernel = (_shape(op, place) for place in CONVOLUTIONS[op.type])
            # The kernel's last axis is the output's channels.
            total += math.prod(output) * math.prod(kernel[:-1])
        elif op.type in MATRIX_PRODUCTS:
            *_, rows, columns = _shape(op, ("inputs", 0))
            inner = rows if op.get_attr(MATRIX_PRODUCTS[op.type]) else columns
            total += math.prod(_shape(op, ("outputs", 0))) * inner
        elif NOT_COUNTED.search(op.type):
            raise ValueError(f"{op.name}: operations of type {op.type} are not supported")
    return total


def _dependents(inputs: Iterable[tf.Tensor]) -> set[tf.Operation]:
    """Returns the inputs' operations and all operations that depend on them."""
    pending, found = [tensor.op for tensor in inputs], set()
    while pending:
        op = pending.pop()
        if op not in found:
            found.add(op)
            pending += [consumer for tensor in op.outputs for consumer in tensor.consumers()]
    return found


def _size(tensor: tf.Tensor) -> int:
    return math.prod(tensor.shape.as_list())


def _bytes(tensor: tf.Tensor) -> int:
    return _size(tensor) * tensor.dtype.size


def _memory_owner(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the tensor that owns the memory of this one, usually itself."""
    while tensor.op.type in VIEWS and _size(tensor) == _size(tensor.op.inputs[tensor.value_index]):
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor


def kept_bytes(outputs: Sequence[tf.Tensor], variables: Sequence[tf.Variable], inputs: Sequence[tf.Tensor]) -> int:
    """Counts bytes that a forward pass stores for its backward pass and that grow with the batch.

    These are tensors that depend on the inputs, including the inputs, and that are read by the gradients with respect
    to the variables. Tensors that share memory count once. Weights, kernels computed from them, and gradients are not
    included. Adds the gradients to the graph.

    Args:
      outputs: Outputs of the forward pass.
      variables: The trained variables.
      inputs: Placeholders of the batch.
    """
    forward = executed(outputs)
    gradients = tf.gradients(outputs, variables)
    backward = executed(gradient for gradient in gradients if gradient is not None) - forward
    batch_ops = forward & _dependents(inputs)
    kept = {}
    for op in backward:
        if op.type not in SHAPE_READERS:
            for tensor in map(_memory_owner, op.inputs):
                if tensor.op in batch_ops:
                    kept[tensor.name] = _bytes(tensor)
    return sum(kept.values())


def peak_bytes(outputs: Sequence[tf.Tensor]) -> int:
    """Counts the peak number of bytes in use while these outputs are computed.

    It is assumed that operations run one at a time, in the order in which they were added to the graph. A tensor lives
    from its operation to its last reader, an output to the end. Tensors that share memory count once; variables do not
    count. Work space of operations, allocator overhead and concurrent operations are not included.
    """
    needed = executed(outputs)
    output_names = {_memory_owner(tensor).name for tensor in outputs}
    terms: dict[str, list[tf.Tensor]] = {}  # terms of each sum that is itself a term
    reads: dict[tf.Operation, set[str]] = {}
    for op in outputs[0].graph.get_operations():
        if op not in needed:
            continue
        inputs = [term for tensor in op.inputs for term in terms.get(tensor.name, [tensor])]
        if _is_term_of_a_sum(op, needed) and op.outputs[0].name not in output_names:
            terms[op.outputs[0].name] = inputs
        else:
            reads[op] = {_memory_owner(tensor).name for tensor in inputs}
    readers = Counter(itertools.chain(output_names, *reads.values()))
    sizes: dict[str, int] = {}  # bytes of live tensors
    total = peak = 0
    for op, read in reads.items():
        made = {tensor.name: _bytes(tensor) for tensor in op.outputs if _memory_owner(tensor).name == tensor.name}
        if op.type not in VARIABLES:
            sizes |= made
            total += sum(made.values())
        peak = max(peak, total)
        readers.subtract(read)
        for name in {*read, *made}:
            if not readers[name]:
                total -= sizes.pop(name, 0)
    return peak


def _is_term_of_a_sum(op: tf.Operation, needed: Container[tf.Operation]) -> bool:
    """Returns whether TensorFlow will merge this sum into its only reader, which keeps all terms alive."""
    readers = [reader.type for reader in op.outputs[0].consumers() if reader in needed] if op.type == "AddN" else []
    return readers == ["AddN"]
