"""The plain form of pre- and post-processing and of the scores: one Python step for each token and each pair.

Belongs here: slow, obvious code that says what the vectorised functions of `utils_qa.py` and `squad_scores.py` must
compute. `benchmarks/` measures them against it.
"""

import collections
import json
import re
import string

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


def trim_span(context, begin, end):
    """Return the characters of a token without white space around them, unless there is nothing else."""
    text = context[begin:end]
    if not text.strip():
        return begin, end
    return begin + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())


def features_of(examples, tokenizer, max_seq_length, doc_stride, padding="max_length"):
    """Return a list of features, dictionaries with the columns of `utils_qa.prepare_features`, padding included."""
    question_first = tokenizer.padding_side == "right"
    questions = [example["question"].lstrip() for example in examples]
    contexts = [example["context"] for example in examples]
    encoded = tokenizer(
        questions if question_first else contexts,
        contexts if question_first else questions,
        truncation="only_second" if question_first else "only_first",
        max_length=max_seq_length,
        stride=doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding=padding,
    )
    features = []
    for number, row in enumerate(encoded["overflow_to_sample_mapping"]):
        sequence = encoded.sequence_ids(number)
        in_context = [place == (1 if question_first else 0) for place in sequence]
        offsets = [
            trim_span(examples[row]["context"], *span) if inside else span
            for span, inside in zip(encoded["offset_mapping"][number], in_context, strict=True)
        ]
        answers = examples[row]["answers"]
        answer = (-1, -1)
        if answers is not None and answers["text"] and answers["text"][0].strip():
            text = answers["text"][0]
            begin = answers["answer_start"][0] + len(text) - len(text.lstrip())
            answer = (begin, begin + len(text.strip()))
        start, end = label_window(offsets, in_context, answer)
        features.append(
            {
                **{name: encoded[name][number] for name in tokenizer.model_input_names if name in encoded},
                "example_id": examples[row]["id"],
                "offset_mapping": [
                    list(span) if inside and not examples[row]["context"][slice(*span)].isspace() else None
                    for span, inside in zip(offsets, in_context, strict=True)
                ],
                "start_positions": start,
                "end_positions": end,
            }
        )
    return features


def answers_of(
    examples, features, predictions, version_2, n_best_size=20, max_answer_length=30, null_score_diff_threshold=0.0
):
    """Return (predictions, n-best lists, null odds) as plain dictionaries.

    Rows are read as the transformers example reads them: all once, and those of a feature again for each field.
    """
    all_start_logits, all_end_logits = predictions
    numbers_of = collections.defaultdict(list)
    for number, feature in enumerate(features):
        numbers_of[feature["example_id"]].append(number)
    texts, nbest_lists, null_odds = {}, {}, {}
    for example in examples:
        null = None
        found = []
        for number in numbers_of[example["id"]]:
            start_logits, end_logits = all_start_logits[number], all_end_logits[number]
            mapping = features[number]["offset_mapping"]
            seen_best = features[number].get("token_is_max_context")
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
                    if seen_best is not None and not seen_best.get(str(start), False):
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


def plain_normalize(text):
    kept = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(word for word in re.sub(r"\b(a|an|the)\b", " ", kept).split())


def plain_f1(prediction, gold):
    predicted, wanted = plain_normalize(prediction).split(), plain_normalize(gold).split()
    same = sum(min(count, wanted.count(word)) for word, count in collections.Counter(predicted).items())
    if same == 0:
        return 0.0
    return 2 * (same / len(predicted)) * (same / len(wanted)) / (same / len(predicted) + same / len(wanted))


def plain_squad(texts, golds):
    """SQuAD v1.1 in plain words: the best of the answers counts; no prediction, or no common word, counts 0."""
    exact = f1 = 0
    for identifier, answers in golds.items():
        if identifier in texts:
            exact += max(plain_normalize(texts[identifier]) == plain_normalize(answer) for answer in answers)
            f1 += max(plain_f1(texts[identifier], answer) for answer in answers)
    return {"exact_match": 100 * exact / len(golds), "f1": 100 * f1 / len(golds)}


def plain_squad_v2(texts, golds, null_odds, threshold):
    """SQuAD v2.0 by `transformers`, in the words of the official script."""
    from transformers.data.metrics.squad_metrics import squad_evaluate
    from transformers.data.processors.squad import SquadExample

    examples = [
        SquadExample(identifier, "", "", None, None, "", [{"text": text} for text in answers], not answers)
        for identifier, answers in golds.items()
    ]
    return dict(squad_evaluate(examples, texts, dict(null_odds), threshold))


def as_json(content):
    """Format as the transformers example writes its files."""
    return json.dumps(content, indent=4) + "\n"
