"""What can be asked of a store: SQL, slices as arrays, saliency, factors. Needs no model."""

from .catalog import catalog_text
from .database import Store
from .decompositions import ICA, PCA, KMeans
from .display import VIEW_NAMES, Displayed, View, ViewName
from .examples import Example, examples
from .export import whole_file
from .factorize import factorize
from .factors import (
    FACTOR_METHODS,
    NEGATIVES,
    POSITIONS,
    SOLVERS,
    FactorMethod,
    FactorOptions,
    Factors,
    Negatives,
    Solver,
    Which,
)
from .formats import FORMATS, Format, shown, table_text, write_rows
from .generation import Generation
from .heat_map import NEURON_ORDERS, HeatMap, NeuronOrder
from .limits import Limits
from .lines import cut
from .listing import ORDERS, Found, Order, find_generations_sql, runs_with_generations
from .neuron import SIGNS, Neuron, Sign
from .nmf import NMF
from .provenance import Provenance
from .saliency import METHODS, Groups, Method, SaliencyMatrix, saliency_matrix
from .sandbox import QueryResult
from .saved_factors import SavedFactors, saved_factors, top_tokens_sql
from .selection import token_condition
from .words import BYS, By

__all__ = [
    "BYS",
    "FACTOR_METHODS",
    "FORMATS",
    "ICA",
    "METHODS",
    "NEGATIVES",
    "NEURON_ORDERS",
    "NMF",
    "ORDERS",
    "PCA",
    "POSITIONS",
    "SIGNS",
    "SOLVERS",
    "VIEW_NAMES",
    "By",
    "Displayed",
    "Example",
    "FactorMethod",
    "FactorOptions",
    "Factors",
    "Format",
    "Found",
    "Generation",
    "Groups",
    "HeatMap",
    "KMeans",
    "Limits",
    "Method",
    "Negatives",
    "Neuron",
    "NeuronOrder",
    "Order",
    "Provenance",
    "QueryResult",
    "SaliencyMatrix",
    "SavedFactors",
    "Sign",
    "Solver",
    "Store",
    "View",
    "ViewName",
    "Which",
    "catalog_text",
    "cut",
    "examples",
    "factorize",
    "find_generations_sql",
    "runs_with_generations",
    "saliency_matrix",
    "saved_factors",
    "shown",
    "table_text",
    "token_condition",
    "top_tokens_sql",
    "whole_file",
    "write_rows",
]
