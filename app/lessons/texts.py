"""The six steps of the method in words and formulas.

The words are read aloud in front of a class: at most 60 a step. Formulas are LaTeX, as KaTeX and
latex2mathml both read it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lesson:
    """One step: its name, what is said, and its formulas."""

    title: str
    text: str
    formulas: tuple[str, ...]


LESSONS = (
    Lesson(
        "Embedding",
        "BERT begins with three tables: a vector for each word piece, for each position and for each of two "
        "segments. A token’s three vectors are added and normalised. The tables only look things up, yet they "
        "can hold as many bytes as all the layers after them.",
        (
            r"h_0 = \operatorname{LayerNorm}\left(E_{\text{word}} + E_{\text{pos}} + E_{\text{type}}\right)",
            r"\text{bytes} = \text{rows} \times \text{columns} \times \frac{b}{8}",
        ),
    ),
    Lesson(
        "Encoder",
        "Every encoder layer has six matrices. Query, key, value and output let tokens look at each other: the "
        "attention. Two more, the feed-forward part, widen each token’s vector and narrow it again. These six "
        "are what is quantized in a layer.",
        (
            r"\operatorname{softmax}\left(\frac{Q K^{\top}}{\sqrt{d}}\right) V",
            r"\operatorname{FFN}(x) = W_2\, \operatorname{GELU}(W_1 x + c_1) + c_2",
        ),
    ),
    Lesson(
        "Quantizer",
        "With b bits a group of weights has 2 to the power of b levels, evenly spaced from its lowest to its "
        "highest weight; zero is always one of them. Every weight moves to the nearest level. Stored are a "
        "whole number q a weight, and one scale and one zero point a group.",
        (
            r"s = \frac{\max(w, 0) - \min(w, 0)}{2^b - 1}",
            r"z = \operatorname{round}\left(-\min(w, 0) / s\right)",
            r"q = \operatorname{clamp}\left(\operatorname{round}(w / s) + z,\ 0,\ 2^b - 1\right)",
            r"w' = (q - z)\, s",
        ),
    ),
    Lesson(
        "Groups",
        "One large weight stretches the range, and with it the step, of every weight that shares it. So the "
        "rows of a matrix are split into groups, each with a scale of its own: one a head, 128 a matrix, "
        "which is one of the paper’s counts, or one a row. More groups cost a few more bytes.",
        (
            r"\operatorname{MSE} = \frac{1}{N} \sum_{g} \sum_{w \in g} \left(w' - w\right)^2",
            r"s_g = \frac{\max(w_g, 0) - \min(w_g, 0)}{2^b - 1}",
        ),
    ),
    Lesson(
        "Curvature",
        "Quantizing moves a layer’s weights by δ. What that costs depends on how the loss curves: along a "
        "steep direction a small step already hurts. λ is the Hessian’s eigenvalue of largest magnitude in a "
        "layer, v its direction. It differs between draws of the data, so mean and spread count.",
        (
            r"L(w + \delta) \approx L(w) + g^{\top} \delta + \tfrac{1}{2}\, \delta^{\top} H \delta",
            r"H v = \lambda v \qquad \Omega = \left|\operatorname{mean}(\lambda)\right| + \operatorname{std}(\lambda)",
        ),
    ),
    Lesson(
        "Bits",
        "Layers are ranked by Ω. The K that rank highest get 4 bits, the others 2. The paper finetunes the "
        "quantized model afterwards; here every plan is measured as it is, so the whole damage shows. Does "
        "the ranking pay on this model?",
        (
            r"b_i = \begin{cases} 4 & \text{if } \operatorname{rank}(\Omega_i) \le K \\ "
            r"2 & \text{otherwise} \end{cases}",
        ),
    ),
)
