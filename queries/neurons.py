"""The neurons of a token-major vector in SQL, where not all were recorded of some generations."""

from collections.abc import Sequence

Some = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Generations, the first and the last, and the neurons that were recorded of them (`store.neurons.some_neurons`)."""


def neuron_numbers(some: Some) -> str:
    """The statement that puts another macro in the place of `neuron_numbers` of `views.sql`; none where that one is right."""
    generations: dict[tuple[int, ...], list[str]] = {}
    for (first, last), neurons in some:
        generations.setdefault(tuple(neurons), []).append(f"generation_id between {int(first)} and {int(last)}")
    if not generations:
        return ""
    cases = "\n".join(
        f"        when {' or '.join(of)} then [{', '.join(map(str, map(int, neurons)))}]::integer[]"
        for neurons, of in generations.items()
    )
    return f"""
create or replace macro neuron_numbers(generation_id, activation) as
    unnest(case
{cases}
        else range(len(activation))::integer[]
    end);
"""
