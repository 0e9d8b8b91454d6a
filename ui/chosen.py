"""What a generation's page takes where its address says nothing, or more than there is."""

from ..queries import Generation
from .address import GenerationAddress

DEFAULT_K = 5


def k_of(generation: Generation, address: GenerationAddress) -> int:
    """How many factors an address asks for; as many as there can be, up to five, where it says nothing."""
    n = len(generation.layer_positions) if "activations" in generation.recorded else generation.n_tokens
    return address.k or max(1, min(DEFAULT_K, n))


def layer_of(generation: Generation, address: GenerationAddress) -> int:
    """The layer that an address asks for; the middle one of those recorded where it says nothing."""
    if address.layer is not None or not generation.layers:
        return address.layer or 0
    return generation.layers[len(generation.layers) // 2]


def clusters_of(generation: Generation, address: GenerationAddress) -> int:
    """How many clusters of a heat map's neurons an address asks for; no more than neurons are drawn."""
    return min(address.clusters, address.most, len(generation.neurons))


def has_to_be_computed(generation: Generation) -> bool:
    """Whether what the model would say after its layers was not recorded, so that the model says it now, from hidden states."""
    return "layer_predictions" not in generation.recorded
