"""Synthetic designs: what they mean, how they are composed and drawn, what is measured of them, and sets on disk."""

from .dataset import SyntheticDesignDataset, stack_examples
from .grammar import draw_meta, make_layout
from .layout import FORMATS, GOALS, GRID, PAPERS, TONES, Box, Element, Layout, Meta
from .maps import GRAMMAR, MAPS, feature_maps, grammar_scores
from .palette import colour_names, contrast_table, palette
from .render import render
from .storage import FIELDS, SPLITS
from .writing import write_designs

__all__ = [
    "FIELDS",
    "FORMATS",
    "GOALS",
    "GRAMMAR",
    "GRID",
    "MAPS",
    "PAPERS",
    "SPLITS",
    "TONES",
    "Box",
    "Element",
    "Layout",
    "Meta",
    "SyntheticDesignDataset",
    "colour_names",
    "contrast_table",
    "draw_meta",
    "feature_maps",
    "grammar_scores",
    "make_layout",
    "palette",
    "render",
    "stack_examples",
    "write_designs",
]
