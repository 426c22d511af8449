"""What settings say of single operators, and whether these got it.

Belongs here: notes on settings of `op_type_dict` and `op_name_dict` that came to nothing.
Does not belong here: reading them (`settings.py`), and who hands them to INC (`post_training.py`, `fake_quant.py`).
"""

import re


def note_unmet(settings, operators, shipped):
    """Print a note for each setting that no operator got: INC passes over what it lacks, and over wrong names.

    Args:
        settings: from `settings.quantization_settings`.
        operators: dictionary from `(name, type)` of each operator to what it got, as `best_configure["op"]` of INC; to
            `None` where only names are looked at.
        shipped: the settings of `config/quantization.yml`, whose names are those of many architectures.
    """
    linears = {got["weight"]["dtype"] for (_, kind), got in operators.items() if kind == "Linear" and got}
    if linears == {"fp32"}:
        print("note: no linear operator is int8")
    for key, part in (("op_name_dict", 0), ("op_type_dict", 1)):
        for pattern, wanted in settings.get(key, {}).items():
            named = [got for operator, got in operators.items() if re.fullmatch(pattern, operator[part])]
            if not named and pattern not in shipped.get(key, {}):
                print(f"note: {key}: {pattern!r} is no operator of this model")
            got_of = [got for got in named if got]
            for side, name, value in _flat(wanted) if got_of else ():
                there = {each[side][name] for each in got_of if name in each.get(side, {})}
                asked = value if isinstance(value, list) else [value]
                if not there.intersection(asked):
                    print(
                        f"note: {key}: no operator of {pattern!r} has the {name} {' or '.join(asked)} for its {side}; "
                        f"INC has {', '.join(sorted(there)) or 'none'}"
                    )


def _flat(operator):
    return [(side, name, value) for side, settings in operator.items() for name, value in settings.items()]
