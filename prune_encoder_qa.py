"""Set the smallest weights of a language model to zero: what Prune Once For All starts from.

    python prune_encoder_qa.py --model_name_or_path distilbert-base-uncased --target_sparsity 0.9 --output_dir sparse

The same share is taken from each linear operator, by magnitude and without any training, and the result is ready for
`run_qa.py --apply_pruning --pruning_approach pattern_lock`. The paper (Zafrir et al. 2021, arXiv 2111.05754) prunes
little by little while the model goes on learning language, and so loses less; its models are on the hub.
"""

import argparse

from qa.corrections.ipex import without_ipex
from qa.corrections.py_cpuinfo import ask_about_processor
from qa.models.identity import versions, weights_of
from qa.models.loading import from_pretrained, load_model
from qa.start.arguments import ModelArguments
from qa.start.command import command
from qa.start.errors import UsageError
from qa.start.output import check_owner, claim_output_dir, finish, saving
from qa.start.paths import check_output_dir, kind_of
from qa.start.process import go_offline_without_hub, prepare_process, quiet_libraries
from qa.start.stack import check_stack


def prune(model, sparsity):
    """Set the smallest weights of each linear operator to zero.

    Args:
        model: encoder, changed in place.
        sparsity: share of zeros in each operator, from 0 to 1.
    """
    from qa.compression.sparsity import prunable_weights

    for weight in prunable_weights(model).values():
        sizes = weight.abs().flatten()
        smallest = sizes.topk(round(sparsity * sizes.numel()), largest=False).indices
        weight.view(-1)[smallest] = 0.0


@command
def main():
    prepare_process()
    parser = argparse.ArgumentParser(description="Set the smallest weights of each linear operator to zero.")
    parser.add_argument("--model_name_or_path", required=True, help="folder or hub name of a language model")
    parser.add_argument("--target_sparsity", type=float, default=0.9, help="share of zeros in each linear operator")
    parser.add_argument("--output_dir", required=True, help="folder for the pruned model and its tokenizer")
    args = parser.parse_args()
    check_stack()
    if not 0.0 <= args.target_sparsity < 1.0:
        raise UsageError(f"--target_sparsity is {args.target_sparsity}; give a number from 0 to below 1")
    check_output_dir(args.output_dir)
    output_dir, name = args.output_dir, args.model_name_or_path
    quiet_libraries()
    if kind_of(name) is None:
        go_offline_without_hub()

    from transformers import AutoConfig, AutoTokenizer

    model_args = ModelArguments(name)
    config = from_pretrained(AutoConfig, "model_name_or_path", name, model_args)
    tokenizer = from_pretrained(AutoTokenizer, "model_name_or_path", name, model_args)
    inputs = {"--model_name_or_path": weights_of(name, config)}
    made_from = {"settings": {"target_sparsity": args.target_sparsity}, "inputs": inputs, "versions": versions()}
    check_owner(output_dir, made_from, overwrite=False, inputs=[("model_name_or_path", name)])
    ask_about_processor()
    with without_ipex():
        from qa.compression.sparsity import sparsity_report

    # The encoder inside: as question answering takes it, and without a head that nobody has trained.
    model = load_model(model_args).base_model
    prune(model, args.target_sparsity)
    claim_output_dir(output_dir, made_from, overwrite=False)
    with saving(output_dir):
        model.save_pretrained(output_dir)
        tokenizer.save_pretrained(output_dir)
    finish(output_dir, verified=False)
    report = sparsity_report(model, sum(weights.numel() for weights in model.parameters()))
    print(f"{output_dir}: sparsity {report['sparsity']:.6f} in {len(report['sparsity_per_op'])} linear operators")


if __name__ == "__main__":
    main()
