"""What each model of GPU is able to do by its maker, and how much of it the burn must reach.

The figures are those of NVIDIA's data sheets, dense (without sparsity): H200 and H100 Tensor Core GPU (2024, 2023),
A100 80GB (2021), A100 40GB (2020), A30 (2022), A40 (2021), A10 (2021), L40S, L40, L4 (2023), B200 (2024). The
floors are shares of them, low enough for the burn's own kernels, which are no match for the maker's libraries, and for
boards that their power limit holds down; a GPU that is three times too slow is under them. No floor was measured:
`tests/gpu/run` prints what a sound GPU does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PRODUCT_SHARE = 0.33
MEMORY_SHARE = 0.5
"""A copy reaches about nine tenths of what the memory is rated at."""


@dataclass(frozen=True, slots=True)
class Model:
    """TFLOP/s and GB/s. `share`: of the products; None where nothing is known of our kernels on it."""

    bf16: float
    fp32: float
    memory: float
    share: float | None = PRODUCT_SHARE


# The first name that the driver's contains, in this order.
MODELS: Mapping[str, Model] = {
    "H200 NVL": Model(835, 60, 4800),
    "H200": Model(989, 67, 4800),
    "GH200": Model(989, 67, 4000),
    "H100 NVL": Model(835, 60, 3900),
    "H100 PCIe": Model(756, 51, 2000),
    "H100": Model(989, 67, 3350),
    # Its matrix units are reached in another way, which the kernels do not use yet.
    "B200": Model(2250, 75, 8000, share=None),
    "A100 80GB PCIe": Model(312, 19.5, 1935),
    "A100-SXM4-80GB": Model(312, 19.5, 2039),
    "A100": Model(312, 19.5, 1555),
    "A30": Model(165, 10.3, 933),
    "A40": Model(149.7, 37.4, 696),
    "A10": Model(125, 31.2, 600, share=0.2),  # 150 W
    "L40S": Model(362, 91.6, 864),
    "L40": Model(181, 90.5, 864),
    "L4": Model(121, 30.3, 300, share=0.2),  # 72 W
}


def model_of(name: str) -> Model | None:
    """By the driver's name: "NVIDIA H200". The words must be whole: an A100 is no A10."""
    padded = f" {name} ".replace("-", " ")
    return next((model for key, model in MODELS.items() if f" {key} ".replace("-", " ") in padded), None)


def floor(name: str, test: str) -> tuple[float, str] | None:
    """The least rate, and what it is a share of, for a person. None: there is none."""
    model = model_of(name)
    if model is None:
        return None
    if test == "copy":
        return MEMORY_SHARE * model.memory, f"{MEMORY_SHARE:.0%} of the {model.memory:g} GB/s it is rated at"
    rated = {"bf16": model.bf16, "fp32": model.fp32}.get(test)
    if rated is None or model.share is None:
        return None
    return model.share * rated, f"{model.share:.0%} of the {rated:g} TFLOP/s it is rated at"
