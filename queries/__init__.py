"""What can be asked of a store: SQL, slices as arrays, saliency, factors. Needs no model."""

from .database import Store
from .factors import NEGATIVES, Factors, Negatives, nmf
from .generation import Generation
from .saliency import METHODS, Method, SaliencyMatrix, saliency_matrix

__all__ = [
    "METHODS",
    "NEGATIVES",
    "Factors",
    "Generation",
    "Method",
    "Negatives",
    "SaliencyMatrix",
    "Store",
    "nmf",
    "saliency_matrix",
]
