"""The terms that data sets are under, as far as they are known."""

IMAGENET = "https://www.image-net.org/download.php"
LICENCES = {
    "ILSVRC-2012": ("ImageNet's terms: non-commercial research and education", IMAGENET),
    "Tiny ImageNet": ("ImageNet's terms: non-commercial research and education", IMAGENET),
    "scikit-learn handwritten digits": (
        "CC BY 4.0 (UCI Machine Learning Repository)",
        "https://creativecommons.org/licenses/by/4.0/",
    ),
}
"""Beginning of a source's name -> the terms in words, and their address."""


def licence_of(source: str) -> tuple[str, str] | None:
    """Terms and address of the data set that packing calls by this name; None if unknown."""
    return next((terms for name, terms in LICENCES.items() if source.startswith(name)), None)
