"""How far an export's answers may lie from the run's, by format, and where these numbers come from. Light.

The distance is the mean over positions of the Kullback-Leibler divergence KL(run || export) in nats, on texts that both read token
by token; `top1` is the share of positions where both hold the same token for the most likely.

What others measured, the yardstick of the GGUF types: llama.cpp's own table for Llama 3 8B against its float16, Wikitext-2,
tools/perplexity/README.md of revision f364eb6f (April 2024), read in November 2026. Types that the table does not have stand at the
next coarser one. Models of a few million weights that were really trained here lie below the table (f16 under 1e-7, q8_0 under 1e-4,
q4_k_m under 4e-3), models with random weights above it (f16 2e-6, q8_0 2e-3, q4_k_m 0.2): nothing in them is certain.

An export is *poor* from four times the published distance on, which is said; it is *refused* from ten times on. A quantisation that
is coarse by choice is never refused for being coarse, and one that is this far off is broken.
"""

from __future__ import annotations

from dataclasses import dataclass

POOR, BROKEN = 4, 10
"""Times the published distance from which an export is poor, and from which it is refused."""
PUBLISHED = {
    "q8_0": 0.001355, "q6_k": 0.005452, "q5_k_m": 0.010762, "q5_k_s": 0.016595, "q5_1": 0.018045, "q5_0": 0.022239,
    "q4_k_m": 0.031273, "q4_k_s": 0.043136, "q4_1": 0.071683, "q4_0": 0.071940, "q3_k_l": 0.087176, "q3_k_m": 0.101913,
    "q3_k_s": 0.228217, "q2_k": 0.445132, "q2_k_s": 0.445132, "iq4_nl": 0.035742, "iq4_xs": 0.036334, "iq3_m": 0.102534,
    "iq3_s": 0.111278, "iq3_xs": 0.138693, "iq3_xxs": 0.183625, "iq2_m": 0.325989, "iq2_s": 0.439197, "iq2_xs": 0.546290,
    "iq2_xxs": 0.812022, "iq1_m": 1.393084, "iq1_s": 2.254554,
}  # fmt: skip
"""Mean KL of each type in that table, without an importance matrix where the table has such a row."""
SAME_TOP = {"q8_0": 0.97674, "q6_k": 0.96031, "q4_k_m": 0.91901, "q2_k": 0.71138}
"""Share of positions with the same most likely token, of the types that the table has it for."""
BF16_AS_F16 = 2.515e-5
"""Mean KL of Llama 3 8B in bfloat16 against float16 on a CPU, same page: what rounding to 16 bits and another order of sums cost."""
SMALL = 10**9
"""Parameters below which a model is small."""
SMALL_KL = {"f32": 1e-5, "f16": 1e-5, "bf16": 1e-4, "q8_0": 2e-3}
"""Mean KL of a small model's GGUF file to the merged model above which something is odd."""
BF16_FLOW = 32
"""Times that for a bf16 file, about what was measured here: 2.3e-5 where the f16 file had 6e-7 (QLoRA on nano)."""
LOWEST = {"q8_0": 0.80, "q6_k": 0.75}
TOP1 = 0.95
"""Share of equal top tokens below which an unquantised export is refused; 0.9974 was published for bfloat16 against float16."""


@dataclass(frozen=True)
class Limit:
    """Limits of one format.

    Attributes:
        kl: Mean KL in nats from which the export is refused.
        poor: Mean KL from which it is said to be poor.
        top1: Share of equal top tokens below which it is refused; 0 where the distance alone decides.
        why: Where the numbers come from, one clause.
    """

    kl: float
    poor: float
    top1: float
    why: str


def adapter() -> Limit:
    """Of an adapter that is loaded again: the same numbers in another order (PiSSA and OLoRA as plain LoRA of twice the rank)."""
    return Limit(1e-5, 1e-6, 0.99, "the same weights, added up in another order")


def merged(dtype: str) -> Limit:
    """Of the whole model in `dtype` (`bfloat16`), compared in float32 with base and adapter apart: each weight is rounded once."""
    if dtype == "float32":
        return Limit(1e-5, 1e-6, 0.99, "each weight rounded once to float32")
    if dtype == "float16":
        return Limit(
            40 * BF16_AS_F16, POOR * BF16_AS_F16, TOP1, "llama.cpp: 2.5e-5 for Llama 3 8B in bfloat16 beside float16"
        )
    return Limit(
        80 * BF16_AS_F16, 8 * BF16_AS_F16, TOP1, "llama.cpp: 2.5e-5 for Llama 3 8B in float16; bfloat16 rounds 8 times as much"
    )  # fmt: skip


def gguf(name: str) -> Limit:
    """Of a GGUF type (`q4_k_m`), read by llama.cpp, which also rounds what flows between the layers."""
    name = name.lower().removeprefix("adapter-")
    if name == "f32":
        return Limit(1e-3, 1e-4, TOP1, "llama.cpp keeps its cache in float16")
    if name == "f16":
        return Limit(
            40 * BF16_AS_F16, POOR * BF16_AS_F16, TOP1, "llama.cpp: 2.5e-5 for Llama 3 8B in bfloat16 beside float16"
        )
    if name == "bf16":
        return Limit(
            400 * BF16_AS_F16, 40 * BF16_AS_F16, TOP1, "llama.cpp rounds what flows between the layers to bfloat16"
        )
    published = PUBLISHED.get(name) or _coarser(name)
    return Limit(
        BROKEN * published,
        POOR * published,
        LOWEST.get(name, 0.0),
        f"llama.cpp: {published:.2g} for Llama 3 8B, times {BROKEN}",
    )


def conversion(name: str, parameters: int) -> Limit:
    """Of a GGUF type beside the merged model that it was made from, which takes the rounding of the merge out.

    A model of a few million weights shows what the conversion does and no more: measured 3e-8 to 1.3e-6 for f16, up to 9e-4 for q8_0
    (docs/measurements/proof.md); 2.2e-6 and 1.4e-3 after the whole quickstart. So above `SMALL_KL` something is odd, which is said. In
    a large model rounding adds up over layers, and llama.cpp's table has 2.5e-5 and 1.4e-3 for files that are as they should be: there
    it is said from four times that on. It is refused from ten times the table on, whatever the size: random weights alone reach 2e-3 in
    q8_0.
    """
    name = name.lower()
    small = SMALL_KL.get(name) if parameters < SMALL else None
    if name in ("f32", "f16", "bf16"):
        published = BF16_AS_F16 * (BF16_FLOW if name == "bf16" else 1)
        why = f"llama.cpp: {published:.2g} between two such types"
    else:
        published = PUBLISHED.get(name) or _coarser(name)
        why = f"llama.cpp: {published:.2g} for Llama 3 8B"
    if small is not None:
        why = f"models below {SMALL // 10**9} billion weights lie lower"
    return Limit(BROKEN * published, small or POOR * published, 0.0, why)


def _coarser(name: str) -> float:
    """The distance of the coarsest type with as many bits; that of two bits for a name that tells nothing."""
    digits = "".join(c for c in name if c.isdigit())[:1]
    same = [kl for known, kl in PUBLISHED.items() if "".join(c for c in known if c.isdigit())[:1] == digits]
    return max(same) if same else PUBLISHED["q2_k"]
