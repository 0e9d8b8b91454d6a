"""What can be asked of a store: SQL, slices as arrays, saliency, factors. Needs no model."""

from .database import Store
from .examples import Example, examples
from .factors import NEGATIVES, Factors, Negatives, nmf
from .formats import FORMATS, Format, table_text, write_rows
from .generation import Generation
from .saliency import METHODS, Method, SaliencyMatrix, saliency_matrix

__all__ = [
    "FORMATS",
    "METHODS",
    "NEGATIVES",
    "Example",
    "Factors",
    "Format",
    "Generation",
    "Method",
    "Negatives",
    "SaliencyMatrix",
    "Store",
    "examples",
    "nmf",
    "saliency_matrix",
    "table_text",
    "write_rows",
]
