"""Figures of merit. Arrays here are NumPy's: bring them to the host first."""

from .distance import FeatureStatistics, distance_of, frechet_distance
from .fid import (
    Fidelity,
    FrechetDistance,
    InceptionScore,
    conditioning_fidelity,
    feature_statistics,
    fid,
    inception_score,
    inception_score_of,
)
from .language import LanguageScore, bits_per_byte, perplexity, token_accuracy
from .ngrams import ngram_bits_per_byte
from .regression import mean_absolute_error, mean_squared_error, pearson_correlation, r2_score
from .segmentation import SegmentationScore, class_iou, mask_iou, pixel_accuracy
from .translation import bleu, exact_match

__all__ = [
    "FeatureStatistics",
    "Fidelity",
    "FrechetDistance",
    "InceptionScore",
    "LanguageScore",
    "SegmentationScore",
    "bits_per_byte",
    "bleu",
    "class_iou",
    "conditioning_fidelity",
    "distance_of",
    "exact_match",
    "feature_statistics",
    "fid",
    "frechet_distance",
    "inception_score",
    "inception_score_of",
    "mask_iou",
    "mean_absolute_error",
    "mean_squared_error",
    "ngram_bits_per_byte",
    "pearson_correlation",
    "perplexity",
    "pixel_accuracy",
    "r2_score",
    "token_accuracy",
]
