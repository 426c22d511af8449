"""torch 2.8.0: its tracer for quantization notes the Python stack of every operation.

Can go when `QuantizationTracer` has a switch for `record_stack_traces`, or torch formats stacks without its compiler.
"""


def trace_without_stacks():
    """Keep torch from noting the Python stack of each operation that it traces for quantization.

    To format the first one it imports its compiler: a second, for stacks that nobody reads.
    """
    from torch.ao.quantization.fx.tracer import QuantizationTracer

    # Each tracer switches them on for itself; this attribute cannot be switched.
    QuantizationTracer.record_stack_traces = property(lambda tracer: False, lambda tracer, value: None)
