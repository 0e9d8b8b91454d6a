"""What can be asked of a store: SQL, slices as arrays, saliency, factors. Needs no model."""

from .catalog import catalog_text
from .database import Store
from .examples import Example, examples
from .export import whole_file
from .factors import NEGATIVES, Factors, Negatives, nmf
from .formats import FORMATS, Format, shown, table_text, write_rows
from .generation import Generation
from .heat_map import NEURON_ORDERS, HeatMap, NeuronOrder
from .limits import Limits
from .listing import ORDERS, Found, Order, find_generations_sql
from .neuron import SIGNS, Neuron, Sign
from .provenance import Provenance
from .saliency import METHODS, Groups, Method, SaliencyMatrix, saliency_matrix
from .sandbox import QueryResult
from .words import BYS, By

__all__ = [
    "BYS",
    "FORMATS",
    "METHODS",
    "NEGATIVES",
    "NEURON_ORDERS",
    "ORDERS",
    "SIGNS",
    "By",
    "Example",
    "Factors",
    "Format",
    "Found",
    "Generation",
    "Groups",
    "HeatMap",
    "Limits",
    "Method",
    "Negatives",
    "Neuron",
    "NeuronOrder",
    "Order",
    "Provenance",
    "QueryResult",
    "SaliencyMatrix",
    "Sign",
    "Store",
    "catalog_text",
    "examples",
    "find_generations_sql",
    "nmf",
    "saliency_matrix",
    "shown",
    "table_text",
    "whole_file",
    "write_rows",
]
