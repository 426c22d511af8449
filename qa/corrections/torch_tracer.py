"""torch 2.8.0: its tracer for quantization notes the Python stack of every operation, and what training mode was.

The first can go when `QuantizationTracer` has a switch for `record_stack_traces`, or torch formats stacks without its
compiler; the second when a traced `functional.dropout` follows the mode of its graph.
"""


def trace_without_stacks():
    """Keep torch from noting the Python stack of each operation that it traces for quantization.

    To format the first one it imports its compiler: a second, for stacks that nobody reads.
    """
    from torch.ao.quantization.fx.tracer import QuantizationTracer

    # Each tracer switches them on for itself; this attribute cannot be switched.
    QuantizationTracer.record_stack_traces = property(lambda tracer: False, lambda tracer, value: None)


def make_dropouts_modules(model):
    """Put modules, which evaluation mode turns off, in place of the dropouts that traced graphs call.

    Such a call, as in XLM and FlauBERT, has the mode of the moment of tracing for good.

    Args:
        model: with traced parts, which are changed in place.
    """
    import torch  # not with this file: engines that need no PyTorch import it

    for part in [module for module in model.modules() if isinstance(module, torch.fx.GraphModule)]:
        for node in list(part.graph.nodes):
            if node.target is torch.nn.functional.dropout:
                name = f"{node.name}_module"
                part.add_submodule(name, torch.nn.Dropout(node.kwargs["p"]))
                with part.graph.inserting_before(node):
                    node.replace_all_uses_with(part.graph.call_module(name, node.args[:1]))
                part.graph.erase_node(node)
        part.recompile()
