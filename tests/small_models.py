"""Models of many layouts, small and untrained but decided, with the sample's words: built in a moment by any test.

Belongs here: building them and saving them with a tokenizer.
Does not belong here: what they must do.
"""

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
# What a layout needs besides.
LAYOUTS = {
    "bert": {},
    "electra": {"embedding_size": 32},
    "albert": {"embedding_size": 16},
    "mpnet": {},
    "roberta": {"max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 0},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "deberta-v2": {
        **{"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 32, "type_vocab_size": 0},
        **{"share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False},
    },
    "squeezebert": {
        "embedding_size": 32,
        **{f"{name}_groups": 2 for name in ("q", "k", "v", "intermediate", "output")},
    },
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16},
    "convbert": {"embedding_size": 32, "num_attention_heads": 4},
    "fnet": {},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
}


def small_model(layout, tokenizer, seed=0, **changes):
    """Build a question-answering model, in evaluation mode.

    Args:
        layout: one of `LAYOUTS`, or another that `changes` say all about.
        tokenizer: tells how many words it knows.
        seed: of its weights.
        changes: of its configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModelForQuestionAnswering

    settings = {"vocab_size": len(tokenizer), **SIZE, **LAYOUTS.get(layout, {}), **changes}
    if layout == "distilbert" or layout == "xlnet":
        settings = {name: value for name, value in settings.items() if name not in SIZE}
    torch.manual_seed(seed)
    model = AutoModelForQuestionAnswering.from_config(AutoConfig.for_model(layout, **settings))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() > 1 and "embeddings" not in name:
                weights.mul_(4)  # untrained weights hardly tell one token from another
        # Trained models have one that is not zero.
        model.get_input_embeddings().weight[tokenizer.pad_token_id].normal_()
    return model.eval()


def bert_tokenizer(tokenizer, **settings):
    """The sample's words with the columns of BERT: a tokenizer that makes two token types."""
    from transformers import BertTokenizerFast

    return BertTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        **tokenizer.special_tokens_map,
        **settings,
    )
