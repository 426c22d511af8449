"""The plain form of pre- and post-processing: one Python step for each token and each pair.

Belongs here: slow, obvious code that says what the vectorised functions of `utils_qa.py` must compute.
"""

import json

import numpy as np


def label_window(offsets, in_context, answer):
    """Return the first and last token of `answer` (character span) in one window, or (0, 0)."""
    context_tokens = [token for token, inside in enumerate(in_context) if inside]
    begin, end = answer
    if begin < 0 or not context_tokens:
        return 0, 0
    if offsets[context_tokens[0]][0] > begin or offsets[context_tokens[-1]][1] < end:
        return 0, 0
    first = last = None
    for token in context_tokens:
        if first is None and offsets[token][1] > begin:
            first = token
        if offsets[token][0] < end:
            last = token
    if first is None or last is None or first > last:
        return 0, 0
    return first, last


def answers_of(
    examples, features, predictions, version_2, n_best_size=20, max_answer_length=30, null_score_diff_threshold=0.0
):
    """Return (predictions, n-best lists, null odds) as plain dictionaries."""
    all_start_logits, all_end_logits = predictions
    texts, nbest_lists, null_odds = {}, {}, {}
    for example in examples:
        null = None
        found = []
        for number, feature in enumerate(features):
            if feature["example_id"] != example["id"]:
                continue
            start_logits, end_logits, mapping = (
                all_start_logits[number],
                all_end_logits[number],
                feature["offset_mapping"],
            )
            null_score = start_logits[0] + end_logits[0]
            if null is None or null["score"] > null_score:
                null = {
                    "offsets": (0, 0),
                    "score": null_score,
                    "start_logit": start_logits[0],
                    "end_logit": end_logits[0],
                }
            for start in np.argsort(start_logits)[::-1][:n_best_size].tolist():
                for end in np.argsort(end_logits)[::-1][:n_best_size].tolist():
                    if start >= len(mapping) or end >= len(mapping) or not mapping[start] or not mapping[end]:
                        continue
                    if end < start or end - start + 1 > max_answer_length:
                        continue
                    found.append(
                        {
                            "offsets": (mapping[start][0], mapping[end][1]),
                            "score": start_logits[start] + end_logits[end],
                            "start_logit": start_logits[start],
                            "end_logit": end_logits[end],
                        }
                    )
        null_score = null["score"]
        if version_2:
            found.append(null)
        best = sorted(found, key=lambda candidate: candidate["score"], reverse=True)[:n_best_size]
        if version_2 and not any(candidate["offsets"] == (0, 0) for candidate in best):
            best.append(null)
        for candidate in best:
            begin, end = candidate.pop("offsets")
            candidate["text"] = example["context"][begin:end]
        if not best or (len(best) == 1 and best[0]["text"] == ""):
            best.insert(0, {"text": "empty", "start_logit": 0.0, "end_logit": 0.0, "score": 0.0})
        scores = np.array([candidate.pop("score") for candidate in best])
        exponentials = np.exp(scores - np.max(scores))
        for candidate, probability in zip(best, exponentials / exponentials.sum(), strict=True):
            candidate["probability"] = probability
        if version_2:
            spoken = next(candidate for candidate in best if candidate["text"])
            difference = null_score - spoken["start_logit"] - spoken["end_logit"]
            null_odds[example["id"]] = float(difference)
            texts[example["id"]] = "" if difference > null_score_diff_threshold else spoken["text"]
        else:
            texts[example["id"]] = best[0]["text"]
        nbest_lists[example["id"]] = [
            {name: value if isinstance(value, str) else float(value) for name, value in candidate.items()}
            for candidate in best
        ]
    return texts, nbest_lists, null_odds


def as_json(content):
    """Format as the transformers example writes its files."""
    return json.dumps(content, indent=4) + "\n"
