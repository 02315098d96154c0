"""How the numbers of a report are made, in words: what a reader finds at its end."""

from __future__ import annotations

__all__ = ["CLASSES", "COUNTS", "MULTILABEL", "QUANTILES", "REGRESSION"]

Definitions = tuple[tuple[str, str], ...]

_ROUNDED = "Values are rounded by the rule of the Particle Data Group."
_AREA = (
    "Area under the ROC curve (AUC)",
    "The weighted share of pairs of a signal and a background event that the score puts in the right order; "
    "a tie counts half. 0.5 is guessing, 1 is perfect. Exact for weights of either sign.",
)
_CUTS = (
    (
        "Signal efficiency at a background efficiency",
        "Share of the signal that passes the loosest cut which lets through no more than that share of the "
        "background, interpolated linearly between events. With negative weights, efficiencies are replaced "
        "by the nearest function that rises as the cut is loosened.",
    ),
    (
        "Background rejection at a signal efficiency",
        "One over the background efficiency at the tightest cut that keeps that share of the signal. Where "
        "fewer than ten background events are left, the interval that holds 68\u202f% of the replicas is "
        "given; where none is, the lower limit at 95\u202f% confidence level.",
    ),
)
_SAME = (
    "Kolmogorov–Smirnov p",
    "Probability of a larger distance between the cumulative distributions of train and test if both came "
    "from one distribution; unbinned, with effective numbers of events.",
)
_EFFECTIVE = (
    "Effective events",
    "(Σw)² / Σw²: the number of events without weights that would have the same relative uncertainty.",
)
_DRAWN = (
    "Uncertainties",
    "Standard deviations over bootstrap replicas: as many events are drawn with replacement as there are, "
    f"with all their steps where these are what counts. {_ROUNDED}",
)

CLASSES: Definitions = (
    (
        "Uncertainties",
        "Standard deviations over bootstrap replicas: of each class as many events are drawn with "
        f"replacement as it has. {_ROUNDED}",
    ),
    _AREA,
    *_CUTS,
    (
        "Separation",
        "½ ∫ (s − b)² / (s + b), of the score's distributions s of signal and b of background in 40 bins: 0 "
        "for equal ones, 1 for ones that do not overlap.",
    ),
    (
        "Accuracy, balanced accuracy",
        "Weighted share of events whose most probable class is the true one; balanced: the mean of the "
        "classes' own shares.",
    ),
    ("Log loss", "Weighted mean of minus the logarithm of the probability given to the true class."),
    _SAME,
    _EFFECTIVE,
)

MULTILABEL: Definitions = (
    _DRAWN,
    ("Signal, background", "Of each label: what it holds for, and what it does not hold for."),
    _AREA,
    *_CUTS,
    (
        "Accuracy, all labels right",
        "A label is decided for where its probability is above ½. Accuracy is the weighted share of right "
        "decisions over all labels; all labels right, the share of events in which each decision is.",
    ),
    (
        "Precision, recall, F1",
        "Share of the decisions for a label that are right; share of what it holds for that is decided so; "
        "2 precision recall / (precision + recall).",
    ),
    _SAME,
)

REGRESSION: Definitions = (
    _DRAWN,
    ("RMSE, MAE", "√⟨(p − t)²⟩ and ⟨|p − t|⟩, weighted means over predictions p of targets t."),
    (
        "Bias, median",
        "⟨p − t⟩, and the value that half of the p − t are below: the second does not see outliers.",
    ),
    (
        "Resolution",
        "Half the width of the interval that holds the middle 68.3\u202f% of p − t: its standard deviation "
        "where it is normal, and blind to outliers.",
    ),
    (
        "R², correlation",
        "1 − ⟨(p − t)²⟩ / ⟨(t − ⟨t⟩)²⟩: 0 for who always says the mean, 1 for who is always right; and the "
        "linear correlation of p and t, which sees neither scale nor offset.",
    ),
)

QUANTILES: Definitions = (
    ("Coverage", "Weighted share of targets that are not above the quantile, or that are in the interval."),
    (
        "Pinball loss",
        "⟨max(q d, (q − 1) d)⟩ with d = t − p: smallest where the share q of the targets is below p.",
    ),
)

COUNTS: Definitions = (
    (
        "Deviance",
        "2 ⟨t log(t / p) − (t − p)⟩: twice the logarithm of the likelihood ratio of who knows each count, "
        "and this. Of Poisson counts that are not small it is 1 where the expectation is right.",
    ),
)
