"""Counts, on a TensorFlow graph that never runs, multiply-adds and bytes of memory.

TensorFlow's own profiler does not serve: it knows no gradient of a 3D convolution, and it counts operations that never
run, such as the gradient with respect to a network's input, which is always built and mostly not asked for.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Container, Iterable, Sequence

import tensorflow as tf

# For each convolution and its gradients: where to find the shapes of its output (or of that one's gradient) and of
# its kernel, among the operation's inputs or outputs. All three compute the same products, grouped in three ways.
CONVOLUTIONS = {
    "Conv2D": (("outputs", 0), ("inputs", 1)),
    "Conv2DBackpropInput": (("inputs", 2), ("inputs", 1)),
    "Conv2DBackpropFilter": (("inputs", 2), ("outputs", 0)),
    "Conv3D": (("outputs", 0), ("inputs", 1)),
    "Conv3DBackpropInputV2": (("inputs", 2), ("inputs", 1)),
    "Conv3DBackpropFilterV2": (("inputs", 2), ("outputs", 0)),
}
# For each matrix product: the attribute that says whether its first matrix is transposed.
MATRIX_PRODUCTS = {"MatMul": "transpose_a", "BatchMatMulV2": "adj_x"}
# Other products, and operations that hide theirs in another graph.
NOT_COUNTED = re.compile(r"Conv|MatMul|Einsum|PartitionedCall|(If|While|Case)$")

# What these give is the very memory of their input; a slice if it is all of it.
VIEWS = ("EnsureShape", "ExpandDims", "Identity", "IdentityN", "Reshape", "Squeeze", "StridedSlice")
# What these give is not made by the step.
VARIABLES = ("ReadVariableOp", "VarHandleOp")
# These look at shapes, which are known, and need no values.
SHAPE_READERS = ("OnesLike", "Rank", "Shape", "ShapeN", "Size", "ZerosLike")


def executed(outputs: Iterable[tf.Tensor]) -> set[tf.Operation]:
    """The operations that have to run for these outputs."""
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
    """Multiply-adds of the convolutions and matrix products that have to run for these outputs; each counts once.

    Taps that meet padding count too. Nothing else does: norms, activations, sums.

    Raises:
      ValueError: an operation multiplies in a way that is not counted here.
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
            raise ValueError(f"{op.name}: operations of the type {op.type} are not counted")
    return total


def _depend_on(inputs: Iterable[tf.Tensor]) -> set[tf.Operation]:
    """The inputs' operations, and all that depend on them."""
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


def _memory(tensor: tf.Tensor) -> tf.Tensor:
    """The tensor whose memory this one shows; mostly itself."""
    while tensor.op.type in VIEWS and _size(tensor) == _size(tensor.op.inputs[tensor.value_index]):
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor


def kept_bytes(outputs: Sequence[tf.Tensor], variables: Sequence[tf.Variable], inputs: Sequence[tf.Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward pass: what grows with the batch.

    These are the tensors, inputs among them, that depend on the inputs and whose values the gradients with respect to
    the variables read. Tensors that share memory count once. Weights, kernels made of them, and the gradients
    themselves are not in it. Adds the gradients to the graph.

    Args:
      outputs: of the forward pass.
      variables: those that are trained.
      inputs: the placeholders of the batch.
    """
    forward = executed(outputs)
    gradients = tf.gradients(outputs, variables)
    backward = executed(gradient for gradient in gradients if gradient is not None) - forward
    of_the_batch = forward & _depend_on(inputs)
    kept = {}
    for op in backward:
        if op.type not in SHAPE_READERS:
            for tensor in map(_memory, op.inputs):
                if tensor.op in of_the_batch:
                    kept[tensor.name] = _bytes(tensor)
    return sum(kept.values())


def peak_bytes(outputs: Sequence[tf.Tensor]) -> int:
    """Most bytes that are in use at one time while these outputs are computed.

    Operations run one at a time, in the order in which they were added to the graph; a tensor is there from its
    operation to its last reader, an output to the end. Tensors that share memory count once, variables not at all. Work
    space of single operations, what the allocator wastes, and what operations that run together add is not in it.
    """
    needed = executed(outputs)
    of_the_end = {_memory(tensor).name for tensor in outputs}
    terms: dict[str, list[tf.Tensor]] = {}  # of a sum that is itself a term
    reads: dict[tf.Operation, set[str]] = {}
    for op in outputs[0].graph.get_operations():
        if op not in needed:
            continue
        inputs = [term for tensor in op.inputs for term in terms.get(tensor.name, [tensor])]
        if _is_term_of_a_sum(op, needed) and op.outputs[0].name not in of_the_end:
            terms[op.outputs[0].name] = inputs
        else:
            reads[op] = {_memory(tensor).name for tensor in inputs}
    readers = Counter(itertools.chain(of_the_end, *reads.values()))
    sizes: dict[str, int] = {}  # of what is in use
    total = peak = 0
    for op, read in reads.items():
        made = {tensor.name: _bytes(tensor) for tensor in op.outputs if _memory(tensor).name == tensor.name}
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
    """Whether TensorFlow will make one sum of this one and its only reader, for which all terms have to wait."""
    readers = [reader.type for reader in op.outputs[0].consumers() if reader in needed] if op.type == "AddN" else []
    return readers == ["AddN"]
